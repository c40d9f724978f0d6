"""Refunds: each by its own id, whichever message reports it, and those that fail later."""

from collections.abc import Sequence

from ledger.gateway.deliveries import Fact, FetchFailed, Ignored, Owner, Reading
from ledger.gateway.payloads import Payload
from ledger.gateway.processors.stripe.charges import (
    fee_readings,
    presentment,
    reference_of,
    settled,
)
from ledger.gateway.processors.stripe.messages import Message, event_id, id_in, instant
from ledger.gateway.processors.stripe.resources import BalanceTransaction, Money, Resources
from ledger.gateway.processors.stripe.sums import ENDED_WITHOUT, newest_refunds
from ledger.gateway.reasons import CannotBook
from ledger.v1 import ledger_pb2

# The balance transactions of a refund, and of its end if it failed.
_LEFT = "balance_transaction"
_CAME_BACK = "failure_balance_transaction"


async def read_refund(message: Message, resources: Resources) -> Sequence[Reading]:
    """refund.created, refund.updated, refund.failed and charge.refund.updated."""
    refund = message.resource
    status = refund.text("status", "succeeded")
    if status in ENDED_WITHOUT:
        return await _failed_refund(message, resources, status)
    return await _refund(message, resources, refund, None)


async def read_refunded_charge(message: Message, resources: Resources) -> Sequence[Reading]:
    """charge.refunded: its amount is the charge's, and amount_refunded the sum of all refunds.

    What this message adds are the newest refunds that make up the difference to the sum before.
    Versions since 2022-11 leave the refunds out; then the API has them, or this raises CannotBook:
    an amount without the refund's id would be booked again with it.
    """
    charge = message.resource
    if not charge.flag("captured", True):
        return [Ignored(message.kind, "an authorisation was released")]
    new = newest_refunds(charge, message.previous)
    if new is None and resources.fetcher is None:
        raise CannotBook(
            "REFUND_UNKNOWN",
            "the message does not name the refund: refund.created does, so take charge.refunded"
            " off the webhook, or give the endpoint its `api`",
        )
    if new is None:
        new = [
            refund
            for refund in await resources.fetch_refunds(message, charge.text("id"))
            if refund.text("status", "succeeded") not in ENDED_WITHOUT
        ]
    readings: list[Reading] = []
    failure: FetchFailed | None = None
    for refund in new:
        try:
            readings += await _refund(message, resources, refund, charge)
        except FetchFailed as failed:
            readings += failed.readings
            failure = failed
    if failure is not None:
        raise _failure_with(failure, readings)
    return readings or [Ignored(message.kind, "no refund moved money")]


async def _refund(
    message: Message, resources: Resources, refund: Payload, charge: Payload | None
) -> list[Reading]:
    """The refund, and what Stripe charged for it if that is known.

    Raises FetchFailed, with the refund if it can be booked without what failed.
    """
    if charge is not None and not refund.has("charge"):
        refund = Payload({**refund.values, "charge": charge.text("id")}, refund.path)
    moved = await _moved(message, resources, refund, charge)
    if isinstance(moved, Ignored):
        return [moved]
    refund = moved
    money = resources.money(refund, "amount")
    owner = await resources.owner(message, refund, charge)

    try:
        transaction = await resources.transaction_of(message, refund)
    except FetchFailed as failure:
        if not resources.settles_as_it_is(money[1]):
            raise
        known = _fact(message, refund, money, None, owner)
        raise _failure_with(failure, [known]) from failure
    booked = _fact(message, refund, money, transaction, owner)
    return [
        booked,
        *fee_readings(
            message,
            resources,
            transaction,
            name=event_id(refund.text("id"), "fee"),
            owner=owner,
            reference=booked.reference,
            charge=booked.charge,
        ),
    ]


