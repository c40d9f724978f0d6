"""Events that the database refuses for reasons that the code does not know: only these fail."""

import asyncio
from collections.abc import Sequence
from functools import partial

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status
from sqlalchemy.exc import DBAPIError
from support.audit import assert_books_in_order
from support.events import event_message, unique
from support.payout_runs import finished_run
from support.running import RunningLedger

from ledger.application.call_log import CallLog
from ledger.application.ports.call_log import RecordedCall
from ledger.errors import QueryRefused
from ledger.infrastructure.postgres.call_log import PostgresCallLog
from ledger.v1 import ledger_pb2

CREATED, DUPLICATE = ledger_pb2.INGEST_STATUS_CREATED, ledger_pb2.INGEST_STATUS_DUPLICATE
# SQLSTATEs of other classes than contention, loss or shutdown, which no table of the ledger causes.
# PostgreSQL 15 reports 0A000 for an escape in jsonb that the encoding SQL_ASCII cannot store.
SQLSTATES = ["0A000", "23502", "23505", "42501", "54000", "P0001", "XX001"]

REFUSE = """
CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF COALESCE(to_jsonb(NEW) ->> TG_ARGV[0], '') LIKE 'poison%' THEN
    RAISE EXCEPTION 'a secret of the database' USING ERRCODE = '{sqlstate}';
  END IF;
  RETURN NEW;
END
$$
"""

# To a query, this looks like a broken block of the disk.
READABLE = """
CREATE FUNCTION readable(account bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF account = (
    SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = '{restaurant_id}'
  ) THEN
    RAISE EXCEPTION 'a secret of the database' USING ERRCODE = 'XX001';
  END IF;
  RETURN true;
END
$$
"""


async def refuse(
    ledger: RunningLedger, table: str, column: str, sqlstate: str = SQLSTATES[0]
) -> None:
    """Makes the database refuse rows of `table` whose `column` begins with "poison"."""
    await ledger.query(REFUSE.format(sqlstate=sqlstate))
    await ledger.query(
        f"CREATE TRIGGER refuse BEFORE INSERT ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION refuse('{column}')"
    )


def error_id_of(status: status_pb2.Status) -> str:
    """The error id of an INTERNAL status. The status contains nothing else."""
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert status.message == "internal error"
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "INTERNAL"
    assert set(info.metadata) == {"error_id"}
    return info.metadata["error_id"]


def internal_places(results: Sequence[ledger_pb2.IngestResult]) -> list[int]:
    """The places of a batch that are INTERNAL; the others are created.

    Each has a different error id.
    """
    error_ids = {
        place: error_id_of(result.error)
        for place, result in enumerate(results)
        if result.HasField("error")
    }
    assert all(
        result.status == CREATED for place, result in enumerate(results) if place not in error_ids
    )
    assert len(set(error_ids.values())) == len(error_ids)
    return list(error_ids)


async def single_calls(
    ledger: RunningLedger, *events: ledger_pb2.ProcessorEvent
) -> list[ledger_pb2.IngestResult]:
    """The responses and errors of concurrent calls, as results of a batch."""

    async def call(event: ledger_pb2.ProcessorEvent) -> ledger_pb2.IngestResult:
        try:
            response = await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
        except aio.AioRpcError as error:
            # The error has the attributes that the function reads.
            status = rpc_status.from_call(error)  # type: ignore[arg-type]
            return ledger_pb2.IngestResult(error=status)
        return ledger_pb2.IngestResult(
            status=response.status, transaction_id=response.transaction_id
        )

    return await asyncio.gather(*map(call, events))


async def stream(
    ledger: RunningLedger, *events: ledger_pb2.ProcessorEvent
) -> list[ledger_pb2.IngestResult]:
    """The results of a stream of single events."""
    requests = iter([ledger_pb2.StreamEventsRequest(event=event) for event in events])
    return [response.result async for response in ledger.stub.StreamEvents(requests)]


async def test_only_the_event_refused_for_an_unknown_reason_fails(ledger: RunningLedger) -> None:
    """Because of its own row or that of its account: in batches, single calls and streams.

    Its id stays free.
    """
    await refuse(ledger, "processor_events", "event_id")
    await refuse(ledger, "balance_accounts", "restaurant_id")
    refused: list[ledger_pb2.ProcessorEvent] = []
    for sqlstate in SQLSTATES:
        await ledger.query(REFUSE.format(sqlstate=sqlstate))
        for send in (ledger.ingest, partial(single_calls, ledger), partial(stream, ledger)):
            events = [event_message(restaurant_id=unique("res")) for _ in range(20)]
            events[7].event_id = unique("poison")
            events[19].restaurant_id = unique("poison")
            assert internal_places(await send(*events)) == [7, 19], sqlstate
            refused += [events[7], events[19]]
    await ledger.query("DROP TRIGGER refuse ON processor_events")
    await ledger.query("DROP TRIGGER refuse ON balance_accounts")
    assert [result.status for result in await ledger.ingest(*refused)] == [CREATED] * len(refused)
    await assert_books_in_order(ledger.database)


