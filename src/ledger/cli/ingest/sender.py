"""Sends batches of lines by the client's stream, and measures the pace."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ledger.cli.ingest.batches import Batch
from ledger.limits import BATCH_EVENTS_MAX
from ledger.v1 import ledger_pb2

if TYPE_CHECKING:
    from ledger.client import EventOutcome, Ledger

# Lines that are read ahead, whether they have events or not.
LINES_IN_FLIGHT_MAX = 4000

EventBatch = Batch[ledger_pb2.ProcessorEvent]
Outcomes = Sequence["EventOutcome"]


class Pace:
    """How many events get outcomes a second, from the first batch to the last outcome."""

    def __init__(self) -> None:
        self.events = 0
        self._began_at: float | None = None
        self._ended_at = 0.0

    @property
    def events_per_second(self) -> int | None:
        """None before the first outcome."""
        if self._began_at is None or not self.events:
            return None
        return round(self.events / max(self._ended_at - self._began_at, 1e-6))

    def begin(self) -> None:
        """Starts the clock. Only the first call counts."""
        if self._began_at is None:
            self._began_at = time.monotonic()

    def add(self, events: int) -> None:
        """Counts events that have got their outcomes."""
        self.events += events
        self._ended_at = time.monotonic()


def send_batches(
    ledger: "Ledger",
    batches: Iterable[EventBatch],
    on_outcomes: Callable[[EventBatch, Outcomes], None],
    pace: Pace | None = None,
    batch_size: int = BATCH_EVENTS_MAX,
) -> None:
    """Books all batches in order, and passes each with its outcomes to `on_outcomes`, in order.

    A batch has at most `batch_size` lines. `pace` is updated before each call of `on_outcomes`.
    Raises LedgerError if the server refuses the stream or cannot be reached for too long.
    """
    # Imported by the first call, as gRPC is.
    from ledger.client.streaming import StreamLimits
    from ledger.client.sync_streams import stream_batches

    pace = pace or Pace()
    sent: deque[EventBatch] = deque()

    def events() -> Iterator[Sequence[ledger_pb2.ProcessorEvent]]:
        for batch in batches:
            pace.begin()
            sent.append(batch)
            yield batch.messages

    limits = StreamLimits(batches_in_flight_max=-(-LINES_IN_FLIGHT_MAX // batch_size))
    for outcomes in stream_batches(ledger.service, events(), limits):
        pace.add(len(outcomes))
        on_outcomes(sent.popleft(), outcomes)
