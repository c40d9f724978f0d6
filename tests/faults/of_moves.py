"""Books that move: to a promoted standby and back, row by row, and to a newer PostgreSQL."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.exc import DBAPIError
from support.books import burn_numbers
from support.events import event_message
from support.running import execute_alone, query
from support.waiting import until

from faults.catalogue import fault
from faults.clusters import Cluster, new_cluster, run_as_owner
from faults.journal import DigitAccounts, Journal, Reply
from faults.load import load_on
from faults.of_recoveries import (
    business,
    copy_while_running,
    database_name,
    own_cluster,
    owned,
    running_standby,
    take_over,
)
from faults.paying import CURRENCY, charge_restaurants, finished, paid_once, start_run
from faults.stage import Skipped, Stage
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.embedded import find_bin_dir
from ledger.infrastructure.postgres.embedded.binaries import version_of
from ledger.infrastructure.postgres.embedded.launcher import account_for
from ledger.infrastructure.postgres.schema.migrations import migrate_async

CAUGHT_UP_SECONDS = 60.0
OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations" / "backup.md"
# Rows that came from elsewhere to a place that has the same stay.
COPIED_SNAPSHOTS = """
SELECT count(*) FROM balance_snapshots
WHERE stay_id = (SELECT stay_id FROM current_stay) AND xmin <> written_txid::xid
"""
STAYS = "SELECT count(DISTINCT number) FROM ledger_stays"


async def _standby(stage: Stage, pgdata: Path) -> Path:
    """Runs a copy of the stage's cluster as its standby. Returns the directory of its socket.

    The socket is not among the files, as pg_rewind copies those.
    """
    ((max_connections,),) = await stage.query("SHOW max_connections")
    socket_dir = pgdata.parent / "sockets"
    socket_dir.mkdir()
    owned(socket_dir, stage.cluster)
    stage.exits.enter_context(
        running_standby(
            stage.cluster, pgdata, max_connections=max_connections, socket_dir=socket_dir
        )
    )
    return socket_dir


async def _replayed(stage: Stage, socket_dir: Path) -> None:
    """Waits until the standby that listens there has all that the stage's cluster has."""
    url = f"postgresql+asyncpg://postgres@/postgres?host={socket_dir}&port=5432"
    ((reached,),) = await stage.query("SELECT pg_current_wal_flush_lsn()::text")

    async def has_it() -> bool:
        if not (socket_dir / ".s.PGSQL.5432").exists():
            return False
        statement = "SELECT COALESCE(pg_last_wal_replay_lsn() >= CAST(:lsn AS text)::pg_lsn, false)"
        try:
            return await query(url, statement, lsn=reached) == [(True,)]
        except (OSError, DBAPIError):
            # It has only just started.
            return False

    await until(has_it, CAUGHT_UP_SECONDS)


@fault("F71", "a standby is promoted, and the primary that it left behind comes back by pg_rewind")
async def promoted_and_back(stage: Stage) -> None:
    """Both book as primaries; the old one is rewound, follows, and takes over again.

    What it booked alone is gone, with its snapshots, and the stay continues.
    """
    folder = await own_cluster(stage, full_page_writes="on", wal_keep_size="512MB")
    first = stage.cluster
    copied = copy_while_running(first, folder / "second", "--write-recovery-conf")
    sockets = await _standby(stage, copied)
    await business(stage)
    await _replayed(stage, sockets)
    left_behind = stage.cluster, stage.database
    await take_over(stage, copied)
    await business(stage)
    promoted, kept = (stage.cluster, stage.database), (stage.journal, stage.digits)
    # What is booked there is lost.
    (stage.cluster, stage.database), (stage.journal, stage.digits) = (
        left_behind,
        (Journal(), DigitAccounts()),
    )
    await business(stage)
    (stage.cluster, stage.database), (stage.journal, stage.digits) = promoted, kept
    pgdata = first.pgdata
    first.stop()
    source = f"host={sockets} port=5432 user=postgres dbname=postgres"
    first.run(
        "pg_rewind",
        f"--target-pgdata={pgdata}",
        f"--source-server={source}",
        "--write-recovery-conf",
    )
    await _replayed(stage, await _standby(stage, pgdata))
    await take_over(stage, pgdata)
    await business(stage)
    assert await stage.query(STAYS) == [(1,)]
    ((timeline,),) = await stage.query("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")
    assert timeline == "00000003"
    stage.note("back on the first cluster, on its third timeline, in one stay")


