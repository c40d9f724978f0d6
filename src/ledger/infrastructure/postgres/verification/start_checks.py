"""What a server asks of its database before it serves: sessions, encoding, schema, commits, roles."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.errors import DatabaseUnavailable, LedgerError
from ledger.infrastructure.postgres.schema.migrations import (
    ENCODING,
    MayNotRead,
    current_revision,
    head_revision,
)
from ledger.infrastructure.postgres.schema.newest_schema import tables
from ledger.infrastructure.postgres.schema.privileges import (
    excessive_privileges,
    lacking_privileges,
)
from ledger.infrastructure.postgres.schema.sequences import lagging_sequences
from ledger.infrastructure.postgres.schema.triggers import triggers_off
from ledger.infrastructure.postgres.sessions.clock import SELECT_CLOCKS, SKEW_SECONDS_MAX, host_now
from ledger.infrastructure.postgres.sessions.engine import (
    APPLICATION_ROLE,
    SAFE_COMMITS,
    SESSION_SETTINGS,
    UNKNOWN_STATEMENT_SQLSTATES,
    autocommit,
    connect,
    keeps_session,
)
from ledger.infrastructure.postgres.sessions.errors import database_errors, sqlstate_of
from ledger.infrastructure.postgres.snapshots import number_ahead

# The settings of PostgreSQL without which an acknowledged commit is not safe, and their safe values. `local` and `remote_write`
# are not among them: where there is a synchronous standby, a failover to it may lose what those acknowledged.
DURABLE_VALUES = {"fsync": ("on",), "full_page_writes": ("on",), "synchronous_commit": SAFE_COMMITS}

_log = structlog.get_logger("ledger")

# What a role must not be set to differently than the sessions of a server set it: they are not
# harmed, but others of that role are. Those that follow are left to the administrator.
_SESSION_SETTINGS = (*SESSION_SETTINGS, "search_path", "synchronous_commit")
# Of several complaints of one kind.
_COMPLAINTS_SHOWN = 3

SELECT_ROLE_SETTINGS = """
SELECT COALESCE('the role ' || r.rolname, 'the database ' || d.datname, 'every role') AS whose, setting
FROM pg_catalog.pg_db_role_setting AS s
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase AND r.oid IS NULL
CROSS JOIN LATERAL unnest(s.setconfig) AS setting
WHERE (s.setdatabase = 0 OR s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
  AND (s.setrole = 0 OR r.rolname IN (session_user, current_user))
  AND split_part(setting, '=', 1) = ANY (CAST(:names AS text[]))
  -- The path of a database is how its books get a schema of another name.
  AND NOT (s.setrole = 0 AND setting LIKE 'search_path=%')
ORDER BY whose, setting
"""


SELECT_SUBSCRIPTIONS = """
SELECT DISTINCT s.subname::text
FROM pg_catalog.pg_subscription_rel AS r
JOIN pg_catalog.pg_subscription AS s ON s.oid = r.srsubid
WHERE r.srrelid IN (SELECT to_regclass(t.name) FROM unnest(CAST(:tables AS text[])) AS t (name))
ORDER BY 1
"""


class UnfitDatabase(Exception):
    """No server can or should run on the database: why, and what to do about it."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(f"{detail}: {remedy}")
        self.detail = detail
        self.remedy = remedy


class DoubtfulDatabase(UnfitDatabase):
    """A server runs on the database, and its operator should look at something."""


class NotDurable(UnfitDatabase):
    """The database is set so that a crash may take back what it has acknowledged."""


class TooPrivileged(UnfitDatabase):
    """The server would log in as a role that may change or remove what is recorded."""


class SchemaMismatch(UnfitDatabase):
    """The database's schema is not the one this code was written for."""


async def check_before_serving(
    engine: AsyncEngine, *, require_durable: bool, require_restricted_role: bool
) -> None:
    """Logs what is doubtful about the database. `engine` has two connections at least.

    Raises UnfitDatabase or DatabaseUnavailable when no server may or can run on it.
    """
    for check in (check_sessions, check_encoding, check_schema, check_subscriptions):
        await check(engine)
    if require_durable:
        await check_durability(engine)
    if require_restricted_role:
        await check_privileges(engine)
    for check in (
        check_grants,
        check_sequences,
        check_triggers,
        check_role_settings,
        check_writable,
    ):
        try:
            await check(engine)
        except DoubtfulDatabase as doubt:
            _log.warning(doubt.detail, remedy=doubt.remedy)


async def check_sessions(engine: AsyncEngine) -> None:
    """Raises UnfitDatabase unless two connections have a session each, and keep it; DatabaseUnavailable.

    A connection pooler may give every transaction another session: what one has set is not there.
    Its prepared statements are not there either, which is why nothing else is to be asked before.
    """
    remedy = (
        "let it keep a session for each connection (PgBouncer: pool_mode = session, server_reset_query = DISCARD ALL),"
        " or connect to PostgreSQL itself"
    )
    detail = "a connection pooler before the database does not keep sessions"
    try:
        with database_errors():
            async with autocommit(engine) as first, autocommit(engine) as second:
                # No two of the same pattern: a pooler may use its sessions in turn.
                for connection in (first, first, second, first, second, second, first):
                    if not await keeps_session(connection):
                        raise UnfitDatabase(detail, remedy)
    except DatabaseUnavailable as error:
        if sqlstate_of(error.__cause__) in UNKNOWN_STATEMENT_SQLSTATES:
            raise UnfitDatabase(detail, remedy) from error
        raise


async def check_encoding(engine: AsyncEngine) -> None:
    """Raises UnfitDatabase when the database cannot keep every text; DatabaseUnavailable."""
    encoding = await _asked(engine, "SELECT current_setting('server_encoding')")
    if encoding != ENCODING:
        raise UnfitDatabase(
            f"the database has the encoding {encoding}, which cannot keep every text",
            f"create one with ENCODING '{ENCODING}' TEMPLATE template0, and move the books there: "
            "docs/operations/backup.md, Moving house",
        )


async def check_schema(engine: AsyncEngine) -> None:
    """Raises SchemaMismatch when the database has not the newest schema that this code knows, DatabaseUnavailable."""
    try:
        revision, head = await current_revision(engine), head_revision()
    except MayNotRead as error:
        raise _lacking([str(error)]) from error
    if revision != head:
        raise SchemaMismatch(
            f"the database has schema revision {revision or 'none'}, this server needs {head}",
            "run `ledger migrate` (or `make migrate`), or a server of the same version",
        )


async def check_subscriptions(engine: AsyncEngine) -> None:
    """Raises UnfitDatabase while a subscription brings rows into the books; DatabaseUnavailable.

    What a server counted meanwhile would lack the rows that come later.
    """
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            rows = await connection.execute(text(SELECT_SUBSCRIPTIONS), {"tables": list(tables())})
            found = [f"the subscription {name} brings rows into the books" for (name,) in rows]
    if found:
        raise UnfitDatabase(
            _some(found),
            "finish the move and drop the subscription, then start servers: docs/operations/backup.md, Moving house",
        )


async def check_durability(engine: AsyncEngine) -> None:
    """Raises NotDurable when the database may forget what it has acknowledged, DatabaseUnavailable."""
    for name, values in DURABLE_VALUES.items():
        # What it is without the session's own settings.
        value = await _asked(
            engine, "SELECT reset_val FROM pg_catalog.pg_settings WHERE name = :name", name=name
        )
        if value not in values:
            raise NotDurable(
                f"the database has {name} = {value}, so it may forget what it has acknowledged",
                f"set it to {values[0]}, or LEDGER_REQUIRE_DURABLE_DATABASE=false for books that nobody will miss",
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
        f"the database role {role} {sentences[0]}{more}, so whoever has the server's connection can change the books",
        f"{remedy}; or set LEDGER_REQUIRE_RESTRICTED_ROLE=false to try things out",
    )


async def check_grants(engine: AsyncEngine) -> None:
    """Raises UnfitDatabase when the server's role may not do what it has to; DatabaseUnavailable.

    The newest schema must be there: `check_schema` comes first.
    """
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            lacking = await lacking_privileges(connection, (APPLICATION_ROLE,))
    if lacking:
        raise _lacking([privilege.sentence for privilege in lacking])


async def check_sequences(engine: AsyncEngine) -> None:
    """Raises UnfitDatabase when a sequence would give what its table has already; DatabaseUnavailable."""
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            lagging = await lagging_sequences(connection)
    if lagging:
        raise UnfitDatabase(lagging[0].sentence, "run `ledger migrate`, which moves it past them")


async def check_triggers(engine: AsyncEngine) -> None:
    """Raises DoubtfulDatabase when a trigger is not on as it was made; DatabaseUnavailable."""
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            found = [sentence for _, _, sentence in await triggers_off(connection)]
    if found:
        raise DoubtfulDatabase(
            _some(found), "run `ledger migrate`, which turns them on as they were made"
        )


async def check_role_settings(engine: AsyncEngine) -> None:
    """Raises DoubtfulDatabase when the role or the database is set to what a server would not have; DatabaseUnavailable."""
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            rows = await connection.execute(
                text(SELECT_ROLE_SETTINGS), {"names": list(_SESSION_SETTINGS)}
            )
            found = [f"{whose} has {setting}" for whose, setting in rows]
    if found:
        raise DoubtfulDatabase(
            _some(found),
            "the sessions of servers set it themselves; if nobody else needs it, take it back (ALTER ROLE … RESET …)",
        )


async def check_writable(engine: AsyncEngine) -> None:
    """Raises DoubtfulDatabase when the database takes no writes now; DatabaseUnavailable."""
    if await _asked(engine, "SELECT current_setting('transaction_read_only')") == "on":
        raise DoubtfulDatabase(
            "the database takes no writes: it is a standby, or was made read-only",
            "a server says NOT_SERVING until it is promoted, or takes writes again",
        )


async def check_clocks(
    engine: AsyncEngine, *, host_clock: Callable[[], datetime] = host_now
) -> None:
    """Raises DoubtfulDatabase if the database's clock differs from the host's, or is behind the latest record."""
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            before_at = host_clock()
            row = (await connection.execute(text(SELECT_CLOCKS))).one()
            after_at = host_clock()
    remedy = "set the clock that is wrong: docs/operations/databases.md, Clocks"
    tolerance = timedelta(seconds=SKEW_SECONDS_MAX)
    if row.database_at > after_at + tolerance:
        ahead_seconds = (row.database_at - after_at).total_seconds()
        raise DoubtfulDatabase(
            f"the database's clock is {ahead_seconds:.0f} s ahead of this host's", remedy
        )
    if row.database_at < before_at - tolerance:
        behind_seconds = (before_at - row.database_at).total_seconds()
        raise DoubtfulDatabase(
            f"the database's clock is {behind_seconds:.0f} s behind this host's", remedy
        )
    if row.ledger_at > row.database_at + tolerance:
        behind_seconds = (row.ledger_at - row.database_at).total_seconds()
        raise DoubtfulDatabase(
            f"the database's clock is {behind_seconds:.0f} s behind the latest record", remedy
        )


async def check_numbers(engine: AsyncEngine) -> None:
    """Raises DoubtfulDatabase if entries have transaction numbers that the cluster has yet to give out."""
    ahead = await number_ahead(engine)
    if ahead is not None:
        raise DoubtfulDatabase(
            f"entries have transaction numbers up to {ahead[0]}, this cluster is at {ahead[1]}: "
            "answers are right, but read more of the history",
            "docs/operations/backup.md, Backup and restore, tells how to raise the cluster's numbers",
        )


def _lacking(sentences: Sequence[str]) -> UnfitDatabase:
    return UnfitDatabase(
        f"the role {APPLICATION_ROLE} lacks privileges: {_some(sentences)}",
        "run `ledger migrate`, which grants what is missing",
    )


def _some(sentences: Sequence[str]) -> str:
    more = len(sentences) - _COMPLAINTS_SHOWN
    return ", ".join(sentences[:_COMPLAINTS_SHOWN]) + (f", and {more} more" if more > 0 else "")


async def _asked(engine: AsyncEngine, statement: str, **parameters: str) -> str:
    with database_errors():
        async with aclosing(await connect(engine)) as connection:
            return str(await connection.scalar(text(statement), parameters))


async def warn_of_numbers_ahead(engine: AsyncEngine) -> None:
    """Says so if entries have transaction numbers that the cluster has yet to give out, as after a restore into another one."""
    try:
        ahead = await number_ahead(engine)
    except LedgerError as error:
        # With very many accounts there is no time for it; the audit will tell.
        _log.info(
            "the transaction numbers were not compared with the cluster's",
            error=type(error).__name__,
        )
        return
    if ahead is not None:
        _log.warning(
            "entries have transaction numbers ahead of this cluster: answers are right, but read more of the history; "
            "docs/operations/backup.md, Backup and restore, tells how to raise the cluster's numbers",
            recorded_txid=ahead[0],
            next_txid=ahead[1],
        )
