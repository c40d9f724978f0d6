"""Grants by name the functions that PUBLIC may execute: administrators revoke that from whole schemas."""

from alembic import op

revision: str = "0024"
down_revision: str | None = "0023"

READ = "ledger_now(), ledger_now_behind(), ledger_clock_at()"
WRITE = "recorded_now(), write_payout_run_items(uuid, integer)"

UPGRADE = (
    f"GRANT EXECUTE ON FUNCTION {READ} TO ledger_app, ledger_read",
    f"GRANT EXECUTE ON FUNCTION {WRITE} TO ledger_app",
)

DOWNGRADE = (
    f"REVOKE EXECUTE ON FUNCTION {WRITE} FROM ledger_app",
    f"REVOKE EXECUTE ON FUNCTION {READ} FROM ledger_app, ledger_read",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
