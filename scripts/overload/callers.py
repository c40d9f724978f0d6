"""Callers that write HTTP/2 frames by themselves (RFC 9113; headers as RFC 7541).

Callers made of a gRPC library would need more processor time for a call than the server does, and nobody could be overloaded on
one machine. They are open-loop: a call is due at its time whatever became of those before it, and its deadline begins with it.
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
# No header table, so that trailers can be read without state, and binary trailers as they are.
SETTINGS_PAYLOAD = (1).to_bytes(2) + (0).to_bytes(4) + (0xFE03).to_bytes(2) + (1).to_bytes(4)

OK = "OK"
QUEUE_FULL = "RESOURCE_EXHAUSTED QUEUE_FULL"
HELD_BACK = "not sent: told to wait"
ENOUGH_OPEN = "not sent: enough open"
_RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo\x12"


class Manners(StrEnum):
    """What a caller does when more is due than is answered.

    CONSIDERATE: has a bounded number of calls open and, when it was told to wait, sends nothing until then; what is due meanwhile
    it turns away by itself, at once. HASTY: has as many open, and does not listen. QUEUEING: lets them wait for a stream of its
    connection, in their order and until their deadline, as gRPC libraries do for those who leave it to them.
    """

    CONSIDERATE = "considerate"
    HASTY = "hasty"
    QUEUEING = "queueing"


@dataclass(frozen=True, slots=True)
class Plan:
    """One process of callers: `rate` calls a second in all, or, if it is 0, always `open_max` at once on each connection.

    It may go on for `patience_seconds` more, until somebody was told to wait: on a slow machine nobody is within a second.
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

    def is_over(self, elapsed_seconds: float, told: "Told") -> bool:
        """Whether there are no more calls to be made."""
        is_told = bool(told.outcomes[HELD_BACK])
        return elapsed_seconds >= self.seconds + (0.0 if is_told else self.patience_seconds)


@dataclass(slots=True)
class Told:
    """What the callers of a process were told: outcomes by name, the latencies of what was booked, and its numbers."""

    offered: int = 0
    sent: int = 0
    refused_streams: int = 0
    # For how long they made calls.
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
    """The headers of a connection's first call, which puts them into the header table, and of all others, which name them.

    The timeout is not among them: it is what is left of the deadline when a call is sent.
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
    # The table begins at 62 with what was put there last.
    return first, b"\x83\x86" + bytes(
        0x80 | 62 + len(headers) - 1 - place for place in range(len(headers))
    )


class Events:
    """Serialized requests that differ in their event ids, which have one length."""

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
        return self._length + self._before + self.event_id(number).encode() + self._after


class Caller(asyncio.Protocol):
    """One connection. It keeps to the server's limits of streams and of bytes, as every client does."""

    def __init__(self, plan: Plan, events: Events, told: Told) -> None:
        self._events = events
        self._told = told
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
        """Calls without an outcome."""
        return len(self._due) + len(self._open)

    def call(self, due_at: float, number: int) -> None:
        """A call is due."""
        if self._manners is not Manners.QUEUEING:
            if due_at < self._hold_until:
                self._told.outcomes[HELD_BACK] += 1
                return
            if len(self._due) + len(self._open) >= self._open_max:
                self._told.outcomes[ENOUGH_OPEN] += 1
                return
        self._due.append((due_at, number))

    def send(self) -> None:
        """Sends what may be sent."""
        if self.transport is None or self.closed or not self._due:
            return
        sent = bytearray()
        now = time.monotonic()
        while self._due and now - self._due[0][0] > self._deadline_seconds:
            self._due.popleft()
            self._told.outcomes["DEADLINE_EXCEEDED unsent"] += 1
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
            self._told.sent += 1
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
                # Those that were not sent yet will not be.
                self._told.outcomes[HELD_BACK] += len(self._due)
                self._due.clear()
            self._end(stream, outcome)
        elif kind == RESET and int.from_bytes(payload) == REFUSED_STREAM and stream in self._open:
            # The service config that we recommend says when to try again.
            self._due.appendleft(self._open.pop(stream))
            self._hold_until = time.monotonic() + RETRY_SECONDS
            self._told.refused_streams += 1
        elif kind == RESET:
            self._end(stream, f"reset {int.from_bytes(payload)}")
        elif kind == GOAWAY:
            self._told.outcomes["goaway"] += 1

    def _end(self, stream: int, outcome: str) -> None:
        if stream not in self._open:
            return
        due_at, number = self._open.pop(stream)
        self._told.outcomes[outcome] += 1
        if outcome == OK:
            now = time.monotonic()
            self._told.latencies.append(now - due_at)
            self._told.booked_at.append(now)
            self._told.booked.append(number)

    @staticmethod
    def _more(size: int) -> bytes:
        return frame(WINDOW_UPDATE, 0, 0, size.to_bytes(4))


def outcome_of(trailers: bytes) -> str:
    """OK, or the number of the status; a refusal is only called by its name if it tells what it has to."""
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
    """What RetryInfo says, in the trailers of a refusal."""
    place = trailers.index(_RETRY_INFO) + len(_RETRY_INFO)
    delay = error_details_pb2.RetryInfo.FromString(
        trailers[place + 1 : place + 1 + trailers[place]]
    ).retry_delay
    return delay.seconds + delay.nanos / 1e9


async def call_all(plan: Plan) -> Told:
    """Carries out the plan and waits for what is open at its end."""
    told = Told()
    events = Events(plan.number)
    host, port = plan.address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    callers = [
        (await loop.create_connection(lambda: Caller(plan, events, told), host, int(port)))[1]
        for _ in range(plan.connections)
    ]
    # The server's own settings come first, so that nobody goes beyond them.
    await asyncio.sleep(0.2)
    worked = time.process_time()
    began = time.monotonic()
    while not plan.is_over((now := time.monotonic()) - began, told):
        if plan.rate:
            due = int((now - began) * plan.rate) + 1
            for number in range(told.offered, due):
                callers[number % len(callers)].call(began + number / plan.rate, number)
            told.offered = max(told.offered, due)
        else:
            for caller in callers:
                while caller.waiting < plan.open_max:
                    caller.call(now, told.offered)
                    told.offered += 1
        for caller in callers:
            caller.expire()
            caller.send()
        await asyncio.sleep(TICK_SECONDS)
    told.processor_seconds = time.process_time() - worked
    ended = time.monotonic()
    told.seconds = ended - began
    while any(caller.waiting for caller in callers):
        is_last = time.monotonic() > ended + plan.deadline_seconds + 1
        # Also when it is late: a process that was halted has yet to see which deadlines have passed.
        for caller in callers:
            caller.expire()
            caller.send()
        if is_last:
            break
        await asyncio.sleep(0.01)
    told.outcomes["never answered"] += sum(caller.waiting for caller in callers)
    for caller in callers:
        if caller.transport is not None:
            caller.transport.close()
    return told


async def call_in_processes(plans: list[Plan]) -> list[Told]:
    """Carries out the plans, each in a process of its own."""
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
        Told(**{**json.loads(stdout), "outcomes": Counter(json.loads(stdout)["outcomes"])})
        for stdout, _ in outputs
    ]


def main(plan: str) -> None:
    """Carries out one plan, given as JSON, and prints what was told as JSON."""
    given = json.loads(plan)
    told = asyncio.run(call_all(Plan(**{**given, "manners": Manners(given["manners"])})))
    json.dump({part.name: getattr(told, part.name) for part in fields(told)}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
