"""Seals name the stay in which they were made, so that an epoch ends when the books move, even to and fro."""

from alembic import op

revision: str = "0019"
down_revision: str | None = "0018"

UPGRADE = (
    # Zeros for seals that are there, and for those of a server of the revision before, which knows no stay.
    """
ALTER TABLE ledger_seals
  ADD COLUMN stay_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000'
""",
    """COMMENT ON COLUMN ledger_seals.stay_id IS
  'The stay in which it was made; another one begins an epoch. No part of the hash. Zeros: not known.'""",
    """COMMENT ON COLUMN ledger_seals.epoch IS
  'Seals of one epoch cover ranges that follow each other; each stay of the books begins a new one.'""",
)

DOWNGRADE = (
    """COMMENT ON COLUMN ledger_seals.epoch IS
  'Seals of one epoch cover ranges that follow each other; a restore into another cluster begins a new one.'""",
    "ALTER TABLE ledger_seals DROP COLUMN stay_id",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
