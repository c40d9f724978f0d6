"""What a server checks before it serves: sessions, encoding, schema, durability, privileges."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.errors import DatabaseUnavailable, LedgerError
from ledger.infrastructure.postgres.schema.failures import MayNotRead
from ledger.infrastructure.postgres.schema.migrations import (
    ENCODING,
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
    keeps_session,
)
from ledger.infrastructure.postgres.sessions.errors import database_errors, sqlstate_of
from ledger.infrastructure.postgres.snapshots import txid_ahead

# The settings of PostgreSQL that make an acknowledged commit safe, with their safe values. `local`
# and `remote_write` are not safe: a failover to a synchronous standby may lose such commits.
DURABLE_VALUES = {"fsync": ("on",), "full_page_writes": ("on",), "synchronous_commit": SAFE_COMMITS}

_log = structlog.get_logger("ledger")

# Sessions of servers set these themselves, whatever values a role or the database has. Sessions of
# other programs do not, so the operator gets a warning about such values.
_SESSION_SETTINGS = (*SESSION_SETTINGS, "search_path", "synchronous_commit")
# How many sentences of a kind a message shows. Of the others it says how many they are.
_SENTENCES_SHOWN = 3
_RAISE_TXIDS = (
    "docs/operations/backup.md, Backup and restore, says how to raise the cluster's numbers"
)

SELECT_ROLE_SETTINGS = """
SELECT COALESCE('the role ' || r.rolname, 'the database ' || d.datname, 'every role') AS owner,
       setting
