"""The clock of the database, set back, ahead and slewed while events and payouts are booked."""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from support.audit import audit_of
from support.events import event_message
from support.waiting import until

from faults.callers import Caller
from faults.catalogue import fault
from faults.clusters import Cluster
from faults.journal import Reply
from faults.load import load_on
from faults.of_processes import find_faketime
from faults.of_recoveries import own_cluster, owned
from faults.paying import CURRENCY, charge_restaurants, finished, start_run
from faults.servers import ServerProcess
from faults.stage import Stage
from ledger.infrastructure.postgres.embedded import find_bin_dir
from ledger.infrastructure.postgres.embedded.launcher import Launcher, account_for
from ledger.v1 import ledger_pb2

DEADLINE_SECONDS = 30.0
CLOCKS = "SELECT clock_timestamp(), ledger_now()"
IN_FLIGHT = """
SELECT p.payout_id::text, a.restaurant_id, p.amount_minor
FROM payouts AS p JOIN balance_accounts AS a USING (balance_account_id)
WHERE p.state = 'CREATED'
"""
OUTCOMES = """
SELECT COALESCE(skip_reason, outcome), count(*) FROM payout_run_items
WHERE payout_run_id = :run GROUP BY 1
"""


@contextmanager
def running_by_clock(cluster: Cluster, library: Path, step: Path) -> Iterator[None]:
    """Runs a stopped cluster by the clock that the file `step` sets, until the block ends."""
    settings = {
        **cluster.parameters,
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": str(cluster.pgdata),
    }
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    faked = (
        f"LD_PRELOAD={library}",
        f"FAKETIME_TIMESTAMP_FILE={step}",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "FAKETIME_NO_CACHE=1",
    )
    data_dir = cluster.data_dir
    with (data_dir / "postgres.log").open("ab") as log, (data_dir / "clock.lock").open("w") as lock:
        launcher = Launcher(data_dir, account_for(cluster.pgdata), lock.fileno())
        command: list[str | Path] = ["/usr/bin/env", *faked, find_bin_dir() / "postgres", "-D"]
        command += [cluster.pgdata, *arguments]
        server = launcher.start(command, log)
        try:
            yield
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait(30)


class DatabaseClock:
    """The clock of the stage's cluster, which runs ahead of or behind the true time."""

    def __init__(self, stage: Stage, step: Path) -> None:
        self._stage = stage
        self._step = step

    async def set(self, seconds: float) -> None:
        """Sets the clock `seconds` ahead. Returns when a new session sees it."""
        # Replaced whole: a reader must not find it empty.
        written = self._step.with_suffix(".new")
        written.write_text(f"{seconds:+g}")
        written.chmod(0o644)
        written.replace(self._step)

        async def is_seen() -> bool:
            ((database_at, _),) = await self._stage.query(CLOCKS)
            return bool(abs((database_at - datetime.now(UTC)).total_seconds() - seconds) < 1)

        await until(is_seen, DEADLINE_SECONDS)


async def cluster_by_clock(stage: Stage) -> DatabaseClock:
    """Moves the stage to a cluster with a clock to set. Raises Skipped without libfaketime."""
    found = find_faketime()
    folder = await own_cluster(stage)
    library = folder / found.name
    # Where the account of PostgreSQL can read it.
    shutil.copy(found, library)
    library.chmod(0o755)
    step = folder / "clock"
    step.write_text("+0")
    owned(step, stage.cluster).chmod(0o644)
    name = stage.database.url.partition("?")[0].rpartition("/")[2]
    first = stage.cluster
    first.stop()
    stage.exits.enter_context(running_by_clock(first, library, step))

    async def accepting() -> bool:
        pid_file = first.pgdata / "postmaster.pid"
        return pid_file.is_file() and pid_file.read_text().splitlines()[-1].strip() == "ready"

    await until(accepting, DEADLINE_SECONDS)
    # Attaches to it: it runs already.
    stage.cluster = Cluster(first.data_dir, first.parameters)
    stage.database = stage.cluster.database(name)
    return DatabaseClock(stage, step)


async def _books_at(stage: Stage) -> datetime:
    ((_, ledger_at),) = await stage.query(CLOCKS)
    assert isinstance(ledger_at, datetime)
    return ledger_at


async def _book_true_now(caller: Caller, name: str) -> None:
    """Books an event that occurred now by the true time, whatever the clock of the server."""
    event = event_message(
        event_id=f"now_{name}", occurred_at=datetime.now(UTC).replace(microsecond=0)
    )
    assert (await caller.send_until_known(event)).reply is Reply.CREATED


async def _pay(stage: Stage, caller: Caller, request_id: str) -> str:
    """Runs payouts as of the date that the books have."""
    days_ago = (datetime.now(UTC).date() - (await _books_at(stage)).date()).days
    run_id = await start_run(caller, days_ago=days_ago, request_id=request_id)
    await finished(caller, run_id)
    return run_id


