"""Accounts on PostgreSQL."""

import json

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.accounts import Account, AccountProfile, AccountState, Overdraft
from ledger.infrastructure.postgres.account_balances import SELECT_ACCOUNT_BALANCES
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.fence import IS_REPLICATED, Fence

_COLUMNS = """account_id, currency, overdraft_limit_minor, state, name, metadata, opened_with,
  created_at, updated_at"""

# Opens an account with its balance account, both or neither; returns no row if the id is taken. The
# primary key decides: the insert waits for another transaction that opens the same account.
OPEN_ACCOUNT = f"""
WITH opened AS (
  INSERT INTO accounts (account_id, currency, overdraft_limit_minor, name, metadata, opened_with)
  VALUES ($1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb)
  ON CONFLICT (account_id) DO NOTHING
  RETURNING {_COLUMNS}
),
added AS (
  INSERT INTO balance_accounts (account_id, currency)
  SELECT account_id, currency FROM opened
)
SELECT {_COLUMNS} FROM opened
"""

# Payments take weaker locks on this row, so none that involves the account runs until the
# transaction ends.
LOCK_BALANCE_ACCOUNT = (
    "SELECT balance_account_id FROM balance_accounts WHERE account_id = $1 FOR UPDATE"
)

SELECT_ACCOUNT = f"SELECT {_COLUMNS} FROM accounts WHERE account_id = $1"

# updated_at grows with each change, also if this transaction began before the one that made the
# last change: no two states have one etag.
UPDATE_ACCOUNT = f"""
UPDATE accounts
SET overdraft_limit_minor = $2, state = $3, name = $4, metadata = $5::text::jsonb,
    updated_at = GREATEST(recorded_now(), updated_at + interval '1 microsecond')
WHERE account_id = $1
RETURNING {_COLUMNS}
"""

SELECT_ACCOUNT_AND_REPLICATION = f"""
SELECT {_COLUMNS}, {IS_REPLICATED} FROM accounts WHERE account_id = $1
"""

SELECT_PAGE = f"""
SELECT {_COLUMNS}, {IS_REPLICATED}
FROM accounts WHERE account_id > $1 ORDER BY account_id LIMIT $2
"""


class PostgresAccounts:
    """Implements `ledger.application.ports.accounts.Accounts` in a unit of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def open(self, profile: AccountProfile) -> Account | None:
        row = await self._connection.fetchrow(
            OPEN_ACCOUNT,
            profile.account_id,
            profile.currency,
            profile.overdraft.limit_minor,
            profile.name,
            json.dumps(dict(profile.metadata)),
            json.dumps(
                {
                    "name": profile.name,
                    "overdraft_limit_minor": profile.overdraft.limit_minor,
                }
            ),
        )
        return None if row is None else _account(row)

    async def lock(self, account_id: str) -> Account | None:
        if await self._connection.fetchval(LOCK_BALANCE_ACCOUNT, account_id) is None:
            return None
        # A separate statement, which sees what was committed before the lock was there.
        row = await self._connection.fetchrow(SELECT_ACCOUNT, account_id)
        return None if row is None else _account(row)

    async def is_empty(self, account_id: str) -> bool:
        row = await self._connection.fetchrow(SELECT_ACCOUNT_BALANCES, [account_id])
        return row is not None and row["available_minor"] == row["held_minor"] == 0

    async def change(self, profile: AccountProfile) -> Account:
        (row,) = await self._connection.fetch(
            UPDATE_ACCOUNT,
            profile.account_id,
            profile.overdraft.limit_minor,
            profile.state.value,
            profile.name,
            json.dumps(dict(profile.metadata)),
        )
        return _account(row)


class PostgresAccountReader:
    """Implements `ledger.application.ports.accounts.AccountReader`."""

    def __init__(self, engine: AsyncEngine, fence: Fence) -> None:
        self._engine = engine
        self._fence = fence

    async def get(self, account_id: str) -> Account | None:
        rows = await self._rows(SELECT_ACCOUNT_AND_REPLICATION, account_id)
        return _account(rows[0]) if rows else None

    async def page(self, after: str, limit: int) -> list[Account]:
        return [_account(row) for row in await self._rows(SELECT_PAGE, after, limit)]

    async def _rows(self, statement: str, *arguments: object) -> list[Row]:
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(statement, *arguments)
        await self._fence.wait(rows)
        return rows


def _account(row: Row) -> Account:
    account_id, currency, opened_with = row["account_id"], row["currency"], row["opened_with"]
    return Account(
        profile=AccountProfile(
            account_id,
            currency,
            row["name"],
            Overdraft(row["overdraft_limit_minor"]),
            AccountState(row["state"]),
            row["metadata"],
        ),
        opened_with=AccountProfile(
            account_id,
            currency,
            opened_with["name"],
            Overdraft(opened_with["overdraft_limit_minor"]),
        ),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
