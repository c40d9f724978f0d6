"""Payouts, transfers and top-ups: those of the ledger, and the platform's own settlement."""

from collections.abc import Sequence
from datetime import datetime

from ledger.gateway.deliveries import Fact, Ignored, Owner, Reading
from ledger.gateway.payout_ids import is_payout_id
from ledger.gateway.processors.stripe.messages import Message, event_id, instant
from ledger.gateway.processors.stripe.resources import Resources
from ledger.gateway.reasons import CannotBook
from ledger.v1 import ledger_pb2

_NOT_OURS = "not a payout of the ledger: neither its metadata nor the table names one"


async def read_payout(message: Message, resources: Resources) -> Sequence[Reading]:
    """payout.paid, .failed, .canceled and .updated.

    A payout of a connected account is the restaurant's own, and one of the platform's account is
    settlement, unless it is named as the ledger's.
    """
    payout_id = _payout_id(message, resources)
    if payout_id:
        return _payout(message, resources, payout_id)
    if message.account or not resources.endpoint.payouts.settlements:
        return [Ignored(message.kind, _NOT_OURS)]
    return _settlement(message, resources)


async def read_transfer(message: Message, resources: Resources) -> Sequence[Reading]:
    """transfer.created and .reversed: money of the platform for a connected account."""
    payout_id = _payout_id(message, resources)
    if not payout_id:
        return [Ignored(message.kind, _NOT_OURS)]
    transfer = message.resource
    if message.kind != "transfer.reversed":
        return [
            _fact(
                message,
                resources,
                "paid",
                ledger_pb2.EVENT_TYPE_PAYOUT_PAID,
                instant(transfer, "created"),
                payout_id=payout_id,
            )
        ]
    if not transfer.flag("reversed"):
        raise CannotBook(
            "PARTIAL_REVERSAL", "a part of a transfer was reversed, and a payout has no parts"
        )
    return [
        _fact(
            message,
            resources,
            "reversed",
            ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
            message.created_at,
            payout_id=payout_id,
            failure_code="reversed",
        )
    ]


async def read_top_up(message: Message, resources: Resources) -> Sequence[Reading]:
    """topup.succeeded and .reversed: money that Stripe took from the platform's bank account."""
    if message.account or not resources.endpoint.payouts.settlements:
        return [Ignored(message.kind, "settlements are not booked")]
    is_reversed = message.kind == "topup.reversed"
    return [
        _fact(
            message,
            resources,
            "reversed" if is_reversed else "succeeded",
            (
                ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED
                if is_reversed
                else ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED
            ),
            message.created_at,
            of_platform=True,
        )
    ]


def _payout(message: Message, resources: Resources, payout_id: str) -> Sequence[Reading]:
    payout = message.resource
    readings: list[Reading] = []
    trace = payout.texts("trace_id")
    if trace.get("status") == "supported" and trace.get("value"):
        readings.append(
            _fact(
                message,
                resources,
                "referenced",
                ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED,
                # payout.paid and payout.updated report it.
                instant(payout, "created"),
                payout_id=payout_id,
                bank_reference=trace["value"],
            )
        )
    match message.kind:
        case "payout.paid":
            step, kind, code = "paid", ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ""
        case "payout.failed":
            step, kind = "failed", ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
            code = payout.text("failure_code", "")
        case "payout.canceled":
            # Of a payout that was handed over: PAYOUT_CANCELED is of those that were not.
            step, kind, code = "canceled", ledger_pb2.EVENT_TYPE_PAYOUT_FAILED, "canceled"
        case _:
            return readings or [Ignored(message.kind, "the payout moved no money")]
    moved = _fact(
        message,
        resources,
        step,
        kind,
        message.created_at,
        payout_id=payout_id,
        failure_code=code,
        failure_text=payout.text("failure_message", ""),
    )
    return [moved, *readings]


def _settlement(message: Message, resources: Resources) -> Sequence[Reading]:
    """A payout of the platform's own account.

    One that failed may have been paid before, or not: both are reported, and together are nothing.
    """
    if message.kind not in ("payout.paid", "payout.failed"):
        return [Ignored(message.kind, "the payout moved no money")]
    paid = _fact(
        message,
        resources,
        "paid",
        ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED,
        instant(message.resource, "created"),
        of_platform=True,
    )
    if message.kind == "payout.paid":
        return [paid]
    failed = _fact(
        message,
        resources,
        "failed",
        ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED,
        message.created_at,
        of_platform=True,
    )
    return [paid, failed]


def _payout_id(message: Message, resources: Resources) -> str:
    """The ledger's payout: by the table, which the platform wrote, else by the metadata."""
    payouts = resources.endpoint.payouts
    if _is_listed(message, resources):
        return payouts.table[message.resource.text("id")]
    named = message.resource.texts("metadata").get(payouts.metadata_key, "")
    return named if is_payout_id(named) else ""


def _is_listed(message: Message, resources: Resources) -> bool:
    return message.resource.text("id") in resources.endpoint.payouts.table


def _fact(
    message: Message,
    resources: Resources,
    step: str,
    kind: ledger_pb2.EventType.ValueType,
    occurred_at: datetime,
    *,
    of_platform: bool = False,
    payout_id: str = "",
    bank_reference: str = "",
    failure_code: str = "",
    failure_text: str = "",
) -> Fact:
    moved = message.resource
    amount_minor, currency = resources.money(moved, "amount")
    return Fact(
        event_id=event_id(moved.text("id"), step),
        type=kind,
        amount_minor=amount_minor,
        currency=currency,
        occurred_at=occurred_at,
        owner=Owner(account=message.account, metadata=moved.texts("metadata")),
        of_platform=of_platform,
        reference=moved.text("id"),
        payout_id=payout_id,
        # A connected account may write what it likes into the metadata of its own payouts.
        said_by_owner=bool(message.account and payout_id) and not _is_listed(message, resources),
        bank_reference=bank_reference,
        failure_code=failure_code,
        failure_text=failure_text,
        metadata={"stripe_event": message.stripe_event_id},
    )
