"""Calls under way while clients give up, sessions are lost, or the server stops."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import aio
from support.events import event_message, request_of, unique
from support.health import until_serving
from support.locks import blocked_since, locked_events, locked_tables, until_blocked
from support.payout_runs import finished_run, payout_of
from support.quarantine import delivery, from_now
from support.running import RunningLedger, running_ledger
from support.statuses import reason_of, response_or_error
from support.waiting import DEADLINE_SECONDS, until

from ledger.api import server as api_server
from ledger.api.metrics import NoCallMetrics
from ledger.api.server import LAST_CALLS_QUIET_STEPS, LAST_CALLS_SECONDS
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions import engine
from ledger.metrics import Metrics
from ledger.v1 import account_pb2, ledger_pb2, ledger_pb2_grpc, payment_pb2

# The codes of refusals by an overloaded server or database; clients may retry all of them.
RETRYABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


async def is_stored(ledger: RunningLedger, event_id: str) -> bool:
    """Whether the event is in the books."""
    return bool(
        await ledger.query(
            "SELECT 1 FROM processor_events WHERE event_id = :event_id", event_id=event_id
        )
    )


@pytest.fixture
async def ledger(
    database: Database, _patience: None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RunningLedger]:
    """A server for one test alone.

    It seals nothing: a sealer reads events, and would wait for their lock as well. So would the
    worker that releases expired payments, for theirs: it looks once.
    """
    monkeypatch.setattr("ledger.application.payments.expire_payments.EVERY_SECONDS", 3600.0)
    async with running_ledger(database, seal_interval_seconds=0) as running:
        yield running


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for locks and connections last as long as the test needs, on any machine.

    Groups that wait for a lock are booked in parts.
    """
    monkeypatch.setattr("ledger.application.ingest.contended_groups.CONTENTION_SECONDS", 3600.0)
    monkeypatch.setattr(
        "ledger.bootstrap.database.create_engine",
        partial(engine.create_engine, lock_timeout_seconds=120),
    )
    for name in ("POOL_WAIT_SECONDS", "STATEMENT_TIMEOUT_SECONDS", "COMMAND_TIMEOUT_SECONDS"):
        monkeypatch.setattr(engine, name, 120)


class StartedCalls(NoCallMetrics):
    """Counts the calls that the server has started."""

    calls = 0

    def started(self, method: str) -> None:
        self.calls += 1


@pytest.mark.usefixtures("_patience")
async def test_calls_under_way_at_the_stop_are_answered(database: Database) -> None:
    """A stop waits for open calls and refuses new ones with UNAVAILABLE."""
    started = StartedCalls()
    async with running_ledger(
        database, metrics=Metrics(calls=started), seal_interval_seconds=0
    ) as ledger:
        restaurant_id = unique("res")
        await ledger.ingest(event_message(restaurant_id=restaurant_id))
        async with locked_events(ledger) as release:
            calls = [
                asyncio.ensure_future(_ingest(ledger, event_message(restaurant_id=restaurant_id)))
                for _ in range(5)
            ]

            async def all_taken_up() -> bool:
                return started.calls == 1 + len(calls)

            await until(all_taken_up, what="the calls are under way")
            stopping = asyncio.create_task(ledger.server.stop(2 * DEADLINE_SECONDS))
            async with aio.insecure_channel(ledger.address) as channel:
                late = ledger_pb2_grpc.LedgerServiceStub(channel)

                async def refused() -> bool:
                    request = ledger_pb2.GetRestaurantRequest(restaurant_id=restaurant_id)
                    outcome = await response_or_error(
                        late.GetRestaurant(request, timeout=DEADLINE_SECONDS)
                    )
                    return (
                        isinstance(outcome, aio.AioRpcError)
                        and outcome.code() == grpc.StatusCode.UNAVAILABLE
                    )

                await until(refused, what="a new call is refused")
            assert not stopping.done()
            assert not any(call.done() for call in calls)
            await release()
            responses = await asyncio.gather(*calls)
            await stopping
        assert {response.status for response in responses} == {ledger_pb2.INGEST_STATUS_CREATED}
        assert await ledger.query("SELECT count(*) FROM processor_events") == [(6,)]


