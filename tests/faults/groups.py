"""PostgreSQL under Patroni, with etcd and HAProxy: three members on one machine."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import asyncpg
from support.folders import folder_for_all
from support.haproxy import documented_for_patroni
from support.ports import held_port, port_of
from support.waiting import POLL_SECONDS, until

from faults.stage import Skipped
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.embedded import find_bin_dir
from ledger.infrastructure.postgres.embedded.launcher import Launcher, account_for
from ledger.infrastructure.postgres.schema.migrations import create_database, migrate_async
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE

MEMBERS = 3
DATABASE = "ledger"
# The shortest that Patroni accepts.
TTL_SECONDS = 20
START_SECONDS = 180.0
STOP_SECONDS = 30.0

# It commits, so it waits for the synchronous standby as every booking does.
_WRITE = "SELECT FROM pg_logical_emit_message(true, 'probe', '')"


def program(name: str, package: str) -> str:
    """The path of a program. Raises Skipped where it is absent."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise Skipped(f"{name} is not on this machine ({package})")
    return found


@dataclass(eq=False)
class Member:
    """A host of the group: Patroni, and the PostgreSQL that it runs."""

    name: str
    folder: Path
    port: int
    rest_port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def pids(self) -> list[int]:
        """All processes of the host: Patroni, the postmaster, and their children."""
        roots = set() if self.process is None else {self.process.pid}
        with suppress(OSError, IndexError):
            roots.add(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        found = set(roots)
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with suppress(OSError, IndexError):
                    if int((process / "stat").read_text().rpartition(")")[2].split()[1]) in roots:
                        found.add(int(process.name))
        return sorted(found)

    def signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Group:
    """The members and their etcd."""

    def __init__(self, folder: Path, log: IO[bytes], lock: int) -> None:
        self._folder = folder
        self._log = log
        self._launcher = Launcher(folder, account_for(folder / "nothing"), lock)
        self._patroni = program(
            "patroni", "uv tool install 'patroni[etcd3]' --with 'psycopg[binary]'"
        )
        if self._launcher.run([self._patroni, "--version"])[0] != 0:
            raise Skipped(f"{self._patroni} cannot be run by the account that PostgreSQL runs as")
        self._ports = [held_port() for _ in range(2 * MEMBERS + 3)]
        self._etcd_port, peer_port, self.proxy_port, *ports = map(port_of, self._ports)
        self._others: list[subprocess.Popen[bytes]] = []
        self.members = [
            Member(
                f"member{place + 1}",
                folder / f"member{place + 1}",
                ports[2 * place],
                ports[2 * place + 1],
            )
            for place in range(MEMBERS)
        ]
        etcd, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, peer_port))
        command = [
            program("etcd", "package etcd-server"),
            "--name=etcd",
            f"--data-dir={self._owned(folder / 'etcd')}",
        ]
        command += [
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
        ]
        command += [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=etcd={peer}"]
        self._start_other(command)

    def url(self, *ports: int, user: str = APPLICATION_ROLE) -> str:
        """The URL of the database at these ports; without any, at all members'."""
        ports = ports or tuple(member.port for member in self.members)
        hosts = ",".join("127.0.0.1" for _ in ports)
        return (
            f"postgresql+asyncpg://{user}@/{DATABASE}?host={hosts}&port={','.join(map(str, ports))}"
        )

    @property
    def database(self) -> Database:
        target = "&target_session_attrs=read-write"
        return Database(self.url() + target, self.url(user="postgres") + target)

    def start_member(self, member: Member) -> None:
        self._owned(member.folder)
        configuration = member.folder / "patroni.yml"
        # JSON is YAML.
        configuration.write_text(json.dumps(self._configuration(member), indent=1))
        configuration.chmod(0o644)
        member.process = self._launcher.start([self._patroni, configuration], self._log)

    def start_haproxy(self) -> None:
        """Leads a port to the primary, as documented."""
        configuration = self._folder / "haproxy.cfg"
        hosts = {member.name: (member.port, member.rest_port) for member in self.members}
        configuration.write_text(documented_for_patroni(self.proxy_port, hosts))
        configuration.chmod(0o644)
        self._start_other([program("haproxy", "package haproxy"), "-db", "-f", str(configuration)])

    async def reported_members(self) -> list[dict[str, Any]]:
        """The members as Patroni reports them, from the first member that responds."""
        for member in self.members:
            with suppress(OSError, ValueError, TimeoutError):
                response = await self._http(member, "GET", "/cluster")
                return list(json.loads(response)["members"])
        return []

    async def leader(self) -> Member:
        """The member that is the primary, with a synchronous standby beside it."""
        names: list[str] = []

        async def is_whole() -> bool:
            reported = await self.reported_members()
            names[:] = [
                one["name"]
                for one in reported
                if one["role"] == "leader" and one["state"] == "running"
            ]
            standbys = [
                one for one in reported if one["role"] in ("sync_standby", "quorum_standby")
            ]
            return len(names) == 1 and bool(standbys)

        await until(is_whole, START_SECONDS)
        return next(member for member in self.members if member.name == names[0])

    async def switchover(self, leader: Member) -> None:
        """Switches over to the synchronous standby."""
        reported = await self.reported_members()
        candidate = next(
            one["name"] for one in reported if one["role"] in ("sync_standby", "quorum_standby")
        )
        await self._http(
            leader,
            "POST",
            "/switchover",
            json.dumps({"leader": leader.name, "candidate": candidate}),
        )

    async def writes_elsewhere(self, than: Member) -> float:
        """The instant of the first commit on another member, by the monotonic clock."""
        tasks = [
            asyncio.create_task(_writes(member)) for member in self.members if member is not than
        ]
        try:
            async with asyncio.timeout(START_SECONDS):
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                return min(task.result() for task in done)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        for member in self.members:
            member.signal(signal.SIGCONT)
        processes = [
            member.process for member in self.members if member.process is not None
        ] + self._others
        for process in processes:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, STOP_SECONDS)
        for member in self.members:
            member.signal(signal.SIGKILL)
        for process in processes:
            process.kill()
            process.wait()
        for port in self._ports:
            port.close()

    def _configuration(self, member: Member) -> dict[str, Any]:
        local = "127.0.0.1"
        users = {"superuser": "postgres", "replication": "replicator", "rewind": "rewinder"}
        return {
            "scope": "ledger",
            "name": member.name,
            "restapi": {
                "listen": f"{local}:{member.rest_port}",
                "connect_address": f"{local}:{member.rest_port}",
            },
            "etcd3": {"host": f"{local}:{self._etcd_port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SECONDS,
                    "loop_wait": 2,
                    "retry_timeout": 5,
                    "synchronous_mode": True,
                    "synchronous_mode_strict": True,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {"max_connections": 200, "shared_buffers": "32MB"},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"{local}:{member.port}",
                "connect_address": f"{local}:{member.port}",
                "data_dir": str(member.folder / "data"),
                "bin_dir": str(find_bin_dir()),
                "pgpass": str(member.folder / "pgpass"),
                "authentication": {
                    kind: {"username": name, "password": "unused"} for kind, name in users.items()
                },
                "parameters": {"unix_socket_directories": str(member.folder)},
                "pg_hba": [
                    "local all all trust",
                    f"host all all {local}/32 trust",
                    f"host replication all {local}/32 trust",
                ],
            },
        }

    def _owned(self, path: Path) -> Path:
        """A folder of the account that PostgreSQL runs as."""
        if not path.exists():
            path.mkdir(mode=0o700)
            if (account := self._launcher.account) is not None:
                os.chown(path, account.uid, account.gid)
        return path

    def _start_other(self, command: list[str]) -> None:
        self._others.append(self._launcher.start(command, self._log))

    async def _http(self, member: Member, method: str, path: str, body: str = "") -> str:
        """Patroni's response. Raises OSError, TimeoutError, or ValueError for a refusal."""
        async with asyncio.timeout(30 if body else 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", member.rest_port)
            try:
                head = (
                    f"{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n"
                )
                writer.write((head + body).encode())
                response = (await reader.read()).decode()
            finally:
                writer.close()
        status, _, rest = response.partition("\r\n")
        if " 200 " not in f"{status} ":
            raise ValueError(f"{member.name} responded with {response}")
        return rest.partition("\r\n\r\n")[2]


async def _writes(member: Member) -> float:
    """Tries to commit until a member takes it. Returns the instant, by the monotonic clock."""
    while True:
        try:
            async with asyncio.timeout(2):
                connection = await asyncpg.connect(
                    host="127.0.0.1", port=member.port, user="postgres", database=DATABASE
                )
                try:
                    await connection.execute(_WRITE)
                    return time.monotonic()
                finally:
                    connection.terminate()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def patroni_group() -> AsyncIterator[Group]:
    """A group with a migrated database. Raises Skipped where a program is absent."""
    with (
        folder_for_all() as folder,
        (folder / "group.log").open("ab") as log,
        (folder / "group.lock").open("w") as lock,
    ):
        group = Group(folder, log, lock.fileno())
        try:
            for member in group.members:
                group.start_member(member)
            leader = await group.leader()
            server_url = f"postgresql+asyncpg://postgres@127.0.0.1:{leader.port}/postgres"
            await create_database(server_url, DATABASE)
            await migrate_async(group.database.migration_url)
            yield group
        except TimeoutError as error:
            raise TimeoutError(
                f"the group did not get ready: {(folder / 'group.log').read_text()[-3000:]}"
            ) from error
        finally:
            await group.stop()
