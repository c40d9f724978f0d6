"""Restaurants have payout holds and minimums that stay in the account; runs may name restaurants.

A payout counts all that matured, and may leave a part of it in the account: what its items add up
to, with what the payout before left, is what it pays and what it leaves.

A payout of a server of an earlier revision does not say what it leaves. The database refuses it for
a restaurant on hold, with a minimum, or whose latest payout left something: that server leaves the
restaurant to the others.
"""

from alembic import op

revision: str = "0030"
down_revision: str | None = "0029"

SKIP_REASONS = (
    "INACTIVE",
    "PAYOUT_IN_FLIGHT",
    "ALREADY_PAID",
    "CUTOFF_BEFORE_LATEST_PAYOUT",
    "NOTHING_AVAILABLE",
    "BELOW_MINIMUM",
    "FAILED",
)

# The request id of a run of named restaurants is stored with a digest of their ids, behind a sign
# that no caller's request id has. So the key that servers of earlier revisions insert by stays.
REQUEST_ID = r"""
ALTER TABLE payout_runs
  DROP CONSTRAINT payout_runs_request_id_check,
  ADD CONSTRAINT payout_runs_request_id_check CHECK (
    CASE restaurants_named
      WHEN 0 THEN request_id ~ '^[A-Za-z0-9._:-]*$' AND octet_length(request_id) <= 128
      ELSE request_id ~ '^[A-Za-z0-9._:-]{0,128}#[0-9a-f]{64}$'
    END)
"""
REQUEST_ID_BEFORE = r"""
ALTER TABLE payout_runs
  DROP CONSTRAINT payout_runs_request_id_check,
  ADD CONSTRAINT payout_runs_request_id_check
    CHECK (request_id ~ '^[A-Za-z0-9._:-]*$' AND octet_length(request_id) <= 128)
"""

# `payable` is what the items of a payout add up to.
CHECK_ITEMS = r"""
CREATE OR REPLACE FUNCTION check_payout_items() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wrong uuid;
BEGIN
  SELECT a.payout_id INTO wrong
  FROM (SELECT DISTINCT payout_id FROM added) AS a
  CROSS JOIN LATERAL (SELECT sum(amount_minor) AS amount_minor FROM payout_items WHERE payout_id = a.payout_id) AS i
  LEFT JOIN LATERAL (SELECT {payable} FROM payouts WHERE payout_id = a.payout_id OFFSET 0) AS p ON true
  WHERE i.amount_minor IS DISTINCT FROM p.amount_minor
  LIMIT 1;
  IF wrong IS NOT NULL AND current_query() ~* '^\s*COPY\s'
     AND pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
    SELECT a.payout_id INTO wrong
    FROM (SELECT DISTINCT payout_id FROM added) AS a
    CROSS JOIN LATERAL (SELECT sum(amount_minor) AS amount_minor FROM payout_items WHERE payout_id = a.payout_id) AS i
    CROSS JOIN LATERAL (SELECT {payable} FROM payouts WHERE payout_id = a.payout_id OFFSET 0) AS p
    WHERE i.amount_minor <> p.amount_minor
    LIMIT 1;
  END IF;
  IF wrong IS NOT NULL THEN
    RAISE EXCEPTION 'the items of payout % do not add up to its amount', wrong USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END
$$
"""
PAYABLE = "amount_minor + COALESCE(retained_minor, 0) - COALESCE(retained_before_minor, 0) AS amount_minor"

# SQLSTATE 55000 is none that servers take for the fault of a restaurant: they leave its item open.
# What a dump holds was checked where it was first written.
CHECK_TERMS = r"""
CREATE FUNCTION check_payout_terms() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (
    EXISTS (
      SELECT FROM balance_accounts AS a
      JOIN restaurants AS r ON r.restaurant_id = a.restaurant_id
      WHERE a.balance_account_id = NEW.balance_account_id
        AND (r.min_balance_minor ? a.currency
             OR (r.payout_hold_reason IS NOT NULL
                 AND COALESCE(r.payout_hold_until, 'infinity') > ledger_now())))
    OR EXISTS (
      SELECT FROM payouts AS before
      WHERE before.balance_account_id = NEW.balance_account_id
        AND before.sequence = NEW.sequence - 1 AND before.retained_minor > 0)
  ) AND NOT (
    current_query() ~* '^\s*COPY\s'
    AND pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE')
  ) THEN
    RAISE EXCEPTION 'payout % does not say what it leaves in the account', NEW.payout_id
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN NEW;
END
$$
"""

