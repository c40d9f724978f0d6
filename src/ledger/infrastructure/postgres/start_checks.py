"""What a server asks of its database before it serves: the schema, commits that are safe, a role that may change nothing."""

from contextlib import aclosing

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.errors import LedgerError
from ledger.infrastructure.postgres.engine import APPLICATION_ROLE, SAFE_COMMITS, connect
from ledger.infrastructure.postgres.migrations import current_revision, head_revision
from ledger.infrastructure.postgres.privileges import excessive_privileges
from ledger.infrastructure.postgres.snapshots import number_ahead

# The settings of PostgreSQL without which an acknowledged commit is not safe, and their safe values. `local` and `remote_write`
# are not among them: where there is a synchronous standby, a failover to it may lose what those acknowledged.
DURABLE_VALUES = {"fsync": ("on",), "full_page_writes": ("on",), "synchronous_commit": SAFE_COMMITS}

_log = structlog.get_logger("ledger")


class NotDurable(Exception):
    """The database is set so that a crash may take back what it has acknowledged."""


class TooPrivileged(Exception):
    """The server would log in as a role that may change or remove what is recorded."""


class SchemaMismatch(Exception):
    """The database's schema is not the one this code was written for."""


async def check_before_serving(engine: AsyncEngine, *, require_durable: bool, require_restricted_role: bool) -> None:
    """Raises SchemaMismatch, NotDurable, TooPrivileged or DatabaseUnavailable when no server may or can run on the database."""
    await check_schema(engine)
    if require_durable:
        await check_durability(engine)
    if require_restricted_role:
        await check_privileges(engine)


async def check_schema(engine: AsyncEngine) -> None:
    """Raises SchemaMismatch when the database has not the newest schema that this code knows, DatabaseUnavailable."""
    revision, head = await current_revision(engine), head_revision()
    if revision != head:
        raise SchemaMismatch(
            f"the database has schema revision {revision or 'none'}, this server needs {head}: "
            "run `ledger migrate` (or `make migrate`), or a server of the same version"
        )


async def check_durability(engine: AsyncEngine) -> None:
    """Raises NotDurable when the database may forget what it has acknowledged, DatabaseUnavailable."""
    async with aclosing(await connect(engine)) as connection:
        for name, values in DURABLE_VALUES.items():
            # What it is without the session's own settings.
            value = await connection.scalar(text("SELECT reset_val FROM pg_settings WHERE name = :name"), {"name": name})
            if value not in values:
                raise NotDurable(
                    f"the database has {name} = {value}, so it may forget what it has acknowledged: set it to {values[0]}, "
                    "or LEDGER_REQUIRE_DURABLE_DATABASE=false for books that nobody will miss"
                )


async def check_privileges(engine: AsyncEngine) -> None:
    """Raises TooPrivileged when the session's role, or the one that logged in, may change the books; DatabaseUnavailable."""
    excesses = await excessive_privileges(engine)
    if not excesses:
        return
    role, sentences = excesses[0]
    more = f", and {len(sentences) - 1} more of the kind" if len(sentences) > 1 else ""
    if role == APPLICATION_ROLE:
        remedy = "revoke it, which `ledger verify` lists in full"
    else:
        remedy = (
            f"log in as {APPLICATION_ROLE}, which may only add to them (as a superuser: ALTER ROLE {APPLICATION_ROLE} "
            f"PASSWORD '…'; then LEDGER_DATABASE_URL=postgresql://{APPLICATION_ROLE}:…@host/database), and keep the mightier URL "
            "in LEDGER_MIGRATION_DATABASE_URL, for `ledger migrate`"
        )
    raise TooPrivileged(
        f"the database role {role} {sentences[0]}{more}, so whoever has the server's connection can change the books: {remedy}; "
        "or set LEDGER_REQUIRE_RESTRICTED_ROLE=false to try things out"
    )


async def warn_of_numbers_ahead(engine: AsyncEngine) -> None:
    """Says so if entries have transaction numbers that the cluster has yet to give out, as after a restore into another one."""
    try:
        ahead = await number_ahead(engine)
    except LedgerError as error:
        # With very many accounts there is no time for it; the audit will tell.
        _log.info("the transaction numbers were not compared with the cluster's", error=type(error).__name__)
        return
    if ahead is not None:
        _log.warning(
            "entries have transaction numbers ahead of this cluster: answers are right, but read more of the history; "
            "docs/operations.md, Backup and restore, tells how to raise the cluster's numbers",
            recorded_txid=ahead[0],
            next_txid=ahead[1],
        )