async def test_group_is_internal_only_if_each_of_its_events_is(ledger: RunningLedger) -> None:
    """A privilege is missing: every event is INTERNAL with a different error id.

    All are booked once the privilege is granted.
    """
    events = [event_message(restaurant_id=f"res_{number % 3}") for number in range(20)]
    await ledger.query("REVOKE INSERT ON ledger_entries FROM ledger_app")
    assert internal_places(await ledger.ingest(*events)) == list(range(20))
    assert internal_places(await single_calls(ledger, *events)) == list(range(20))
    await ledger.query("GRANT INSERT ON ledger_entries TO ledger_app")
    # As the migrations grant it, which the audit compares.
    await ledger.query(
        "REVOKE INSERT (recorded_at, recorded_txid) ON ledger_entries FROM ledger_app"
    )
    assert [result.status for result in await ledger.ingest(*events)] == [CREATED] * 20


async def test_only_the_event_whose_row_vanishes_fails(ledger: RunningLedger) -> None:
    """A trigger that swallows rows makes its event INTERNAL and no other."""
    await ledger.query(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    )
    await ledger.query(
        "CREATE TRIGGER swallow BEFORE INSERT ON processor_events FOR EACH ROW"
        " WHEN (NEW.event_id LIKE 'poison%') EXECUTE FUNCTION swallow()"
    )
    events = [event_message(restaurant_id=unique("res")) for _ in range(5)]
    events[2].event_id = unique("poison")
    assert internal_places(await ledger.ingest(*events)) == [2]


async def test_only_the_refused_answer_of_the_bank_fails(ledger: RunningLedger) -> None:
    """In a batch of three answers to three payouts the one that the database refuses is INTERNAL.

    The others are booked.
    """
    restaurants = [unique("res") for _ in range(3)]
    await ledger.ingest(*(event_message(restaurant_id=restaurant) for restaurant in restaurants))
    await finished_run(ledger)
    payouts = (await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest())).payouts
    answers = [
        event_message(
            ledger_pb2.EVENT_TYPE_PAYOUT_PAID,
            restaurant_id=payout.restaurant_id,
            amount_minor=payout.amount_minor,
            payout_id=payout.payout_id,
        )
        for payout in payouts
    ]
    answers[1].event_id = unique("poison")
    await refuse(ledger, "processor_events", "event_id")
    assert internal_places(await ledger.ingest(*answers)) == [1]
    await ledger.query("DROP TRIGGER refuse ON processor_events")
    assert [result.status for result in await ledger.ingest(*answers)] == [
        DUPLICATE,
        CREATED,
        DUPLICATE,
    ]
    await assert_books_in_order(ledger.database)


async def test_only_the_balance_that_cannot_be_read_fails(ledger: RunningLedger) -> None:
    """Of many concurrent calls, the one whose entries the database cannot read is INTERNAL."""
    restaurants = [unique("res") for _ in range(20)]
    await ledger.ingest(*(event_message(restaurant_id=restaurant) for restaurant in restaurants))
    await ledger.query(READABLE.format(restaurant_id=restaurants[11]))
    await ledger.query(
        "CREATE POLICY readable ON ledger_entries FOR SELECT USING (readable(balance_account_id))"
    )
    await ledger.query("ALTER TABLE ledger_entries ENABLE ROW LEVEL SECURITY")
    outcomes = await asyncio.gather(*map(ledger.balance, restaurants), return_exceptions=True)
    failed = {
        place: outcome
        for place, outcome in enumerate(outcomes)
        if isinstance(outcome, BaseException)
    }
    assert list(failed) == [11]
    assert isinstance(failed[11], aio.AioRpcError)
    assert failed[11].code() == grpc.StatusCode.INTERNAL
    assert "secret" not in repr(failed[11])


async def test_call_that_the_database_refuses_holds_up_no_other(ledger: RunningLedger) -> None:
    """The call log drops a call that the database refuses, and reports that."""
    await refuse(ledger, "audit_log", "identity")
    got: list[tuple[str, BaseException | None]] = []
    log = CallLog(
        PostgresCallLog(ledger.engine), on_failure=lambda what, error: got.append((what, error))
    )

    def call(identity: str) -> RecordedCall:
        return RecordedCall(
            identity, "token", "/ledger.v1.LedgerService/IngestEvent", "call_1", "", {}, "OK"
        )

    table = PostgresCallLog(ledger.engine)
    with pytest.raises(QueryRefused) as refused:
        await table.insert([call("poison")])
    assert isinstance(refused.value.__cause__, Exception)
    assert not isinstance(refused.value.__cause__, DBAPIError)
    for number in range(10):
        log.record(call(f"caller_{number}" if number != 4 else "poison"))
    log.start()
    await log.close()
    rows = await ledger.query("SELECT identity FROM audit_log ORDER BY identity")
    assert rows == [(f"caller_{number}",) for number in range(10) if number != 4]
    assert [what for what, _ in got] == [
        "the call log loses a call of poison: the database refuses it"
    ]
