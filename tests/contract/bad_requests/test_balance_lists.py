"""Lists of balances, maturities and entries of payouts that are refused, and previews."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from support.bad_requests import (
    BAD_UUIDS,
    UUID_TEXT,
    Case,
    Cases,
    assert_refused,
    bad_page_tokens,
    groups,
)
from support.events import event_message
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers


def balances_case(*fields: str, **request: Any) -> Case:
    message = ledger_pb2.ListBalancesRequest(**({"currency": "PEN"} | request))
    return Case("ListBalances", message.SerializeToString(), fields=fields)


def maturities_case(*fields: str, **request: Any) -> Case:
    message = ledger_pb2.ListMaturitiesRequest(**({"currency": "PEN"} | request))
    return Case("ListMaturities", message.SerializeToString(), fields=fields)


def entries_case_of(*fields: str, **request: Any) -> Case:
    message = ledger_pb2.ListPayoutEntriesRequest(**({"payout_id": UUID_TEXT} | request))
    return Case("ListPayoutEntries", message.SerializeToString(), fields=fields)


def bad_lists() -> Iterator[tuple[str, Case]]:
    """Requests that the server refuses."""
    for currency in ("", "pen", "XXX"):
        yield f"ListBalances-currency-{currency}", balances_case("currency", currency=currency)
        yield f"ListMaturities-currency-{currency}", maturities_case("currency", currency=currency)
    for text in ("a" * 129, " ", "%", "\0", "a\n"):
        yield (
            f"ListBalances-prefix-{text[:2]!r}",
            balances_case("restaurant_id_prefix", restaurant_id_prefix=text),
        )
        yield (
            f"ListMaturities-restaurant-{text[:2]!r}",
            maturities_case("restaurant_id", restaurant_id=text),
        )
    yield "ListBalances-page_size", balances_case("page_size", page_size=-1)
    for name, token in bad_page_tokens(["ListBalances", "PEN", "", "", "", ""]):
        yield f"ListBalances-page_token-{name}", balances_case("page_token", page_token=token)
    for days in (-1, 401, 2**31 - 1, -(2**31)):
        yield f"ListMaturities-days-{days}", maturities_case("days", days=days)
    unknown = ledger_pb2.ListMaturitiesRequest(restaurant_id="unregistered", currency="PEN")
    yield (
        "ListMaturities-unknown",
        Case(
            "ListMaturities",
            unknown.SerializeToString(),
            grpc.StatusCode.NOT_FOUND,
            "RESTAURANT_NOT_FOUND",
        ),
    )
    for name, value in BAD_UUIDS.items():
        yield f"ListPayoutEntries-{name}", entries_case_of("payout_id", payout_id=value)
    for numbers in ([0], [-1], [1, 9999], [0] * 50_000):
        yield (
            f"ListPayoutEntries-entry_types-{numbers[-1]}-of-{len(numbers)}",
            entries_case_of("entry_types", entry_types=numbers),
        )
    yield "ListPayoutEntries-page_size", entries_case_of("page_size", page_size=-1)
    for name, token in bad_page_tokens(["ListPayoutEntries", UUID_TEXT, ""]):
        yield (
            f"ListPayoutEntries-page_token-{name}",
            entries_case_of("page_token", page_token=token),
        )
    absent = ledger_pb2.ListPayoutEntriesRequest(payout_id=UUID_TEXT).SerializeToString()
    yield (
        "ListPayoutEntries-unknown",
        Case("ListPayoutEntries", absent, grpc.StatusCode.NOT_FOUND, "PAYOUT_NOT_FOUND"),
    )
    yield "PreviewEvent-empty", Case("PreviewEvent", b"", fields=("event",))
    bad_fields: dict[str, Any] = {"event_id": "", "amount_minor": 0, "currency": "pen"}
    for field, bad in bad_fields.items():
        event = event_message(**{field: bad})
        yield (
            f"PreviewEvent-{field}",
            Case(
                "PreviewEvent",
                ledger_pb2.PreviewEventRequest(event=event).SerializeToString(),
                fields=(f"event.{field}",),
            ),
        )


@pytest.mark.parametrize("cases", groups(bad_lists()))
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)
