"""The database: a temporary cluster with durable commits, its contents before and after."""

import asyncio
import os
import platform
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import asyncpg

from ledger.infrastructure.postgres.embedded import EmbeddedPostgres
from ledger.infrastructure.postgres.schema.migrations import create_database, migrate_async
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE
from scripts.bench.process_costs import filesystem_of
from scripts.bench.wire import AMOUNT_MINOR, FEE_MINOR

DATABASE = "bench"
COMMAND_TIMEOUT_SECONDS = 600
# For 100,000 restaurants: the entries that a run reads fit into memory. Durable by default.
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
# PostgreSQL's default, a quarter of what the entries of 100,000 restaurants take.
SMALL_BUFFERS = SETTINGS | {"shared_buffers": "128MB"}
SHOWN_SETTINGS = (
    "server_version",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
)
# The start of every id of an event or a payment of the load.
EVENT_PREFIX = "bench."

INSERT_RESTAURANTS = """
INSERT INTO restaurants (restaurant_id)
SELECT $1::text || '_' || n FROM generate_series(1, $2::integer) AS n
"""
INSERT_ACCOUNTS = """
INSERT INTO balance_accounts (restaurant_id, currency)
SELECT $1::text || '_' || n, $1 FROM generate_series(1, $2::integer) AS n
"""
# 20 entries a restaurant: nine matured charges with fees, a refund, an adjustment. Without
# events: no payout reads them.
_INSERT_ENTRIES = """
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
                            debit_account, credit_account, amount_minor, available_at,
                            occurred_at, event_id)
SELECT a.balance_account_id, gen_random_uuid(), 1, e.entry_type,
       e.debit_account, e.credit_account, e.amount_minor,
       CASE WHEN e.entry_type IN ('CHARGE', 'FEE') THEN now() - interval '3 days' END,
       now() - interval '10 days',
       a.restaurant_id || '_' || n
FROM balance_accounts AS a
CROSS JOIN LATERAL (
  SELECT n, n, 'CHARGE', 'processor_clearing', 'restaurant_payable', 1000 + n
  FROM generate_series(1, 9) AS n
  UNION ALL
  SELECT 9 + n, n, 'FEE', 'restaurant_payable', 'platform_fees', 50
  FROM generate_series(1, 9) AS n
  UNION ALL SELECT 19, 10, 'REFUND', 'restaurant_payable', 'processor_clearing', 500
  UNION ALL SELECT 20, 11, 'ADJUSTMENT_CREDIT', 'adjustments', 'restaurant_payable', 70
) AS e (turn, n, entry_type, debit_account, credit_account, amount_minor)
WHERE a.currency = $1 AND a.restaurant_id IS NOT NULL
"""
# The entries of the accounts $2 to $3, account by account.
INSERT_ENTRIES = f"""{_INSERT_ENTRIES}
  AND a.balance_account_id BETWEEN $2 AND $3
ORDER BY a.balance_account_id
"""
# The entry $2 of every account whose number in this turn is $4, of the $3 numbers from 0, in random
# order: the entries of an account are far from each other, as they are when events book them.
INSERT_SPREAD_ENTRIES = f"""{_INSERT_ENTRIES}
  AND e.turn = $2 AND abs(hashint8extended(a.balance_account_id, $2) % $3) = $4
ORDER BY hashint8extended(a.balance_account_id, -$2)
"""
ENTRIES_A_RESTAURANT = 20
# As many in one transaction as a large payout page or batch has: servers seal by transaction.
ENTRIES_A_TRANSACTION = 10_000
AVAILABLE_MINOR = sum(1000 + n - 50 for n in range(1, 10)) - 500 + 70

INSERT_LONG_ACCOUNT = """
WITH restaurant AS (INSERT INTO restaurants (restaurant_id) VALUES ($1) RETURNING restaurant_id)
INSERT INTO balance_accounts (restaurant_id, currency)
SELECT restaurant_id, $2 FROM restaurant RETURNING balance_account_id
"""
# Matured charges of 10.00 each.
INSERT_LONG_ACCOUNT_ENTRIES = """
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
                            debit_account, credit_account, amount_minor, available_at,
                            occurred_at, event_id)
SELECT $1, gen_random_uuid(), 1, 'CHARGE', 'processor_clearing', 'restaurant_payable', 1000,
       now() - interval '3 days',
       now() - interval '10 days', 'long_' || n
FROM generate_series($2::integer, $3::integer) AS n
"""
LONG_ACCOUNT_ENTRY_MINOR = 1000