async def _ingest(
    ledger: RunningLedger, event: ledger_pb2.ProcessorEvent
) -> ledger_pb2.IngestEventResponse:
    return await ledger.stub.IngestEvent(request_of(event))


@pytest.mark.usefixtures("_patience")
async def test_call_that_outlasts_the_grace_is_cut_off_and_its_event_booked(
    database: Database,
) -> None:
    """A stop ends after its grace although a call is blocked.

    The event of that call is booked all the same, once.
    """
    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        event = event_message(restaurant_id=unique("res"))
        await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
        async with locked_events(ledger) as release:
            call = asyncio.create_task(_ingest(ledger, event))
            await until_blocked(ledger)
            async with asyncio.timeout(DEADLINE_SECONDS):
                await ledger.server.stop(0.1)
            with pytest.raises((aio.AioRpcError, asyncio.CancelledError)) as caught:
                await call
            if isinstance(caught.value, aio.AioRpcError):
                assert caught.value.code() in {
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.CANCELLED,
                }
            await release()
        await until(lambda: is_stored(ledger, event.event_id), what="the event is booked")


# Calls that are given up


@pytest.mark.parametrize("batch", [False, True], ids=["one", "batch"])
async def test_cancelled_call_does_not_cancel_its_booking(
    ledger: RunningLedger, batch: bool
) -> None:
    """An event whose client goes away while it waits is booked; a repeat returns DUPLICATE."""
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
    async with locked_events(ledger) as release:
        call: Any
        if batch:
            call = ledger.stub.BatchIngestEvents(
                ledger_pb2.BatchIngestEventsRequest(events=[event])
            )
        else:
            call = ledger.stub.IngestEvent(request_of(event))
        waiting = asyncio.ensure_future(_answer(call))
        await until_blocked(ledger)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await release()
    await until(lambda: is_stored(ledger, event.event_id), what="the event is booked")
    repeated = await ledger.stub.IngestEvent(request_of(event))
    assert repeated.status == ledger_pb2.INGEST_STATUS_DUPLICATE
    assert (await ledger.balance(event.restaurant_id)).available_minor == 2 * event.amount_minor


async def _answer(call: Any) -> Any:
    return await call


async def test_deadline_that_passes_does_not_cancel_the_booking(ledger: RunningLedger) -> None:
    """An event whose deadline passes while it waits is booked; a repeat returns DUPLICATE."""
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
    async with locked_events(ledger) as release:

        async def given_up_while_it_waits() -> bool:
            # On a slow machine the deadline may pass before the call has come that far.
            with pytest.raises(aio.AioRpcError) as caught:
                await ledger.stub.IngestEvent(request_of(event), timeout=0.5)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            return bool(await blocked_since(ledger))

        await until(
            given_up_while_it_waits,
            what="the event waits for the lock when the call's time is over",
        )
        await release()
    await until(lambda: is_stored(ledger, event.event_id), what="the event is booked")
    repeated = await ledger.stub.IngestEvent(request_of(event))
    assert repeated.status == ledger_pb2.INGEST_STATUS_DUPLICATE


async def test_booking_that_waits_for_a_lock_is_tried_again(ledger: RunningLedger) -> None:
    """The database gives up waiting after a while; the call does not.

    It returns CREATED, not DUPLICATE.
    """
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
    async with locked_events(ledger) as release:
        call = asyncio.create_task(_ingest(ledger, event))
        await until_blocked(ledger)
        first = max(await blocked_since(ledger), default=datetime.now(UTC))

        async def tried_again() -> bool:
            return any(since > first for since in await blocked_since(ledger))

        await until(tried_again, what="another attempt after the lock timeout")
        await release()
        response = await call
    assert response.status == ledger_pb2.INGEST_STATUS_CREATED
    assert (await ledger.balance(event.restaurant_id)).available_minor == 2 * event.amount_minor


