"""The call log: a row for each call that writes, with its caller and how it ended."""

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.type import date_pb2
from grpc import aio
from structlog.testing import capture_logs
from support.events import event_message, unique
from support.paying import order
from support.processes import server_process
from support.running import RunningLedger, query, running_ledger
from support.tokens import token_line
from support.waiting import DEADLINE_SECONDS

from ledger.api.access.gate import STREAM_ROW_EVENTS
from ledger.application import call_log as module
from ledger.application.call_log import CallLog
from ledger.application.ports.call_log import RecordedCall
from ledger.bootstrap.database import Database
from ledger.errors import DatabaseUnavailable, DataRejected
from ledger.infrastructure.postgres.call_log import PostgresCallLog
from ledger.v1 import account_pb2, ledger_pb2, ledger_pb2_grpc, payment_pb2

SELECT_CALLS = """
SELECT identity, credential, method, request_id, what, outcome FROM audit_log ORDER BY audit_id
"""


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(
        token_line("gateway", "ingest,read", "one")
        + token_line("operator", "payout,admin", "two")
        + token_line("bank", "ingest:bank", "bank")
        + token_line("payer", "pay", "payer")
    )
    return path


def by(token: str, request_id: str = "call_1") -> Any:
    """The metadata of a call by that caller."""
    return [("authorization", f"Bearer {token}"), ("x-request-id", request_id)]


