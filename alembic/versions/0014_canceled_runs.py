"""Payout runs that were canceled, and the index for lists of runs."""

from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"

# There are as many runs as calls that started one: the checks of their states are read in no time.
STATES = """
ALTER TABLE payout_runs
  DROP CONSTRAINT payout_runs_state_check,
  DROP CONSTRAINT payout_runs_finished_at_check,
  ADD CONSTRAINT payout_runs_state_check CHECK (state IN ({states})),
  ADD CONSTRAINT payout_runs_finished_at_check CHECK (({ended}) = (finished_at IS NOT NULL))
"""

UPGRADE = (
    STATES.format(states="'RUNNING', 'SUCCEEDED', 'CANCELED'", ended="state <> 'RUNNING'"),
    "CREATE INDEX payout_runs_created_at_payout_run_id_idx ON payout_runs (created_at, payout_run_id)",
    "COMMENT ON INDEX payout_runs_created_at_payout_run_id_idx IS 'For lists, latest first.'",
    """COMMENT ON COLUMN payout_runs.state IS
  'RUNNING as long as a restaurant is to be looked at. CANCELED: what is open was not looked at, and never will be.'""",
    "COMMENT ON COLUMN payout_runs.finished_at IS 'When it ended or was canceled, by the database''s clock.'",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM payout_runs WHERE state = 'CANCELED') THEN
    RAISE EXCEPTION 'there are canceled payout runs, which the earlier schema cannot hold'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    STATES.format(states="'RUNNING', 'SUCCEEDED'", ended="state = 'SUCCEEDED'"),
    "DROP INDEX payout_runs_created_at_payout_run_id_idx",
    "COMMENT ON COLUMN payout_runs.state IS 'RUNNING as long as a restaurant is to be looked at.'",
    "COMMENT ON COLUMN payout_runs.finished_at IS 'When the last restaurant had been looked at, by the database''s clock.'",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
