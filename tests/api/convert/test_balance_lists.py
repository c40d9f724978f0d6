"""Lists of balances and of maturities, as requests and responses have them."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.date_pb2 import Date
from support.violations import violations_of

from ledger.api.convert.balance_lists import (
    DAYS_DEFAULT,
    DAYS_MAX,
    balance_listing,
    decode_balances_query,
    decode_maturities,
    encode_balances_page,
    encode_maturities,
)
from ledger.api.convert.page_tokens import PageTokens
from ledger.api.convert.paging import Paging
from ledger.application.list_balances import BalancesPage
from ledger.application.ports.balance_lists import (
    BalancesQuery,
    BalanceTotals,
    Maturities,
    Maturity,
)
from ledger.domain.balances import Balance, BalanceAccount
from ledger.domain.events import UNIX_EPOCH
from ledger.domain.fields import ID_RULE
from ledger.domain.money import CURRENCY_RULE, INT64_MAX, INT64_MIN
from ledger.v1 import ledger_pb2

TOKENS = PageTokens([b"k" * 32])
ALL = BalancesQuery("PEN", None, in_the_red=False, held=False, min_available_minor=None)


@pytest.mark.parametrize(
    ("request_", "query"),
    [
        (ledger_pb2.ListBalancesRequest(currency="PEN"), ALL),
        (
            ledger_pb2.ListBalancesRequest(currency="PEN", restaurant_id_prefix="res_"),
            replace(ALL, restaurant_id_prefix="res_"),
        ),
        (
            ledger_pb2.ListBalancesRequest(currency="PEN", in_the_red=True),
            replace(ALL, in_the_red=True),
        ),
        (ledger_pb2.ListBalancesRequest(currency="PEN", held=True), replace(ALL, held=True)),
        # Set, though 0: those in the red are not listed.
        (
            ledger_pb2.ListBalancesRequest(currency="PEN", min_available_minor=0),
            replace(ALL, min_available_minor=0),
        ),
        (
            ledger_pb2.ListBalancesRequest(currency="PEN", min_available_minor=INT64_MIN),
            replace(ALL, min_available_minor=INT64_MIN),
        ),
    ],
)
def test_query_of_balances_is_decoded(
    request_: ledger_pb2.ListBalancesRequest, query: BalancesQuery
) -> None:
    """Its tokens are not those of the other queries."""
    assert decode_balances_query(request_) == query
    token = Paging(TOKENS, balance_listing(query), 1, "").next_page_token("res_1")
    assert Paging(TOKENS, balance_listing(query), 1, token).after == "res_1"
    for other in (replace(ALL, currency="EUR"), replace(ALL, min_available_minor=1)):
        assert violations_of(Paging, TOKENS, balance_listing(other), 1, token)
    if query != ALL:
        assert violations_of(Paging, TOKENS, balance_listing(ALL), 1, token)


def test_every_wrong_field_of_balances_is_reported() -> None:
    request = ledger_pb2.ListBalancesRequest(
        currency="pen", restaurant_id_prefix="a b", page_size=-1
    )
    assert violations_of(decode_balances_query, request) == [
        ("currency", CURRENCY_RULE),
        ("restaurant_id_prefix", f"{ID_RULE}, or be empty"),
        ("page_size", "must not be negative"),
    ]


def test_balances_are_encoded_field_by_field() -> None:
    """The limits of int64 included; a page has totals only if they were asked for."""
    balance = Balance(
        BalanceAccount("res_1", "PEN"), INT64_MIN, INT64_MAX, 1, 2, 3, None, UNIX_EPOCH
    )
    moved = Balance(
        BalanceAccount("res_2", "PEN"),
        4,
        0,
        0,
        0,
        0,
        UNIX_EPOCH + timedelta(microseconds=1),
        UNIX_EPOCH,
    )
    paging = Paging(TOKENS, balance_listing(ALL), 2, "")
    response = encode_balances_page(
        paging, BalancesPage([balance, moved], "res_2", BalanceTotals(9, -1, 2, 3, 4, 5))
    )
    assert list(response.balances) == [
        ledger_pb2.RestaurantBalance(
            restaurant_id="res_1",
            available_minor=INT64_MIN,
            pending_minor=INT64_MAX,
            reserved_minor=1,
            disputed_minor=2,
            reserve_held_minor=3,
            as_of=Timestamp(),
        ),
        ledger_pb2.RestaurantBalance(
            restaurant_id="res_2",
            available_minor=4,
            last_event_at=Timestamp(nanos=1000),
            as_of=Timestamp(),
        ),
    ]
    assert response.totals == ledger_pb2.BalanceTotals(
        restaurants_count=9,
        available_minor=-1,
        pending_minor=2,
        reserved_minor=3,
        disputed_minor=4,
        reserve_held_minor=5,
    )
    assert Paging(TOKENS, balance_listing(ALL), 2, response.next_page_token).after == "res_2"
    last = encode_balances_page(paging, BalancesPage([], None, None))
    assert not last.HasField("totals")
    assert last.next_page_token == ""


def test_query_of_maturities_is_decoded() -> None:
    """All restaurants, and two weeks, unless the request says otherwise."""
    request = ledger_pb2.ListMaturitiesRequest(currency="PEN")
    assert decode_maturities(request) == ("PEN", None, DAYS_DEFAULT)
    request = ledger_pb2.ListMaturitiesRequest(currency="PEN", restaurant_id="res_1", days=DAYS_MAX)
    assert decode_maturities(request) == ("PEN", "res_1", DAYS_MAX)


@pytest.mark.parametrize("days", [-1, DAYS_MAX + 1, -(2**31), 2**31 - 1])
def test_every_wrong_field_of_maturities_is_reported(days: int) -> None:
    request = ledger_pb2.ListMaturitiesRequest(currency="", restaurant_id="a b", days=days)
    assert violations_of(decode_maturities, request) == [
        ("restaurant_id", f"{ID_RULE}, or be empty"),
        ("currency", CURRENCY_RULE),
        ("days", f"must be 1 to {DAYS_MAX}, or 0"),
    ]


def test_maturities_are_encoded_field_by_field() -> None:
    found = Maturities(
        [Maturity(date(2026, 1, 31), INT64_MAX, 2), Maturity(date(2026, 2, 1), -5, 1)],
        INT64_MIN,
        UNIX_EPOCH,
    )
    assert encode_maturities(found) == ledger_pb2.ListMaturitiesResponse(
        maturities=[
            ledger_pb2.Maturity(
                as_of=Date(year=2026, month=1, day=31), amount_minor=INT64_MAX, entries_count=2
            ),
            ledger_pb2.Maturity(
                as_of=Date(year=2026, month=2, day=1), amount_minor=-5, entries_count=1
            ),
        ],
        later_minor=INT64_MIN,
        as_of=Timestamp(),
    )
