"""A server whose service has a defect."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from grpc import aio

from ledger.api.ledger_service import LedgerService
from ledger.api.server import Server
from ledger.api.transport.writing import Together
from ledger.v1 import ledger_pb2, ledger_pb2_grpc


class _Raising(LedgerService):
    """A service with a defect in one method and without its other parts."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def GetEvent(self, request: Any, context: Any) -> ledger_pb2.GetEventResponse:
        raise self._error

    async def StreamEvents(  # type: ignore[override]  # as the service does
        self, requests: Any, context: Any
    ) -> AsyncGenerator[Together]:
        async for _ in requests:
            yield Together([b""], events=1, on_write=lambda: None)
            raise self._error


def raising_service(error: BaseException) -> LedgerService:
    """A service that raises `error`."""
    return _Raising(error)


async def ping_well() -> None:
    """A database that answers."""


@asynccontextmanager
async def raising_server(
    error: BaseException,
) -> AsyncIterator["ledger_pb2_grpc.LedgerServiceAsyncStub"]:
    """A server whose service raises `error`."""
    server = Server(raising_service(error), address="127.0.0.1:0", reflect=False, ping=ping_well)
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield ledger_pb2_grpc.LedgerServiceStub(channel)
    finally:
        await server.stop(0)
