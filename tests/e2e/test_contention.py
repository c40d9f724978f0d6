"""Events that another session has locked: which calls wait for them, and which do not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc
import pytest
import uuid_utils.compat
from grpc import aio
from sqlalchemy.ext.asyncio import AsyncConnection
from support.audit import assert_books_in_order
from support.booking import Booking
from support.events import event_message, processor_event
from support.running import RunningLedger, query, running_ledger
from support.sessions import locked
from support.waiting import DEADLINE_SECONDS, TimeLimit, until

from ledger.application.ingest import contended_groups
from ledger.application.ingest.contended_groups import ContendedGroups
from ledger.application.ingest.event_batch import Booked, IngestOutcome, IngestStatus
from ledger.application.ingest.ingest_events import IngestEvents
from ledger.application.ingest.queue import IngestLimits
from ledger.application.ports.events import Posting
from ledger.bootstrap.database import Database
from ledger.domain.events import ProcessorEvent, fingerprint
from ledger.domain.restaurants import UnknownRestaurants
from ledger.errors import DatabaseContention, EventIdReused
from ledger.infrastructure.postgres.event_ledger import (
    PostgresEventLedger,
    insert_statement,
)
from ledger.infrastructure.postgres.sessions.engine import (
    GROUP_LOCK_TIMEOUT_SECONDS,
    autocommit,
    create_engine,
)
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from ledger.v1 import ledger_pb2

EVENTS = 60
CREATED, DUPLICATE = IngestStatus.CREATED, IngestStatus.DUPLICATE

# The check of the time limit, which a fixture replaces.
IS_OVER = ContendedGroups.is_over

Outcome = IngestStatus | type[BaseException]


@dataclass(frozen=True, slots=True)
class Books:
    """The use case on a database. `groups` has the size of every group that has ended."""

    ingest: Booking
    database: Database
    groups: list[int]

    def send(self, events: Sequence[ProcessorEvent]) -> "list[asyncio.Task[list[IngestOutcome]]]":
        """Calls that come at once, each with one event: they share a group."""
        return [asyncio.create_task(self.ingest([event])) for event in events]

    async def check(self, events: int) -> None:
        """Asserts that `events` events are stored, each once, and that the books are in order."""
        rows = await query(
            self.database.migration_url,
            "SELECT count(*), count(DISTINCT event_id) FROM ledger_entries",
        )
        assert rows == [(events, events)]
        await assert_books_in_order(self.database)


@asynccontextmanager
async def books_on(database: Database, *, groups_at_once_max: int = 1) -> AsyncIterator[Books]:
    """The use case with a session for each group that may be booked at once."""
    engine = create_engine(
        database.url, pool_size=groups_at_once_max, lock_timeout_seconds=GROUP_LOCK_TIMEOUT_SECONDS
    )
    groups: list[int] = []
    ingest = IngestEvents(
        PostgresEventLedger(partial(autocommit, engine), maturity_days=7),
        lambda: PostgresUnitOfWork(engine),
        unknown_restaurants=UnknownRestaurants.REGISTER,
        limits=IngestLimits(
            queue_calls_max=1000,
            queue_events_max=1000,
            queue_bytes_max=2**30,
            group_events_max=500,
            batches_at_once_max=groups_at_once_max,
        ),
        on_group=lambda events, _: groups.append(events),
    )
    try:
        yield Books(Booking(ingest), database, groups)
    finally:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await ingest.close()
        await engine.dispose()


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> TimeLimit:
    """The time limit of groups with locked events. It is over once a test sets it."""
    limit = TimeLimit()
    monkeypatch.setattr(ContendedGroups, "is_over", staticmethod(lambda _: limit.is_over))
    return limit


@pytest.fixture
async def books(database: Database) -> AsyncIterator[Books]:
    async with books_on(database) as books:
        yield books


def outcome_of(call: "asyncio.Task[list[IngestOutcome]]") -> Outcome:
    """The status, or the kind of error, of a call that has ended."""
    error = call.exception()
    if error is not None:
        return type(error)
    (outcome,) = call.result()
    return outcome.status if isinstance(outcome, Booked) else type(outcome)


async def insert_without_commit(holder: AsyncConnection, event: ProcessorEvent) -> str:
    """Stores the event in another session and leaves its transaction open.

    Returns the transaction id of the entries.
    """
    transaction_id = str(uuid_utils.uuid7())
    posting = Posting(event, fingerprint(event), transaction_id)
    connection = (await holder.get_raw_connection()).driver_connection
    assert connection is not None
    statement, arguments = insert_statement([posting], uuid_utils.compat.uuid7(), maturity_days=7)
    await connection.fetch(statement, *arguments)
    return transaction_id


async def until_all_but(
    calls: "Sequence[asyncio.Task[list[IngestOutcome]]]", waiting: set[int]
) -> None:
    """Returns once every call has ended, except those at the `waiting` places."""
    await until(
        lambda: {place for place, call in enumerate(calls) if not call.done()} <= waiting,
        DEADLINE_SECONDS,
    )


@pytest.mark.parametrize(
    ("lock", "commits", "place"),
    [
        ("event", True, 0),
        ("event", False, EVENTS - 1),
        ("registration", True, 7),
        ("registration", False, 29),
    ],
)
async def test_other_events_of_a_group_are_booked_while_a_locked_one_waits(
    books: Books, lock: str, commits: bool, place: int
) -> None:
    """Their callers receive CREATED while the lock is held.

    The caller of the locked event receives the right status once the lock is gone.
    """
    events = [processor_event(restaurant_id=f"res_{number % 7}") for number in range(EVENTS)]
    is_event = lock == "event"
    events[place] = processor_event(restaurant_id="res_0" if is_event else "res_new")
    await books.ingest([processor_event(restaurant_id="res_0")])
    books.groups.clear()
    register = "INSERT INTO restaurants (restaurant_id) VALUES ('res_new')"
    async with locked(books.database, "SELECT 1" if is_event else register) as holder:
        transaction_id = await insert_without_commit(holder, events[place]) if is_event else None
        calls = books.send(events)
        await until_all_but(calls, {place})
        assert not calls[place].done(), "the lock is still held"
        assert {outcome_of(call) for call in calls if call is not calls[place]} == {CREATED}
        await (holder.commit() if commits else holder.rollback())
        async with asyncio.timeout(DEADLINE_SECONDS):
            (outcome,) = await calls[place]
    assert isinstance(outcome, Booked)
    assert outcome.status is (DUPLICATE if is_event and commits else CREATED)
    assert (outcome.transaction_id == transaction_id) is (is_event and commits)
    await until(lambda: books.groups == [EVENTS], DEADLINE_SECONDS)
    await books.check(1 + EVENTS)


async def test_only_the_event_that_stays_locked_fails(books: Books, limit: TimeLimit) -> None:
    """At the time limit its caller receives an error: the outcome is unknown.

    A later repeat books it once.
    """
    events = [processor_event() for _ in range(EVENTS)]
    await books.ingest([processor_event()])
    async with locked(books.database, "SELECT 1") as holder:
        await insert_without_commit(holder, events[7])
        calls = books.send(events)
        await until_all_but(calls, {7})
        limit.is_over = True
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait(calls)
        assert [outcome_of(call) for call in calls] == [
            DatabaseContention if place == 7 else CREATED for place in range(EVENTS)
        ]
    again = books.send(events)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.wait(again)
    assert [outcome_of(call) for call in again] == [
        CREATED if place == 7 else DUPLICATE for place in range(EVENTS)
    ]
    await books.check(1 + EVENTS)


async def test_time_limit_begins_when_a_group_meets_a_lock() -> None:
    """It lasts as long as the constant says."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    began = ContendedGroups.until() - contended_groups.CONTENTION_SECONDS
    assert before - 0.001 <= began <= loop.time() + 0.001
    assert IS_OVER(before)
    assert not IS_OVER(loop.time() + 3600)


