"""What can go wrong with the database or the port of a command that works without a server, in a line each."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from ledger.api.server import AddressUnavailable
from ledger.bootstrap import SchemaMismatch
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.errors import DatabaseUnavailable, LedgerError
from ledger.infrastructure.postgres.embedded import EmbeddedPostgresError
from ledger.infrastructure.postgres.migrations import CannotMigrate


@contextmanager
def database_failures(url: str, *, unreachable: ExitStatus) -> Iterator[None]:
    """Raises CommandFailure for what the block raises and an operator can do something about; defects pass as they are.

    `url` is the database's, empty for the embedded one; `unreachable` is the exit status when nobody answers there.
    """
    where = f"the database {make_url(url).render_as_string(hide_password=True)}" if url else "the embedded database"
    try:
        yield
    except (AddressUnavailable, CannotMigrate, EmbeddedPostgresError, SchemaMismatch) as error:
        raise CommandFailure(str(error)) from error
    except DatabaseUnavailable as error:
        cause = _sentence_of(error.__cause__ or error)
        raise CommandFailure(f"{where} cannot be reached: {cause}", exit_status=unreachable) from error
    except LedgerError as error:
        raise CommandFailure(f"{where} could not do the work: {_sentence_of(error.__cause__ or error)}") from error
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandFailure(f"{where} refuses: {_sentence_of(error)}") from error


def _sentence_of(error: BaseException) -> str:
    """What the database said, without what the libraries around the driver add to it."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    return str(error) or type(error).__name__
