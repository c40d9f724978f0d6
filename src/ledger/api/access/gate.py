"""The gate of a method: who may call it, how often, and the call log's record of each call.

A method gets a gate when it is registered, and only if there is something to check or to record.
Without one a call pays nothing.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

import uuid_utils
from google.protobuf.message import Message

from ledger.api.access.authentication import Authenticator, Caller, Context, Credential
from ledger.api.access.authorization import (
    REFUSED_EVENT_TYPES,
    refused_event_types,
)
from ledger.api.access.call_records import CONTENT_BY_METHOD, Content
from ledger.api.access.rate_limit import RateLimit
from ledger.api.errors import code_of
from ledger.api.methods import Method, Recorded, Scope
from ledger.api.transport.writing import Together
from ledger.application.call_log import CallLog
from ledger.application.ports.call_log import RecordedCall
from ledger.errors import DeadlineTooShort, QueueFull, RateLimited, ScopeMissing
from ledger.observability import CALLER

# A stream gets a row when it opens, before it acknowledges more than STREAM_ROW_EVENTS events since
# the last such row, STREAM_ROW_SECONDS after an event that no row counts, and when it ends.
STREAM_ROW_EVENTS = 1_000
STREAM_ROW_SECONDS = 1.0
# The outcome of a stream that has not ended.
STREAM_OPEN = "OPEN"

# Refusals that do not depend on the request: the call log counts them instead of listing each.
COUNTED_REFUSALS = (ScopeMissing, QueueFull, DeadlineTooShort)

ANY_CALLER = Caller("", Credential.NONE, frozenset(Scope))


class Gate:
    """The gate of one method.

    Without `authenticator` every caller may call it; without `call_log` nothing is recorded.
    """

    def __init__(
        self,
        method: Method,
        *,
        authenticator: Authenticator | None,
        rate_limit: RateLimit | None,
        call_log: CallLog | None,
    ) -> None:
        self._scope = method.scope
        self._scopes = method.scopes
        self._books_events = self._scope is Scope.INGEST
        self._authenticator = authenticator
        self._rate_limit = rate_limit
        self.call_log = call_log
        self.method = method.path
        content = CONTENT_BY_METHOD.get(method.name)
        self.describe = None if content is None else content.describe
        self.keep = None if content is None else content.keep
        self.is_recorded_before_response = method.recorded is Recorded.BEFORE_RESPONSE

    def call(self, context: Context, request_id: str) -> "GatedCall":
        """Admits a call. Raises NotAuthenticated, RateLimited, and ScopeMissing, which is recorded.

        The other two are not recorded: they have no caller, or would fill the log.
        """
        caller = self._caller_of(context)
        call = GatedCall(self, caller, context, request_id)
        if self._scopes.isdisjoint(caller.scopes):
            with call:
                raise ScopeMissing(self._scope)
        if self._books_events:
            REFUSED_EVENT_TYPES.set(refused_event_types(caller.scopes))
        return call

    async def admit_next(self, identify: Callable[[], Caller]) -> None:
        """Admits the next request of a stream: its caller may have expired or been removed since.

        A stream that is faster than its rate limit is slowed down and not refused. Raises
        NotAuthenticated, ScopeMissing.
        """
        while True:
            try:
                caller = self._limited(identify())
                break
            except RateLimited as limited:
                await asyncio.sleep(limited.retry_after_seconds)
        if self._scopes.isdisjoint(caller.scopes):
            raise ScopeMissing(self._scope)
        REFUSED_EVENT_TYPES.set(refused_event_types(caller.scopes))

    def identifier_of(self, context: Context) -> Callable[[], Caller] | None:
        """Identifies the caller of a stream at each request; None if every caller is admitted."""
        return None if self._authenticator is None else self._authenticator.identifier_of(context)

    def _caller_of(self, context: Context) -> Caller:
        if self._authenticator is None:
            return ANY_CALLER
        return self._limited(self._authenticator.caller_of(context))

    def _limited(self, caller: Caller) -> Caller:
        CALLER.set(caller.identity)
        # Before the scope, so that a caller without the scope is limited, too.
        if self._rate_limit is not None and (
            seconds := self._rate_limit.take((caller.credential, caller.identity))
        ):
            raise RateLimited(seconds)
        return caller


class GatedCall:
    """An admitted call. A `with` around its work records its outcome."""

    __slots__ = (
        *("_caller", "_context", "_gate", "_kept", "_request_id", "_response", "_written"),
        *("_answered", "_answered_recorded", "_events", "_stream_id", "_timer"),
    )

    def __init__(self, gate: Gate, caller: Caller, context: Context, request_id: str) -> None:
        self._gate = gate
        self._caller = caller
        self._context = context
        self._request_id = request_id
        self._kept: object = None
        self._response: Message | None = None
        self._events = 0
        self._stream_id = ""
        self._answered = 0
        self._answered_recorded = 0
        self._timer: asyncio.TimerHandle | None = None
        self._written: RecordedCall | None = None

    def read(self, request: Message) -> Message:
        """Keeps what the record needs of the request, and returns the request."""
        keep = self._gate.keep
        self._kept = request if keep is None else keep(request)
        return request

    def count(self, request: Message) -> None:
        """Counts the events of a stream's request."""
        self._events += len(getattr(request, "events", ())) or 1

    def pass_groups(self, groups: AsyncGenerator[Together]) -> AsyncGenerator[Together]:
        """Passes on the responses of a stream, and adds rows to the call log while it is open.

        So the call log has the caller of a stream that a crash ends.
        """
        call_log = self._gate.call_log
        return groups if call_log is None else self._pass_recorded(groups, call_log)

    async def _pass_recorded(
        self, groups: AsyncGenerator[Together], call_log: CallLog
    ) -> AsyncGenerator[Together]:
        """Raises DatabaseUnavailable and the like if a row cannot be written.

        The client then sends again the events that were not acknowledged.
        """
        self._stream_id = uuid_utils.uuid7().hex
        await call_log.write(self._record(STREAM_OPEN))
        try:
            async with aclosing(groups):
                async for group in groups:
                    self._answered += group.events
                    if self._answered - self._answered_recorded > STREAM_ROW_EVENTS:
                        self._answered_recorded = self._answered
                        await call_log.write(self._record(STREAM_OPEN))
                    elif self._timer is None:
                        self._timer = asyncio.get_running_loop().call_later(
                            STREAM_ROW_SECONDS, self._record_progress, call_log
                        )
                    yield group
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _record_progress(self, call_log: CallLog) -> None:
        self._timer = None
        # This row is not written yet, and a killed server never writes it. So it is not counted.
        if self._answered > self._answered_recorded:
            call_log.record(self._record(STREAM_OPEN))

    async def keep_response(self, response: Message) -> None:
        """Keeps the response for the record. Writes the record now if the response waits for it.

        Raises DatabaseUnavailable and the like if it cannot. The call took effect then; a client
        may repeat it.
        """
        self._response = response
        if self._gate.call_log is not None and self._gate.is_recorded_before_response:
            self._written = self._record("OK")
            await self._gate.call_log.write(self._written)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._gate.call_log is None:
            return
        if self._written is None:
            record = self._gate.call_log.record
            if isinstance(error, COUNTED_REFUSALS) and not self._stream_id:
                record = self._gate.call_log.record_refusal
            record(self._record(code_of(error)))
        elif error is not None:
            # Whether the row was written is not known. Writing it again adds no second one.
            self._gate.call_log.record(self._written)

    def _record(self, outcome: str) -> RecordedCall:
        content: Content = {}
        if self._stream_id:
            content = {
                "stream": self._stream_id,
                "events": self._events,
                "answered": self._answered,
            }
        elif self._kept is not None and self._gate.describe is not None:
            content = self._gate.describe(self._kept, self._response)
        caller = self._caller
        return RecordedCall(
            caller.identity,
            caller.credential,
            self._gate.method,
            self._request_id,
            self._context.peer(),
            content,
            outcome,
        )
