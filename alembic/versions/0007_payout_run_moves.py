"""What became of a restaurant in a payout run, and a run that is finished, cannot be taken back."""

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"

UPGRADE = (
    r"""
CREATE FUNCTION deny_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'a row of % cannot be changed so', TG_TABLE_NAME USING ERRCODE = 'check_violation';
END
$$
""",
    "COMMENT ON FUNCTION deny_move() IS 'Refuses every change that the condition of its trigger finds.'",
    # With a condition, and after the change: a page of a run closes 500 items at once, and pays for each row only the comparison.
    # Before the change the row would be fetched and locked once more.
    """
CREATE TRIGGER payout_run_items_deny_move AFTER UPDATE ON payout_run_items
  FOR EACH ROW WHEN (
    OLD.outcome <> 'OPEN' OR NEW.outcome = 'OPEN'
    OR OLD.payout_run_id <> NEW.payout_run_id OR OLD.restaurant_id <> NEW.restaurant_id
    OR OLD.balance_account_id <> NEW.balance_account_id
  ) EXECUTE FUNCTION deny_move()
""",
    "ALTER TABLE payout_run_items ENABLE ALWAYS TRIGGER payout_run_items_deny_move",
    """
CREATE TRIGGER payout_runs_deny_move AFTER UPDATE ON payout_runs
  FOR EACH ROW WHEN (
    OLD.state <> 'RUNNING'
    OR OLD.payout_run_id <> NEW.payout_run_id OR OLD.currency <> NEW.currency OR OLD.as_of <> NEW.as_of
    OR OLD.cutoff_at <> NEW.cutoff_at OR OLD.min_amount_minor <> NEW.min_amount_minor OR OLD.request_id <> NEW.request_id
    OR OLD.created_at <> NEW.created_at
  ) EXECUTE FUNCTION deny_move()
""",
    "ALTER TABLE payout_runs ENABLE ALWAYS TRIGGER payout_runs_deny_move",
)

DOWNGRADE = (
    "DROP TRIGGER payout_runs_deny_move ON payout_runs",
    "DROP TRIGGER payout_run_items_deny_move ON payout_run_items",
    "DROP FUNCTION deny_move()",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
