"""Booking events: the outcome of each call, on books in memory that can be made to fail."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence

import pytest
from support.booking import Booking
from support.events import processor_event
from support.fakes import FakeEventLedger, FakeUnitOfWork
from support.waiting import DEADLINE_SECONDS, TimeLimit, run_ready_tasks, until

from ledger.application.attempts import ATTEMPTS_MAX
from ledger.application.ingest import contended_groups
from ledger.application.ingest.event_batch import Booked, IngestOutcome, IngestStatus
from ledger.application.ingest.ingest_events import IngestEvents
from ledger.application.ingest.queue import IngestLimits
from ledger.application.ports.events import Posting
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import EventType
from ledger.domain.money import AMOUNT_MINOR_MAX
from ledger.domain.restaurants import UnknownRestaurants
from ledger.errors import (
    DatabaseContention,
    DatabaseUnavailable,
    DeadlineTooShort,
    EventIdReused,
    EventRejected,
    PayoutNotFound,
    QueueFull,
    RestaurantNotFound,
    ShuttingDown,
)

LIMITS = IngestLimits(
    queue_calls_max=150,
    queue_events_max=100,
    queue_bytes_max=10_000,
    group_events_max=10,
    batches_at_once_max=2,
)
CREATED, DUPLICATE = IngestStatus.CREATED, IngestStatus.DUPLICATE


_MADE: list[Booking] = []


@pytest.fixture(autouse=True)
async def _all_are_closed() -> AsyncIterator[None]:
    """Closes every use case: asyncio would report open tasks in the middle of another test."""
    yield
    async with asyncio.timeout(DEADLINE_SECONDS):
        while _MADE:
            await _MADE.pop().close()


def use_case(
    ledger: FakeEventLedger, unknown: UnknownRestaurants = UnknownRestaurants.REGISTER
) -> Booking:
    ingest_events = IngestEvents(
        ledger, lambda: FakeUnitOfWork(ledger), unknown_restaurants=unknown, limits=LIMITS
    )
    _MADE.append(Booking(ingest_events))
    return _MADE[-1]


def in_short(outcomes: list[IngestOutcome]) -> list[IngestStatus | type]:
    """The outcomes in short: a status, or the kind of the error."""
    return [
        outcome.status if isinstance(outcome, Booked) else type(outcome) for outcome in outcomes
    ]


async def test_same_event_twice_is_created_and_duplicate_with_one_transaction_id() -> None:
    """A repeat returns the transaction id of the first time and posts nothing."""
    ledger = FakeEventLedger()
    ingest = use_case(ledger)
    event = processor_event()
    (first,), (second,) = await ingest([event]), await ingest([event])
    assert isinstance(first, Booked)
    assert isinstance(second, Booked)
    assert (first.status, second.status) == (CREATED, DUPLICATE)
    assert first.transaction_id == second.transaction_id
    assert len(ledger.events) == 1


async def test_first_event_with_an_id_decides_in_a_batch() -> None:
    """The first event with an id is booked; the same again is a duplicate, another a conflict."""
    event = processor_event()
    altered = processor_event(event_id=event.event_id, amount_minor=event.amount_minor + 1)
    outcomes = await use_case(FakeEventLedger())([event, altered, event])
    assert in_short(outcomes) == [CREATED, EventIdReused, DUPLICATE]
    conflict = outcomes[1]
    assert isinstance(conflict, EventIdReused)
    assert conflict.differing_fields == ("amount_minor",)


async def test_results_are_in_the_order_of_the_request() -> None:
    """Events are booked sorted by id; their outcomes are in the order of the request."""
    ids = ["evt_z", "evt_a", "evt_m"]
    outcomes = await use_case(ledger := FakeEventLedger())(
        [processor_event(event_id=event_id) for event_id in ids]
    )
    booked = [outcome.transaction_id for outcome in outcomes if isinstance(outcome, Booked)]
    assert booked == [ledger.events[event_id].transaction_id for event_id in ids]


@pytest.mark.parametrize("error", [DatabaseUnavailable, DatabaseContention])
async def test_attempt_that_broke_off_after_it_took_effect_is_created_when_repeated(
    error: type[DatabaseUnavailable | DatabaseContention],
) -> None:
    """The next attempt finds its rows by the batch id, so the call still gets CREATED."""
    ledger = FakeEventLedger()
    ingest = use_case(ledger)
    await ingest([processor_event(restaurant_id="res_001")])
    ledger.failures, ledger.fail_after_storing = [error("broke off")], True
    assert in_short(await ingest([processor_event()])) == [CREATED]
    assert len(ledger.events) == 2


async def test_attempts_are_bounded_and_the_outcome_is_then_unknown() -> None:
    """A database that stays away is reported after ATTEMPTS_MAX attempts."""
    ledger = FakeEventLedger()
    ledger.failures = [DatabaseUnavailable("away")] * (ATTEMPTS_MAX + 1)
    with pytest.raises(DatabaseUnavailable):
        await use_case(ledger)([processor_event()])
    assert len(ledger.insert_sizes) == ATTEMPTS_MAX


async def test_only_the_event_that_the_database_rejects_fails() -> None:
    """Of 256 events the database refuses one: the others are booked, in few statements."""
    ledger = FakeEventLedger()
    ingest = use_case(ledger)
    await ingest([processor_event()])
    ledger.insert_sizes.clear()
    events = [processor_event() for _ in range(256)]
    events[77] = processor_event(amount_minor=AMOUNT_MINOR_MAX + 1)
    outcomes = await ingest(events)
    assert in_short(outcomes) == [EventRejected if place == 77 else CREATED for place in range(256)]
    assert events[77].event_id not in ledger.events
    assert len(ledger.insert_sizes) <= 2 * 8 + 1


async def test_unknown_restaurant_is_refused_by_setting_and_not_registered() -> None:
    """With `reject` its event is NOT_FOUND and stores nothing; events of others are booked."""
    ledger = FakeEventLedger()
    ledger.restaurants.add("res_known")
    ingest = use_case(ledger, UnknownRestaurants.REJECT)
    outcomes = await ingest(
        [processor_event(restaurant_id="res_unknown"), processor_event(restaurant_id="res_known")]
    )
    assert in_short(outcomes) == [RestaurantNotFound, CREATED]
    assert ledger.restaurants == {"res_known"}
    assert ledger.accounts == {("res_known", "PEN")}


async def test_duplicate_and_conflict_register_no_restaurant() -> None:
    """A conflict that names an unknown restaurant does not register it: ids are looked up first."""
    ledger = FakeEventLedger()
    ingest = use_case(ledger)
    event = processor_event(restaurant_id="res_known")
    await ingest([event])
    outcomes = await ingest(
        [processor_event(event_id=event.event_id, restaurant_id="res_new"), event]
    )
    assert in_short(outcomes) == [EventIdReused, DUPLICATE]
    assert ledger.restaurants == {"res_known"}


async def test_payout_event_of_an_unknown_payout_leaves_its_id_free() -> None:
    """It stores nothing, so a later event may use its id, as if the events came one by one."""
    ledger = FakeEventLedger()
    payout = processor_event(EventType.PAYOUT_PAID, event_id="evt_shared", payout_id="payout_1")
    charge = processor_event(event_id="evt_shared")
    outcomes = await use_case(ledger)([payout, payout, charge, payout, charge])
    assert in_short(outcomes) == [PayoutNotFound, PayoutNotFound, CREATED, EventIdReused, DUPLICATE]
    assert ledger.events["evt_shared"].event == charge


async def test_single_payout_events_update_the_time_of_single_calls() -> None:
    """They wait as single calls, so fast ones end a slow time of single calls."""
    ingest = use_case(FakeEventLedger())
    queue = ingest.ingest_events._queue
    for _ in range(100):
        queue.booked(30.0)
    queue.enter(1, 1, None)
    with pytest.raises(DeadlineTooShort):
        ingest.ingest_events.admit(1, 1, 5.0)
    queue.leave(1, 1)
    for _ in range(50):
        await ingest([processor_event(EventType.PAYOUT_PAID)], seconds_left=5.0)
    queue.enter(1, 1, None)
    ingest.ingest_events.admit(1, 1, 5.0)


async def test_payout_event_with_the_id_of_a_stored_event_is_a_conflict() -> None:
    """The event id decides before the payout does."""
    ingest = use_case(FakeEventLedger())
    charge = processor_event()
    await ingest([charge])
    outcomes = await ingest(
        [processor_event(EventType.PAYOUT_PAID, event_id=charge.event_id, payout_id="payout_1")]
    )
    assert in_short(outcomes) == [EventIdReused]


class SlowLedger(FakeEventLedger):
    """Books only once `let` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.let = asyncio.Event()
        self.under_way = 0
        self.under_way_max = 0

    async def insert(self, *arguments: object, **options: object) -> set[str]:
        self.begun.set()
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            await self.let.wait()
            return await super().insert(*arguments, **options)  # type: ignore[arg-type]
        finally:
            self.under_way -= 1


