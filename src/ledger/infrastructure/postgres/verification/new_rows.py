"""What a check reads when only what is new is checked.

In sql/invariants.sql a comment after the name of a table says which rows of the table such a check
reads, as in `ledger_entries /* new */`. PostgreSQL ignores the comment, so the file checks whole
books. `narrowed` replaces each name by a common table expression of these rows.

New is what was recorded by a txid at or above the position, which is a txid below which everything
was verified. A row that changes its state is touched if it was written since: PostgreSQL keeps the
txid that wrote a row with it, in xmin.
"""

import re
from collections.abc import Iterator

from ledger.infrastructure.postgres.sessions.horizon import FIRST_HORIZON, STAY

# A table with the words that say which of its rows are read; or a subquery without rows in the
# place of the table, where whole books have none.
_NAME = r"(?:(?P<table>[a-z_]+)|\(SELECT \* FROM (?P<none>[a-z_]+) WHERE false\))"
_NARROWED = re.compile(rf"{_NAME} /\* (?P<words>[a-z ]+) \*/")

# {position} is a txid, as a bigint.
_AT_OR_ABOVE = "recorded_txid::text::bigint >= {position}"
# age() counts from the next txid back, so it compares the halves of txids that xmin keeps.
_WRITTEN_SINCE = "age({row}.xmin) <= age('{half_position}'::xid)"
_POSITION = "'{position}'::xid8"

_UUID = "'^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$'"

# A snapshot or a mark that the last verification has read: a later change would show in xmin.
_VERIFIED = f"""
{{row}}.stay_id = {STAY} AND {{row}}.xmin = {{row}}.written_txid::xid
  AND {{row}}.written_txid < {_POSITION} AND {{row}}.horizon <= {_POSITION}"""


def _verified(row: str) -> str:
    return _VERIFIED.replace("{row}", row)


def _written_since(row: str) -> str:
    return _WRITTEN_SINCE.replace("{row}", row)


def _of_table(table: str) -> str:
    return f"SELECT r.* FROM {table} AS r WHERE r.{_AT_OR_ABOVE}"


def _lowest_verified(table: str) -> str:
    """SQL: for each account with new rows of the table, the latest verified one below them all."""
    return f"""
SELECT v.*
FROM (
  SELECT balance_account_id, min(horizon::text::bigint)::text::xid8 AS horizon
  FROM {table} /* new */
  GROUP BY balance_account_id
) AS n
CROSS JOIN LATERAL (
  SELECT r.* FROM {table} AS r
  WHERE r.balance_account_id = n.balance_account_id AND r.horizon < n.horizon AND {_verified("r")}
  ORDER BY r.last_recorded_at DESC, r.horizon DESC
  LIMIT 1
) AS v"""


# The columns of ledger_movements in the place of the entries that a snapshot counts: a row for each
# line of it. An entry type moves a ledger account on one side only, so the sign tells the side.
def _lines_as_movements(minors: str) -> str:
    return f"""
SELECT s.balance_account_id, NULL::xid8 AS recorded_txid, NULL::uuid AS transaction_id,
       NULL::smallint AS position, CASE WHEN l.minor < 0 THEN 'debit' ELSE 'credit' END AS side,
       l.ledger_account, l.entry_type, l.minor::numeric AS signed_minor,
       NULL::timestamptz AS available_at, NULL::timestamptz AS occurred_at,
       NULL::timestamptz AS recorded_at, NULL::text AS event_id, NULL::uuid AS payout_id,
       NULL::text AS payment_id
FROM {{snapshots}} AS s
CROSS JOIN LATERAL unnest(s.ledger_accounts, s.entry_types, s.{minors})
  AS l (ledger_account, entry_type, minor)"""


_MOVEMENT = """
m.balance_account_id, m.recorded_txid, m.transaction_id, m.position, m.side, m.ledger_account,
m.entry_type, m.signed_minor::numeric, m.available_at, m.occurred_at, m.recorded_at, m.event_id,
m.payout_id, m.payment_id"""

