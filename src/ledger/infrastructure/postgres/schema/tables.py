"""The tables as SQLAlchemy knows them, with which `make revision` compares the database.

The migrations make the tables. What only the database needs (CHECK constraints, triggers, grants)
is in the migrations alone.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Date,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.types import UserDefinedType

metadata = MetaData()


class Xid8(UserDefinedType[str]):
    """The number of a database transaction (its txid), 64 bits wide, which never wraps."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


class PgSnapshot(UserDefinedType[str]):
    """Which transactions had ended at a moment."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "pg_snapshot"


# SQLAlchemy does not know these types, and without them could not compare the database.
PGDialect.ischema_names["xid8"] = Xid8
PGDialect.ischema_names["pg_snapshot"] = PgSnapshot


def _bytewise() -> Text:
    """Text compared byte by byte, the order in which writers sort."""
    return Text(collation="C")


# The txid as a bigint, because BRIN takes no xid8.
_TXID = text("((recorded_txid::text)::bigint)")

restaurants = Table(
    "restaurants",
    metadata,
    Column("restaurant_id", _bytewise(), nullable=False),
    Column("name", Text, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("maturity_days", Integer),
    Column("metadata", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    Column("payout_hold_reason", Text),
    Column("payout_hold_until", DateTime(timezone=True)),
    Column("min_balance_minor", JSONB, nullable=False),
    PrimaryKeyConstraint("restaurant_id", name="restaurants_pkey"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("account_id", _bytewise(), nullable=False),
    Column("currency", _bytewise(), nullable=False),
    Column("overdraft_limit_minor", BigInteger),
    Column("state", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("opened_with", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("account_id", name="accounts_pkey"),
)

balance_accounts = Table(
    "balance_accounts",
    metadata,
    Column("balance_account_id", BigInteger, Identity(always=True), nullable=False),
    Column("restaurant_id", _bytewise()),
    Column("currency", _bytewise(), nullable=False),
    Column("lock_pad", Boolean, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("opened_txid", Xid8),
    Column("account_id", _bytewise()),
    PrimaryKeyConstraint("balance_account_id", name="balance_accounts_pkey"),
    UniqueConstraint(
        "restaurant_id", "currency", name="balance_accounts_restaurant_id_currency_key"
    ),
    ForeignKeyConstraint(
        ["restaurant_id"],
        ["restaurants.restaurant_id"],
        name="balance_accounts_restaurant_id_fkey",
        ondelete="RESTRICT",
    ),
    ForeignKeyConstraint(
        ["account_id"],
        ["accounts.account_id"],
        name="balance_accounts_account_id_fkey",
        ondelete="RESTRICT",
    ),
    Index(
        "balance_accounts_account_id_key",
        "account_id",
        unique=True,
        postgresql_where=text("account_id IS NOT NULL"),
    ),
    Index(
        "balance_accounts_platform_key",
        "currency",
        unique=True,
        postgresql_where=text("restaurant_id IS NULL AND account_id IS NULL"),
    ),
)

payments = Table(
    "payments",
    metadata,
    Column("payment_id", _bytewise(), nullable=False),
    Column("transaction_id", Uuid, nullable=False),
    Column("batch_id", Uuid, nullable=False),
    Column("payer_balance_account_id", BigInteger, nullable=False),
    Column("payee_balance_account_id", BigInteger, nullable=False),
    Column("currency", _bytewise(), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("fee_minor", BigInteger, nullable=False),
    Column("capture", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("reference", _bytewise(), nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("decline_reason", Text),
    Column("state", Text, nullable=False),
    Column("captured_minor", BigInteger, nullable=False),
    Column("refunded_minor", BigInteger, nullable=False),
    Column("recorded_txid", Xid8, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("payment_id", name="payments_pkey"),
    Index("payments_payer_idx", "payer_balance_account_id", "recorded_at", "payment_id"),
    Index("payments_payee_idx", "payee_balance_account_id", "recorded_at", "payment_id"),
    Index(
        "payments_expires_at_idx",
        "expires_at",
        "payment_id",
        postgresql_where=text(
            "expires_at IS NOT NULL AND state IN ('AUTHORIZED', 'PARTIALLY_CAPTURED')"
        ),
    ),
    Index("payments_recorded_txid_idx", _TXID),
)

payment_operations = Table(
    "payment_operations",
    metadata,
    Column("payment_id", _bytewise(), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("operation_id", _bytewise()),
    Column("transaction_id", Uuid, nullable=False),
    Column("batch_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("requested_minor", BigInteger, nullable=False),
    Column("is_final", Boolean, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("released_minor", BigInteger, nullable=False),
    Column("decline_reason", Text),
    Column("state", Text, nullable=False),
    Column("captured_minor", BigInteger, nullable=False),
    Column("refunded_minor", BigInteger, nullable=False),
    Column("recorded_txid", Xid8, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("payment_id", "sequence", name="payment_operations_pkey"),
    UniqueConstraint("operation_id", name="payment_operations_operation_id_key"),
    ForeignKeyConstraint(
        ["payment_id"],
        ["payments.payment_id"],
        name="payment_operations_payment_id_fkey",
        ondelete="RESTRICT",
    ),
    Index("payment_operations_recorded_txid_idx", _TXID, postgresql_using="brin"),
)

processor_events = Table(
    "processor_events",
    metadata,
    Column("event_id", _bytewise(), nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("transaction_id", Uuid, nullable=False),
    Column("batch_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("restaurant_id", _bytewise(), nullable=False),
    Column("currency", _bytewise(), nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("fee_minor", BigInteger, nullable=False),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("payout_id", _bytewise()),
    Column("reference", _bytewise(), nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("recorded_txid", Xid8, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("available_at", DateTime(timezone=True)),
    Column("processor_fee_minor", BigInteger),
    Column("bank_reference", Text),
    Column("failure_code", Text),
    Column("failure_text", Text),
    PrimaryKeyConstraint("event_id", name="processor_events_pkey"),
    Index(
        "processor_events_payout_id_idx",
        "payout_id",
        postgresql_where=text("payout_id IS NOT NULL"),
    ),
    Index("processor_events_recorded_txid_idx", _TXID, "recorded_at", postgresql_using="brin"),
    Index(
        "processor_events_reference_idx",
        "reference",
        postgresql_using="brin",
        postgresql_ops={"reference": "text_bloom_ops"},
        postgresql_with={"pages_per_range": 8},
    ),
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("balance_account_id", BigInteger, nullable=False),
    Column("recorded_txid", Xid8, nullable=False),
    Column("transaction_id", Uuid, nullable=False),
    Column("position", SmallInteger, nullable=False),
    Column("entry_type", Text, nullable=False),
    Column("debit_account", Text, nullable=False),
    Column("credit_account", Text, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("available_at", DateTime(timezone=True)),
    Column("occurred_at", DateTime(timezone=True)),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("event_id", _bytewise()),
    Column("payout_id", Uuid),
    Column("payment_id", _bytewise()),
    PrimaryKeyConstraint(
        "balance_account_id",
        "recorded_txid",
        "transaction_id",
        "position",
        name="ledger_entries_pkey",
    ),
    Index(
        "ledger_entries_available_at_idx",
        "balance_account_id",
        "available_at",
        postgresql_where=text("available_at IS NOT NULL"),
    ),
    Index("ledger_entries_recorded_txid_idx", _TXID, postgresql_using="brin"),
)

ledger_stays = Table(
    "ledger_stays",
    metadata,
    Column("number", BigInteger, nullable=False),
    Column("stay_id", Uuid, nullable=False),
    Column("system_identifier", BigInteger, nullable=False),
    Column("entries_oid", BigInteger, nullable=False),
    Column("entries_file", Text, nullable=False),
    Column("began_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("number", "stay_id", name="ledger_stays_pkey"),
)

balance_snapshots = Table(
    "balance_snapshots",
    metadata,
    Column("balance_account_id", BigInteger, nullable=False),
    Column("system_identifier", BigInteger, nullable=False),
    Column("horizon", Xid8, nullable=False),
    Column("taken_at", DateTime(timezone=True), nullable=False),
    Column("entries_count", BigInteger, nullable=False),
    Column("last_recorded_at", DateTime(timezone=True), nullable=False),
    Column("last_event_at", DateTime(timezone=True)),
    Column("ledger_accounts", ARRAY(Text), nullable=False),
    Column("entry_types", ARRAY(Text), nullable=False),
    Column("total_minors", ARRAY(Numeric), nullable=False),
    Column("matured_minors", ARRAY(Numeric), nullable=False),
    Column("stay_id", Uuid, nullable=False),
    Column("written_txid", Xid8),
    PrimaryKeyConstraint(
        "balance_account_id",
        "stay_id",
        "last_recorded_at",
        "horizon",
        name="balance_snapshots_pkey",
    ),
    ForeignKeyConstraint(
        ["balance_account_id"],
        ["balance_accounts.balance_account_id"],
        name="balance_snapshots_balance_account_id_fkey",
        ondelete="RESTRICT",
    ),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("audit_id", Uuid, nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    Column("identity", _bytewise(), nullable=False),
    Column("credential", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("request_id", _bytewise(), nullable=False),
    Column("peer", Text, nullable=False),
    Column("what", JSONB, nullable=False),
    Column("outcome", Text, nullable=False),
    PrimaryKeyConstraint("audit_id", name="audit_log_pkey"),
    Index("audit_log_recorded_at_idx", "recorded_at", postgresql_using="brin"),
)

page_token_keys = Table(
    "page_token_keys",
    metadata,
    Column("page_token_key_id", Uuid, nullable=False),
    Column("secret", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("page_token_key_id", name="page_token_keys_pkey"),
)

payout_runs = Table(
    "payout_runs",
    metadata,
    Column("payout_run_id", Uuid, nullable=False),
    Column("currency", _bytewise(), nullable=False),
    Column("as_of", Date, nullable=False),
    Column("cutoff_at", DateTime(timezone=True), nullable=False),
    Column("min_amount_minor", BigInteger, nullable=False),
    Column("request_id", _bytewise(), nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True)),
    Column("zone_table_version", Text),
    Column("restaurants_named", Integer, nullable=False),
    PrimaryKeyConstraint("payout_run_id", name="payout_runs_pkey"),
    UniqueConstraint(
        "currency",
        "as_of",
        "min_amount_minor",
        "request_id",
        name="payout_runs_currency_as_of_min_amount_minor_request_id_key",
    ),
    Index("payout_runs_created_at_payout_run_id_idx", "created_at", "payout_run_id"),
    Index("payout_runs_running_idx", "created_at", postgresql_where=text("state = 'RUNNING'")),
)

payout_run_progress = Table(
    "payout_run_progress",
    metadata,
    Column("payout_run_id", Uuid, nullable=False),
    Column("accounts_snapshot", PgSnapshot, nullable=False),
    Column("moved_balance_account_id", BigInteger, nullable=False),
    Column("last_balance_account_id", BigInteger, nullable=False),
    Column("reached_balance_account_id", BigInteger, nullable=False),
    PrimaryKeyConstraint("payout_run_id", name="payout_run_progress_pkey"),
    ForeignKeyConstraint(
        ["payout_run_id"],
        ["payout_runs.payout_run_id"],
        name="payout_run_progress_payout_run_id_fkey",
        ondelete="RESTRICT",
    ),
)

payouts = Table(
    "payouts",
    metadata,
    Column("payout_id", Uuid, nullable=False),
    Column("payout_run_id", Uuid, nullable=False),
    Column("balance_account_id", BigInteger, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    Column("available_minor", BigInteger, nullable=False),
    Column("as_of", Date, nullable=False),
    Column("cutoff_at", DateTime(timezone=True), nullable=False),
    Column("state", Text, nullable=False),
    Column("transaction_id", Uuid, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("retained_minor", BigInteger),
    Column("retained_before_minor", BigInteger),
    Column("counted_snapshot", PgSnapshot),
    PrimaryKeyConstraint("payout_id", name="payouts_pkey"),
    UniqueConstraint(
        "balance_account_id", "sequence", name="payouts_balance_account_id_sequence_key"
    ),
    ForeignKeyConstraint(
        ["payout_run_id"],
        ["payout_runs.payout_run_id"],
        name="payouts_payout_run_id_fkey",
        ondelete="RESTRICT",
    ),
    ForeignKeyConstraint(
        ["balance_account_id"],
        ["balance_accounts.balance_account_id"],
        name="payouts_balance_account_id_fkey",
        ondelete="RESTRICT",
    ),
    Index(
        "payouts_in_flight_key",
        "balance_account_id",
        unique=True,
        postgresql_where=text("state IN ('CREATED', 'SUBMITTED')"),
    ),
    Index(
        "payouts_live_key",
        "balance_account_id",
        "as_of",
        unique=True,
        postgresql_where=text("state IN ('CREATED', 'SUBMITTED', 'PAID')"),
    ),
    Index("payouts_created_at_payout_id_idx", "created_at", "payout_id"),
    Index("payouts_payout_run_id_idx", "payout_run_id", "created_at", "payout_id"),
)

payout_items = Table(
    "payout_items",
    metadata,
    Column("payout_id", Uuid, nullable=False),
    Column("entry_type", Text, nullable=False),
    Column("counted_minor", BigInteger, nullable=False),
    Column("amount_minor", BigInteger, nullable=False),
    PrimaryKeyConstraint("payout_id", "entry_type", name="payout_items_pkey"),
)

payout_submissions = Table(
    "payout_submissions",
    metadata,
    Column("submission_id", _bytewise(), nullable=False),
    Column("payout_run_id", Uuid),
    Column("payouts_max", Integer, nullable=False),
    Column("currency", _bytewise(), nullable=False),
    Column("payouts_count", BigInteger, nullable=False),
    Column("total_minor", Numeric, nullable=False),
    Column("left_out", JSONB, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("submission_id", name="payout_submissions_pkey"),
    ForeignKeyConstraint(
        ["payout_run_id"],
        ["payout_runs.payout_run_id"],
        name="payout_submissions_payout_run_id_fkey",
        ondelete="RESTRICT",
    ),
)

payout_submission_items = Table(
    "payout_submission_items",
    metadata,
    Column("payout_id", Uuid, nullable=False),
    Column("submission_id", _bytewise(), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("payout_id", name="payout_submission_items_pkey"),
    ForeignKeyConstraint(
        ["payout_id"],
        ["payouts.payout_id"],
        name="payout_submission_items_payout_id_fkey",
        ondelete="RESTRICT",
    ),
    ForeignKeyConstraint(
        ["submission_id"],
        ["payout_submissions.submission_id"],
        name="payout_submission_items_submission_id_fkey",
        ondelete="RESTRICT",
    ),
    Index("payout_submission_items_submission_id_idx", "submission_id", "created_at", "payout_id"),
)

_IS_OPEN = text("state IN ('QUARANTINED', 'RETRY_REQUESTED', 'PARKED')")

quarantined_payloads = Table(
    "quarantined_payloads",
    metadata,
    Column("quarantine_id", Uuid, nullable=False),
    Column("endpoint", _bytewise(), nullable=False),
    Column("processor", _bytewise(), nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("body_sha256", LargeBinary, Computed("sha256(body)"), nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("query", _bytewise(), nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("state", Text, nullable=False),
    Column("move_number", Integer, nullable=False),
    Column("reason", _bytewise(), nullable=False),
    Column("detail", Text, nullable=False),
    Column("retry_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("quarantine_id", name="quarantined_payloads_pkey"),
    UniqueConstraint(
        "endpoint",
        "body_sha256",
        "query",
        name="quarantined_payloads_endpoint_body_sha256_query_key",
    ),
    Index("quarantined_payloads_created_at_idx", "created_at", "quarantine_id"),
    Index(
        "quarantined_payloads_open_idx",
        "created_at",
        "quarantine_id",
        postgresql_include=["endpoint", "state", "reason"],
        postgresql_where=_IS_OPEN,
    ),
    Index(
        "quarantined_payloads_retry_at_idx",
        "retry_at",
        "quarantine_id",
        postgresql_where=text("retry_at IS NOT NULL"),
    ),
)

quarantine_moves = Table(
    "quarantine_moves",
    metadata,
    Column("quarantine_id", Uuid, nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", _bytewise(), nullable=False),
    Column("detail", Text, nullable=False),
    Column("event_ids", ARRAY(_bytewise()), nullable=False),
    Column("retry_at", DateTime(timezone=True)),
    Column("actor", _bytewise(), nullable=False),
    Column("recorded_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("quarantine_id", "number", name="quarantine_moves_pkey"),
    ForeignKeyConstraint(
        ["quarantine_id"],
        ["quarantined_payloads.quarantine_id"],
        name="quarantine_moves_quarantine_id_fkey",
        ondelete="RESTRICT",
    ),
)

payout_run_items = Table(
    "payout_run_items",
    metadata,
    Column("payout_run_id", Uuid, nullable=False),
    Column("restaurant_id", _bytewise(), nullable=False),
    Column("balance_account_id", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("skip_reason", Text),
    Column("payout_id", Uuid),
    Column("available_minor", BigInteger),
    Column("retained_minor", BigInteger),
    PrimaryKeyConstraint("payout_run_id", "restaurant_id", name="payout_run_items_pkey"),
    ForeignKeyConstraint(
        ["payout_run_id"],
        ["payout_runs.payout_run_id"],
        name="payout_run_items_payout_run_id_fkey",
        ondelete="RESTRICT",
    ),
    ForeignKeyConstraint(
        ["payout_id"],
        ["payouts.payout_id"],
        name="payout_run_items_payout_id_fkey",
        ondelete="RESTRICT",
    ),
    Index(
        "payout_run_items_open_idx",
        "payout_run_id",
        "balance_account_id",
        postgresql_where=text("outcome = 'OPEN'"),
    ),
)

archived_ranges = Table(
    "archived_ranges",
    metadata,
    Column("archive_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("from_at", DateTime(timezone=True), nullable=False),
    Column("before_at", DateTime(timezone=True), nullable=False),
    Column("rows_count", BigInteger, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("file_bytes", BigInteger, nullable=False),
    Column("file_sha256", LargeBinary, nullable=False),
    Column("archived_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("archive_id", name="archived_ranges_pkey"),
    UniqueConstraint("file_name", name="archived_ranges_file_name_key"),
)

archived_run_outcomes = Table(
    "archived_run_outcomes",
    metadata,
    Column("payout_run_id", Uuid, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("skip_reason", Text, nullable=False),
    Column("items_count", BigInteger, nullable=False),
    Column("archive_id", Uuid, nullable=False),
    PrimaryKeyConstraint(
        "payout_run_id", "outcome", "skip_reason", name="archived_run_outcomes_pkey"
    ),
    ForeignKeyConstraint(
        ["payout_run_id"],
        ["payout_runs.payout_run_id"],
        name="archived_run_outcomes_payout_run_id_fkey",
        ondelete="RESTRICT",
    ),
    ForeignKeyConstraint(
        ["archive_id"],
        ["archived_ranges.archive_id"],
        name="archived_run_outcomes_archive_id_fkey",
        ondelete="RESTRICT",
    ),
)

statement_marks = Table(
    "statement_marks",
    metadata,
    Column("balance_account_id", BigInteger, nullable=False),
    Column("stay_id", Uuid, nullable=False),
    Column("horizon", Xid8, nullable=False),
    Column("entries_count", BigInteger, nullable=False),
    Column("last_recorded_at", DateTime(timezone=True), nullable=False),
    Column("late_by_max", Interval, nullable=False),
    Column("payable_minor", Numeric, nullable=False),
    Column("written_txid", Xid8),
    Column("funds_minor", Numeric),
    PrimaryKeyConstraint(
        "balance_account_id", "stay_id", "last_recorded_at", "horizon", name="statement_marks_pkey"
    ),
    ForeignKeyConstraint(
        ["balance_account_id"],
        ["balance_accounts.balance_account_id"],
        name="statement_marks_balance_account_id_fkey",
        ondelete="RESTRICT",
    ),
)

ledger_seals = Table(
    "ledger_seals",
    metadata,
    Column("sequence", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("is_restored", Boolean, nullable=False),
    Column("system_identifier", BigInteger, nullable=False),
    Column("first_txid", BigInteger, nullable=False),
    Column("end_txid", BigInteger, nullable=False),
    Column("events_count", Integer, nullable=False),
    Column("entries_count", Integer, nullable=False),
    Column("contents_hash", LargeBinary, nullable=False),
    Column("row_digests", LargeBinary, nullable=False),
    Column("sealed_at", DateTime(timezone=True), nullable=False),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("stay_id", Uuid, nullable=False),
    Column("covers_payments", Boolean, nullable=False),
    Column("events_version", SmallInteger, nullable=False),
    PrimaryKeyConstraint("sequence", name="ledger_seals_pkey"),
    UniqueConstraint("previous_hash", name="ledger_seals_previous_hash_key"),
)

ledger_verifications = Table(
    "ledger_verifications",
    metadata,
    Column("number", BigInteger, nullable=False),
    Column("stay_id", Uuid, nullable=False),
    Column("whole_number", BigInteger, nullable=False),
    Column("since_txid", BigInteger, nullable=False),
    Column("position_txid", BigInteger, nullable=False),
    Column("seal_sequence", BigInteger, nullable=False),
    Column("seal_hash", LargeBinary, nullable=False),
    Column("checks_digest", LargeBinary, nullable=False),
    Column("errors_count", BigInteger, nullable=False),
    Column("warnings_count", BigInteger, nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("finished_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("number", name="ledger_verifications_pkey"),
)
