"""What is recorded never goes back in time: a clock for the books, which the database's clock only moves on."""

from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"

# The columns that say when a row was recorded. The default reaches servers of earlier revisions, too.
RECORDED = (
    ("processor_events", "recorded_at"),
    ("ledger_entries", "recorded_at"),
    ("payouts", "created_at"),
    ("payout_runs", "created_at"),
)
GIVEN = "current_setting('ledger.now', true)"
INSTANT = "'epoch'::timestamptz + {} * interval '1 microsecond'"
# Exact until the year 2255: the nearest integer of what a double holds of microseconds.
MICROSECONDS = "(date_part('epoch', {}) * 1000000)::bigint"

UPGRADE = (
    # Outside transactions, so that nobody waits for another. Its commits are those of the rows: a setval
    # comes before the commit in the log, so a crash or a standby loses both or none.
    "CREATE SEQUENCE ledger_clock MINVALUE 0",
    """COMMENT ON SEQUENCE ledger_clock IS
  'The latest instant at which something was recorded, in microseconds since 1970. Never set back.'""",
    f"""
CREATE FUNCTION ledger_clock_at() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN {INSTANT.format("COALESCE(pg_sequence_last_value('ledger_clock'::regclass), 0)")}
""",
    "COMMENT ON FUNCTION ledger_clock_at() IS 'The latest instant at which something was recorded.'",
    # Each of the two is one expression: PL/pgSQL prepares every expression anew in each transaction.
    f"""
CREATE FUNCTION ledger_now_behind() RETURNS timestamptz LANGUAGE plpgsql AS $$
BEGIN
  RETURN {
        INSTANT.format(f'''set_config('ledger.now', greatest(
    {MICROSECONDS.format("now()")}, pg_sequence_last_value('ledger_clock') + 1)::text, true)::bigint''')
    };
END
$$
""",
    """COMMENT ON FUNCTION ledger_now_behind() IS
  'The time of the books while the database''s clock is behind: a microsecond after the latest record.'""",
    f"""
CREATE FUNCTION ledger_now() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN CASE
  WHEN {GIVEN} = 'clock' THEN now()
  WHEN {GIVEN} <> '' THEN {INSTANT.format(f"{GIVEN}::bigint")}
  WHEN clock_timestamp() < ledger_clock_at() THEN ledger_now_behind()
  ELSE now()
END
""",
    """COMMENT ON FUNCTION ledger_now() IS
  'The time of the books: now(), or just after the latest record if the clock is behind that.'""",
    # As its owner, as only rows that are recorded may move the clock on.
    f"""
CREATE FUNCTION advance_ledger_clock() RETURNS timestamptz LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  RETURN CASE
    WHEN {MICROSECONDS.format("clock_timestamp()")} < pg_sequence_last_value('ledger_clock') THEN
      {
        INSTANT.format(f'''set_config('ledger.now', setval('ledger_clock', greatest(
        {MICROSECONDS.format("now()")}, pg_sequence_last_value('ledger_clock') + 1))::text, true)::bigint''')
    }
    WHEN setval('ledger_clock', greatest(
           {MICROSECONDS.format("now()")}, pg_sequence_last_value('ledger_clock'))) >= 0
         AND set_config('ledger.now', 'clock', true) = 'clock' THEN now()
  END;
END
$$
""",
    """COMMENT ON FUNCTION advance_ledger_clock() IS
  'Moves the clock of the books on to now, and gives this transaction its instant, in ledger.now.'""",
    # A transaction has one instant, so that rows that it writes agree. Only its first row asks for it:
    # of a large batch each further row costs a look at the setting. Never before now(), whatever the
    # setting says, so that no session can write into the past.
    f"""
CREATE FUNCTION recorded_now() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN COALESCE(
  CASE {GIVEN}
    WHEN 'clock' THEN now()
    WHEN '' THEN NULL
    ELSE greatest(now(), {INSTANT.format(f"{GIVEN}::bigint")})
  END,
  advance_ledger_clock())
""",
    """COMMENT ON FUNCTION recorded_now() IS
  'When a row is recorded: the time of the books, the same for all rows of a transaction.'""",
    # Not from an entry a day ahead: the audit reports that, and the books shall not follow it.
    """
CREATE FUNCTION catch_up_ledger_clock() RETURNS timestamptz LANGUAGE sql VOLATILE SECURITY DEFINER AS $$
  SELECT 'epoch'::timestamptz + interval '1 microsecond' * setval('ledger_clock', greatest(
    (extract(epoch FROM max(r.recorded_at)) * 1000000)::bigint, pg_sequence_last_value('ledger_clock'), 0))
  FROM (
    SELECT latest.recorded_at
    FROM balance_accounts AS a
    CROSS JOIN LATERAL (
      SELECT e.recorded_at FROM ledger_entries AS e
      WHERE e.balance_account_id = a.balance_account_id
      ORDER BY e.recorded_txid DESC
      LIMIT 1
    ) AS latest
    UNION ALL SELECT last_recorded_at FROM balance_snapshots
    UNION ALL SELECT sealed_at FROM ledger_seals
    UNION ALL SELECT created_at FROM payouts
    UNION ALL SELECT greatest(created_at, finished_at) FROM payout_runs
  ) AS r
  WHERE r.recorded_at < clock_timestamp() + interval '1 day'
$$
""",
    """COMMENT ON FUNCTION catch_up_ledger_clock() IS
  'Sets the clock of the books to the latest record, for books whose sequences did not come with them.'""",
    """
DO $$
DECLARE
  function regprocedure;
BEGIN
  FOREACH function IN ARRAY ARRAY[
    'ledger_now_behind()', 'advance_ledger_clock()', 'catch_up_ledger_clock()'
  ]::regprocedure[] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', function, current_schema());
  END LOOP;
END
$$
""",
    "GRANT SELECT ON SEQUENCE ledger_clock TO ledger_app, ledger_read",
    # They run as their owner: nobody may call them by default.
    "REVOKE ALL ON FUNCTION advance_ledger_clock(), catch_up_ledger_clock() FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION advance_ledger_clock(), catch_up_ledger_clock() TO ledger_app",
    *(
        f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT recorded_now()"
        for table, column in RECORDED
    ),
)

DOWNGRADE = (
    *(f"ALTER TABLE {table} ALTER COLUMN {column} SET DEFAULT now()" for table, column in RECORDED),
    "DROP FUNCTION catch_up_ledger_clock()",
    "DROP FUNCTION recorded_now()",
    "DROP FUNCTION advance_ledger_clock()",
    "DROP FUNCTION ledger_now()",
    "DROP FUNCTION ledger_now_behind()",
    "DROP FUNCTION ledger_clock_at()",
    "DROP SEQUENCE ledger_clock",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
