"""A damage to the books, and what must be taken off to do it."""

from dataclasses import dataclass

from ledger.domain.audit import Severity
from ledger.infrastructure.postgres.verification.audit import (
    load_checks,
)

ERROR, WARNING = Severity.ERROR, Severity.WARNING
CHECKS = {check.name: check.statement for check in load_checks()}
# Takes off everything that would refuse the damage. Hundreds of tests run this: CHECKs and triggers
# are turned off in the catalog, since to drop each takes PostgreSQL three times as long.
UNGUARD = """
DO $$
DECLARE
  found record;
BEGIN
  UPDATE pg_class SET relchecks = 0, relhastriggers = false
  WHERE relnamespace = 'public'::regnamespace AND relkind = 'r';
  -- Foreign keys go before the keys that they need.
  FOR found IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
               WHERE connamespace = 'public'::regnamespace AND contype IN ('f', 'p', 'u')
               ORDER BY contype LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.place, found.conname);
  END LOOP;
END
$$;
DROP INDEX balance_accounts_account_id_key, balance_accounts_platform_key, payouts_in_flight_key,
  payouts_live_key;
"""
# The items of the run of res_q's first payout are in an archive, whose id is 0...1, and no longer
# in their table.
ARCHIVED = """
INSERT INTO archived_run_outcomes (payout_run_id, outcome, skip_reason, items_count, archive_id)
SELECT payout_run_id, outcome, COALESCE(skip_reason, ''), count(*),
  '00000000-0000-0000-0000-000000000001'
FROM payout_run_items WHERE payout_run_id = '{res_q.1.run}' GROUP BY 1, 2, 3;
INSERT INTO archived_ranges (archive_id, kind, from_at, before_at, rows_count, file_name,
  file_bytes, file_sha256)
SELECT '00000000-0000-0000-0000-000000000001', 'payout_run_items', '2025-11-01', '2025-12-01',
  sum(items_count), 'f', 1,
       sha256('')
FROM archived_run_outcomes;
DELETE FROM payout_run_items WHERE payout_run_id = '{res_q.1.run}';
"""
ARCHIVE = "archive 00000000-0000-0000-0000-000000000001"


@dataclass(frozen=True)
class Damage:
    """What is done to the books, and whom the check must name.

    {evt_…} stands for that event's transaction id, {res_p.1} for the id of that restaurant's first
    payout, {res_p.1.transaction} for its transaction id, {res_p.1.run} for its run, {res_p.1.paid}
    and {res_p.1.failed} for what the bank said of it.
    """

    check: str
    sql: str
    entities: tuple[str, ...]
    severity: Severity = ERROR

    def __str__(self) -> str:
        return f"{self.check}: {self.sql}"[:100]