# By table and words.
_ROWS = {
    "ledger_entries new": _of_table("ledger_entries"),
    "ledger_movements new": _of_table("ledger_movements"),
    "processor_events new": _of_table("processor_events"),
    "payments new": _of_table("payments"),
    "payment_operations new": _of_table("payment_operations"),
    # The rows of new ids, of whatever age: an id that is stored twice has an old row.
    "processor_events with new ids": """
SELECT v.* FROM processor_events AS v
WHERE v.event_id IN (SELECT event_id FROM processor_events /* new */)""",
    "payment_operations with new ids": """
SELECT o.* FROM payment_operations AS o
WHERE o.operation_id IN (
  SELECT operation_id FROM payment_operations /* new */ WHERE operation_id IS NOT NULL)""",
    # The ids of payouts that new entries and events name.
    "payouts named": f"""
SELECT payout_id FROM ledger_entries /* new */ WHERE payout_id IS NOT NULL
UNION
SELECT CASE WHEN payout_id ~ {_UUID} THEN payout_id::uuid END
FROM processor_events /* new */ WHERE payout_id IS NOT NULL""",
    "payouts touched": f"""
SELECT p.* FROM payouts AS p
WHERE {_written_since("p")}
   OR p.payout_id IN (SELECT payout_id FROM payouts /* named */ WHERE payout_id IS NOT NULL)""",
    # Payouts that exist, and ids that are only named.
    "payouts by id": """
SELECT payout_id FROM payouts /* touched */
UNION
SELECT payout_id FROM payouts /* named */ WHERE payout_id IS NOT NULL""",
    "processor_events of touched payouts": """
SELECT v.* FROM payouts /* by id */ AS p
JOIN processor_events AS v ON v.payout_id = p.payout_id::text
UNION ALL
SELECT v.* FROM processor_events /* new */ AS v
WHERE (v.payout_id IS NOT NULL OR v.type LIKE 'payout\\_%')
  AND NOT EXISTS (SELECT FROM payouts /* by id */ AS p WHERE p.payout_id::text = v.payout_id)""",
    # New ones, those of the payout's events, and the reserve: a range of the account's entries has
    # it, read back from the latest until it comes.
    "ledger_entries of touched payouts": f"""
SELECT e.ctid AS place, e.* FROM ledger_entries AS e
WHERE e.{_AT_OR_ABOVE} AND (e.payout_id IS NOT NULL OR e.entry_type LIKE 'PAYOUT\\_%')
UNION
SELECT e.* FROM payouts /* touched */ AS p
JOIN processor_events AS v ON v.payout_id = p.payout_id::text
CROSS JOIN LATERAL (
  SELECT e.ctid AS place, e.* FROM ledger_entries AS e
  WHERE e.balance_account_id = p.balance_account_id AND e.recorded_txid = v.recorded_txid
    AND e.event_id = v.event_id
  OFFSET 0
) AS e
UNION
SELECT e.* FROM payouts /* touched */ AS p
CROSS JOIN LATERAL (
  SELECT e.ctid AS place, e.* FROM ledger_entries AS e
  WHERE e.balance_account_id = p.balance_account_id AND e.transaction_id = p.transaction_id
    AND e.payout_id = p.payout_id
  ORDER BY e.recorded_txid DESC
  LIMIT 1
) AS e""",
    "ledger_entries of payouts before touched ones": """
SELECT e.* FROM payouts /* touched */ AS p
JOIN payouts AS before ON before.balance_account_id = p.balance_account_id
  AND before.sequence = p.sequence - 1
JOIN processor_events AS v ON v.payout_id = before.payout_id::text
CROSS JOIN LATERAL (
  SELECT e.* FROM ledger_entries AS e
  WHERE e.balance_account_id = p.balance_account_id AND e.recorded_txid = v.recorded_txid
    AND e.event_id = v.event_id
  OFFSET 0
) AS e""",
    "payout_items of touched payouts": """
SELECT i.* FROM payouts /* by id */ AS p JOIN payout_items AS i ON i.payout_id = p.payout_id""",
    # Those of the same balance account and date.
    "payouts beside touched ones": """
SELECT q.*
FROM (SELECT DISTINCT balance_account_id, as_of FROM payouts /* touched */) AS p
JOIN payouts AS q ON q.balance_account_id = p.balance_account_id AND q.as_of = p.as_of""",
    "archived_ranges new": f"SELECT a.* FROM archived_ranges AS a WHERE {_written_since('a')}",
    # The ids of runs that were written since or are under way, that have new payouts, or whose
    # items were archived since.
    "payout_runs by id": f"""
SELECT r.payout_run_id FROM payout_runs AS r WHERE {_written_since("r")} OR r.state = 'RUNNING'
UNION
SELECT r.payout_run_id FROM payout_run_progress AS r WHERE {_written_since("r")}
UNION
SELECT p.payout_run_id FROM ledger_entries /* new */ AS e
JOIN payouts AS p ON p.payout_id = e.payout_id
WHERE e.entry_type = 'PAYOUT_RESERVE'
UNION
SELECT z.payout_run_id FROM archived_run_outcomes AS z WHERE {_written_since("z")}""",
    "payout_runs touched": """
SELECT r.* FROM payout_runs /* by id */ AS t
JOIN payout_runs AS r ON r.payout_run_id = t.payout_run_id""",
    "payout_run_items of touched runs": """
SELECT i.* FROM payout_runs /* by id */ AS t
JOIN payout_run_items AS i ON i.payout_run_id = t.payout_run_id""",
    "archived_run_outcomes of touched runs": """
SELECT z.* FROM payout_runs /* by id */ AS t
JOIN archived_run_outcomes AS z ON z.payout_run_id = t.payout_run_id""",
    # The ids of submissions that were written since, and of those that new events name.
    "payout_submissions by id": f"""
SELECT s.submission_id FROM payout_submissions AS s WHERE {_written_since("s")}
UNION
SELECT i.submission_id FROM payout_submission_items AS i WHERE {_written_since("i")}
UNION
SELECT v.reference FROM processor_events /* new */ AS v WHERE v.type = 'payout_submitted'""",
    "payout_submissions touched": """
SELECT s.* FROM payout_submissions /* by id */ AS t
JOIN payout_submissions AS s ON s.submission_id = t.submission_id""",
    "payout_submission_items of touched submissions": """
SELECT i.* FROM payout_submissions /* by id */ AS t
JOIN payout_submission_items AS i ON i.submission_id = t.submission_id""",
    "processor_events of touched submissions": """
SELECT v.* FROM payout_submission_items /* of touched submissions */ AS i
JOIN processor_events AS v ON v.payout_id = i.payout_id::text
UNION
SELECT v.* FROM processor_events /* new */ AS v WHERE v.type = 'payout_submitted'""",
    "payments by id": """
SELECT payment_id FROM payments /* new */
UNION
SELECT payment_id FROM payment_operations /* new */
UNION
SELECT payment_id FROM ledger_entries /* new */ WHERE payment_id IS NOT NULL""",
    "payments touched": """
SELECT p.* FROM payments /* by id */ AS t JOIN payments AS p ON p.payment_id = t.payment_id""",
    "payment_operations of touched payments": """
SELECT o.* FROM payments /* by id */ AS t
JOIN payment_operations AS o ON o.payment_id = t.payment_id""",
    # Balance accounts with new entries or touched payouts, and those whose holder was changed.
    "balance_accounts touched": f"""
SELECT balance_account_id FROM ledger_entries /* new */
UNION
SELECT balance_account_id FROM payouts /* touched */
UNION
SELECT a.balance_account_id FROM accounts AS h
JOIN balance_accounts AS a ON a.account_id = h.account_id
WHERE {_written_since("h")}""",
    "balance_snapshots verified of touched accounts": f"""
SELECT b.*
FROM balance_accounts /* touched */ AS a
CROSS JOIN LATERAL (
  SELECT b.* FROM balance_snapshots AS b
  WHERE b.balance_account_id = a.balance_account_id AND {_verified("b")}
  ORDER BY b.last_recorded_at DESC, b.horizon DESC
  LIMIT 1
) AS b""",
    # For sums: what a verified snapshot counts as one row a line, and all that it does not count.
    "ledger_movements of touched accounts": f"""
{
        _lines_as_movements("total_minors").format(
            snapshots="balance_snapshots /* verified of touched accounts */"
        )
    }
UNION ALL
SELECT {_MOVEMENT}
FROM balance_accounts /* touched */ AS a
LEFT JOIN balance_snapshots /* verified of touched accounts */ AS s
  ON s.balance_account_id = a.balance_account_id
CROSS JOIN LATERAL (
  SELECT m.* FROM ledger_movements AS m
  WHERE m.balance_account_id = a.balance_account_id
    AND m.recorded_txid >= COALESCE(s.horizon, {FIRST_HORIZON})
) AS m""",
    # For sums of what had matured by the cut-offs of touched payouts: from a snapshot that was
    # taken before them, with what matured since.
    "balance_snapshots verified of touched payouts": f"""
SELECT b.*
FROM (
  SELECT balance_account_id, min(cutoff_at) AS cutoff_at FROM payouts /* touched */
  GROUP BY balance_account_id
) AS p
CROSS JOIN LATERAL (
  SELECT b.* FROM balance_snapshots AS b
  WHERE b.balance_account_id = p.balance_account_id AND {_verified("b")}
    AND b.taken_at <= p.cutoff_at
  ORDER BY b.last_recorded_at DESC, b.horizon DESC
  LIMIT 1
) AS b""",
    "ledger_movements of touched payouts": f"""
{
        _lines_as_movements("matured_minors").format(
            snapshots="balance_snapshots /* verified of touched payouts */"
        )
    }
UNION ALL
SELECT {_MOVEMENT}
FROM balance_snapshots /* verified of touched payouts */ AS s
CROSS JOIN LATERAL (
  SELECT m.* FROM ledger_movements AS m
  WHERE m.balance_account_id = s.balance_account_id AND m.available_at > s.taken_at
    AND (m.recorded_txid < s.horizon) IS TRUE
) AS m
UNION ALL
SELECT {_MOVEMENT}
FROM (SELECT DISTINCT balance_account_id FROM payouts /* touched */) AS a
LEFT JOIN balance_snapshots /* verified of touched payouts */ AS s
  ON s.balance_account_id = a.balance_account_id
CROSS JOIN LATERAL (
  SELECT m.* FROM ledger_movements AS m
  WHERE m.balance_account_id = a.balance_account_id
    AND m.recorded_txid >= COALESCE(s.horizon, {FIRST_HORIZON})
) AS m""",
    "payouts of touched accounts": """
SELECT p.* FROM balance_accounts /* touched */ AS a
JOIN payouts AS p ON p.balance_account_id = a.balance_account_id""",
    "payouts latest of touched accounts": """
SELECT p.*
FROM balance_accounts /* touched */ AS a
CROSS JOIN LATERAL (
  SELECT p.* FROM payouts AS p WHERE p.balance_account_id = a.balance_account_id
  ORDER BY p.sequence DESC
  LIMIT 1
) AS p""",
    "payout_items of those payouts": """
SELECT i.* FROM payouts /* latest of touched accounts */ AS p
JOIN payout_items AS i ON i.payout_id = p.payout_id""",
    "balance_snapshots new": f"""
SELECT s.xmin, s.* FROM balance_snapshots AS s WHERE s.written_txid >= {_POSITION}""",
    "balance_snapshots verified": _lowest_verified("balance_snapshots"),
    "statement_marks new": f"""
SELECT s.xmin, s.* FROM statement_marks AS s WHERE s.written_txid >= {_POSITION}""",
    "statement_marks verified": _lowest_verified("statement_marks"),
}
# All of it, for the digest of the checks.
NEW_ROWS_TEXT = repr(_ROWS)
# Inlined where they are used, so that the condition there finds its index.
_INLINED = {"payouts of touched accounts", "payouts beside touched ones"}


