"""The frame of a call, around a handler and a context that stand for the library's."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from grpc import aio
from structlog.testing import capture_logs
from support.health import SERVICE
from support.waiting import run_ready_tasks, until

from ledger.api.call_frame import CallFrame
from ledger.api.call_limits import CallLimits
from ledger.api.metrics import NoCallMetrics
from ledger.api.transport import receiving
from ledger.errors import QueueFull
from ledger.v1 import ledger_pb2


class Library:
    """Takes the handlers that the frame registers, as a server of the library does."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_registered_method_handlers(self, _: str, handlers: dict[str, Any]) -> None:
        self.handlers |= handlers

    def add_generic_rpc_handlers(self, _: Any) -> None:
        pass


class Context:
    """A call whose client sends nothing, and leaves while the server refuses the call.

    As in the library: `abort` may be called once, and its status waits for the connection. The call
    must end with the exception that a later read raises, and with no other.
    """

    def __init__(self) -> None:
        self.statuses: list[status_pb2.Status] = []
        self.has_left = asyncio.Event()
        self.abort_exception = aio.AbortError("Locally aborted.")

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def set_trailing_metadata(self, _: object) -> None:
        pass

    def time_remaining(self) -> None:
        return None

    def add_done_callback(self, _: object) -> None:
        pass

    async def read(self) -> object:
        if self.statuses:
            raise self.abort_exception
        await self.has_left.wait()
        return aio.EOF

    async def abort(self, _code: object, _message: str, trailers: Any) -> None:
        if self.statuses:
            raise aio.UsageError("Abort already called!")
        self.statuses.append(
            status_pb2.Status.FromString(dict(trailers)["grpc-status-details-bin"])
        )
        self.has_left.set()
        await asyncio.Event().wait()


async def never(_: object, _context: object) -> object:
    raise AssertionError("no request came")


async def test_call_that_is_refused_while_its_client_leaves_ends_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The refusal of a slow request and the end of its connection may come in one moment."""
    monkeypatch.setattr(receiving, "END_SECONDS", 0.0)
    library: Any = Library()
    frame = CallFrame(library, CallLimits(), NoCallMetrics())
    handler: Any = grpc.unary_unary_rpc_method_handler(
        never, ledger_pb2.IngestEventRequest.FromString, None
    )
    frame.add_registered_method_handlers(SERVICE, {"IngestEvent": handler})
    context: Any = Context()
    with capture_logs() as logs:
        call = asyncio.create_task(library.handlers["IngestEvent"].stream_unary(None, context))
        await until(lambda: bool(frame._receiving._reading))
        (reading,) = frame._receiving._reading
        frame._receiving._give_up(reading, QueueFull())
        with pytest.raises(aio.AbortError) as caught:
            await call
        await run_ready_tasks()
    assert caught.value is context.abort_exception
    assert [status.code for status in context.statuses] == [8]
    assert [entry["error"] for entry in logs if "error" in entry] == ["QueueFull"]
