"""Disks that fill up, and books that are restored into another cluster."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
from support.folders import folder_for_all
from support.waiting import until

from faults.catalogue import fault
from faults.clusters import Cluster, new_cluster
from faults.judge import judge
from faults.load import load_on
from faults.servers import ServerProcess
from faults.stage import Skipped, Stage
from ledger.infrastructure.postgres.embedded import find_bin_dir
from ledger.infrastructure.postgres.schema.migrations import (
    create_database,
    database_url,
    migrate_async,
)
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.infrastructure.postgres.verification.seal_audit import verify_chain

CHUNK_BYTES = 1 << 16


@contextmanager
def small_disk(place: Path, size_mib: int) -> Iterator[Path]:
    """A separate file system in memory. Raises Skipped where none can be mounted."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        raise Skipped("mounting a small file system takes root and mount")
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0755", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skipped(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Fills a disk. Returns the file that takes the room."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(CHUNK_BYTES))
    # The last pages, too.
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))
    return ballast


def move(directory: Path, target: Path) -> None:
    """Moves a directory of a stopped cluster to another disk and leaves a link; owners stay."""
    shutil.copytree(directory, target, dirs_exist_ok=True)
    for path in (target, *target.rglob("*")):
        owner = (directory / path.relative_to(target)).stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    target.chmod(0o700)
    shutil.rmtree(directory)
    directory.symlink_to(target)


async def cluster_with_moved_directory(
    stage: Stage, folder: Path, parameters: dict[str, str], moved: tuple[str, Path]
) -> ServerProcess:
    """Moves the stage to another cluster with one directory elsewhere. Returns its server."""
    cluster = stage.exits.enter_context(new_cluster(folder, stage.cluster.parameters | parameters))
    name, target = moved
    cluster.stop()
    pgdata = cluster.pgdata
    move(pgdata / name, target)
    await cluster.restart()
    await cluster.make_template()
    stage.cluster, stage.database = cluster, await cluster.new_database()
    return await stage.server()


@fault("F8", "no room left for data")
async def data_disk_full(stage: Stage) -> None:
    """The tables' disk is full: calls fail and may be repeated; with room all works again."""
    folder = stage.exits.enter_context(folder_for_all())
    disk = stage.exits.enter_context(small_disk(folder / "disk", 250))
    server = await cluster_with_moved_directory(
        stage, folder / "cluster", {"max_wal_size": "256MB"}, ("base", disk / "base")
    )
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(500)
        ballast = fill(disk)
        await until(lambda: stage.journal.codes["UNAVAILABLE"] >= 50, 60)
        await asyncio.sleep(stage.size(5, 1))
        ballast.unlink()
        await load.acknowledged(500)
    codes = stage.journal.codes
    stage.note(f"{codes['UNAVAILABLE']} calls UNAVAILABLE while it was full")
    assert grpc.StatusCode.INTERNAL.name not in codes
    stage.gap_within(10)


@fault("F9", "no room left for the log")
async def log_disk_full(stage: Stage) -> None:
    """The log's disk is full: PostgreSQL panics and stays down until there is room."""
    folder = stage.exits.enter_context(folder_for_all())
    disk = stage.exits.enter_context(small_disk(folder / "disk", 100))
    server = await cluster_with_moved_directory(
        stage,
        folder / "cluster",
        {"max_wal_size": "32MB", "min_wal_size": "32MB"},
        ("pg_wal", disk / "pg_wal"),
    )
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(500)
        ballast = fill(disk)

        async def not_serving() -> bool:
            # Uses up the rest of the log faster than the load does.
            with suppress(Exception):
                await asyncio.wait_for(stage.query("SELECT pg_switch_wal()"), 2)
            return await server.health() == "NOT_SERVING"

        await until(not_serving, 90)
        await asyncio.sleep(stage.size(5, 1))
        panics = (stage.cluster.data_dir / "postgres.log").read_text().count("PANIC")
        ballast.unlink()
        stage.note(
            f"{panics} PANIC, NOT_SERVING;"
            f" restarted in {await stage.cluster.restart():.1f} s once there was room"
        )
        await load.acknowledged(500)
    assert panics > 0
    stage.gap_within(20)


@fault("F27", "dump and restore into another cluster")
async def dump_and_restore(stage: Stage) -> None:
    """The books are dumped under load and restored elsewhere.

    What was acknowledged by then is there and counts; everything sent again is booked once.
    """
    server = await stage.server()
    folder = stage.exits.enter_context(folder_for_all())
    dump = folder / "books.dump"
    async with load_on(stage.load(server)) as load:
        await load.acknowledged(stage.size(3_000, 300))
        await stage.sealed_more()
        ((head,),) = await stage.query(
            "SELECT hash FROM ledger_seals ORDER BY sequence DESC LIMIT 1"
        )
        acknowledged = set(stage.journal.acknowledged_at)
        await _run(
            "pg_dump",
            "--format=custom",
            f"--file={dump}",
            *_connection(stage.cluster, stage.database.migration_url),
        )
        await load.acknowledged(50)
    await server.kill()
    verdict = await judge(stage.database, stage.journal)
    assert verdict.violations == ()
    gap_seconds = verdict.gap_seconds
    cluster = stage.exits.enter_context(new_cluster(folder / "elsewhere", stage.cluster.parameters))
    url = database_url(cluster.superuser_url, database="ledger")
    # The roles belong to the cluster: the migrations of some database make them.
    await cluster.make_template()
    await create_database(cluster.superuser_url, "ledger")
    await _run("pg_restore", "--exit-on-error", *_connection(cluster, url), str(dump))
    stage.cluster, stage.database = cluster, cluster.database("ledger")
    await migrate_async(url)
    kept = {row[0] for row in await stage.query("SELECT event_id FROM processor_events")}
    assert acknowledged <= kept
    engine = create_engine(stage.database.url, pool_size=1)
    try:
        restored = await verify_chain(engine, head)
    finally:
        await engine.dispose()
    assert restored.audit.errors == ()
    await stage.send_again(kept)
    stage.note(
        f"{len(kept)} events carried over,"
        f" {len(stage.journal.events) - len(kept)} sent since the dump"
        " and sent again"
    )
    stage.note(f"longest gap while it was dumped {gap_seconds:.2f} s")


def _connection(cluster: Cluster, url: str) -> list[str]:
    name = database_url(url).partition("?")[0].rpartition("/")[2]
    return [
        f"--host={cluster.socket.parent}",
        "--port=5432",
        "--username=postgres",
        f"--dbname={name}",
    ]


async def _run(program: str, *arguments: str) -> None:
    """Runs one of PostgreSQL's programs to its end. Raises RuntimeError with its output."""
    process = await asyncio.create_subprocess_exec(
        find_bin_dir() / program,
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{program}: {output.decode(errors='replace')}")