def narrowed_names(statement: str) -> list[str]:
    """The tables that a statement narrows, each with the words that say how."""
    return [_key(found) for found in _NARROWED.finditer(statement)]


def narrowed(statement: str, position: int) -> tuple[str, str]:
    """The common table expressions that a check of what is new needs, and the statement on them.

    The first part is a list for WITH; it ends with a comma, or is empty. Raises ValueError for
    words that are not known here.
    """
    half_position = position % 2**32
    needed: dict[str, None] = {}
    for name in _needed_by(statement):
        needed.setdefault(name)
    expressions = [
        f'"{name}" AS {"NOT " if name in _INLINED else ""}MATERIALIZED ('
        f"{_replaced(_ROWS[name]).format(position=position, half_position=half_position)}),\n"
        for name in needed
    ]
    return "".join(expressions), _replaced(statement)


def _needed_by(statement: str) -> Iterator[str]:
    """What a statement reads, after what that reads itself."""
    for name in narrowed_names(statement):
        if name not in _ROWS:
            raise ValueError(f"sql/invariants.sql: nothing says which rows are {name!r}")
        yield from _needed_by(_ROWS[name])
        yield name


def _replaced(statement: str) -> str:
    return _NARROWED.sub(lambda found: f'"{_key(found)}"', statement)


def _key(found: re.Match[str]) -> str:
    return f"{found['table'] or found['none']} {found['words']}"
