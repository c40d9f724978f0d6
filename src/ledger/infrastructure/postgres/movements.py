"""The signed amount of an entry, for statements that read ledger_entries itself.

Reports and the audit read the view ledger_movements, which has a row for each side of an entry.
The statements of calls read each entry once, which the view does not.
"""


def signed_minor(ledger_account: str, otherwise: str = "") -> str:
    """SQL of what the entry `e` adds to `ledger_account`: its amount, below zero for a debit.

    `otherwise` is what an entry of other accounts adds, as in "0"; without it, NULL.

        signed_minor("dispute_hold", "0")
        CASE 'dispute_hold' WHEN e.credit_account THEN e.amount_minor
          WHEN e.debit_account THEN -e.amount_minor ELSE 0 END
    """
    return (
        f"CASE '{ledger_account}' WHEN e.credit_account THEN e.amount_minor"
        f" WHEN e.debit_account THEN -e.amount_minor{otherwise and f' ELSE {otherwise}'} END"
    )