async def test_locked_account_holds_up_no_event(books: Books) -> None:
    """Events are booked while a payout run, or a person, has the row of their account locked."""
    await books.ingest([processor_event(restaurant_id="res_held")])
    lock = "SELECT FROM balance_accounts WHERE restaurant_id = 'res_held' FOR UPDATE"
    async with locked(books.database, lock), asyncio.timeout(DEADLINE_SECONDS):
        (call,) = books.send([processor_event(restaurant_id="res_held")])
        await call
        assert outcome_of(call) is CREATED
    await books.check(2)


async def test_locks_of_two_sessions_hold_up_no_other_event(books: Books) -> None:
    """One registers a restaurant that many events name; one has inserted some other events.

    All other events are booked while these wait, those of another new restaurant too.
    """
    restaurants = [f"res_{place % 6}" for place in range(EVENTS)]
    events = [processor_event(restaurant_id=restaurant) for restaurant in restaurants]
    inserted = {0, 1, 44}
    held = inserted | {place for place, name in enumerate(restaurants) if name == "res_3"}
    known = set(restaurants) - {"res_3", "res_4"}
    for restaurant in known:
        await books.ingest([processor_event(restaurant_id=restaurant)])
    register = "INSERT INTO restaurants (restaurant_id) VALUES ('res_3')"
    async with locked(books.database, register), locked(books.database, "SELECT 1") as holder:
        for place in inserted:
            await insert_without_commit(holder, events[place])
        calls = books.send(events)
        await until_all_but(calls, held)
        assert {place for place, call in enumerate(calls) if not call.done()} == held
        await holder.commit()
        await until_all_but(calls, held - inserted)
        assert {outcome_of(calls[place]) for place in inserted} == {DUPLICATE}
        assert not any(calls[place].done() for place in held - inserted)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.wait(calls)
    assert [outcome_of(call) for call in calls] == [
        DUPLICATE if place in inserted else CREATED for place in range(EVENTS)
    ]
    await books.check(len(known) + EVENTS)


