"""The audit log: who called what, for every call that writes.

Calls that start payouts or change a restaurant are written before they are answered. Calls that send events are written in
groups, after the fact: each event is a row of its own, so that what a crash loses here is who sent it, not that it came.
Refusals that say nothing about what was asked are summed up, so that no caller can fill the log with them.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol
from uuid import UUID

import uuid_utils.compat

from ledger.application.halving import in_halves
from ledger.application.repeats import Repeats
from ledger.errors import LedgerError, StatementRefused

FLUSH_SECONDS = 0.1
FLUSH_CALLS_MAX = 2_000
# Some seconds of all that a server can take, so that a database that is away for a moment costs nothing.
WAITING_CALLS_MAX = 50_000
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 5.0
# Stands for calls that are not in the log.
LOST_METHOD = "audit_log"
LOST_OUTCOME = "DATA_LOSS"


@dataclass(frozen=True, slots=True)
class AuditedCall:
    """A call that writes: who made it, what it was about, and the name of the status it ended with."""

    identity: str
    credential: str
    method: str
    request_id: str
    peer: str
    what: Mapping[str, str | int | bool]
    outcome: str
    # Of its own, so that writing it again adds no second row.
    audit_id: UUID = field(default_factory=uuid_utils.compat.uuid7)


class AuditLogTable(Protocol):
    """Where the calls are kept."""

    async def insert(self, calls: Sequence[AuditedCall]) -> None:
        """Stores those of `calls` that are not stored yet, all or none.

        Raises DataRejected, StatementRefused, DatabaseUnavailable, DatabaseContention, DatabaseTimeout.
        """
        ...


class AuditLog:
    """Takes calls in without waiting, and writes them in groups."""

    def __init__(
        self, table: AuditLogTable, *, on_failure: Callable[[str, BaseException | None], None]
    ) -> None:
        """`on_failure` is told what went wrong, for the log of the server."""
        self._table = table
        self._on_failure = on_failure
        self._waiting: deque[AuditedCall] = deque()
        self._lost = 0
        self._refused: Repeats[tuple[str, str, str, str]] = Repeats(self._record_refusals)
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to write."""
        self._task = asyncio.create_task(self._work())

    def record(self, call: AuditedCall) -> None:
        """Has a call written soon. When too many wait it is lost, which the log then tells by a row of its own."""
        if len(self._waiting) >= WAITING_CALLS_MAX:
            if not self._lost:
                self._on_failure(
                    "the audit log loses calls: more of them wait than it can hold", None
                )
            self._lost += 1
            return
        self._waiting.append(call)
        self._wake.set()

    def record_refusal(self, call: AuditedCall) -> None:
        """Records a call that was refused whatever it was about.

        The first one of a caller, a method and an outcome has its row; of the others a row tells
        every few seconds how many there were, without request id and address.
        """
        if self._refused.is_first((call.identity, call.credential, call.method, call.outcome)):
            self.record(call)

    def _record_refusals(self, kind: tuple[str, str, str, str], calls: int) -> None:
        identity, credential, method, outcome = kind
        self.record(AuditedCall(identity, credential, method, "", "", {"calls": calls}, outcome))

    async def write(self, call: AuditedCall) -> None:
        """Writes a call at once. Raises as AuditLogTable.insert does."""
        await self._table.insert([call])

    async def close(self) -> None:
        """Writes what waits, as far as the database takes it within CLOSE_SECONDS."""
        self._refused.flush()
        self._closing.set()
        self._wake.set()
        if self._task is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._task
        except TimeoutError:
            self._on_failure(
                f"the audit log loses {len(self._waiting) + self._lost} calls: the server stops",
                None,
            )

    async def _work(self) -> None:
        while self._waiting or not self._closing.is_set():
            await self._wake.wait()
            self._wake.clear()
            # What comes meanwhile goes along.
            if not self._closing.is_set():
                await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self._flush()
                continue
            except LedgerError as error:
                self._on_failure("the audit log must wait for the database", error)
            except Exception as error:  # noqa: BLE001  # a task that ended would never write again
                self._on_failure("the audit log failed unexpectedly", error)
            self._wake.set()
            await asyncio.sleep(RETRY_SECONDS)

    async def _flush(self) -> None:
        while self._waiting:
            group = list(islice(self._waiting, FLUSH_CALLS_MAX))
            await self._insert(group)
            for _ in group:
                self._waiting.popleft()
        if lost := self._lost:
            await self._table.insert(
                [AuditedCall("", "none", LOST_METHOD, "", "", {"calls": lost}, LOST_OUTCOME)]
            )
            self._lost -= lost

    async def _insert(self, group: Sequence[AuditedCall]) -> None:
        """Stores a group. A call that the database refuses is left out, with a line in the log; it holds up no other.

        Raises StatementRefused if the database refuses each of them for a reason nobody foresaw: then the fault is not theirs.
        """
        parts = await in_halves(self._table.insert, group)
        refused = [(calls[0], error) for calls, error in parts if error is not None]
        if len(refused) == len(group):
            for _, error in refused:
                if isinstance(error, StatementRefused):
                    raise error
        for call, error in refused:
            self._on_failure(
                f"the audit log loses a call of {call.identity}: the database refuses it", error
            )
