"""Lists of events that are refused."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.bad_requests import (
    YEAR_1,
    YEAR_9999,
    Case,
    Cases,
    assert_refused,
    bad_page_tokens,
    groups,
)
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers


def events_case(*fields: str, **request: Any) -> Case:
    """A list of events that is refused for these fields."""
    return Case(
        "ListEvents", ledger_pb2.ListEventsRequest(**request).SerializeToString(), fields=fields
    )


def bad_event_lists() -> Iterator[tuple[str, Case]]:
    """Lists of events that the server refuses."""
    for name, instant in {
        "before-year-1": Timestamp(seconds=YEAR_1 - 1),
        "year-10000": Timestamp(seconds=YEAR_9999 + 1),
        "nanos-below-0": Timestamp(nanos=-1),
    }.items():
        for path in ("start_at", "end_at"):
            yield f"ListEvents-{name}-{path}", events_case(path, **{path: instant})
    yield (
        "ListEvents-start-after-end",
        events_case("start_at", start_at=Timestamp(seconds=2), end_at=Timestamp(seconds=1)),
    )
    for numbers in ([0], [-1], [2**31 - 1], [1, 9999], [0] * 50_000):
        yield (
            f"ListEvents-types-{numbers[-1]}-of-{len(numbers)}",
            events_case("types", types=numbers),
        )
    for text in ("a" * 256, "\n", "\u00e9", "\0"):
        yield f"ListEvents-reference-{text[:1]!r}", events_case("reference", reference=text)
    for text in ("a" * 129, " ", "%", "\0", "a\n"):
        for path in ("restaurant_id", "event_id_prefix"):
            yield f"ListEvents-{path}-{text[:2]!r}", events_case(path, **{path: text})
    yield (
        "ListEvents-prefix-and-reference",
        events_case("event_id_prefix", event_id_prefix="a", reference="b"),
    )
    for currency in ("pen", "XXX", "PEN "):
        yield f"ListEvents-currency-{currency}", events_case("currency", currency=currency)
    yield "ListEvents-page_size", events_case("page_size", page_size=-1)
    yield (
        "ListEvents-everything",
        events_case("restaurant_id", "currency", restaurant_id=" ", currency="x"),
    )
    for name, token in bad_page_tokens(["ListEvents", *[""] * 7]):
        yield f"ListEvents-page_token-{name}", events_case("page_token", page_token=token)
    unknown = ledger_pb2.ListEventsRequest(restaurant_id="unregistered").SerializeToString()
    yield (
        "ListEvents-unknown",
        Case("ListEvents", unknown, grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND"),
    )


@pytest.mark.parametrize("cases", groups(bad_event_lists()))
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)


@pytest.mark.parametrize("year", [YEAR_1, YEAR_9999])
async def test_any_instant_bounds_a_list(shared_ledger: RunningLedger, year: int) -> None:
    """Lists of a time before or after all events are empty, and no error."""
    instant = Timestamp(seconds=year)
    for fields in ({"start_at": instant}, {"end_at": instant}):
        for more in ({}, {"reference": "r"}, {"event_id_prefix": "p"}):
            request = ledger_pb2.ListEventsRequest(**fields, **more)  # type: ignore[arg-type]
            await shared_ledger.stub.ListEvents(request)
