"""Payout runs whose items are in an archive: their totals, and the file that has the items."""

from uuid import UUID

from ledger.errors import PayoutRunArchived
from ledger.infrastructure.postgres.sessions.driver import Connection

# Whether the items of the run $1 are archived. They are removed in several transactions after the
# archive is recorded. Once it is recorded, items that are still in the table are not counted or
# shown.
IS_ARCHIVED = "EXISTS (SELECT FROM archived_run_outcomes WHERE payout_run_id = $1)"

SELECT_ARCHIVE_OF_RUN = """
SELECT a.file_name
FROM archived_run_outcomes AS z
JOIN archived_ranges AS a ON a.archive_id = z.archive_id
WHERE z.payout_run_id = $1
LIMIT 1
"""


def live_or_archived_counts(counts: str) -> str:
    """SQL: the rows of the query `counts` for the run $1, or those of its archive if there is one.

    One statement, so that it counts either all items or none.
    """
    return f"""
WITH archived AS MATERIALIZED (
  SELECT outcome, NULLIF(skip_reason, '') AS skip_reason, items_count
  FROM archived_run_outcomes
  WHERE payout_run_id = $1
)
SELECT outcome, skip_reason, items_count AS restaurants,
       CASE outcome
         WHEN 'PAYOUT_CREATED'
           THEN (SELECT sum(p.amount_minor) FROM payouts AS p WHERE p.payout_run_id = $1)
         ELSE 0
       END AS amount_minor
FROM archived
UNION ALL
SELECT outcome, skip_reason, restaurants, amount_minor
FROM ({counts}) AS live
WHERE NOT EXISTS (SELECT FROM archived)
"""


async def refuse_archived(connection: Connection, payout_run_id: UUID) -> None:
    """Raises PayoutRunArchived if the items of the run are in an archive."""
    file_name = await connection.fetchval(SELECT_ARCHIVE_OF_RUN, payout_run_id)
    if file_name is not None:
        raise PayoutRunArchived(str(payout_run_id), file_name)