# Replacing a function forgets its settings.
FIX_SEARCH_PATHS = """
DO $$
DECLARE
  function regprocedure;
BEGIN
  FOREACH function IN ARRAY ARRAY[{functions}]::regprocedure[] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', function, current_schema());
  END LOOP;
END
$$
"""


def skip_reasons(*reasons: str, suffix: str = "") -> str:
    """The CHECK on the reasons."""
    words = ", ".join(f"'{reason}'" for reason in reasons)
    return f"""
ALTER TABLE payout_run_items
  DROP CONSTRAINT payout_run_items_skip_reason_check,
  ADD CONSTRAINT payout_run_items_skip_reason_check CHECK (skip_reason IN ({words})) {suffix}
"""


# The next revision validates what is NOT VALID here.
UPGRADE = (
    """
ALTER TABLE restaurants
  ADD COLUMN payout_hold_reason text,
  ADD COLUMN payout_hold_until timestamptz,
  ADD COLUMN min_balance_minor jsonb NOT NULL DEFAULT '{}',
  ADD CONSTRAINT restaurants_payout_hold_check CHECK (
    (payout_hold_reason IS NOT NULL OR payout_hold_until IS NULL)
    AND char_length(payout_hold_reason) BETWEEN 1 AND 200) NOT VALID,
  ADD CONSTRAINT restaurants_min_balance_minor_check CHECK (
    jsonb_typeof(min_balance_minor) = 'object'
    AND NOT jsonb_path_exists(min_balance_minor, '$.keyvalue() ? (!(@.key like_regex "^[A-Z]{3}$"
      && @.value.type() == "number" && @.value >= 1 && @.value <= 1000000000000
      && @.value.floor() == @.value))')) NOT VALID
""",
    "COMMENT ON COLUMN restaurants.payout_hold_reason IS"
    " 'Why payout runs skip it, for people; NULL: they do not, as nothing is on hold.'",
    "COMMENT ON COLUMN restaurants.payout_hold_until IS"
    " 'When the hold ends by the database''s clock; NULL: when it is removed.'",
    "COMMENT ON COLUMN restaurants.min_balance_minor IS"
    " 'What payout runs leave in the account: an object of minor units by currency.'",
    """
ALTER TABLE payouts
  ADD COLUMN retained_minor bigint,
  ADD COLUMN retained_before_minor bigint,
  ADD CONSTRAINT payouts_retained_minor_check CHECK (
    (retained_minor IS NULL) = (retained_before_minor IS NULL)
    AND retained_minor >= 0 AND retained_before_minor >= 0) NOT VALID
""",
    """COMMENT ON COLUMN payouts.retained_minor IS
  'What it counted and left in the account, in minor units; NULL: nothing, and an earlier revision created it.'""",
    """COMMENT ON COLUMN payouts.retained_before_minor IS
  'What the balance account''s payout before left, in minor units: counted again by this one. NULL as retained_minor.'""",
    """COMMENT ON COLUMN payout_items.amount_minor IS
  'That sum less the sum that the account''s previous payout counted, in minor units. The items of a payout add up to its amount and what it leaves, less what the previous payout left.'""",
    """
ALTER TABLE payout_run_items
  ADD COLUMN available_minor bigint,
  ADD COLUMN retained_minor bigint,
  ADD CONSTRAINT payout_run_items_retained_minor_check CHECK (
    (available_minor IS NULL) = (retained_minor IS NULL)
    AND retained_minor BETWEEN 0 AND GREATEST(available_minor, 0)) NOT VALID
""",
    """COMMENT ON COLUMN payout_run_items.available_minor IS
  'What could be paid by the cut-off when a worker looked at it, in minor units, negative for a debt; NULL until then, and of earlier revisions.'""",
    """COMMENT ON COLUMN payout_run_items.retained_minor IS
  'What the restaurant''s minimum kept of that in the account, in minor units; NULL as available_minor.'""",
    skip_reasons(*SKIP_REASONS, "ON_HOLD", "MIN_BALANCE", suffix="NOT VALID"),
    """
ALTER TABLE payout_runs
  ADD COLUMN restaurants_named integer NOT NULL DEFAULT 0
    CONSTRAINT payout_runs_restaurants_named_check CHECK (restaurants_named BETWEEN 0 AND 1000)
""",
    "COMMENT ON COLUMN payout_runs.restaurants_named IS"
    " 'How many restaurants the caller named; 0: the run is over all.'",
    REQUEST_ID,
    """COMMENT ON COLUMN payout_runs.request_id IS
  'Given by the caller to distinguish runs of one date; empty if none was given. A run of named restaurants has # and the SHA-256 of their ids behind it.'""",
    CHECK_ITEMS.replace("{payable}", PAYABLE),
    "COMMENT ON FUNCTION check_payout_items() IS"
    " 'Keeps the items of a payout adding up to what it pays and leaves.'",
    CHECK_TERMS,
    "COMMENT ON FUNCTION check_payout_terms() IS"
    " 'Keeps servers of earlier revisions from paying what is on hold or has to stay.'",
    FIX_SEARCH_PATHS.replace("{functions}", "'check_payout_items()', 'check_payout_terms()'"),
    # Not for a replication worker, as the triggers that check items and runs.
    """
CREATE TRIGGER payouts_check_terms BEFORE INSERT ON payouts
  FOR EACH ROW WHEN (NEW.retained_minor IS NULL) EXECUTE FUNCTION check_payout_terms()
""",
    """
GRANT INSERT (payout_hold_reason, payout_hold_until, min_balance_minor),
      UPDATE (payout_hold_reason, payout_hold_until, min_balance_minor)
  ON restaurants TO ledger_app
""",
    "GRANT INSERT (retained_minor, retained_before_minor) ON payouts TO ledger_app",
    "GRANT UPDATE (available_minor, retained_minor) ON payout_run_items TO ledger_app",
    "GRANT INSERT (restaurants_named) ON payout_runs TO ledger_app",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM restaurants WHERE payout_hold_reason IS NOT NULL OR min_balance_minor <> '{}')
     OR EXISTS (SELECT FROM payouts WHERE retained_minor > 0)
     OR EXISTS (SELECT FROM payout_runs WHERE restaurants_named > 0)
     OR EXISTS (SELECT FROM payout_run_items WHERE skip_reason IN ('ON_HOLD', 'MIN_BALANCE')) THEN
    RAISE EXCEPTION 'there are holds, minimums or runs of named restaurants: the earlier schema has no place for them'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    "DROP TRIGGER payouts_check_terms ON payouts",
    "DROP FUNCTION check_payout_terms()",
    CHECK_ITEMS.replace("{payable}", "amount_minor"),
    "COMMENT ON FUNCTION check_payout_items() IS"
    " 'Keeps the items of a payout adding up to its amount.'",
    FIX_SEARCH_PATHS.replace("{functions}", "'check_payout_items()'"),
    REQUEST_ID_BEFORE,
    """COMMENT ON COLUMN payout_runs.request_id IS
  'Given by the caller to distinguish runs of one date; empty if none was given.'""",
    "ALTER TABLE payout_runs DROP COLUMN restaurants_named",
    skip_reasons(*SKIP_REASONS),
    "ALTER TABLE payout_run_items DROP COLUMN available_minor, DROP COLUMN retained_minor",
    """COMMENT ON COLUMN payout_items.amount_minor IS
  'That sum less the sum that the account''s previous payout counted, in minor units: what this payout pays of it.'""",
    "ALTER TABLE payouts DROP COLUMN retained_minor, DROP COLUMN retained_before_minor",
    """
ALTER TABLE restaurants DROP COLUMN payout_hold_reason, DROP COLUMN payout_hold_until,
  DROP COLUMN min_balance_minor
""",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