FROM pg_catalog.pg_db_role_setting AS s
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase AND r.oid IS NULL
CROSS JOIN LATERAL unnest(s.setconfig) AS setting
WHERE (s.setdatabase = 0 OR s.setdatabase = (
         SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
  AND (s.setrole = 0 OR r.rolname IN (session_user, current_user))
  AND split_part(setting, '=', 1) = ANY ($1::text[])
  -- A path of the database is right: with it the books are in a schema of another name.
  AND NOT (s.setrole = 0 AND setting LIKE 'search_path=%')
ORDER BY owner, setting
"""

SELECT_SUBSCRIPTIONS = """
SELECT DISTINCT s.subname::text AS name
FROM pg_catalog.pg_subscription_rel AS r
JOIN pg_catalog.pg_subscription AS s ON s.oid = r.srsubid
WHERE r.srrelid IN (SELECT to_regclass(t.name) FROM unnest($1::text[]) AS t (name))
ORDER BY 1
"""

SELECT_SETTING = "SELECT reset_val FROM pg_catalog.pg_settings WHERE name = $1"


class UnfitDatabase(Exception):
    """No server can or may run on the database: the reason, and what to do about it."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(f"{detail}: {remedy}")
        self.detail = detail
        self.remedy = remedy


class DoubtfulDatabase(UnfitDatabase):
    """A server can run on the database, but the operator should look at something."""


class NotDurable(UnfitDatabase):
    """The database has settings with which a crash may undo acknowledged commits."""


class TooPrivileged(UnfitDatabase):
    """The server would log in as a role that may change or remove recorded rows."""


class SchemaMismatch(UnfitDatabase):
    """The database's schema is not the one that this code needs."""


async def check_before_serving(
    engine: AsyncEngine, *, require_durable: bool, require_restricted_role: bool
) -> None:
    """Makes the checks of a server's start. Logs a warning for each doubt.

    `engine` has at least two connections. Raises UnfitDatabase if no server may run on the
    database, DatabaseUnavailable.
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
    """Raises UnfitDatabase unless two connections each have a session and keep it.

    A connection pooler may give every transaction another session, which lacks the settings and
    the prepared statements of the one before. So this check comes first. Raises
    DatabaseUnavailable.
    """
    remedy = (
        "let it keep a session for each connection (PgBouncer: pool_mode = session,"
        " server_reset_query = DISCARD ALL), or connect to PostgreSQL itself"
    )
    detail = "a connection pooler before the database does not keep sessions"
    try:
        with database_errors():
            async with autocommit(engine) as first, autocommit(engine) as second:
                # An irregular order, because a pooler may use its sessions in turn.
                for connection in (first, first, second, first, second, second, first):
                    if not await keeps_session(connection):
                        raise UnfitDatabase(detail, remedy)
    except DatabaseUnavailable as error:
        if sqlstate_of(error.__cause__) in UNKNOWN_STATEMENT_SQLSTATES:
            raise UnfitDatabase(detail, remedy) from error
        raise


async def check_encoding(engine: AsyncEngine) -> None:
    """Raises UnfitDatabase when the database cannot keep every text, DatabaseUnavailable."""
    encoding = await _value(engine, "SELECT current_setting('server_encoding')")
    if encoding != ENCODING:
        raise UnfitDatabase(
            f"the database has the encoding {encoding}, which cannot keep every text",
            f"create one with ENCODING '{ENCODING}' TEMPLATE template0, and move the books there: "
            "docs/operations/backup.md, Moving house",
        )


async def check_schema(engine: AsyncEngine) -> None:
    """Raises SchemaMismatch unless the schema is the newest that this code knows.

    Raises DatabaseUnavailable.
    """
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
    """Raises UnfitDatabase while a subscription brings rows into the books, DatabaseUnavailable.

    A snapshot that a server takes in the meantime would lack rows that arrive later.
    """
    async with autocommit(engine) as connection:
        rows = await connection.fetch(SELECT_SUBSCRIPTIONS, [*tables()])
    if rows:
        raise UnfitDatabase(
            _some([f"the subscription {row['name']} brings rows into the books" for row in rows]),
            "finish the move and drop the subscription, then start servers:"
            " docs/operations/backup.md, Moving house",
        )


async def check_durability(engine: AsyncEngine) -> None:
    """Raises NotDurable when a crash may undo acknowledged commits, DatabaseUnavailable."""
    for name, values in DURABLE_VALUES.items():
        # The value without the session's settings.
        value = await _value(engine, SELECT_SETTING, name)
        if value not in values:
            raise NotDurable(
                f"the database has {name} = {value}, so it may forget what it has acknowledged",
                f"set it to {values[0]}, or LEDGER_REQUIRE_DURABLE_DATABASE=false for books that"
                " you can afford to lose",
            )


async def check_privileges(engine: AsyncEngine) -> None:
    """Raises TooPrivileged when the session may change the books, DatabaseUnavailable.

    The rights of its role count, and of the role that logged in.
    """
    excesses = await excessive_privileges(engine)
    if not excesses:
        return
    role, sentences = excesses[0]
    more = f", and {len(sentences) - 1} more of the kind" if len(sentences) > 1 else ""
    if role == APPLICATION_ROLE:
        remedy = "revoke it, which `ledger verify` lists in full"
    else:
        remedy = (
            f"log in as {APPLICATION_ROLE}, which may only add to them (as a superuser:"
            f" ALTER ROLE {APPLICATION_ROLE} PASSWORD '…'; then"
            f" LEDGER_DATABASE_URL=postgresql://{APPLICATION_ROLE}:…@host/database), and keep the"
            " mightier URL in LEDGER_MIGRATION_DATABASE_URL, for `ledger migrate`"
        )
    raise TooPrivileged(
        f"the database role {role} {sentences[0]}{more}, so anything that has the server's"
        " connection can change the books",
        f"{remedy}; or set LEDGER_REQUIRE_RESTRICTED_ROLE=false to try things out",
    )


async def check_grants(engine: AsyncEngine) -> None:
    """Raises UnfitDatabase when the server's role lacks a privilege, DatabaseUnavailable.

    Needs the newest schema, so `check_schema` comes first.
    """
    async with autocommit(engine) as connection:
        lacking = await lacking_privileges(connection, (APPLICATION_ROLE,))
    if lacking:
        raise _lacking([privilege.sentence for privilege in lacking])


async def check_sequences(engine: AsyncEngine) -> None:
    """Raises UnfitDatabase when the next value of a sequence is in its table already.

    Raises DatabaseUnavailable.
    """
    async with autocommit(engine) as connection:
        lagging = await lagging_sequences(connection)
    if lagging:
        raise UnfitDatabase(lagging[0].sentence, "run `ledger migrate`, which moves it past them")


async def check_triggers(engine: AsyncEngine) -> None:
    """Raises DoubtfulDatabase when a trigger is not on as it was made, DatabaseUnavailable."""
    async with autocommit(engine) as connection:
        found = [sentence for _, _, sentence in await triggers_off(connection)]
    if found:
        raise DoubtfulDatabase(
            _some(found), "run `ledger migrate`, which turns them on as they were made"
        )


async def check_role_settings(engine: AsyncEngine) -> None:
    """Raises DoubtfulDatabase when the role or the database has settings that servers override.

    Raises DatabaseUnavailable.
    """
    async with autocommit(engine) as connection:
        rows = await connection.fetch(SELECT_ROLE_SETTINGS, [*_SESSION_SETTINGS])
    if rows:
        raise DoubtfulDatabase(
            _some([f"{row['owner']} has {row['setting']}" for row in rows]),
            "the sessions of servers set it themselves; if no other program needs it, take it back"
            " (ALTER ROLE … RESET …)",
        )


async def check_writable(engine: AsyncEngine) -> None:
    """Raises DoubtfulDatabase when the database takes no writes now, DatabaseUnavailable."""
    if await _value(engine, "SELECT current_setting('transaction_read_only')") == "on":
        raise DoubtfulDatabase(
            "the database takes no writes: it is a standby, or was made read-only",
            "a server says NOT_SERVING until it is promoted, or takes writes again",
        )


async def check_clocks(
    engine: AsyncEngine, *, host_clock: Callable[[], datetime] = host_now
) -> None:
    """Raises DoubtfulDatabase if the database's clock is wrong, DatabaseUnavailable.

    It is compared with this host's clock and with the latest record.
    """
    async with autocommit(engine) as connection:
        before_at = host_clock()
        row = await connection.fetchrow(SELECT_CLOCKS)
        after_at = host_clock()
    if row is None:
        raise RuntimeError("a statement without FROM returned no row")
    database_at, ledger_at = row["database_at"], row["ledger_at"]
    tolerance = timedelta(seconds=SKEW_SECONDS_MAX)
    if database_at > after_at + tolerance:
        ahead_seconds = (database_at - after_at).total_seconds()
        raise _wrong_clock(f"{ahead_seconds:.0f} s ahead of this host's")
    if database_at < before_at - tolerance:
        behind_seconds = (before_at - database_at).total_seconds()
        raise _wrong_clock(f"{behind_seconds:.0f} s behind this host's")
    if ledger_at > database_at + tolerance:
        behind_seconds = (ledger_at - database_at).total_seconds()
        raise _wrong_clock(f"{behind_seconds:.0f} s behind the latest record")


async def check_txids(engine: AsyncEngine) -> None:
    """Raises DoubtfulDatabase if entries have txids above all transactions of the cluster.

    Raises DatabaseUnavailable, DatabaseTimeout.
    """
    ahead = await txid_ahead(engine)
    if ahead is not None:
        raise DoubtfulDatabase(
            f"entries have transaction numbers up to {ahead[0]}, this cluster is at {ahead[1]}: "
            "answers are right, but read more of the history",
            _RAISE_TXIDS,
        )


async def warn_of_txids_ahead(engine: AsyncEngine) -> None:
    """Logs a warning if entries have txids above all transactions of the cluster.

    A restore into another cluster can cause that.
    """
    try:
        ahead = await txid_ahead(engine)
    except LedgerError as error:
        # With very many accounts the query times out. The audit makes the same check.
        _log.info(
            "the transaction numbers were not compared with the cluster's",
            error=type(error).__name__,
        )
        return
    if ahead is not None:
        _log.warning(
            "entries have transaction numbers ahead of this cluster: answers are right, but read"
            f" more of the history; {_RAISE_TXIDS}",
            recorded_txid=ahead[0],
            next_txid=ahead[1],
        )


def _lacking(sentences: Sequence[str]) -> UnfitDatabase:
    return UnfitDatabase(
        f"the role {APPLICATION_ROLE} lacks privileges: {_some(sentences)}",
        "run `ledger migrate`, which grants what is missing",
    )


def _wrong_clock(found: str) -> DoubtfulDatabase:
    return DoubtfulDatabase(
        f"the database's clock is {found}",
        "set the clock that is wrong: docs/operations/databases.md, Clocks",
    )


def _some(sentences: Sequence[str]) -> str:
    more = len(sentences) - _SENTENCES_SHOWN
    return ", ".join(sentences[:_SENTENCES_SHOWN]) + (f", and {more} more" if more > 0 else "")


async def _value(engine: AsyncEngine, statement: str, *arguments: str) -> str:
    async with autocommit(engine) as connection:
        return str(await connection.fetchval(statement, *arguments))
