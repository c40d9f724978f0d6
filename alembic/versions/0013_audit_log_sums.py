"""Says what the rows of open streams and of summed up refusals hold in the audit log."""

from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"

UPGRADE = (
    "COMMENT ON COLUMN audit_log.request_id IS 'The id of the call, as in the logs; empty for refusals that are summed up.'",
    """COMMENT ON COLUMN audit_log.peer IS
  'The address that the call came from: the caller''s, or that of what stands before it; empty for refusals that are summed up.'""",
    """COMMENT ON COLUMN audit_log.what IS
  'What the call was about: an event''s id or a number of events, a restaurant, a payout run; how many refusals are summed up.'""",
    "COMMENT ON COLUMN audit_log.outcome IS 'The gRPC status code that the call ended with; OPEN for a stream that goes on.'",
)

DOWNGRADE = (
    "COMMENT ON COLUMN audit_log.request_id IS 'The id of the call, as in the logs.'",
    "COMMENT ON COLUMN audit_log.peer IS 'The address that the call came from: the caller''s, or that of what stands before it.'",
    "COMMENT ON COLUMN audit_log.what IS 'What the call was about: an event''s id or a number of events, a restaurant, a payout run.'",
    "COMMENT ON COLUMN audit_log.outcome IS 'The gRPC status code that the call ended with.'",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