async def all_in_short(*calls: Awaitable[list[IngestOutcome]]) -> list[IngestStatus | type]:
    """The outcomes, in short, of single calls that come together, or the types of their errors."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [
        type(result) if isinstance(result, BaseException) else in_short(result)[0]
        for result in results
    ]


async def test_first_call_with_an_id_decides_in_a_group() -> None:
    """As in a batch: created, a duplicate with the same transaction id, and a conflict."""
    ledger = FakeEventLedger()
    ingest = use_case(ledger)
    event, other = processor_event(), processor_event()
    await ingest([other])
    ledger.insert_sizes.clear()
    altered = processor_event(event_id=event.event_id, amount_minor=event.amount_minor + 1)
    results = await asyncio.gather(*(ingest([sent]) for sent in (event, altered, event, other)))
    assert in_short([outcome for (outcome,) in results]) == [
        CREATED,
        EventIdReused,
        DUPLICATE,
        DUPLICATE,
    ]
    assert ledger.insert_sizes == [2], "one statement for all of them"
    first, repeated = results[0][0], results[2][0]
    assert isinstance(first, Booked)
    assert isinstance(repeated, Booked)
    assert first.transaction_id == repeated.transaction_id
    await ingest.close()


async def test_only_the_call_that_the_database_rejects_fails() -> None:
    """The other calls of its group are booked."""
    ledger = FakeEventLedger()
    ingest = use_case(ledger)
    await ingest([processor_event()])
    ledger.insert_sizes.clear()
    events = [processor_event() for _ in range(10)]
    events[3] = processor_event(amount_minor=AMOUNT_MINOR_MAX + 1)
    assert await all_in_short(*(ingest([event]) for event in events)) == [
        EventRejected if n == 3 else CREATED for n in range(10)
    ]
    assert ledger.insert_sizes[0] == 10
    await ingest.close()


async def test_failure_of_a_group_is_raised_to_each_of_its_callers() -> None:
    """The outcome of each is unknown; each may send its event again, and gets the true outcome."""
    ledger = FakeEventLedger()
    ingest = use_case(ledger)
    await ingest([processor_event()])
    ledger.failures, ledger.fail_after_storing = [DatabaseUnavailable("away")] * ATTEMPTS_MAX, True
    events = [processor_event() for _ in range(3)]
    assert await all_in_short(*(ingest([event]) for event in events)) == [DatabaseUnavailable] * 3
    assert await all_in_short(*(ingest([event]) for event in events)) == [DUPLICATE] * 3
    await ingest.close()


class LockedLedger(FakeEventLedger):
    """Breaks off, without waiting, what inserts an event or opens an account that is `held`."""

    def __init__(self) -> None:
        super().__init__()
        self.held: set[str] = set()
        self.under_way = 0
        self.under_way_max = 0

    async def insert(self, *arguments: object, **options: object) -> set[str]:
        postings: Sequence[Posting] = arguments[0]  # type: ignore[assignment]
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        ids = [posting.event.event_id for posting in postings]
        assert ids == sorted(ids), "two groups could wait for each other in opposite order"
        if self.held.intersection(ids):
            self.insert_sizes.append(len(postings))
            raise DatabaseContention("lock timeout")
        return await super().insert(*arguments, **options)  # type: ignore[arg-type]

    async def open_accounts(
        self, accounts: Collection[BalanceAccount], **options: object
    ) -> set[str]:
        if self.held.intersection(account.holder_id for account in accounts):
            raise DatabaseContention("lock timeout")
        return await super().open_accounts(accounts, **options)  # type: ignore[arg-type]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> TimeLimit:
    limit = TimeLimit()
    monkeypatch.setattr(
        contended_groups.ContendedGroups, "is_over", staticmethod(lambda _: limit.is_over)
    )
    monkeypatch.setattr(contended_groups, "UNDISTURBED_SECONDS", 3600.0)
    monkeypatch.setattr(contended_groups, "PART_LOCK_WAIT_SECONDS", 0.0005)
    return limit


async def test_one_locked_call_of_a_group_fails_alone(limit: TimeLimit) -> None:
    """The others are booked, in few statements, one after the other; its outcome is unknown."""
    ledger = LockedLedger()
    ingest = use_case(ledger)
    await ingest([processor_event(restaurant_id=f"res_{number}") for number in range(4)])
    ledger.insert_sizes.clear()
    events = [processor_event(restaurant_id=f"res_{number % 4}") for number in range(10)]
    ledger.held = {events[3].event_id}
    calls = [asyncio.create_task(ingest([event])) for event in events]
    await until(lambda: sum(call.done() for call in calls) == 9, DEADLINE_SECONDS)
    assert ledger.insert_sizes[0] == 10
    # One statement for the whole group, and two for each size of a part. The last is tried again.
    assert len([size for size in ledger.insert_sizes if size > 1]) <= 1 + 2 * 3
    limit.is_over = True
    assert await all_in_short(*calls) == [
        DatabaseContention if n == 3 else CREATED for n in range(10)
    ]
    assert ledger.under_way_max == 1
    ledger.held.clear()
    assert await all_in_short(*(ingest([event]) for event in events)) == [
        CREATED if n == 3 else DUPLICATE for n in range(10)
    ]
    await ingest.close()


async def test_registration_by_another_session_holds_up_its_restaurant_alone(
    limit: TimeLimit,
) -> None:
    """Events of open accounts are booked by the first statement, others by the next ones."""
    ledger = LockedLedger()
    ingest = use_case(ledger)
    await ingest([processor_event(restaurant_id="res_0")])
    ledger.insert_sizes.clear()
    ledger.held = {"res_1"}
    # res_0 is known, and res_2 is new.
    restaurants = [f"res_{number % 3}" for number in range(9)]
    calls = [
        asyncio.create_task(ingest([processor_event(restaurant_id=restaurant)]))
        for restaurant in restaurants
    ]
    await until(lambda: sum(call.done() for call in calls) == 6, DEADLINE_SECONDS)
    # Then parts are tried until one has no event of res_1. It opens the account of res_2.
    assert ledger.insert_sizes[:3] == [9, 3, 3], "the whole, and halves of what has no account"
    limit.is_over = True
    assert await all_in_short(*calls) == [
        DatabaseContention if restaurant == "res_1" else CREATED for restaurant in restaurants
    ]
    await ingest.close()


async def test_group_gives_up_events_that_stay_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real clock: nothing that happens while it waits restarts its time limit."""
    monkeypatch.setattr(contended_groups, "CONTENTION_SECONDS", 0.05)
    monkeypatch.setattr(contended_groups, "PART_LOCK_WAIT_SECONDS", 0.0005)
    ledger = LockedLedger()
    ingest = use_case(ledger)
    await ingest([processor_event()])
    events = [processor_event() for _ in range(4)]
    ledger.held = {event.event_id for event in events}
    async with asyncio.timeout(60):
        outcomes = await all_in_short(*(ingest([event]) for event in events))
    assert outcomes == [DatabaseContention] * 4
    await ingest.close()


