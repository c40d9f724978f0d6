"""The quarantine: deliveries of processors that a gateway cannot book, with what became of them."""

from alembic import op

revision: str = "0038"
down_revision: str | None = "0037"

STATES = "'QUARANTINED', 'RETRY_REQUESTED', 'PARKED', 'RELEASED', 'DISCARDED'"
OPEN_STATES = "'QUARANTINED', 'RETRY_REQUESTED', 'PARKED'"
IS_ID = "{0} ~ '^[A-Za-z0-9._:-]+$' AND octet_length({0}) <= 128"
IS_REASON = "reason ~ '^[A-Z][A-Z0-9_]*$' AND octet_length(reason) <= 64"

TABLES = (
    f"""
CREATE TABLE quarantined_payloads (
  quarantine_id uuid NOT NULL,
  endpoint text COLLATE "C" NOT NULL
    CONSTRAINT quarantined_payloads_endpoint_check CHECK ({IS_ID.format("endpoint")}),
  processor text COLLATE "C" NOT NULL
    CONSTRAINT quarantined_payloads_processor_check CHECK ({IS_ID.format("processor")}),
  kind text NOT NULL
    CONSTRAINT quarantined_payloads_kind_check CHECK (char_length(kind) <= 200),
  body bytea NOT NULL
    CONSTRAINT quarantined_payloads_body_check CHECK (octet_length(body) <= 262144),
  body_sha256 bytea NOT NULL GENERATED ALWAYS AS (sha256(body)) STORED,
  headers jsonb NOT NULL
    CONSTRAINT quarantined_payloads_headers_check
      CHECK (jsonb_typeof(headers) = 'object' AND octet_length(headers::text) <= 131072),
  query text COLLATE "C" NOT NULL
    CONSTRAINT quarantined_payloads_query_check CHECK (octet_length(query) <= 2000),
  received_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT recorded_now(),
  state text NOT NULL
    CONSTRAINT quarantined_payloads_state_check CHECK (state IN ({STATES})),
  move_number integer NOT NULL
    CONSTRAINT quarantined_payloads_move_number_check CHECK (move_number >= 1),
  reason text COLLATE "C" NOT NULL
    CONSTRAINT quarantined_payloads_reason_check CHECK ({IS_REASON}),
  detail text NOT NULL
    CONSTRAINT quarantined_payloads_detail_check CHECK (char_length(detail) <= 1000),
  retry_at timestamptz,
  CONSTRAINT quarantined_payloads_retry_at_check
    CHECK ((retry_at IS NOT NULL) = (state IN ('RETRY_REQUESTED', 'PARKED'))),
  CONSTRAINT quarantined_payloads_pkey PRIMARY KEY (quarantine_id),
  CONSTRAINT quarantined_payloads_endpoint_body_sha256_query_key UNIQUE (endpoint, body_sha256, query)
)
""",
    f"""
CREATE TABLE quarantine_moves (
  quarantine_id uuid NOT NULL,
  number integer NOT NULL
    CONSTRAINT quarantine_moves_number_check CHECK (number >= 1),
  state text NOT NULL
    CONSTRAINT quarantine_moves_state_check CHECK (state IN ({STATES})),
  reason text COLLATE "C" NOT NULL
    CONSTRAINT quarantine_moves_reason_check CHECK (
      CASE WHEN state IN ('QUARANTINED', 'PARKED') THEN {IS_REASON} ELSE reason = '' END),
  detail text NOT NULL
    CONSTRAINT quarantine_moves_detail_check
      CHECK (char_length(detail) <= 1000 AND (state <> 'DISCARDED' OR detail <> '')),
  event_ids text[] COLLATE "C" NOT NULL
    CONSTRAINT quarantine_moves_event_ids_check CHECK (
      cardinality(event_ids) <= 1000 AND (state = 'RELEASED' OR cardinality(event_ids) = 0)
      AND array_position(event_ids, NULL) IS NULL),
  retry_at timestamptz,
  actor text COLLATE "C" NOT NULL
    CONSTRAINT quarantine_moves_actor_check
      CHECK (actor ~ '^[!-~]*$' AND octet_length(actor) <= 256),
  recorded_at timestamptz NOT NULL DEFAULT recorded_now(),
  CONSTRAINT quarantine_moves_retry_at_check
    CHECK ((retry_at IS NOT NULL) = (state IN ('RETRY_REQUESTED', 'PARKED'))),
  CONSTRAINT quarantine_moves_first_check
    CHECK (number > 1 OR state IN ('QUARANTINED', 'PARKED')),
  CONSTRAINT quarantine_moves_pkey PRIMARY KEY (quarantine_id, number),
  CONSTRAINT quarantine_moves_quarantine_id_fkey FOREIGN KEY (quarantine_id)
    REFERENCES quarantined_payloads (quarantine_id) ON DELETE RESTRICT
)
""",
    "CREATE INDEX quarantined_payloads_created_at_idx"
    " ON quarantined_payloads (created_at, quarantine_id)",
    "CREATE INDEX quarantined_payloads_open_idx ON quarantined_payloads (created_at, quarantine_id)"
    f" INCLUDE (endpoint, state, reason) WHERE state IN ({OPEN_STATES})",
    "CREATE INDEX quarantined_payloads_retry_at_idx"
    " ON quarantined_payloads (retry_at, quarantine_id) WHERE retry_at IS NOT NULL",
)

