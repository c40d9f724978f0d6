"""The synchronous client: what its threads, signals and forks do, and that it is complete.

Its calls are those of the asynchronous one, from which it is generated: see test_async_ledger.py.
"""

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.events import event_message, unique
from support.running import RunningLedger, running_ledger
from support.scripted import scripted_server

from ledger.bootstrap.database import Database
from ledger.client import (
    AsyncLedger,
    ClosedError,
    Conflict,
    Ledger,
    Money,
    NotFound,
    Overloaded,
    TooSlow,
    batches,
)
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

ROOT = Path(__file__).parents[2]
THREADS = 64


def book_and_read(address: str, restaurant_id: str) -> tuple[Money, list[int]]:
    """What a caller does: books, repeats, contradicts, and reads."""
    with Ledger(address) as ledger:
        event = event_message(restaurant_id=restaurant_id, amount_minor=700)
        first, again = ledger.ingest(event), ledger.ingest(event)
        assert first.transaction_id == again.transaction_id
        event.amount_minor = 701
        with pytest.raises(Conflict):
            ledger.ingest(event)
        with pytest.raises(NotFound):
            ledger.service.GetEvent(ledger_pb2.GetEventRequest(event_id="none"), timeout=10)
        response, call = ledger.service.GetBalance.with_call(
            ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency="PEN")
        )
        assert (response.available_minor, call.code()) == (700, grpc.StatusCode.OK)
        outcomes = list(
            ledger.stream_events(
                event_message(restaurant_id=restaurant_id, amount_minor=number)
                for number in range(1, 6)
            )
        )
        assert all(outcome.is_booked for outcome in outcomes)
        entries = ledger.list_entries(restaurant_id, "PEN", page_size=2)
        return ledger.get_balance(restaurant_id, "PEN").available, [
            entry.amount_minor for entry in entries
        ]


async def test_calls_of_each_kind(shared_ledger: RunningLedger) -> None:
    available, amounts = await asyncio.to_thread(
        book_and_read, shared_ledger.address, unique("res")
    )
    assert (available, amounts) == (Money("7.15", "PEN"), [700, 1, 2, 3, 4, 5])


def futures_of(address: str, event_id: str) -> None:
    with Ledger(address) as ledger:
        known, unknown = (
            ledger.service.GetEvent.future(ledger_pb2.GetEventRequest(event_id=name))
            for name in (event_id, "none")
        )
        done = threading.Event()
        known.add_done_callback(lambda _: done.set())
        assert known.result().event.event_id == event_id
        assert known.exception() is None
        assert done.wait(60)
        assert isinstance(unknown.exception(), NotFound)
        with pytest.raises(NotFound):
            unknown.result()


async def test_futures_raise_the_same_errors(shared_ledger: RunningLedger) -> None:
    event = event_message()
    await shared_ledger.ingest(event)
    await asyncio.to_thread(futures_of, shared_ledger.address, event.event_id)


async def test_one_client_serves_many_threads(shared_ledger: RunningLedger) -> None:
    """64 threads book, and open the connection, at once: each event once."""
    restaurant_id = unique("res")
    events = [event_message(restaurant_id=restaurant_id, amount_minor=1) for _ in range(THREADS)]

    def run() -> Money:
        ready = threading.Barrier(THREADS)

        def book(event: ledger_pb2.ProcessorEvent) -> int:
            ready.wait(60)
            return ledger.ingest(event).status

        with Ledger(shared_ledger.address) as ledger, ThreadPoolExecutor(THREADS) as threads:
            assert set(threads.map(book, events)) == {ledger_pb2.INGEST_STATUS_CREATED}
            assert set(threads.map(book, events)) == {ledger_pb2.INGEST_STATUS_DUPLICATE}
            return ledger.get_balance(restaurant_id, "PEN").available

    assert await asyncio.to_thread(run) == Money.of_minor(THREADS, "PEN")


