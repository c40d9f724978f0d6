"""Charges: captured, settled in whatever currency, their fees, and those that fail later."""

from collections.abc import Sequence

from ledger.gateway.deliveries import Fact, FetchFailed, Ignored, Owner, Reading, Unbookable
from ledger.gateway.payloads import Malformed, Payload
from ledger.gateway.processors.stripe.messages import Message, event_id, id_in, instant
from ledger.gateway.processors.stripe.resources import BalanceTransaction, Money, Resources
from ledger.gateway.reasons import CannotBook
from ledger.v1 import ledger_pb2

# Versions before 2014-12 say paid.
_SUCCEEDED = ("succeeded", "paid")


async def read_charge(message: Message, resources: Resources) -> Sequence[Reading]:
    """charge.succeeded and charge.captured. An authorisation alone moves no money."""
    charge = message.resource
    if charge.has("source_transfer"):
        # In the connected account, what the platform's transfer brought of its own charge.
        return [Ignored(message.kind, "a transfer of the platform, whose charge is booked")]
    if charge.text("status", "succeeded") not in _SUCCEEDED:
        return [Ignored(message.kind, f"the charge is {charge.text('status')}")]
    if not charge.flag("captured", True):
        return [Ignored(message.kind, "an authorisation, not captured")]
    captured = captured_money(message, resources)
    if captured[0] == 0:
        return [Ignored(message.kind, "nothing was captured")]
    return await _booked(message, resources, captured)


async def read_updated_charge(message: Message, resources: Resources) -> Sequence[Reading]:
    """charge.updated: it counts only if it brings the balance transaction, whose fee it has.

    It reports the charge again: one that settles in another currency could not be booked before.
    """
    charge = message.resource
    is_at_hand = isinstance(charge.values.get("balance_transaction"), dict)
    is_new = "balance_transaction" in message.previous.values and resources.fetcher is not None
    if not (is_at_hand or (is_new and charge.has("balance_transaction"))):
        return [Ignored(message.kind, "nothing about money that is known here")]
    return await read_charge(message, resources)


async def read_failed_charge(message: Message, resources: Resources) -> Sequence[Reading]:
    """charge.failed: mostly a payment that never was. Some are booked before, and taken back.

    Stripe does not say whether charge.succeeded came before; delayed payments have a balance
    transaction while they are pending. With one that was reversed, the charge and its reversal are
    both reported: together they are nothing, whatever came before.
    """
    charge = message.resource
    had_succeeded = message.previous.text("status", "") in _SUCCEEDED or charge.has(
        "failure_balance_transaction"
    )
    if not had_succeeded:
        return [Ignored(message.kind, "the payment did not succeed")]
    captured = captured_money(message, resources)
    if captured[0] == 0 or not charge.flag("captured", True):
        # If the charge is booked all the same, a person has to take it back.
        return [Ignored(message.kind, "a balance moved, and nothing was captured", is_alert=True)]
    transaction = None
    if not resources.settles_as_it_is(captured[1]):
        transaction = await resources.transaction_of(message, charge)
    booked = _charge(
        message, resources, captured, transaction, await resources.owner(message, charge)
    )
    reversal = Fact(
        event_id=event_id(charge.text("id"), "failed"),
        type=ledger_pb2.EVENT_TYPE_CHARGE_REVERSED,
        amount_minor=booked.amount_minor,
        currency=booked.currency,
        # No other kind of Event reports it.
        occurred_at=message.created_at,
        owner=booked.owner,
        reference=booked.reference,
        reverses=booked.event_id,
        commission_minor=booked.commission_minor,
        metadata={**booked.metadata, "stripe_failure_code": charge.text("failure_code", "")},
    )
    return [booked, reversal]


def captured_money(message: Message, resources: Resources) -> Money:
    """What was captured. Versions before 2020 count what was not captured as refunded."""
    charge = message.resource
    if charge.has("amount_captured"):
        return resources.money(charge, "amount_captured")
    amount, currency = resources.money(charge, "amount")
    released, _ = resources.counted(charge.integer("amount_refunded", 0), currency)
    if released and message.kind != "charge.captured":
        raise CannotBook(
            "CAPTURE_UNKNOWN",
            "without amount_captured a refund cannot be told from what was not captured",
        )
    return amount - released, currency


def reference_of(resource: Payload) -> str:
    """The payment that a charge or refund belongs to; of those without intents, the charge."""
    return id_in(resource, "payment_intent") or id_in(resource, "charge") or resource.text("id")


def settled(money: Money, transaction: BalanceTransaction | None) -> Money:
    """The money in the currency in which it settled; without a transaction, as it is."""
    if transaction is None or transaction.currency == money[1]:
        return money
    return abs(transaction.amount_minor), transaction.currency


