"""The bounds of the events that wait to be booked, and which calls are refused."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from support.waiting import run_ready_tasks

from ledger.application.ingest.queue import IngestLimits, IngestQueue
from ledger.errors import DeadlineTooShort, QueueFull

LIMITS = IngestLimits(
    queue_calls_max=20,
    queue_events_max=100,
    queue_bytes_max=1000,
    group_events_max=10,
    batches_at_once_max=2,
)


@contextmanager
def admitted(
    queue: IngestQueue, events: int, size_bytes: int, seconds_left: float | None
) -> Iterator[None]:
    """A call that is admitted until the block ends, as the use case admits it."""
    queue.enter(events, size_bytes, seconds_left)
    try:
        yield
    finally:
        queue.leave(events, size_bytes)


def test_events_and_bytes_are_bounded_together() -> None:
    """Batches may take nine tenths of either, and no more. A call that leaves makes room again."""
    for events, size_bytes in ((60, 1), (2, 600)):
        queue = IngestQueue(LIMITS)
        with admitted(queue, events, size_bytes, None):
            rest = (90 - events, 900 - size_bytes)
            for beyond in ((rest[0] + 1, 1), (2, rest[1] + 1)):
                with pytest.raises(QueueFull), admitted(queue, *beyond, None):
                    pass
            with admitted(queue, *rest, None), pytest.raises(QueueFull):
                queue.check(2, 0, None)
            queue.check(*rest, None)
        assert (queue.events, queue.size_bytes) == (0, 0)


def test_batches_leave_room_for_single_calls() -> None:
    """A tenth of the queue, in events and in bytes; that is bounded, too."""
    for batch, singles, size_bytes in ((90, 10, 1), (2, 1, 100)):
        queue = IngestQueue(LIMITS)
        with ExitStack() as stack:
            stack.enter_context(admitted(queue, batch, 900, None))
            for _ in range(singles):
                stack.enter_context(admitted(queue, 1, size_bytes, None))
            with pytest.raises(QueueFull):
                queue.check(1, 100, None)


def test_single_call_does_not_wait_for_batches() -> None:
    """Batches are booked beside groups, so their time refuses other batches only."""
    queue = IngestQueue(LIMITS)
    for _ in range(100):
        queue.booked(30.0, is_batch=True)
        queue.booked(0.1)
    with admitted(queue, 80, 80, None):
        queue.check(1, 1, 0.2)
        with pytest.raises(DeadlineTooShort):
            queue.check(2, 2, 200.0)
        queue.check(2, 2, 300.0)


@pytest.mark.parametrize(("events", "others"), [(1, 50), (50, 1)], ids=["single calls", "batches"])
def test_slow_time_of_a_kind_lets_one_call_try(events: int, others: int) -> None:
    """Only another booking of the kind can end its slow time: a first call may try, no second."""
    queue = IngestQueue(LIMITS)
    for _ in range(100):
        queue.booked(30.0, is_batch=events > 1)
    with admitted(queue, others, 1, None):
        with admitted(queue, events, 1, 5.0), pytest.raises(DeadlineTooShort):
            queue.check(2 if events > 1 else 1, 1, 5.0)
        for _ in range(50):
            queue.booked(0.1, is_batch=events > 1)
        with admitted(queue, events, 1, 5.0):
            queue.check(2 if events > 1 else 1, 1, 5.0)


def test_calls_are_bounded() -> None:
    """Whatever their size. A call that leaves makes room for another."""
    queue = IngestQueue(LIMITS)
    with ExitStack() as stack:
        for _ in range(19):
            stack.enter_context(admitted(queue, 1, 1, None))
        with admitted(queue, 1, 1, None), pytest.raises(QueueFull):
            queue.check(1, 1, None)
        queue.check(1, 1, None)
    assert queue.calls == 0


def test_no_call_is_refused_for_its_size_alone() -> None:
    """A call larger than the queue is admitted to an empty queue, and keeps the others out."""
    queue = IngestQueue(LIMITS)
    with admitted(queue, 1000, 100_000, None), pytest.raises(QueueFull):
        queue.check(1, 1, None)
    with admitted(queue, 1, 1, None), pytest.raises(QueueFull):
        queue.check(1000, 1, None)


async def test_caller_that_leaves_makes_room() -> None:
    """A call that is cancelled or fails leaves the queue."""
    queue = IngestQueue(LIMITS)

    async def call() -> None:
        with admitted(queue, 100, 1000, None):
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await run_ready_tasks()
    with pytest.raises(QueueFull):
        queue.check(1, 1, None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    queue.check(100, 1000, None)
    with pytest.raises(ZeroDivisionError), admitted(queue, 1, 1, None):
        raise ZeroDivisionError
    assert (queue.events, queue.size_bytes) == (0, 0)


def test_deadline_must_allow_for_the_full_groups_before_the_call() -> None:
    """Each group takes as long as recent ones. A call that comes alone may always try."""
    queue = IngestQueue(LIMITS)
    for _ in range(100):
        queue.booked(2.0)
        queue.booked(2.0, is_batch=True)
    queue.booked(None)
    queue.check(1, 1, 0.001)
    for events, needed_seconds in ((2, 2.0), (9, 2.0), (10, 4.0), (35, 8.0)):
        with admitted(queue, events, events, None):
            queue.check(2, 2, None)
            queue.check(2, 2, needed_seconds + 0.1)
            with pytest.raises(DeadlineTooShort):
                queue.check(2, 2, needed_seconds - 0.1)
    for calls, needed_seconds in ((1, 2.0), (9, 2.0), (10, 4.0)):
        with ExitStack() as stack:
            for _ in range(calls):
                stack.enter_context(admitted(queue, 1, 1, None))
            queue.check(1, 1, needed_seconds + 0.1)
            with pytest.raises(DeadlineTooShort):
                queue.check(1, 1, needed_seconds - 0.1)


def test_call_whose_time_is_over_is_refused() -> None:
    """Also by an empty queue, as its caller no longer waits for the outcome."""
    queue = IngestQueue(LIMITS)
    with pytest.raises(DeadlineTooShort):
        queue.check(1, 1, 0.0)
    queue.check(1, 1, 0.001)


def test_estimate_follows_what_groups_take() -> None:
    """An unused queue refuses no call, and one that was slow for a while recovers."""
    queue = IngestQueue(LIMITS)
    with admitted(queue, 1, 1, None):
        queue.check(1, 1, 0.001)
        queue.booked(10.0)
        with pytest.raises(DeadlineTooShort):
            queue.check(1, 1, 1.0)
        for _ in range(50):
            queue.booked(0.001)
        queue.check(1, 1, 1.0)


async def test_callers_that_wait_for_room_are_woken_when_there_is_some() -> None:
    """Several at once, and none earlier. A call larger than the queue waits until it is empty."""
    queue = IngestQueue(LIMITS)
    await queue.wait_for_room(1000, 1)
    large, small = admitted(queue, 70, 1, None), admitted(queue, 20, 1, None)
    large.__enter__()
    small.__enter__()
    waiting = [asyncio.create_task(queue.wait_for_room(events, 1)) for events in (10, 30, 1000)]
    await run_ready_tasks()
    assert [task.done() for task in waiting] == [False, False, False]
    small.__exit__(None, None, None)
    await run_ready_tasks()
    assert [task.done() for task in waiting] == [True, False, False]
    large.__exit__(None, None, None)
    await run_ready_tasks()
    assert [task.done() for task in waiting] == [True, True, True]


def test_empty_queue_is_reported_at_the_end() -> None:
    """The queue is reported after each group, and when the last caller leaves."""
    changes: list[tuple[int, int]] = []
    queue = IngestQueue(
        LIMITS, on_change=lambda events, size_bytes: changes.append((events, size_bytes))
    )
    with admitted(queue, 2, 20, None):
        with admitted(queue, 3, 30, None):
            queue.booked(0.001)
        assert changes == [(5, 50)]
    assert changes == [(5, 50), (0, 0)]
