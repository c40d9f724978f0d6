"""Says that a seal may be of a part of a database transaction."""

from alembic import op

revision: str = "0022"
down_revision: str | None = "0021"

UPGRADE = (
    """COMMENT ON COLUMN ledger_seals.is_restored IS
  'Whether it covers rows restored from another cluster with numbers ahead, or a part of a large transaction.'""",
)

DOWNGRADE = (
    """COMMENT ON COLUMN ledger_seals.is_restored IS
  'Whether it covers rows restored from another cluster whose numbers this cluster had yet to reach.'""",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
