"""The row of the webhook gateway: the processor time of a post beside an empty handler."""

import asyncio
import hmac
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from scripts.bench import empty_starlette
from scripts.bench.bench import INGEST_CURRENCY, RESTAURANTS, Bench
from scripts.bench.books import WrongBooks
from scripts.bench.process_costs import cpu_seconds
from scripts.bench.report import row
from scripts.bench.rows import Rows
from scripts.bench.servers import ROOT, running

CALLERS = 16
# The line by which a gateway that logs JSON is ready; the address follows, and a quote.
READY_PREFIX = '{"event": "ready", "url": "http://'
# What the gateway may add to a post, in milliseconds of a processor.
ADDED_MS_MAX = 0.4
# The first posts of a process cost more, and processor time is counted in hundredths.
SECONDS_MIN = 1.0
SECRET = "a secret of the bench"
NAME = "bench"
EVENT_PREFIX = "stripe:ch_bench"
SELECT_BOOKED = "SELECT count(*) FROM processor_events WHERE event_id LIKE $1 || '%'"
FILE = f"""
[http]
address = "127.0.0.1:0"

[[endpoints]]
name = "{NAME}"
processor = "stripe"
mode = "test"
secrets = [{{ name = "bench", value = "{SECRET}" }}]
restaurant = {{ by = "metadata", key = "restaurant" }}
fees = {{ commission = "rate", percent = 12.5, fixed_minor = 30 }}
"""


@dataclass(slots=True)
class Posted:
    """What posting for a slice came to."""

    posts: int
    seconds: float
    cpu_seconds: float | None
    latencies: list[float]

    @property
    def cpu_ms(self) -> float | None:
        """Processor time of a post, in milliseconds."""
        return None if self.cpu_seconds is None else 1000 * self.cpu_seconds / self.posts


def body_of(number: int) -> bytes:
    """A charge as Stripe reports it, without what the gateway does not look at."""
    charge = {
        "id": f"ch_bench{number:09}",
        "object": "charge",
        "amount": 1000,
        "amount_captured": 1000,
        "amount_refunded": 0,
        "balance_transaction": f"txn_{number}",
        "captured": True,
        "created": int(time.time()) - 60,
        "currency": INGEST_CURRENCY.lower(),
        "livemode": False,
        "metadata": {"restaurant": f"{INGEST_CURRENCY}_{number % RESTAURANTS + 1}"},
        "paid": True,
        "payment_intent": f"pi_bench{number}",
        "refunded": False,
        "status": "succeeded",
    }
    return json.dumps(
        {
            "id": f"evt_bench{number}",
            "object": "event",
            "api_version": "2026-04-22",
            "created": charge["created"],
            "data": {"object": charge},
            "livemode": False,
            "type": "charge.succeeded",
        }
    ).encode()


def request_of(body: bytes) -> bytes:
    """The post, signed as Stripe signs."""
    signed_at = int(time.time())
    digest = hmac.digest(SECRET.encode(), b"%d.%s" % (signed_at, body), "sha256").hex()
    return (
        f"POST /hooks/{NAME} HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"stripe-signature: t={signed_at},v1={digest}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


class Poster:
    """Posts at a server from several connections at once, each waiting for its answers."""

    def __init__(self) -> None:
        self.numbers = 0

    async def post(self, address: str, pid: int, seconds: float) -> Posted:
        """Posts for so long. Raises WrongBooks if an answer is not 200."""
        latencies: list[float] = []
        host, _, port = address.rpartition(":")
        ends_at = time.monotonic() + seconds

        async def caller() -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                while time.monotonic() < ends_at:
                    self.numbers += 1
                    request = request_of(body_of(self.numbers))
                    began = time.monotonic()
                    writer.write(request)
                    head = await reader.readuntil(b"\r\n\r\n")
                    if not head.startswith(b"HTTP/1.1 200 "):
                        raise WrongBooks(f"a post was answered with {head[:64]!r}")
                    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
                    await reader.readexactly(length)
                    latencies.append(time.monotonic() - began)
            finally:
                writer.close()

        before, began = cpu_seconds(pid), time.monotonic()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        after = cpu_seconds(pid)
        spent = None if before is None or after is None else after - before
        return Posted(len(latencies), time.monotonic() - began, spent, latencies)


@contextmanager
def gateway_of(bench: Bench) -> Iterator[tuple[str, int]]:
    """A gateway that books with the bench's service: its address and pid."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "gateway.toml")
        path.write_text(FILE, encoding="utf-8")
        env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
        # A line of the log for each post, in the format of installations.
        env |= {"LEDGER_GRPC_ADDRESS": bench.service.address, "LEDGER_LOG_FORMAT": "json"}
        command = [sys.executable, "-m", "ledger", "gateway", "--config", str(path)]
        with (
            Path(folder, "log").open("w") as log,
            running(command, READY_PREFIX, env, Path(folder), stderr=log) as (line, pid),
        ):
            yield line.partition('"')[0], pid


async def gateway(bench: Bench) -> Rows:
    """Posts at the gateway and at an empty handler in turn, then counts what is booked."""
    uvloop = ["--uvloop"] if find_spec("uvloop") else []
    command = [sys.executable, "-m", empty_starlette.__name__, *uvloop]
    poster = Poster()
    of_gateway: list[Posted] = []
    of_empty: list[Posted] = []
    with (
        gateway_of(bench) as (address, pid),
        running(command, empty_starlette.READY_PREFIX, dict(os.environ), ROOT) as (
            empty_address,
            empty_pid,
        ),
    ):
        warm = [await poster.post(address, pid, SECONDS_MIN)]
        await poster.post(empty_address, empty_pid, bench.sizes.warm_up_seconds)
        seconds = max(SECONDS_MIN, bench.sizes.slice_seconds)
        for _ in range(bench.sizes.rounds):
            of_empty.append(await poster.post(empty_address, empty_pid, seconds))
            of_gateway.append(await poster.post(address, pid, seconds))
    booked = await bench.connection.fetchval(SELECT_BOOKED, EVENT_PREFIX)
    answered = sum(posted.posts for posted in (*warm, *of_gateway))
    if booked != answered:
        raise WrongBooks(f"{answered} posts were answered and {booked} events are in the books")
    measured, limit = _together(of_gateway), _together(of_empty)
    if measured.cpu_ms is None or limit.cpu_ms is None:
        yield "gateway: left out, as processor time is not known here"
        return
    added_ms = measured.cpu_ms - limit.cpu_ms
    yield replace(
        row(
            "gateway: processor time that a post adds to an empty handler",
            added_ms,
            "ms",
            ADDED_MS_MAX,
            measured.latencies,
            wanted="<= 1.00",
            note=f"{measured.cpu_ms:.3f} ms a post, the empty handler {limit.cpu_ms:.3f} ms;"
            f" {measured.posts / measured.seconds:,.0f} posts/s, events booked by another process",
        ),
        cpu_server_s=round(measured.cpu_ms, 3),
        limit_cpu_server_s=round(limit.cpu_ms, 3),
    )


def _together(slices: list[Posted]) -> Posted:
    cpu = [posted.cpu_seconds for posted in slices]
    known = [seconds for seconds in cpu if seconds is not None]
    return Posted(
        sum(posted.posts for posted in slices),
        sum(posted.seconds for posted in slices),
        sum(known) if len(known) == len(cpu) else None,
        [latency for posted in slices for latency in posted.latencies],
    )
