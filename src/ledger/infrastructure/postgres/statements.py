"""Statements on PostgreSQL: the entries of a period on restaurant_payable, page by page, as of the moment of the first page."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports import LongTails, StatementMoment, StatementPage, StatementPlace, StatementQuery, StoredEntry
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.posting_rules import EntryType
from ledger.infrastructure.postgres.engine import Connection, autocommit
from ledger.infrastructure.postgres.horizon import FIRST_HORIZON
from ledger.infrastructure.postgres.snapshots import TAILS_UNTOLD, latest_snapshot, tail

# No transaction that books runs for longer: the timeouts of statements and of idle sessions are seconds.
BOOKING_TIME_MAX = timedelta(minutes=10)


def _payable_before(instant: str) -> str:
    """SQL, for FROM, of available and pending together as of an instant, and how many entries were read for it."""
    return f"""(
    SELECT COALESCE((
             SELECT sum(l.total_minor) FROM unnest(s.ledger_accounts, s.total_minors) AS l (ledger_account, total_minor)
             WHERE l.ledger_account = 'restaurant_payable'), 0) + unsettled.payable_minor AS payable_minor,
           unsettled.entries_count
    FROM (SELECT) AS one
    LEFT JOIN LATERAL {latest_snapshot("a.balance_account_id", recorded_before=instant)} AS s ON true
    CROSS JOIN LATERAL (
      SELECT count(*) AS entries_count,
             COALESCE(sum(CASE 'restaurant_payable' WHEN e.credit_account THEN e.amount_minor
                                                    WHEN e.debit_account THEN -e.amount_minor END), 0) AS payable_minor
      FROM ledger_entries AS e
      WHERE {tail("a.balance_account_id")} AND e.recorded_at < {instant}
    ) AS unsettled
  )"""


# The moment that a statement shows, and its balances: one row for a registered restaurant, none for an unknown one. Which
# transactions this statement sees is written down, so that later pages, which see more, can leave out what came after.
#
# The balances are those of SELECT_BALANCES as of the same instants, available and pending together. Sums of bigint are numeric
# and cannot overflow. No start is before the first entry: nothing is recorded before minus infinity.
SELECT_MOMENT = f"""
SELECT now() AS read_at, pg_snapshot_xmax(seen.transactions)::text AS transactions_end,
       ARRAY(SELECT open.txid::text FROM pg_snapshot_xip(seen.transactions) AS open (txid)) AS transactions_open,
       opening.payable_minor AS opening_minor, closing.payable_minor AS closing_minor, a.balance_account_id,
       GREATEST(opening.entries_count, closing.entries_count) AS entries_read
FROM restaurants AS r
CROSS JOIN (SELECT pg_current_snapshot() AS transactions) AS seen
LEFT JOIN balance_accounts AS a ON a.restaurant_id = r.restaurant_id AND a.currency = $2
CROSS JOIN LATERAL {_payable_before("COALESCE($3::timestamptz, '-infinity')")} AS opening
CROSS JOIN LATERAL {_payable_before("COALESCE($4::timestamptz, now())")} AS closing
WHERE r.restaurant_id = $1
"""

_ACCOUNT = "(SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = $1 AND currency = $2)"

# Entries of [$3, $4) on restaurant_payable. The instant, then the number of the transaction, which every entry of a transaction
# shares, then what is unique inside it: the order is total, and never changes once entries are there. {conditions} stands for
# what else is asked for, so that each combination is planned for itself.
#
# What a snapshot counts that counts nothing recorded at $3 or later is before the page: it is not read. The account is looked up
# once, before: nothing is joined, so that an index in this order could be walked.
SELECT_PAGE = f"""
SELECT transaction_id, position, entry_type, debit_account, credit_account, amount_minor, available_at, occurred_at, recorded_at,
       event_id, payout_id, recorded_txid::text AS txid
FROM ledger_entries
WHERE balance_account_id = {_ACCOUNT}
  AND recorded_txid >= COALESCE(
    (SELECT s.horizon FROM {latest_snapshot(_ACCOUNT, recorded_before="$3")} AS s), {FIRST_HORIZON})
  AND recorded_at >= $3 AND recorded_at < $4
  AND 'restaurant_payable' IN (debit_account, credit_account)
  {{conditions}}