async def _moved(
    message: Message, resources: Resources, refund: Payload, charge: Payload | None
) -> Payload | Ignored:
    """The refund if its money has moved, or why not.

    It has once it has a balance transaction, pending or not. One that succeeded without any is
    mostly the release of an authorisation, or of the part of one that was not captured.
    """
    status = refund.text("status", "succeeded")
    if refund.has("source_transfer_reversal"):
        return Ignored(message.kind, "a transfer of the platform went back, with its refund")
    if refund.text("reason", "") == "expired_uncaptured_charge":
        return Ignored(message.kind, "an authorisation was released")
    if refund.has("balance_transaction"):
        return refund
    if status != "succeeded":
        return Ignored(message.kind, f"the refund is {status}, and has moved nothing yet")
    if "balance_transaction" not in refund.values:
        # Only records that somebody shortened have none at all.
        return refund
    if charge is None and resources.fetcher is not None:
        current = await resources.fetch(message, "refund", refund.text("id"))
        if current.has("balance_transaction") or not isinstance(current.values.get("charge"), dict):
            return current
        refund, charge = current, current.child("charge")
    if charge is None:
        raise CannotBook(
            "REFUND_UNCLEAR",
            "the refund succeeded without a balance transaction: money may have been refunded, or"
            " an authorisation released. With its `api` the endpoint can look",
        )
    amount = charge.integer("amount")
    released = amount - charge.integer("amount_captured", amount)
    if not charge.flag("captured", True) or (released and refund.integer("amount") == released):
        return Ignored(message.kind, "an authorisation was released")
    return refund


async def _failed_refund(message: Message, resources: Resources, status: str) -> Sequence[Reading]:
    """A refund that failed or was canceled: its money came back, if it had moved.

    The refund is reported, too. No other message has to: charge.refunded leaves out what failed
    before the gateway asked for it, and money that never left must not come back.
    """
    refund = message.resource
    before = message.previous.text("status", "")
    had_moved = (
        refund.has("failure_balance_transaction")
        or refund.has("balance_transaction")
        or before == "succeeded"
        # A shortened record that does not say.
        or ("balance_transaction" not in refund.values and not before)
    )
    if not had_moved:
        return [Ignored(message.kind, f"the refund is {status}, and had moved nothing")]
    money = resources.money(refund, "amount")
    moved = came_back = None
    if not resources.settles_as_it_is(money[1]):
        known = [name for name in (_LEFT, _CAME_BACK) if refund.has(name)] or [_LEFT]
        moved = came_back = await resources.transaction_of(message, refund, known[0])
        if len(known) > 1:
            came_back = await resources.transaction_of(message, refund, known[1])
    owner = await resources.owner(message, refund)
    amount_minor, currency = settled(money, came_back)
    booked = _fact(message, refund, money, moved, owner)
    failed = Fact(
        event_id=event_id(refund.text("id"), "failed"),
        type=ledger_pb2.EVENT_TYPE_REFUND_FAILED,
        amount_minor=amount_minor,
        currency=currency,
        # refund.failed, refund.updated and charge.refund.updated all report it, each at another
        # instant; the refund does not keep when it failed.
        occurred_at=booked.occurred_at,
        owner=owner,
        reference=booked.reference,
        charge=booked.charge,
        metadata={
            "stripe_refund": refund.text("id"),
            "stripe_event": message.stripe_event_id,
            "stripe_failure_reason": refund.text("failure_reason", status),
            **presentment(money, came_back),
        },
    )
    return [booked, failed]


def _fact(
    message: Message,
    refund: Payload,
    money: Money,
    transaction: BalanceTransaction | None,
    owner: Owner,
) -> Fact:
    amount_minor, currency = settled(money, transaction)
    return Fact(
        event_id=event_id(refund.text("id")),
        type=ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
        amount_minor=amount_minor,
        currency=currency,
        occurred_at=instant(refund, "created"),
        owner=owner,
        # The refund's own payment, not the charge's: other messages have the refund alone.
        reference=reference_of(refund),
        charge=_charge_event_id(refund),
        metadata={
            "stripe_refund": refund.text("id"),
            "stripe_event": message.stripe_event_id,
            **presentment(money, transaction),
        },
    )


def _charge_event_id(refund: Payload) -> str:
    charge_id = id_in(refund, "charge")
    return event_id(charge_id) if charge_id else ""


def _failure_with(failure: FetchFailed, readings: Sequence[Reading]) -> FetchFailed:
    return FetchFailed(
        str(failure), retry_after_seconds=failure.retry_after_seconds, readings=readings
    )