async def test_batch_with_a_locked_event_is_tried_as_a_whole() -> None:
    """It has one caller, and the outcome is unknown."""
    ledger = LockedLedger()
    ingest = use_case(ledger)
    await ingest([processor_event()])
    ledger.insert_sizes.clear()
    events = [processor_event() for _ in range(4)]
    ledger.held = {events[2].event_id}
    with pytest.raises(DatabaseContention):
        await ingest(events)
    assert ledger.insert_sizes == [4] * ATTEMPTS_MAX
    ledger.held.clear()
    assert in_short(await ingest(events)) == [CREATED] * 4


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("later", [DatabaseContention, DatabaseUnavailable])
async def test_group_that_broke_off_after_it_took_effect_is_created_when_booked_in_parts(
    later: type[DatabaseContention | DatabaseUnavailable],
) -> None:
    """The parts keep the batch id. A connection lost while parts are booked is an attempt, too."""
    ledger = FakeEventLedger()
    ingest = use_case(ledger)
    await ingest([processor_event()])
    ledger.failures = [
        DatabaseUnavailable("away"),
        DatabaseContention("our own session, perhaps"),
        later("once more"),
    ]
    ledger.fail_after_storing = True
    assert await all_in_short(*(ingest([processor_event()]) for _ in range(6))) == [CREATED] * 6
    assert len(ledger.events) == 7
    await ingest.close()


