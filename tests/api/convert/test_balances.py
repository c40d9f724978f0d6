"""A request for a balance, and the balance returned."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from support.violations import violations_of

from ledger.api.convert.balances import decode_balance_query, encode_balance
from ledger.application.ports.balances import BalanceQuery
from ledger.domain.balances import Balance, BalanceAccount
from ledger.domain.events import UNIX_EPOCH
from ledger.domain.fields import ID_RULE
from ledger.domain.money import CURRENCY_RULE
from ledger.v1 import ledger_pb2

ACCOUNT = BalanceAccount("res_1", "PEN")
LAST = datetime.max.replace(tzinfo=UTC)


def test_query_is_for_now_unless_it_has_an_instant() -> None:
    request = ledger_pb2.GetBalanceRequest(restaurant_id="res_1", currency="PEN")
    assert decode_balance_query(request) == BalanceQuery(ACCOUNT, None)
    # Set, though empty: 1970.
    request.as_of.SetInParent()
    assert decode_balance_query(request) == BalanceQuery(ACCOUNT, UNIX_EPOCH)
    request.as_of.CopyFrom(Timestamp(seconds=1, nanos=2_999))
    assert decode_balance_query(request) == BalanceQuery(
        ACCOUNT, UNIX_EPOCH + timedelta(seconds=1, microseconds=2)
    )


def test_every_wrong_field_is_reported() -> None:
    request = ledger_pb2.GetBalanceRequest(
        restaurant_id="res 1", currency="pen", as_of=Timestamp(nanos=-1)
    )
    assert violations_of(decode_balance_query, request) == [
        ("restaurant_id", ID_RULE),
        ("currency", CURRENCY_RULE),
        ("as_of", "must be a valid timestamp"),
    ]
    assert violations_of(decode_balance_query, ledger_pb2.GetBalanceRequest()) == [
        ("restaurant_id", ID_RULE),
        ("currency", CURRENCY_RULE),
    ]


def test_balance_is_encoded_field_by_field() -> None:
    """Negative amounts and the limits of int64 included."""
    balance = Balance(ACCOUNT, -(2**63), 2**63 - 1, 1, 0, 9, None, LAST)
    message = encode_balance(balance)
    assert not message.HasField("last_event_at")
    assert message == ledger_pb2.GetBalanceResponse(
        restaurant_id="res_1",
        currency="PEN",
        available_minor=-(2**63),
        pending_minor=2**63 - 1,
        reserved_minor=1,
        reserve_held_minor=9,
        as_of=Timestamp(seconds=253_402_300_799, nanos=999_999_000),
    )


def test_time_of_the_last_event_is_encoded() -> None:
    balance = Balance(ACCOUNT, 0, 0, 0, 7, 0, UNIX_EPOCH + timedelta(microseconds=1), UNIX_EPOCH)
    message = encode_balance(balance)
    assert message.last_event_at == Timestamp(nanos=1000)
    assert (message.disputed_minor, message.as_of) == (7, Timestamp())
