"""Damage to payouts, their items and runs."""

from support.damage.case import ARCHIVE, ARCHIVED, WARNING, Damage
from support.damage.events import entry, entry_copy, event


def payout(check: str, name: str, change: str, *entities: str) -> Damage:
    """A payout that was changed; `name` is such as res_p.1."""
    return Damage(
        check,
        f"UPDATE payouts SET {change} WHERE payout_id = '{{{name}}}'",
        entities or (f"payout {{{name}}}",),
    )


def item(check: str, name: str, entry_type: str, change: str, *entities: str) -> Damage:
    """An item of a payout that was changed."""
    sql = (
        f"UPDATE payout_items SET {change} WHERE payout_id = '{{{name}}}' AND entry_type = "
        f"'{entry_type}'"
    )
    return Damage(check, sql, entities or (f"payout {{{name}}}",))


def payout_entry(check: str, name: str, entry_type: str, change: str, *entities: str) -> Damage:
    """An entry of a payout that was changed."""
    sql = (
        f"UPDATE ledger_entries SET {change} WHERE payout_id = '{{{name}}}' AND entry_type = "
        f"'PAYOUT_{entry_type}'"
    )
    return Damage(check, sql, entities or (f"payout {{{name}}}",))


def payout_entry_deleted(check: str, name: str, entry_type: str, *entities: str) -> Damage:
    sql = (
        f"DELETE FROM ledger_entries WHERE payout_id = '{{{name}}}' AND entry_type = "
        f"'PAYOUT_{entry_type}'"
    )
    return Damage(check, sql, entities or (f"payout {{{name}}}",))


def run_item(check: str, change: str, condition: str, *entities: str) -> Damage:
    return Damage(check, f"UPDATE payout_run_items SET {change} WHERE {condition}", entities)