async def test_stalled_database_fills_no_more_than_the_queue() -> None:
    """Events beyond the queue are refused at once, with nothing stored; the others are booked."""
    ledger = SlowLedger()
    ingest = use_case(ledger)
    events = [processor_event() for _ in range(LIMITS.queue_events_max + 20)]
    calls = [asyncio.create_task(ingest([event], size_bytes=1)) for event in events]
    await ledger.begun.wait()
    await run_ready_tasks()
    refused = [call for call in calls if call.done()]
    assert refused == calls[LIMITS.queue_events_max :]
    assert [type(call.exception()) for call in refused] == [QueueFull] * 20
    batch = [processor_event()] * 2
    with pytest.raises(QueueFull):
        await ingest(batch, size_bytes=1)
    ledger.let.set()
    assert (
        await all_in_short(*calls[: LIMITS.queue_events_max]) == [CREATED] * LIMITS.queue_events_max
    )
    assert set(ledger.events) == {event.event_id for event in events[: LIMITS.queue_events_max]}
    queue = ingest.ingest_events._queue
    assert (queue.events, queue.size_bytes) == (0, 0)
    assert in_short(await ingest(batch, size_bytes=1)) == [CREATED, DUPLICATE]
    await ingest.close()


async def test_batches_of_callers_that_leave_stay_within_the_limit() -> None:
    """A booking keeps its place to its end: the limit holds however fast callers come and go."""
    ledger = SlowLedger()
    ingest = use_case(ledger)
    batches = [[processor_event(), processor_event()] for _ in range(50)]
    for batch in batches:
        call = asyncio.create_task(ingest(batch))
        await run_ready_tasks()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert ledger.under_way == LIMITS.batches_at_once_max
    assert not ingest.ingest_events.is_busy
    ledger.let.set()
    await ingest.close()
    assert ledger.under_way_max == LIMITS.batches_at_once_max
    # Batches whose callers left before their turn are not booked.
    assert set(ledger.events) == {
        event.event_id for batch in batches[: LIMITS.batches_at_once_max] for event in batch
    }