# Accounts with the ids $1 in the currency $2, which may go $3 below zero; NULL: without a limit.
OPEN_ACCOUNTS = """
WITH opened AS (
  INSERT INTO accounts (account_id, currency, overdraft_limit_minor, opened_with)
  SELECT account_id, $2, $3::bigint, '{"name": ""}' FROM unnest($1::text[]) AS q (account_id)
  RETURNING account_id, currency
)
INSERT INTO balance_accounts (account_id, currency) SELECT account_id, currency FROM opened
"""
# Transfers of 10.00 each to the account $1, without their payers' entries.
INSERT_LONG_FUNDS = """
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
                            debit_account, credit_account, amount_minor, payment_id)
SELECT a.balance_account_id, gen_random_uuid(), 2, 'TRANSFER_IN', 'interaccount', 'account_funds',
       1000, 'long_' || n
FROM balance_accounts AS a
CROSS JOIN generate_series($2::integer, $3::integer) AS n
WHERE a.account_id = $1
"""

# Ten charges with fees a transaction, as a group of calls books them. They mature while the account
# grows. A block with COMMIT takes no parameters.
BOOK_HISTORY = """
DO $$
BEGIN
  FOR n IN 1..{transactions} LOOP
    INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
                                debit_account, credit_account, amount_minor, available_at,
                                occurred_at, event_id)
    SELECT {account}, gen_random_uuid(), e.position, e.entry_type, e.debit_account,
           e.credit_account, e.amount_minor, clock_timestamp() + interval '1 second',
           now() - interval '1 day', 'history_{account}_' || n || '_' || c
    FROM generate_series(1, 10) AS c
    CROSS JOIN (VALUES
      (1, 'CHARGE', 'processor_clearing', 'restaurant_payable', 1000),
      (2, 'FEE', 'restaurant_payable', 'platform_fees', 50)
    ) AS e (position, entry_type, debit_account, credit_account, amount_minor);
    COMMIT;
  END LOOP;
END $$
"""
HISTORY_ENTRIES_A_TRANSACTION = 20


class Booked(StrEnum):
    """What a load books."""

    EVENTS = "events"
    PAYMENTS = "payments"
    # Payments that are captured after they were authorised.
    CAPTURES = "captured payments"


_COUNT_PAYMENTS = """
SELECT count(*) FROM payments
WHERE payment_id >= $1::text || '.' COLLATE "C" AND payment_id < $1 || '/' COLLATE "C"
  AND state = 'CAPTURED'
"""
# How many have ids that begin with $1.
COUNT_STORED = {
    Booked.EVENTS: """
SELECT count(*) FROM processor_events
WHERE event_id >= $1::text || '.' COLLATE "C" AND event_id < $1 || '/' COLLATE "C"
""",
    Booked.PAYMENTS: _COUNT_PAYMENTS,
    Booked.CAPTURES: _COUNT_PAYMENTS,
}
COUNT_PAYMENT_ENTRIES = """
SELECT count(*) AS entries, COALESCE(sum(amount_minor), 0)::bigint AS amount_minor
FROM ledger_entries WHERE starts_with(payment_id, $1)
"""
COUNT_ENTRIES = """
SELECT count(*) AS entries, COALESCE(sum(amount_minor), 0)::bigint AS amount_minor
FROM ledger_entries WHERE starts_with(event_id, $1)
"""


class WrongBooks(Exception):
    """The books do not hold what was acknowledged."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running PostgreSQL with an empty, migrated database."""

    postgres: EmbeddedPostgres
    data_dir: Path
    pid: int
    database: str = DATABASE

    @property
    def application_url(self) -> str:
        """The URL that the service uses."""
        return self.postgres.url(user=APPLICATION_ROLE, database=self.database)

    async def connect(self) -> Any:
        """A bare connection as superuser."""
        url = self.postgres.url(user=self.postgres.superuser, database=self.database)
        return await asyncpg.connect(
            url.replace("postgresql+asyncpg", "postgresql"), command_timeout=COMMAND_TIMEOUT_SECONDS
        )

    async def with_database(self, name: str) -> Self:
        """The same PostgreSQL with one more database, empty and migrated."""
        superuser = self.postgres.superuser
        await create_database(self.postgres.url(user=superuser, database="postgres"), name)
        await migrate_async(self.postgres.url(user=superuser, database=name))
        return replace(self, database=name)


@asynccontextmanager
async def cluster(settings: Mapping[str, str] = SETTINGS) -> AsyncIterator[Cluster]:
    """A cluster that is removed at the end."""
    data_dir = _new_data_dir()
    try:
        with EmbeddedPostgres.start(data_dir, parameters=settings) as postgres:
            await create_database(
                postgres.url(user=postgres.superuser, database="postgres"), DATABASE
            )
            await migrate_async(postgres.url(user=postgres.superuser, database=DATABASE))
            yield Cluster(postgres, data_dir, _postmaster_pid(data_dir))
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


def _new_data_dir() -> Path:
    data_dir = Path(tempfile.mkdtemp(prefix="ledger-bench-"))
    # As root, PostgreSQL runs as another account, which must enter the directory.
    data_dir.chmod(0o755)
    return data_dir


def _postmaster_pid(data_dir: Path) -> int:
    return int(next(data_dir.glob("pg*/postmaster.pid")).read_text().splitlines()[0])


