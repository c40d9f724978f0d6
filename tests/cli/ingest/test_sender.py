"""The sender of `ledger ingest` sends batches of lines in order, and measures the pace.

How a stream is resumed is tested in tests/client/test_streaming.py.
"""

from collections.abc import Iterator

import grpc
import pytest
from support.events import event_message
from support.scripted import Request, Response, aborted, all_created, scripted_server

from ledger.cli.connection import connect_plainly
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.ingest.batches import Batch, Line
from ledger.cli.ingest.fields import InvalidLine
from ledger.cli.ingest.sender import (
    LINES_IN_FLIGHT_MAX,
    EventBatch,
    Outcomes,
    Pace,
    send_batches,
)

NOTHING = EventBatch.of([Line(1, InvalidLine([]))], 0)


def batch_of(*event_ids: str) -> EventBatch:
    """A batch of events with these ids."""
    return Batch.of([Line(1, event_message(event_id=event_id)) for event_id in event_ids], 0)


def send(address: str, *batches: EventBatch, pace: Pace | None = None) -> list[list[str]]:
    """Sends batches; returns the ids of the outcomes of each, in the order of the callbacks."""
    passed_on: list[list[str]] = []

    def on_outcomes(batch: EventBatch, outcomes: Outcomes) -> None:
        assert [event.event_id for event in batch.messages] == [
            outcome.event_id for outcome in outcomes
        ]
        passed_on.append([outcome.event_id for outcome in outcomes])

    with connect_plainly(address) as ledger:
        send_batches(ledger, batches, on_outcomes, pace)
    return passed_on


def test_batches_without_events_keep_their_place() -> None:
    """They send nothing, and a file without any event opens no stream."""
    streams = 0

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        nonlocal streams
        streams += 1
        yield from map(all_created, requests)

    with scripted_server(respond) as address:
        assert send(address, NOTHING, NOTHING) == [[], []]
        assert streams == 0
        sent = send(address, NOTHING, batch_of("a"), NOTHING, batch_of("b", "c"), NOTHING)
    assert sent == [[], ["a"], [], ["b", "c"], []]


def test_lines_without_events_are_read_ahead_within_bounds() -> None:
    """They wait behind an event that has no outcome yet, so their number is bounded."""
    pulled = 0

    def batches() -> Iterator[EventBatch]:
        nonlocal pulled
        yield batch_of("a")
        for _ in range(10):
            pulled += 1
            yield NOTHING

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        for request in requests:
            while pulled < 4:
                pass
            yield all_created(request)

    passed_on = 0

    def on_outcomes(_: EventBatch, __: Outcomes) -> None:
        nonlocal passed_on
        passed_on += 1
        assert pulled - passed_on <= 4

    with scripted_server(respond) as address, connect_plainly(address) as ledger:
        send_batches(ledger, batches(), on_outcomes, batch_size=LINES_IN_FLIGHT_MAX // 4)
    assert passed_on == 11


def test_refused_stream_ends_the_command() -> None:
    """The exit status says whether the same command may be run again."""

    def respond(requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        yield from aborted(context, grpc.StatusCode.INVALID_ARGUMENT, "no")

    with (
        scripted_server(respond) as address,
        pytest.raises(CommandFailure, match="INVALID_ARGUMENT: no") as caught,
    ):
        send(address, batch_of("a"))
    assert caught.value.exit_status is ExitStatus.REFUSED


def test_pace_counts_events_with_an_outcome() -> None:
    """Each event once; there is no pace before the first outcome."""
    pace = Pace()
    assert not pace.events_per_second

    def respond(requests: Iterator[Request], _: grpc.ServicerContext) -> Iterator[Response]:
        yield from map(all_created, requests)

    with scripted_server(respond) as address:
        send(address, batch_of("a", "b"), batch_of("c", "d"), pace=pace)
    assert pace.events == 4
    assert pace.events_per_second is not None
    assert pace.events_per_second > 0