def presentment(money: Money, transaction: BalanceTransaction | None) -> dict[str, str]:
    """What the customer saw, if it settled in another currency; for metadata."""
    if transaction is None:
        return {}
    found = {"stripe_balance_transaction": transaction.id}
    if transaction.currency != money[1]:
        found |= {
            "presentment_amount_minor": str(money[0]),
            "presentment_currency": money[1],
            "exchange_rate": transaction.exchange_rate,
        }
    return found


def fee_readings(
    message: Message,
    resources: Resources,
    transaction: BalanceTransaction | None,
    *,
    name: str,
    owner: Owner,
    reference: str,
    charge: str = "",
    commission_minor: int | None = None,
) -> list[Reading]:
    """Stripe's fee of a balance transaction, or what it gives back of one; none if it is 0.

    A fee that cannot be read is Unbookable beside what it is a fee of. With a commission, one whose
    parts Stripe does not name is: it may hold both.
    """
    if transaction is None:
        return []
    try:
        fees = resources.fees(transaction)
    except Malformed as malformed:
        return [Unbookable(message.kind, "FEE_UNKNOWN", str(malformed))]
    except CannotBook as cannot:
        return [Unbookable(message.kind, cannot.reason, cannot.detail)]
    if fees.application_minor is None and commission_minor:
        detail = "the fee has no details, and the charge a commission"
        return [Unbookable(message.kind, "FEE_UNKNOWN", detail)]
    if fees.processor_minor == 0:
        return []
    return [
        Fact(
            event_id=name,
            type=(
                ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_ASSESSED
                if fees.processor_minor > 0
                else ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_REFUNDED
            ),
            amount_minor=abs(fees.processor_minor),
            currency=transaction.currency,
            occurred_at=transaction.created_at,
            owner=owner,
            reference=reference,
            charge=charge,
            metadata={"stripe_balance_transaction": transaction.id},
        )
    ]


async def _booked(message: Message, resources: Resources, captured: Money) -> Sequence[Reading]:
    """The charge, and Stripe's fee if it is known.

    Raises FetchFailed, with the charge if it can be booked without what failed.
    """
    charge = message.resource
    owner = await resources.owner(message, charge)
    try:
        transaction = await resources.transaction_of(message, charge)
    except FetchFailed as failure:
        if not resources.settles_as_it_is(captured[1]):
            raise
        raise FetchFailed(
            str(failure),
            retry_after_seconds=failure.retry_after_seconds,
            readings=[_charge(message, resources, captured, None, owner)],
        ) from failure
    booked = _charge(message, resources, captured, transaction, owner)
    return [
        booked,
        *fee_readings(
            message,
            resources,
            transaction,
            name=event_id(charge.text("id"), "fee"),
            owner=owner,
            reference=booked.reference,
            commission_minor=booked.commission_minor,
        ),
    ]


def _charge(
    message: Message,
    resources: Resources,
    captured: Money,
    transaction: BalanceTransaction | None,
    owner: Owner,
) -> Fact:
    charge = message.resource
    amount_minor, currency = settled(captured, transaction)
    return Fact(
        event_id=event_id(charge.text("id")),
        type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
        amount_minor=amount_minor,
        currency=currency,
        # When it was authorised: the charge does not keep when it was captured, so messages after
        # charge.captured could not agree on it.
        occurred_at=instant(charge, "created"),
        owner=owner,
        reference=reference_of(charge),
        commission_minor=_commission_minor(charge, resources, captured, transaction),
        metadata={
            "stripe_charge": charge.text("id"),
            "stripe_event": message.stripe_event_id,
            **presentment(captured, transaction),
        },
    )


def _commission_minor(
    charge: Payload,
    resources: Resources,
    captured: Money,
    transaction: BalanceTransaction | None,
) -> int | None:
    """The platform's commission by Stripe's own word, in the currency in which the charge settled.

    None: Stripe says nothing.
    """
    is_wanted = resources.endpoint.fees.commission == "processor"
    transfer = charge.child("transfer_data") if charge.has("transfer_data") else Payload({})
    if charge.has("application_fee_amount"):
        commission, _ = resources.money(charge, "application_fee_amount")
    elif transfer.has("amount"):
        # What is not transferred to the restaurant stays with the platform.
        commission = captured[0] - resources.counted(transfer.integer("amount"), captured[1])[0]
    elif charge.has("application_fee") and is_wanted:
        raise CannotBook("COMMISSION_UNKNOWN", "the charge has an application fee without amount")
    else:
        return None
    if commission == 0 or transaction is None or transaction.currency == captured[1]:
        return commission
    if not is_wanted:
        return None
    if in_balance := resources.fees(transaction).application_minor:
        return in_balance
    raise CannotBook(
        "COMMISSION_UNKNOWN",
        f"the commission is in {captured[1]}, and the charge settled in {transaction.currency}",
    )
