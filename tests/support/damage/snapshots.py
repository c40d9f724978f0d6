"""Damage to snapshots and statement marks."""

from support.damage.case import Damage
from support.damage.events import entry_copy

AGREES = "snapshots_agree_with_the_entries"
SETTLED = "snapshots_are_settled"
# A row that was changed is not read, unless it says itself who changed it.
BELIEVED = "written_txid = pg_current_xact_id()"


def snapshot(check: str, change: str, *names: str, of: str = "res_p") -> Damage:
    """Snapshots of a restaurant that were changed: the first one, or one that `names` names by
    {res_p.snapshot.2}.
    """
    sql = (
        f"UPDATE balance_snapshots SET {change}, {BELIEVED} WHERE horizon = '{{{of}.snapshot.1}}' "
        f"AND balance_account_id ="
        f" (SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = '{of}')"
    )
    currency = "EUR" if of == "res_p" else "PEN"
    return Damage(check, sql, names or (f"account {of}/{currency}, snapshot {{{of}.snapshot.1}}",))


MARKS = "statement_marks_agree_with_the_entries"


def mark(change: str) -> Damage:
    """The first of a restaurant's marks was changed."""
    return Damage(
        MARKS,
        f"UPDATE statement_marks SET {change}, {BELIEVED} WHERE horizon = '{{res_p.mark.1}}' AND "
        f"balance_account_id ="
        " (SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = 'res_p')",
        ("account res_p/EUR, mark {res_p.mark.1}",),
    )


DAMAGE_TO_MARKS = (
    mark("payable_minor = payable_minor + 1"),
    mark("funds_minor = COALESCE(funds_minor, 0) + 1"),
    Damage(
        MARKS,
        f"UPDATE statement_marks SET funds_minor = 1, {BELIEVED} WHERE horizon = '{{acc_a.mark.1}}'"
        " AND balance_account_id = {acc_a}",
        ("account acc_a, mark {acc_a.mark.1}",),
    ),
    Damage(
        MARKS,
        f"UPDATE statement_marks SET funds_minor = NULL, {BELIEVED}"
        " WHERE horizon = '{acc_a.mark.1}' AND balance_account_id = {acc_a}",
        ("account acc_a, mark {acc_a.mark.1}",),
    ),
    mark("entries_count = entries_count + 1"),
    mark("last_recorded_at = last_recorded_at - interval '1 microsecond'"),
    mark("late_by_max = late_by_max + interval '1 microsecond'"),
    Damage(
        MARKS,
        f"UPDATE statement_marks SET horizon = '9000000000000000000', {BELIEVED} WHERE horizon = "
        f"'{{res_p.mark.2}}'"
        " AND balance_account_id = (SELECT balance_account_id FROM balance_accounts WHERE "
        "restaurant_id = 'res_p')",
        ("account res_p/EUR, mark 9000000000000000000",),
    ),
    # An entry less below both.
    Damage(
        MARKS,
        "DELETE FROM ledger_entries WHERE transaction_id = '{evt_p}' AND position = 2",
        ("account res_p/EUR, mark {res_p.mark.1}", "account res_p/EUR, mark {res_p.mark.2}"),
    ),
)
# res_p has two snapshots, the second with more entries than the first; res_a has two, of the same
# entries: one was taken before some of them had matured.
DAMAGE_TO_SNAPSHOTS = (
    Damage(
        AGREES,
        f"UPDATE balance_snapshots SET total_minors[1] = total_minors[1] + 1, {BELIEVED}"
        " WHERE horizon = '{acc_a.snapshot.1}' AND balance_account_id = {acc_a}",
        ("account acc_a, snapshot {acc_a.snapshot.1}",),
    ),
    snapshot(AGREES, "total_minors[1] = total_minors[1] + 1"),
    snapshot(AGREES, "matured_minors[1] = matured_minors[1] - 1"),
    snapshot(AGREES, "matured_minors[1] = matured_minors[1] - 1", of="res_a"),
    snapshot(AGREES, "ledger_accounts[1] = 'adjustments'"),
    snapshot(AGREES, "entry_types[1] = 'REFUND'"),
    snapshot(
        AGREES,
        "ledger_accounts = ledger_accounts || 'adjustments'::text, entry_types = entry_types || "
        "'REFUND'::text,"
        " total_minors = total_minors || 0, matured_minors = matured_minors || 0",
    ),
    snapshot(
        AGREES,
        "ledger_accounts = ledger_accounts[2:], entry_types = entry_types[2:], total_minors = "
        "total_minors[2:],"
        " matured_minors = matured_minors[2:]",
    ),
    snapshot(AGREES, "entries_count = entries_count + 1"),
    snapshot(AGREES, "last_recorded_at = last_recorded_at + interval '1 microsecond'"),
    snapshot(AGREES, "last_event_at = NULL"),
    # Entries that mature later, and a horizon that counts fewer entries.
    snapshot(AGREES, "taken_at = '2025-01-01'", of="res_p"),
    snapshot(AGREES, "horizon = '5'", "account res_p/EUR, snapshot 5"),
    # An entry below the horizons that was not there when they were counted.
    Damage(
        AGREES,
        entry_copy("evt_p", 1, transaction_id="gen_random_uuid()"),
        (
            "account res_p/EUR, snapshot {res_p.snapshot.1}",
            "account res_p/EUR, snapshot {res_p.snapshot.2}",
        ),
    ),
    Damage(
        AGREES,
        "DELETE FROM ledger_entries WHERE event_id = 'evt_p' AND position = 2",
        (
            "account res_p/EUR, snapshot {res_p.snapshot.1}",
            "account res_p/EUR, snapshot {res_p.snapshot.2}",
        ),
    ),
    snapshot(SETTLED, "horizon = '9999999999'", "account res_p/EUR, snapshot 9999999999"),
    snapshot(SETTLED, "taken_at = now() + interval '1 hour'"),
    snapshot(SETTLED, "balance_account_id = 999", "account 999, snapshot {res_p.snapshot.1}"),
)
