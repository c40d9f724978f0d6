"""The tables as SQLAlchemy knows them: for the statements it composes, and for `make revision` to compare the database with.

The migrations are what makes them; constraints that only the database needs to know (CHECK, triggers, grants) stand there.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKeyConstraint,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.types import UserDefinedType

metadata = MetaData()


class Xid8(UserDefinedType[str]):
    """The number of a database transaction, 64 bits wide, which never wraps."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


# SQLAlchemy does not know the type by itself, and so could not compare the database with the tables below.
PGDialect.ischema_names["xid8"] = Xid8


def _bytewise() -> Text:
    """Text compared byte by byte, the order in which writers sort."""
    return Text(collation="C")


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
    PrimaryKeyConstraint("restaurant_id", name="restaurants_pkey"),
)

balance_accounts = Table(
    "balance_accounts",
    metadata,
    Column("balance_account_id", BigInteger, Identity(always=True), nullable=False),
    Column("restaurant_id", _bytewise(), nullable=False),
    Column("currency", _bytewise(), nullable=False),
    Column("lock_pad", Boolean, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    PrimaryKeyConstraint("balance_account_id", name="balance_accounts_pkey"),
    UniqueConstraint("restaurant_id", "currency", name="balance_accounts_restaurant_id_currency_key"),
    ForeignKeyConstraint(
        ["restaurant_id"],
        ["restaurants.restaurant_id"],
        name="balance_accounts_restaurant_id_fkey",
        ondelete="RESTRICT",
    ),
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
    PrimaryKeyConstraint("event_id", name="processor_events_pkey"),
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
    PrimaryKeyConstraint("balance_account_id", "recorded_txid", "transaction_id", "position", name="ledger_entries_pkey"),
    ForeignKeyConstraint(
        ["balance_account_id"],
        ["balance_accounts.balance_account_id"],
        name="ledger_entries_balance_account_id_fkey",
        ondelete="RESTRICT",
    ),
)
