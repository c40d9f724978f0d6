"""What hostile connections send, and how the tests see that the server is unharmed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from ledger.v1 import ledger_pb2
from support.events import event_message, unique
from support.http2 import Http2, Stream, grpc_message
from support.processes import SERVICE, ServerProcess
from support.running import query
from support.waiting import DEADLINE_SECONDS, until

INGEST, STREAM = f"/{SERVICE}/IngestEvent", f"/{SERVICE}/StreamEvents"
BATCH = f"/{SERVICE}/BatchIngestEvents"
# The two kinds of calls that the service has: one request, and a stream of them.
METHODS = pytest.mark.parametrize("path", [INGEST, STREAM], ids=["single", "stream"])
MEBIBYTE = 1024 * 1024
MESSAGE_BYTES = 39 * MEBIBYTE // 10
# A first byte with which, to the server, both TLS and HTTP/2 may begin.
ONE_BYTE = b"P"
# What a test may cost the server. A message of the largest size is held a few times over while it
# is read.
RSS_MIB_MAX = 48
LOG_BYTES_MAX = 4096
AT_WORK = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'ledger' AND state <> 'idle'
"""


@asynccontextmanager
async def unharmed(
    hostile: ServerProcess, *, rss_mib: float = RSS_MIB_MAX, booked: int = 0
) -> AsyncIterator[None]:
    """What happens inside books `booked` events, costs the server little memory and few words, and
    others are served.
    """
    before, memory, words = await hostile.counts(), hostile.rss_mib(), hostile.log_bytes()
    yield
    grown = hostile.rss_mib() - memory
    assert (await hostile.counts())[0] == before[0] + booked
    if not booked:
        assert await hostile.counts() == before
    await hostile.assert_well()
    assert grown < rss_mib, f"the server holds {grown:.0f} MiB more"
    assert hostile.log_bytes() - words < LOG_BYTES_MAX, hostile.log.read_text()[-4096:]


def request(path: str, **fields: Any) -> bytes:
    """A framed request with one valid event."""
    event = event_message(restaurant_id=unique("res"), **fields)
    kind = ledger_pb2.IngestEventRequest if path == INGEST else ledger_pb2.StreamEventsRequest
    return grpc_message(kind(event=event).SerializeToString())


def assert_refused(got: Stream, *codes: grpc.StatusCode) -> None:
    """One of the statuses, or cut off without one."""
    assert got.code in {None, *codes}, got
    assert got.code is not grpc.StatusCode.OK


async def hostile_is_quiet(hostile: ServerProcess, path: str) -> None:
    """Every earlier call of a method is booked, even if its client has given it up.

    The server takes calls up in turn, and now no session is at work.
    """
    async with Http2.connect(hostile.address) as connection:
        assert (await connection.call(path, request(path))).code is grpc.StatusCode.OK

    async def quiet() -> bool:
        return not await query(hostile.database.migration_url, AT_WORK)

    await until(quiet, DEADLINE_SECONDS)