ORDER BY recorded_at, recorded_txid, transaction_id, position
LIMIT $5
"""

# On later pages: only what comes after the last entry of the page before.
AFTER = "(recorded_at, recorded_txid, transaction_id, position) > ($3, ${}::text::xid8, ${}::uuid, ${}::smallint)"

# On later pages: left out is what was booked after the first one, by transactions that were under way at its moment or began
# later, although its recorded_at lies before the end: the statement's balances do not count it. Only what was recorded since
# shortly before that moment can be such an entry, and only by a transaction that this cluster has begun: entries restored from
# another one may have numbers that are yet to come.
SEEN = """(
  recorded_at <= ${}::timestamptz
  OR recorded_txid >= (SELECT pg_snapshot_xmax(pg_current_snapshot()))
  OR (recorded_txid < ${}::text::xid8 AND recorded_txid <> ALL (${}::text[]::xid8[])))"""

# The driver writes it as -infinity, which is before any entry.
_BEGINNING = datetime.min.replace(tzinfo=UTC)


class PostgresStatements:
    """Implements `ledger.application.ports.Statements`."""

    def __init__(self, engine: AsyncEngine, long_tails: LongTails = TAILS_UNTOLD) -> None:
        self._engine = engine
        self._long_tails = long_tails

    async def first_page(self, query: StatementQuery, limit: int) -> StatementPage | None:
        # One snapshot, so that the balances and the entries agree.
        async with autocommit(self._engine) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            row = await connection.fetchrow(SELECT_MOMENT, query.restaurant_id, query.currency, query.start_at, query.end_at)
            if row is None:
                return None
            self._long_tails.report([(row["balance_account_id"], row["entries_read"])])
            moment = StatementMoment(
                read_at=row["read_at"],
                transactions_end=int(row["transactions_end"]),
                transactions_open=tuple(int(txid) for txid in row["transactions_open"]),
                opening_minor=int(row["opening_minor"]),
                closing_minor=int(row["closing_minor"]),
            )
            return await _page(connection, query, moment, None, limit)

    async def page(self, query: StatementQuery, after: StatementPlace, limit: int) -> StatementPage:
        async with autocommit(self._engine) as connection:
            return await _page(connection, query, after.moment, after, limit)


async def _page(
    connection: Connection, query: StatementQuery, moment: StatementMoment, after: StatementPlace | None, limit: int
) -> StatementPage:
    conditions: list[str] = []
    parameters: list[object] = [
        query.restaurant_id,
        query.currency,
        (query.start_at or _BEGINNING) if after is None else after.recorded_at,
        query.end_at or moment.read_at,
        # One more than asked for tells whether more follow.
        limit + 1,
    ]

    def ask(condition: str, *values: object) -> None:
        first = len(parameters) + 1
        conditions.append(f"AND {condition.format(*range(first, first + len(values)))}")
        parameters.extend(values)

    if after is not None:
        ask(AFTER, str(after.recorded_txid), after.transaction_id, after.position)
        seen_anyway_at = moment.read_at - BOOKING_TIME_MAX
        ask(SEEN, seen_anyway_at, str(moment.transactions_end), [str(txid) for txid in moment.transactions_open])
    if query.entry_types:
        ask("entry_type = ANY (${}::text[])", [entry_type.value for entry_type in query.entry_types])
    if query.event_id is not None:
        ask("event_id = ${}", query.event_id)
    if query.payout_id is not None:
        ask("payout_id = ${}", query.payout_id)
    rows = await connection.fetch(SELECT_PAGE.format(conditions=" ".join(conditions)), *parameters)
    return StatementPage(moment, [_entry(query, row) for row in rows[:limit]], _place_of(moment, rows, limit))


def _place_of(moment: StatementMoment, rows: Sequence[Any], limit: int) -> StatementPlace | None:
    if len(rows) <= limit:
        return None
    last = rows[limit - 1]
    return StatementPlace(moment, last["recorded_at"], int(last["txid"]), last["transaction_id"], last["position"])


def _entry(query: StatementQuery, row: Any) -> StoredEntry:
    return StoredEntry(
        transaction_id=row["transaction_id"],
        position=row["position"],
        entry_type=EntryType(row["entry_type"]),
        debit=LedgerAccount(row["debit_account"]),
        credit=LedgerAccount(row["credit_account"]),
        amount_minor=row["amount_minor"],
        restaurant_id=query.restaurant_id,
        currency=query.currency,
        available_at=row["available_at"],
        occurred_at=row["occurred_at"],
        recorded_at=row["recorded_at"],
        event_id=row["event_id"],
        payout_id=row["payout_id"],
    )
