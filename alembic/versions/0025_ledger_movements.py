"""Adds a view of what each entry moves: a row for each side, with the amount signed."""

from alembic import op

revision: str = "0025"
down_revision: str | None = "0024"

# A migration that changes a column of ledger_entries drops this view first, and makes it again.
#
# UNION ALL and not a join with two rows for each entry: a condition on the account then goes into
# both halves, and a sum takes half the time. Each half reads the table by itself.
VIEW = """
CREATE VIEW ledger_movements AS
SELECT balance_account_id, recorded_txid, transaction_id, position, 'credit' AS side,
       credit_account AS ledger_account, entry_type, amount_minor AS signed_minor,
       available_at, occurred_at, recorded_at, event_id, payout_id
FROM ledger_entries
UNION ALL
SELECT balance_account_id, recorded_txid, transaction_id, position, 'debit', debit_account,
       entry_type, -amount_minor, available_at, occurred_at, recorded_at, event_id, payout_id
FROM ledger_entries
"""

COMMENT = """For reports and the audit: each entry twice, once for each of its sides. The sum of
signed_minor over an account is its balance, above zero if credits outweigh debits."""

COLUMNS = {
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

UPGRADE = (
    VIEW,
    f"COMMENT ON VIEW ledger_movements IS '{COMMENT.replace(chr(10), ' ')}'",
    *(
        f"COMMENT ON COLUMN ledger_movements.{name} IS '{comment}'"
        for name, comment in COLUMNS.items()
    ),
    "GRANT SELECT ON ledger_movements TO ledger_app, ledger_read",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP VIEW ledger_movements")
