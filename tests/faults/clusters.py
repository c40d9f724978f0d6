"""A PostgreSQL cluster for faults: killed, stopped, restarted, cut off from its disk."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from support.running import execute_alone, query

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    find_bin_dir,
)
from ledger.infrastructure.postgres.embedded.launcher import Account, Launcher, account_for
from ledger.infrastructure.postgres.schema.migrations import (
    create_database,
    database_url,
    migrate_async,
)
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE

TEMPLATE = "ledger_template"
RESTART_SECONDS = 90.0
# A kill loses nothing that the kernel has, so these clusters need no fsync.
FORGETFUL = {"fsync": "off", "full_page_writes": "off"}


class Cluster:
    """An embedded PostgreSQL in a separate folder. From the main thread only."""

    def __init__(self, data_dir: Path, parameters: Mapping[str, str]) -> None:
        self.data_dir = data_dir
        self.parameters = dict(parameters)
        self._numbers = count(1)
        self._postgres: EmbeddedPostgres | None = EmbeddedPostgres.start(
            data_dir, parameters=self.parameters
        )
        self.superuser_url = self._postgres.url(user=self._postgres.superuser, database="postgres")

    @property
    def durable(self) -> bool:
        return self.parameters.get("fsync") != "off"

    @property
    def pgdata(self) -> Path:
        (pgdata,) = (path for path in self.data_dir.glob("pg*") if path.name[2:].isdigit())
        return pgdata

    @property
    def socket(self) -> Path:
        """The path of its socket."""
        return Path(self._pid_file()[4]) / f".s.PGSQL.{self._pid_file()[3]}"

    @property
    def postmaster(self) -> int:
        """The pid of the postmaster."""
        return int(self._pid_file()[0])

    def children(self, kind: str = "") -> list[int]:
        """The pids of the postmaster's children whose title contains `kind`."""
        postmaster = self.postmaster
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with suppress(OSError, IndexError):
                    parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                    if parent == postmaster and kind in (process / "cmdline").read_text():
                        found.append(int(process.name))
        return found

    def signal_all(self, number: signal.Signals) -> None:
        """Sends a signal to the postmaster and to every child."""
        for pid in (self.postmaster, *self.children()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def restart(self) -> float:
        """Starts a dead server, over and over until it starts. Returns the seconds.

        Blocks the event loop: replies to callers are not lost, only late.
        """
        began = time.monotonic()
        while True:
            try:
                self.stop()
                self._postgres = EmbeddedPostgres.start(self.data_dir, parameters=self.parameters)
                return time.monotonic() - began
            except EmbeddedPostgresError:
                if time.monotonic() - began > RESTART_SECONDS:
                    raise
                await asyncio.sleep(0.1)

    def run(self, program: str, *arguments: str | Path) -> str:
        """Runs one of PostgreSQL's programs as the owner of the cluster, which may not be root.

        Returns its output. Raises RuntimeError with it.
        """
        return run_as_owner(
            self.data_dir, account_for(self.pgdata), [find_bin_dir() / program, *arguments]
        )

    def stop(self) -> None:
        if self._postgres is not None:
            self._postgres.stop()
            self._postgres = None

    async def make_template(self) -> None:
        """A migrated database, the template of the others."""
        await create_database(self.superuser_url, TEMPLATE)
        await migrate_async(database_url(self.superuser_url, database=TEMPLATE))

    async def new_database(self) -> Database:
        """A database with the newest schema and nothing in it."""
        name = f"faults_{next(self._numbers)}"
        await execute_alone(self.superuser_url, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return self.database(name)

    def database(self, name: str) -> Database:
        """One of its databases."""
        owner_url = database_url(self.superuser_url, database=name)
        return Database(database_url(owner_url, user=APPLICATION_ROLE), owner_url)

    async def configure(self, **settings: str | None) -> None:
        """Sets server-wide settings with immediate effect; None resets one."""
        for name, value in settings.items():
            change = f"RESET {name}" if value is None else f"SET {name} = '{value}'"
            await execute_alone(self.superuser_url, f"ALTER SYSTEM {change}")
        await query(self.superuser_url, "SELECT pg_reload_conf()")

    def _pid_file(self) -> list[str]:
        return (self.pgdata / "postmaster.pid").read_text().splitlines()


def run_as_owner(data_dir: Path, account: Account | None, command: Sequence[str | Path]) -> str:
    """Runs a program in a data directory. Returns its output. Raises RuntimeError with it."""
    with (data_dir / "programs.lock").open("w") as lock:
        status, output = Launcher(data_dir, account, lock.fileno()).run(command)
    if status != 0:
        raise RuntimeError(f"{command[0]} ended with {status}: {output}")
    return output


@contextmanager
def new_cluster(data_dir: Path, parameters: Mapping[str, str] = {}) -> Iterator[Cluster]:
    """A running cluster; stopped at the end."""
    cluster = Cluster(data_dir, parameters)
    try:
        yield cluster
    finally:
        cluster.stop()
