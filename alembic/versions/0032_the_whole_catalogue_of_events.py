"""Fourteen types of events, instants and costs that the processor names, the platform's books.

The CHECKs that this changes hold for new rows from here on; 0033 validates them for the old ones,
and builds the key of the platform's balance accounts.
"""

from alembic import op

revision: str = "0032"
down_revision: str | None = "0031"

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
NEW_EVENT_TYPES = (
    "refund_failed",
    "charge_reversed",
    "fee_refunded",
    "dispute_fee_refunded",
    "processor_fee_assessed",
    "processor_fee_refunded",
    "tax_withheld",
    "tax_withholding_reversed",
    "reserve_held",
    "reserve_released",
    "top_up_received",
    "debt_written_off",
    "processor_settled",
    "processor_settlement_debited",
)
FEE_EVENT_TYPES = ("charge_succeeded", "dispute_opened", "refund_succeeded")
# Type, debit account and credit account of every entry.
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
    ("PAYMENT_HOLD", "account_funds", "account_held"),
    ("PAYMENT_CAPTURE", "account_held", "interaccount"),
    ("PAYMENT", "interaccount", "account_funds"),
    ("PAYMENT", "interaccount", "restaurant_payable"),
    ("TRANSFER_OUT", "account_funds", "interaccount"),
    ("TRANSFER_IN", "interaccount", "account_funds"),
    ("TRANSFER_IN", "interaccount", "restaurant_payable"),
    ("PAYMENT_RELEASE", "account_held", "account_funds"),
    ("REFUND_IN", "interaccount", "account_funds"),
    ("REFUND_OUT", "account_funds", "interaccount"),
    ("REFUND_OUT", "restaurant_payable", "interaccount"),
)
NEW_POSTING_RULES = (
    ("REFUND_REVERSAL", "processor_clearing", "restaurant_payable"),
    ("CHARGE_REVERSAL", "restaurant_payable", "processor_clearing"),
    ("FEE_REVERSAL", "platform_fees", "restaurant_payable"),
    ("DISPUTE_FEE_REVERSAL", "processor_clearing", "restaurant_payable"),
    ("PROCESSOR_COST", "processor_costs", "processor_clearing"),
    ("PROCESSOR_COST_REVERSAL", "processor_clearing", "processor_costs"),
    ("TAX_WITHHELD", "restaurant_payable", "tax_withheld"),
    ("TAX_WITHHELD_REVERSAL", "tax_withheld", "restaurant_payable"),
    ("RESERVE_HOLD", "restaurant_payable", "reserve_hold"),
    ("RESERVE_RELEASE", "reserve_hold", "restaurant_payable"),
    ("TOP_UP", "platform_cash", "restaurant_payable"),
    ("WRITE_OFF", "bad_debt", "restaurant_payable"),
    ("PROCESSOR_SETTLEMENT", "platform_cash", "processor_clearing"),
    ("PROCESSOR_SETTLEMENT_DEBIT", "processor_clearing", "platform_cash"),
)
LEDGER_ACCOUNTS = (
    "processor_clearing",
    "restaurant_payable",
    "payout_reserved",
    "platform_fees",
    "platform_cash",
    "dispute_receivable",
    "dispute_hold",
    "adjustments",
    "account_funds",
    "account_held",
    "interaccount",
)
NEW_LEDGER_ACCOUNTS = ("processor_costs", "tax_withheld", "reserve_hold", "bad_debt")
PAYABLE_TYPES = (
    "CHARGE",
    "FEE",
    "REFUND",
    "ADJUSTMENT_CREDIT",
    "ADJUSTMENT_DEBIT",
    "DISPUTE_HOLD",
    "DISPUTE_FEE",
    "DISPUTE_RELEASE",
    "PAYOUT_REVERSAL",
    "PAYOUT_RETURN",
    "PAYMENT",
    "TRANSFER_IN",
    "REFUND_OUT",
)
NEW_PAYABLE_TYPES = tuple(
    entry_type for entry_type, *accounts in NEW_POSTING_RULES if "restaurant_payable" in accounts
)


def listed(words: tuple[str, ...]) -> str:
    """The words as a list of SQL literals."""
    return ", ".join(f"'{word}'" for word in words)


MATURING_TYPES = ("CHARGE", "FEE", "PAYMENT", "TRANSFER_IN")
NEW_MATURING_TYPES = ("REFUND", "CHARGE_REVERSAL", "FEE_REVERSAL", "TAX_WITHHELD")