async def calls_of(ledger: RunningLedger, count: int) -> list[tuple[Any, ...]]:
    """The rows of the log, once it has `count` of them."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            rows = await ledger.query(SELECT_CALLS)
            if len(rows) >= count:
                break
            await asyncio.sleep(0.02)
    return [(row[0], row[1], row[2].rpartition("/")[2], *row[3:]) for row in rows]


async def code_of_call(call: Any) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_calls_that_write_are_recorded(database: Database, tokens: Path) -> None:
    """With caller, subject and outcome. Reads are not recorded, nor calls without credentials."""
    events = [event_message(restaurant_id=unique("res")) for _ in range(3)]
    as_of = date_pb2.Date(year=2026, month=1, day=31)
    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        stub = ledger.stub
        await stub.IngestEvent(
            ledger_pb2.IngestEventRequest(event=events[0]), metadata=by("one", "first")
        )
        bad = event_message(amount_minor=-1)
        await stub.BatchIngestEvents(
            ledger_pb2.BatchIngestEventsRequest(events=[*events, bad]), metadata=by("one")
        )
        requests = [
            ledger_pb2.StreamEventsRequest(event=events[0]),
            ledger_pb2.StreamEventsRequest(events=events),
        ]
        [_ async for _ in stub.StreamEvents(iter(requests), metadata=by("one"))]
        await calls_of(ledger, 4)
        profile = ledger_pb2.PutRestaurantRequest(restaurant_id="res_chifa")
        await stub.PutRestaurant(profile, metadata=by("two"))
        run = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=as_of, min_amount_minor=5)
        started = await stub.RunPayouts(run, metadata=by("two"))
        # The row is written before the response, so the test need not wait.
        written = await ledger.query(SELECT_CALLS)
        await stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest(), metadata=by("one"))
        invalid = event_message(event_id="bad\x00id" + "x" * 500)
        assert (
            await code_of_call(
                stub.IngestEvent(ledger_pb2.IngestEventRequest(event=invalid), metadata=by("one"))
            )
            == grpc.StatusCode.INVALID_ARGUMENT
        )
        assert (
            await code_of_call(stub.RunPayouts(run, metadata=by("one")))
            == grpc.StatusCode.PERMISSION_DENIED
        )
        assert await code_of_call(stub.RunPayouts(run)) == grpc.StatusCode.UNAUTHENTICATED
        calls = await calls_of(ledger, 8)
        peers = await ledger.query("SELECT DISTINCT split_part(peer, ':', 1) FROM audit_log")
    stream = calls[2][4]["stream"]
    of_run = {
        "currency": "PEN",
        "as_of": "2026-01-31",
        "min_amount_minor": 5,
        "request_id": "",
        "dry_run": False,
    }
    assert calls == [
        ("gateway", "token", "IngestEvent", "first", {"event_id": events[0].event_id}, "OK"),
        ("gateway", "token", "BatchIngestEvents", "call_1", {"events": 4, "refused": 1}, "OK"),
        (
            "gateway",
            "token",
            "StreamEvents",
            "call_1",
            {"stream": stream, "events": 0, "answered": 0},
            "OPEN",
        ),
        (
            "gateway",
            "token",
            "StreamEvents",
            "call_1",
            {"stream": stream, "events": 4, "answered": 4},
            "OK",
        ),
        ("operator", "token", "PutRestaurant", "call_1", {"restaurant_id": "res_chifa"}, "OK"),
        (
            "operator",
            "token",
            "RunPayouts",
            "call_1",
            {**of_run, "payout_run_id": started.payout_run.payout_run_id},
            "OK",
        ),
        (
            "gateway",
            "token",
            "IngestEvent",
            "call_1",
            {"event_id": "bad\\x00id" + "x" * 122},
            "INVALID_ARGUMENT",
        ),
        ("gateway", "token", "RunPayouts", "call_1", {}, "PERMISSION_DENIED"),
    ]
    assert len(written) == 6
    assert peers == [("ipv4",)]


async def test_calls_about_accounts_and_payments_are_recorded(
    database: Database, tokens: Path
) -> None:
    """With who paid whom how much, and declines. A row of an account is there with the response."""
    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        for account_id in ("acc_1", "acc_2"):
            account = account_pb2.CreateAccountRequest(
                account_id=account_id, currency="PEN", metadata={"secret": "secret"}
            )
            await ledger.accounts.CreateAccount(account, metadata=by("two"))
        change = account_pb2.UpdateAccountRequest(
            account=account_pb2.Account(
                account_id="acc_1", overdraft=account_pb2.Overdraft(limit_minor=500)
            ),
            update_mask=FieldMask(paths=["overdraft"]),
        )
        await ledger.accounts.UpdateAccount(change, metadata=by("two"))
        opened = await ledger.query(SELECT_CALLS)
        for payment_id, amount_minor in (("pay_1", 500), ("pay_2", 501)):
            await ledger.payments.AuthorizePayment(
                order(payment_id, "acc_1", "acc_2", amount_minor, metadata={"secret": "secret"}),
                metadata=by("payer"),
            )
        refund = payment_pb2.RefundPaymentRequest(operation_id="op_1", payment_id="pay_1")
        await ledger.payments.RefundPayment(refund, metadata=by("payer"))
        transfer = payment_pb2.Transfer(payment_id="pay_3", payer_account_id="acc_1")
        await ledger.payments.BatchTransfers(
            payment_pb2.BatchTransfersRequest(transfers=[transfer]), metadata=by("payer")
        )
        refused = ledger.payments.AuthorizePayment(
            order("pay_4", "acc_1", "acc_2", 1), metadata=by("one")
        )
        assert await code_of_call(refused) == grpc.StatusCode.PERMISSION_DENIED
        calls = await calls_of(ledger, 8)
    assert len(opened) == 3
    created = {"currency": "PEN", "overdraft": 0, "status": "CREATED"}
    parties = {"payer_account_id": "acc_1", "payee_account_id": "acc_2", "currency": "PEN"}
    assert [
        (identity, method, what, outcome) for identity, _, method, _, what, outcome in calls
    ] == [
        ("operator", "CreateAccount", {"account_id": "acc_1", **created}, "OK"),
        ("operator", "CreateAccount", {"account_id": "acc_2", **created}, "OK"),
        (
            "operator",
            "UpdateAccount",
            {"account_id": "acc_1", "changed": "overdraft", "overdraft": 500},
            "OK",
        ),
        (
            "payer",
            "AuthorizePayment",
            {"payment_id": "pay_1", **parties, "amount_minor": 500, "status": "CAPTURED"},
            "OK",
        ),
        (
            "payer",
            "AuthorizePayment",
            {
                "payment_id": "pay_2",
                **parties,
                "amount_minor": 501,
                "status": "DECLINED",
                "decline_reason": "INSUFFICIENT_FUNDS",
            },
            "OK",
        ),
        (
            "payer",
            "RefundPayment",
            {
                "operation_id": "op_1",
                "payment_id": "pay_1",
                **parties,
                "amount_minor": 500,
                "released_minor": 0,
                "status": "APPLIED",
            },
            "OK",
        ),
        ("payer", "BatchTransfers", {"payments": 1, "declined": 0, "refused": 1}, "OK"),
        ("gateway", "AuthorizePayment", {}, "PERMISSION_DENIED"),
    ]


@pytest.mark.parametrize("recorded", [None, False, True])
async def test_setting_decides_what_is_recorded(database: Database, recorded: bool | None) -> None:
    """Without authentication nothing is recorded, unless it is set; then the address is."""
    async with running_ledger(database, audit_log=recorded) as ledger:
        await ledger.stub.PutRestaurant(ledger_pb2.PutRestaurantRequest(restaurant_id="res_1"))
        rows = await ledger.query(SELECT_CALLS)
    assert [(row[0], row[1], row[5]) for row in rows] == ([("", "none", "OK")] if recorded else [])


async def test_refusals_of_a_scope_are_summed_up(database: Database, tokens: Path) -> None:
    """A row for the first of a caller and method, and one with the number of the others.

    The same holds for events that need another scope.
    """
    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        run = ledger_pb2.RunPayoutsRequest(currency="PEN")
        for number in range(30):
            for metadata in (by("one", f"call_{number}"), by("bank", f"call_{number}")):
                with pytest.raises(aio.AioRpcError):
                    await ledger.stub.RunPayouts(run, metadata=metadata)
            with pytest.raises(aio.AioRpcError):
                request = ledger_pb2.IngestEventRequest(event=event_message())
                await ledger.stub.IngestEvent(request, metadata=by("bank"))
    rows = await query(
        database.migration_url,
        "SELECT identity, method, request_id, what, outcome FROM audit_log ORDER BY audit_id",
    )
    assert {row[4] for row in rows} == {"PERMISSION_DENIED"}
    seen = [(row[0], row[1].rpartition("/")[2], row[2], row[3].get("calls")) for row in rows]
    assert seen[:3] == [
        ("gateway", "RunPayouts", "call_0", None),
        ("bank", "RunPayouts", "call_0", None),
        ("bank", "IngestEvent", "call_1", None),
    ]
    # One row each, or more if the calls took long.
    for identity, method in (
        ("gateway", "RunPayouts"),
        ("bank", "RunPayouts"),
        ("bank", "IngestEvent"),
    ):
        counted = [count for who, what, _, count in seen[3:] if (who, what) == (identity, method)]
        assert sum(count or 1 for count in counted) == 29
        assert len(counted) < 29


async def test_stop_writes_the_rows_that_wait(database: Database, tokens: Path) -> None:
    """Every call that ended before an orderly stop is in the log."""
    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        for _ in range(50):
            await ledger.stub.IngestEvent(
                ledger_pb2.IngestEventRequest(event=event_message()), metadata=by("one")
            )
    assert await ledger.query("SELECT count(*), count(DISTINCT what) FROM audit_log") == [(50, 50)]


async def test_killed_server_leaves_rows_of_its_open_streams(
    database: Database, tokens: Path, tmp_path: Path
) -> None:
    """They name its callers, and count all but the last thousand acknowledged events."""
    async with (
        server_process(database, tmp_path / "server.log", auth_tokens_file=str(tokens)) as server,
        aio.insecure_channel(server.address) as channel,
    ):
        stream = ledger_pb2_grpc.LedgerServiceStub(channel).StreamEvents(metadata=by("one"))
        for _ in range(25):
            await stream.write(
                ledger_pb2.StreamEventsRequest(events=[event_message() for _ in range(100)])
            )
            response: Any = await stream.read()
            assert len(response.results) == 100
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(aio.AioRpcError):
            await stream.read()
    rows = await query(database.migration_url, SELECT_CALLS)
    assert rows[0][0] == "gateway"
    assert [row[5] for row in rows] == ["OPEN"] * len(rows)
    assert len({row[4]["stream"] for row in rows}) == 1
    counts = [row[4]["answered"] for row in rows]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] >= 2500 - STREAM_ROW_EVENTS


async def test_rows_that_wait_to_be_written_count_for_nothing(
    database: Database, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream's rows in between are written later, and a killed server writes none of them.

    So the row that follows a thousand acknowledgements does not rely on them.
    """
    monkeypatch.setattr("ledger.api.access.gate.STREAM_ROW_SECONDS", 0.0)
    monkeypatch.setattr("ledger.application.call_log.FLUSH_SECONDS", DEADLINE_SECONDS)
    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        stream = ledger.stub.StreamEvents(metadata=by("one"))
        for _ in range(25):
            await stream.write(
                ledger_pb2.StreamEventsRequest(events=[event_message() for _ in range(100)])
            )
            await stream.read()
        counts = [row[4]["answered"] for row in await ledger.query(SELECT_CALLS)]
        assert counts == [0, 1100, 2200]


