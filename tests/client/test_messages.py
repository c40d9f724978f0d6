"""What Python programs have becomes messages, or an error before anything is sent."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from google.type import date_pb2

from ledger.client import Money, new_event, new_payment_order, new_transfer
from ledger.client.messages import (
    date_of,
    mask_of,
    minor_by_currency,
    number_of,
    numbers_of,
    overdraft_of,
    part_of,
    run_request,
    set_side,
    timestamp_of,
)
from ledger.v1 import ledger_pb2, payment_pb2

AT = datetime(2026, 1, 5, 12, 30, 15, 123_456, tzinfo=UTC)
EVENT: dict[str, Any] = {
    "event_id": "ch_1",
    "type": "charge_succeeded",
    "amount": Money("12.50", "PEN"),
    "occurred_at": AT,
}
PAYMENT: dict[str, Any] = {
    "payment_id": "pay_1",
    "payer_account_id": "acc_1",
    "amount": Money("12.50", "PEN"),
}


@pytest.mark.parametrize(
    ("wrong", "error", "problem"),
    [
        ({"amount": 12.5}, TypeError, 'an amount is Money("12.50", "PEN"), not float'),
        ({"amount": 1250}, TypeError, "not int"),
        ({"fee": "0.50"}, TypeError, "not str"),
        ({"fee": Money(1, "USD")}, ValueError, r"1\.00 USD is not in PEN"),
        ({"processor_fee": Money(1, "JPY")}, ValueError, "1 JPY is not in PEN"),
        ({"occurred_at": datetime(2026, 1, 5)}, ValueError, "has no time zone"),  # noqa: DTZ001
        ({"occurred_at": "2026-01-05T00:00:00Z"}, TypeError, "a datetime with a zone, not str"),
        ({"occurred_at": date(2026, 1, 5)}, TypeError, "not date"),
        ({"type": "charge"}, ValueError, "'charge' is none of charge_succeeded, refund_succ"),
    ],
)
def test_wrong_event_is_refused_before_it_is_sent(
    wrong: dict[str, Any], error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=problem.replace("(", r"\(").replace(")", r"\)")):
        new_event(**EVENT | wrong)


def test_one_amount_of_each_currency() -> None:
    """Of two, one would be lost."""
    assert minor_by_currency([Money("5.00", "PEN"), Money(7, "JPY")]) == {"PEN": 500, "JPY": 7}
    with pytest.raises(ValueError, match="two amounts in PEN"):
        minor_by_currency([Money("5.00", "PEN"), Money("6.00", "PEN")])
    with pytest.raises(TypeError, match="not int"):
        minor_by_currency([500])  # type: ignore[list-item]


def test_instants_keep_their_microseconds_and_their_zone() -> None:
    lima = AT.astimezone(timezone(timedelta(hours=-5)))
    assert timestamp_of(lima) == timestamp_of(AT)
    timestamp = timestamp_of(AT)
    assert timestamp is not None
    assert timestamp.ToDatetime(tzinfo=UTC) == AT
    assert timestamp_of(None) is None


def test_words_and_numbers_name_the_same() -> None:
    number = ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED
    assert number_of(ledger_pb2.EventType, "refund_succeeded") == number
    assert numbers_of(ledger_pb2.EventType, [number, "refund_succeeded"]) == [number, number]
    assert number_of(ledger_pb2.EventType, None) == 0
    # A number of a later contract is sent as it is.
    assert number_of(ledger_pb2.EventType, 999) == 999
    with pytest.raises(TypeError, match="a list of words"):
        numbers_of(ledger_pb2.EventType, "refund_succeeded")


def test_payment_has_one_payee() -> None:
    transfer = new_transfer(**PAYMENT, payee_restaurant_id="res_1", linked=True)
    assert (transfer.WhichOneof("payee"), transfer.linked) == ("payee_restaurant_id", True)
    order = new_payment_order(**PAYMENT, payee_account_id="acc_2", expires_at=AT)
    assert (order.WhichOneof("payee"), order.capture) == (
        "payee_account_id",
        payment_pb2.CAPTURE_MODE_MANUAL,
    )
    both: dict[str, Any] = {"payee_account_id": "acc_2", "payee_restaurant_id": "res_1"}
    for payees in ({}, both):
        with pytest.raises(TypeError, match="one payee"):
            new_transfer(**PAYMENT, **payees)
        with pytest.raises(TypeError, match="one payee"):
            new_payment_order(**PAYMENT, **payees)


def test_list_of_payments_is_of_one_side() -> None:
    request = payment_pb2.ListPaymentsRequest()
    set_side(request, None, "acc_1", None)
    assert request.WhichOneof("of") == "payee_account_id"
    for sides in ((None, None, None), ("acc_1", None, "res_1")):
        with pytest.raises(TypeError, match="one payer or payee"):
            set_side(request, *sides)


def test_part_of_a_payment_is_a_number_above_zero() -> None:
    """In the contract 0 means all, which a caller must not send by mistake."""
    assert (part_of(None), part_of(5)) == (0, 5)
    with pytest.raises(ValueError, match="moves nothing"):
        part_of(0)
    for wrong in (5.0, True, "5", Money(5, "PEN")):
        with pytest.raises(TypeError, match="int of minor units"):
            part_of(wrong)  # type: ignore[arg-type]


def test_overdrafts() -> None:
    assert overdraft_of(None, "PEN") is None
    limited, unlimited = overdraft_of(Money(5, "PEN"), "PEN"), overdraft_of("unlimited", "PEN")
    assert limited is not None
    assert unlimited is not None
    assert (limited.limit_minor, unlimited.unlimited) == (500, True)
    with pytest.raises(ValueError, match="is not in PEN"):
        overdraft_of(Money(5, "USD"), "PEN")
    with pytest.raises(TypeError, match="unlimited"):
        overdraft_of("none", "PEN")  # type: ignore[arg-type]


def test_dates_are_no_instants() -> None:
    """The date of an instant depends on the zone."""
    assert date_of(date(2026, 1, 31)) == date_pb2.Date(year=2026, month=1, day=31)
    for wrong in (AT, "2026-01-31"):
        with pytest.raises(TypeError, match=r"a date is a datetime\.date"):
            date_of(wrong)  # type: ignore[arg-type]


def test_single_text_is_no_list() -> None:
    """Its letters would be ids."""
    with pytest.raises(TypeError, match="a list of restaurants"):
        run_request("PEN", date(2026, 1, 31), None, "", "res_1")
    with pytest.raises(TypeError, match="a list of fields"):
        mask_of("active")
    assert list(mask_of(["active"]).paths) == ["active"]