PAYOUT_EVENTS = "payout_events_have_a_payout"
PAYOUT_ENTRIES = "payout_entries_have_a_payout"
PAYOUT_RULES = "payout_events_follow_posting_rules"
SUBMISSIONS = "submissions_agree_with_their_payouts"
SUBMITTED_EVENT = "event payout:{res_s.2}:submitted"
STATES = "payouts_have_the_entries_of_their_state"
MOVED = "payouts_are_where_their_events_lead"
PAYOUT_LIMITS = "payouts_are_within_limits"
TELESCOPE = "payout_items_telescope"
COUNTED = "payouts_count_what_is_booked"
OF_RUN = "payouts_agree_with_their_run"
AGREED = "archives_agree_with_their_runs"
RUN_ITEMS = "run_items_agree_with_their_payout"
HAS_ITEMS = "runs_have_an_item_for_each_account_they_reached"
EXPLAINED = "run_items_explain_their_outcome"
OTHER_ACCOUNT = "(SELECT balance_account_id FROM balance_accounts WHERE restaurant_id = 'res_q')"
ITEM_OF_Q = "run {res_q.1.run}, restaurant res_q"
COPY_OF_PAYOUT = """
INSERT INTO payouts (payout_id, payout_run_id, balance_account_id, sequence, amount_minor,
  available_minor, as_of, cutoff_at,
                     state, transaction_id)
SELECT gen_random_uuid(), payout_run_id, balance_account_id, {sequence}, amount_minor,
  available_minor, {as_of}, cutoff_at,
       {state}, gen_random_uuid()
FROM payouts WHERE payout_id = '{{{name}}}'
"""
# res_p, in EUR, has a payout that failed, one that was returned, one that was paid and one in
# flight; res_q has one in flight.
DAMAGE_TO_PAYOUTS = (
    event(PAYOUT_EVENTS, "evt_fee", "type = 'payout_paid', payout_id = 'po_1'"),
    event(PAYOUT_EVENTS, "evt_fee", "payout_id = '{res_q.1}'"),
    event(PAYOUT_EVENTS, "{res_p.3.paid}", "payout_id = upper(payout_id)"),
    event(PAYOUT_EVENTS, "{res_p.3.paid}", "payout_id = NULL"),
    event(PAYOUT_EVENTS, "{res_p.3.paid}", "amount_minor = amount_minor + 1"),
    event(PAYOUT_EVENTS, "{res_p.3.paid}", "restaurant_id = 'res_q'"),
    event(PAYOUT_EVENTS, "{res_p.3.paid}", "currency = 'PEN'"),
    entry(PAYOUT_ENTRIES, "evt_fee", 1, "entry_type = 'PAYOUT_RELEASE'"),
    entry(PAYOUT_ENTRIES, "evt_fee", 1, "payout_id = '00000000-0000-0000-0000-000000000001'"),
    entry(PAYOUT_ENTRIES, "evt_fee", 1, "entry_type = 'PAYOUT_RELEASE', payout_id = '{res_q.1}'"),
    payout_entry(
        PAYOUT_ENTRIES, "res_q.1", "RESERVE", "payout_id = NULL", "entry {res_q.1.transaction}/1"
    ),
    Damage(
        PAYOUT_ENTRIES,
        "DELETE FROM payouts WHERE payout_id = '{res_q.1}'",
        ("entry {res_q.1.transaction}/1",),
    ),
    payout_entry(
        PAYOUT_RULES, "res_p.3", "RELEASE", "entry_type = 'PAYOUT_REVERSAL'", "event {res_p.3.paid}"
    ),
    payout_entry(
        PAYOUT_RULES,
        "res_p.2",
        "RETURN",
        "entry_type = 'PAYOUT_REVERSAL'",
        "event {res_p.2.failed}",
    ),
    payout_entry(
        PAYOUT_RULES,
        "res_p.1",
        "REVERSAL",
        "entry_type = 'PAYOUT_RETURN'",
        "event {res_p.1.failed}",
    ),
    payout_entry_deleted(PAYOUT_RULES, "res_p.2", "RELEASE", "event {res_p.2.paid}"),
    Damage(PAYOUT_RULES, entry_copy("{res_p.3.paid}", 1, position="2"), ("event {res_p.3.paid}",)),
    event(PAYOUT_RULES, "{res_p.3.paid}", "type = 'payout_failed'"),
    event(PAYOUT_RULES, "{res_l.1.paid}", "occurred_at = occurred_at + interval '1 microsecond'"),
    payout_entry_deleted(
        PAYOUT_RULES, "res_l.1", "REVERSAL", "event {res_l.1.paid}", "event {res_l.1.failed}"
    ),
    Damage(SUBMISSIONS, "UPDATE payout_submissions SET payouts_count = 2", ("submission sub_s",)),
    Damage(
        SUBMISSIONS,
        "UPDATE payout_submissions SET total_minor = total_minor + 1",
        ("submission sub_s",),
    ),
    Damage(
        SUBMISSIONS,
        "DELETE FROM payout_submission_items",
        ("submission sub_s", SUBMITTED_EVENT),
    ),
    Damage(
        SUBMISSIONS,
        "DELETE FROM payout_submissions",
        ("payout {res_s.2}",),
    ),
    Damage(SUBMISSIONS, "UPDATE payout_submissions SET currency = 'PEN'", ("payout {res_s.2}",)),
    Damage(
        SUBMISSIONS,
        "UPDATE payout_submission_items SET created_at = created_at - interval '1 microsecond'",
        ("payout {res_s.2}",),
    ),
    Damage(
        SUBMISSIONS,
        "UPDATE payout_submissions SET payout_run_id = gen_random_uuid()",
        ("payout {res_s.2}",),
    ),
    event(SUBMISSIONS, "payout:{res_s.2}:submitted", "reference = 'sub_t'", "payout {res_s.2}"),
    payout_entry_deleted(PAYOUT_RULES, "res_s.1", "REVERSAL", "event payout:{res_s.1}:canceled"),
    payout(MOVED, "res_s.1", "state = 'FAILED'"),
    payout(MOVED, "res_s.2", "state = 'CREATED'"),
    event(MOVED, "payout:{res_s.1}:canceled", "type = 'payout_submitted'", "payout {res_s.1}"),
    payout(STATES, "res_s.1", "state = 'SUBMITTED'"),
    payout(STATES, "res_s.2", "state = 'CANCELED'"),
    payout(MOVED, "res_q.1", "state = 'PAID'"),
    payout(MOVED, "res_p.3", "state = 'CREATED'"),
    payout(MOVED, "res_l.1", "state = 'FAILED'"),
    event(MOVED, "{res_l.1.paid}", "payout_id = NULL", "payout {res_l.1}"),
    payout_entry_deleted(STATES, "res_l.1", "REVERSAL"),
    payout_entry_deleted(STATES, "res_q.1", "RESERVE"),
    payout_entry_deleted(STATES, "res_p.2", "RELEASE"),
    payout(STATES, "res_q.1", "state = 'PAID'"),
    payout(STATES, "res_p.3", "state = 'CREATED'"),
    payout(STATES, "res_p.1", "state = 'RETURNED'"),
    payout(STATES, "res_q.1", "amount_minor = amount_minor - 1"),
    payout(STATES, "res_q.1", "transaction_id = gen_random_uuid()"),
    payout_entry(STATES, "res_p.2", "RETURN", "amount_minor = amount_minor - 1"),
    payout_entry(STATES, "res_p.3", "RELEASE", f"balance_account_id = {OTHER_ACCOUNT}"),
    payout_entry(STATES, "res_p.3", "RELEASE", "credit_account = 'platform_fees'"),
    payout_entry(STATES, "res_p.3", "RELEASE", "position = 2"),
    payout_entry(
        STATES, "res_q.1", "RESERVE", "recorded_at = recorded_at - interval '1 microsecond'"
    ),
    Damage(
        STATES,
        "INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type, "
        "debit_account, credit_account,"
        " amount_minor, payout_id, recorded_at)"
        " SELECT balance_account_id, transaction_id, 1, entry_type, debit_account, credit_account, "
        "amount_minor, payout_id,"
        " recorded_at FROM ledger_entries WHERE payout_id = '{res_q.1}'",
        ("payout {res_q.1}",),
    ),
    payout(PAYOUT_LIMITS, "res_q.1", "amount_minor = 0"),
    payout(PAYOUT_LIMITS, "res_q.1", "available_minor = amount_minor - 1"),
    payout(PAYOUT_LIMITS, "res_q.1", "cutoff_at = created_at + interval '1 microsecond'"),
    payout(PAYOUT_LIMITS, "res_q.1", "state = 'LOST'"),
    payout("payouts_have_a_balance_account", "res_q.1", "balance_account_id = 999"),
    payout("payouts_are_numbered_without_gaps", "res_q.1", "sequence = 2", "account res_q/EUR"),
    payout("payouts_are_numbered_without_gaps", "res_p.2", "sequence = 1", "account res_p/EUR"),
    Damage(
        "payouts_are_numbered_without_gaps",
        "DELETE FROM payouts WHERE payout_id = '{res_p.1}'",
        ("account res_p/EUR",),
    ),
    Damage(
        "payouts_are_live_once",
        COPY_OF_PAYOUT.format(name="res_q.1", sequence=2, as_of="as_of - 1", state="'CREATED'"),
        ("account res_q/EUR",),
    ),
    Damage(
        "payouts_are_live_once",
        COPY_OF_PAYOUT.format(name="res_q.1", sequence=2, as_of="as_of", state="'PAID'"),
        ("account res_q/EUR",),
    ),
    payout("payout_cutoffs_never_go_back", "res_p.4", "cutoff_at = cutoff_at - interval '3 days'"),
    Damage(
        "payout_items_have_a_payout",
        "DELETE FROM payouts WHERE payout_id = '{res_q.1}'",
        ("payout {res_q.1}",),
    ),
    item("payout_items_add_up", "res_q.1", "CHARGE", "amount_minor = amount_minor + 1"),
    Damage(
        "payout_items_add_up",
        "DELETE FROM payout_items WHERE payout_id = '{res_q.1}'",
        ("payout {res_q.1}",),
    ),
    payout("payout_items_add_up", "res_k.1", "retained_minor = retained_minor + 1"),
    payout("payout_items_add_up", "res_k.2", "retained_before_minor = retained_before_minor - 1"),
    payout("payout_items_add_up", "res_k.2", "amount_minor = amount_minor - 1"),
    payout("payouts_count_what_was_left", "res_k.2", "retained_before_minor = 0"),
    payout(
        "payouts_count_what_was_left",
        "res_k.1",
        "retained_minor = NULL, retained_before_minor = NULL",
        "payout {res_k.2}",
    ),
    payout("payouts_count_what_was_left", "res_q.1", "retained_before_minor = 1"),
    payout(PAYOUT_LIMITS, "res_k.1", "retained_minor = -1"),
    payout(PAYOUT_LIMITS, "res_k.1", "retained_before_minor = -1"),
    payout(PAYOUT_LIMITS, "res_k.1", "retained_minor = NULL"),
    item(TELESCOPE, "res_q.1", "CHARGE", "amount_minor = amount_minor + 1"),
    item(TELESCOPE, "res_p.4", "CHARGE", "counted_minor = counted_minor - 1"),
    item(
        TELESCOPE,
        "res_p.2",
        "CHARGE",
        "counted_minor = counted_minor + 1",
        "payout {res_p.2}",
        "payout {res_p.3}",
    ),
    item(
        TELESCOPE, "res_q.1", "FEE", "amount_minor = -amount_minor, counted_minor = -counted_minor"
    ),
    item(TELESCOPE, "res_p.4", "CHARGE", "amount_minor = -amount_minor"),
    Damage(
        TELESCOPE,
        "DELETE FROM payout_items WHERE payout_id = '{res_p.4}' AND entry_type = 'PAYOUT_REVERSAL'",
        ("payout {res_p.4}",),
    ),
    item(COUNTED, "res_q.1", "CHARGE", "counted_minor = counted_minor + 1"),
    item(COUNTED, "res_q.1", "CHARGE", "entry_type = 'DISPUTE_RELEASE'"),
    # A charge that matures later cannot have been counted.
    Damage(
        COUNTED,
        "UPDATE ledger_entries SET available_at = now() WHERE event_id = 'evt_q'",
        ("payout {res_q.1}",),
    ),
    item(
        "payouts_count_what_came_back",
        "res_p.4",
        "PAYOUT_REVERSAL",
        "counted_minor = counted_minor - 1",
    ),
    payout("payouts_count_what_came_back", "res_p.3", "state = 'FAILED'", "payout {res_p.4}"),
    payout(OF_RUN, "res_q.1", "payout_run_id = gen_random_uuid()"),
    payout(OF_RUN, "res_q.1", "as_of = as_of - 1"),
    payout(OF_RUN, "res_q.1", "cutoff_at = cutoff_at - interval '1 microsecond'"),
    Damage(
        OF_RUN,
        "UPDATE payout_runs SET currency = 'USD' WHERE payout_run_id = '{res_p.1.run}'",
        ("payout {res_p.1}",),
    ),
    Damage(
        OF_RUN,
        "UPDATE payout_runs SET min_amount_minor = 1000000 WHERE payout_run_id = '{res_p.1.run}'",
        ("payout {res_p.1}",),
    ),
    run_item(OF_RUN, "payout_id = NULL", "payout_id = '{res_q.1}'", "payout {res_q.1}"),
    run_item(RUN_ITEMS, "payout_id = NULL", "payout_id = '{res_q.1}'", ITEM_OF_Q),
    run_item(RUN_ITEMS, "payout_id = '{res_p.1}'", "payout_id = '{res_q.1}'", ITEM_OF_Q),
    run_item(RUN_ITEMS, "payout_id = gen_random_uuid()", "payout_id = '{res_q.1}'", ITEM_OF_Q),
    run_item(RUN_ITEMS, "balance_account_id = 999", "payout_id = '{res_q.1}'", ITEM_OF_Q),
    run_item(RUN_ITEMS, "skip_reason = 'INACTIVE'", "payout_id = '{res_q.1}'", ITEM_OF_Q),
    Damage(
        RUN_ITEMS,
        "DELETE FROM payout_runs WHERE payout_run_id = '{res_p.1.run}'",
        ("run {res_p.1.run}, restaurant res_p", "run {res_p.1.run}, restaurant res_q"),
    ),
    *(
        run_item(
            EXPLAINED,
            change,
            f"payout_run_id = '{{res_k.{number}.run}}' AND restaurant_id = '{restaurant}'",
            f"run {{res_k.{number}.run}}, restaurant {restaurant}",
        )
        for number, restaurant, change in (
            (1, "res_k", "available_minor = available_minor + 1"),
            (1, "res_k", "retained_minor = retained_minor - 1"),
            (1, "res_k", "retained_minor = -1"),
            (1, "res_k", "retained_minor = NULL"),
            (1, "res_k", "outcome = 'OPEN'"),
            (1, "res_k", "available_minor = NULL"),
            (1, "res_m", "skip_reason = 'NOTHING_AVAILABLE'"),
            (1, "res_m", "skip_reason = 'BELOW_MINIMUM'"),
            (1, "res_m", "retained_minor = retained_minor - 1"),
            (1, "res_m", "retained_minor = retained_minor + 1"),
            (1, "res_m", "available_minor = 0, retained_minor = 0"),
            (1, "res_m", "available_minor = NULL, retained_minor = NULL"),
            (1, "res_d", "available_minor = 1"),
            (2, "res_d", "skip_reason = 'BELOW_MINIMUM'"),
            (2, "res_m", "skip_reason = 'BELOW_MINIMUM'"),
        )
    ),
    Damage(
        "finished_runs_have_no_open_items",
        "UPDATE payout_run_items SET outcome = 'OPEN', skip_reason = NULL, payout_id = NULL"
        " WHERE payout_run_id = '{res_q.1.run}' AND restaurant_id = 'res_q'",
        ("run {res_q.1.run}",),
    ),
    Damage(
        "finished_runs_have_no_open_items",
        "UPDATE payout_run_progress SET last_balance_account_id = 1000 WHERE payout_run_id = "
        "'{res_q.1.run}'",
        ("run {res_q.1.run}",),
    ),
    Damage(
        HAS_ITEMS,
        "DELETE FROM payout_run_items WHERE payout_run_id = '{res_q.1.run}' AND restaurant_id = "
        "'res_q'",
        (ITEM_OF_Q,),
    ),
    Damage(
        HAS_ITEMS,
        "UPDATE payout_run_progress SET accounts_snapshot = '1:1:' WHERE payout_run_id = "
        "'{res_q.1.run}'",
        ("run {res_q.1.run}, restaurant res_p", ITEM_OF_Q),
    ),
    Damage(
        HAS_ITEMS,
        "UPDATE payout_runs SET restaurants_named = 3 WHERE payout_run_id = '{res_k.1.run}'",
        ("run {res_k.1.run}",),
    ),
    Damage(
        "ended_runs_created_no_payout",
        "UPDATE payout_runs SET finished_at = finished_at - interval '1 minute' WHERE "
        "payout_run_id = '{res_q.1.run}'",
        ("run {res_q.1.run}",),
        WARNING,
    ),
    Damage(
        AGREED,
        ARCHIVED + "UPDATE archived_run_outcomes SET items_count = items_count + 1 WHERE outcome = "
        "'PAYOUT_CREATED'",
        ("run {res_q.1.run}", ARCHIVE),
    ),
    Damage(
        AGREED,
        ARCHIVED + "UPDATE payout_runs SET state = 'RUNNING' WHERE payout_run_id = '{res_q.1.run}'",
        ("run {res_q.1.run}",),
    ),
    Damage(AGREED, ARCHIVED + "UPDATE archived_ranges SET rows_count = rows_count + 1", (ARCHIVE,)),
    Damage(AGREED, ARCHIVED + "UPDATE archived_ranges SET kind = 'audit_log'", (ARCHIVE,)),
    Damage(AGREED, ARCHIVED + "DELETE FROM archived_run_outcomes", (ARCHIVE,)),
    Damage(
        "ended_runs_have_their_items",
        "UPDATE balance_accounts SET created_at = created_at - interval '1 hour';"
        "DELETE FROM payout_run_items WHERE payout_run_id = '{res_q.1.run}'",
        ("run {res_q.1.run}",),
    ),
    Damage(
        "archives_are_finished",
        "CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM payout_run_items;"
        + ARCHIVED
        + "INSERT INTO payout_run_items SELECT * FROM kept WHERE payout_run_id = '{res_q.1.run}' "
        "LIMIT 1",
        (ARCHIVE,),
        WARNING,
    ),
    Damage(
        "archives_are_finished",
        ARCHIVED
        + "UPDATE archived_ranges SET kind = 'audit_log';"
        + "INSERT INTO audit_log (audit_id, recorded_at, identity, credential, method, request_id, "
        "peer, what, outcome)"
        " VALUES (gen_random_uuid(), '2025-11-15', '', 'none', 'm', '', '', '{}', 'OK')",
        (ARCHIVE,),
        WARNING,
    ),
    payout("reserved_is_in_payouts", "res_p.3", "state = 'CREATED'", "account res_p/EUR"),
    payout_entry(
        "reserved_is_in_payouts",
        "res_q.1",
        "RESERVE",
        "amount_minor = amount_minor + 1",
        "account res_q/EUR",
    ),
    payout_entry(
        "payouts_leave_nothing_negative",
        "res_q.1",
        "RESERVE",
        "amount_minor = amount_minor + 10001",
        "account res_q/EUR",
    ),
    payout(
        "transaction_ids_belong_to_one_event",
        "res_q.1",
        "transaction_id = (SELECT transaction_id FROM processor_events WHERE event_id = "
        "'evt_charge')",
        "transaction {evt_charge}",
    ),
    payout(
        "nothing_is_recorded_in_the_future", "res_q.1", "created_at = now() + interval '1 hour'"
    ),
    Damage(
        "nothing_is_recorded_in_the_future",
        "UPDATE payout_runs SET finished_at = now() + interval '1 hour' WHERE payout_run_id = "
        "'{res_q.1.run}'",
        ("run {res_q.1.run}",),
    ),
    Damage(
        "currencies_are_known",
        "UPDATE payout_runs SET currency = 'XTS' WHERE payout_run_id = '{res_q.1.run}'",
        ("currency XTS",),
    ),
)
