-- The roles of the ledger. Roles belong to the whole cluster: this file creates those that are
-- absent and drops none. `ledger migrate` runs it if its role may create roles. Otherwise a
-- superuser runs it once: psql -f sql/roles.sql
--
--   ledger_owner  owns the tables; migrations run as it
--   ledger_app    the role of servers: may add to the books and read them, no more
--   ledger_read   for reports
--
-- ledger_app and ledger_read have no password here. Give them one if clients log in with passwords.
DO $$
DECLARE
  wanted text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['ledger_owner', 'ledger_app', 'ledger_read'] LOOP
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I %s', wanted,
                       CASE wanted WHEN 'ledger_owner' THEN 'NOLOGIN' ELSE 'LOGIN' END);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;  -- another session has just created it
      END;
    END IF;
  END LOOP;
END
$$;
