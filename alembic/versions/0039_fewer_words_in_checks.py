"""CHECKs that are shorter to parse, and one index of events less.

PostgreSQL parses the CHECKs of a table anew for each statement, and those of a domain once a
session.
"""

from alembic import op

revision: str = "0039"
down_revision: str | None = "0038"

# Name, type, CHECK, comment. No column is of these types: CHECKs cast to them.
DOMAINS = (
    (
        "given_id",
        'text COLLATE "C"',
        "VALUE ~ '^[A-Za-z0-9._:-]+$' AND octet_length(VALUE) <= 128",
        "An id that a caller gives.",
    ),
    (
        "given_reference",
        'text COLLATE "C"',
        "VALUE ~ '^[ -~]*$' AND octet_length(VALUE) <= 255",
        "What a caller calls something in other books; may be empty.",
    ),
    (
        "given_metadata",
        "jsonb",
        "jsonb_typeof(VALUE) = 'object'",
        "What a caller wants to be kept.",
    ),
    (
        "restaurant_event_type",
        "event_type",
        "VALUE NOT IN ('processor_settled', 'processor_settlement_debited')",
        "The types of events that may be of a restaurant.",
    ),
    (
        "maturing_entry_type",
        "text",
        "VALUE IN ('CHARGE', 'FEE', 'PAYMENT', 'TRANSFER_IN', 'REFUND', 'CHARGE_REVERSAL',"
        " 'FEE_REVERSAL', 'TAX_WITHHELD')",
        "The types of entries that may have an available_at.",
    ),
)


def domain(name: str, of: str, check: str) -> str:
    """SQL that creates a domain, unless a migration that was killed has left it."""
    return f"""
DO $do$ BEGIN
  IF to_regtype('{name}') IS NULL THEN
    CREATE DOMAIN {name} AS {of} CONSTRAINT {name}_check CHECK ({check});
  END IF;
END $do$
"""


# The words of posting_rule.
RULES_BEFORE = (
    "CHARGE processor_clearing restaurant_payable",
    "FEE restaurant_payable platform_fees",
    "REFUND restaurant_payable processor_clearing",
    "ADJUSTMENT_CREDIT adjustments restaurant_payable",
    "ADJUSTMENT_DEBIT restaurant_payable adjustments",
    "DISPUTE_HOLD restaurant_payable dispute_hold",
    "DISPUTE_WITHDRAWAL dispute_receivable processor_clearing",
    "DISPUTE_FEE restaurant_payable processor_clearing",
    "DISPUTE_RELEASE dispute_hold restaurant_payable",
    "DISPUTE_REINSTATEMENT processor_clearing dispute_receivable",
    "DISPUTE_LOSS dispute_hold dispute_receivable",
    "PAYOUT_RESERVE restaurant_payable payout_reserved",
    "PAYOUT_RELEASE payout_reserved platform_cash",
    "PAYOUT_REVERSAL payout_reserved restaurant_payable",
    "PAYOUT_RETURN platform_cash restaurant_payable",
    "PAYMENT_HOLD account_funds account_held",
    "PAYMENT_CAPTURE account_held interaccount",
    "PAYMENT interaccount account_funds",
    "PAYMENT interaccount restaurant_payable",
    "TRANSFER_OUT account_funds interaccount",
    "TRANSFER_IN interaccount account_funds",
    "TRANSFER_IN interaccount restaurant_payable",
    "PAYMENT_RELEASE account_held account_funds",
    "REFUND_IN interaccount account_funds",
    "REFUND_OUT account_funds interaccount",
    "REFUND_OUT restaurant_payable interaccount",
    "REFUND_REVERSAL processor_clearing restaurant_payable",
    "CHARGE_REVERSAL restaurant_payable processor_clearing",
    "FEE_REVERSAL platform_fees restaurant_payable",
    "DISPUTE_FEE_REVERSAL processor_clearing restaurant_payable",
    "PROCESSOR_COST processor_costs processor_clearing",
    "PROCESSOR_COST_REVERSAL processor_clearing processor_costs",
    "TAX_WITHHELD restaurant_payable tax_withheld",
    "TAX_WITHHELD_REVERSAL tax_withheld restaurant_payable",
    "RESERVE_HOLD restaurant_payable reserve_hold",
    "RESERVE_RELEASE reserve_hold restaurant_payable",
    "TOP_UP platform_cash restaurant_payable",
    "WRITE_OFF bad_debt restaurant_payable",
    "PROCESSOR_SETTLEMENT platform_cash processor_clearing",
    "PROCESSOR_SETTLEMENT_DEBIT processor_clearing platform_cash",
)
# An entry is compared with one after the other: what is posted most comes first.
FIRST_RULES = (
    "CHARGE processor_clearing restaurant_payable",
    "FEE restaurant_payable platform_fees",
    "TRANSFER_OUT account_funds interaccount",
    "TRANSFER_IN interaccount account_funds",
    "PAYMENT_HOLD account_funds account_held",
    "PAYMENT_CAPTURE account_held interaccount",
    "PAYMENT interaccount account_funds",
    "PAYOUT_RESERVE restaurant_payable payout_reserved",
    "PAYOUT_RELEASE payout_reserved platform_cash",
)
RULES = (*FIRST_RULES, *(rule for rule in RULES_BEFORE if rule not in FIRST_RULES))


