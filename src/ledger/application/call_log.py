"""The audit log: who called what, for every call that writes.

Calls that start payouts or change a restaurant are written before they are answered. Calls that send events are written in
groups, after the fact: each event is a row of its own, so that what a crash loses here is who sent it, not that it came.
Refusals that say nothing about what was asked are summed up, so that no caller can fill the log with them.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol
from uuid import UUID

import structlog
import uuid_utils.compat

from ledger.application.halving import in_halves
from ledger.application.repeats import Repeats
from ledger.errors import StatementRefused
from ledger.repeating import Repeating, ReportFailure, attempt

_log = structlog.get_logger("ledger")

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

    def __init__(self, table: AuditLogTable, *, on_failure: ReportFailure) -> None:
        """`on_failure` logs what could not be written."""
        self._table = table
        self._on_failure = on_failure
        self._waiting: deque[AuditedCall] = deque()
        self._lost = 0
        self._refused: Repeats[tuple[str, str, str, str]] = Repeats(self._record_refusals)
        self._writing = Repeating(
            "the audit log",
            self._gather_and_flush,
            every_seconds=None,
            begins_at_once=False,
            has_jitter=False,
            retry_seconds=RETRY_SECONDS,
            on_failure=self._on_failure,
        )

    def start(self) -> None:
        """Begins to write."""
        self._writing.start()

    def record(self, call: AuditedCall) -> None:
        """Has a call written soon. When too many wait it is lost, which the log then tells by a row of its own."""
        if len(self._waiting) >= WAITING_CALLS_MAX:
            if not self._lost:
                _log.error("the audit log loses calls: more of them wait than it can hold")
            self._lost += 1
            return
        self._waiting.append(call)
        self._writing.wake()

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
        if not self._writing.is_working:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writing.stop()
                while self._waiting or self._lost:
                    if await attempt("the audit log", self._flush(), self._on_failure) is None:
                        await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:
            _log.error(
                "the audit log loses calls: the server stops",
                calls=len(self._waiting) + self._lost,
            )

    async def _gather_and_flush(self) -> None:
        # What comes meanwhile goes along.
        await self._writing.rest(FLUSH_SECONDS)
        await self._flush()

    async def _flush(self) -> int:
        """Writes what waits. Returns how many calls."""
        written = 0
        while self._waiting:
            group = list(islice(self._waiting, FLUSH_CALLS_MAX))
            await self._insert(group)
            for _ in group:
                self._waiting.popleft()
            written += len(group)
        if lost := self._lost:
            await self._table.insert(
                [AuditedCall("", "none", LOST_METHOD, "", "", {"calls": lost}, LOST_OUTCOME)]
            )
            self._lost -= lost
        return written

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