@fault("F72", "a promoted standby that follows its primary row by row")
async def copied_as_rows(stage: Stage) -> None:
    """The two share the system identifier, and the table's OID and file.

    Later snapshots of the primary reach the other as rows, with horizons beyond its numbers.
    """
    folder = await own_cluster(stage, wal_level="logical")
    first, first_database = stage.cluster, stage.database
    copied = copy_while_running(first, folder / "second", "--write-recovery-conf")
    sockets = await _standby(stage, copied)
    await business(stage)
    await execute_alone(first_database.migration_url, "CREATE PUBLICATION moving FOR ALL TABLES")
    await stage.query("SELECT pg_create_logical_replication_slot('moving', 'pgoutput')")
    await _replayed(stage, sockets)
    await take_over(stage, copied)
    second, second_database = stage.cluster, stage.database
    await _subscribe(
        first,
        database_name(stage),
        second_database,
        "WITH (create_slot = false, slot_name = 'moving', copy_data = false)",
    )
    with pytest.raises(RuntimeError, match="the subscription moving brings rows into the books"):
        await stage.server()
    stage.cluster, stage.database = first, first_database
    await burn_numbers(first_database.migration_url, stage.size(100_000, 20_000))
    await business(stage)
    await _all_sent(stage)
    stage.cluster, stage.database = second, second_database
    await execute_alone(second_database.migration_url, "DROP SUBSCRIPTION moving")
    mended = await _migrated(second_database)
    ((copies,),) = await stage.query(COPIED_SNAPSHOTS)
    assert copies > 0
    # It makes no snapshot that would be later than those.
    server = await stage.server(env={"LEDGER_SNAPSHOT_TAIL_ENTRIES": "1000000"})
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(2_000, 200))
        await burn_numbers(second_database.migration_url, stage.size(200_000, 40_000))
        # Its numbers are past the horizons now.
        await load.acknowledged(stage.size(2_000, 200))
    assert await stage.query(STAYS) == [(1,)]
    stage.note(
        f"{copies} snapshots came as rows and did not count;"
        f" mended: {'; '.join(mended) or 'nothing'}"
    )


@fault("F73", "a logical subscription to a new cluster, under load")
async def by_subscription(stage: Stage) -> None:
    """By the SQL of docs/operations/backup.md; from an older PostgreSQL where there is one."""
    older = _older_bin_dir()
    with _binaries(older):
        folder = await own_cluster(stage, wal_level="logical")
    first, first_database = stage.cluster, stage.database
    second = stage.exits.enter_context(new_cluster(folder / "second", first.parameters))
    await second.make_template()
    second_database = await second.new_database()
    restaurants = stage.size(2_000, 200)
    server = await stage.server(env={"LEDGER_SNAPSHOT_TAIL_ENTRIES": "10"})
    await charge_restaurants(stage.caller(server), restaurants)
    await finished(stage.caller(server), await start_run(stage.caller(server)))
    publication = _documented("CREATE PUBLICATION")
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(2_000, 200))
        await execute_alone(first_database.migration_url, publication)
        await _subscribe(first, database_name(stage), second_database)

        async def copied() -> bool:
            states = await query(
                second_database.migration_url,
                "SELECT DISTINCT srsubstate::text FROM pg_subscription_rel",
            )
            return states == [("r",)]

        await until(copied, CAUGHT_UP_SECONDS)
        await load.acknowledged(stage.size(2_000, 200))
    stage.database = second_database
    with pytest.raises(RuntimeError, match="the subscription moving brings rows into the books"):
        await stage.server()
    stage.database = first_database
    # The last step: there are no more writers.
    await server.kill()
    await _all_sent(stage)
    await execute_alone(second_database.migration_url, "DROP SUBSCRIPTION moving")
    mended = await _migrated(second_database)
    assert any(
        sentence.startswith("moved the sequence of balance_accounts") for sentence in mended
    ), mended
    stage.cluster, stage.database = second, second_database
    await paid_once(stage, restaurants)
    await business(stage)
    assert await stage.query(STAYS) == [(2,)]
    await _paid_anew(stage, restaurants)
    versions = [
        await query(cluster.superuser_url, "SHOW server_version") for cluster in (first, second)
    ]
    stage.note(f"from {versions[0][0][0]} to {versions[1][0][0]}; mended: {'; '.join(mended)}")