def posting_rules(words: tuple[str, ...]) -> tuple[str, ...]:
    """SQL that gives the domain posting_rule these words. Reads no table."""
    listed = ", ".join(f"'{word}'" for word in words)
    return (
        "ALTER DOMAIN posting_rule DROP CONSTRAINT posting_rule_check",
        f"ALTER DOMAIN posting_rule ADD CONSTRAINT posting_rule_check CHECK (VALUE IN ({listed}))",
    )


# In plpgsql: PostgreSQL would parse a function in SQL with every statement too. Of the row, since
# each column that a CHECK names is parsed as well. has_valid_terms() and has_valid_words() stay for
# servers of the revision before, which look for them at their start.
IS_VALID_EVENT_NAME = "is_valid_event(processor_events)"
IS_VALID_EVENT = r"""
CREATE OR REPLACE FUNCTION is_valid_event(processor_events)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  e ALIAS FOR $1;
BEGIN
  RETURN e.type::event_type IS NOT NULL
     AND (e.fee_minor <= e.amount_minor
          OR e.type = 'dispute_opened' AND e.fee_minor <= 1000000000000)
     AND (e.available_at IS NULL
          OR e.available_at - e.occurred_at BETWEEN interval '0' AND interval '400 days'
             AND e.type IN ('charge_succeeded', 'refund_succeeded', 'charge_reversed',
                            'tax_withheld'))
     AND (e.processor_fee_minor IS NULL
          OR e.processor_fee_minor BETWEEN 1 AND 1000000000000
             AND e.type IN ('charge_succeeded', 'refund_succeeded', 'dispute_opened'))
     AND CASE e.restaurant_id
           WHEN '' THEN e.type IN ('processor_fee_assessed', 'processor_fee_refunded',
                                   'processor_settled', 'processor_settlement_debited')
           ELSE e.type NOT IN ('processor_settled', 'processor_settlement_debited') END
     AND (num_nonnulls(e.bank_reference, e.failure_code, e.failure_text) = 0
          OR starts_with(e.type, 'payout_')
             AND (e.bank_reference IS NULL
                  OR e.bank_reference ~ '^[ -~]+$' AND octet_length(e.bank_reference) <= 255)
             AND (e.type = 'payout_failed' OR e.failure_code IS NULL AND e.failure_text IS NULL)
             AND (e.failure_code IS NULL
                  OR e.failure_code ~ '^[A-Za-z0-9._:-]+$' AND octet_length(e.failure_code) <= 64)
             AND (e.failure_text IS NULL
                  OR char_length(e.failure_text) BETWEEN 1 AND 500
                     AND e.failure_text !~ '[\x01-\x1f\x7f-\x9f]'));
END
$$
"""
FIX_PATH = """
DO $$ BEGIN
  EXECUTE format('ALTER FUNCTION {function} SET search_path = pg_catalog, %I, pg_temp',
                 current_schema());
END $$
"""

