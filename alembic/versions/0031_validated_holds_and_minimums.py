"""Validates the CHECKs of 0030, for the rows that were there before it.

It reads each table once, while writers go on.
"""

from alembic import op

revision: str = "0031"
down_revision: str | None = "0030"

# Table and constraint. The largest table comes last.
CHECKS = (
    ("restaurants", "restaurants_payout_hold_check"),
    ("restaurants", "restaurants_min_balance_minor_check"),
    ("payouts", "payouts_retained_minor_check"),
    ("payout_run_items", "payout_run_items_retained_minor_check"),
    ("payout_run_items", "payout_run_items_skip_reason_check"),
)

VALIDATE = tuple(
    f"ALTER TABLE {table} "
    + ", ".join(f"VALIDATE CONSTRAINT {name}" for of, name in CHECKS if of == table)
    for table in dict.fromkeys(table for table, _ in CHECKS)
)

# The same CHECK, for new rows only.
FORGET = """
DO $$ BEGIN
  EXECUTE (SELECT format('ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} %s NOT VALID',
                         pg_get_constraintdef(oid))
           FROM pg_constraint
           WHERE conrelid = '{table}'::regclass AND conname = '{name}');
END $$
"""

DOWNGRADE = tuple(
    FORGET.replace("{table}", table).replace("{name}", name) for table, name in CHECKS
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in VALIDATE:
            op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
