"""Bad ids and bad currencies, in every field of every request that takes one."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.bad_requests import (
    OF_NAME,
    PAYOUT_PAID,
    Case,
    Cases,
    account_case,
    assert_refused,
    balance_request,
    case_of,
    entries_case,
    event_case,
    groups,
    payment_case,
    run_case,
)
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers

BAD_IDS = {
    "empty": "",
    "blank": " ",
    "blanks": "   ",
    "leading-space": " evt_1",
    "trailing-space": "evt_1 ",
    "129-characters": "a" * 129,
    "256-characters": "a" * 256,
    "200-KiB": "a" * (200 * 1024),
    "nul": "evt\0",
    "nul-alone": "\0",
    "line-feed-inside": "evt\n1",
    "line-feed-at-the-end": "evt_1\n",
    "carriage-return": "evt_1\r",
    "tab": "evt\t1",
    "escape": "evt\x1b[31m",
    "delete": "evt\x7f",
    "right-to-left": "evt\u202e1",
    "zero-width": "evt\u200b1",
    "byte-order-mark": "\ufeffevt_1",
    "composed": "evt_\u00e9",
    "decomposed": "evt_e\u0301",
    "cyrillic": "evt_\u0430",
    "full-width-digit": "evt_\uff11",
    "arabic-digit": "evt_\u0661",
    "emoji": "evt_\U0001f355",
    "sql": "'; DROP TABLE processor_events;--",
    "path": "../../x",
    "percent": "%00",
    "lookup": "${jndi:x}",
    "braces": "{0190a1b2-0000-7000-8000-000000000000}",
}

BAD_CURRENCIES = {
    "empty": "",
    "lower-case": "pen",
    "mixed-case": "Pen",
    "leading-space": " PEN",
    "trailing-space": "PEN ",
    "line-feed": "PEN\n",
    "long": "PENN",
    "short": "PE",
    "accent": "P\u00c9N",
    "full-width": "\uff30\uff25\uff2e",
    "dotless-i": "\u0131NR",
    "unlisted": "ZZZ",
    "no-currency": "XXX",
    "gold": "XAU",
    "digits": "123",
    "nul": "PE\0",
}


def bad_ids() -> Iterator[tuple[str, Case]]:
    """Every bad id in every field that is an id."""
    for name, value in BAD_IDS.items():
        yield f"{name}-event_id", event_case("event_id", event_id=value)
        yield f"{name}-restaurant_id", event_case("restaurant_id", restaurant_id=value)
        yield f"{name}-payout_id", event_case("payout_id", type=PAYOUT_PAID, payout_id=value)
        requests = {
            "GetEvent": ledger_pb2.GetEventRequest(event_id=value),
            "GetBalance": ledger_pb2.GetBalanceRequest(restaurant_id=value, currency="PEN"),
            "PutRestaurant": ledger_pb2.PutRestaurantRequest(restaurant_id=value),
            "GetRestaurant": ledger_pb2.GetRestaurantRequest(restaurant_id=value),
            "ListEntries": ledger_pb2.ListEntriesRequest(restaurant_id=value, currency="PEN"),
        }
        change = ledger_pb2.UpdateRestaurantRequest(
            restaurant=ledger_pb2.Restaurant(restaurant_id=value), update_mask=OF_NAME
        )
        yield (
            f"{name}-UpdateRestaurant",
            Case(
                "UpdateRestaurant", change.SerializeToString(), fields=("restaurant.restaurant_id",)
            ),
        )
        for method, request in requests.items():
            path = "event_id" if method == "GetEvent" else "restaurant_id"
            yield f"{name}-{method}", Case(method, request.SerializeToString(), fields=(path,))
        if value:
            yield f"{name}-ListEntries-event_id", entries_case("event_id", event_id=value)
            yield f"{name}-RunPayouts-request_id", run_case("request_id", request_id=value)
            payouts = ledger_pb2.ListPayoutsRequest(restaurant_id=value).SerializeToString()
            yield f"{name}-ListPayouts", Case("ListPayouts", payouts, fields=("restaurant_id",))


def bad_ids_of_accounts_and_payments() -> Iterator[tuple[str, Case]]:
    """Every bad id in every field of both services that is an id. Filters may be empty."""
    operation = {"operation_id": "op_1", "payment_id": "pay_1"}
    for name, value in BAD_IDS.items():
        for path in ("payment_id", "payer_account_id", "payee_account_id", "payee_restaurant_id"):
            yield f"{name}-AuthorizePayment-{path}", payment_case(path, **{path: value})
        for method in ("CapturePayment", "VoidPayment", "RefundPayment", "ReversePayment"):
            for path in operation:
                yield f"{name}-{method}-{path}", case_of(method, path, **operation | {path: value})
        yield f"{name}-GetPayment", case_of("GetPayment", "payment_id", payment_id=value)
        for path in ("payer_account_id", "payee_account_id", "payee_restaurant_id"):
            yield f"{name}-ListPayments-{path}", case_of("ListPayments", path, **{path: value})
        yield f"{name}-CreateAccount", account_case("account_id", account_id=value)
        change: dict[str, Any] = {"account": {"account_id": value}, "update_mask": OF_NAME}
        yield f"{name}-UpdateAccount", case_of("UpdateAccount", "account.account_id", **change)
        for method in ("GetAccount", "GetAccountBalance", "ListAccountEntries"):
            yield f"{name}-{method}", case_of(method, "account_id", account_id=value)
        if value:
            entries = {"account_id": "known", "payment_id": value}
            yield (
                f"{name}-ListAccountEntries-payment_id",
                case_of("ListAccountEntries", "payment_id", **entries),
            )


def bad_currencies() -> Iterator[tuple[str, Case]]:
    """Every bad currency in every field that is a currency."""
    for name, value in BAD_CURRENCIES.items():
        yield f"{name}-event", event_case("currency", currency=value)
        yield (
            f"{name}-balance",
            Case("GetBalance", balance_request(currency=value), fields=("currency",)),
        )
        yield f"{name}-entries", entries_case("currency", currency=value)
        yield f"{name}-payouts", run_case("currency", currency=value)
        yield f"{name}-account", account_case("currency", currency=value)
        yield f"{name}-payment", payment_case("currency", currency=value)


@pytest.mark.parametrize(
    "cases", groups(bad_ids(), bad_ids_of_accounts_and_payments(), bad_currencies())
)
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)
