"""Trigger functions that look nowhere but in the books' own schema, payouts that can be loaded, a sequence that can be read."""

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"

# PostgreSQL looks for a table in the session's temporary schema first, unless the path says otherwise: a temporary table named
# payout_items made the check of payouts look there. The privilege TEMPORARY is not revoked: it comes from PUBLIC, so that is for
# the owner of the database to decide.
FIX_SEARCH_PATHS = """
DO $$
DECLARE
  function regprocedure;
BEGIN
  FOREACH function IN ARRAY ARRAY[
    'check_payout_items()', 'check_payout_move()', 'deny_change()', 'deny_move()', 'summarize_recorded_txids()'
  ]::regprocedure[] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', function, current_schema());
  END LOOP;
END
$$
"""

# A dump is loaded table by table. The table that comes first finds nothing of the other one and is let in; what comes second is
# compared as ever. That goes for COPY by the owner of the tables alone, and is asked only where payouts would be refused.
CHECK_LOADABLE = r"""
CREATE OR REPLACE FUNCTION check_payout_items() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wrong uuid;
BEGIN
  SELECT a.payout_id INTO wrong
  FROM (SELECT DISTINCT payout_id FROM added) AS a
  CROSS JOIN LATERAL (SELECT sum(amount_minor) AS amount_minor FROM payout_items WHERE payout_id = a.payout_id) AS i
  LEFT JOIN LATERAL (SELECT amount_minor FROM payouts WHERE payout_id = a.payout_id OFFSET 0) AS p ON true
  WHERE i.amount_minor IS DISTINCT FROM p.amount_minor
  LIMIT 1;
  IF wrong IS NOT NULL AND current_query() ~* '^\s*COPY\s'
     AND pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
    SELECT a.payout_id INTO wrong
    FROM (SELECT DISTINCT payout_id FROM added) AS a
    CROSS JOIN LATERAL (SELECT sum(amount_minor) AS amount_minor FROM payout_items WHERE payout_id = a.payout_id) AS i
    CROSS JOIN LATERAL (SELECT amount_minor FROM payouts WHERE payout_id = a.payout_id OFFSET 0) AS p
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

# As revision 0003 made it.
CHECK_STRICT = r"""
CREATE OR REPLACE FUNCTION check_payout_items() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  wrong uuid;
BEGIN
  SELECT a.payout_id INTO wrong
  FROM (SELECT DISTINCT payout_id FROM added) AS a
  CROSS JOIN LATERAL (SELECT sum(amount_minor) AS amount_minor FROM payout_items WHERE payout_id = a.payout_id) AS i
  LEFT JOIN LATERAL (SELECT amount_minor FROM payouts WHERE payout_id = a.payout_id OFFSET 0) AS p ON true
  WHERE i.amount_minor IS DISTINCT FROM p.amount_minor
  LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'the items of payout % do not add up to its amount', wrong USING ERRCODE = 'check_violation';
  END IF;
  RETURN NULL;
END
$$
"""

UPGRADE = (
    CHECK_LOADABLE,
    FIX_SEARCH_PATHS,
    # What a replication worker writes was checked where it was first written, and comes table by table. Only a superuser's session
    # can pass for one.
    "ALTER TABLE payouts ENABLE TRIGGER payouts_check_items",
    "ALTER TABLE payout_items ENABLE TRIGGER payout_items_check_items",
    # Replication leaves sequences behind; servers and the audit look whether this one is.
    "GRANT SELECT ON SEQUENCE balance_accounts_balance_account_id_seq TO ledger_app, ledger_read",
)

DOWNGRADE = (
    "REVOKE SELECT ON SEQUENCE balance_accounts_balance_account_id_seq FROM ledger_app, ledger_read",
    "ALTER TABLE payout_items ENABLE ALWAYS TRIGGER payout_items_check_items",
    "ALTER TABLE payouts ENABLE ALWAYS TRIGGER payouts_check_items",
    CHECK_STRICT,
    "ALTER FUNCTION check_payout_move() RESET search_path",
    "ALTER FUNCTION deny_change() RESET search_path",
    "ALTER FUNCTION deny_move() RESET search_path",
    "ALTER FUNCTION summarize_recorded_txids() SET search_path = pg_catalog",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
