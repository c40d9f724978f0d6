"""Accounts that hold money, and payments between them and to restaurants.

The CHECKs that this changes hold for new rows from here on; 0028 validates them for the old ones,
and builds the key of balance_accounts.account_id.
"""

from alembic import op

revision: str = "0027"
down_revision: str | None = "0026"

# Type, debit account and credit account of every entry, before and after.
EVENT_RULES = (
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
PAYMENT_RULES = (
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
LEDGER_ACCOUNTS = (
    "processor_clearing",
    "restaurant_payable",
    "payout_reserved",
    "platform_fees",
    "platform_cash",
    "dispute_receivable",
    "dispute_hold",
    "adjustments",
)
PAYMENT_ACCOUNTS = ("account_funds", "account_held", "interaccount")
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
)
PAYABLE_PAYMENT_TYPES = ("PAYMENT", "TRANSFER_IN", "REFUND_OUT")
DECLINE_REASONS = (
    "INSUFFICIENT_FUNDS",
    "ACCOUNT_FROZEN",
    "ACCOUNT_CLOSED",
    "CURRENCY_MISMATCH",
    "PAYMENT_NOT_CAPTURABLE",
    "AMOUNT_EXCEEDS_AUTHORIZED",
    "PAYMENT_NOT_VOIDABLE",
    "PAYMENT_NOT_REFUNDABLE",
    "AMOUNT_EXCEEDS_CAPTURED",
    "PAYMENT_NOT_REVERSIBLE",
    "EXPIRED",
    "LINKED_PAYMENT_DECLINED",
)
PAYMENT_STATES = (
    "AUTHORIZED",
    "PARTIALLY_CAPTURED",
    "CAPTURED",
    "VOIDED",
    "EXPIRED",
    "DECLINED",
)


def listed(words: tuple[str, ...]) -> str:
    """The words as a list of SQL literals."""
    return ", ".join(f"'{word}'" for word in words)


def rule_words(rules: tuple[tuple[str, str, str], ...]) -> tuple[str, ...]:
    """Each rule as the domain posting_rule has it."""
    return tuple(" ".join(rule) for rule in rules)


DOMAINS = (
    (
        "payment_state",
        f"VALUE IN ({listed(PAYMENT_STATES)})",
        "Where a payment stands.",
    ),
    (
        "decline_reason",
        f"VALUE IN ({listed(DECLINE_REASONS)})",
        "Why a payment or an operation was declined.",
    ),
    (
        "interaccount_rest",
        "VALUE = 0",
        "What the entries of one transaction id leave on interaccount. The statements that post "
        "entries of payments cast their sums to it, so that they fail if both sides do not agree.",
    ),
)
BASES = {"interaccount_rest": "numeric"}

TABLES = (
    r"""
CREATE TABLE accounts (
  account_id            text COLLATE "C" NOT NULL
    CONSTRAINT accounts_account_id_check
      CHECK (account_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(account_id) <= 128),
  currency              text COLLATE "C" NOT NULL
    CONSTRAINT accounts_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
  overdraft_limit_minor bigint DEFAULT 0
    CONSTRAINT accounts_overdraft_limit_minor_check
      CHECK (overdraft_limit_minor BETWEEN 0 AND 1000000000000000),
  state                 text        NOT NULL DEFAULT 'OPEN'
    CONSTRAINT accounts_state_check CHECK (state IN ('OPEN', 'FROZEN', 'CLOSED')),
  name                  text        NOT NULL DEFAULT ''
    CONSTRAINT accounts_name_check CHECK (char_length(name) <= 200),
  metadata              jsonb       NOT NULL DEFAULT '{}'
    CONSTRAINT accounts_metadata_check CHECK (jsonb_typeof(metadata) = 'object'),
  opened_with           jsonb       NOT NULL
    CONSTRAINT accounts_opened_with_check CHECK (jsonb_typeof(opened_with) = 'object'),
  created_at            timestamptz NOT NULL DEFAULT recorded_now(),
  updated_at            timestamptz NOT NULL DEFAULT recorded_now(),
  CONSTRAINT accounts_pkey PRIMARY KEY (account_id)
)
""",
    r"""
CREATE TABLE payments (
  payment_id               text COLLATE "C" NOT NULL
    CONSTRAINT payments_payment_id_check
      CHECK (payment_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(payment_id) <= 128),
  transaction_id           uuid        NOT NULL,
  batch_id                 uuid        NOT NULL,
  payer_balance_account_id bigint      NOT NULL,
  payee_balance_account_id bigint      NOT NULL,
  currency                 text COLLATE "C" NOT NULL
    CONSTRAINT payments_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
  amount_minor             bigint      NOT NULL
    CONSTRAINT payments_amount_minor_check CHECK (amount_minor BETWEEN 1 AND 1000000000000),
  fee_minor                bigint      NOT NULL
    CONSTRAINT payments_fee_minor_check CHECK (fee_minor BETWEEN 0 AND amount_minor),
  capture                  text        NOT NULL
    CONSTRAINT payments_capture_check CHECK (capture IN ('IMMEDIATE', 'MANUAL')),
  expires_at               timestamptz,
  reference                text COLLATE "C" NOT NULL DEFAULT ''
    CONSTRAINT payments_reference_check
      CHECK (reference ~ '^[ -~]*$' AND octet_length(reference) <= 255),
  metadata                 jsonb       NOT NULL DEFAULT '{}'
    CONSTRAINT payments_metadata_check CHECK (jsonb_typeof(metadata) = 'object'),
  decline_reason           text
    CONSTRAINT payments_decline_reason_check CHECK (decline_reason::decline_reason IS NOT NULL
                                                    OR decline_reason IS NULL),
  state                    text        NOT NULL
    CONSTRAINT payments_state_check CHECK (state::payment_state IS NOT NULL),
  captured_minor           bigint      NOT NULL,
  refunded_minor           bigint      NOT NULL DEFAULT 0,
  recorded_txid            xid8        NOT NULL DEFAULT pg_current_xact_id(),
  recorded_at              timestamptz NOT NULL DEFAULT recorded_now(),
  CONSTRAINT payments_pkey PRIMARY KEY (payment_id),
  CONSTRAINT payments_parties_check CHECK (payer_balance_account_id <> payee_balance_account_id),
  CONSTRAINT payments_expires_at_check CHECK (expires_at IS NULL OR capture = 'MANUAL'),
  CONSTRAINT payments_declined_check CHECK ((state = 'DECLINED') = (decline_reason IS NOT NULL)),
  CONSTRAINT payments_captured_minor_check CHECK (
    CASE state WHEN 'CAPTURED' THEN captured_minor BETWEEN 1 AND amount_minor
               WHEN 'PARTIALLY_CAPTURED' THEN captured_minor BETWEEN 1 AND amount_minor - 1
               ELSE captured_minor = 0 END
    AND (capture = 'MANUAL' OR captured_minor IN (0, amount_minor))),
  CONSTRAINT payments_refunded_minor_check CHECK (refunded_minor BETWEEN 0 AND captured_minor),
  CONSTRAINT payments_capture_state_check
    CHECK (capture = 'MANUAL' OR state IN ('CAPTURED', 'DECLINED'))
)
""",
    r"""
CREATE TABLE payment_operations (
  payment_id      text COLLATE "C" NOT NULL,
  sequence        integer     NOT NULL
    CONSTRAINT payment_operations_sequence_check CHECK (sequence >= 1),
  operation_id    text COLLATE "C"
    CONSTRAINT payment_operations_operation_id_check
      CHECK (operation_id ~ '^[A-Za-z0-9._:-]+$' AND octet_length(operation_id) <= 128),
  transaction_id  uuid        NOT NULL,
  batch_id        uuid        NOT NULL,
  kind            text        NOT NULL
    CONSTRAINT payment_operations_kind_check
      CHECK (kind IN ('CAPTURE', 'VOID', 'REFUND', 'REVERSE', 'EXPIRE')),
  requested_minor bigint      NOT NULL
    CONSTRAINT payment_operations_requested_minor_check
      CHECK (requested_minor BETWEEN 0 AND 1000000000000
             AND (requested_minor = 0 OR kind IN ('CAPTURE', 'REFUND'))),
  is_final        boolean     NOT NULL
    CONSTRAINT payment_operations_is_final_check CHECK (NOT is_final OR kind = 'CAPTURE'),
  amount_minor    bigint      NOT NULL,
  released_minor  bigint      NOT NULL,
  decline_reason  text
    CONSTRAINT payment_operations_decline_reason_check
      CHECK (decline_reason::decline_reason IS NOT NULL OR decline_reason IS NULL),
  state           text        NOT NULL
    CONSTRAINT payment_operations_state_check CHECK (state::payment_state IS NOT NULL),
  captured_minor  bigint      NOT NULL,
  refunded_minor  bigint      NOT NULL,
  recorded_txid   xid8        NOT NULL DEFAULT pg_current_xact_id(),
  recorded_at     timestamptz NOT NULL DEFAULT recorded_now(),
  CONSTRAINT payment_operations_pkey PRIMARY KEY (payment_id, sequence),
  CONSTRAINT payment_operations_operation_id_key UNIQUE (operation_id),
  CONSTRAINT payment_operations_payment_id_fkey FOREIGN KEY (payment_id)
    REFERENCES payments (payment_id) ON DELETE RESTRICT,
  CONSTRAINT payment_operations_caller_check CHECK ((operation_id IS NULL) = (kind = 'EXPIRE')),
  CONSTRAINT payment_operations_moved_check CHECK (
    amount_minor >= 0 AND released_minor >= 0
    AND (decline_reason IS NULL) = (amount_minor + released_minor > 0)
    AND captured_minor >= 0 AND refunded_minor BETWEEN 0 AND captured_minor)
)
""",
)

COMMENTS = {
    "TABLE accounts": "Holders of money beside the restaurants, each in one currency. A row may "
    "change, until the account is closed; rows are never deleted.",
    "COLUMN accounts.account_id": "Given by the caller that opened it, compared byte by byte.",
    "COLUMN accounts.currency": "ISO 4217 code; amounts are in its minor units. Never changes.",
    "COLUMN accounts.overdraft_limit_minor": "How far below zero what is available may go, in "
    "minor units; NULL: without a limit.",
    "COLUMN accounts.state": "OPEN and FROZEN become each other; either becomes CLOSED, which is "
    "final.",
    "COLUMN accounts.name": "For people.",
    "COLUMN accounts.metadata": "Whatever the caller keeps with it: an object of strings.",
    "COLUMN accounts.opened_with": "The overdraft and the name that it was opened with, for "
    "comparison when its opening is repeated.",
    "COLUMN accounts.created_at": "When it was opened, by the database''s clock.",
    "COLUMN accounts.updated_at": "When it was last changed, by the database''s clock.",
    "TABLE payments": "Payments, each decided once: the primary key is the idempotency key. Only "
    "the state and the two sums change, and only along the allowed moves.",
    "COLUMN payments.payment_id": "The caller''s id of the payment, compared byte by byte.",
    "COLUMN payments.transaction_id": "The transaction id of the entries that the authorisation "
    "posted; a declined payment posted none.",
    "COLUMN payments.batch_id": "The attempt that stored it: a repeated attempt recognizes its "
    "payments by it.",
    "COLUMN payments.payer_balance_account_id": "The balance account of the account that pays.",
    "COLUMN payments.payee_balance_account_id": "The balance account of the account or the "
    "restaurant that is paid.",
    "COLUMN payments.currency": "ISO 4217 code.",
    "COLUMN payments.amount_minor": "What was to be paid, in minor units.",
    "COLUMN payments.fee_minor": "The platform''s commission on the whole amount, in minor units; "
    "0 unless a restaurant is paid.",
    "COLUMN payments.capture": "IMMEDIATE: captured when it was authorised. MANUAL: held until it "
    "is captured.",
    "COLUMN payments.expires_at": "When what is held is released, by the database''s clock; NULL: "
    "never.",
    "COLUMN payments.reference": "The caller''s text; empty if absent.",
    "COLUMN payments.metadata": "Whatever the caller keeps with it: an object of strings. Not "
    "compared.",
    "COLUMN payments.decline_reason": "Why it was declined; NULL if it was not.",
    "COLUMN payments.state": "AUTHORIZED and PARTIALLY_CAPTURED hold money; the other states are "
    "ends.",
    "COLUMN payments.captured_minor": "What was captured so far, in minor units.",
    "COLUMN payments.refunded_minor": "What was refunded so far, in minor units.",
    "COLUMN payments.recorded_txid": "The database transaction that stored it; that of the "
    "authorisation''s entries.",
    "COLUMN payments.recorded_at": "When that transaction began, by the database''s clock.",
    "TABLE payment_operations": "What was asked of payments after they were authorised, each "
    "decided once, declined ones included. Append-only.",
    "COLUMN payment_operations.payment_id": "The payment.",
    "COLUMN payment_operations.sequence": "Its number among the operations of the payment, from 1.",
    "COLUMN payment_operations.operation_id": "The caller''s id, which is the idempotency key; "
    "NULL for an expiry, which no caller asked for.",
    "COLUMN payment_operations.transaction_id": "The transaction id of the entries that it posted; "
    "a declined operation posted none.",
    "COLUMN payment_operations.batch_id": "The attempt that stored it: a repeated attempt "
    "recognizes its operations by it.",
    "COLUMN payment_operations.kind": "What was asked.",
    "COLUMN payment_operations.requested_minor": "The amount that was asked for, in minor units; "
    "0: all.",
    "COLUMN payment_operations.is_final": "Whether a capture was to release the rest.",
    "COLUMN payment_operations.amount_minor": "What was captured or refunded, in minor units.",
    "COLUMN payment_operations.released_minor": "What was released to the payer, in minor units.",
    "COLUMN payment_operations.decline_reason": "Why it was declined; NULL if it was not.",
    "COLUMN payment_operations.state": "The state of the payment after it.",
    "COLUMN payment_operations.captured_minor": "What was captured of the payment after it, in "
    "minor units.",
    "COLUMN payment_operations.refunded_minor": "What was refunded of the payment after it, in "
    "minor units.",
    "COLUMN payment_operations.recorded_txid": "The database transaction that stored it; that of "
    "its entries.",
    "COLUMN payment_operations.recorded_at": "When that transaction began, by the database''s "
    "clock.",
    "COLUMN balance_accounts.account_id": "The account that holds it; NULL if a restaurant does.",
    "COLUMN ledger_entries.payment_id": "The payment that posted it; NULL on all others.",
    "COLUMN statement_marks.funds_minor": "What the entries counted credited to account_funds "
    "less what they debited, in minor units; NULL in marks that servers before 0027 made of a "
    "restaurant''s.",
}

# What, the new comment, and the one before.
REWORDED = (
    (
        "TABLE balance_accounts",
        "One restaurant in one currency, or one account: the unit that is summed, locked and "
        "sharded. Every entry stays inside one of them.",
        "One restaurant in one currency: the unit that is summed, locked and sharded. Every entry "
        "stays inside one of them.",
    ),
    (
        "COLUMN balance_accounts.restaurant_id",
        "The restaurant that holds it; NULL if an account does.",
        "Whose account it is.",
    ),
    (
        "COLUMN ledger_entries.event_id",
        "The event that posted it; NULL on a payout''s reserve and on entries of payments.",
        "The event that posted it; NULL on a payout''s reserve.",
    ),
    (
        "COLUMN ledger_entries.occurred_at",
        "The event''s occurred_at, by the processor''s clock; NULL on entries that no event "
        "posted.",
        "The event''s occurred_at, by the processor''s clock; NULL on a payout''s reserve.",
    ),
    (
        "COLUMN ledger_entries.transaction_id",
        "Shared by the entries that one event, payout move, payment or operation on a payment "
        "posted.",
        "Shared by the entries that one event or one payout step posted.",
    ),
    (
        "COLUMN ledger_entries.balance_account_id",
        "The balance account in whose books it stands.",
        "The restaurant and currency in whose books it stands.",
    ),
    (
        "COLUMN ledger_movements.available_at",
        "When the amount matures, by the processor''s clock; of a payment, by the database''s "
        "clock; NULL: it need not.",
        "When the amount matures, by the processor''s clock; NULL: it need not.",
    ),
    (
        "COLUMN balance_snapshots.balance_account_id",
        "The balance account whose entries were added up.",
        "The restaurant and currency whose entries were added up.",
    ),
    (
        "COLUMN statement_marks.balance_account_id",
        "The balance account whose entries were counted.",
        "The restaurant and currency whose entries were counted.",
    ),
)

INDEXES = (
    (
        "payments_payer_idx",
        "INDEX {name} ON payments (payer_balance_account_id, recorded_at, payment_id)",
        "For the list of the payments that an account pays, latest first.",
    ),
    (
        "payments_payee_idx",
        "INDEX {name} ON payments (payee_balance_account_id, recorded_at, payment_id)",
        "For the list of the payments that an account or a restaurant is paid, latest first.",
    ),
    (
        "payments_expires_at_idx",
        "INDEX {name} ON payments (expires_at, payment_id) WHERE expires_at IS NOT NULL"
        " AND state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED')",
        "For the worker that releases what has expired.",
    ),
)

CHECK_PAYMENT_MOVE = """
CREATE FUNCTION check_payment_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (to_jsonb(OLD) - '{state,captured_minor,refunded_minor}'::text[])
     <> (to_jsonb(NEW) - '{state,captured_minor,refunded_minor}'::text[])
     OR NEW.captured_minor < OLD.captured_minor OR NEW.refunded_minor < OLD.refunded_minor
     OR NOT (CASE OLD.state
       WHEN 'AUTHORIZED' THEN
         NEW.state IN ('PARTIALLY_CAPTURED', 'CAPTURED', 'VOIDED', 'EXPIRED')
       WHEN 'PARTIALLY_CAPTURED' THEN NEW.state IN ('PARTIALLY_CAPTURED', 'CAPTURED')
       WHEN 'CAPTURED' THEN
         NEW.state = 'CAPTURED' AND NEW.captured_minor = OLD.captured_minor
       ELSE false END)
  THEN
    RAISE EXCEPTION 'payment % cannot be changed so', OLD.payment_id
        USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END
$$
"""

SKIP_MARK = """
CREATE FUNCTION skip_mark_without_funds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM balance_accounts
  WHERE balance_account_id = NEW.balance_account_id AND account_id IS NOT NULL;
  IF FOUND THEN
    RETURN NULL;
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

# Table, trigger, definition.
TRIGGERS = (
    (
        "accounts",
        "accounts_deny_change",
        "BEFORE DELETE OR TRUNCATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION deny_change()",
    ),
    (
        "accounts",
        "accounts_deny_move",
        """AFTER UPDATE ON accounts FOR EACH ROW WHEN (
  OLD.account_id <> NEW.account_id OR OLD.currency <> NEW.currency
  OR OLD.opened_with <> NEW.opened_with OR OLD.created_at <> NEW.created_at
  OR OLD.state = 'CLOSED'
) EXECUTE FUNCTION deny_move()""",
    ),
    (
        "payments",
        "payments_check_move",
        "BEFORE UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION check_payment_move()",
    ),
    (
        "payments",
        "payments_deny_change",
        "BEFORE DELETE OR TRUNCATE ON payments FOR EACH STATEMENT EXECUTE FUNCTION deny_change()",
    ),
    (
        "payment_operations",
        "payment_operations_deny_change",
        "BEFORE UPDATE OR DELETE OR TRUNCATE ON payment_operations FOR EACH STATEMENT"
        " EXECUTE FUNCTION deny_change()",
    ),
    (
        "statement_marks",
        "statement_marks_skip_without_funds",
        "BEFORE INSERT ON statement_marks FOR EACH ROW WHEN (NEW.funds_minor IS NULL)"
        " EXECUTE FUNCTION skip_mark_without_funds()",
    ),
)

# The trigger of balance_accounts, whose holder may be a restaurant or an account. {changed} stands
# for the condition on it.
DENY_HOLDER_MOVE = """
CREATE OR REPLACE TRIGGER balance_accounts_deny_move AFTER UPDATE ON balance_accounts
  FOR EACH ROW WHEN (
    OLD.balance_account_id <> NEW.balance_account_id
    OR {changed}
    OR OLD.currency <> NEW.currency
  ) EXECUTE FUNCTION deny_move()
"""

# A run is over restaurants: accounts hold money in the same currencies, and are not paid out.
# {restaurants} stands for that condition.
WRITE_RUN_ITEMS = """
CREATE OR REPLACE FUNCTION write_payout_run_items(uuid, integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
  run ALIAS FOR $1;
  items_max ALIAS FOR $2;
  progress payout_run_progress;
  run_currency text;
  written integer;
  reached bigint;
BEGIN
  -- Workers that wait for what somebody has locked ask again and again: most have nothing to lock.
  PERFORM FROM payout_run_progress
  WHERE payout_run_id = run AND reached_balance_account_id < last_balance_account_id;
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  SELECT * INTO progress FROM payout_run_progress WHERE payout_run_id = run FOR NO KEY UPDATE;
  IF NOT FOUND OR progress.reached_balance_account_id = progress.last_balance_account_id THEN
    RETURN 0;
  END IF;
  -- As check_run_is_under_way() looks: after the lock.
  PERFORM FROM payout_runs WHERE payout_run_id = run FOR KEY SHARE;
  SELECT currency INTO run_currency FROM payout_runs WHERE payout_run_id = run AND state = 'RUNNING';
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  WITH page AS MATERIALIZED (
    SELECT a.balance_account_id, a.restaurant_id
    FROM balance_accounts AS a
    WHERE a.balance_account_id > progress.reached_balance_account_id
      AND a.balance_account_id <= progress.last_balance_account_id
      AND a.currency = run_currency{restaurants}
      AND (a.opened_txid IS NULL OR a.balance_account_id <= progress.moved_balance_account_id
           OR pg_visible_in_snapshot(a.opened_txid, progress.accounts_snapshot))
    ORDER BY a.balance_account_id
    LIMIT items_max
  ),
  added AS (
    INSERT INTO payout_run_items (payout_run_id, restaurant_id, balance_account_id)
    SELECT run, restaurant_id, balance_account_id FROM page
  )
  SELECT count(*),
         CASE WHEN count(*) = items_max THEN max(balance_account_id) ELSE progress.last_balance_account_id END
  INTO written, reached
  FROM page;
  UPDATE payout_run_progress SET reached_balance_account_id = reached WHERE payout_run_id = run;
  RETURN written;
END
$$
"""
WRITE_RUN_ITEMS_NAME = "write_payout_run_items(uuid, integer)"

# {payment} stands for the column of payments, where the table has it.
MOVEMENTS = """
CREATE OR REPLACE VIEW ledger_movements AS
SELECT balance_account_id, recorded_txid, transaction_id, position, 'credit' AS side,
       credit_account AS ledger_account, entry_type, amount_minor AS signed_minor,
       available_at, occurred_at, recorded_at, event_id, payout_id{payment}
FROM ledger_entries
UNION ALL
SELECT balance_account_id, recorded_txid, transaction_id, position, 'debit', debit_account,
       entry_type, -amount_minor, available_at, occurred_at, recorded_at, event_id, payout_id{payment}
FROM ledger_entries
"""
MOVEMENTS_COLUMNS = {
    "balance_account_id": "The balance account that the entry stands in.",
    "recorded_txid": "The database transaction that recorded the entry.",
    "transaction_id": "With the position, the key of the entry.",
    "position": "The place of the entry among those of its transaction id, from 1.",
    "side": "credit or debit.",
    "ledger_account": "The account that this side of the entry moves.",
    "entry_type": "The type of the entry.",
    "signed_minor": "The amount in minor units: above zero on the credit side, below on the debit.",
    "available_at": "When the amount matures, by the processor''s clock; NULL: it need not.",
    "occurred_at": "When the event happened, by the processor''s clock; NULL: no event posted it.",
    "recorded_at": "When the entry was recorded, by the database''s clock.",
    "event_id": "The event that posted the entry; NULL: none did.",
    "payout_id": "The payout that the entry belongs to; NULL: none.",
}
MOVEMENTS_PAYMENT_COMMENT = "The payment that posted the entry; NULL: none did."
MOVEMENTS_COMMENT = (
    "For reports and the audit: each entry twice, once for each of its sides. The sum of "
    "signed_minor over an account is its balance, above zero if credits outweigh debits."
)

# Table, constraint, the new CHECK, and the one before. The new ones let in all that the old ones
# did.
CHECKS = (
    (
        "ledger_entries",
        "ledger_entries_available_at_check",
        "available_at IS NULL OR entry_type IN ('CHARGE', 'FEE', 'PAYMENT', 'TRANSFER_IN')",
        "available_at IS NULL OR entry_type IN ('CHARGE', 'FEE')",
    ),
    (
        "ledger_entries",
        "ledger_entries_cause_check",
        "(event_id IS NULL AND payment_id IS NULL) = (entry_type = 'PAYOUT_RESERVE')"
        " AND (event_id IS NULL) = (occurred_at IS NULL)"
        " AND (event_id IS NULL OR payment_id IS NULL)",
        "(event_id IS NULL) = (entry_type = 'PAYOUT_RESERVE')"
        " AND (event_id IS NULL) = (occurred_at IS NULL)",
    ),
    (
        "balance_snapshots",
        "balance_snapshots_ledger_accounts_check",
        f"ledger_accounts <@ ARRAY[{listed(LEDGER_ACCOUNTS + PAYMENT_ACCOUNTS)}]",
        f"ledger_accounts <@ ARRAY[{listed(LEDGER_ACCOUNTS)}]",
    ),
    (
        "payout_items",
        "payout_items_entry_type_check",
        f"entry_type IN ({listed(PAYABLE_TYPES + PAYABLE_PAYMENT_TYPES)})",
        f"entry_type IN ({listed(PAYABLE_TYPES)})",
    ),
)
CHECKED_TABLES = ("ledger_entries", "balance_snapshots", "payout_items")


def replaced(place: int) -> tuple[str, ...]:
    """SQL that replaces the CHECKs by those at a place of CHECKS, 2 for new and 3 for before."""
    statements = []
    for table in CHECKED_TABLES:
        changes = [
            f"DROP CONSTRAINT {check[1]}, ADD CONSTRAINT {check[1]} CHECK ({check[place]}) NOT VALID"
            for check in CHECKS
            if check[0] == table
        ]
        statements.append(f"ALTER TABLE {table} {', '.join(changes)}")
    return tuple(statements)


def posting_rule(rules: tuple[tuple[str, str, str], ...]) -> tuple[str, ...]:
    """SQL that gives the domain posting_rule these rules. Reads no table."""
    return (
        "ALTER DOMAIN posting_rule DROP CONSTRAINT posting_rule_check",
        "ALTER DOMAIN posting_rule ADD CONSTRAINT posting_rule_check"
        f" CHECK (VALUE IN ({listed(rule_words(rules))}))",
    )


HOLDER_CHECK = "num_nonnulls(restaurant_id, account_id) = 1"

UPGRADE = (
    *(
        f"CREATE DOMAIN {name} AS {BASES.get(name, 'text')} CONSTRAINT {name}_check CHECK ({check})"
        for name, check, _ in DOMAINS
    ),
    *(f"COMMENT ON DOMAIN {name} IS '{comment}'" for name, _, comment in DOMAINS),
    *TABLES,
    *posting_rule(EVENT_RULES + PAYMENT_RULES),
    # The larger tables last: their locks are held to the end.
    "ALTER TABLE statement_marks ADD COLUMN funds_minor numeric",
    """
ALTER TABLE balance_accounts ALTER COLUMN restaurant_id DROP NOT NULL,
  ADD COLUMN account_id text COLLATE "C"
    CONSTRAINT balance_accounts_account_id_fkey REFERENCES accounts (account_id) ON DELETE RESTRICT
""",
    "ALTER TABLE balance_accounts ADD CONSTRAINT balance_accounts_holder_check"
    f" CHECK ({HOLDER_CHECK}) NOT VALID",
    DENY_HOLDER_MOVE.format(
        changed="OLD.restaurant_id IS DISTINCT FROM NEW.restaurant_id"
        " OR OLD.account_id IS DISTINCT FROM NEW.account_id"
    ),
    "ALTER TABLE balance_accounts ENABLE ALWAYS TRIGGER balance_accounts_deny_move",
    'ALTER TABLE ledger_entries ADD COLUMN payment_id text COLLATE "C"',
    *replaced(2),
    *(f"CREATE {sql.format(name=name)}" for name, sql, _ in INDEXES),
    *(f"COMMENT ON INDEX {name} IS '{comment}'" for name, _, comment in INDEXES),
    CHECK_PAYMENT_MOVE,
    "COMMENT ON FUNCTION check_payment_move() IS"
    " 'Lets a payment change its state and sums only, and only along the allowed moves.'",
    SKIP_MARK,
    "COMMENT ON FUNCTION skip_mark_without_funds() IS"
    " 'Drops a mark of an account without its sum, as servers before 0027 make it: it would take"
    " the place of one with the sum.'",
    WRITE_RUN_ITEMS.replace("{restaurants}", "\n      AND a.restaurant_id IS NOT NULL"),
    FIX_PATHS.replace(
        "{functions}",
        f"'check_payment_move()', 'skip_mark_without_funds()', '{WRITE_RUN_ITEMS_NAME}'",
    ),
    *(f"CREATE TRIGGER {name} {definition}" for _, name, definition in TRIGGERS),
    *(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}" for table, name, _ in TRIGGERS),
    MOVEMENTS.format(payment=", payment_id"),
    f"COMMENT ON COLUMN ledger_movements.payment_id IS '{MOVEMENTS_PAYMENT_COMMENT}'",
    *(f"COMMENT ON {what} IS '{comment}'" for what, comment in COMMENTS.items()),
    *(f"COMMENT ON {what} IS '{comment}'" for what, comment, _ in REWORDED),
    "GRANT SELECT ON accounts, payments, payment_operations TO ledger_app, ledger_read",
    "GRANT INSERT (account_id, currency, overdraft_limit_minor, name, metadata, opened_with),"
    " UPDATE (overdraft_limit_minor, state, name, metadata, updated_at) ON accounts TO ledger_app",
    "GRANT INSERT (payment_id, transaction_id, batch_id, payer_balance_account_id,"
    " payee_balance_account_id, currency, amount_minor, fee_minor, capture, expires_at, reference,"
    " metadata, decline_reason, state, captured_minor),"
    " UPDATE (state, captured_minor, refunded_minor) ON payments TO ledger_app",
    "GRANT INSERT (payment_id, sequence, operation_id, transaction_id, batch_id, kind,"
    " requested_minor, is_final, amount_minor, released_minor, decline_reason, state,"
    " captured_minor, refunded_minor) ON payment_operations TO ledger_app",
    "GRANT INSERT (account_id) ON balance_accounts TO ledger_app",
    "GRANT INSERT (payment_id) ON ledger_entries TO ledger_app",
    "GRANT INSERT (funds_minor) ON statement_marks TO ledger_app",
)

DOWNGRADE = (
    """
DO $$ BEGIN
  IF EXISTS (SELECT FROM accounts) THEN
    RAISE EXCEPTION 'there are accounts, which the earlier schema cannot hold'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$
""",
    "DROP VIEW ledger_movements",
    MOVEMENTS.format(payment="").replace("CREATE OR REPLACE", "CREATE"),
    f"COMMENT ON VIEW ledger_movements IS '{MOVEMENTS_COMMENT}'",
    *(
        f"COMMENT ON COLUMN ledger_movements.{name} IS '{comment}'"
        for name, comment in MOVEMENTS_COLUMNS.items()
    ),
    "GRANT SELECT ON ledger_movements TO ledger_app, ledger_read",
    WRITE_RUN_ITEMS.replace("{restaurants}", ""),
    FIX_PATHS.replace("{functions}", f"'{WRITE_RUN_ITEMS_NAME}'"),
    "DROP TABLE payment_operations",
    "DROP TABLE payments",
    "DROP FUNCTION check_payment_move()",
    *replaced(3),
    *(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}" for table, name, _, _ in CHECKS),
    "ALTER TABLE ledger_entries DROP COLUMN payment_id",
    DENY_HOLDER_MOVE.format(changed="OLD.restaurant_id <> NEW.restaurant_id"),
    "ALTER TABLE balance_accounts ENABLE ALWAYS TRIGGER balance_accounts_deny_move",
    "ALTER TABLE balance_accounts DROP COLUMN account_id, ALTER COLUMN restaurant_id SET NOT NULL",
    "DROP TRIGGER statement_marks_skip_without_funds ON statement_marks",
    "DROP FUNCTION skip_mark_without_funds()",
    "ALTER TABLE statement_marks DROP COLUMN funds_minor",
    "DROP TABLE accounts",
    *posting_rule(EVENT_RULES),
    *(f"DROP DOMAIN {name}" for name, _, _ in DOMAINS),
    *(f"COMMENT ON {what} IS '{comment}'" for what, _, comment in REWORDED),
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
