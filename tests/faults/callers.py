"""A caller that records what it will send before it sends it, and every reply."""

import asyncio
import time
from collections.abc import Sequence

import grpc
from grpc import aio

from faults.journal import AMBIGUOUS_CODES, FORBIDDEN_CODES, Call, Contents, Journal, Reply
from ledger.v1 import account_pb2_grpc, ledger_pb2, ledger_pb2_grpc, payment_pb2_grpc

KNOWN_SECONDS = 60.0
ATTEMPT_SECONDS = 5.0
PAUSE_SECONDS = 0.1
# No hidden retries: the caller sees every attempt. A server that is back is found at once.
CHANNEL_OPTIONS = (
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
)


class Caller:
    """Calls one server, and keeps the journal."""

    def __init__(
        self,
        address: str,
        journal: Journal,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        token: str = "",
    ) -> None:
        """`credentials` for a server with TLS; `token` for one with authentication."""
        self.address = address
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        if credentials is None:
            self.channel = aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self.channel = aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self.stub: ledger_pb2_grpc.LedgerServiceAsyncStub = ledger_pb2_grpc.LedgerServiceStub(
            self.channel
        )
        self.payments: payment_pb2_grpc.PaymentServiceAsyncStub = (
            payment_pb2_grpc.PaymentServiceStub(self.channel)
        )
        self.accounts: account_pb2_grpc.AccountServiceAsyncStub = (
            account_pb2_grpc.AccountServiceStub(self.channel)
        )
        self._journal = journal

    async def send(
        self, event: ledger_pb2.ProcessorEvent, *, timeout_seconds: float | None = 30.0
    ) -> Call:
        """Makes one call of IngestEvent. A cancelled caller records that the outcome is unknown."""
        self._journal.intend(event)
        sent_at = time.monotonic()
        reply, code, transaction_id = Reply.UNKNOWN, grpc.StatusCode.CANCELLED, ""
        try:
            response = await self.stub.IngestEvent(
                ledger_pb2.IngestEventRequest(event=event),
                timeout=timeout_seconds,
                metadata=self.metadata,
            )
            reply, code, transaction_id = (
                _reply_of(response.status),
                grpc.StatusCode.OK,
                response.transaction_id,
            )
        except aio.AioRpcError as error:
            code = error.code()
            reply = meaning(code)
        finally:
            call = self._record(event, sent_at, reply, code, transaction_id)
        return call

    async def send_until_known(self, event: ledger_pb2.ProcessorEvent) -> Call:
        """Sends the event until a call has a definite outcome. Raises TimeoutError."""
        async with asyncio.timeout(KNOWN_SECONDS):
            while True:
                call = await self.send(event, timeout_seconds=ATTEMPT_SECONDS)
                if call.reply.is_definite:
                    return call
                await asyncio.sleep(PAUSE_SECONDS)

    async def send_batch(
        self, events: Sequence[ledger_pb2.ProcessorEvent], *, timeout_seconds: float | None = 30.0
    ) -> list[Call]:
        """Makes one call of BatchIngestEvents. Returns a record for each event, in their order."""
        for event in events:
            self._journal.intend(event)
        sent_at = time.monotonic()
        request = ledger_pb2.BatchIngestEventsRequest(events=events)
        try:
            response = await self.stub.BatchIngestEvents(
                request, timeout=timeout_seconds, metadata=self.metadata
            )
        except aio.AioRpcError as error:
            return [
                self._record(event, sent_at, meaning(error.code()), error.code(), "")
                for event in events
            ]
        calls = []
        for event, result in zip(events, response.results, strict=True):
            code = next(code for code in grpc.StatusCode if code.value[0] == result.error.code)
            reply = _reply_of(result.status) if code is grpc.StatusCode.OK else meaning(code)
            calls.append(self._record(event, sent_at, reply, code, result.transaction_id))
        return calls

    async def close(self) -> None:
        await self.channel.close()

    def _record(
        self,
        event: ledger_pb2.ProcessorEvent,
        sent_at: float,
        reply: Reply,
        code: grpc.StatusCode,
        transaction_id: str,
    ) -> Call:
        contents = Contents.of(event)
        call = Call(
            event.event_id,
            contents,
            self.address,
            sent_at,
            time.monotonic(),
            reply,
            code,
            transaction_id,
        )
        self._journal.record(call)
        return call


def _reply_of(status: ledger_pb2.IngestStatus.ValueType) -> Reply:
    return {
        ledger_pb2.INGEST_STATUS_CREATED: Reply.CREATED,
        ledger_pb2.INGEST_STATUS_DUPLICATE: Reply.DUPLICATE,
    }[status]


def meaning(code: grpc.StatusCode) -> Reply:
    """What an error status says about the outcome."""
    if code is grpc.StatusCode.ALREADY_EXISTS:
        return Reply.CONFLICT
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Reply.NOT_NOW
    return Reply.UNKNOWN if code in AMBIGUOUS_CODES | FORBIDDEN_CODES else Reply.REFUSED