# More calls than a pool has connections. Twice as many fit into every bound: cancelled calls may
# still count when the next ones arrive.
CANCELLED_CALLS = 15
OF_RESTAURANTS = ("PutRestaurant", "UpdateRestaurant", "GetRestaurant", "ListRestaurants")
OF_ACCOUNTS = (
    *("CreateAccount", "UpdateAccount", "GetAccount", "ListAccounts"),
    *("GetAccountBalance", "ListAccountEntries"),
)
OF_PAYMENTS = ("GetPayment", "ListPayments")
OF_PAYOUTS = ("GetPayout", "ListPayouts", "ListPayoutEntries", "SubmitPayouts", "CancelPayout")
OF_QUARANTINE = (
    *("QuarantinePayload", "ListQuarantined", "GetQuarantined", "GetQuarantineSummary"),
    *("RetryQuarantined", "ResolveQuarantined", "DiscardQuarantined"),
)
# The tables whose lock each method waits for.
TABLES = {
    **dict.fromkeys(
        ("GetEvent", "ListEvents", "PreviewEvent", "GetBalance", "ListEntries", *OF_RESTAURANTS),
        "processor_events, restaurants",
    ),
    **dict.fromkeys(OF_ACCOUNTS, "accounts, balance_accounts"),
    **dict.fromkeys(OF_PAYMENTS, "payments"),
    **dict.fromkeys(("ListBalances", "ListMaturities"), "balance_accounts"),
    **dict.fromkeys(OF_PAYOUTS, "payouts"),
    **dict.fromkeys(OF_QUARANTINE, "quarantined_payloads"),
}
# How many sessions wait for the lock while CANCELLED_CALLS wait, if not 10.
SESSIONS = {
    **dict.fromkeys(("GetBalance", "GetAccountBalance"), 1),
    **dict.fromkeys(("ListEntries", "ListAccountEntries", "ListBalances", "ListMaturities"), 4),
    **dict.fromkeys(OF_PAYOUTS, 5),
}
ACCOUNT = account_pb2.CreateAccountRequest(
    account_id="acc_1", currency="PEN", overdraft=account_pb2.Overdraft(unlimited=True)
)
PAYMENT = payment_pb2.AuthorizePaymentRequest(
    payment_id="pay_1",
    payer_account_id="acc_1",
    payee_restaurant_id="res_1",
    amount_minor=1,
    currency="PEN",
    capture=payment_pb2.CAPTURE_MODE_MANUAL,
)

DELIVERY = delivery(retry_at=from_now(hours=1))


