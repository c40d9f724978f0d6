"""Which entries a payout counted: SQL that several statements share.

A payout counts the entries of its balance account that the statement that created it saw, unless
they matured after its cut-off. `payouts.counted_snapshot` is the database snapshot of that
statement. Snapshots and cut-offs of an account's payouts only grow, so each payout counts all that
the one before counted, and what is new in it adds up to its items.

Txids are compared within a stay of the books. What was recorded before a stay began was there for
every payout of the stay; what is recorded in a later stay was not, whatever its txid.
"""

from ledger.infrastructure.postgres.sessions.horizon import is_visible


def stay_of(payout: str) -> str:
    """SQL, for FROM after the payout: the stay in which it was created, as its begin and its end.

    Books that never moved have one stay, which began before everything.
    """
    created_at = f"{payout}.created_at"
    return f"""(
  SELECT COALESCE(max(t.began_at) FILTER (WHERE t.began_at <= {created_at}), '-infinity')
           AS began_at,
         COALESCE(min(t.began_at) FILTER (WHERE t.began_at > {created_at}), 'infinity') AS ended_at
  FROM ledger_stays AS t
  WHERE t.number > 1
)"""


def was_seen(entry: str, payout: str, stay: str) -> str:
    """SQL: whether the entry was there when the payout was created. NULL if that is not known.

    `stay` is what `stay_of` returns.
    """
    visible = is_visible(f"{entry}.recorded_txid", f"{payout}.counted_snapshot")
    return f"""CASE WHEN {payout}.counted_snapshot IS NULL THEN NULL
           ELSE {entry}.recorded_at < {stay}.began_at
             OR ({entry}.recorded_at < {stay}.ended_at AND {visible}) END"""


def has_matured(entry: str, cutoff_at: str) -> str:
    """SQL: whether the entry had matured by a cut-off, or need not."""
    return f"({entry}.available_at IS NULL OR {entry}.available_at <= {cutoff_at})"


# SQL, for FROM after the entry "e" on restaurant_payable: the first payout that counted it, as
# one row.
# Of n payouts it looks at about log2(n), halving the range of their numbers: a payout counts what
# those before it did. `is_unknown`: perhaps an earlier payout counted it, of which the ledger does
# not know what it counted.
FIRST_PAYOUT_THAT_COUNTED = f"""(
  WITH RECURSIVE search AS (
    SELECT 1 AS low, 1 + COALESCE((
      SELECT max(p.sequence) FROM payouts AS p
      WHERE p.balance_account_id = e.balance_account_id), 0) AS high
    UNION ALL
    SELECT CASE WHEN tried.has_counted THEN s.low ELSE tried.sequence + 1 END,
           CASE WHEN tried.has_counted THEN tried.sequence ELSE s.high END
    FROM search AS s
    CROSS JOIN LATERAL (
      SELECT p.sequence,
             COALESCE({was_seen("e", "p", "stay")}, false) AND {has_matured("e", "p.cutoff_at")}
               AS has_counted
      FROM payouts AS p
      CROSS JOIN LATERAL {stay_of("p")} AS stay
      WHERE p.balance_account_id = e.balance_account_id AND p.sequence = (s.low + s.high) / 2
    ) AS tried
    WHERE s.low < s.high
  )
  SELECT CASE WHEN before.is_unknown THEN NULL ELSE p.payout_id END AS payout_id,
         COALESCE(before.is_unknown, false) AS is_unknown
  FROM search AS s
  LEFT JOIN payouts AS p
    ON p.balance_account_id = e.balance_account_id AND p.sequence = s.high
  LEFT JOIN LATERAL (
    SELECT b.counted_snapshot IS NULL AND {has_matured("e", "b.cutoff_at")} AS is_unknown
    FROM payouts AS b
    WHERE b.balance_account_id = e.balance_account_id AND b.sequence = s.high - 1
  ) AS before ON true
  WHERE s.low = s.high
)"""
