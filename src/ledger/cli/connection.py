"""Connects a command to the server, by the client that callers use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.cli.client_settings import ClientSettings
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.refusals import failure_of

# Imported by the first call: gRPC takes longer to load than the rest of a command.
if TYPE_CHECKING:
    from ledger.client import Credentials, Ledger


@contextmanager
def connect(settings: ClientSettings) -> Iterator["Ledger"]:
    """Yields a client for the server of the settings, with their credentials.

    Raises CommandFailure if a call in the block fails, or if the credentials cannot be used.
    """
    with _failing(settings.grpc_address, credentials_of(settings)) as ledger:
        yield ledger


@contextmanager
def connect_plainly(address: str) -> Iterator["Ledger"]:
    """As `connect`, for a server that asks for no credentials, whatever the settings say."""
    with _failing(address, None) as ledger:
        yield ledger


@contextmanager
def _failing(address: str, credentials: "Credentials | None") -> Iterator["Ledger"]:
    from ledger.client import Ledger, LedgerError

    with Ledger(address, credentials=credentials) as ledger:
        try:
            yield ledger
        except LedgerError as error:
            raise failure_of(error, address) from error


def credentials_of(settings: ClientSettings) -> "Credentials":
    """The credentials of the settings, read once to see that they can be used.

    Raises CommandFailure.
    """
    authorities, certificate, key = (
        settings.client_tls_ca_file,
        settings.client_tls_certificate_file,
        settings.client_tls_key_file,
    )
    if (certificate is None) != (key is None):
        raise CommandFailure(
            "LEDGER_CLIENT_TLS_CERTIFICATE_FILE and LEDGER_CLIENT_TLS_KEY_FILE go together",
            exit_status=ExitStatus.USAGE,
        )
    if authorities is None and certificate is not None:
        raise CommandFailure(
            "LEDGER_CLIENT_TLS_CERTIFICATE_FILE does nothing without LEDGER_CLIENT_TLS_CA_FILE",
            exit_status=ExitStatus.USAGE,
        )
    from ledger.client import Credentials, CredentialsError

    credentials = Credentials(
        tls_ca=_read(authorities),
        certificate=_read(certificate),
        key=_read(key),
        token=settings.client_token_file,
    )
    try:
        credentials.token_source()
    except OSError as error:
        raise _unreadable(error) from error
    except CredentialsError as error:
        raise CommandFailure(str(error), exit_status=ExitStatus.USAGE) from error
    try:
        credentials.check(settings.grpc_address)
    except CredentialsError as error:
        raise CommandFailure(
            f"{error}: set LEDGER_CLIENT_TLS_CA_FILE", exit_status=ExitStatus.USAGE
        ) from error
    return credentials


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> CommandFailure:
    return CommandFailure(
        f"cannot read {error.filename}: {error.strerror}", exit_status=ExitStatus.USAGE
    )
