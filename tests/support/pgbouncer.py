"""PgBouncer in front of the database of tests, where it is installed."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen

import pytest
from sqlalchemy import make_url

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.embedded.launcher import Launcher, account_for
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE
from support.waiting import DEADLINE_SECONDS, until

PORT = 6432
# A common configuration: the startup parameters that drivers send and PgBouncer does not know are
# dropped.
CONFIGURATION = """\
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr =
listen_port = {listen_port}
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users.txt
ignore_startup_parameters = extra_float_digits,options,statement_timeout,lock_timeout,search_path
max_client_conn = 200
default_pool_size = {pool_size}
pool_mode = {pool_mode}
{more}
"""


@dataclass(frozen=True, slots=True)
class PgBouncer:
    """A running PgBouncer. Its clients reach the database at `database`."""

    folder: Path
    database: Database
    server_url: str
    process: Popen[bytes]

    def reload(self, pool_mode: str) -> None:
        """Changes the pool mode at once, as an administrator's RELOAD does."""
        configure(self.folder, self.server_url, pool_mode)
        self.process.send_signal(signal.SIGHUP)


def program() -> str:
    """The path of the program. Skips the test without it, or with a given PostgreSQL server."""
    if "LEDGER_TEST_DATABASE_URL" in os.environ:
        pytest.skip("the test runs PgBouncer in front of the embedded PostgreSQL only")
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip("pgbouncer is not installed")
    return found


def configure(
    folder: Path, server_url: str, pool_mode: str, more: str = "", pool_size: int = 60
) -> Path:
    """Writes the configuration of PgBouncer. Returns its path."""
    query = make_url(server_url).query
    file = folder / "pgbouncer.ini"
    file.write_text(
        CONFIGURATION.format(
            host=query["host"],
            port=query["port"],
            listen_port=PORT,
            folder=folder,
            pool_mode=pool_mode,
            pool_size=pool_size,
            more=more,
        )
    )
    file.chmod(0o644)
    return file


@asynccontextmanager
async def pgbouncer(
    database: Database, pool_mode: str, *, more: str = "", pool_size: int = 60
) -> AsyncIterator[PgBouncer]:
    """Runs PgBouncer in front of the server of `database`, with `more` in its configuration."""
    executable = program()
    folder = Path(tempfile.mkdtemp(prefix="ledger-pgbouncer-"))
    # PgBouncer refuses to run as root, and only the account of the database may use its socket.
    account = account_for(Path(str(make_url(database.migration_url).query["host"])))
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    users = folder / "users.txt"
    users.write_text(f'"postgres" ""\n"{APPLICATION_ROLE}" ""\n')
    users.chmod(0o644)
    file = configure(folder, database.migration_url, pool_mode, more, pool_size)
    with (folder / "pgbouncer.log").open("ab") as log, (folder / "lock").open("w") as lock:
        process = Launcher(folder, account, lock.fileno()).start([executable, file], log)
        try:

            async def listens() -> bool:
                assert process.poll() is None, (folder / "pgbouncer.log").read_text()
                try:
                    _, writer = await asyncio.open_unix_connection(folder / f".s.PGSQL.{PORT}")
                except OSError:
                    return False
                writer.close()
                return True

            await until(listens, DEADLINE_SECONDS)
            application_url, owner_url = (
                make_url(url)
                .update_query_dict({"host": str(folder), "port": str(PORT)})
                .render_as_string(hide_password=False)
                for url in (database.url, database.migration_url)
            )
            yield PgBouncer(
                folder, Database(application_url, owner_url), database.migration_url, process
            )
        finally:
            process.terminate()
            process.wait(DEADLINE_SECONDS)
            shutil.rmtree(folder, ignore_errors=True)