async def test_acknowledgements_of_an_idle_stream_are_recorded(
    database: Database, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acknowledgement gets a row some time later, though nothing else comes; and only one."""
    monkeypatch.setattr("ledger.api.access.gate.STREAM_ROW_SECONDS", 0.01)
    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        stream = ledger.stub.StreamEvents(metadata=by("one"))
        for count in (1, 2):
            await stream.write(ledger_pb2.StreamEventsRequest(event=event_message()))
            await stream.read()
            rows = await calls_of(ledger, count + 1)
            assert rows[-1][4] | {"stream": ""} == {
                "stream": "",
                "events": count,
                "answered": count,
            }
            assert rows[-1][5] == "OPEN"
        await stream.done_writing()
        assert await stream.read() == aio.EOF
        assert [row[5] for row in await calls_of(ledger, 4)] == ["OPEN", "OPEN", "OPEN", "OK"]


async def test_stream_does_not_open_without_its_record(database: Database, tokens: Path) -> None:
    """Nothing is booked for a caller without a row."""
    event = event_message()
    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        await ledger.query("ALTER TABLE audit_log RENAME TO audit_log_away")
        call = ledger.stub.StreamEvents(
            iter([ledger_pb2.StreamEventsRequest(event=event)]), metadata=by("one")
        )
        with pytest.raises(aio.AioRpcError):
            [_ async for _ in call]
        assert await ledger.query("SELECT FROM processor_events") == []
        await ledger.query("ALTER TABLE audit_log_away RENAME TO audit_log")


async def test_call_of_run_payouts_fails_without_its_record(
    database: Database, tokens: Path
) -> None:
    """A repeat gets the same run."""
    run = ledger_pb2.RunPayoutsRequest(
        currency="PEN", as_of=date_pb2.Date(year=2026, month=1, day=31)
    )
    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        await ledger.query("ALTER TABLE audit_log RENAME TO audit_log_away")
        assert (
            await code_of_call(ledger.stub.RunPayouts(run, metadata=by("two")))
            != grpc.StatusCode.OK
        )
        await ledger.query("ALTER TABLE audit_log_away RENAME TO audit_log")
        await ledger.stub.RunPayouts(run, metadata=by("two"))
        rows = await calls_of(ledger, 2)
        assert [row[5] for row in rows] == ["OK", "OK"]
        assert await ledger.query("SELECT count(*) FROM payout_runs") == [(1,)]


# The queue


class FlakyTable:
    """Keeps calls in memory. Raises the errors in `failures`, one each, and refuses "poison"."""

    def __init__(self) -> None:
        self.rows: dict[Any, RecordedCall] = {}
        self.failures: list[Exception] = []
        self.groups: list[int] = []
        self.open = asyncio.Event()
        self.open.set()

    async def insert(self, calls: Sequence[RecordedCall]) -> None:
        await self.open.wait()
        if self.failures:
            raise self.failures.pop()
        if any(call.identity == "poison" for call in calls):
            raise DataRejected
        self.groups.append(len(calls))
        self.rows.update({call.audit_id: call for call in calls})


def recorded_call(identity: str = "gateway") -> RecordedCall:
    return RecordedCall(identity, "token", "/m", "r", "p", {}, "OK")


@pytest.fixture
def failures() -> list[str]:
    return []


@pytest.fixture
def table() -> FlakyTable:
    return FlakyTable()


@pytest.fixture
def log(table: FlakyTable, failures: list[str], monkeypatch: pytest.MonkeyPatch) -> CallLog:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    return CallLog(table, on_failure=lambda what, _: failures.append(what))


async def test_outage_loses_no_call(log: CallLog, table: FlakyTable, failures: list[str]) -> None:
    """Calls wait, and are written in one group when the database is back."""
    table.failures = [DatabaseUnavailable(), RuntimeError("defect")]
    log.start()
    for _ in range(10):
        log.record(recorded_call())
    await log.close()
    assert (len(table.rows), table.groups) == (10, [10])
    assert failures == [
        "the call log failed unexpectedly",
        "the call log must wait for the database",
    ]


async def test_call_that_the_database_rejects_delays_no_other(
    log: CallLog, table: FlakyTable, failures: list[str]
) -> None:
    """The call is logged and dropped."""
    log.start()
    for identity in ("a", "poison", "b", "c"):
        log.record(recorded_call(identity))
    await log.close()
    assert [call.identity for call in table.rows.values()] == ["a", "b", "c"]
    assert failures == ["the call log loses a call of poison: the database refuses it"]


async def test_lost_calls_leave_a_row(
    log: CallLog, table: FlakyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of the log says how many calls found no room. No caller waited."""
    monkeypatch.setattr(module, "WAITING_CALLS_MAX", 5)
    with capture_logs() as lines:
        for _ in range(8):
            log.record(recorded_call())
        log.start()
        await log.close()
    calls = list(table.rows.values())
    assert len(calls) == 6
    assert (calls[-1].method, calls[-1].what, calls[-1].outcome) == (
        "audit_log",
        {"calls": 3},
        "DATA_LOSS",
    )
    assert [line["event"] for line in lines] == [
        "the call log loses calls: more of them wait than it can hold"
    ]


async def test_stop_waits_for_the_log_for_a_limited_time(
    log: CallLog, table: FlakyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It logs how many calls are lost."""
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    table.open.clear()
    log.start()
    log.record(recorded_call())
    with capture_logs() as lines:
        await log.close()
    assert [(line["event"], line["calls"]) for line in lines] == [
        ("the call log loses calls: the server stops", 1)
    ]


async def test_writing_again_adds_no_second_row(database: Database) -> None:
    """A retry after a lost response of the database is therefore safe."""
    async with running_ledger(database) as ledger:
        table = PostgresCallLog(ledger.engine)
        calls = [recorded_call() for _ in range(3)]
        await table.insert(calls[:2])
        await table.insert(calls)
        assert len(await ledger.query(SELECT_CALLS)) == 3
