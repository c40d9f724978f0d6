"""Makes messages of the contract from what Python programs have: money, instants, words."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Literal, TypeAlias

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import date_pb2

from ledger.client.money import Money
from ledger.client.words import (
    CaptureModeWord,
    EntryTypeWord,
    EventTypeWord,
    PaymentStateWord,
    PayoutRunItemOutcomeWord,
    PayoutRunStateWord,
    PayoutStateWord,
    QuarantineStateWord,
)
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

# A word, or a number of the contract.
EventType: TypeAlias = EventTypeWord | ledger_pb2.EventType.ValueType
EntryType: TypeAlias = EntryTypeWord | ledger_pb2.EntryType.ValueType
PayoutState: TypeAlias = PayoutStateWord | ledger_pb2.PayoutState.ValueType
PayoutRunState: TypeAlias = PayoutRunStateWord | ledger_pb2.PayoutRunState.ValueType
PayoutRunItemOutcome: TypeAlias = (
    PayoutRunItemOutcomeWord | ledger_pb2.PayoutRunItemOutcome.ValueType
)
CaptureMode: TypeAlias = CaptureModeWord | payment_pb2.CaptureMode.ValueType
QuarantineState: TypeAlias = QuarantineStateWord | ledger_pb2.QuarantineState.ValueType
PaymentState: TypeAlias = PaymentStateWord | payment_pb2.PaymentState.ValueType
Overdraft: TypeAlias = Money | Literal["unlimited"] | None


def new_event(
    *,
    event_id: str,
    type: EventType,
    amount: Money,
    occurred_at: datetime,
    restaurant_id: str = "",
    fee: Money | None = None,
    processor_fee: Money | None = None,
    available_at: datetime | None = None,
    reference: str = "",
    payout_id: str = "",
    bank_reference: str = "",
    failure_code: str = "",
    failure_text: str = "",
    metadata: Mapping[str, str] | None = None,
) -> ledger_pb2.ProcessorEvent:
    """An event to send; its fields are those of ProcessorEvent.

    `type` is a word such as "charge_succeeded", or a number of the contract. Raises TypeError if an
    amount is no Money, ValueError for another currency than that of `amount`, an instant without a
    zone, or an unknown word.
    """
    return ledger_pb2.ProcessorEvent(
        event_id=event_id,
        type=number_of(ledger_pb2.EventType, type),
        restaurant_id=restaurant_id,
        currency=currency_of(amount),
        amount_minor=amount.minor,
        fee_minor=minor_of(fee, amount.currency),
        processor_fee_minor=minor_of(processor_fee, amount.currency),
        occurred_at=timestamp_of(occurred_at),
        available_at=timestamp_of(available_at),
        reference=reference,
        payout_id=payout_id,
        bank_reference=bank_reference,
        failure_code=failure_code,
        failure_text=failure_text,
        metadata=metadata,
    )


def new_transfer(
    *,
    payment_id: str,
    payer_account_id: str,
    amount: Money,
    payee_account_id: str | None = None,
    payee_restaurant_id: str | None = None,
    fee: Money | None = None,
    reference: str = "",
    metadata: Mapping[str, str] | None = None,
    linked: bool = False,
) -> payment_pb2.Transfer:
    """A transfer of a batch, to an account or a restaurant. `linked` joins it to the next one.

    Raises TypeError unless one payee is named, or if an amount is no Money.
    """
    transfer = payment_pb2.Transfer(
        payment_id=payment_id,
        payer_account_id=payer_account_id,
        currency=currency_of(amount),
        amount_minor=amount.minor,
        fee_minor=minor_of(fee, amount.currency),
        reference=reference,
        metadata=metadata,
        linked=linked,
    )
    set_payee(transfer, payee_account_id, payee_restaurant_id)
    return transfer


def new_payment_order(
    *,
    payment_id: str,
    payer_account_id: str,
    amount: Money,
    payee_account_id: str | None = None,
    payee_restaurant_id: str | None = None,
    capture: CaptureMode = "manual",
    fee: Money | None = None,
    expires_at: datetime | None = None,
    reference: str = "",
    metadata: Mapping[str, str] | None = None,
    linked: bool = False,
) -> payment_pb2.PaymentOrder:
    """The same for a batch of payments that may be captured later."""
    order = payment_pb2.PaymentOrder(
        payment_id=payment_id,
        payer_account_id=payer_account_id,
        currency=currency_of(amount),
        amount_minor=amount.minor,
        capture=number_of(payment_pb2.CaptureMode, capture),
        fee_minor=minor_of(fee, amount.currency),
        expires_at=timestamp_of(expires_at),
        reference=reference,
        metadata=metadata,
        linked=linked,
    )
    set_payee(order, payee_account_id, payee_restaurant_id)
    return order


def set_payee(
    message: payment_pb2.Transfer | payment_pb2.PaymentOrder | payment_pb2.AuthorizePaymentRequest,
    account_id: str | None,
    restaurant_id: str | None,
) -> None:
    """Sets the one payee. Raises TypeError for none and for two."""
    if account_id is not None and restaurant_id is None:
        message.payee_account_id = account_id
    elif restaurant_id is not None and account_id is None:
        message.payee_restaurant_id = restaurant_id
    else:
        raise TypeError("a payment has one payee: payee_account_id or payee_restaurant_id")


def set_side(
    request: payment_pb2.ListPaymentsRequest,
    payer_account_id: str | None,
    payee_account_id: str | None,
    payee_restaurant_id: str | None,
) -> None:
    """Sets whose payments to list. Raises TypeError unless one is named."""
    named = [payer_account_id, payee_account_id, payee_restaurant_id]
    if len(named) - named.count(None) != 1:
        raise TypeError("name one payer or payee whose payments to list")
    if payer_account_id is not None:
        request.payer_account_id = payer_account_id
    elif payee_account_id is not None:
        request.payee_account_id = payee_account_id
    elif payee_restaurant_id is not None:
        request.payee_restaurant_id = payee_restaurant_id


def run_request(
    currency: str,
    as_of: date,
    min_amount: Money | None,
    request_id: str,
    restaurant_ids: Sequence[str],
) -> ledger_pb2.RunPayoutsRequest:
    """The request of a payout run. Raises TypeError, ValueError."""
    if isinstance(restaurant_ids, str):
        raise TypeError(f"a list of restaurants, not {restaurant_ids!r} alone")
    return ledger_pb2.RunPayoutsRequest(
        currency=currency,
        as_of=date_of(as_of),
        min_amount_minor=minor_of(min_amount, currency),
        request_id=request_id,
        restaurant_ids=restaurant_ids,
    )


def part_of(amount_minor: int | None) -> int:
    """The amount of an operation; None is all of it, which the contract writes as 0.

    An operation names no currency, and so takes no Money. Raises TypeError, and ValueError for 0:
    it would be all of it, too.
    """
    if amount_minor is None:
        return 0
    if not isinstance(amount_minor, int) or isinstance(amount_minor, bool):
        raise TypeError(f"an int of minor units, not {type(amount_minor).__name__}")
    if amount_minor == 0:
        raise ValueError("an amount of 0 moves nothing; leave it out to move everything")
    return amount_minor


def mask_of(fields: Sequence[str]) -> FieldMask:
    """The mask that names these fields. Raises TypeError for a single text."""
    if isinstance(fields, str):
        raise TypeError(f"a list of fields, not {fields!r} alone")
    return FieldMask(paths=fields)


def overdraft_of(overdraft: Overdraft, currency: str) -> account_pb2.Overdraft | None:
    """None: not at all."""
    if overdraft is None:
        return None
    if isinstance(overdraft, Money):
        return account_pb2.Overdraft(limit_minor=minor_of(overdraft, currency))
    if overdraft != "unlimited":
        raise TypeError('an overdraft is Money, "unlimited" or None')
    return account_pb2.Overdraft(unlimited=True)


def currency_of(amount: Money) -> str:
    """Raises TypeError if it is no Money."""
    if not isinstance(amount, Money):
        raise TypeError(f'an amount is Money("12.50", "PEN"), not {type(amount).__name__}')
    return amount.currency


def minor_of(amount: Money | None, currency: str) -> int:
    """None: 0. Raises TypeError, and ValueError if it is of another currency."""
    if amount is None:
        return 0
    if currency_of(amount) != currency:
        raise ValueError(f"{amount} is not in {currency}, as the other amounts are")
    return amount.minor


def minor_by_currency(amounts: Iterable[Money]) -> dict[str, int]:
    """Raises TypeError for what is no Money, and ValueError for two amounts of one currency."""
    minors: dict[str, int] = {}
    for amount in amounts:
        if currency_of(amount) in minors:
            raise ValueError(f"two amounts in {amount.currency}")
        minors[amount.currency] = amount.minor
    return minors


def timestamp_of(instant: datetime | None) -> Timestamp | None:
    """Raises ValueError if the instant has no time zone."""
    if instant is None:
        return None
    if not isinstance(instant, datetime):
        raise TypeError(f"an instant is a datetime with a zone, not {type(instant).__name__}")
    if instant.tzinfo is None:
        raise ValueError(f"{instant} has no time zone: write datetime.now(UTC)")
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp


def date_of(day: date) -> date_pb2.Date:
    """Raises TypeError for a datetime: its date depends on the zone."""
    if isinstance(day, datetime) or not isinstance(day, date):
        raise TypeError(f"a date is a datetime.date, not {type(day).__name__}")
    return date_pb2.Date(year=day.year, month=day.month, day=day.day)


def number_of(enum: Any, word: str | int | None) -> Any:
    """The number of a word: "charge_succeeded" is EVENT_TYPE_CHARGE_SUCCEEDED. None is 0.

    Raises ValueError for a word that the contract does not have.
    """
    if not isinstance(word, str):
        return word or 0
    # The first value of an enum is its prefix and UNSPECIFIED.
    prefix = enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    try:
        return enum.Value(prefix + word.upper())
    except ValueError:
        words = ", ".join(name.removeprefix(prefix).lower() for name in enum.keys()[1:])
        raise ValueError(f"{word!r} is none of {words}") from None


def numbers_of(enum: Any, words: Sequence[str | int]) -> list[Any]:
    """The numbers of some words. Raises TypeError for a single text, which is a sequence too."""
    if isinstance(words, str):
        raise TypeError(f"a list of words, not {words!r} alone")
    return [number_of(enum, word) for word in words]
