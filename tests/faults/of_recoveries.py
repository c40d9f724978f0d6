"""Recovered clusters: to a past moment, by a standby, with far numbers, and with damage."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grpc import aio
from support.books import burn_numbers, restore
from support.events import event_message
from support.folders import folder_for_all
from support.running import query
from support.waiting import until

from faults.callers import Caller
from faults.catalogue import fault
from faults.clusters import Cluster, new_cluster, run_as_owner
from faults.judge import judge
from faults.load import load_on
from faults.of_standbys import commits_wait
from faults.servers import ServerProcess
from faults.stage import Stage
from ledger.bootstrap.database import Database
from ledger.domain.seals import ChainReport
from ledger.infrastructure.postgres.embedded import find_bin_dir
from ledger.infrastructure.postgres.embedded.launcher import Launcher, account_for
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.infrastructure.postgres.verification.seal_audit import EXPECTED, verify_chain
from ledger.v1 import ledger_pb2

STANDBY = "standby"
HEAD = "SELECT hash FROM ledger_seals ORDER BY sequence DESC LIMIT 1"
TWO_TO_32 = 1 << 32
# A file of pg_xact has two bits for each of so many transactions.
NUMBERS_PER_FILE = 1 << 20
PAGE_BYTES = 8192
LONGEST = """
SELECT a.restaurant_id FROM balance_accounts AS a
JOIN ledger_entries AS e USING (balance_account_id)
WHERE a.restaurant_id IS NOT NULL AND a.currency = 'PEN'
GROUP BY a.restaurant_id ORDER BY count(*) DESC LIMIT 1
"""
SNAPSHOTS_OF_STAY = """
SELECT count(*) FROM balance_snapshots
WHERE stay_id = (SELECT stay_id FROM ledger_stays ORDER BY number DESC LIMIT 1)
"""


async def own_cluster(stage: Stage, **parameters: str) -> Path:
    """Moves the stage to a new cluster. Returns a folder with room for more clusters."""
    folder = stage.exits.enter_context(folder_for_all())
    cluster = stage.exits.enter_context(
        new_cluster(folder / "first", stage.cluster.parameters | parameters)
    )
    await cluster.make_template()
    stage.cluster, stage.database = cluster, await cluster.new_database()
    return folder


def owned(path: Path, cluster: Cluster) -> Path:
    """Gives a path to the account that the cluster runs as."""
    owner = cluster.pgdata.stat()
    os.chown(path, owner.st_uid, owner.st_gid)
    return path


def copy_while_running(cluster: Cluster, data_dir: Path, *options: str) -> Path:
    """A base backup of the cluster, for another cluster. Returns its directory."""
    data_dir.mkdir()
    owned(data_dir, cluster)
    target = data_dir / cluster.pgdata.name
    source = f"host={cluster.socket.parent} port=5432 user=postgres application_name={STANDBY}"
    cluster.run(
        "pg_basebackup", f"--dbname={source}", f"--pgdata={target}", "--checkpoint=fast", *options
    )
    # Of the socket, which lies among the files.
    (target / f"{cluster.socket.name}.lock").unlink(missing_ok=True)
    return target


def promote(pgdata: Path) -> None:
    """Promotes a standby, whatever its primary does."""
    run_as_owner(
        pgdata.parent,
        account_for(pgdata),
        [find_bin_dir() / "pg_ctl", "promote", "-D", pgdata, "--wait"],
    )


async def promoted(stage: Stage) -> None:
    """Waits until the stage's cluster takes writes, which is later than reads."""

    async def writable() -> bool:
        return await stage.query("SELECT pg_is_in_recovery()") == [(False,)]

    await until(writable, 60)


def database_name(stage: Stage) -> str:
    return stage.database.url.partition("?")[0].rpartition("/")[2]


async def sealed_early(stage: Stage, server: ServerProcess) -> None:
    """Makes the chain of seals begin before the load."""
    caller = stage.caller(server)
    await caller.send_until_known(event_message(event_id="evt_early"))
    await stage.sealed_more()


async def chain_of(stage: Stage, expected_hash: bytes) -> ChainReport:
    """Verifies the chain against a head that was kept elsewhere."""
    engine = create_engine(stage.database.url, pool_size=1)
    try:
        return await verify_chain(engine, expected_hash)
    finally:
        await engine.dispose()