async def _paid_anew(stage: Stage, restaurants: int) -> None:
    """A run pays no restaurant twice, and pays the new ones."""
    caller = stage.caller(await stage.server())
    calls = await caller.send_batch(
        [
            event_message(
                event_id=f"moved_{number}",
                restaurant_id=f"moved_{number}",
                currency=CURRENCY,
                amount_minor=700,
            )
            for number in range(restaurants // 10)
        ]
    )
    assert {call.reply for call in calls} == {Reply.CREATED}
    run = await finished(caller, await start_run(caller, request_id=str(uuid4())))
    assert run.payouts_created == restaurants // 10
    await paid_once(stage, restaurants + restaurants // 10)


@fault("F74", "pg_upgrade to a newer version of PostgreSQL")
async def upgraded(stage: Stage) -> None:
    """Files and numbers stay, the system identifier is new: a new stay, without old snapshots."""
    older = _older_bin_dir()
    if older is None:
        raise Skipped(
            "there are no binaries of an older PostgreSQL:"
            " package postgresql-15, or LEDGER_OLD_PG_BIN"
        )
    with _binaries(older):
        folder = await own_cluster(stage)
    first, name = stage.cluster, database_name(stage)
    await business(stage)
    before = await stage.query("SELECT system_identifier, version() FROM pg_control_system()")
    place = await stage.query(
        "SELECT 'ledger_entries'::regclass::oid::bigint, pg_relation_filenode('ledger_entries')"
    )
    pgdata = first.pgdata
    first.stop()
    # initdb by the newer version, and nothing else.
    second = stage.exits.enter_context(new_cluster(folder / "second", first.parameters))
    new_pgdata = second.pgdata
    second.stop()
    work = folder / "work"
    work.mkdir()
    owned(work, second)
    command: list[str | Path] = [
        find_bin_dir() / "pg_upgrade",
        "--username=postgres",
        f"--socketdir={work}",
    ]
    command += [f"--old-bindir={older}", f"--new-bindir={find_bin_dir()}"]
    command += [f"--old-datadir={pgdata}", f"--new-datadir={new_pgdata}"]
    run_as_owner(work, account_for(new_pgdata), command)
    await second.restart()
    stage.cluster, stage.database = second, second.database(name)
    after = await stage.query("SELECT system_identifier, version() FROM pg_control_system()")
    assert before[0][0] != after[0][0]
    kept = place == await stage.query(
        "SELECT 'ledger_entries'::regclass::oid::bigint, pg_relation_filenode('ledger_entries')"
    )
    # Not of this stay, although as old as the rows about them.
    assert await stage.query("SELECT count(*) FROM current_stay") == [(0,)]
    await business(stage)
    assert await stage.query(STAYS) == [(2,)]
    words = "the same OID and file" if kept else "another OID or file"
    stage.note(f"from {_short(before[0][1])} to {_short(after[0][1])}: {words}, a new stay")


def _short(version: str) -> str:
    return " ".join(version.split()[:2])


async def _subscribe(source: Cluster, name: str, target: Database, options: str = "") -> None:
    """Makes the target follow the source's database of that name, as documented."""
    statement = _documented("CREATE SUBSCRIPTION").replace(
        "host=old dbname=ledger",
        f"host={source.socket.parent} port=5432 user=postgres dbname={name}",
    )
    await execute_alone(target.migration_url, f"{statement} {options}")


async def _all_sent(stage: Stage) -> None:
    """Waits until the follower has all that the stage's cluster has."""
    ((reached,),) = await stage.query("SELECT pg_current_wal_flush_lsn()::text")

    async def has_it() -> bool:
        statement = """
        SELECT confirmed_flush_lsn >= CAST(:lsn AS text)::pg_lsn FROM pg_replication_slots
        WHERE slot_name = 'moving'
        """
        return await stage.query(statement, lsn=reached) == [(True,)]

    await until(has_it, CAUGHT_UP_SECONDS)


async def _migrated(database: Database) -> list[str]:
    """What `ledger migrate` mends."""
    sentences: list[str] = []
    await migrate_async(database.migration_url, on_mended=sentences.append)
    return sentences


def _documented(beginning: str) -> str:
    """The statement of docs/operations/backup.md that begins so."""
    (statement,) = re.findall(rf'"({beginning}\b[^"]*)"', OPERATIONS.read_text())
    return re.sub(r"\\?\s+", " ", statement)


def _older_bin_dir() -> Path | None:
    """Binaries of an older version: LEDGER_OLD_PG_BIN, or Debian's packages; None without any."""
    named = os.environ.get("LEDGER_OLD_PG_BIN")
    ours = int(re.split(r"[^0-9]", version_of(find_bin_dir()))[0])
    folders = [Path(named)] if named else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    older = [
        path for path in folders if (path / "pg_upgrade").exists() and int(path.parent.name) < ours
    ]
    return older[-1] if older else None


@contextmanager
def _binaries(bin_dir: Path | None) -> Iterator[None]:
    """These binaries make the clusters during the block."""
    before = os.environ.get("LEDGER_PG_BIN")
    if bin_dir is not None:
        os.environ["LEDGER_PG_BIN"] = str(bin_dir)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("LEDGER_PG_BIN", None)
        else:
            os.environ["LEDGER_PG_BIN"] = before
