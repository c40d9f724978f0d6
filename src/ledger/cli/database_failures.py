"""Turns failures of the database and of listening into messages of a command."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError

from ledger.api.access.security import SecurityMisconfigured
from ledger.api.transport.listening import AddressUnavailable
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.database_url import shown_url
from ledger.errors import DatabaseUnavailable, LedgerError
from ledger.infrastructure.postgres.embedded import EmbeddedPostgresError
from ledger.infrastructure.postgres.schema.failures import CannotMigrate
from ledger.infrastructure.postgres.sessions.errors import sentence_of
from ledger.infrastructure.postgres.sessions.hosts import EnvironmentMisconfigured
from ledger.infrastructure.postgres.verification.start_checks import UnfitDatabase

_NEW_DATABASE = (
    "on a new database run `ledger migrate` first, and give the role ledger_app its password"
)
_HINT_BY_SQLSTATE = {
    "22023": _NEW_DATABASE,  # a role that does not exist
    "28000": _NEW_DATABASE,  # the same, by name
    "28P01": _NEW_DATABASE,  # wrong password
    # A missing privilege.
    "42501": (
        "`ledger migrate` grants what is missing; its LEDGER_MIGRATION_DATABASE_URL must name a"
        " superuser, or a member of ledger_owner"
    ),
}

_HINT_OF_CONNECT = "as a superuser, GRANT CONNECT ON DATABASE … TO the role that logs in"


@contextmanager
def database_failures(url: str) -> Iterator[None]:
    """Raises CommandFailure instead of an error of the block that an operator can remedy.

    Other errors are defects and pass unchanged. `url` is the database's, empty for the embedded
    one.
    """
    where = f"the database {shown_url(url)}" if url else "the embedded database"
    try:
        yield
    except (AddressUnavailable, CannotMigrate, EmbeddedPostgresError, UnfitDatabase) as error:
        raise CommandFailure(str(error)) from error
    except (EnvironmentMisconfigured, SecurityMisconfigured) as error:
        raise CommandFailure(str(error), exit_status=ExitStatus.USAGE) from error
    except DatabaseUnavailable as error:
        cause = error.__cause__ or error
        lines = [f"{where} cannot be reached: {sentence_of(cause)}", *_hints(cause)]
        raise CommandFailure(*lines, exit_status=ExitStatus.UNREACHABLE) from error
    except LedgerError as error:
        raise CommandFailure(
            f"{where} could not do the work: {sentence_of(error.__cause__ or error)}"
        ) from error
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise CommandFailure(f"{where} refuses: {sentence_of(error)}", *_hints(error)) from error


def _hints(error: BaseException) -> list[str]:
    """What an operator can do about the error; empty if we know nothing."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    sqlstate = getattr(error, "sqlstate", None) or ""
    # The only privilege whose lack ends a session is CONNECT, checked when the session opens.
    if sqlstate == "42501" and getattr(error, "severity_en", None) == "FATAL":
        return [_HINT_OF_CONNECT]
    hint = _HINT_BY_SQLSTATE.get(sqlstate)
    return [hint] if hint else []