@fault("F28", "recovery to a moment of the past")
async def point_in_time(stage: Stage) -> None:
    """A base backup under load, and the archived log up to a moment.

    Everything acknowledged by then is there, and nothing later. Sent again, all is booked once.
    """
    folder = await own_cluster(stage, archive_mode="on", archive_command="cp %p ../archive/%f")
    first = stage.cluster
    archive = first.data_dir / "archive"
    archive.mkdir()
    owned(archive, first)
    server = await stage.server()
    await sealed_early(stage, server)
    ((head,),) = await stage.query(HEAD)
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(1_000, 100))
        copied = await asyncio.to_thread(copy_while_running, first, folder / "second")
        await load.acknowledged(stage.size(1_000, 100))
        acknowledged = set(stage.journal.acknowledged_at)
        ((moment,),) = await stage.query("SELECT pg_current_wal_flush_lsn()::text")
        asked_at = time.monotonic()
        await load.acknowledged(stage.size(500, 100))
    await stage.sealed_more()
    ((later_head,),) = await stage.query(HEAD)
    await server.kill()
    verdict = await judge(stage.database, stage.journal)
    assert verdict.violations == ()
    ((last_file,),) = await stage.query("SELECT pg_walfile_name(pg_switch_wal())")

    async def archived() -> bool:
        return await query(
            first.superuser_url,
            "SELECT last_archived_wal >= :name FROM pg_stat_archiver",
            name=last_file,
        ) == [(True,)]

    await until(archived, 60)
    first.stop()
    (copied / "recovery.signal").touch()
    parameters = first.parameters | {
        "archive_mode": "off",
        "restore_command": f"cp {archive}/%f %p",
        "recovery_target_lsn": moment,
        "recovery_target_action": "promote",
    }
    stage.cluster = stage.exits.enter_context(new_cluster(copied.parent, parameters))
    stage.database = stage.cluster.database(database_name(stage))
    await promoted(stage)
    kept = {row[0] for row in await stage.query("SELECT event_id FROM processor_events")}
    later = {event_id for event_id, sent_at in stage.journal.sent_at.items() if sent_at > asked_at}
    assert later
    assert acknowledged <= kept
    assert not later & kept
    assert (await chain_of(stage, head)).audit.errors == ()
    # A head from after that moment shows that the books went back.
    assert [finding.check for finding in (await chain_of(stage, later_head)).audit.errors] == [
        EXPECTED
    ]
    await stage.send_again(kept)
    stage.note(
        f"{len(acknowledged)} acknowledged by that moment and kept,"
        f" {len(later)} sent later and not there, sent again"
    )
    stage.note(f"longest gap while it was copied {verdict.gap_seconds:.2f} s")


@contextmanager
def running_standby(
    cluster: Cluster, pgdata: Path, *, max_connections: str, socket_dir: Path | None = None
) -> Iterator[None]:
    """Runs a copy as a standby of the cluster during the block; then stops it, promoted or not.

    It needs at least as many connections as the cluster. Its socket is among its files unless
    `socket_dir` is given.
    """
    settings = {
        **cluster.parameters,
        "max_connections": max_connections,
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": str(socket_dir or pgdata),
    }
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    with (
        (pgdata.parent / "postgres.log").open("ab") as log,
        (pgdata.parent / "standby.lock").open("w") as lock,
    ):
        launcher = Launcher(pgdata.parent, account_for(pgdata), lock.fileno())
        server = launcher.start([find_bin_dir() / "postgres", "-D", pgdata, *arguments], log)
        try:
            yield
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.send_signal(signal.SIGQUIT)
                server.wait(30)


async def synchronous_standby(stage: Stage) -> Path:
    """Moves the stage to a cluster with a synchronous standby. Returns the standby's directory."""
    folder = await own_cluster(stage)
    primary = stage.cluster
    copied = copy_while_running(primary, folder / "second", "--write-recovery-conf")
    ((max_connections,),) = await query(primary.superuser_url, "SHOW max_connections")
    stage.exits.enter_context(running_standby(primary, copied, max_connections=max_connections))
    # First a standby that does not exist: it proves that commits wait before the load begins.
    await primary.configure(synchronous_standby_names="absent")
    await commits_wait(stage)
    await primary.configure(synchronous_standby_names=STANDBY)

    async def synchronous() -> bool:
        return await query(primary.superuser_url, "SELECT sync_state FROM pg_stat_replication") == [
            ("sync",)
        ]

    await until(synchronous, 60)
    return copied


