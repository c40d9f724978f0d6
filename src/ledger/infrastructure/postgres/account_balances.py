"""Balances of accounts on PostgreSQL, as `balance_reader` reads those of restaurants.

What is available is the sum on account_funds, what is held that on account_held. No entry of an
account matures.
"""

from collections.abc import Sequence
from datetime import datetime

from ledger.application.ports.balances import AccountBalanceQuery
from ledger.domain.accounts import AccountBalance
from ledger.infrastructure.postgres.balance_reader import (
    PAST_INSTANT,
    PAST_REACH,
    GroupReader,
    past_tail,
)
from ledger.infrastructure.postgres.movements import signed_minor
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.snapshots import latest_snapshot, tail

_FUNDS = signed_minor("account_funds")
_HELD = signed_minor("account_held")
_ACCOUNT = "a.balance_account_id"

_SUMS = """settled.funds_minor + tail.funds_minor AS available_minor,
       settled.held_minor + tail.held_minor AS held_minor"""

# SQL, for FROM: what the lines of the snapshot "s" add up to.
_SETTLED = """(
  SELECT COALESCE(sum(l.total_minor) FILTER (WHERE l.ledger_account = 'account_funds'), 0)
           AS funds_minor,
         COALESCE(sum(l.total_minor) FILTER (WHERE l.ledger_account = 'account_held'), 0)
           AS held_minor
  FROM unnest(s.ledger_accounts, s.total_minors) AS l (ledger_account, total_minor)
)"""


def _tail_sums(entries: str, entries_count: str) -> str:
    """SQL, for FROM: the sums of `entries`, which are SQL as well."""
    return f"""(
  SELECT COALESCE(sum(e.funds_minor), 0) AS funds_minor,
         COALESCE(sum(e.held_minor), 0) AS held_minor, {entries_count} AS entries_count
  FROM ({entries}) AS e
)"""


_TAIL = f"""
    SELECT {_FUNDS} AS funds_minor, {_HELD} AS held_minor
    FROM ledger_entries AS e
    WHERE {tail(_ACCOUNT)}
  """
_PAST_TAIL = past_tail({"funds_minor": _FUNDS, "held_minor": _HELD}, "$3")

SELECT_BALANCE_ACCOUNT = "SELECT balance_account_id FROM balance_accounts WHERE account_id = $1"

# A row for each balance query ($1) whose account exists. `place` is the place of the balance query,
# from 1. One statement, hence one moment: it counts what was committed when it began.
#
# Sums of bigint are numeric and cannot overflow.
SELECT_ACCOUNT_BALANCES = f"""
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at)
SELECT q.place, false AS is_past, moment.now_at AS read_at, a.balance_account_id, a.currency,
       {_SUMS},
       tail.entries_count AS entries_read
FROM unnest($1::text[]) WITH ORDINALITY AS q (account_id, place)
CROSS JOIN moment
JOIN balance_accounts AS a ON a.account_id = q.account_id
LEFT JOIN LATERAL {latest_snapshot(_ACCOUNT)} AS s ON true
CROSS JOIN LATERAL {_SETTLED} AS settled
CROSS JOIN LATERAL {_tail_sums(_TAIL, "count(*)")} AS tail
"""

# As SELECT_ACCOUNT_BALANCES, each balance as of an instant ($2, parallel to $1). It counts what was
# recorded before the instant.
#
# A balance is wrong, and is_cut is true, if it takes more than about $3 entries.
SELECT_PAST_ACCOUNT_BALANCES = f"""
WITH moment AS MATERIALIZED (SELECT ledger_now() AS now_at)
SELECT q.place, instant.is_past, moment.now_at AS read_at, a.balance_account_id, a.currency,
       {_SUMS},
       tail.entries_count + marked.entries_count AS entries_read,
       GREATEST(tail.entries_count, marked.entries_count) > $3 AS is_cut
FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS q (account_id, as_of, place)
CROSS JOIN moment
CROSS JOIN LATERAL {PAST_INSTANT} AS instant
JOIN balance_accounts AS a ON a.account_id = q.account_id
LEFT JOIN LATERAL {PAST_REACH}
CROSS JOIN LATERAL {_SETTLED} AS settled
CROSS JOIN LATERAL {_tail_sums(_PAST_TAIL, "count(*) FILTER (WHERE e.is_beyond)")} AS tail
"""


class PostgresAccountBalanceReader(GroupReader[AccountBalanceQuery, AccountBalance]):
    """Implements `ledger.application.ports.balances.PastBalanceReader` for accounts."""

    present = SELECT_ACCOUNT_BALANCES
    past = SELECT_PAST_ACCOUNT_BALANCES
    account = SELECT_BALANCE_ACCOUNT

    def _keys(self, queries: Sequence[AccountBalanceQuery]) -> tuple[list[str], ...]:
        return ([query.account_id for query in queries],)

    def _found(self, query: AccountBalanceQuery, row: Row, as_of: datetime) -> AccountBalance:
        return AccountBalance(
            account_id=query.account_id,
            currency=row["currency"],
            available_minor=int(row["available_minor"]),
            held_minor=int(row["held_minor"]),
            as_of=as_of,
        )
