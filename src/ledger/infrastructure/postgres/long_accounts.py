"""Finds accounts with many entries beyond their newest statement mark, before they are read.

Which accounts these are is in no table and in no index: both would cost ingest. But an account with
many entries has a large share of all entries. So a few entries are drawn at random, from the whole
table and from what was added to it since the last time, and their accounts are looked at.
"""

import random

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.balances import DrawnAccounts
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.horizon import FIRST_HORIZON, HORIZON
from ledger.infrastructure.postgres.statement_marks import newest_mark

# How many places of the table one draw looks at. Each reads a page of the table, and an account
# that is found there a few pages of indexes.
DRAWN_PLACES = 40
# A page of the table has more entries than this, unless it is the last one.
PAGE_ENTRIES_MIN = 40

SELECT_SIZE = """
SELECT pg_relation_size('ledger_entries') / current_setting('block_size')::bigint
"""

# Of the accounts of the entries at the places $1, those with more than $2 final entries beyond
# their newest mark. A place may be empty.
SELECT_LONG_ACCOUNTS = f"""
WITH drawn AS MATERIALIZED (
  SELECT DISTINCT e.balance_account_id
  FROM ledger_entries AS e
  WHERE e.ctid = ANY ($1::text[]::tid[])
)
SELECT d.balance_account_id
FROM drawn AS d
LEFT JOIN LATERAL {newest_mark("d.balance_account_id")} AS newest ON true
CROSS JOIN LATERAL (
  SELECT FROM ledger_entries AS e
  WHERE e.balance_account_id = d.balance_account_id
    AND e.recorded_txid >= COALESCE(newest.horizon, {FIRST_HORIZON}) AND e.recorded_txid < {HORIZON}
  OFFSET $2 LIMIT 1
) AS more
"""


class PostgresLongAccounts:
    """Implements `ledger.application.ports.balances.LongAccounts`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # How many pages the table had at the last draw.
        self._pages = 0

    async def draw(self, entries_max: int) -> DrawnAccounts:
        async with autocommit(self._engine) as connection:
            pages: int = await connection.fetchval(SELECT_SIZE)
            # The last page of the last time has new entries as well. A table with fewer pages than
            # before is another one.
            first_new = max(0, self._pages - 1) if self._pages <= pages else 0
            has_grown, self._pages = pages != self._pages, pages
            if not pages:
                return DrawnAccounts((), has_grown=False)
            rows = await connection.fetch(
                SELECT_LONG_ACCOUNTS,
                [
                    *_places(0, pages, DRAWN_PLACES // 2),
                    *_places(first_new, pages, DRAWN_PLACES // 2),
                ],
                entries_max,
            )
        return DrawnAccounts(
            [(row["balance_account_id"], entries_max + 1) for row in rows], has_grown=has_grown
        )


def _places(first_page: int, end_page: int, count: int) -> list[str]:
    """Random places of the table, in PostgreSQL's form, in the pages from `first_page` on."""
    return [
        f"({random.randrange(first_page, end_page)},{random.randint(1, PAGE_ENTRIES_MIN)})"  # noqa: S311
        for _ in range(count)
    ]