async def test_repeats_of_a_locked_event_wait_with_it(
    books: Books,
) -> None:
    """Then the first one decides, as without a lock: created, duplicate, conflict."""
    event = processor_event()
    altered = processor_event(event_id=event.event_id, amount_minor=event.amount_minor + 1)
    await books.ingest([processor_event()])
    async with locked(books.database, "SELECT 1") as holder:
        await insert_without_commit(holder, altered)
        calls = books.send([event, processor_event(), event, altered])
        await until_all_but(calls, {0, 2, 3})
        assert [call.done() for call in calls] == [False, True, False, False]
        await holder.rollback()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait(calls)
    assert [outcome_of(call) for call in calls] == [CREATED, CREATED, DUPLICATE, EventIdReused]
    await books.check(3)


async def test_groups_that_wait_for_locks_do_not_take_all_places(database: Database) -> None:
    """If both groups that may be booked at once wait, the older one ends to make room."""
    async with (
        books_on(database, groups_at_once_max=2) as books,
        locked(database, "SELECT 1") as holder,
    ):
        await books.ingest([processor_event()])
        held = [processor_event() for _ in range(3)]
        for event in held:
            await insert_without_commit(holder, event)
        calls = []
        for event in held:
            calls += books.send([event])
            (other,) = books.send([processor_event()])
            async with asyncio.timeout(DEADLINE_SECONDS):
                await other
            assert outcome_of(other) is CREATED
        await until(lambda: calls[0].done() and calls[1].done(), DEADLINE_SECONDS)
        assert [outcome_of(call) for call in calls[:2]] == [DatabaseContention] * 2
        assert not calls[2].done(), "one group may wait"
        await holder.rollback()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await calls[2]
        assert outcome_of(calls[2]) is CREATED
        await books.check(1 + 3 + 1)