def requests_about(
    event: ledger_pb2.ProcessorEvent, payout_id: str, quarantine_id: str
) -> dict[str, Any]:
    """A request of each method that reads the tables of the event and of its restaurant, of the
    payout, of ACCOUNT, of PAYMENT and of DELIVERY.
    """
    return {
        "GetEvent": ledger_pb2.GetEventRequest(event_id=event.event_id),
        "ListEvents": ledger_pb2.ListEventsRequest(restaurant_id=event.restaurant_id),
        "PreviewEvent": ledger_pb2.PreviewEventRequest(event=event),
        "GetBalance": ledger_pb2.GetBalanceRequest(
            restaurant_id=event.restaurant_id, currency="PEN"
        ),
        "ListEntries": ledger_pb2.ListEntriesRequest(
            restaurant_id=event.restaurant_id, currency="PEN"
        ),
        "PutRestaurant": ledger_pb2.PutRestaurantRequest(restaurant_id=event.restaurant_id),
        "UpdateRestaurant": ledger_pb2.UpdateRestaurantRequest(
            restaurant=ledger_pb2.Restaurant(restaurant_id=event.restaurant_id),
            update_mask=FieldMask(paths=["active"]),
        ),
        "GetRestaurant": ledger_pb2.GetRestaurantRequest(restaurant_id=event.restaurant_id),
        "ListRestaurants": ledger_pb2.ListRestaurantsRequest(),
        "CreateAccount": ACCOUNT,
        "UpdateAccount": account_pb2.UpdateAccountRequest(
            account=account_pb2.Account(account_id=ACCOUNT.account_id, name="n"),
            update_mask=FieldMask(paths=["name"]),
        ),
        "GetAccount": account_pb2.GetAccountRequest(account_id=ACCOUNT.account_id),
        "ListAccounts": account_pb2.ListAccountsRequest(),
        "GetAccountBalance": account_pb2.GetAccountBalanceRequest(account_id=ACCOUNT.account_id),
        "ListAccountEntries": account_pb2.ListAccountEntriesRequest(account_id=ACCOUNT.account_id),
        "GetPayment": payment_pb2.GetPaymentRequest(payment_id=PAYMENT.payment_id),
        "ListPayments": payment_pb2.ListPaymentsRequest(payer_account_id=ACCOUNT.account_id),
        "ListBalances": ledger_pb2.ListBalancesRequest(currency="PEN"),
        "ListMaturities": ledger_pb2.ListMaturitiesRequest(currency="PEN"),
        "GetPayout": ledger_pb2.GetPayoutRequest(payout_id=payout_id),
        "ListPayouts": ledger_pb2.ListPayoutsRequest(restaurant_id=event.restaurant_id),
        "ListPayoutEntries": ledger_pb2.ListPayoutEntriesRequest(payout_id=payout_id),
        "SubmitPayouts": ledger_pb2.SubmitPayoutsRequest(
            submission_id="sub_1", payout_ids=[payout_id]
        ),
        "CancelPayout": ledger_pb2.CancelPayoutRequest(payout_id=payout_id),
        "QuarantinePayload": DELIVERY,
        "ListQuarantined": ledger_pb2.ListQuarantinedRequest(),
        "GetQuarantined": ledger_pb2.GetQuarantinedRequest(quarantine_id=quarantine_id),
        "GetQuarantineSummary": ledger_pb2.GetQuarantineSummaryRequest(),
        "RetryQuarantined": ledger_pb2.RetryQuarantinedRequest(quarantine_ids=[quarantine_id]),
        "ResolveQuarantined": ledger_pb2.ResolveQuarantinedRequest(
            quarantine_id=quarantine_id,
            move_number=1,
            outcome=ledger_pb2.QUARANTINE_STATE_RELEASED,
        ),
        "DiscardQuarantined": ledger_pb2.DiscardQuarantinedRequest(
            quarantine_id=quarantine_id, reason="a test"
        ),
    }


async def request_set_up(
    ledger: RunningLedger, event: ledger_pb2.ProcessorEvent, method: str
) -> Any:
    """Stores what the requests are about, and returns that of the method."""
    await ledger.ingest(event)
    await ledger.accounts.CreateAccount(ACCOUNT)
    await ledger.payments.AuthorizePayment(PAYMENT)
    payout_id = ""
    if method in OF_PAYOUTS:
        await finished_run(ledger)
        payout_id = (await payout_of(ledger, event.restaurant_id)).payout_id
    parked = (await ledger.stub.QuarantinePayload(DELIVERY)).payload
    return requests_about(event, payout_id, parked.quarantine_id)[method]


def method_of(ledger: RunningLedger, name: str) -> Any:
    """A method of any service."""
    stubs = (ledger.stub, ledger.accounts, ledger.payments)
    (stub,) = [stub for stub in stubs if hasattr(stub, name)]
    return getattr(stub, name)


@pytest.mark.parametrize("method", TABLES)
async def test_cancelled_calls_leave_the_server_well(ledger: RunningLedger, method: str) -> None:
    """More calls than the pool has connections are cancelled, each at any moment.

    No connection is lost, and no error is logged.
    """
    event = event_message(restaurant_id=unique("res"))
    request = await request_set_up(ledger, event, method)
    call_method = method_of(ledger, method)
    with structlog.testing.capture_logs() as lines:
        async with locked_tables(ledger, TABLES[method]) as release:
            calls = [call_method(request) for _ in range(CANCELLED_CALLS)]
            waiting = [asyncio.ensure_future(_answer(call)) for call in calls]
            # Balances share SQL statements. Every other call has a connection, as far as its pool
            # has any.
            await until_blocked(ledger, sessions=SESSIONS.get(method, 10))
            for call in calls:
                call.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await release()
        calls = [call_method(request, timeout=DEADLINE_SECONDS) for _ in range(CANCELLED_CALLS)]
        responses = await asyncio.gather(*map(_answer, calls))
    assert len(responses) == CANCELLED_CALLS
    assert [line for line in lines if line["log_level"] in {"warning", "error"}] == []

    async def idle() -> bool:
        rows = await ledger.query(
            "SELECT 1 FROM pg_stat_activity "
            "WHERE datname = current_database() AND state LIKE 'idle in %'"
        )
        return not rows

    await until(idle, what="no session is left inside a transaction")
    assert (
        await ledger.stub.IngestEvent(request_of(event))
    ).status == ledger_pb2.INGEST_STATUS_DUPLICATE


