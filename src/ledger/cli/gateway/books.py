"""Connects a command of the gateway to the ledger, as `ledger.client` does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ledger.cli.client_settings import ClientSettings
from ledger.cli.connection import credentials_of
from ledger.cli.refusals import failure_of
from ledger.client import AsyncLedger, LedgerError
from ledger.gateway.books import PreviewBooks, RemoteBooks

Result = TypeVar("Result")


def open_ledger(settings: ClientSettings) -> AsyncLedger:
    """A client by the settings. Raises CommandFailure if the credentials cannot be used."""
    return AsyncLedger(settings.grpc_address, credentials=credentials_of(settings))


def run_with_books(
    settings: ClientSettings, work: Callable[[RemoteBooks], Awaitable[Result]], *, is_dry: bool
) -> Result:
    """What `work` returns. With `is_dry` nothing that it does is written.

    Raises CommandFailure if a call fails.
    """

    async def run() -> Result:
        async with open_ledger(settings) as ledger:
            books = PreviewBooks if is_dry else RemoteBooks
            return await work(books(ledger.service))

    try:
        return asyncio.run(run())
    except LedgerError as error:
        raise failure_of(error, settings.grpc_address) from error