# Table, constraint, CHECK, and the one before; None for a constraint that others replace. They let
# the same rows in: validating them finds nothing, and the old rows stay proven.
CHECKS = (
    (
        "payments",
        "payments_payment_id_check",
        "payment_id::given_id IS NOT NULL",
        "payment_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(payment_id) <= 128",
    ),
    (
        "payments",
        "payments_reference_check",
        "reference::given_reference IS NOT NULL",
        "reference ~ '^[ -~]*$' AND octet_length(reference) <= 255",
    ),
    (
        "payments",
        "payments_metadata_check",
        "metadata::given_metadata IS NOT NULL",
        "jsonb_typeof(metadata) = 'object'",
    ),
    (
        "processor_events",
        "processor_events_event_id_check",
        "event_id::given_id IS NOT NULL",
        "event_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(event_id) <= 128",
    ),
    (
        "processor_events",
        "processor_events_reference_check",
        "reference::given_reference IS NOT NULL",
        "reference ~ '^[ -~]*$' AND octet_length(reference) <= 255",
    ),
    (
        "processor_events",
        "processor_events_metadata_check",
        "metadata::given_metadata IS NOT NULL",
        "jsonb_typeof(metadata) = 'object'",
    ),
    (
        "processor_events",
        "processor_events_amount_minor_check",
        "amount_minor >= 1 AND (amount_minor <= 1000000000000 OR payout_id IS NOT NULL)",
        "amount_minor >= 1 AND (amount_minor <= 1000000000000 OR starts_with(type, 'payout_'))",
    ),
    (
        "processor_events",
        "processor_events_fee_minor_check",
        "fee_minor = 0 OR (fee_minor >= 1 AND type::fee_event_type IS NOT NULL)",
        "fee_minor = 0 OR (fee_minor >= 1"
        " AND fee_minor <= CASE type WHEN 'dispute_opened' THEN 1000000000000 ELSE amount_minor END"
        " AND type::fee_event_type IS NOT NULL)",
    ),
    (
        "processor_events",
        "processor_events_type_check",
        None,
        "type::event_type IS NOT NULL",
    ),
    (
        "processor_events",
        "processor_events_terms_check",
        "CASE WHEN fee_minor > amount_minor OR restaurant_id = ''"
        " OR num_nonnulls(available_at, processor_fee_minor, bank_reference, failure_code,"
        " failure_text) > 0"
        " THEN is_valid_event(processor_events)"
        " ELSE type::restaurant_event_type IS NOT NULL END",
        "(available_at IS NULL AND processor_fee_minor IS NULL AND restaurant_id <> ''"
        " AND NOT starts_with(type, 'processor_settle'))"
        " OR has_valid_terms(type, restaurant_id, available_at - occurred_at, processor_fee_minor)",
    ),
    (
        "processor_events",
        "processor_events_words_check",
        None,
        "(bank_reference IS NULL AND failure_code IS NULL AND failure_text IS NULL)"
        " OR has_valid_words(type, bank_reference, failure_code, failure_text)",
    ),
    (
        "ledger_entries",
        "ledger_entries_available_at_check",
        "available_at IS NULL OR entry_type::maturing_entry_type IS NOT NULL",
        "available_at IS NULL OR entry_type IN ('CHARGE', 'FEE', 'PAYMENT', 'TRANSFER_IN',"
        " 'REFUND', 'CHARGE_REVERSAL', 'FEE_REVERSAL', 'TAX_WITHHELD')",
    ),
)
TABLES = tuple(dict.fromkeys(table for table, *_ in CHECKS))


def replaced(place: int) -> tuple[str, ...]:
    """SQL that replaces the CHECKs by those at a place of CHECKS, 2 for new and 3 for before.

    For new rows only: VALIDATE is about the old ones.
    """
    return tuple(
        f"ALTER TABLE {table} "
        + ", ".join(
            f"DROP CONSTRAINT IF EXISTS {check[1]}"
            + (
                f", ADD CONSTRAINT {check[1]} CHECK ({check[place]}) NOT VALID"
                if check[place]
                else ""
            )
            for check in CHECKS
            if check[0] == table
        )
        for table in TABLES
    )


# Reads each table once, while writers go on.
def validate(place: int) -> tuple[str, ...]:
    return tuple(
        f"ALTER TABLE {table} "
        + ", ".join(
            f"VALIDATE CONSTRAINT {check[1]}"
            for check in CHECKS
            if check[0] == table and check[place]
        )
        for table in TABLES
    )


