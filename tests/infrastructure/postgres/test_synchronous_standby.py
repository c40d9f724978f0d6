"""Synchronous replication: what a server acknowledges is safe on the standby.

So are repeats, and the reads that callers act on.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from grpc import aio
from support.dates import date_message, days_ago
from support.events import event_message, unique
from support.folders import folder_for_all
from support.paying import open_account, order
from support.quarantine import delivery, from_now
from support.running import RunningLedger, execute_alone, running_ledger
from support.waiting import DEADLINE_SECONDS

from ledger.bootstrap.database import DATABASE_NAME, Database
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.embedded import EmbeddedPostgres
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.schema.migrations import create_database, migrate_async
from ledger.infrastructure.postgres.sessions.engine import (
    APPLICATION_ROLE,
    autocommit,
    create_engine,
)
from ledger.infrastructure.postgres.sessions.fence import EMIT_MESSAGE
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

ACCOUNT = account_pb2.CreateAccountRequest(account_id="acc_opened", currency="PEN", name="Caja")
PAYMENT = order("pay_read", "acc_bank", "acc_paid", 100)
DELIVERY = delivery(retry_at=from_now(hours=1))

# The function by which reads wait for the standby.
FENCE = "pg_logical_emit_message"

T = TypeVar("T")


@pytest.fixture(scope="module")
def cluster(starts_postgres: None) -> Iterator[EmbeddedPostgres]:
    """A separate PostgreSQL: its configuration holds for all its databases."""
    with (
        folder_for_all() as folder,
        EmbeddedPostgres.start(folder, parameters={"fsync": "off"}) as postgres,
    ):
        yield postgres


@pytest.fixture(scope="module")
async def ledger(cluster: EmbeddedPostgres) -> AsyncIterator[RunningLedger]:
    """A server on that PostgreSQL."""
    owner_url = cluster.url(user=cluster.superuser, database=DATABASE_NAME)
    await create_database(cluster.url(user=cluster.superuser, database="postgres"), DATABASE_NAME)
    await migrate_async(owner_url)
    async with running_ledger(
        Database(cluster.url(user=APPLICATION_ROLE, database=DATABASE_NAME), owner_url)
    ) as running:
        yield running


@asynccontextmanager
async def missing_standby(ledger: RunningLedger) -> AsyncIterator[None]:
    """Makes commits wait for a standby that does not exist, until the block ends."""
    url = ledger.database.migration_url
    await execute_alone(url, "ALTER SYSTEM SET synchronous_standby_names = 'absent'")
    try:
        await ledger.query("SELECT pg_reload_conf()")
        yield
    finally:
        await execute_alone(url, "ALTER SYSTEM RESET synchronous_standby_names")
        await ledger.query("SELECT pg_reload_conf()")


async def waiting_sessions(ledger: RunningLedger, statement: str = "") -> int:
    """How many sessions wait for the standby in a query that contains `statement`."""
    ((count,),) = await ledger.query(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND strpos(query, "
        ":words) > 0",
        words=statement,
    )
    return int(count)


async def until_it_waits(
    ledger: RunningLedger, call: Callable[[], Awaitable[T]], statement: str = ""
) -> "asyncio.Task[T]":
    """Repeats a call until it waits for the standby. Returns the waiting call.

    The server's sessions take the new setting a moment late.
    """
    while True:
        task = asyncio.ensure_future(call())
        while not task.done():
            await asyncio.sleep(0.01)
            if await waiting_sessions(ledger, statement) and not task.done():
                return task
        task.result()


async def send(
    ledger: RunningLedger, event: ledger_pb2.ProcessorEvent
) -> ledger_pb2.IngestEventResponse:
    """Books an event."""
    return await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))


async def test_duplicate_is_acknowledged_only_once_its_original_is_safe(
    ledger: RunningLedger,
) -> None:
    """While the standby is missing, a repeat waits as a new event would."""
    event = event_message()
    first = await send(ledger, event)
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        repeat = await until_it_waits(ledger, lambda: send(ledger, event), "processor_events")
        assert not repeat.done()
    async with asyncio.timeout(DEADLINE_SECONDS):
        response = await repeat
        assert (response.status, response.transaction_id) == (
            ledger_pb2.INGEST_STATUS_DUPLICATE,
            first.transaction_id,
        )
        assert (await send(ledger, event)).status == ledger_pb2.INGEST_STATUS_DUPLICATE


async def test_without_a_standby_a_repeat_is_looked_up_without_writing(
    ledger: RunningLedger,
) -> None:
    """There is no standby to wait for, so no read writes to the write-ahead log."""
    event = event_message()
    await send(ledger, event)
    books = PostgresEventLedger(lambda: autocommit(ledger.engine), maturity_days=7)

    async def log_position() -> Any:
        return (await ledger.query("SELECT pg_current_wal_insert_lsn()::text"))[0][0]

    async with asyncio.timeout(DEADLINE_SECONDS):
        before = None
        # The database itself writes something now and then.
        while before != await log_position():
            before = await log_position()
            for _ in range(5):
                assert event.event_id in await books.stored([event.event_id], once_safe=True)


class Read:
    """Reads of an event, of the run that has paid it, of the payout, of a payment, of an account
    and of a payload; and calls that were made before, whose repeats only read.
    """

    def __init__(
        self,
        ledger: RunningLedger,
        event: ledger_pb2.ProcessorEvent,
        run: ledger_pb2.PayoutRun,
        payout_id: str,
        canceled_payout_id: str,
        quarantine_id: str,
    ) -> None:
        self._ledger = ledger
        self._requests: dict[str, Message] = {
            "GetEvent": ledger_pb2.GetEventRequest(event_id=event.event_id),
            "PreviewEvent": ledger_pb2.PreviewEventRequest(event=event),
            "ListPayoutEntries": ledger_pb2.ListPayoutEntriesRequest(payout_id=payout_id),
            "ListBalances": ledger_pb2.ListBalancesRequest(currency=event.currency),
            "ListMaturities": ledger_pb2.ListMaturitiesRequest(currency=event.currency),
            "ListEvents": ledger_pb2.ListEventsRequest(
                restaurant_id=event.restaurant_id, with_entries=True
            ),
            "RunPayouts": run_request(),
            "GetPayoutRun": ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id),
            "ListPayoutRunItems": ledger_pb2.ListPayoutRunItemsRequest(
                payout_run_id=run.payout_run_id
            ),
            "GetPayout": ledger_pb2.GetPayoutRequest(payout_id=payout_id),
            "SubmitPayouts": ledger_pb2.SubmitPayoutsRequest(
                submission_id="sub_read", payout_ids=[payout_id]
            ),
            "CancelPayout": ledger_pb2.CancelPayoutRequest(payout_id=canceled_payout_id),
            "ListPayouts": ledger_pb2.ListPayoutsRequest(payout_run_id=run.payout_run_id),
            "GetBalance": ledger_pb2.GetBalanceRequest(
                restaurant_id=event.restaurant_id, currency=event.currency
            ),
            "ListEntries": ledger_pb2.ListEntriesRequest(
                restaurant_id=event.restaurant_id, currency=event.currency
            ),
            "GetRestaurant": ledger_pb2.GetRestaurantRequest(restaurant_id=event.restaurant_id),
            "ListRestaurants": ledger_pb2.ListRestaurantsRequest(),
            "GetPayment": payment_pb2.GetPaymentRequest(payment_id=PAYMENT.payment_id),
            "ListPayments": payment_pb2.ListPaymentsRequest(
                payer_account_id=PAYMENT.payer_account_id
            ),
            "CreateAccount": ACCOUNT,
            "UpdateAccount": account_pb2.UpdateAccountRequest(
                account=account_pb2.Account(account_id=ACCOUNT.account_id, name=ACCOUNT.name),
                update_mask=FieldMask(paths=["name"]),
            ),
            "QuarantinePayload": DELIVERY,
            "ListQuarantined": ledger_pb2.ListQuarantinedRequest(endpoint=DELIVERY.endpoint),
            "GetQuarantined": ledger_pb2.GetQuarantinedRequest(quarantine_id=quarantine_id),
            "GetQuarantineSummary": ledger_pb2.GetQuarantineSummaryRequest(),
            "ResolveQuarantined": ledger_pb2.ResolveQuarantinedRequest(
                quarantine_id=quarantine_id,
                move_number=1,
                outcome=ledger_pb2.QUARANTINE_STATE_RELEASED,
            ),
            "GetAccount": account_pb2.GetAccountRequest(account_id=ACCOUNT.account_id),
            "ListAccounts": account_pb2.ListAccountsRequest(),
            "GetAccountBalance": account_pb2.GetAccountBalanceRequest(
                account_id=ACCOUNT.account_id
            ),
            "ListAccountEntries": account_pb2.ListAccountEntriesRequest(
                account_id=ACCOUNT.account_id
            ),
        }

    async def __call__(self, method: str) -> Message:
        stubs = (self._ledger.stub, self._ledger.accounts, self._ledger.payments)
        (call,) = (getattr(stub, method) for stub in stubs if hasattr(stub, method))
        response: Message = await call(self._requests[method])
        return response


def run_request() -> ledger_pb2.RunPayoutsRequest:
    """The request of one run, always the same."""
    day = days_ago(1)
    return ledger_pb2.RunPayoutsRequest(
        currency="PEN",
        as_of=date_message(day),
        request_id="the_run",
    )


@pytest.fixture(scope="module")
async def read(ledger: RunningLedger) -> Read:
    event = event_message(restaurant_id="res_paid")
    await send(ledger, event)
    await send(ledger, event_message(restaurant_id="res_canceled"))
    async with asyncio.timeout(DEADLINE_SECONDS):
        run = (await ledger.stub.RunPayouts(run_request())).payout_run
        while run.state != ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED:
            await asyncio.sleep(0.01)
            run = (
                await ledger.stub.GetPayoutRun(
                    ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
                )
            ).payout_run
    for account_id in (PAYMENT.payer_account_id, PAYMENT.payee_account_id):
        await open_account(ledger, account_id, None)
    await ledger.accounts.CreateAccount(ACCOUNT)
    await ledger.payments.AuthorizePayment(PAYMENT)
    read_ids = [
        (await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest(restaurant_id=restaurant_id)))
        .payouts[0]
        .payout_id
        for restaurant_id in ("res_paid", "res_canceled")
    ]
    read_ids.append((await ledger.stub.QuarantinePayload(DELIVERY)).payload.quarantine_id)
    read = Read(ledger, event, run, *read_ids)
    # The first calls write; later ones return what is stored.
    for method in ("SubmitPayouts", "CancelPayout", "ResolveQuarantined"):
        await read(method)
    return read


FENCED = [
    "GetEvent",
    "ListEvents",
    "PreviewEvent",
    "ListPayoutEntries",
    "RunPayouts",
    "GetPayoutRun",
    "ListPayoutRunItems",
    "GetPayout",
    "ListPayouts",
    "SubmitPayouts",
    "CancelPayout",
    "GetPayment",
    "ListPayments",
    "GetAccount",
    "ListAccounts",
    "ListQuarantined",
    "GetQuarantined",
]
# They change nothing, but lock what they would change.
REPEATED = ["CreateAccount", "UpdateAccount", "QuarantinePayload", "ResolveQuarantined"]
UNFENCED = [
    "GetBalance",
    "ListBalances",
    "ListMaturities",
    "ListEntries",
    "GetRestaurant",
    "ListRestaurants",
    "GetAccountBalance",
    "ListAccountEntries",
    "GetQuarantineSummary",
]


@pytest.mark.parametrize("method", [*FENCED, *REPEATED])
async def test_reads_that_callers_act_on_wait_for_the_standby(
    ledger: RunningLedger, read: Read, method: str
) -> None:
    """A read of an event, a run, a payout, an account, a payment or a payload waits, and then
    returns the same as before.
    """
    before = await read(method)
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        waiting = await until_it_waits(ledger, lambda: read(method), FENCE)
        assert not waiting.done()
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await waiting == before


async def test_repeated_payment_is_answered_only_once_its_original_is_safe(
    ledger: RunningLedger, read: Read
) -> None:
    """Its transaction takes locks, so its commit waits although it stores nothing."""
    await read("GetPayment")
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        repeat = await until_it_waits(
            ledger, lambda: ledger.payments.AuthorizePayment(PAYMENT), "COMMIT"
        )
        assert not repeat.done()
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await repeat).status == payment_pb2.PAYMENT_STATUS_DUPLICATE


async def cut_off(ledger: RunningLedger) -> set[int]:
    """Ends every wait for the standby, but no session. Returns the process ids of the sessions.

    PostgreSQL reports such a commit as a success with a warning.
    """
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    return {
        pid
        for (pid, _) in await ledger.query(
            f"SELECT pid, pg_cancel_backend(pid) FROM ({waiting}) AS waiting"
        )
    }


async def refused(ledger: RunningLedger, call: "asyncio.Task[Any]") -> grpc.StatusCode:
    """Cuts off all waits until the call ends. Returns the status of the call.

    Its wait may begin after that of the server's workers.
    """
    while not call.done():
        await cut_off(ledger)
        await asyncio.sleep(0.01)
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_booking_whose_wait_is_cut_off_is_not_acknowledged(ledger: RunningLedger) -> None:
    """The event is stored and not yet safe. The server looks it up, and that waits again."""
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        booking = await until_it_waits(
            ledger, lambda: send(ledger, event_message()), "INSERT INTO processor_events"
        )
        gone = await cut_off(ledger)
        words = (
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND strpos(query, "
            "'processor_events') > 0"
        )
        while not {pid for (pid,) in await ledger.query(words)} - gone:
            assert not booking.done(), "acknowledged while only one machine has it"
            await asyncio.sleep(0.01)
        assert not booking.done(), "acknowledged while only one machine has it"
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await booking).status == ledger_pb2.INGEST_STATUS_CREATED


@pytest.mark.parametrize("method", FENCED)
async def test_read_whose_wait_is_cut_off_is_unavailable(
    ledger: RunningLedger, read: Read, method: str
) -> None:
    """The caller may call again."""
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        waiting = await until_it_waits(ledger, lambda: read(method), FENCE)
        assert await refused(ledger, waiting) is grpc.StatusCode.UNAVAILABLE


async def test_restaurant_whose_wait_is_cut_off_is_not_acknowledged(ledger: RunningLedger) -> None:
    """It is stored and not yet safe. The caller may put it again."""
    restaurant_id = unique("res")

    async def put() -> ledger_pb2.PutRestaurantResponse:
        return await ledger.stub.PutRestaurant(
            ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id)
        )

    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        waiting = await until_it_waits(ledger, put, "COMMIT")
        assert await refused(ledger, waiting) is grpc.StatusCode.UNAVAILABLE
    async with asyncio.timeout(DEADLINE_SECONDS):
        await put()


async def test_wait_that_is_cut_off_fails_also_without_warnings(
    ledger: RunningLedger,
) -> None:
    """A database may be set to send its sessions no warnings; the commit still fails."""
    await execute_alone(
        ledger.database.migration_url,
        f"ALTER DATABASE {DATABASE_NAME} SET client_min_messages = error",
    )
    engine = create_engine(ledger.database.url, pool_size=1)

    async def write() -> None:
        async with autocommit(engine) as connection:
            await connection.execute(EMIT_MESSAGE)

    try:
        async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
            waiting = await until_it_waits(ledger, write, FENCE)
            while not waiting.done():
                await cut_off(ledger)
                await asyncio.sleep(0.01)
            with pytest.raises(DatabaseUnavailable):
                await waiting
    finally:
        await engine.dispose()
        await execute_alone(
            ledger.database.migration_url,
            f"ALTER DATABASE {DATABASE_NAME} RESET client_min_messages",
        )


async def test_waiting_reads_hold_up_no_others(ledger: RunningLedger, read: Read) -> None:
    """More reads than the pool has sessions wait for the standby, on a single session.

    Reads that need not wait are served.
    """
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        first = await until_it_waits(ledger, lambda: read("GetEvent"), FENCE)
        others = [asyncio.create_task(read(method)) for method in FENCED * 5]
        for method in UNFENCED * 5:
            await read(method)
        assert await waiting_sessions(ledger, FENCE) == 1
        assert not any(call.done() for call in [first, *others])
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.gather(first, *others)


async def test_not_found_is_returned_without_waiting(ledger: RunningLedger, read: Read) -> None:
    """While other reads wait for the standby."""
    async with missing_standby(ledger), asyncio.timeout(DEADLINE_SECONDS):
        waiting = await until_it_waits(ledger, lambda: read("GetEvent"), FENCE)
        with pytest.raises(aio.AioRpcError) as caught:
            await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id="evt_absent"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(aio.AioRpcError) as caught:
            await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest(restaurant_id="res_absent"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    async with asyncio.timeout(DEADLINE_SECONDS):
        await waiting


async def test_without_a_standby_readers_write_nothing(ledger: RunningLedger, read: Read) -> None:
    """There is no standby to wait for, so no read writes to the write-ahead log."""

    async def log_position() -> Any:
        return (await ledger.query("SELECT pg_current_wal_insert_lsn()::text"))[0][0]

    async with asyncio.timeout(DEADLINE_SECONDS):
        before = None
        # The database and the server's workers write something now and then.
        while before != await log_position():
            before = await log_position()
            for method in FENCED:
                await read(method)