async def test_thousands_of_calls_at_once_are_answered(ledger: RunningLedger) -> None:
    """3,000 calls at once on one channel: each succeeds or gets a retryable status.

    No event is lost, and every response is true.
    """
    restaurant_ids = [unique("res") for _ in range(10)]
    await ledger.ingest(
        *(event_message(restaurant_id=restaurant_id) for restaurant_id in restaurant_ids)
    )
    events = [
        event_message(restaurant_id=restaurant_ids[number % 10], amount_minor=100)
        for number in range(1500)
    ]
    calls = []
    for number, event in enumerate(events):
        calls.append(response_or_error(ledger.stub.IngestEvent(request_of(event))))
        balance = ledger_pb2.GetBalanceRequest(
            restaurant_id=restaurant_ids[number % 10], currency="PEN"
        )
        calls.append(response_or_error(ledger.stub.GetBalance(balance)))
    outcomes = await asyncio.gather(*calls)
    refused = [outcome for outcome in outcomes if isinstance(outcome, aio.AioRpcError)]
    assert {error.code() for error in refused} <= RETRYABLE
    assert {reason_of(error) for error in refused} <= {"DATABASE_UNAVAILABLE", "QUEUE_FULL"}
    booked = [
        event
        for event, outcome in zip(events, outcomes[::2], strict=True)
        if not isinstance(outcome, aio.AioRpcError)
    ]
    assert booked, "some calls get through"
    for event, outcome in zip(events, outcomes[::2], strict=True):
        if isinstance(outcome, aio.AioRpcError):
            repeated = await ledger.stub.IngestEvent(request_of(event))
            assert repeated.transaction_id
        else:
            assert outcome.status == ledger_pb2.INGEST_STATUS_CREATED
    balances = [await ledger.balance(restaurant_id) for restaurant_id in restaurant_ids]
    assert sum(balance.available_minor for balance in balances) == 10 * 10_000 + 1500 * 100
    await until_serving(ledger)
    assert balances[0].as_of.ToDatetime(UTC) <= datetime.now(UTC)


KILL_BLOCKED = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.mark.parametrize("method", TABLES)
async def test_connection_lost_under_a_call_is_unavailable(
    ledger: RunningLedger, method: str
) -> None:
    """The database ends the session that a call waits in: UNAVAILABLE, which clients retry.

    The next call gets a new session.
    """
    event = event_message(restaurant_id=unique("res"))
    request = await request_set_up(ledger, event, method)
    call_method = method_of(ledger, method)
    async with locked_tables(ledger, TABLES[method]):
        waiting = asyncio.ensure_future(_answer(call_method(request)))
        await until_blocked(ledger)
        await ledger.query(KILL_BLOCKED)
        with pytest.raises(aio.AioRpcError) as caught:
            await waiting
    assert (caught.value.code(), reason_of(caught.value)) == (
        grpc.StatusCode.UNAVAILABLE,
        "DATABASE_UNAVAILABLE",
    )
    await call_method(request, timeout=DEADLINE_SECONDS)


async def test_booking_survives_a_lost_connection(ledger: RunningLedger) -> None:
    """The database ends the session that books an event: another session books it, once.

    The call returns CREATED.
    """
    event = event_message(restaurant_id=unique("res"))
    await ledger.ingest(event_message(restaurant_id=event.restaurant_id))
    async with locked_events(ledger) as release:
        call = asyncio.create_task(_ingest(ledger, event))
        await until_blocked(ledger)
        await ledger.query(KILL_BLOCKED)
        await release()
        response = await call
    assert response.status == ledger_pb2.INGEST_STATUS_CREATED
    assert (await ledger.balance(event.restaurant_id)).available_minor == 2 * event.amount_minor


