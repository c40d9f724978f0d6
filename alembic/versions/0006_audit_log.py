"""Who called what: a row for each call that writes."""

from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"

UPGRADE = (
    r"""
CREATE TABLE audit_log (
  audit_id    uuid        NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  identity    text COLLATE "C" NOT NULL
    CONSTRAINT audit_log_identity_check CHECK (identity ~ '^[!-~]*$' AND octet_length(identity) <= 256),
  credential  text        NOT NULL
    CONSTRAINT audit_log_credential_check CHECK (credential IN ('none', 'token', 'jwt', 'certificate')),
  method      text        NOT NULL
    CONSTRAINT audit_log_method_check CHECK (method <> ''),
  request_id  text COLLATE "C" NOT NULL
    CONSTRAINT audit_log_request_id_check CHECK (octet_length(request_id) <= 128),
  peer        text        NOT NULL
    CONSTRAINT audit_log_peer_check CHECK (octet_length(peer) <= 256),
  what        jsonb       NOT NULL
    CONSTRAINT audit_log_what_check CHECK (jsonb_typeof(what) = 'object'),
  outcome     text        NOT NULL
    CONSTRAINT audit_log_outcome_check CHECK (outcome ~ '^[A-Z_]+$'),
  CONSTRAINT audit_log_pkey PRIMARY KEY (audit_id),
  CONSTRAINT audit_log_caller_check CHECK ((identity = '') = (credential = 'none'))
)
""",
    # Rows come in the order of their time: a thousandth of the size of a tree does.
    "CREATE INDEX audit_log_recorded_at_idx ON audit_log USING brin (recorded_at)",
    "COMMENT ON INDEX audit_log_recorded_at_idx IS 'For whoever asks what was called in a span of time.'",
    "COMMENT ON TABLE audit_log IS 'Who called what: a row for each call that writes, whatever became of it. Append-only.'",
    "COMMENT ON COLUMN audit_log.audit_id IS 'Made by the server, so that writing it again adds no second row; in the order of time.'",
    "COMMENT ON COLUMN audit_log.recorded_at IS 'When it was recorded, by the database''s clock: at most moments after the call ended.'",
    "COMMENT ON COLUMN audit_log.identity IS 'Who called; empty if the server asked nobody who they are.'",
    "COMMENT ON COLUMN audit_log.credential IS 'By what the caller was known.'",
    "COMMENT ON COLUMN audit_log.method IS 'The method, as logs name it.'",
    "COMMENT ON COLUMN audit_log.request_id IS 'The id of the call, as in the logs.'",
    "COMMENT ON COLUMN audit_log.peer IS 'The address that the call came from: the caller''s, or that of what stands before it.'",
    "COMMENT ON COLUMN audit_log.what IS 'What the call was about: an event''s id or a number of events, a restaurant, a payout run.'",
    "COMMENT ON COLUMN audit_log.outcome IS 'The gRPC status code that the call ended with.'",
    """
CREATE TRIGGER audit_log_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_deny_change",
    """
GRANT SELECT, INSERT (audit_id, identity, credential, method, request_id, peer, what, outcome) ON audit_log TO ledger_app
""",
    "GRANT SELECT ON audit_log TO ledger_read",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM audit_log) THEN
    RAISE EXCEPTION 'there is an audit log: it is not removed' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    "DROP TABLE audit_log",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
