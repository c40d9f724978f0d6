"""The metrics of calls."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from support.events import event_message, unique
from support.paying import order
from support.running import RunningLedger, running_ledger
from support.tokens import token_line
from support.waiting import until

from ledger.api.methods import METHODS
from ledger.bootstrap.database import Database
from ledger.metrics import Metrics
from ledger.v1 import account_pb2, ledger_pb2

SERVICE = "/ledger.v1.LedgerService"
HEALTH = "/grpc.health.v1.Health"


class CountedCalls:
    """Implements `CallMetrics`: keeps what was reported."""

    def __init__(self) -> None:
        self.under_way = 0
        self.ended_calls: list[tuple[str, grpc.StatusCode]] = []
        self.seconds: list[float] = []
        self.refused: Counter[tuple[str, str]] = Counter()

    def started(self, method: str) -> None:
        self.under_way += 1

    def ended(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        self.under_way -= 1
        self.ended_calls.append((method, code))
        self.seconds.append(seconds)

    def refused_under_load(self, method: str, reason: str) -> None:
        self.refused[method, reason] += 1

    def forget(self) -> None:
        self.ended_calls.clear()
        self.seconds.clear()


@pytest.fixture(scope="module")
async def counted(shared_database: Database) -> AsyncIterator[tuple[RunningLedger, CountedCalls]]:
    """A server, and the metrics that it reports of its calls."""
    calls = CountedCalls()
    async with running_ledger(shared_database, metrics=Metrics(calls=calls)) as ledger:
        yield ledger, calls


async def test_each_call_is_counted_with_its_status(
    counted: tuple[RunningLedger, CountedCalls],
) -> None:
    """Responses, refusals, streams that end in one, malformed bytes, aborts of a library.

    A method that is in no contract adds no series.
    """
    ledger, calls = counted
    calls.forget()
    await ledger.ingest(event_message())
    with pytest.raises(aio.AioRpcError):
        await ledger.balance(unique("unknown"))
    with pytest.raises(aio.AioRpcError):
        async for _ in ledger.stub.StreamEvents(iter([ledger_pb2.StreamEventsRequest()])):
            pass
    for method in (f"{SERVICE}/GetPayout", f"{SERVICE}/NoSuchMethod"):
        call: Any = ledger.channel.unary_unary(method)
        with pytest.raises(aio.AioRpcError):
            await call(b"\xff")
    check: Any = ledger.channel.unary_unary(f"{HEALTH}/Check")
    with pytest.raises(aio.AioRpcError):
        await check(health_pb2.HealthCheckRequest(service="unknown").SerializeToString())
    # An abort by a library is counted once its status has been sent.
    await until(lambda: len(calls.ended_calls) == 5, 30)
    assert calls.ended_calls == [
        (f"{SERVICE}/BatchIngestEvents", grpc.StatusCode.OK),
        (f"{SERVICE}/GetBalance", grpc.StatusCode.NOT_FOUND),
        (f"{SERVICE}/StreamEvents", grpc.StatusCode.INVALID_ARGUMENT),
        (f"{SERVICE}/GetPayout", grpc.StatusCode.INVALID_ARGUMENT),
        (f"{HEALTH}/Check", grpc.StatusCode.NOT_FOUND),
    ]
    assert calls.under_way == 0
    assert 0 < min(calls.seconds) <= max(calls.seconds) < 60


async def test_cancelled_call_is_counted(
    counted: tuple[RunningLedger, CountedCalls],
) -> None:
    """It counts as open until its client cancels it, and as CANCELLED then."""
    ledger, calls = counted
    calls.forget()
    begin: Any = ledger.channel.unary_stream(f"{HEALTH}/Watch")
    watch = begin(b"")
    await watch.read()
    assert (calls.under_way, calls.ended_calls) == (1, [])
    watch.cancel()
    # Only the server knows when it has noticed the end.
    await until(lambda: calls.ended_calls != [], 30)
    assert (calls.under_way, calls.ended_calls) == (
        0,
        [(f"{HEALTH}/Watch", grpc.StatusCode.CANCELLED)],
    )


async def until_refused(
    calls: CountedCalls, method: str, ask: Callable[[], Awaitable[Any]]
) -> None:
    """Makes 20 calls at once until one is refused. Asserts that the metrics count the refusals."""
    refused = 0
    async with asyncio.timeout(30):
        while not refused:
            outcomes = await asyncio.gather(*(ask() for _ in range(20)), return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, aio.AioRpcError):
                    assert outcome.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    refused += 1
                else:
                    assert not isinstance(outcome, BaseException)
    path = METHODS[method].path
    assert calls.refused == {(path, "QUEUE_FULL"): refused}
    assert calls.ended_calls.count((path, grpc.StatusCode.RESOURCE_EXHAUSTED)) == refused


@pytest.mark.parametrize(
    "method",
    ["IngestEvent", "GetBalance", "ListRestaurants", "GetAccountBalance", "AuthorizePayment"],
)
async def test_calls_refused_under_load_are_counted(
    shared_database: Database, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """For each limit: the ingest queue, waiting balances, open calls, waiting payments."""
    monkeypatch.setattr("ledger.application.grouped_balances.QUERIES_WAITING_MAX", 1)
    monkeypatch.setattr("ledger.application.payments.pay.COMMANDS_MAX", 1)
    calls = CountedCalls()
    async with running_ledger(
        shared_database, metrics=Metrics(calls=calls), ingest_queue_events=1, open_calls=1
    ) as ledger:
        restaurant_id = unique("res")
        await ledger.ingest(event_message(restaurant_id=restaurant_id))
        account_id = unique("acc")
        await ledger.accounts.CreateAccount(
            account_pb2.CreateAccountRequest(account_id=account_id, currency="PEN")
        )
        asks: dict[str, Callable[[], Awaitable[Any]]] = {
            "IngestEvent": lambda: ledger.stub.IngestEvent(
                ledger_pb2.IngestEventRequest(event=event_message())
            ),
            "GetBalance": lambda: ledger.balance(restaurant_id),
            "ListRestaurants": lambda: ledger.stub.ListRestaurants(
                ledger_pb2.ListRestaurantsRequest()
            ),
            "GetAccountBalance": lambda: ledger.accounts.GetAccountBalance(
                account_pb2.GetAccountBalanceRequest(account_id=account_id)
            ),
            # Declined, unless it is refused: the account has no money.
            "AuthorizePayment": lambda: ledger.payments.AuthorizePayment(
                order(unique("pay"), account_id, "", 1, payee_restaurant_id=restaurant_id)
            ),
        }
        await until_refused(calls, method, asks[method])


async def test_streams_refused_under_load_are_counted(shared_database: Database) -> None:
    """The second stream is refused while the first is open."""
    calls = CountedCalls()
    async with running_ledger(
        shared_database, metrics=Metrics(calls=calls), open_streams=1
    ) as ledger:
        first: Any = ledger.stub.StreamEvents()
        await first.write(ledger_pb2.StreamEventsRequest(event=event_message()))
        await first.read()
        second: Any = ledger.stub.StreamEvents()
        with pytest.raises(aio.AioRpcError, match="as much work waits"):
            await second.read()
        await first.done_writing()
        assert calls.refused == {(f"{SERVICE}/StreamEvents", "QUEUE_FULL"): 1}


async def test_callers_that_call_too_often_are_counted(
    shared_database: Database, tmp_path: Path
) -> None:
    """They are counted by the reason in their status."""
    (tmp_path / "tokens").write_text(token_line("reader", "read", "ledger_reader"))
    settings: dict[str, Any] = {
        "auth_tokens_file": tmp_path / "tokens",
        "rate_limit_calls_per_second": 0.001,
        "rate_limit_burst_calls": 1,
    }
    calls = CountedCalls()
    async with running_ledger(shared_database, metrics=Metrics(calls=calls), **settings) as ledger:
        codes = []
        for _ in range(3):
            call = ledger.stub.ListRestaurants(
                ledger_pb2.ListRestaurantsRequest(),
                metadata=(("authorization", "Bearer ledger_reader"),),
            )
            codes.append(await call.code())
    assert codes == [
        grpc.StatusCode.OK,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ]
    assert calls.refused == {(f"{SERVICE}/ListRestaurants", "RATE_LIMITED"): 2}
