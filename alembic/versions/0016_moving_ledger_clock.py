"""Every record moves the clock of the books on, also in a session that never asked for its time."""

from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"

GIVEN = "current_setting('ledger.now', true)"
INSTANT = "'epoch'::timestamptz + {} * interval '1 microsecond'"
MICROSECONDS = "(date_part('epoch', {}) * 1000000)::bigint"

# In a session that never set it, the setting is NULL, which greatest() passes over: the clock stood still.
# And an instant that ledger_now() gave is one of the books only when the clock has moved on to it.
RECORDED_NOW = f"""
CREATE OR REPLACE FUNCTION recorded_now() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN COALESCE(
  CASE COALESCE({GIVEN}, '')
    WHEN 'clock' THEN now()
    WHEN '' THEN NULL
    ELSE CASE WHEN {GIVEN}::bigint <= pg_sequence_last_value('ledger_clock'::regclass)
              THEN greatest(now(), {INSTANT.format(f"{GIVEN}::bigint")}) END
  END,
  advance_ledger_clock())
"""

RECORDED_NOW_BEFORE = f"""
CREATE OR REPLACE FUNCTION recorded_now() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN COALESCE(
  CASE {GIVEN}
    WHEN 'clock' THEN now()
    WHEN '' THEN NULL
    ELSE greatest(now(), {INSTANT.format(f"{GIVEN}::bigint")})
  END,
  advance_ledger_clock())
"""

# nextval() where the clock is behind: two transactions at once must not get the same microsecond, nor set
# the clock back by the one that was read first.
ADVANCE = """
CREATE OR REPLACE FUNCTION advance_ledger_clock() RETURNS timestamptz LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  RETURN CASE
    WHEN {microseconds_clock} < pg_sequence_last_value('ledger_clock') THEN
      {behind}
    WHEN setval('ledger_clock', greatest(
           {microseconds_now}, pg_sequence_last_value('ledger_clock'))) >= 0
         AND set_config('ledger.now', 'clock', true) = 'clock' THEN now()
  END;
END
$$
"""
BEHIND = INSTANT.format("set_config('ledger.now', nextval('ledger_clock')::text, true)::bigint")
BEHIND_BEFORE = INSTANT.format(f"""set_config('ledger.now', setval('ledger_clock', greatest(
        {MICROSECONDS.format("now()")}, pg_sequence_last_value('ledger_clock') + 1))::text, true)::bigint""")

# Replacing a function forgets its settings, and keeps who may call it.
FIX_SEARCH_PATH = """
DO $$
BEGIN
  EXECUTE format('ALTER FUNCTION advance_ledger_clock() SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$
"""


def _advance(behind: str) -> str:
    return ADVANCE.format(
        microseconds_clock=MICROSECONDS.format("clock_timestamp()"),
        microseconds_now=MICROSECONDS.format("now()"),
        behind=behind,
    )


UPGRADE = (RECORDED_NOW, _advance(BEHIND), FIX_SEARCH_PATH)
DOWNGRADE = (RECORDED_NOW_BEFORE, _advance(BEHIND_BEFORE), FIX_SEARCH_PATH)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
