"""A payment that is told after its failure moves the payout to RETURNED."""

from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"

FUNCTION = r"""
CREATE OR REPLACE FUNCTION check_payout_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (to_jsonb(OLD) - 'state') <> (to_jsonb(NEW) - 'state') OR NOT (
    {moves}
  ) THEN
    RAISE EXCEPTION 'payout % cannot be changed so', OLD.payout_id USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END
$$
"""

# Replacing a function forgets its settings: again as revision 0009 fixed them.
FIX_SEARCH_PATH = """
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION check_payout_move() SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$
"""

UPGRADE = (
    FUNCTION.format(
        moves="(OLD.state = 'CREATED' AND NEW.state IN ('PAID', 'FAILED'))"
        " OR (OLD.state IN ('PAID', 'FAILED') AND NEW.state = 'RETURNED')"
    ),
    FIX_SEARCH_PATH,
    """COMMENT ON COLUMN payouts.state IS
  'CREATED becomes PAID or FAILED; PAID becomes RETURNED by a failure, FAILED by a payment that was before it.'""",
)

DOWNGRADE = (
    FUNCTION.format(
        moves="(OLD.state = 'CREATED' AND NEW.state IN ('PAID', 'FAILED')) OR (OLD.state = 'PAID' AND NEW.state = 'RETURNED')"
    ),
    FIX_SEARCH_PATH,
    "COMMENT ON COLUMN payouts.state IS 'CREATED becomes PAID or FAILED, PAID may become RETURNED.'",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
