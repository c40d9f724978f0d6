"""Books for tests, written and read by the SQL statements of the service.

`restore` copies them from one database to another.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import uuid_utils
import uuid_utils.compat
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.balances import BalanceQuery
from ledger.application.ports.events import Posting
from ledger.bootstrap.database import Database
from ledger.domain.balances import Balance, BalanceAccount
from ledger.domain.events import ProcessorEvent, fingerprint
from ledger.infrastructure.postgres.balance_reader import PostgresBalanceReader
from ledger.infrastructure.postgres.embedded import find_bin_dir
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from support.events import processor_event
from support.running import RunningLedger, execute_alone

# So small that the server soon uses each session, and notices a lost one.
SMALL_POOL = 2
MATURITY_DAYS = 7
MATURITY = timedelta(days=MATURITY_DAYS)


@asynccontextmanager
async def engine_on(url: str, pool_size: int = 3) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(url, pool_size=pool_size)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def superuser(database: Database) -> AsyncIterator[Connection]:
    """A superuser's session, with the settings of the server's."""
    engine = create_engine(database.migration_url, pool_size=1, role="ledger_owner")
    try:
        async with autocommit(engine) as connection:
            await connection.execute("RESET role")
            yield connection
    finally:
        await engine.dispose()


async def open_account(connection: Connection, restaurant_id: str) -> int:
    """Registers a restaurant with an account in PEN. Returns the account's id."""
    await connection.execute("INSERT INTO restaurants (restaurant_id) VALUES ($1)", restaurant_id)
    account: int = await connection.fetchval(
        "INSERT INTO balance_accounts (restaurant_id, currency) VALUES ($1, 'PEN')"
        " RETURNING balance_account_id",
        restaurant_id,
    )
    return account


async def book(engine: AsyncEngine, *events: ProcessorEvent) -> None:
    """Books events by the SQL statement of the service."""
    ledger = PostgresEventLedger(partial(autocommit, engine), maturity_days=MATURITY_DAYS)
    await ledger.open_accounts({event.account for event in events}, register=True)
    postings = [Posting(event, fingerprint(event), str(uuid_utils.uuid7())) for event in events]
    stored = await ledger.insert(
        sorted(postings, key=lambda posting: posting.event.event_id), uuid_utils.compat.uuid7()
    )
    assert len(stored) == len(events)


async def balance_of(
    engine: AsyncEngine, restaurant_id: str, as_of: datetime | None = None
) -> Balance:
    (balance,) = await PostgresBalanceReader(partial(autocommit, engine)).read(
        [BalanceQuery(BalanceAccount(restaurant_id, "PEN"), as_of)]
    )
    assert balance is not None
    return balance


def charge(restaurant_id: str, amount_minor: int, matures_at: datetime) -> ProcessorEvent:
    """A charge that matures at an instant."""
    return processor_event(
        restaurant_id=restaurant_id, amount_minor=amount_minor, occurred_at=matures_at - MATURITY
    )


async def burn_numbers(url: str, count: int) -> None:
    """Makes the cluster assign `count` transaction numbers."""
    loop = f"FOR n IN 1..{count} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP;"
    await execute_alone(url, f"DO $$ BEGIN {loop} END $$")


async def restore(source_url: str, target_url: str, *options: str) -> None:
    """Dumps a database and restores it into another, empty one, by pg_dump and psql.

    `options` are those of pg_dump.
    """
    dump, psql = (str(find_bin_dir() / program) for program in ("pg_dump", "psql"))
    addresses = [libpq_url(url) for url in (source_url, target_url)]
    dumping = await asyncio.create_subprocess_exec(
        dump, *options, "--dbname", addresses[0], stdout=asyncio.subprocess.PIPE
    )
    script, _ = await asyncio.wait_for(dumping.communicate(), 60)
    assert dumping.returncode == 0
    restoring = await asyncio.create_subprocess_exec(
        *(psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname", addresses[1]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    await asyncio.wait_for(restoring.communicate(script), 60)
    assert restoring.returncode == 0


async def stored_ids(ledger: RunningLedger, restaurant_id: str) -> set[str]:
    """The ids of a restaurant's events in the books."""
    rows = await ledger.query(
        "SELECT event_id FROM processor_events WHERE restaurant_id = :id", id=restaurant_id
    )
    return {row[0] for row in rows}


def libpq_url(url: str) -> str:
    """The URL in the spelling that PostgreSQL's programs take."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