async def test_close_books_the_batches_that_wait() -> None:
    """Batches that were admitted before `close` are booked, unless their caller has left."""
    ledger = SlowLedger()
    ingest = use_case(ledger)
    batches = [[processor_event(), processor_event()] for _ in range(20)]
    calls = [asyncio.create_task(ingest(batch)) for batch in batches]
    await ledger.begun.wait()
    await run_ready_tasks()
    calls[5].cancel()
    closing = asyncio.create_task(ingest.close())
    await run_ready_tasks()
    assert not closing.done()
    with pytest.raises(ShuttingDown):
        await ingest([processor_event()])
    ledger.let.set()
    await closing
    del calls[5], batches[5]
    assert set(ledger.events) == {event.event_id for batch in batches for event in batch}
    assert await all_in_short(*calls) == [CREATED] * 19


async def test_cancelled_caller_does_not_cancel_its_booking() -> None:
    """The call ends at once; the event is still booked."""
    ledger = SlowLedger()
    ingest = use_case(ledger)
    event = processor_event()
    call = asyncio.create_task(ingest([event]))
    await ledger.begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    ledger.let.set()
    await ingest.close()
    assert event.event_id in ledger.events


async def test_close_waits_for_open_calls_and_admits_no_more() -> None:
    """After `close` all admitted events are booked, and a new event is refused."""
    ledger = SlowLedger()
    ingest = use_case(ledger)
    call = asyncio.create_task(ingest([processor_event()]))
    await ledger.begun.wait()
    closing = asyncio.create_task(ingest.close())
    ledger.let.set()
    await closing
    assert in_short(await call) == [CREATED]
    with pytest.raises(ShuttingDown):
        await ingest([processor_event()])
    assert len(ledger.events) == 1
