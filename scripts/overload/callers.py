"""Callers that write HTTP/2 frames without a library (RFC 9113; headers as in RFC 7541).

Callers that use a gRPC library need more processor time for a call than the server does, so they
could not overload it on one machine. The load is open-loop: a call is due at its time, whether or
not earlier ones have ended, and its deadline begins then.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from google.rpc import error_details_pb2

from ledger.v1 import ledger_pb2

ROOT = Path(__file__).resolve().parents[2]
SERVICE = "ledger.v1.LedgerService"
RESTAURANTS = 100
TICK_SECONDS = 0.002

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
REFUSED_STREAM, CANCEL = 7, 8
RETRY_SECONDS = 0.1
WINDOW_MAX = 2**31 - 1
# No header table and true binary metadata: trailers can then be read without state or decoding.
SETTINGS_PAYLOAD = (1).to_bytes(2) + (0).to_bytes(4) + (0xFE03).to_bytes(2) + (1).to_bytes(4)

OK = "OK"
QUEUE_FULL = "RESOURCE_EXHAUSTED QUEUE_FULL"
HELD_BACK = "not sent: asked to wait"
ENOUGH_OPEN = "not sent: enough open"
_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo\x12"


class Manners(StrEnum):
    """What a caller does when more calls are due than the server takes.

    CONSIDERATE: has a bounded number of calls open. When the server asks it to wait, it waits, and
    drops the calls that become due in that time. HASTY: the same bound, but it does not wait.
    QUEUEING: calls wait for a stream of the connection, in order, until their deadline, as in gRPC
    libraries by default.
    """

    CONSIDERATE = "considerate"
    HASTY = "hasty"
    QUEUEING = "queueing"


@dataclass(frozen=True, slots=True)
class Plan:
    """One process of callers: `rate` calls a second; 0 keeps `open_max` open on each connection.

    It goes on for up to `patience_seconds` more, at a growing rate, until the server has asked a
    caller to wait: the rate may follow from a peak that was measured while the machine was slow.
    """

    address: str
    number: int
    connections: int
    seconds: float
    rate: float
    open_max: int
    deadline_seconds: float
    manners: Manners = Manners.QUEUEING
    patience_seconds: float = 0.0

    def calls_due(self, elapsed_seconds: float) -> int:
        """How many calls are due since the beginning."""
        late_seconds = max(0.0, elapsed_seconds - self.seconds)
        return int(self.rate * (elapsed_seconds + late_seconds**2)) + 1

    def is_over(self, elapsed_seconds: float, results: "Results") -> bool:
        """Whether no further call is to be made."""
        is_asked_to_wait = bool(results.outcomes[HELD_BACK])
        return elapsed_seconds >= self.seconds + (
            0.0 if is_asked_to_wait else self.patience_seconds
        )


@dataclass(slots=True)
class Results:
    """The results of a process: outcomes by name; latencies and numbers of the booked events."""

    offered: int = 0
    sent: int = 0
    refused_streams: int = 0
    # How long they made calls.
    seconds: float = 0.0
    processor_seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    booked_at: list[float] = field(default_factory=list)
    booked: list[int] = field(default_factory=list)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """An HTTP/2 frame."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def header_blocks() -> tuple[bytes, bytes]:
    """The headers of a connection's first call, and of all later ones.

    The first call puts them into the header table; later calls refer to it. The timeout is not
    among them: it is what is left of the deadline when a call is sent.
    """
    headers = {
        ":path": f"/{SERVICE}/IngestEvent",
        ":authority": "overload",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    first = b"\x83\x86" + b"".join(
        b"\x40" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    # The table begins at 62, with the newest entry.
    return first, b"\x83\x86" + bytes(
        0x80 | 62 + len(headers) - 1 - place for place in range(len(headers))
    )


class Events:
    """Serialized requests that differ in their event ids only, all of one length."""

    def __init__(self, process: int) -> None:
        self._prefix = f"over.{process:02d}."
        event = ledger_pb2.ProcessorEvent(
            event_id=self.event_id(0),
            type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
            restaurant_id=f"over_{process % RESTAURANTS}",
            currency="PEN",
            amount_minor=1_000,
            fee_minor=50,
        )
        event.occurred_at.FromDatetime(datetime.now(UTC) - timedelta(days=1))
        raw = ledger_pb2.IngestEventRequest(event=event).SerializeToString()
        self._before, self._after = raw.split(self.event_id(0).encode())
        self._length = b"\0" + len(raw).to_bytes(4)

    def event_id(self, number: int) -> str:
        return f"{self._prefix}{number:09d}"

    def message(self, number: int) -> bytes:
        """The request with gRPC's prefix: no compression, and the length."""
        return self._length + self._before + self.event_id(number).encode() + self._after


class Caller(asyncio.Protocol):
    """One connection. It keeps to the server's limits of streams and bytes, as clients must."""

    def __init__(self, plan: Plan, events: Events, results: Results) -> None:
        self._events = events
        self._results = results
        self._manners = plan.manners
        self._open_max = plan.open_max
        self._deadline_seconds = plan.deadline_seconds
        self._first, self._block = header_blocks()
        self._buffer = bytearray()
        self._stream = 1
        self._streams_max = 100
        self._window = 65_535
        self._received = 0
        self._paused = False
        self._hold_until = 0.0
        self._due: deque[tuple[float, int]] = deque()
        # By stream, in the order of sending.
        self._open: dict[int, tuple[float, int]] = {}
        self.transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(transport)
        self.transport = transport
        transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, SETTINGS_PAYLOAD)
            + self._more(WINDOW_MAX - 65_535)
        )

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        for stream in list(self._open):
            self._end(stream, "connection lost")

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.send()

    @property
    def waiting(self) -> int:
        """How many calls have no outcome yet."""
        return len(self._due) + len(self._open)

    def call(self, due_at: float, number: int) -> None:
        """Makes the call that is due, or drops it, as the manners say."""
        if self._manners is not Manners.QUEUEING:
            if due_at < self._hold_until:
                self._results.outcomes[HELD_BACK] += 1
                return
            if len(self._due) + len(self._open) >= self._open_max:
                self._results.outcomes[ENOUGH_OPEN] += 1
                return
        self._due.append((due_at, number))

    def send(self) -> None:
        """Sends what the limits allow."""
        if self.transport is None or self.closed or not self._due:
            return
        sent = bytearray()
        now = time.monotonic()
        while self._due and now - self._due[0][0] > self._deadline_seconds:
            self._due.popleft()
            self._results.outcomes["DEADLINE_EXCEEDED unsent"] += 1
        while (
            self._due
            and not self._paused
            and len(self._open) < self._streams_max
            and now > self._hold_until
        ):
            due_at, number = self._due[0]
            message = self._events.message(number)
            if self._window < len(message):
                break
            self._due.popleft()
            self._window -= len(message)
            block, self._first = self._first or self._block, b""
            left = f"{max(1, round((due_at + self._deadline_seconds - now) * 1000))}m".encode()
            block += b"\0\x0cgrpc-timeout" + bytes([len(left)]) + left
            sent += frame(HEADERS, END_HEADERS, self._stream, block) + frame(
                DATA, END_STREAM, self._stream, message
            )
            self._open[self._stream] = (due_at, number)
            self._stream += 2
            self._results.sent += 1
        if sent:
            self.transport.write(bytes(sent))

    def expire(self) -> None:
        """Resets the streams of calls whose deadline has passed, as clients do."""
        latest = time.monotonic() - self._deadline_seconds
        expired = []
        for stream, (due_at, _) in self._open.items():
            if due_at > latest:
                break
            expired.append(stream)
        for stream in expired:
            if self.transport is not None and not self.closed:
                self.transport.write(frame(RESET, 0, stream, CANCEL.to_bytes(4)))
            self._end(stream, "DEADLINE_EXCEEDED unanswered")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        place = 0
        while len(self._buffer) - place >= 9:
            size = int.from_bytes(self._buffer[place : place + 3])
            if len(self._buffer) - place < 9 + size:
                break
            kind, flags = self._buffer[place + 3], self._buffer[place + 4]
            stream = int.from_bytes(self._buffer[place + 5 : place + 9])
            self._take(kind, flags, stream, bytes(self._buffer[place + 9 : place + 9 + size]))
            place += 9 + size
        del self._buffer[:place]
        self.send()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self.transport is None:
            return
        if kind == SETTINGS and not flags & ACK:
            for place in range(0, len(payload), 6):
                if payload[place : place + 2] == b"\0\3":
                    self._streams_max = min(int.from_bytes(payload[place + 2 : place + 6]), 10_000)
            self.transport.write(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.transport.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind == DATA:
            self._received += len(payload)
            if self._received > 2**24:
                self.transport.write(self._more(self._received))
                self._received = 0
        elif kind == HEADERS and flags & END_STREAM:
            outcome = outcome_of(payload)
            if outcome == QUEUE_FULL and self._manners is Manners.CONSIDERATE:
                self._hold_until = time.monotonic() + retry_delay_seconds(payload)
                # Calls that were not sent yet are dropped.
                self._results.outcomes[HELD_BACK] += len(self._due)
                self._due.clear()
            self._end(stream, outcome)
        elif kind == RESET and int.from_bytes(payload) == REFUSED_STREAM and stream in self._open:
            # The recommended service config sets when to retry.
            self._due.appendleft(self._open.pop(stream))
            self._hold_until = time.monotonic() + RETRY_SECONDS
            self._results.refused_streams += 1
        elif kind == RESET:
            self._end(stream, f"reset {int.from_bytes(payload)}")
        elif kind == GOAWAY:
            self._results.outcomes["goaway"] += 1

    def _end(self, stream: int, outcome: str) -> None:
        if stream not in self._open:
            return
        due_at, number = self._open.pop(stream)
        self._results.outcomes[outcome] += 1
        if outcome == OK:
            now = time.monotonic()
            self._results.latencies.append(now - due_at)
            self._results.booked_at.append(now)
            self._results.booked.append(number)

    @staticmethod
    def _more(size: int) -> bytes:
        return frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4))


