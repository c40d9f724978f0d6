"""Statement queries that are refused."""

from collections.abc import Iterator
from functools import partial

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.bad_requests import (
    BAD_UUIDS,
    INT64_MAX,
    INT64_MIN,
    YEAR_1,
    YEAR_9999,
    Case,
    Cases,
    assert_refused,
    bad_page_tokens,
    entries_case,
    entries_request,
    groups,
    in_an_hour,
)
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers


def entries_in_an_hour(*paths: str) -> bytes:
    """A request whose instants are in the future when it is sent."""
    return entries_request(**{path: in_an_hour() for path in paths})


def bad_statements() -> Iterator[tuple[str, Case]]:
    """Requests for statements that the server refuses."""
    instants = {
        "before-year-1": Timestamp(seconds=YEAR_1 - 1),
        "year-10000": Timestamp(seconds=YEAR_9999 + 1),
        "seconds-min": Timestamp(seconds=INT64_MIN),
        "seconds-max": Timestamp(seconds=INT64_MAX),
        "nanos-below-0": Timestamp(nanos=-1),
        "nanos-a-second": Timestamp(nanos=10**9),
        "end-of-year-9999": Timestamp(seconds=YEAR_9999, nanos=999_999_999),
    }
    for name, instant in instants.items():
        for path in ("start_at", "end_at"):
            yield f"{name}-{path}", entries_case(path, **{path: instant})
    for paths in (("start_at",), ("end_at",), ("start_at", "end_at")):
        yield (
            f"in-an-hour-{'-'.join(paths)}",
            Case("ListEntries", partial(entries_in_an_hour, *paths), fields=paths),
        )
    yield (
        "start-after-end",
        entries_case(
            "start_at",
            start_at=Timestamp(seconds=2),
            end_at=Timestamp(seconds=1, nanos=999_999_999),
        ),
    )
    for numbers in (
        [0],
        [max(ledger_pb2.EntryType.values()) + 1],
        [-1],
        [2**31 - 1],
        [-(2**31)],
        [1, 77],
        [0] * 100_000,
    ):
        yield (
            f"entry_types-{numbers[-1]}-of-{len(numbers)}",
            entries_case("entry_types", entry_types=numbers),
        )
    for name, value in BAD_UUIDS.items():
        if value:
            yield f"{name}-ListEntries-payout_id", entries_case("payout_id", payout_id=value)
    for size in (-1, -(2**31)):
        yield f"ListEntries-page_size-{size}", entries_case("page_size", page_size=size)
    for name, token in bad_page_tokens(["ListEntries", "known", "PEN", "", "", "", "", ""]):
        yield f"ListEntries-page_token-{name}", entries_case("page_token", page_token=token)
    yield "ListEntries-empty", Case("ListEntries", b"", fields=("restaurant_id", "currency"))
    unknown = entries_request(restaurant_id="unregistered")
    yield (
        "ListEntries-unknown",
        Case("ListEntries", unknown, grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND"),
    )


@pytest.mark.parametrize("cases", groups(bad_statements()))
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)
