"""Adds a view of what each entry moves: a row for each side, with the amount signed.

Rewords comments of the schema.
"""

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

# What, the new comment, and the one before.
REWORDED = (
    (
        "FUNCTION write_payout_run_items(uuid, integer)",
        "Gives a payout run that is under way its next open items, and returns how many.",
        "Gives a payout run that is under way its next open items, and tells how many.",
    ),
    (
        "FUNCTION keep_payout_run_going()",
        "Keeps a payout run under way until it has reached all its restaurants.",
        "Keeps a payout run under way until it has come to all its restaurants.",
    ),
    (
        "FUNCTION check_run_is_under_way()",
        "Refuses payouts, and outcomes of items, of a payout run that has ended.",
        "Keeps a payout run that has ended as it ended.",
    ),
    (
        "FUNCTION deny_change()",
        "Refuses UPDATE, DELETE and TRUNCATE to every role, the owner and superusers included.",
        "Refuses UPDATE, DELETE and TRUNCATE to everybody, the owner and superusers included.",
    ),
    (
        "FUNCTION summarize_recorded_txids()",
        "Adds the pages filled since the last call to the BRIN indexes, and returns how many "
        "ranges. For the sealer.",
        "Has BRIN take in the pages filled since the last time; how many ranges it did. For the "
        "sealer.",
    ),
    (
        "TABLE audit_log",
        "The call log: a row for each call that writes, whatever its outcome. Only added to; old "
        "rows go into archives.",
        "Who called what: a row for each call that writes, whatever became of it. Only added to; "
        "old rows go into archives.",
    ),
    (
        "COLUMN audit_log.identity",
        "The caller; empty if the server authenticates no callers.",
        "Who called; empty if the server asked nobody who they are.",
    ),
    (
        "COLUMN audit_log.credential",
        "The kind of credential that authenticated the caller.",
        "By what the caller was known.",
    ),
    (
        "COLUMN audit_log.peer",
        "The address that the call came from: of the client, or of a proxy before it; empty for "
        "refusals that are summed up.",
        "The address that the call came from: the caller''s, or that of what stands before it; "
        "empty for refusals that are summed up.",
    ),
    (
        "INDEX audit_log_recorded_at_idx",
        "For queries about the calls of a span of time.",
        "For whoever asks what was called in a span of time.",
    ),
    (
        "COLUMN balance_accounts.opened_txid",
        "The number of the transaction that opened it; NULL for accounts older than this column.",
        "The number of the transaction that opened it; NULL if that was before the column was.",
    ),
    (
        "COLUMN balance_snapshots.matured_minors",
        "The same sum, of only the entries that need not mature or had matured by taken_at, in "
        "minor units.",
        "The same of those alone that need not mature or had by taken_at.",
    ),
    (
        "COLUMN balance_snapshots.stay_id",
        "The stay that the horizon is a number of; no other stay reads the row. Zeros: not known.",
        "The stay whose numbers the horizon is one of; ignored in any other. Zeros: not known.",
    ),
    (
        "COLUMN statement_marks.stay_id",
        "The stay that the horizon is a number of; no other stay reads the row.",
        "The stay whose numbers the horizon is one of; ignored in any other.",
    ),
    (
        "COLUMN statement_marks.late_by_max",
        "The longest time by which the recorded_at of a counted entry lies before that of an "
        "entry with a lower recorded_txid.",
        "How far the recorded_at of an entry counted lies before that of one with a lower "
        "recorded_txid, at the most.",
    ),
    (
        "COLUMN current_stay.stay_id",
        "Its id. Only snapshots and marks with this id count.",
        "Which one: the snapshots that count have it.",
    ),
    (
        "COLUMN ledger_seals.entries_count",
        "How many entries it covers: those of its range that no earlier epoch has sealed.",
        "How many entries it covers, likewise.",
    ),
    (
        "COLUMN ledger_seals.row_digests",
        "The transaction ids it covers, each with the first bytes of the SHA-256 of its rows, "
        "which show which row was changed.",
        "The transaction ids it covers, each with the first bytes of the SHA-256 of its rows: "
        "they tell which row was changed.",
    ),
    (
        "TABLE page_token_keys",
        "Keys with which servers authenticate page tokens: the newest signs, all of them verify. "
        "Only for ledger_app.",
        "By which servers authenticate page tokens: the newest key makes them, all of them "
        "verify. Only for ledger_app.",
    ),
    (
        "COLUMN payout_items.amount_minor",
        "That sum less the sum that the account''s previous payout counted, in minor units: what "
        "this payout pays of it.",
        "That sum less the same of the balance account''s payout before, in minor units: what "
        "this payout has of it.",
    ),
    (
        "TABLE payout_run_items",
        "The restaurants of a run, each with its outcome, which is set once. Items of old runs go"
        " into archives.",
        "The restaurants of a run and what became of each. Only that changes, once. Those of old "
        "runs go into archives.",
    ),
    (
        "COLUMN payout_run_items.outcome",
        "OPEN until a worker has judged the restaurant.",
        "OPEN until a worker has looked at it.",
    ),
    (
        "COLUMN payout_run_progress.accounts_snapshot",
        "The database snapshot when the run started: the run''s accounts are those that it shows.",
        "Which transactions had ended when the run started: its accounts are those that were "
        "opened by them.",
    ),
    (
        "COLUMN payout_runs.request_id",
        "Given by the caller to distinguish runs of one date; empty if none was given.",
        "The caller''s, to tell runs of one date apart; empty when it gave none.",
    ),
    (
        "COLUMN payout_runs.state",
        "RUNNING while restaurants are left to judge. CANCELED: its open restaurants are never "
        "judged.",
        "RUNNING as long as a restaurant is to be looked at. CANCELED: what is open was not "
        "looked at, and never will be.",
    ),
    (
        "COLUMN payout_runs.zone_table_version",
        "The version of the zone table (tzdata) that says when the date ends; NULL in runs of "
        "servers that did not keep it.",
        "The version of the zone table (tzdata) that told when the date ends; null in runs of "
        "servers before it was kept.",
    ),
    (
        "COLUMN payouts.state",
        "CREATED becomes PAID or FAILED. A later failure makes a PAID payout RETURNED; so does an"
        " earlier payment a FAILED one.",
        "CREATED becomes PAID or FAILED; PAID becomes RETURNED by a failure, FAILED by a payment "
        "that was before it.",
    ),
    (
        "COLUMN payouts.transaction_id",
        "The transaction id of the entry that reserved its amount.",
        "That of the entry that set its amount aside.",
    ),
    (
        "TABLE processor_events",
        "The events of the payment processor, each once: the primary key is the idempotency key. "
        "Append-only.",
        "What the payment processor told us, each event once: its primary key is the idempotency "
        "key. Append-only.",
    ),
    (
        "TABLE restaurants",
        "The restaurants whose money the books hold. A profile may change; rows are never deleted.",
        "Whose money it is. The profile may change; rows are never deleted.",
    ),
)

UPGRADE = (
    VIEW,
    f"COMMENT ON VIEW ledger_movements IS '{COMMENT.replace(chr(10), ' ')}'",
    *(
        f"COMMENT ON COLUMN ledger_movements.{name} IS '{comment}'"
        for name, comment in COLUMNS.items()
    ),
    "GRANT SELECT ON ledger_movements TO ledger_app, ledger_read",
    *(f"COMMENT ON {what} IS '{comment}'" for what, comment, _ in REWORDED),
)

DOWNGRADE = (
    *(f"COMMENT ON {what} IS '{comment}'" for what, _, comment in REWORDED),
    "DROP VIEW ledger_movements",
)


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
