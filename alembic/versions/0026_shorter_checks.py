"""Lists of words move from CHECKs into domains, and entries have no foreign key.

PostgreSQL parses the CHECKs of a table anew for each statement, but those of a domain once a
session.
"""

from alembic import op

revision: str = "0026"
down_revision: str | None = "0025"

# Type, debit account and credit account of every entry that a posting rule posts.
POSTING_RULES = (
    ("CHARGE", "processor_clearing", "restaurant_payable"),
    ("FEE", "restaurant_payable", "platform_fees"),
    ("REFUND", "restaurant_payable", "processor_clearing"),
    ("ADJUSTMENT_CREDIT", "adjustments", "restaurant_payable"),
    ("ADJUSTMENT_DEBIT", "restaurant_payable", "adjustments"),
    ("DISPUTE_HOLD", "restaurant_payable", "dispute_hold"),
    ("DISPUTE_WITHDRAWAL", "dispute_receivable", "processor_clearing"),
    ("DISPUTE_FEE", "restaurant_payable", "processor_clearing"),
    ("DISPUTE_RELEASE", "dispute_hold", "restaurant_payable"),
    ("DISPUTE_REINSTATEMENT", "processor_clearing", "dispute_receivable"),
    ("DISPUTE_LOSS", "dispute_hold", "dispute_receivable"),
    ("PAYOUT_RESERVE", "restaurant_payable", "payout_reserved"),
    ("PAYOUT_RELEASE", "payout_reserved", "platform_cash"),
    ("PAYOUT_REVERSAL", "payout_reserved", "restaurant_payable"),
    ("PAYOUT_RETURN", "platform_cash", "restaurant_payable"),
)
EVENT_TYPES = (
    "charge_succeeded",
    "refund_succeeded",
    "fee_assessed",
    "adjustment_credited",
    "adjustment_debited",
    "dispute_opened",
    "dispute_won",
    "dispute_lost",
    "payout_paid",
    "payout_failed",
)
FEE_EVENT_TYPES = ("charge_succeeded", "dispute_opened", "refund_succeeded")

# Name, words, comment. No column is of these types: CHECKs cast to them. So a migration that adds a
# word changes the domain, and neither locks nor reads the large tables.
DOMAINS = (
    (
        "posting_rule",
        tuple(" ".join(rule) for rule in POSTING_RULES),
        "What an entry may be: its type, debit account and credit account.",
    ),
    (
        "event_type",
        EVENT_TYPES,
        "The types of events. Those of payouts, and no others, begin with payout_.",
    ),
    ("fee_event_type", FEE_EVENT_TYPES, "The types of events that may have a fee."),
)


def listed(words: tuple[str, ...]) -> str:
    """The words as a list of SQL literals."""
    return ", ".join(f"'{word}'" for word in words)


def domain(name: str, words: tuple[str, ...]) -> str:
    """SQL that creates a domain, unless a migration that was killed has left it."""
    return f"""
DO $$ BEGIN
  IF NOT EXISTS (
    SELECT FROM pg_constraint
    WHERE contypid = to_regtype('{name}') AND conname = '{name}_check'
  ) THEN
    CREATE DOMAIN {name} AS text CONSTRAINT {name}_check CHECK (VALUE IN ({listed(words)}));
  END IF;
END $$
"""