# Which events may have the columns that few events have. A function, because PostgreSQL parses a
# CHECK with every statement: the CHECK calls it only for events that have one of them. In plpgsql,
# as PostgreSQL would parse a function in SQL with every statement too.
HAS_VALID_TERMS = """
CREATE FUNCTION has_valid_terms(text, text, interval, bigint)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  type ALIAS FOR $1;
  restaurant_id ALIAS FOR $2;
  available_after ALIAS FOR $3;
  processor_fee_minor ALIAS FOR $4;
BEGIN
  RETURN (available_after IS NULL
          OR available_after BETWEEN interval '0' AND interval '400 days'
             AND type IN ('charge_succeeded', 'refund_succeeded', 'charge_reversed',
                          'tax_withheld'))
     AND (processor_fee_minor IS NULL
          OR processor_fee_minor BETWEEN 1 AND 1000000000000
             AND type IN ('charge_succeeded', 'refund_succeeded', 'dispute_opened'))
     AND CASE restaurant_id
           WHEN '' THEN type IN ('processor_fee_assessed', 'processor_fee_refunded',
                                 'processor_settled', 'processor_settlement_debited')
           ELSE type NOT IN ('processor_settled', 'processor_settlement_debited') END;
END
$$
"""
HAS_VALID_TERMS_NAME = "has_valid_terms(text, text, interval, bigint)"

# Table, constraint, the new CHECK, and the one before. The new ones let in all that the old ones
# did. Without BETWEEN in an AND: pg_get_constraintdef() shows parentheses that 0033 would lose.
CHECKS = (
    (
        "payout_items",
        "payout_items_entry_type_check",
        f"entry_type IN ({listed(PAYABLE_TYPES + NEW_PAYABLE_TYPES)})",
        f"entry_type IN ({listed(PAYABLE_TYPES)})",
    ),
    (
        "balance_snapshots",
        "balance_snapshots_ledger_accounts_check",
        f"ledger_accounts <@ ARRAY[{listed(LEDGER_ACCOUNTS + NEW_LEDGER_ACCOUNTS)}]",
        f"ledger_accounts <@ ARRAY[{listed(LEDGER_ACCOUNTS)}]",
    ),
    (
        "balance_accounts",
        "balance_accounts_holder_check",
        "num_nonnulls(restaurant_id, account_id) <= 1",
        "num_nonnulls(restaurant_id, account_id) = 1",
    ),
    (
        "processor_events",
        "processor_events_fee_minor_check",
        "fee_minor = 0"
        " OR (fee_minor >= 1 AND fee_minor <= CASE type WHEN 'dispute_opened' THEN 1000000000000"
        " ELSE amount_minor END AND type::fee_event_type IS NOT NULL)",
        "fee_minor = 0"
        " OR (fee_minor BETWEEN 1 AND amount_minor AND type::fee_event_type IS NOT NULL)",
    ),
    (
        "ledger_entries",
        "ledger_entries_available_at_check",
        f"available_at IS NULL OR entry_type IN ({listed(MATURING_TYPES + NEW_MATURING_TYPES)})",
        f"available_at IS NULL OR entry_type IN ({listed(MATURING_TYPES)})",
    ),
)
CHECKED_TABLES = tuple(dict.fromkeys(table for table, _, _, _ in CHECKS))


def changes_of(table: str, place: int) -> list[str]:
    """What replaces the CHECKs of a table by those at a place of CHECKS, 2 for new, 3 for before."""
    changes = []
    for of, name, *texts in CHECKS:
        if of == table:
            changes.append(f"DROP CONSTRAINT {name}")
            changes.append(f"ADD CONSTRAINT {name} CHECK ({texts[place - 2]}) NOT VALID")
    return changes


def replaced(place: int) -> tuple[str, ...]:
    """SQL that replaces the CHECKs. The larger tables last: their locks are held to the end."""
    return tuple(
        f"ALTER TABLE {table} {', '.join(changes_of(table, place))}" for table in CHECKED_TABLES
    )