async def test_calls_during_a_stop_succeed_or_are_retryable(database: Database) -> None:
    """A call that arrives while the server stops succeeds or gets UNAVAILABLE.

    It never gets CANCELLED, which no client retries.
    """
    codes: Counter[grpc.StatusCode] = Counter()
    answered = asyncio.Event()

    async def keep_calling(ledger: RunningLedger) -> None:
        while True:
            try:
                await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
            except aio.AioRpcError as error:
                codes[error.code()] += 1
                return
            codes[grpc.StatusCode.OK] += 1
            if codes[grpc.StatusCode.OK] >= 100:
                answered.set()

    async with running_ledger(database) as ledger:
        callers = [asyncio.create_task(keep_calling(ledger)) for _ in range(32)]
        await asyncio.wait_for(answered.wait(), DEADLINE_SECONDS)
        await ledger.server.stop(10)
        await asyncio.wait_for(asyncio.gather(*callers), DEADLINE_SECONDS)
        assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert await ledger.query("SELECT count(*) FROM processor_events") == [
            (codes[grpc.StatusCode.OK],)
        ]


async def test_calls_during_a_halted_stop_are_retryable(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopping server gets no processor for longer than it waits for last calls.

    Calls that arrive in that time get a response all the same.
    """
    connected, halted, sent = threading.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def codes(address: str) -> Counter[grpc.StatusCode]:
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(DEADLINE_SECONDS)
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            connected.set()
            halted.wait(DEADLINE_SECONDS)
            calls = [
                stub.IngestEvent.future(request_of(), timeout=DEADLINE_SECONDS) for _ in range(32)
            ]
            sent.set()
            return Counter(call.code() for call in calls)

    def halt() -> None:
        halted.set()
        sent.wait(DEADLINE_SECONDS)
        time.sleep(1.2 * LAST_CALLS_SECONDS)

    async with running_ledger(database) as ledger:
        calling = asyncio.create_task(asyncio.to_thread(codes, ledger.address))
        await asyncio.to_thread(connected.wait, DEADLINE_SECONDS)
        refuse_further_calls = ledger.server._frame.stop

        def stop() -> None:
            refuse_further_calls()
            loop.call_soon(halt)

        monkeypatch.setattr(ledger.server._frame, "stop", stop)
        await ledger.server.stop(10)
        assert await calling == {grpc.StatusCode.UNAVAILABLE: 32}


class LastCalls:
    """A frame that refuses a call in each of the first `steps` steps of a stop."""

    def __init__(self, steps: int) -> None:
        self.looks = 0
        self._steps = steps

    @property
    def last_calls(self) -> int:
        """Looked at before and after each step."""
        self.looks += 1
        return min(self.looks // 2, self._steps)


@pytest.mark.parametrize(
    ("steps_with_calls", "steps"),
    [(0, 5), (4, 4 + LAST_CALLS_QUIET_STEPS), (1000, 20)],
    ids=["none", "some", "never-ending"],
)
async def test_stop_waits_while_last_calls_come(
    monkeypatch: pytest.MonkeyPatch, steps_with_calls: int, steps: int
) -> None:
    """At least LAST_CALLS_SECONDS, until some steps are quiet, at most LAST_CALLS_SECONDS_MAX."""
    monkeypatch.setattr(api_server, "LAST_CALLS_STEP_SECONDS", 0.01)
    monkeypatch.setattr(api_server, "LAST_CALLS_SECONDS", 0.05)
    monkeypatch.setattr(api_server, "LAST_CALLS_SECONDS_MAX", 0.2)
    frame = LastCalls(steps_with_calls)
    server: Any = SimpleNamespace(_frame=frame)
    await api_server.Server._refuse_last_calls(server, 10)
    assert frame.looks == 2 * steps