def outcome_of(trailers: bytes) -> str:
    """The outcome's name: OK, QUEUE_FULL if the refusal has its details, or the status."""
    place = trailers.find(b"grpc-status") + len(b"grpc-status") + 1
    status = int(trailers[place : place + trailers[place - 1]])
    if status == 0:
        return OK
    if status == 8 and b"QUEUE_FULL" in trailers and _RETRY_INFO in trailers:
        return QUEUE_FULL
    if status == 1:
        return "CANCELLED"
    if status == 4:
        return "DEADLINE_EXCEEDED answered"
    return f"status {status}"


def retry_delay_seconds(trailers: bytes) -> float:
    """The delay of RetryInfo in the trailers of a refusal."""
    place = trailers.index(_RETRY_INFO) + len(_RETRY_INFO)
    delay = error_details_pb2.RetryInfo.FromString(
        trailers[place + 1 : place + 1 + trailers[place]]
    ).retry_delay
    return delay.seconds + delay.nanos / 1e9


async def call_all(plan: Plan) -> Results:
    """Carries out the plan and waits for its open calls."""
    results = Results()
    events = Events(plan.number)
    host, port = plan.address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    callers = [
        (await loop.create_connection(lambda: Caller(plan, events, results), host, int(port)))[1]
        for _ in range(plan.connections)
    ]
    # Wait for the server's settings: no call may go beyond them.
    await asyncio.sleep(0.2)
    worked = time.process_time()
    began = time.monotonic()
    while not plan.is_over((now := time.monotonic()) - began, results):
        if plan.rate:
            due = plan.calls_due(now - began)
            for number in range(results.offered, due):
                due_at = min(now, began + number / plan.rate)
                callers[number % len(callers)].call(due_at, number)
            results.offered = max(results.offered, due)
        else:
            for caller in callers:
                while caller.waiting < plan.open_max:
                    caller.call(now, results.offered)
                    results.offered += 1
        for caller in callers:
            caller.expire()
            caller.send()
        await asyncio.sleep(TICK_SECONDS)
    results.processor_seconds = time.process_time() - worked
    ended = time.monotonic()
    results.seconds = ended - began
    while any(caller.waiting for caller in callers):
        is_last = time.monotonic() > ended + plan.deadline_seconds + 1
        # Also the last time: a process that was halted must still see which deadlines have passed.
        for caller in callers:
            caller.expire()
            caller.send()
        if is_last:
            break
        await asyncio.sleep(0.01)
    results.outcomes["never answered"] += sum(caller.waiting for caller in callers)
    for caller in callers:
        if caller.transport is not None:
            caller.transport.close()
    return results


async def call_in_processes(plans: list[Plan]) -> list[Results]:
    """Carries out the plans, each in a separate process."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "scripts.overload.callers", json.dumps(asdict(plan))),
            stdout=asyncio.subprocess.PIPE,
            limit=2**30,
            cwd=ROOT,
        )
        for plan in plans
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    if any(process.returncode for process in processes):
        raise RuntimeError("callers failed")
    return [
        Results(**{**json.loads(stdout), "outcomes": Counter(json.loads(stdout)["outcomes"])})
        for stdout, _ in outputs
    ]


def main(plan: str) -> None:
    """Carries out one plan, given as JSON, and prints the results as JSON."""
    given = json.loads(plan)
    results = asyncio.run(call_all(Plan(**{**given, "manners": Manners(given["manners"])})))
    json.dump({part.name: getattr(results, part.name) for part in fields(results)}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