async def test_server_that_restarts_is_found_again(database: Database) -> None:
    """Calls, streams and the wait for a run go on when it is back, on the same client."""
    restaurant_id = unique("res")
    halfway, is_back = threading.Event(), threading.Event()
    total = 40

    def events() -> Any:
        for number in range(total):
            if number == total // 2:
                halfway.set()
                assert is_back.wait(60)
            yield event_message(restaurant_id=restaurant_id, amount_minor=1)

    def stream() -> list[bool]:
        with Ledger(address) as ledger:
            booked = [outcome.is_booked for outcome in ledger.stream_events(events(), batch_size=5)]
            assert ledger.get_balance(restaurant_id, "PEN").available.minor == total
            return booked

    async with running_ledger(database) as server:
        address = server.address
        streaming = asyncio.create_task(asyncio.to_thread(stream))
        await asyncio.to_thread(halfway.wait, 60)
    async with running_ledger(database, address=address):
        is_back.set()
        assert await streaming == [True] * total


def test_busy_batch_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same one, beyond what gRPC repeats by itself; the number of attempts is bounded."""
    monkeypatch.setattr(batches, "PAUSE_SECONDS", 0.001)
    calls = 0

    def answer(
        request: ledger_pb2.BatchIngestEventsRequest, context: grpc.ServicerContext
    ) -> ledger_pb2.BatchIngestEventsResponse:
        nonlocal calls
        calls += 1
        if calls <= refusals:
            # Tells gRPC not to repeat the call.
            context.set_trailing_metadata((("grpc-retry-pushback-ms", "-1"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
        result = ledger_pb2.IngestResult(status=ledger_pb2.INGEST_STATUS_CREATED)
        return ledger_pb2.BatchIngestEventsResponse(results=[result] * len(request.events))

    with scripted_server(unary={"BatchIngestEvents": answer}) as address, Ledger(address) as ledger:
        refusals = 3
        assert len(ledger.ingest_events([event_message()])) == 1
        assert calls == 4
        calls, refusals = 0, 1000
        with pytest.raises(Overloaded):
            ledger.ingest_events([event_message()])
        assert calls == batches.ATTEMPTS_MAX


def test_wait_for_a_run_ends() -> None:
    """The run goes on; the error may be answered by another wait."""

    def answer(request: Any, _: grpc.ServicerContext) -> ledger_pb2.GetPayoutRunResponse:
        run = ledger_pb2.PayoutRun(state=ledger_pb2.PAYOUT_RUN_STATE_RUNNING)
        return ledger_pb2.GetPayoutRunResponse(payout_run=run)

    seen: list[ledger_pb2.PayoutRun] = []
    with (
        scripted_server(unary={"GetPayoutRun": answer}) as address,
        Ledger(address) as ledger,
        pytest.raises(TooSlow, match=r"run_1 has not ended within 0\.1 s"),
    ):
        ledger.wait_for_run("run_1", 0.1, on_progress=seen.append)
    assert seen


FORK = """
import os, sys
from ledger.client import ClosedError, Ledger
used, unused = Ledger(sys.argv[1]), Ledger(sys.argv[1])
try:
    used.get_account("none", timeout=0.2)
except Exception:
    pass
child = os.fork()
if child == 0:
    try:
        used.get_account("none", timeout=0.2)
    except ClosedError as error:
        os._exit(0 if "forked" in str(error) else 3)
    os._exit(4)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_process_is_told_to_make_a_client() -> None:
    """A call there would hang in gRPC."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, "127.0.0.1:1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"GRPC_VERBOSITY": "NONE"},
    )
    assert done.returncode == 0, done.stderr


def test_closed_client_says_so() -> None:
    ledger = Ledger("127.0.0.1:1")
    ledger.close()
    with pytest.raises(ClosedError, match="closed"):
        ledger.get_account("acc_1")


def test_every_method_of_the_contract_has_one_of_the_client() -> None:
    """Under its name in Python, and the same in both clients; a stream has a name of its own."""
    methods = {
        "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method.name)[1:]
        for module in (ledger_pb2, account_pb2, payment_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    renamed = {"batch_ingest_events": "ingest_events"}
    missing = {renamed.get(name, name) for name in methods} - set(dir(Ledger))
    assert not missing
    public = [name for name in dir(Ledger) if not name.startswith("_")]
    assert public == [name for name in dir(AsyncLedger) if not name.startswith("_")]
    for name in public:
        if inspect.isfunction(getattr(Ledger, name)):
            sync, asynchronous = (
                list(inspect.signature(getattr(kind, name)).parameters)
                for kind in (Ledger, AsyncLedger)
            )
            assert sync == asynchronous


def test_synchronous_client_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate_client.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