CHECK_MOVE = """
CREATE FUNCTION check_quarantine_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (OLD.quarantine_id, OLD.endpoint, OLD.processor, OLD.kind, OLD.body, OLD.headers, OLD.query,
      OLD.received_at, OLD.created_at)
     IS DISTINCT FROM
     (NEW.quarantine_id, NEW.endpoint, NEW.processor, NEW.kind, NEW.body, NEW.headers, NEW.query,
      NEW.received_at, NEW.created_at)
     OR NEW.move_number <> OLD.move_number + 1
     OR NOT (
       (OLD.state = 'QUARANTINED' AND NEW.state IN ('RETRY_REQUESTED', 'DISCARDED'))
       OR (OLD.state = 'RETRY_REQUESTED'
           AND NEW.state IN ('RELEASED', 'QUARANTINED', 'PARKED', 'DISCARDED'))
       OR (OLD.state = 'PARKED'
           AND NEW.state IN ('RELEASED', 'PARKED', 'QUARANTINED', 'RETRY_REQUESTED', 'DISCARDED'))
     ) THEN
    RAISE EXCEPTION 'payload % cannot be changed so', OLD.quarantine_id
      USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END
$$
"""
# No foreign key: with the one of the moves it would make a circle, and a dump of the data alone could
# not be loaded. It loads the payloads first, by COPY of the owner.
CHECK_STATE = """
CREATE FUNCTION check_quarantine_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (
    SELECT FROM quarantine_moves
    WHERE quarantine_id = NEW.quarantine_id AND number = NEW.move_number AND state = NEW.state
  ) AND NOT (
    current_query() ~* '^\\s*COPY\\s'
    AND pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE')
  ) THEN
    RAISE EXCEPTION 'payload % has no move % to %', NEW.quarantine_id, NEW.move_number, NEW.state
      USING ERRCODE = 'foreign_key_violation';
  END IF;
  RETURN NULL;
END
$$
"""
# The functions find nothing that the caller's search path leads to.
FIX_PATHS = tuple(
    f"""
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION {function}() SET search_path = pg_catalog, %I, pg_temp',
                 current_schema());
END $$
"""
    for function in ("check_quarantine_move", "check_quarantine_state")
)

