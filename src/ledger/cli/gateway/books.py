"""Connects a command of the gateway to the ledger, as `ledger.client` does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ledger.cli.client_settings import ClientSettings
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.client import AsyncLedger, Credentials, CredentialsError, LedgerError
from ledger.gateway.books import PreviewBooks, RemoteBooks

Result = TypeVar("Result")


def open_ledger(settings: ClientSettings) -> AsyncLedger:
    """A client by the settings. Raises CommandFailure if the credentials cannot be used."""
    try:
        return AsyncLedger(
            settings.grpc_address,
            credentials=Credentials(
                tls_ca=settings.client_tls_ca_file,
                certificate=settings.client_tls_certificate_file,
                key=settings.client_tls_key_file,
                token=settings.client_token_file,
            ),
        )
    except (CredentialsError, ValueError, OSError) as error:
        raise CommandFailure(str(error), exit_status=ExitStatus.USAGE) from error


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
        raise CommandFailure(
            f"{settings.grpc_address}: {error}",
            exit_status=ExitStatus.UNREACHABLE if error.is_retryable else ExitStatus.REFUSED,
        ) from error