async def _past(
    caller: Caller, restaurants: int, at: datetime
) -> list[ledger_pb2.GetBalanceResponse]:
    """The balances of the restaurants at a past instant."""

    async def ask(number: int) -> ledger_pb2.GetBalanceResponse:
        request = ledger_pb2.GetBalanceRequest(
            restaurant_id=f"paid_{number:05d}", currency=CURRENCY
        )
        request.as_of.FromDatetime(at)
        return await caller.stub.GetBalance(request, timeout=30)

    return [await ask(number) for number in range(restaurants)]


async def _is_logged(server: ServerProcess, line: str) -> bool:
    return line in server.log.read_text()


async def _charge(caller: Caller, restaurants: int, round_: int) -> None:
    """Gives each restaurant one more charge.

    A SQL statement that runs while the clock jumps ahead may time out. Its outcome is then unknown,
    and the same events are sent again.
    """
    events = [
        event_message(
            event_id=f"paid_{round_}_{number:05d}",
            restaurant_id=f"paid_{number:05d}",
            currency=CURRENCY,
            amount_minor=1_000 + number,
            fee_minor=number % 7,
        )
        for number in range(restaurants)
    ]
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await _are_booked(caller, events):  # noqa: ASYNC110  # it asks each time
            await asyncio.sleep(0.1)


async def _are_booked(caller: Caller, events: list[ledger_pb2.ProcessorEvent]) -> bool:
    calls = await caller.send_batch(events)
    return {call.reply for call in calls} <= {Reply.CREATED, Reply.DUPLICATE}


async def _fail_payouts(stage: Stage, caller: Caller) -> int:
    """Books a failure of every payout in flight. Returns how many there were."""
    in_flight = await stage.query(IN_FLIGHT)
    for payout_id, restaurant_id, amount_minor in in_flight:
        failed = event_message(
            ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
            event_id=f"failed_{payout_id}",
            restaurant_id=restaurant_id,
            currency=CURRENCY,
            amount_minor=amount_minor,
            payout_id=payout_id,
        )
        assert (await caller.send_until_known(failed)).reply is Reply.CREATED
    return len(in_flight)


async def _changed_clock(stage: Stage, steps: tuple[float, ...], line: str) -> None:
    """Books and pays around each step of the clock.

    Past balances stay the same, and failed payouts are paid again.
    """
    restaurants = stage.size(200, 20)
    clock = await cluster_by_clock(stage)
    server = await stage.server(env={"LEDGER_LOG_LEVEL": "warning"})
    caller = stage.caller(server)
    await charge_restaurants(caller, restaurants)
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(1_000, 100))
        await _pay(stage, caller, "before")
        for place, seconds in enumerate(steps):
            # Afterwards no transaction is open that could still record at this instant.
            final_at = await _books_at(stage)
            await load.acknowledged(20)
            final = await _past(caller, restaurants, final_at)
            await clock.set(seconds)
            if line and place == 0:
                await until(partial(_is_logged, server, line), DEADLINE_SECONDS)
            await _book_true_now(caller, f"{place}")
            await _charge(caller, restaurants, place + 1)
            assert await _fail_payouts(stage, caller) == restaurants
            run_id = await _pay(stage, caller, f"after_{place}")
            assert await stage.query(OUTCOMES, run=run_id) == [("PAYOUT_CREATED", restaurants)]
            await load.acknowledged(stage.size(1_000, 100))
            assert await _past(caller, restaurants, final_at) == final
    await stage.sealed_more()
    report = await audit_of(stage.database)
    assert report.errors == ()
    ((behind,),) = await stage.query("SELECT ledger_now() - clock_timestamp()")
    codes = {code: count for code, count in stage.journal.codes.items() if code != "OK"}
    stage.note(
        f"{line or 'no jump'};"
        f" the books are {max(0.0, behind.total_seconds()):.1f} s past the clock;"
        f" not OK: {codes or 'none'}"
    )


@fault("F66", "the database's clock is set back 2 hours")
async def set_back(stage: Stage) -> None:
    """The time of the books stands still until the clock has caught up; new events are booked."""
    await _changed_clock(stage, (-7200,), "the database's clock jumped back")


@fault("F67", "the database's clock is set 2 hours ahead, and right again")
async def set_ahead(stage: Stage) -> None:
    """A jump ahead is logged at once, because later records stay ahead."""
    await _changed_clock(stage, (7200, 0), "the database's clock jumped ahead")


@fault("F68", "the database's clock is slewed back 3 seconds")
async def slewed_back(stage: Stage) -> None:
    """Under load, in tenths of a second, and then at once to the true time."""
    await _changed_clock(
        stage, (*(-tenths / 10 for tenths in stage.chance.sample(range(5, 30), 2)), -3.0, 0), ""
    )


@fault("F69", "the database's clock has been behind for hours")
async def behind_from_the_start(stage: Stage) -> None:
    """Only the host's clock is right: new events are booked, by a new server too."""
    clock = await cluster_by_clock(stage)
    await clock.set(-7200)
    server = await stage.server()
    caller = stage.caller(server)
    await _book_true_now(caller, "first")
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(500, 100))
        await server.kill()
        await server.start()
        await _book_true_now(stage.caller(server), "second")
        await clock.set(0)
        await asyncio.gather(*(_book_true_now(caller, f"third_{place}") for place in range(10)))
        await load.acknowledged(stage.size(500, 100))