COMMENTS = {
    "FUNCTION check_quarantine_move()": (
        "Lets a payload change by a move from one state to another, and in nothing else."
    ),
    "FUNCTION check_quarantine_state()": (
        "Refuses a payload without the move that led to its state."
    ),
    "TABLE quarantined_payloads": (
        "Deliveries of processors that a gateway cannot book, as they came. None is ever removed."
    ),
    "COLUMN quarantined_payloads.quarantine_id": "The id of the payload.",
    "COLUMN quarantined_payloads.endpoint": "The endpoint of the gateway that received it.",
    "COLUMN quarantined_payloads.processor": "The processor that sent it.",
    "COLUMN quarantined_payloads.kind": "The processor''s name for what it reports; empty: not known.",
    "COLUMN quarantined_payloads.body": "The body, byte by byte. May hold personal data.",
    "COLUMN quarantined_payloads.body_sha256": (
        "The SHA-256 of the body. With endpoint and query it is the key of a delivery."
    ),
    "COLUMN quarantined_payloads.headers": (
        "The headers that a try needs, by names in lower case. May hold personal data."
    ),
    "COLUMN quarantined_payloads.query": (
        "What followed the question mark of the URL. May hold personal data."
    ),
    "COLUMN quarantined_payloads.received_at": "When the gateway received it, by its own clock.",
    "COLUMN quarantined_payloads.created_at": "When it was stored, by the database''s clock.",
    "COLUMN quarantined_payloads.state": (
        "QUARANTINED waits for a person, RETRY_REQUESTED and PARKED for a gateway; RELEASED is booked,"
        " DISCARDED never will be."
    ),
    "COLUMN quarantined_payloads.move_number": "The number of its latest move.",
    "COLUMN quarantined_payloads.reason": "Why the latest try did not book it, in a word.",
    "COLUMN quarantined_payloads.detail": "What to mend, for people.",
    "COLUMN quarantined_payloads.retry_at": (
        "When a gateway should try it, by the database''s clock; NULL unless it is RETRY_REQUESTED or"
        " PARKED."
    ),
    "INDEX quarantined_payloads_created_at_idx": "For lists in the order of creation.",
    "INDEX quarantined_payloads_open_idx": "For lists and counts of payloads that are not settled.",
    "INDEX quarantined_payloads_retry_at_idx": "For what a gateway should try, as it falls due.",
    "TABLE quarantine_moves": "The moves of each payload from state to state. Append-only.",
    "COLUMN quarantine_moves.quarantine_id": "The payload.",
    "COLUMN quarantine_moves.number": "Counts up from 1, the payload''s arrival.",
    "COLUMN quarantine_moves.state": "The state that it moved to.",
    "COLUMN quarantine_moves.reason": (
        "Why it was not booked, in a word; empty unless it moved to QUARANTINED or PARKED."
    ),
    "COLUMN quarantine_moves.detail": "What to mend; of DISCARDED, the reason that a person gave.",
    "COLUMN quarantine_moves.event_ids": "The events that a RELEASED payload reports.",
    "COLUMN quarantine_moves.retry_at": (
        "When a gateway should try it, by the database''s clock; NULL: it should not."
    ),
    "COLUMN quarantine_moves.actor": "The identity of the caller; empty: callers do not authenticate.",
    "COLUMN quarantine_moves.recorded_at": "When it moved, by the database''s clock.",
}

UPGRADE = (
    *TABLES,
    CHECK_MOVE,
    CHECK_STATE,
    *FIX_PATHS,
    "CREATE TRIGGER quarantined_payloads_move BEFORE UPDATE ON quarantined_payloads"
    " FOR EACH ROW EXECUTE FUNCTION check_quarantine_move()",
    "CREATE TRIGGER quarantined_payloads_deny_change BEFORE DELETE OR TRUNCATE ON quarantined_payloads"
    " FOR EACH STATEMENT EXECUTE FUNCTION deny_change()",
    "CREATE TRIGGER quarantine_moves_deny_change BEFORE UPDATE OR DELETE OR TRUNCATE"
    " ON quarantine_moves FOR EACH STATEMENT EXECUTE FUNCTION deny_change()",
    # After the statement, which also stores the move.
    "CREATE TRIGGER quarantined_payloads_state AFTER INSERT OR UPDATE ON quarantined_payloads"
    " FOR EACH ROW EXECUTE FUNCTION check_quarantine_state()",
    "ALTER TABLE quarantined_payloads ENABLE ALWAYS TRIGGER quarantined_payloads_move",
    "ALTER TABLE quarantined_payloads ENABLE ALWAYS TRIGGER quarantined_payloads_deny_change",
    "ALTER TABLE quarantine_moves ENABLE ALWAYS TRIGGER quarantine_moves_deny_change",
    *(f"COMMENT ON {what} IS '{comment}'" for what, comment in COMMENTS.items()),
    "GRANT SELECT ON quarantined_payloads, quarantine_moves TO ledger_app",
    # Not body, headers and query: reports need no personal data.
    "GRANT SELECT (quarantine_id, endpoint, processor, kind, body_sha256, received_at, created_at,"
    " state, move_number, reason, detail, retry_at) ON quarantined_payloads TO ledger_read",
    "GRANT SELECT ON quarantine_moves TO ledger_read",
    "GRANT INSERT (quarantine_id, endpoint, processor, kind, body, headers, query, received_at,"
    " state, move_number, reason, detail, retry_at) ON quarantined_payloads TO ledger_app",
    "GRANT UPDATE (state, move_number, reason, detail, retry_at) ON quarantined_payloads"
    " TO ledger_app",
    "GRANT INSERT (quarantine_id, number, state, reason, detail, event_ids, retry_at, actor)"
    " ON quarantine_moves TO ledger_app",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM quarantined_payloads) THEN
    RAISE EXCEPTION 'there are payloads in the quarantine, which the earlier schema cannot hold'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    "DROP TABLE quarantine_moves",
    "DROP TABLE quarantined_payloads",
    "DROP FUNCTION check_quarantine_move()",
    "DROP FUNCTION check_quarantine_state()",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
