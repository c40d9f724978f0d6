"""Events that are repeated, altered, out of order, refused by the database, or locked out."""

import asyncio
from contextlib import suppress
from datetime import UTC, timedelta

import grpc
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.events import OCCURRED_AT, event_message

from faults.catalogue import fault
from faults.journal import Call, Reply
from faults.load import load_on
from faults.stage import Stage
from ledger.v1 import ledger_pb2

_DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
_FOREIGN_INSERT = """
INSERT INTO processor_events
  (event_id, fingerprint, transaction_id, batch_id, type, restaurant_id, currency,
   amount_minor, fee_minor, occurred_at)
VALUES
  (:event_id, sha256('x'), gen_random_uuid(), gen_random_uuid(), 'charge_succeeded',
   'foreign', 'PEN', 1, 0, now())
"""
_POISON = """
CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.reference = 'poison' THEN
    RAISE EXCEPTION 'poison' USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER refuse_poison BEFORE INSERT ON processor_events
  FOR EACH ROW EXECUTE FUNCTION refuse_poison();
"""


def _p99_ms(calls: list[Call]) -> float:
    times = sorted(call.ended_at - call.sent_at for call in calls)
    return 1000 * times[int(len(times) * 0.99)]


@fault("F14", "duplicate storm")
async def duplicate_storm(stage: Stage) -> None:
    """64 callers of two servers send the same ids at once, singly and in overlapping batches."""
    callers = [stage.caller(server) for server in await stage.servers(2)]
    normal = await asyncio.gather(
        *(
            callers[place % 2].send(event_message(event_id=f"normal_{place}"))
            for place in range(64)
        ),
    )
    storm: list[Call] = []
    for number in range(stage.size(50, 3)):
        event = event_message(
            event_id=f"storm_{number}", restaurant_id=f"storm_{number % 3}", fee_minor=7
        )
        calls = await asyncio.gather(
            *(callers[place % 2].send(event, timeout_seconds=30) for place in range(64))
        )
        assert sum(call.reply is Reply.CREATED for call in calls) == 1
        assert sum(call.reply is Reply.DUPLICATE for call in calls) == 63
        storm += calls
    for number in range(stage.size(20, 2)):
        events = [
            event_message(event_id=f"batch_{number}_{place}", restaurant_id=f"storm_{place % 5}")
            for place in range(300)
        ]
        replies = await asyncio.gather(
            callers[0].send_batch(events),
            callers[1].send_batch(events[::-1]),
            callers[0].send_batch(events[100:]),
        )
        assert sum(call.reply is Reply.CREATED for calls in replies for call in calls) == 300
    assert await stage.query(_DEADLOCKS) == [(0,)]
    stage.note(f"p99 {_p99_ms(storm):.0f} ms, without duplicates {_p99_ms(list(normal)):.0f} ms")