def domain_words(name: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """SQL that gives a domain these words. Reads no table."""
    return (
        f"ALTER DOMAIN {name} DROP CONSTRAINT {name}_check",
        f"ALTER DOMAIN {name} ADD CONSTRAINT {name}_check CHECK (VALUE IN ({listed(words)}))",
    )


def rule_words(rules: tuple[tuple[str, str, str], ...]) -> tuple[str, ...]:
    """Each rule as the domain posting_rule has it."""
    return tuple(" ".join(rule) for rule in rules)


# A server of an earlier revision hashes an event without the fields that it does not know.
CHECK_SEALED_EVENTS = """
CREATE FUNCTION check_sealed_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (
    SELECT FROM processor_events
    WHERE recorded_txid::text::bigint >= NEW.first_txid
      AND recorded_txid::text::bigint < NEW.end_txid
      AND num_nonnulls(available_at, processor_fee_minor) > 0
  ) THEN
    RAISE EXCEPTION 'there are events with fields that only servers of revision 0032 and later seal'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  RETURN NEW;
END
$$
"""

FIX_PATHS = """
DO $$
DECLARE
  function text;
BEGIN
  FOREACH function IN ARRAY ARRAY[{functions}] LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', function,
                   current_schema());
  END LOOP;
END $$
"""

COMMENTS = (
    (
        "COLUMN processor_events.available_at",
        "When the processor makes the money available, or takes it, by its clock; NULL: it does "
        "not say.",
    ),
    (
        "COLUMN processor_events.processor_fee_minor",
        "What the processor charged the platform for it, in minor units; NULL: nothing.",
    ),
    (
        "COLUMN ledger_seals.events_version",
        "The newest set of fields of events that the server that made it knew; no event of its "
        "range has a newer one. No part of the hash.",
    ),
    (
        "FUNCTION check_sealed_events()",
        "Refuses a seal over events with fields that the server that made it does not know.",
    ),
    (
        f"FUNCTION {HAS_VALID_TERMS_NAME}",
        "Whether an event of this type may have this available_at, this fee of the processor, and "
        "this restaurant or none.",
    ),
)
# Object, comment, the comment before.
REWORDED = (
    (
        "COLUMN processor_events.restaurant_id",
        "The restaurant it happened to; empty: the event belongs to the platform.",
        "The restaurant it happened to.",
    ),
    (
        "COLUMN processor_events.fee_minor",
        "In minor units: the commission of a charge or of a reversed one, a dispute''s fee; a "
        "refund''s is kept here and not posted.",
        "In minor units: a charge''s commission, a dispute''s fee; a refund''s is kept here and "
        "not posted.",
    ),
    (
        "TABLE balance_accounts",
        "One restaurant in one currency, one account, or the platform in one currency: the unit "
        "that is summed, locked and sharded. Every entry stays inside one of them.",
        "One restaurant in one currency, or one account: the unit that is summed, locked and "
        "sharded. Every entry stays inside one of them.",
    ),
    (
        "COLUMN balance_accounts.restaurant_id",
        "The restaurant that holds it; NULL if an account or the platform does.",
        "The restaurant that holds it; NULL if an account does.",
    ),
    (
        "COLUMN balance_accounts.account_id",
        "The account that holds it; NULL if a restaurant or the platform does.",
        "The account that holds it; NULL if a restaurant does.",
    ),
)

UPGRADE = (
    *domain_words("event_type", EVENT_TYPES + NEW_EVENT_TYPES),
    *domain_words("fee_event_type", (*FEE_EVENT_TYPES, "charge_reversed")),
    *domain_words("posting_rule", rule_words(POSTING_RULES + NEW_POSTING_RULES)),
    CHECK_SEALED_EVENTS,
    HAS_VALID_TERMS,
    FIX_PATHS.format(functions=f"'check_sealed_events()', '{HAS_VALID_TERMS_NAME}'"),
    f"GRANT EXECUTE ON FUNCTION {HAS_VALID_TERMS_NAME} TO ledger_app",
    # Seals that are there get the constant, and the table is not written anew.
    "ALTER TABLE ledger_seals ADD COLUMN events_version smallint NOT NULL DEFAULT 1",
    """
CREATE TRIGGER ledger_seals_check_events BEFORE INSERT ON ledger_seals
  FOR EACH ROW WHEN (NEW.events_version < 2) EXECUTE FUNCTION check_sealed_events()
""",
    "ALTER TABLE ledger_seals ENABLE ALWAYS TRIGGER ledger_seals_check_events",
    """
ALTER TABLE processor_events
  ADD COLUMN available_at timestamptz,
  ADD COLUMN processor_fee_minor bigint,
  ADD CONSTRAINT processor_events_terms_check CHECK (
    (available_at IS NULL AND processor_fee_minor IS NULL AND restaurant_id <> ''
     AND NOT starts_with(type, 'processor_settle'))
    OR has_valid_terms(type, restaurant_id, available_at - occurred_at, processor_fee_minor)
  ) NOT VALID
""",
    *replaced(2),
    *(f"COMMENT ON {what} IS '{comment}'" for what, comment in COMMENTS),
    *(f"COMMENT ON {what} IS '{comment}'" for what, comment, _ in REWORDED),
    "GRANT INSERT (available_at, processor_fee_minor) ON processor_events TO ledger_app",
)

REFUSE = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM processor_events
             WHERE type IN ({new_event_types}) OR fee_minor > amount_minor
                OR num_nonnulls(available_at, processor_fee_minor) > 0)
    OR EXISTS (SELECT FROM balance_accounts
               WHERE restaurant_id IS NULL AND account_id IS NULL) THEN
    RAISE EXCEPTION 'there are events that the earlier schema cannot hold'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
"""

DOWNGRADE = (
    REFUSE.replace("{new_event_types}", listed(NEW_EVENT_TYPES)),
    *(f"COMMENT ON {what} IS '{comment}'" for what, _, comment in REWORDED),
    "DROP TRIGGER ledger_seals_check_events ON ledger_seals",
    "DROP FUNCTION check_sealed_events()",
    "ALTER TABLE ledger_seals DROP COLUMN events_version",
    *replaced(3),
    *(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}" for table, name, _, _ in CHECKS),
    """
ALTER TABLE processor_events
  DROP CONSTRAINT processor_events_terms_check,
  DROP COLUMN available_at,
  DROP COLUMN processor_fee_minor
""",
    f"DROP FUNCTION {HAS_VALID_TERMS_NAME}",
    *domain_words("posting_rule", rule_words(POSTING_RULES)),
    *domain_words("fee_event_type", FEE_EVENT_TYPES),
    *domain_words("event_type", EVENT_TYPES),
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