# One index of both columns costs each event, and each summary, as much as one of them did.
TXID = "(recorded_txid::text::bigint)"
INDEX = "processor_events_recorded_txid_idx"
OTHER_INDEX = "processor_events_recorded_at_idx"
INDEX_COMMENT = (
    "For sealing and for checking seals, which read by ranges of txids, and for lists of events of"
    " a span of time, latest first."
)
INDEX_COMMENT_BEFORE = "For sealing and for checking seals, which read by ranges of it."
OTHER_INDEX_COMMENT = "For lists of events of a span of time, latest first."

SUMMARIZED = (
    INDEX,
    "ledger_entries_recorded_txid_idx",
    "payment_operations_recorded_txid_idx",
    "processor_events_reference_idx",
)
SUMMARIZED_BEFORE = (*SUMMARIZED[:3], OTHER_INDEX, *SUMMARIZED[3:])
SUMMARIZE = """
CREATE OR REPLACE FUNCTION summarize_recorded_txids() RETURNS integer LANGUAGE sql SECURITY DEFINER
  SET search_path = pg_catalog SET lock_timeout = '100ms'
BEGIN ATOMIC
  SELECT {calls};
END
"""


def summarize(indexes: tuple[str, ...]) -> tuple[str, ...]:
    """SQL for the function that summarizes these BRIN indexes. Replacing it forgets its path."""
    calls = " + ".join(f"brin_summarize_new_values('{name}'::regclass)" for name in indexes)
    return SUMMARIZE.format(calls=calls), FIX_PATH.format(function="summarize_recorded_txids()")


# Each by itself, and each may run again. What reads the large tables comes last but for the index,
# which waits for transactions that are under way, while no other session waits behind it.
BUILD = (
    *(domain(name, of, check) for name, of, check, _ in DOMAINS),
    *(f"COMMENT ON DOMAIN {name} IS '{comment}'" for name, _, _, comment in DOMAINS),
    IS_VALID_EVENT,
    FIX_PATH.format(function=IS_VALID_EVENT_NAME),
    f"COMMENT ON FUNCTION {IS_VALID_EVENT_NAME} IS"
    " 'Whether an event of the platform, or with fields or a fee that few events have, is as its"
    " type may be.'",
    f"GRANT EXECUTE ON FUNCTION {IS_VALID_EVENT_NAME} TO ledger_app",
    *replaced(2),
    "SELECT set_config('ledger.lock_timeout', current_setting('lock_timeout'), false)",
    "SET lock_timeout = '120s'",
    f"""
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('{INDEX}_new') AND NOT indisvalid) THEN
    DROP INDEX {INDEX}_new;
  END IF;
END $$
""",
    f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {INDEX}_new ON processor_events"
    f" USING brin ({TXID}, recorded_at)",
    "SELECT set_config('lock_timeout', current_setting('ledger.lock_timeout'), false)",
    *validate(2),
)

UPGRADE = (
    *posting_rules(RULES),
    *summarize((f"{INDEX}_new", *SUMMARIZED[1:])),
    f"DROP INDEX {INDEX}, {OTHER_INDEX}",
    f"ALTER INDEX {INDEX}_new RENAME TO {INDEX}",
    f"COMMENT ON INDEX {INDEX} IS '{INDEX_COMMENT}'",
)

DOWNGRADE = (
    *replaced(3),
    *validate(3),
    f"DROP FUNCTION {IS_VALID_EVENT_NAME}",
    *(f"DROP DOMAIN {name}" for name, *_ in DOMAINS),
    *posting_rules(RULES_BEFORE),
    f"ALTER INDEX {INDEX} RENAME TO {INDEX}_new",
    f"CREATE INDEX {INDEX} ON processor_events USING brin ({TXID})",
    f"COMMENT ON INDEX {INDEX} IS '{INDEX_COMMENT_BEFORE}'",
    f"CREATE INDEX {OTHER_INDEX} ON processor_events USING brin (recorded_at)",
    f"COMMENT ON INDEX {OTHER_INDEX} IS '{OTHER_INDEX_COMMENT}'",
    *summarize(SUMMARIZED_BEFORE),
    f"DROP INDEX {INDEX}_new",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in BUILD:
            op.execute(statement)
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