async def test_other_events_leave_groups_that_are_almost_all_locked(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are found, however many locked events are around them, in two groups at once."""
    monkeypatch.setattr(contended_groups, "UNDISTURBED_SECONDS", 0.05)
    monkeypatch.setattr(contended_groups, "PART_LOCK_WAIT_SECONDS", 0.05)
    async with books_on(database, groups_at_once_max=2) as books:
        await books.ingest([processor_event(restaurant_id="res_held")])
        async with locked(database, "SELECT 1") as holder:
            held = []
            # The first two other events are in the groups of the locked ones, the third needs a
            # group.
            for count in (20, 20, 0):
                held.append(await _send_locked(books, holder, count))
                (other,) = books.send([processor_event()])
                async with asyncio.timeout(DEADLINE_SECONDS):
                    await other
                assert outcome_of(other) is CREATED
            older, younger, _ = held
            assert {outcome_of(call) for call in older} == {DatabaseContention}
            assert not any(call.done() for call in younger), "one group may wait"
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait(younger)
        assert {outcome_of(call) for call in younger} == {CREATED}
        await books.check(1 + 3 + 20)


async def test_groups_full_of_locked_events_make_room_too(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Splitting a group takes long if all of it is locked, so its time is bounded."""
    monkeypatch.setattr(contended_groups, "UNDISTURBED_SECONDS", 0.05)
    # On a slow machine the older group would give up before the younger one is there.
    monkeypatch.setattr(contended_groups, "CONTENTION_SECONDS", 2 * DEADLINE_SECONDS)
    # To find that all of 100 events are locked takes 99 waits: longer than the other event waits.
    monkeypatch.setattr(contended_groups, "PART_LOCK_WAIT_SECONDS", DEADLINE_SECONDS / 90)
    async with books_on(database, groups_at_once_max=2) as books:
        await books.ingest([processor_event(restaurant_id="res_held")])
        async with locked(database, "SELECT 1") as holder:
            held = []
            for groups in (1, 2):
                held.append(await _send_locked(books, holder, 100))
                await until(partial(_are_split, database, groups), DEADLINE_SECONDS)
            (other,) = books.send([processor_event()])
            async with asyncio.timeout(DEADLINE_SECONDS):
                await other
            assert outcome_of(other) is CREATED
            older, younger = held
            assert {outcome_of(call) for call in older} == {DatabaseContention}
            assert not any(call.done() for call in younger), "one group may wait"
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait(younger)
        assert {outcome_of(call) for call in younger} == {CREATED}
        await books.check(1 + 1 + 100)


async def _send_locked(
    books: Books, holder: AsyncConnection, count: int
) -> list[asyncio.Task[list[IngestOutcome]]]:
    """Sends events that another session has stored and not committed."""
    events = [processor_event(restaurant_id="res_held") for _ in range(count)]
    for event in events:
        await insert_without_commit(holder, event)
    return books.send(events)


async def test_locked_tables_hold_up_all_events_and_lose_none(books: Books) -> None:
    """No call ends while nothing can be booked; all events are booked once they can be."""
    events = [processor_event() for _ in range(EVENTS)]
    await books.ingest([processor_event()])
    async with locked(books.database, "LOCK TABLE processor_events IN EXCLUSIVE MODE") as holder:
        calls = books.send(events)
        is_split = partial(_are_split, books.database)
        await until(is_split, DEADLINE_SECONDS)
        assert not any(call.done() for call in calls)
        await holder.rollback()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.wait(calls)
    assert {outcome_of(call) for call in calls} == {CREATED}
    await books.check(1 + EVENTS)


async def _are_split(database: Database, groups: int = 1) -> bool:
    """Whether so many groups are being booked in parts.

    The session of each waits for a lock in a transaction that has set its time limit before.
    """
    statement = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'ledger' AND wait_event_type = 'Lock'
      AND query_start - xact_start > interval '0'
    """
    return len(await query(database.migration_url, statement)) >= groups


async def test_each_caller_of_a_server_receives_its_own_outcome(
    database: Database, limit: TimeLimit
) -> None:
    """Other events are CREATED while the lock is held. The locked one is UNAVAILABLE, and CREATED
    when it is repeated.
    """
    async with running_ledger(database) as ledger:
        await ledger.ingest(event_message())
        messages = [event_message() for _ in range(EVENTS)]
        async with locked(database, "SELECT 1") as holder:
            await insert_without_commit(holder, processor_event(event_id=messages[30].event_id))
            calls = [asyncio.create_task(_code_of(_send(ledger, message))) for message in messages]
            await until(
                lambda: all(call.done() for place, call in enumerate(calls) if place != 30),
                DEADLINE_SECONDS,
            )
            limit.is_over = True
            responses = await asyncio.gather(*calls)
            assert responses == [
                grpc.StatusCode.UNAVAILABLE if place == 30 else "CREATED" for place in range(EVENTS)
            ]
        assert await _code_of(_send(ledger, messages[30])) == "CREATED"
        assert await ledger.query("SELECT count(*) FROM processor_events") == [(1 + EVENTS,)]
    await assert_books_in_order(database)


def _send(
    ledger: RunningLedger, event: ledger_pb2.ProcessorEvent
) -> Callable[[], Awaitable[ledger_pb2.IngestEventResponse]]:
    return lambda: ledger.stub.IngestEvent(
        ledger_pb2.IngestEventRequest(event=event), timeout=DEADLINE_SECONDS
    )


async def _code_of(
    call: Callable[[], Awaitable[ledger_pb2.IngestEventResponse]],
) -> grpc.StatusCode | str:
    try:
        return ledger_pb2.IngestStatus.Name((await call()).status).removeprefix("INGEST_STATUS_")
    except aio.AioRpcError as error:
        return error.code()