# Table, constraint, the new CHECK, and the one before. They let the same rows in: validating them
# finds nothing, and the old rows stay proven.
CHECKS = (
    (
        "ledger_entries",
        "ledger_entries_accounts_check",
        "(entry_type || ' ' || debit_account || ' ' || credit_account)::posting_rule IS NOT NULL",
        "(entry_type, debit_account, credit_account) IN ("
        f"{', '.join(f'({listed(rule)})' for rule in POSTING_RULES)})",
    ),
    (
        "ledger_entries",
        "ledger_entries_payout_id_check",
        "(payout_id IS NOT NULL) = starts_with(entry_type, 'PAYOUT_')",
        "(payout_id IS NOT NULL) = (entry_type IN"
        " ('PAYOUT_RESERVE', 'PAYOUT_RELEASE', 'PAYOUT_REVERSAL', 'PAYOUT_RETURN'))",
    ),
    (
        "processor_events",
        "processor_events_type_check",
        "type::event_type IS NOT NULL",
        f"type IN ({listed(EVENT_TYPES)})",
    ),
    (
        "processor_events",
        "processor_events_payout_id_check",
        "(payout_id IS NOT NULL) = starts_with(type, 'payout_')",
        "(type IN ('payout_paid', 'payout_failed')) = (payout_id IS NOT NULL)",
    ),
    (
        "processor_events",
        "processor_events_amount_minor_check",
        "amount_minor >= 1 AND (amount_minor <= 1000000000000 OR starts_with(type, 'payout_'))",
        "amount_minor >= 1"
        " AND (amount_minor <= 1000000000000 OR type IN ('payout_paid', 'payout_failed'))",
    ),
    (
        "processor_events",
        "processor_events_fee_minor_check",
        "fee_minor = 0"
        " OR (fee_minor BETWEEN 1 AND amount_minor AND type::fee_event_type IS NOT NULL)",
        "fee_minor = 0 OR (fee_minor BETWEEN 1 AND amount_minor"
        f" AND type IN ({listed(FEE_EVENT_TYPES)}))",
    ),
)


TABLES = ("ledger_entries", "processor_events")


def of_table(table: str) -> list[tuple[str, str, str, str]]:
    return [check for check in CHECKS if check[0] == table]


def replaced(place: int) -> tuple[str, ...]:
    """SQL that replaces the CHECKs by those at a place of CHECKS, 2 for new and 3 for before.

    For new rows only: VALIDATE is about the old ones.
    """
    statements = []
    for table in TABLES:
        changes = [
            f"DROP CONSTRAINT IF EXISTS {check[1]},"
            f" ADD CONSTRAINT {check[1]} CHECK ({check[place]}) NOT VALID"
            for check in of_table(table)
        ]
        statements.append(f"ALTER TABLE {table} {', '.join(changes)}")
    return tuple(statements)


# Reads each table once, while writers go on.
VALIDATE = tuple(
    f"ALTER TABLE {table} "
    + ", ".join(f"VALIDATE CONSTRAINT {check[1]}" for check in of_table(table))
    for table in TABLES
)

# The statements that post entries join balance_accounts or payouts, so they name no account that
# does not exist. What the key prevented besides, the triggers do: they are there before it goes.
#
# Each by itself, and each may run again. What reads the large tables comes last, when no lock is
# left to wait for: a migration that waits in vain begins again.
UPGRADE = (
    *(domain(name, words) for name, words, _ in DOMAINS),
    *(f"COMMENT ON DOMAIN {name} IS '{comment}'" for name, _, comment in DOMAINS),
    """
CREATE OR REPLACE TRIGGER balance_accounts_deny_change BEFORE DELETE OR TRUNCATE ON balance_accounts
  FOR EACH STATEMENT EXECUTE FUNCTION deny_change()
""",
    "ALTER TABLE balance_accounts ENABLE ALWAYS TRIGGER balance_accounts_deny_change",
    """
CREATE OR REPLACE TRIGGER balance_accounts_deny_move AFTER UPDATE ON balance_accounts
  FOR EACH ROW WHEN (
    OLD.balance_account_id <> NEW.balance_account_id
    OR OLD.restaurant_id <> NEW.restaurant_id
    OR OLD.currency <> NEW.currency
  ) EXECUTE FUNCTION deny_move()
""",
    "ALTER TABLE balance_accounts ENABLE ALWAYS TRIGGER balance_accounts_deny_move",
    "ALTER TABLE ledger_entries DROP CONSTRAINT IF EXISTS ledger_entries_balance_account_id_fkey",
    *replaced(2),
    *VALIDATE,
)

DOWNGRADE = (
    *replaced(3),
    *VALIDATE,
    *(f"DROP DOMAIN {name}" for name, _, _ in DOMAINS),
    """
ALTER TABLE ledger_entries ADD CONSTRAINT ledger_entries_balance_account_id_fkey
  FOREIGN KEY (balance_account_id) REFERENCES balance_accounts (balance_account_id)
  ON DELETE RESTRICT
""",
    "DROP TRIGGER balance_accounts_deny_move ON balance_accounts",
    "DROP TRIGGER balance_accounts_deny_change ON balance_accounts",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in UPGRADE:
            op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