async def take_over(stage: Stage, pgdata: Path) -> None:
    """Promotes a standby that runs, and moves the stage onto it."""
    promote(pgdata)
    # Attaches to it: it runs already.
    stage.cluster = Cluster(pgdata.parent, stage.cluster.parameters)
    stage.database = stage.cluster.database(database_name(stage))
    await promoted(stage)


@fault("F29", "the primary dies and its synchronous standby takes over")
async def failover(stage: Stage) -> None:
    """The primary is killed for good; the standby is promoted, and the network leads to it.

    Everything acknowledged is there, because commits waited for the standby.
    """
    copied = await synchronous_standby(stage)
    primary = stage.cluster
    network = await stage.network()
    server = await stage.server(through=network)
    await sealed_early(stage, server)
    ((head,),) = await stage.query(HEAD)
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(3_000, 200))
        await asyncio.sleep(stage.chance.uniform(0, 1))
        socket = primary.socket.name
        primary.signal_all(signal.SIGKILL)
        began = time.monotonic()
        network.lead_to(copied / socket)
        await take_over(stage, copied)
        stage.note(f"promoted within {time.monotonic() - began:.1f} s")
        await load.acknowledged(stage.size(1_000, 100))
    await stage.sealed_more()
    assert (await chain_of(stage, head)).audit.errors == ()
    stage.gap_within(5)


