"""The call log: who called what, for every call that writes.

Calls that start payouts or change a restaurant are written before their response. Calls that send
events are written in groups, after the response: each event is a row in the books, so a crash loses
who sent the event, but not the event. Refusals that do not depend on the request, such as a missing
scope, are counted, so that no caller can fill the log with them.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice

import structlog

from ledger.application.halving import in_halves
from ledger.application.ports.call_log import CallLogTable, RecordedCall
from ledger.application.repeats import Repeats
from ledger.errors import QueryRefused
from ledger.repeating import Repeating, ReportFailure, run_or_report

_log = structlog.get_logger("ledger")

FLUSH_SECONDS = 0.1
FLUSH_CALLS_MAX = 2_000
# A few seconds at a server's full load: an outage that short loses no call.
WAITING_CALLS_MAX = 50_000
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 5.0
# The method and the outcome of the row that counts lost calls.
LOST_METHOD = "audit_log"
LOST_OUTCOME = "DATA_LOSS"


class CallLog:
    """Accepts calls without waiting, and writes them in groups."""

    def __init__(self, table: CallLogTable, *, on_failure: ReportFailure) -> None:
        self._table = table
        self._on_failure = on_failure
        self._waiting: deque[RecordedCall] = deque()
        self._lost = 0
        self._refused: Repeats[tuple[str, str, str, str]] = Repeats(self._record_refusals)
        self._writing = Repeating(
            "the call log",
            self._gather_and_flush,
            every_seconds=None,
            begins_at_once=False,
            has_jitter=False,
            retry_seconds=RETRY_SECONDS,
            on_failure=on_failure,
        )

    def start(self) -> None:
        self._writing.start()

    def record(self, call: RecordedCall) -> None:
        """Queues a call, to be written soon. If WAITING_CALLS_MAX calls wait, it is lost.

        Lost calls are counted. A row with their number follows the waiting calls.
        """
        if len(self._waiting) >= WAITING_CALLS_MAX:
            if not self._lost:
                _log.error("the call log loses calls: more of them wait than it can hold")
            self._lost += 1
            return
        self._waiting.append(call)
        self._writing.wake()

    def record_refusal(self, call: RecordedCall) -> None:
        """Records a call that was refused for a reason other than its request.

        The first refusal of a caller, method and outcome gets a row. Repeats are counted: every few
        seconds a row gives their number, without request id and address.
        """
        if self._refused.is_first((call.identity, call.credential, call.method, call.outcome)):
            self.record(call)

    def _record_refusals(self, kind: tuple[str, str, str, str], calls: int) -> None:
        identity, credential, method, outcome = kind
        self.record(RecordedCall(identity, credential, method, "", "", {"calls": calls}, outcome))

    async def write(self, call: RecordedCall) -> None:
        """Writes a call at once. Raises as CallLogTable.insert does."""
        await self._table.insert([call])

    async def close(self) -> None:
        """Writes what waits, for at most CLOSE_SECONDS. Logs how many calls are lost then."""
        self._refused.flush()
        if not self._writing.is_working:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writing.stop()
                while self._waiting or self._lost:
                    if await run_or_report("the call log", self._flush(), self._on_failure) is None:
                        await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:
            _log.error(
                "the call log loses calls: the server stops",
                calls=len(self._waiting) + self._lost,
            )

    async def _gather_and_flush(self) -> None:
        # Calls that come during this pause are written in the same group.
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
                [RecordedCall("", "none", LOST_METHOD, "", "", {"calls": lost}, LOST_OUTCOME)]
            )
            self._lost -= lost
        return written

    async def _insert(self, group: Sequence[RecordedCall]) -> None:
        """Stores a group. Logs and drops a call that the database refuses, so it holds up no other.

        Raises QueryRefused if the database refuses every call of the group, and at least one for a
        reason other than its data: then the fault lies elsewhere, and the calls wait.
        """
        parts = await in_halves(self._table.insert, group)
        refused = [(calls[0], error) for calls, error in parts if error is not None]
        if len(refused) == len(group):
            for _, error in refused:
                if isinstance(error, QueryRefused):
                    raise error
        for call, error in refused:
            self._on_failure(
                f"the call log loses a call of {call.identity}: the database refuses it", error
            )
