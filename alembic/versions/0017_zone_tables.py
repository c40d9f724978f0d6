"""Which zone table a payout run's cut-off comes from."""

from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"

UPGRADE = (
    # There are as many runs as calls that started one: the check is read over them in no time.
    """
ALTER TABLE payout_runs
  ADD COLUMN zone_table_version text,
  ADD CONSTRAINT payout_runs_zone_table_version_check
    CHECK (zone_table_version <> '' AND octet_length(zone_table_version) <= 64)
""",
    """COMMENT ON COLUMN payout_runs.zone_table_version IS
  'The version of the zone table (tzdata) that told when the date ends; null in runs of servers before it was kept.'""",
    "GRANT INSERT (zone_table_version) ON payout_runs TO ledger_app",
)

DOWNGRADE = ("ALTER TABLE payout_runs DROP COLUMN zone_table_version",)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
