"""Damage to triggers, constraints, roles, views, seals and clocks."""

from support.damage.case import WARNING, Damage

from ledger.domain.audit import Severity

OF_DENY_MOVE = (
    "table accounts",
    "table balance_accounts",
    "table payout_run_items",
    "table payout_run_progress",
    "table payout_runs",
)
TRIGGERS = "append_only_triggers_are_on"
CONSTRAINTS = "constraints_are_in_force"
ROLES = "roles_hold_no_more_than_they_need"
VIEWS = "views_are_as_they_were_made"
FUNCTIONS = "functions_are_as_they_were_made"
NEEDS, SEQUENCES = "roles_hold_what_they_need", "sequences_are_ahead_of_their_tables"
SETTINGS, CREATES = "settings_of_roles_are_safe", "only_owners_create_beside_the_books"
EVENTS_TRIGGER = "TRIGGER processor_events_deny_change"
DAMAGE_TO_GUARDS = (
    Damage(VIEWS, "DROP VIEW ledger_movements", ("view ledger_movements",)),
    Damage(
        VIEWS,
        "ALTER VIEW ledger_movements RENAME TO both_sides;"
        "CREATE VIEW ledger_movements AS SELECT * FROM both_sides WHERE entry_type <> 'FEE'",
        ("view ledger_movements",),
    ),
    Damage(
        VIEWS,
        "CREATE OR REPLACE VIEW current_stay AS SELECT stay_id FROM ledger_stays",
        ("view current_stay",),
    ),
    Damage(
        FUNCTIONS,
        # A comment is enough for the check of the triggers.
        "CREATE OR REPLACE FUNCTION deny_move() RETURNS trigger LANGUAGE plpgsql SET search_path = "
        "pg_catalog, public, pg_temp AS 'BEGIN RETURN NULL; /* RAISE EXCEPTION */ END'",
        ("function deny_move()",),
    ),
    Damage(
        FUNCTIONS,
        "CREATE OR REPLACE FUNCTION ledger_now() RETURNS timestamptz LANGUAGE sql"
        " RETURN now() + interval '8 days'",
        ("function ledger_now()",),
    ),
    Damage(
        FUNCTIONS,
        "ALTER FUNCTION advance_ledger_clock() SET search_path = pg_temp",
        ("function advance_ledger_clock()",),
    ),
    Damage(FUNCTIONS, "ALTER FUNCTION deny_change() SECURITY DEFINER", ("function deny_change()",)),
    Damage(
        FUNCTIONS,
        "ALTER FUNCTION write_payout_run_items RENAME TO renamed",
        ("function write_payout_run_items(uuid, integer)",),
    ),
    Damage(
        TRIGGERS,
        f"ALTER TABLE processor_events DISABLE {EVENTS_TRIGGER}",
        ("table processor_events",),
    ),
    Damage(
        TRIGGERS,
        f"ALTER TABLE processor_events ENABLE {EVENTS_TRIGGER}",
        ("table processor_events",),
    ),
    Damage(TRIGGERS, f"DROP {EVENTS_TRIGGER} ON processor_events", ("table processor_events",)),
    Damage(
        TRIGGERS,
        "DROP TRIGGER ledger_entries_deny_change ON ledger_entries;"
        "CREATE TRIGGER ledger_entries_deny_change BEFORE UPDATE OR DELETE ON ledger_entries"
        " FOR EACH STATEMENT EXECUTE FUNCTION deny_change();"
        "ALTER TABLE ledger_entries ENABLE ALWAYS TRIGGER ledger_entries_deny_change",
        ("table ledger_entries",),
    ),
    Damage(
        TRIGGERS,
        f"DROP {EVENTS_TRIGGER} ON processor_events;"
        f"CREATE {EVENTS_TRIGGER} BEFORE UPDATE OR DELETE OR TRUNCATE ON processor_events"
        " FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION deny_change();"
        f"ALTER TABLE processor_events ENABLE ALWAYS {EVENTS_TRIGGER}",
        ("table processor_events",),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION deny_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN "
        "RETURN NULL; END'",
        (
            "table accounts",
            "table archived_ranges",
            "table archived_run_outcomes",
            "table audit_log",
            "table balance_accounts",
            "table balance_snapshots",
            "table ledger_entries",
            "table ledger_seals",
            "table ledger_stays",
            "table ledger_verifications",
            "table payment_operations",
            "table payments",
            "table payout_items",
            "table payout_run_items",
            "table payout_run_progress",
            "table payout_runs",
            "table payout_submission_items",
            "table payout_submissions",
            "table payouts",
            "table processor_events",
            "table quarantine_moves",
            "table quarantined_payloads",
            "table statement_marks",
        ),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION check_payout_move() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN "
        "RETURN NEW; END'",
        ("table payouts",),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION check_quarantine_move() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RETURN NEW; END'",
        ("table quarantined_payloads",),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION check_payout_items() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RETURN NULL; END'",
        ("table payout_items", "table payouts"),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION deny_move() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN "
        "NULL; END'",
        OF_DENY_MOVE,
    ),
    Damage(
        TRIGGERS,
        "DROP TRIGGER payout_runs_deny_move ON payout_runs;"
        "CREATE TRIGGER payout_runs_deny_move AFTER UPDATE ON payout_runs"
        " FOR EACH ROW WHEN (OLD.state <> 'RUNNING') EXECUTE FUNCTION deny_move();"
        "ALTER TABLE payout_runs ENABLE ALWAYS TRIGGER payout_runs_deny_move",
        ("table payout_runs",),
    ),
    Damage(
        TRIGGERS,
        "DROP TRIGGER balance_accounts_deny_change ON balance_accounts",
        ("table balance_accounts",),
    ),
    Damage(
        TRIGGERS,
        "DROP TRIGGER balance_accounts_deny_move ON balance_accounts;"
        "CREATE TRIGGER balance_accounts_deny_move AFTER UPDATE ON balance_accounts FOR EACH ROW "
        "WHEN (OLD.restaurant_id <> NEW.restaurant_id) EXECUTE FUNCTION deny_move();"
        "ALTER TABLE balance_accounts ENABLE ALWAYS TRIGGER balance_accounts_deny_move",
        ("table balance_accounts",),
    ),
    Damage(
        TRIGGERS,
        "DROP TRIGGER payout_run_items_deny_move ON payout_run_items",
        ("table payout_run_items",),
    ),
    Damage(TRIGGERS, "ALTER TABLE payouts ENABLE TRIGGER payouts_check_move", ("table payouts",)),
    Damage(
        TRIGGERS,
        "DROP TRIGGER balance_snapshots_deny_change ON balance_snapshots",
        ("table balance_snapshots",),
    ),
    Damage(
        TRIGGERS,
        "ALTER TABLE payouts ENABLE ALWAYS TRIGGER payouts_check_items",
        ("table payouts",),
    ),
    Damage(TRIGGERS, "ALTER FUNCTION deny_move() RESET search_path", OF_DENY_MOVE),
    Damage(
        TRIGGERS, "ALTER FUNCTION check_payout_move() SET search_path = public", ("table payouts",)
    ),
    Damage(TRIGGERS, "ALTER TABLE payouts ENABLE TRIGGER payouts_deny_change", ("table payouts",)),
    Damage(TRIGGERS, "ALTER TABLE payouts DISABLE TRIGGER payouts_check_items", ("table payouts",)),
    Damage(
        TRIGGERS, "DROP TRIGGER payout_items_check_items ON payout_items", ("table payout_items",)
    ),
    Damage(
        TRIGGERS,
        "ALTER TABLE payout_items ENABLE REPLICA TRIGGER payout_items_deny_change",
        ("table payout_items",),
    ),
    Damage(
        TRIGGERS, "ALTER TABLE payments ENABLE TRIGGER payments_check_move", ("table payments",)
    ),
    Damage(TRIGGERS, "DROP TRIGGER accounts_deny_move ON accounts", ("table accounts",)),
    Damage(
        TRIGGERS,
        "DROP TRIGGER statement_marks_skip_without_funds ON statement_marks",
        ("table statement_marks",),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION check_payment_move() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NEW; END'",
        ("table payments",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER DOMAIN interaccount_rest DROP CONSTRAINT interaccount_rest_check",
        ("domain interaccount_rest",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE payment_operations DROP CONSTRAINT payment_operations_operation_id_key",
        ("table payment_operations",),
    ),
    Damage(CONSTRAINTS, "DROP INDEX balance_accounts_account_id_key", ("table balance_accounts",)),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_accounts_check",
        ("table ledger_entries",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER DOMAIN posting_rule DROP CONSTRAINT posting_rule_check",
        ("domain posting_rule",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER DOMAIN event_type DROP CONSTRAINT event_type_check;"
        "ALTER DOMAIN event_type ADD CONSTRAINT event_type_check CHECK (VALUE <> '') NOT VALID",
        ("domain event_type",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER DOMAIN event_type DROP CONSTRAINT event_type_check;"
        "ALTER DOMAIN event_type ADD CONSTRAINT event_type_check CHECK (VALUE <> '')",
        ("domain event_type",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER DOMAIN event_type ADD CONSTRAINT no_charges CHECK (VALUE <> 'charge_succeeded')",
        ("domain event_type",),
    ),
    Damage(
        CONSTRAINTS,
        "DO $$ BEGIN EXECUTE format('CREATE DOMAIN twin AS text CONSTRAINT posting_rule_check %s',"
        " (SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = "
        "'posting_rule_check')); END $$;"
        "ALTER DOMAIN posting_rule DROP CONSTRAINT posting_rule_check;"
        "ALTER DOMAIN posting_rule RENAME TO without_words;"
        "ALTER DOMAIN twin RENAME TO posting_rule",
        ("table ledger_entries",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_accounts_check,"
        " ADD CONSTRAINT ledger_entries_accounts_check CHECK (true)",
        ("table ledger_entries",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE balance_accounts DROP CONSTRAINT balance_accounts_restaurant_id_fkey,"
        " ADD CONSTRAINT balance_accounts_restaurant_id_fkey CHECK (restaurant_id <> '')",
        ("table balance_accounts",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE ledger_entries ENABLE ROW LEVEL SECURITY",
        ("table ledger_entries",),
    ),
    Damage(
        CONSTRAINTS,
        "CREATE RULE keep_out AS ON INSERT TO ledger_entries DO INSTEAD NOTHING",
        ("table ledger_entries",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE restaurants DROP CONSTRAINT restaurants_name_check;"
        "ALTER TABLE restaurants ADD CONSTRAINT restaurants_name_check CHECK (char_length(name) <= "
        "200) NOT VALID",
        ("table restaurants",),
    ),
    Damage(
        CONSTRAINTS, "ALTER TABLE balance_accounts DISABLE TRIGGER ALL", ("table balance_accounts",)
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE ledger_entries ALTER amount_minor DROP NOT NULL",
        ("table ledger_entries",),
    ),
    Damage(
        CONSTRAINTS,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = "
        "'processor_events_pkey'::regclass",
        ("table processor_events",),
    ),
    Damage(CONSTRAINTS, "DROP INDEX payouts_in_flight_key", ("table payouts",)),
    Damage(
        CONSTRAINTS,
        "DROP INDEX payouts_live_key;"
        "CREATE UNIQUE INDEX payouts_live_key ON payouts (balance_account_id, as_of) WHERE state "
        "IN ('PAID')",
        ("table payouts",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE payouts DROP CONSTRAINT payouts_available_minor_check",
        ("table payouts",),
    ),
    Damage(
        CONSTRAINTS, "ALTER TABLE payout_run_items DISABLE TRIGGER ALL", ("table payout_run_items",)
    ),
    Damage(ROLES, "GRANT UPDATE (amount_minor) ON payouts TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT UPDATE (fee_minor) ON payments TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT UPDATE (currency) ON accounts TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT DELETE ON payment_operations TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT UPDATE ON payout_items TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT DELETE ON balance_snapshots TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT DELETE ON payout_run_items TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT TRUNCATE ON payout_runs TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT UPDATE (state) ON payouts TO ledger_read", ("role ledger_read",)),
    Damage(ROLES, "GRANT UPDATE ON processor_events TO ledger_app", ("role ledger_app",)),
    Damage(
        ROLES, "GRANT UPDATE (reference) ON processor_events TO ledger_app", ("role ledger_app",)
    ),
    Damage(
        ROLES, "GRANT DELETE ON ledger_entries TO PUBLIC", ("role ledger_app", "role ledger_read")
    ),
    Damage(ROLES, "GRANT TRUNCATE ON ledger_entries TO ledger_app", ("role ledger_app",)),
    Damage(
        ROLES, "GRANT UPDATE (currency) ON balance_accounts TO ledger_app", ("role ledger_app",)
    ),
    Damage(ROLES, "GRANT INSERT ON restaurants TO ledger_read", ("role ledger_read",)),
    Damage(ROLES, "GRANT SELECT ON page_token_keys TO ledger_read", ("role ledger_read",)),
    Damage(ROLES, "GRANT SELECT (secret) ON page_token_keys TO PUBLIC", ("role ledger_read",)),
    Damage(ROLES, "GRANT INSERT ON page_token_keys TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT SELECT (body) ON quarantined_payloads TO PUBLIC", ("role ledger_read",)),
    Damage(ROLES, "GRANT SELECT ON quarantined_payloads TO ledger_read", ("role ledger_read",)),
    Damage(
        ROLES, "GRANT UPDATE (body) ON quarantined_payloads TO ledger_app", ("role ledger_app",)
    ),
    Damage(ROLES, "ALTER DOMAIN posting_rule OWNER TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "ALTER FUNCTION deny_change() OWNER TO ledger_read", ("role ledger_read",)),
    Damage(
        NEEDS,
        "REVOKE INSERT (amount_minor) ON ledger_entries FROM ledger_app",
        ("role ledger_app",),
    ),
    Damage(NEEDS, "REVOKE INSERT ON payout_items FROM ledger_app", ("role ledger_app",)),
    Damage(
        NEEDS,
        "REVOKE SELECT (reason) ON quarantined_payloads FROM ledger_read",
        ("role ledger_read",),
    ),
    Damage(NEEDS, "REVOKE SELECT ON quarantined_payloads FROM ledger_app", ("role ledger_app",)),
    Damage(
        NEEDS, "REVOKE INSERT (kind) ON payment_operations FROM ledger_app", ("role ledger_app",)
    ),
    Damage(
        NEEDS,
        "REVOKE SELECT ON restaurants FROM ledger_app, ledger_read",
        ("role ledger_app", "role ledger_read"),
    ),
    Damage(
        NEEDS,
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC, ledger_app, ledger_read",
        ("role ledger_app", "role ledger_read"),
    ),
    Damage(
        NEEDS,
        "REVOKE EXECUTE ON FUNCTION recorded_now() FROM PUBLIC, ledger_app",
        ("role ledger_app",),
    ),
    Damage(
        NEEDS,
        "REVOKE EXECUTE ON FUNCTION ledger_now() FROM PUBLIC, ledger_read",
        ("role ledger_read",),
    ),
    Damage(CREATES, "GRANT CREATE ON SCHEMA public TO PUBLIC", ("every role",), WARNING),
    Damage(CREATES, "GRANT CREATE ON SCHEMA public TO ledger_read", ("role ledger_read",), WARNING),
    Damage(
        SEQUENCES,
        "ALTER SEQUENCE balance_accounts_balance_account_id_seq RESTART",
        ("table balance_accounts",),
    ),
    Damage(
        SEQUENCES,
        # Unlike setval, it is taken back with its transaction.
        "ALTER SEQUENCE balance_accounts_balance_account_id_seq RESTART WITH 1",
        ("table balance_accounts",),
    ),
    Damage(
        "the_database_keeps_every_text",
        "UPDATE pg_database SET encoding = pg_char_to_encoding('SQL_ASCII') WHERE datname = "
        "current_database()",
        ("database {database}",),
    ),
    Damage(
        SETTINGS,
        "DO $$ BEGIN EXECUTE format("
        "'ALTER ROLE ledger_app IN DATABASE %I SET synchronous_commit = off', current_database()); "
        "END $$",
        ("role ledger_app",),
        WARNING,
    ),
    Damage(
        SETTINGS,
        "DO $$ BEGIN EXECUTE format("
        "'ALTER ROLE ledger_read IN DATABASE %I SET search_path = elsewhere', current_database()); "
        "END $$",
        ("role ledger_read",),
        WARNING,
    ),
    Damage(
        SETTINGS,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = local', "
        "current_database()); END $$",
        ("database {database}",),
        WARNING,
    ),
)
# Roles belong to the whole server, so these are rolled back.
DAMAGE_TO_ROLES = (
    Damage(ROLES, "ALTER ROLE ledger_app SUPERUSER", ("role ledger_app",)),
    Damage(ROLES, "GRANT ledger_owner TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "ALTER ROLE ledger_read RENAME TO ledger_gone", ("role ledger_read",)),
)
# As if no server had sealed since.
DAMAGE_TO_SEALING = (
    Damage(
        "rows_are_sealed_in_time",
        "ALTER TABLE ledger_seals DISABLE TRIGGER ALL; DELETE FROM ledger_seals;"
        "UPDATE processor_events SET recorded_at = recorded_at - interval '11 minutes' WHERE "
        "event_id = 'evt_p'",
        ("table ledger_seals",),
        Severity.WARNING,
    ),
    Damage(
        "verified_seals_are_in_the_chain",
        "INSERT INTO ledger_verifications VALUES (1, gen_random_uuid(), 1, 0, 0, 1, sha256(''),"
        " sha256(''), 0, 0, now())",
        ("verification 1",),
    ),
)
DAMAGE_TO_CLOCK = (
    Damage(
        "clock_is_not_behind_the_books",
        # Unlike setval, it is taken back with its transaction; the next value is the latest
        # instant.
        "DO $$ BEGIN EXECUTE 'ALTER SEQUENCE ledger_clock RESTART WITH '"
        " || (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 7200000000; PERFORM "
        "nextval('ledger_clock'); END $$",
        ("clock",),
        Severity.WARNING,
    ),
    Damage(
        "clock_agrees_with_the_host",
        "SET LOCAL ledger.host_during = '[2026-01-01 00:00:00+00,2026-01-01 00:00:01+00]'",
        ("clock",),
        Severity.WARNING,
    ),
)
