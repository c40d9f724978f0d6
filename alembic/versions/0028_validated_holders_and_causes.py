"""Validates the CHECKs that 0027 changed, for the rows that were there before it.

They let in all that the earlier CHECKs did, so this finds nothing. It reads each table once, while
writers go on.
"""

from alembic import op

revision: str = "0028"
down_revision: str | None = "0027"

# Table and constraint. The largest table comes last.
CHECKS = (
    ("balance_accounts", "balance_accounts_holder_check"),
    ("payout_items", "payout_items_entry_type_check"),
    ("balance_snapshots", "balance_snapshots_ledger_accounts_check"),
    ("ledger_entries", "ledger_entries_available_at_check"),
    ("ledger_entries", "ledger_entries_cause_check"),
)

UPGRADE = tuple(
    f"ALTER TABLE {table} "
    + ", ".join(f"VALIDATE CONSTRAINT {name}" for of, name in CHECKS if of == table)
    for table in dict.fromkeys(table for table, _ in CHECKS)
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in UPGRADE:
            op.execute(statement)


def downgrade() -> None:
    """Does nothing: the CHECKs stay, and 0027 takes them back."""
