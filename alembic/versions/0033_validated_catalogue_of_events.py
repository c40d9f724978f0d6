"""Validates the CHECKs that 0032 changed, for the rows that were there before it, and builds a key.

They let in all that the earlier CHECKs did, so this finds nothing. It reads each table once, while
writers go on.
"""

from alembic import op

revision: str = "0033"
down_revision: str | None = "0032"

# The platform has one balance account in each currency. What a migration that was killed has left
# of the key is made again.
BUILD_KEY = (
    # It waits for transactions that are under way, and no other session waits behind it.
    "SELECT set_config('ledger.lock_timeout', current_setting('lock_timeout'), false)",
    "SET lock_timeout = '120s'",
    "DROP INDEX CONCURRENTLY IF EXISTS balance_accounts_platform_key",
    """
CREATE UNIQUE INDEX CONCURRENTLY balance_accounts_platform_key
  ON balance_accounts (currency) WHERE restaurant_id IS NULL AND account_id IS NULL
""",
    "COMMENT ON INDEX balance_accounts_platform_key IS"
    " 'The platform has one balance account in each currency; others are not in it.'",
    "SELECT set_config('lock_timeout', current_setting('ledger.lock_timeout'), false)",
)

# Table and constraint. The largest table comes last.
CHECKS = (
    ("payout_items", "payout_items_entry_type_check"),
    ("balance_snapshots", "balance_snapshots_ledger_accounts_check"),
    ("balance_accounts", "balance_accounts_holder_check"),
    ("processor_events", "processor_events_fee_minor_check"),
    ("processor_events", "processor_events_terms_check"),
    ("ledger_entries", "ledger_entries_available_at_check"),
)

VALIDATE = tuple(
    f"ALTER TABLE {table} "
    + ", ".join(f"VALIDATE CONSTRAINT {name}" for of, name in CHECKS if of == table)
    for table in dict.fromkeys(table for table, _ in CHECKS)
)

# The same CHECK, for new rows only.
FORGET = """
DO $$ BEGIN
  EXECUTE (SELECT format('ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} %s NOT VALID',
                         pg_get_constraintdef(oid))
           FROM pg_constraint
           WHERE conrelid = '{table}'::regclass AND conname = '{name}');
END $$
"""

DOWNGRADE = (
    "DROP INDEX balance_accounts_platform_key",
    *(FORGET.replace("{table}", table).replace("{name}", name) for table, name in CHECKS),
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in BUILD_KEY + VALIDATE:
            op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