@fault("F15", "conflict storm")
async def conflict_storm(stage: Stage) -> None:
    """3 in 100 repeats are altered: exactly those are conflicts, and stored events stay."""
    callers = [stage.caller(server) for server in await stage.servers(stage.size(2, 1))]
    events = [
        event_message(
            event_id=f"conflict_{place}",
            restaurant_id=f"res_{place % 5}",
            amount_minor=1000 + place,
        )
        for place in range(stage.size(500, 100))
    ]
    await callers[0].send_batch(events)
    before = await stage.query("SELECT * FROM processor_events ORDER BY event_id")
    repeats = stage.size(6_400, 320)
    altered = set(stage.chance.sample(range(repeats), repeats * 3 // 100))

    async def repeat(place: int) -> None:
        event = ledger_pb2.ProcessorEvent()
        event.CopyFrom(stage.chance.choice(events))
        is_altered = place in altered
        if is_altered:
            stage.chance.choice(
                [_alter_amount, _alter_restaurant, _alter_instant, _alter_reference]
            )(event)
        call = await callers[place % len(callers)].send(event, timeout_seconds=30)
        assert call.reply is (Reply.CONFLICT if is_altered else Reply.DUPLICATE)

    for start in range(0, repeats, 64):
        await asyncio.gather(*(repeat(place) for place in range(start, start + 64)))
    assert await stage.query("SELECT * FROM processor_events ORDER BY event_id") == before
    stage.note(f"{len(altered)} altered, {len(altered)} conflicts")


def _alter_amount(event: ledger_pb2.ProcessorEvent) -> None:
    event.amount_minor += 1


def _alter_restaurant(event: ledger_pb2.ProcessorEvent) -> None:
    event.restaurant_id = "another"


def _alter_instant(event: ledger_pb2.ProcessorEvent) -> None:
    event.occurred_at.nanos += 1000


def _alter_reference(event: ledger_pb2.ProcessorEvent) -> None:
    event.reference = "altered"


@fault("F16", "one id several times in one batch")
async def repeated_in_batch(stage: Stage) -> None:
    """The first is created, its repeat a duplicate, and other contents with its id a conflict."""
    (server,) = await stage.servers(1)
    caller = stage.caller(server)
    for number in range(stage.size(20, 3)):
        event_id = f"repeated_{number}"
        first, again = event_message(event_id=event_id), event_message(event_id=event_id)
        other = event_message(event_id=event_id, amount_minor=1)
        crowd = [event_message(event_id=f"crowd_{number}_{place}") for place in range(20)]
        events = [*crowd[:7], first, *crowd[7:14], again, other, *crowd[14:], again]
        replies = [call.reply for call in await caller.send_batch(events)]
        expected = (
            [Reply.CREATED] * 15
            + [Reply.DUPLICATE, Reply.CONFLICT]
            + [Reply.CREATED] * 6
            + [Reply.DUPLICATE]
        )
        assert replies == expected, replies


@fault("F18", "events out of order")
async def out_of_order(stage: Stage) -> None:
    """A refund before its charge, the latest first, an answer to a payout that does not exist."""
    caller = stage.caller(await stage.server())
    refund = event_message(
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, event_id="refund", amount_minor=500
    )
    assert (await caller.send(refund)).reply is Reply.CREATED
    request = ledger_pb2.GetBalanceRequest(restaurant_id="res_001", currency="PEN")
    assert (await caller.stub.GetBalance(request)).available_minor == -500
    for days in range(20):
        event = event_message(
            event_id=f"day_{days}", amount_minor=100, occurred_at=OCCURRED_AT - timedelta(days=days)
        )
        assert (await caller.send(event)).reply is Reply.CREATED
    balance = await caller.stub.GetBalance(request)
    assert balance.available_minor == 20 * 100 - 500
    assert balance.last_event_at.ToDatetime(tzinfo=UTC) == OCCURRED_AT
    for kind in (ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED):
        payout_id = "01a1f8be-74aa-7783-afee-90352b67cd09"
        call = await caller.send(
            event_message(kind, event_id=f"payout_{kind}", payout_id=payout_id)
        )
        assert call.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)
        assert (
            await stage.query(
                "SELECT 1 FROM processor_events WHERE event_id = :id", id=f"payout_{kind}"
            )
            == []
        )


@fault("F21", "a poisoned event in a batch")
async def poison(stage: Stage) -> None:
    """The database refuses one event of 256: it is invalid, the others are booked."""
    caller = stage.caller(await stage.server())
    for statement in _POISON.strip().split("\n$$;\n"):
        await stage.query(statement + ("\n$$" if statement.startswith("CREATE FUNCTION") else ""))
    for number, place in enumerate(
        [0, 255, *(stage.chance.randrange(256) for _ in range(stage.size(5, 1)))]
    ):
        events = [
            event_message(event_id=f"evt_{number}_{at}", restaurant_id=f"res_{at % 9}")
            for at in range(256)
        ]
        events[place].reference = "poison"
        calls = await caller.send_batch(events)
        assert calls[place].code is grpc.StatusCode.INVALID_ARGUMENT
        assert sum(call.reply is Reply.CREATED for call in calls) == 255
    await stage.query("DROP FUNCTION refuse_poison CASCADE")


@fault("F13", "deadlock storm")
async def deadlock_storm(stage: Stage) -> None:
    """Servers never deadlock with each other; with a foreign writer in reverse order they retry."""
    servers = await stage.servers(2)
    async with load_on(stage.load(*servers)) as load:
        await load.acknowledged(stage.size(2_000, 300))
    assert await stage.query(_DEADLOCKS) == [(0,)]
    (name,) = (await stage.query("SELECT current_database()"))[0]
    await stage.query(f"ALTER DATABASE {name} SET deadlock_timeout = '50ms'")
    for server in servers:
        await server.kill()
        await server.start()
    callers = [stage.caller(server) for server in servers]
    for number in range(stage.size(30, 3)):
        ids = [f"lock_{number}_{place:02d}" for place in range(40)]
        events = [event_message(event_id=event_id) for event_id in ids]
        await asyncio.gather(
            _reversed_writer(stage, ids),
            callers[0].send_batch(events),
            callers[1].send_batch(events),
            _reversed_writer(stage, ids),
        )
        # Whatever happened to them before, the service now books them or knows them.
        calls = await callers[0].send_batch(events)
        assert {call.reply for call in calls} <= {Reply.CREATED, Reply.DUPLICATE}
    ((deadlocks,),) = await stage.query(_DEADLOCKS)
    unknown = sum(call.reply is Reply.UNKNOWN for call in stage.journal.calls)
    stage.note(f"none among servers, {deadlocks} with foreign writers, {unknown} events unknown")


async def _reversed_writer(stage: Stage, event_ids: list[str]) -> None:
    """Inserts the same ids in reverse order and rolls back, or is PostgreSQL's deadlock victim."""
    engine = create_async_engine(stage.database.migration_url, poolclass=NullPool)
    try:
        with suppress(DBAPIError):
            async with engine.connect() as connection:
                for event_id in reversed(event_ids):
                    await connection.execute(text(_FOREIGN_INSERT), {"event_id": event_id})
                await connection.rollback()
    finally:
        await engine.dispose()