async def facts(
    connection: Any, data_dir: Path, *, uvloop: bool, processes: int, load_average: float
) -> dict[str, str]:
    """What the figures depend on: the machine, the versions and the database's settings."""
    settings = {
        name: await connection.fetchval("SELECT current_setting($1)", name)
        for name in SHOWN_SETTINGS
    }
    shown = ", ".join(
        f"{name} {value}" for name, value in settings.items() if name != "server_version"
    )
    return {
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "python": f"{platform.python_version()}, grpcio {version('grpcio')},"
        f" protobuf {version('protobuf')}",
        "event loop of service and empty handler": "uvloop" if uvloop else "asyncio",
        "postgresql": f"{settings['server_version']} on {filesystem_of(data_dir)}: {shown}",
        "load generator": f"{processes} processes",
        # With other work on the machine, figures are slow and ratios uncertain.
        "load average before": f"{load_average:.1f}",
    }


async def load_restaurants(
    connection: Any, currency: str, restaurants: int, *, entries: bool, spread: bool = False
) -> None:
    """Registers restaurants named after a currency; with `entries`, 20 entries for each.

    `spread` stores the entries of all restaurants mixed, else those of each restaurant together.
    """
    await connection.execute(INSERT_RESTAURANTS, currency, restaurants)
    await connection.execute(INSERT_ACCOUNTS, currency, restaurants)
    if not entries:
        return
    if spread:
        parts = -(-restaurants // ENTRIES_A_TRANSACTION)
        for turn in range(1, ENTRIES_A_RESTAURANT + 1):
            for part in range(parts):
                await connection.execute(INSERT_SPREAD_ENTRIES, currency, turn, parts, part)
        return
    first, last = await connection.fetchrow(
        "SELECT min(balance_account_id), max(balance_account_id) FROM balance_accounts"
        " WHERE currency = $1",
        currency,
    )
    step = ENTRIES_A_TRANSACTION // ENTRIES_A_RESTAURANT
    for start in range(first, last + 1, step):
        await connection.execute(INSERT_ENTRIES, currency, start, start + step - 1)


async def load_long_account(
    connection: Any,
    restaurant_id: str,
    currency: str,
    entries: int,
    entries_a_transaction: int = ENTRIES_A_TRANSACTION,
) -> None:
    """Registers a restaurant with `entries` matured charges."""
    account = await connection.fetchval(INSERT_LONG_ACCOUNT, restaurant_id, currency)
    for start in range(1, entries + 1, entries_a_transaction):
        await connection.execute(
            INSERT_LONG_ACCOUNT_ENTRIES,
            account,
            start,
            min(start + entries_a_transaction - 1, entries),
        )


async def load_long_funds(connection: Any, account_id: str, currency: str, entries: int) -> None:
    """Opens an account that got `entries` transfers."""
    await connection.execute(OPEN_ACCOUNTS, [account_id], currency, 0)
    for start in range(1, entries + 1, ENTRIES_A_TRANSACTION):
        end = min(start + ENTRIES_A_TRANSACTION - 1, entries)
        await connection.execute(INSERT_LONG_FUNDS, account_id, start, end)


async def load_history(connection: Any, restaurant_id: str, currency: str, entries: int) -> None:
    """Registers a restaurant with `entries` of charges and fees, recorded one after the other.

    Returns when they have matured.
    """
    account = await connection.fetchval(INSERT_LONG_ACCOUNT, restaurant_id, currency)
    # Nothing of the load is measured.
    await connection.execute("SET synchronous_commit = off")
    await connection.execute(
        BOOK_HISTORY.format(account=account, transactions=entries // HISTORY_ENTRIES_A_TRANSACTION)
    )
    await connection.execute("RESET synchronous_commit")
    await asyncio.sleep(1)


async def check_stored(connection: Any, booked: Booked, prefix: str, acknowledged: int) -> None:
    """Raises WrongBooks unless what has ids that begin with `prefix` is what was acknowledged."""
    stored = await connection.fetchval(COUNT_STORED[booked], prefix)
    if stored != acknowledged:
        raise WrongBooks(
            f"{acknowledged} {booked} of {prefix} were acknowledged and {stored} are in the books"
        )


async def check_entries(connection: Any, acknowledged: Mapping[Booked, int]) -> None:
    """Raises WrongBooks unless each event and payment of the run has its entries: two, or three if
    a call of its own captured it.
    """
    events = acknowledged.get(Booked.EVENTS, 0)
    payment_entries = 2 * acknowledged.get(Booked.PAYMENTS, 0)
    payment_entries += 3 * acknowledged.get(Booked.CAPTURES, 0)
    for statement, expected in (
        (COUNT_ENTRIES, (2 * events, events * (AMOUNT_MINOR + FEE_MINOR))),
        (COUNT_PAYMENT_ENTRIES, (payment_entries, payment_entries * AMOUNT_MINOR)),
    ):
        found = await connection.fetchrow(statement, EVENT_PREFIX)
        if (found["entries"], found["amount_minor"]) != expected:
            raise WrongBooks(
                f"{found['entries']} entries of {found['amount_minor']} in all are in the books,"
                f" not {expected}"
            )
