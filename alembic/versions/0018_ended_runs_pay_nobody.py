"""A payout run that has ended creates no further payout, whatever a server of an earlier revision does."""

from alembic import op

revision: str = "0018"
down_revision: str | None = "0017"

# Once for each statement: a page of 500 payouts pays for one look at its run. The row of the run is
# locked first: the statement after it then sees every end of the run that was committed before the lock
# was had, and whoever ends the run later waits for this transaction before it answers. The lock alone
# would let a page through whose statement began before the end: it is no lock that the end waits for.
#
# SQLSTATE 55000 is none that servers take for the fault of a restaurant: they leave all items open.
# What a dump holds was checked where it was first written, as in check_payout_items().
CHECK_RUN = r"""
CREATE FUNCTION check_run_is_under_way() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  runs uuid[] := ARRAY(SELECT DISTINCT payout_run_id FROM added);
  ended uuid;
BEGIN
  PERFORM FROM payout_runs WHERE payout_run_id = ANY (runs) ORDER BY payout_run_id FOR KEY SHARE;
  SELECT payout_run_id INTO ended
  FROM payout_runs
  WHERE payout_run_id = ANY (runs) AND state <> 'RUNNING'
  LIMIT 1;
  IF ended IS NOT NULL AND NOT (
    current_query() ~* '^\s*COPY\s'
    AND pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE')
  ) THEN
    RAISE EXCEPTION 'payout run % has ended', ended USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN NULL;
END
$$
"""

# The planner would look for the tables in a session's temporary schema first.
FIX_SEARCH_PATH = """
DO $$
BEGIN
  EXECUTE format(
    'ALTER FUNCTION check_run_is_under_way() SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$
"""

# In the order in which a page of a run comes to the tables. Not for a replication worker, as the
# triggers that check items.
UPGRADE = (
    CHECK_RUN,
    "COMMENT ON FUNCTION check_run_is_under_way() IS 'Keeps a payout run that has ended as it ended.'",
    FIX_SEARCH_PATH,
    """
CREATE TRIGGER payouts_check_run AFTER INSERT ON payouts
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION check_run_is_under_way()
""",
    """
CREATE TRIGGER payout_run_items_check_run AFTER UPDATE ON payout_run_items
  REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION check_run_is_under_way()
""",
)

DOWNGRADE = (
    "DROP TRIGGER payouts_check_run ON payouts",
    "DROP TRIGGER payout_run_items_check_run ON payout_run_items",
    "DROP FUNCTION check_run_is_under_way()",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