async def leap(cluster: Cluster, number: int) -> None:
    """Restarts the cluster with a far next transaction number; older rows stay readable."""
    cluster.stop()
    cluster.run("pg_resetwal", f"--next-transaction-id={number}", cluster.pgdata)
    statuses = cluster.pgdata / "pg_xact" / f"{number // NUMBERS_PER_FILE:04X}"
    statuses.write_bytes(bytes(NUMBERS_PER_FILE // 4))
    owned(statuses, cluster)
    statuses.chmod(0o600)
    await cluster.restart()
    await query(cluster.superuser_url, "UPDATE pg_database SET datallowconn = true")
    host = f"--host={cluster.socket.parent}"
    await asyncio.to_thread(
        cluster.run,
        "vacuumdb",
        host,
        "--port=5432",
        "--username=postgres",
        "--all",
        "--freeze",
        "--quiet",
    )


@fault("F40", "transaction numbers that pass 32 bits")
async def far_numbers(stage: Stage) -> None:
    """Transaction numbers pass 32 bits under load: balances, snapshots and seals continue."""
    await own_cluster(stage)
    server = await stage.server()
    before = TWO_TO_32 - stage.size(1_000, 100)
    await sealed_early(stage, server)
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(1_000, 100))
        # No two numbers in use may be further apart than half of 32 bits.
        for number in (2_000_000_000, 4_000_000_000, before):
            await leap(stage.cluster, number)
            await load.acknowledged(50)
        while await _next_txid(stage) <= TWO_TO_32:
            await load.acknowledged(10)
        await load.acknowledged(stage.size(1_000, 100))
    await stage.sealed_more()
    ((early, just_before, after),) = await stage.query(
        f"""
        SELECT count(*) FILTER (WHERE recorded_txid < '1000000000'),
               count(*) FILTER (
         WHERE recorded_txid >= '{before}' AND recorded_txid < '{TWO_TO_32}'
       ),
               count(*) FILTER (WHERE recorded_txid >= '{TWO_TO_32}')
        FROM processor_events
        """
    )
    assert min(early, just_before, after) > 0
    stage.note(
        f"{early} events far before, {just_before} just before and {after} after transaction 2^32"
    )


async def _next_txid(stage: Stage) -> int:
    ((txid,),) = await stage.query("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    return int(txid)


@fault("F65", "books that are dumped into another cluster and back")
async def there_and_back(stage: Stage) -> None:
    """Business in A, B and A again; A's numbers are far ahead of B's.

    The snapshots that A made before the move must not count B's bookings as included.
    """
    folder = await own_cluster(stage)
    first, first_database = stage.cluster, stage.database
    second = stage.exits.enter_context(new_cluster(folder / "second", first.parameters))
    await second.make_template()
    second_database = await second.new_database()
    await burn_numbers(first_database.migration_url, stage.size(200_000, 20_000))
    await business(stage)
    await _move(first_database, second_database)
    stage.cluster, stage.database = second, second_database
    await business(stage)
    await _move(second_database, first_database)
    stage.cluster, stage.database = first, first_database
    await business(stage)
    ((stays,),) = await stage.query("SELECT count(*) FROM ledger_stays")
    assert stays == 3
    stage.note(f"{len(stage.journal.acknowledged_at)} events acknowledged in {stays} stays")


async def business(stage: Stage) -> None:
    """A server books under load until there are snapshots of this stay, then ends."""
    server = await stage.server(env={"LEDGER_SNAPSHOT_TAIL_ENTRIES": "10"})
    caller = stage.caller(server)

    async def has_snapshots() -> bool:
        # A read of a long tail makes the server take a snapshot.
        ((restaurant_id,),) = await stage.query(LONGEST)
        await _balance(caller, restaurant_id)
        return bool((await stage.query(SNAPSHOTS_OF_STAY))[0][0] > 0)

    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(2_000, 500))
        await until(has_snapshots, 20)
    await server.kill()


async def _move(source: Database, target: Database) -> None:
    """Dumps one database and restores it in the place of the other one's tables."""
    await query(target.migration_url, "DROP SCHEMA public CASCADE")
    await query(target.migration_url, "CREATE SCHEMA public")
    await query(target.migration_url, "GRANT USAGE ON SCHEMA public TO PUBLIC")
    await restore(source.migration_url, target.migration_url)


@fault("F35", "a damaged page")
async def damaged_page(stage: Stage) -> None:
    """A bit of a page of entries flips while the cluster is down.

    Reads of it fail and never return a wrong balance, and verify names it. With the page restored,
    everything is there.
    """
    await own_cluster(stage)
    server = await stage.server()
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(2_000, 200))
    await stage.sealed_more()
    caller = stage.caller(server)
    restaurants = list(stage.digits.event_ids)
    balances = {
        restaurant_id: await _balance(caller, restaurant_id) for restaurant_id in restaurants
    }

    async def server_serves() -> bool:
        return await server.health() == "SERVING"

    hurt = stage.chance.choice(restaurants)
    ((path, block),) = await stage.query(
        """
        SELECT pg_relation_filepath('ledger_entries'), (e.ctid::text::point)[0]::integer
        FROM ledger_entries AS e JOIN balance_accounts AS a USING (balance_account_id)
        WHERE a.restaurant_id = :restaurant_id LIMIT 1
        """,
        restaurant_id=hurt,
    )
    # Entries are written from the page's end.
    place = block * PAGE_BYTES + stage.chance.randrange(PAGE_BYTES // 2, PAGE_BYTES)
    bit = 1 << stage.chance.randrange(8)
    stage.cluster.stop()
    _turn(stage.cluster.pgdata / path, place, bit)
    await stage.cluster.restart()
    await until(server_serves, 60)
    reads = Counter[str]()
    for restaurant_id, balance_minor in balances.items():
        try:
            assert await _balance(caller, restaurant_id) == balance_minor
            reads["right"] += 1
        except aio.AioRpcError as error:
            reads[error.code().name] += 1
    assert reads.total() > reads["right"]
    stage.note(f"balances: {dict(reads)}")
    for arguments in ((), ("--chain",)):
        status, output = await _verify(stage, *arguments)
        assert status != 0
        # PostgreSQL 18 has quotation marks around the relation.
        assert f"invalid page in block {block} of relation {path}" in output.replace('"', ""), (
            output
        )
    stage.note("verify and verify --chain failed and named the block")
    stage.cluster.stop()
    with pytest.raises(RuntimeError, match=r"Bad checksums: +1\b"):
        stage.cluster.run("pg_checksums", "--check", "--pgdata", stage.cluster.pgdata)
    _turn(stage.cluster.pgdata / path, place, bit)
    await stage.cluster.restart()


async def _balance(caller: Caller, restaurant_id: str) -> int:
    request = ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency="PEN")
    return int((await caller.stub.GetBalance(request, timeout=10)).available_minor)


def _turn(path: Path, place: int, bit: int) -> None:
    """Turns one bit of a file."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ bit]))


async def _verify(stage: Stage, *arguments: str) -> tuple[int | None, str]:
    """Runs `ledger verify`. Returns its exit status and its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ledger", "verify", *arguments),
        cwd=stage.folder,
        env={**os.environ, "LEDGER_DATABASE_URL": stage.database.migration_url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()
