"""The stage of a fault: a cluster, a database, servers, callers and their journal."""

import asyncio
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.running import query
from support.seals import COUNTS
from support.waiting import until

from faults.callers import Caller
from faults.clusters import Cluster
from faults.journal import DigitAccounts, Journal, Reply
from faults.load import Load, Mix
from faults.proxy import FaultProxy, fault_proxy
from faults.servers import Limit, ServerProcess, new_server
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.schema.migrations import database_url

# Generous, for shared machines; the report has the real figure.
GAP_FACTOR = 30
SEALED_SECONDS = 60.0
ENDED_SECONDS = 60.0
END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'ledger%'
"""


class Skipped(Exception):
    """The fault cannot be played on this machine; the text says why."""


@dataclass(slots=True)
class Stage:
    """Made anew for every fault; `exits` run after the books were judged."""

    cluster: Cluster
    database: Database
    folder: Path
    seed: int
    full: bool
    exits: AsyncExitStack
    journal: Journal = field(default_factory=Journal)
    digits: DigitAccounts = field(default_factory=DigitAccounts)
    notes: list[str] = field(default_factory=list)
    # The token of callers; empty for none.
    token: str = ""
    plain_servers: list[ServerProcess] = field(default_factory=list)
    chance: random.Random = field(init=False)
    _started: list[ServerProcess] = field(default_factory=list)
    _loads: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def size(self, full: int, short: int) -> int:
        """The full size, or the short one of an ordinary test run."""
        return full if self.full else short

    def note(self, text: str) -> None:
        """Adds a note to the report."""
        self.notes.append(text)

    def gap_within(self, seconds: float) -> None:
        """Asserts that the longest gap is not far longer than `seconds`."""
        gap_seconds = self.journal.longest_gap_seconds
        assert gap_seconds <= GAP_FACTOR * seconds, (
            f"no acknowledgement for {gap_seconds:.1f} s, expected {seconds} s"
        )

    async def server(
        self,
        *,
        through: FaultProxy | None = None,
        env: Mapping[str, str] = {},
        within: Limit | None = None,
    ) -> ServerProcess:
        """A running server of the stage's database, with more settings."""
        url = None
        if through is not None:
            url = _through(self.database.url, through)
        server = new_server(
            self.database,
            self.folder,
            durable=self.cluster.durable,
            url=url,
            env=env,
            within=within,
        )
        self._started.append(await self.exits.enter_async_context(server))
        return self._started[-1]

    async def end_servers(self) -> None:
        """Kills the servers that still run, and ends their sessions.

        A failed fault leaves servers running, and a session may commit after its server.
        """
        for server in self._started:
            await server.kill()

        async def gone() -> bool:
            return not await self.query(END_SESSIONS)

        await until(gone, ENDED_SECONDS)

    async def servers(self, count: int) -> list[ServerProcess]:
        """Several plain servers of one database; reuses running ones of an earlier fault."""
        self.plain_servers = [server for server in self.plain_servers if server.runs]
        missing = count - len(self.plain_servers)
        self.plain_servers += await asyncio.gather(*(self.server() for _ in range(missing)))
        return self.plain_servers[:count]

    async def network(self) -> FaultProxy:
        """A network between servers and the database."""
        return await self.exits.enter_async_context(
            fault_proxy(self.cluster.socket, seed=self.seed)
        )

    def load(self, *servers: ServerProcess, mix: Mix | None = None) -> Load:
        """A load, to be run with `load_on`."""
        self._loads += 1
        if mix is None:
            mix = Mix()
        addresses = [server.address for server in servers]
        return Load(
            addresses,
            self.journal,
            self.digits,
            seed=f"{self.seed}-{self._loads}",
            mix=mix,
            token=self.token,
        )

    def caller(self, server: ServerProcess) -> Caller:
        """A caller of one server."""
        caller = Caller(server.address, self.journal, token=self.token)
        self.exits.push_async_callback(caller.close)
        return caller

    async def send_again(self, kept: set[str]) -> None:
        """Sends all events again to a new server whose books hold `kept`; forgets other replies."""
        self.journal = self.journal.restored(kept)
        caller = self.caller(await self.server())
        events = self.journal.events
        for start in range(0, len(events), 500):
            for call in await caller.send_batch(events[start : start + 500]):
                assert call.reply is not Reply.CREATED or call.event_id not in kept

    async def sealed_more(self) -> None:
        """Waits until a server has added a seal, or has nothing left to seal.

        Call it without a load: under load a sealer takes its time.
        """
        counted = "SELECT count(*) FROM ledger_seals"
        before = await self.query(counted)

        async def grown() -> bool:
            ((events_sealed, entries_sealed, events, entries),) = await self.query(COUNTS)
            nothing_left = 0 < events == events_sealed and entries == entries_sealed
            return nothing_left or await self.query(counted) != before

        await until(grown, SEALED_SECONDS)

    async def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query by the superuser, past the faulty network."""
        return await query(self.database.migration_url, statement, **parameters)


def _through(url: str, network: FaultProxy) -> str:
    """The URL of the same database behind a TCP port."""
    socket_url, _, _ = database_url(url).partition("?")
    return socket_url.replace("@/", f"@127.0.0.1:{network.port}/")
