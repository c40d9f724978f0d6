"""Damage to events and their entries."""

from support.damage.case import ERROR, WARNING, Damage

from ledger.domain.audit import Severity


def event(
    check: str, event_id: str, change: str, *entities: str, severity: Severity = ERROR
) -> Damage:
    """A stored event that was changed."""
    sql = f"UPDATE processor_events SET {change} WHERE event_id = '{event_id}'"
    return Damage(check, sql, entities or (f"event {event_id}",), severity)


def entry(
    check: str,
    event_id: str,
    position: int,
    change: str,
    *entities: str,
    severity: Severity = ERROR,
) -> Damage:
    """A posted entry that was changed."""
    sql = (
        f"UPDATE ledger_entries SET {change} WHERE event_id = '{event_id}' AND position = "
        f"{position}"
    )
    return Damage(check, sql, entities or (f"entry {{{event_id}}}/{position}",), severity)


def entry_copy(event_id: str, position: int, /, **changed: str) -> str:
    """SQL that posts an entry once more, with some columns changed."""
    columns = (
        "balance_account_id recorded_txid transaction_id position entry_type debit_account "
        "credit_account amount_minor"
    )
    columns += " available_at occurred_at recorded_at event_id payout_id"
    names = columns.split()
    values = ", ".join(changed.get(name, name) for name in names)
    source = f"FROM ledger_entries WHERE event_id = '{event_id}' AND position = {position}"
    return f"INSERT INTO ledger_entries ({', '.join(names)}) SELECT {values} {source}"


def entries_deleted(event_id: str, positions: str) -> str:
    return f"DELETE FROM ledger_entries WHERE event_id = '{event_id}' AND position IN ({positions})"


RULES = "entries_follow_posting_rules"
AGREE = "entries_agree_with_their_event"
MATURITY = "charges_mature_after_whole_days"
GIVEN = "entries_are_available_as_the_processor_says"
FINGERPRINT = "fingerprints_match_their_events"
LIMITS = "events_are_within_limits"
DAMAGE_TO_DATA = (
    entry(RULES, "evt_charge", 1, "amount_minor = amount_minor + 1", "event evt_charge"),
    entry(RULES, "evt_charge", 2, "position = 3", "event evt_charge"),
    entry(
        RULES,
        "evt_credit",
        1,
        "debit_account = credit_account, credit_account = debit_account",
        "event evt_credit",
    ),
    entry(
        RULES,
        "evt_opened",
        3,
        "entry_type = 'FEE', credit_account = 'platform_fees'",
        "event evt_opened",
    ),
    event(RULES, "evt_fee", "type = 'adjustment_debited'"),
    event(RULES, "evt_no_fee", "fee_minor = 1"),
    Damage(RULES, entries_deleted("evt_charge", "2"), ("event evt_charge",)),
    Damage(RULES, entries_deleted("evt_fee", "1"), ("event evt_fee",)),
    Damage(RULES, entries_deleted("evt_opened", "1, 2, 3"), ("event evt_opened",)),
    Damage(
        RULES, entry_copy("evt_refund", 1, position="2", amount_minor="10"), ("event evt_refund",)
    ),
    # Positions without a fee, and entries of the processor's fee.
    event(RULES, "evt_cost_no_fee", "processor_fee_minor = 41"),
    event(RULES, "evt_cost_no_fee", "processor_fee_minor = NULL"),
    entry(RULES, "evt_cost_no_fee", 2, "position = 3", "event evt_cost_no_fee"),
    entry(RULES, "evt_given", 3, "debit_account = 'bad_debt'", "event evt_given"),
    event(RULES, "evt_no_fee", "processor_fee_minor = 1"),
    event(RULES, "evt_reversed", "fee_minor = 0"),
    event(RULES, "evt_settled", "type = 'processor_settlement_debited'"),
    Damage(RULES, entries_deleted("evt_opened_small", "4"), ("event evt_opened_small",)),
    Damage(RULES, entries_deleted("evt_refund_given", "2"), ("event evt_refund_given",)),
    *(
        Damage(RULES, entries_deleted(event_id, "1"), (f"event {event_id}",))
        for event_id in (
            "evt_refund_failed",
            "evt_fee_back",
            "evt_dispute_fee_back",
            "evt_cost",
            "evt_cost_back",
            "evt_tax",
            "evt_tax_back",
            "evt_reserve",
            "evt_reserve_back",
            "evt_top_up",
            "evt_write_off",
            "evt_own_cost",
            "evt_own_cost_back",
            "evt_debited",
        )
    ),
    Damage(
        "entries_are_posted_once",
        entry_copy("evt_fee", 1, transaction_id="gen_random_uuid()"),
        ("event evt_fee",),
    ),
    entry(AGREE, "evt_charge", 2, "recorded_txid = '7'"),
    entry(AGREE, "evt_charge", 2, "occurred_at = occurred_at + interval '1 microsecond'"),
    entry(AGREE, "evt_charge", 2, "occurred_at = NULL"),
    entry(AGREE, "evt_charge", 2, "recorded_at = recorded_at - interval '1 microsecond'"),
    entry(
        AGREE,
        "evt_fee",
        1,
        "transaction_id = '00000000-0000-0000-0000-000000000001'",
        "entry 00000000-0000-0000-0000-000000000001/1",
    ),
    entry(
        "entries_stand_in_the_account_of_their_event",
        "evt_fee",
        1,
        "balance_account_id = (SELECT balance_account_id FROM balance_accounts WHERE restaurant_id "
        "= 'res_b')",
    ),
    entry(
        "entries_stand_in_the_account_of_their_event",
        "evt_settled",
        1,
        "balance_account_id = (SELECT balance_account_id FROM balance_accounts WHERE restaurant_id "
        "= 'res_t')",
    ),
    entry(
        "entries_stand_in_the_account_of_their_event",
        "evt_cost",
        1,
        "balance_account_id = (SELECT balance_account_id FROM balance_accounts WHERE restaurant_id "
        "IS NULL AND account_id IS NULL)",
    ),
    Damage(
        "entries_have_an_event",
        "DELETE FROM processor_events WHERE event_id = 'evt_fee'",
        ("entry {evt_fee}/1",),
    ),
    entry("entries_have_an_event", "evt_fee", 1, "event_id = NULL"),
    entry("entries_have_a_balance_account", "evt_fee", 1, "balance_account_id = 999"),
    Damage(
        "entries_have_a_balance_account",
        "DELETE FROM balance_accounts WHERE restaurant_id = 'res_b'",
        ("entry {evt_other}/1",),
    ),
    entry(MATURITY, "evt_charge", 1, "available_at = available_at + interval '1 microsecond'"),
    entry(MATURITY, "evt_charge", 1, "available_at = occurred_at + interval '8784 hours'"),
    entry(MATURITY, "evt_charge", 1, "available_at = occurred_at"),
    entry(MATURITY, "evt_charge", 1, "available_at = 'infinity'"),
    entry(MATURITY, "evt_fee", 1, "available_at = occurred_at + interval '168 hours'"),
    entry(MATURITY, "evt_cost_no_fee", 2, "available_at = occurred_at + interval '168 hours'"),
    entry(GIVEN, "evt_given", 1, "available_at = available_at + interval '1 microsecond'"),
    entry(GIVEN, "evt_given", 2, "available_at = NULL"),
    entry(GIVEN, "evt_given", 3, "available_at = occurred_at"),
    entry(GIVEN, "evt_refund_given", 1, "available_at = NULL"),
    entry(GIVEN, "evt_reversed", 2, "available_at = available_at - interval '1 day'"),
    event(GIVEN, "evt_tax", "available_at = occurred_at", "entry {evt_tax}/1"),
    entry(
        "fees_mature_with_their_charge", "evt_charge", 2, "available_at = NULL", "event evt_charge"
    ),
    entry(
        "fees_mature_with_their_charge",
        "evt_charge",
        2,
        "available_at = available_at + interval '24 hours'",
        "event evt_charge",
    ),
    entry(
        "fees_mature_with_their_charge",
        "evt_at_once",
        2,
        "available_at = occurred_at + interval '24 hours'",
        "event evt_at_once",
    ),
    Damage(
        "events_are_stored_once",
        "INSERT INTO processor_events SELECT stored.* FROM processor_events AS stored WHERE "
        "event_id = 'evt_fee'",
        ("event evt_fee",),
    ),
    event(
        "transaction_ids_belong_to_one_event",
        "evt_fee",
        "transaction_id = (SELECT transaction_id FROM processor_events WHERE event_id = "
        "'evt_charge')",
        "transaction {evt_charge}",
    ),
    event(FINGERPRINT, "evt_charge", "fingerprint = sha256('')"),
    event(FINGERPRINT, "evt_charge", "type = 'refund_succeeded'"),
    event(FINGERPRINT, "evt_charge", "restaurant_id = 'res_b'"),
    event(FINGERPRINT, "evt_charge", "currency = 'USD'"),
    event(FINGERPRINT, "evt_charge", "amount_minor = 10001"),
    event(FINGERPRINT, "evt_charge", "fee_minor = 301"),
    event(FINGERPRINT, "evt_charge", "occurred_at = occurred_at + interval '1 microsecond'"),
    event(FINGERPRINT, "evt_charge", "occurred_at = 'infinity'"),
    event(FINGERPRINT, "evt_charge", "payout_id = 'po_1'"),
    event(FINGERPRINT, "evt_charge", "reference = 'pay_2'"),
    event(FINGERPRINT, "evt_charge", "available_at = occurred_at"),
    event(FINGERPRINT, "evt_charge", "processor_fee_minor = 1"),
    event(FINGERPRINT, "evt_given", "available_at = available_at + interval '1 microsecond'"),
    event(FINGERPRINT, "evt_given", "available_at = NULL"),
    event(FINGERPRINT, "evt_given", "processor_fee_minor = 299"),
    event(FINGERPRINT, "evt_given", "available_at = NULL, processor_fee_minor = NULL"),
    event(FINGERPRINT, "{res_p.1.failed}", "bank_reference = 'trace 3'"),
    event(FINGERPRINT, "{res_p.1.failed}", "bank_reference = NULL"),
    event(FINGERPRINT, "{res_p.1.failed}", "failure_code = 'AC05'"),
    event(FINGERPRINT, "{res_p.1.failed}", "failure_code = NULL"),
    event(FINGERPRINT, "{res_p.1.failed}", "failure_text = 'Cuenta cerrada: n'"),
    event(
        FINGERPRINT,
        "{res_p.1.failed}",
        "bank_reference = NULL, failure_code = NULL, failure_text = NULL",
    ),
    event(FINGERPRINT, "{res_p.3.paid}", "bank_reference = 'trace 3'"),
    event(LIMITS, "{res_p.1.failed}", "bank_reference = ''"),
    event(LIMITS, "{res_p.1.failed}", "bank_reference = repeat('a', 256)"),
    event(LIMITS, "{res_p.1.failed}", "bank_reference = E'a\\nb'"),
    event(LIMITS, "{res_p.1.failed}", "failure_code = 'a b'"),
    event(LIMITS, "{res_p.1.failed}", "failure_code = repeat('a', 65)"),
    event(LIMITS, "{res_p.1.failed}", "failure_text = ''"),
    event(LIMITS, "{res_p.1.failed}", "failure_text = repeat('ñ', 501)"),
    event(LIMITS, "{res_p.1.failed}", "failure_text = E'a\\tb'"),
    event(LIMITS, "{res_p.3.paid}", "failure_code = 'a'"),
    event(LIMITS, "{res_p.3.paid}", "failure_text = 'a'"),
    event(LIMITS, "evt_charge", "bank_reference = 'a'"),
    event(LIMITS, "{res_p.3.paid}", "type = 'payout_referenced'"),
    event(LIMITS, "evt_charge", "amount_minor = 0, fee_minor = 0"),
    event(LIMITS, "evt_charge", "amount_minor = 1000000000001"),
    event(LIMITS, "evt_charge", "fee_minor = amount_minor + 1"),
    event(LIMITS, "evt_charge", "fee_minor = -1"),
    event(LIMITS, "evt_fee", "fee_minor = 1"),
    event(LIMITS, "evt_opened_small", "fee_minor = 1000000000001"),
    event(LIMITS, "evt_opened_small", "fee_minor = -1"),
    event(LIMITS, "evt_given", "processor_fee_minor = 0"),
    event(LIMITS, "evt_given", "processor_fee_minor = 1000000000001"),
    event(LIMITS, "evt_reversed", "processor_fee_minor = 1"),
    event(LIMITS, "evt_given", "available_at = occurred_at - interval '1 microsecond'"),
    event(LIMITS, "evt_given", "available_at = occurred_at + interval '400 days 1 microsecond'"),
    event(LIMITS, "evt_reserve", "available_at = occurred_at"),
    event(LIMITS, "evt_settled", "restaurant_id = 'res_t'"),
    event(LIMITS, "evt_reserve", "restaurant_id = ''"),
    event(LIMITS, "evt_charge", "occurred_at = '1999-12-31 23:59:59+00'"),
    event(LIMITS, "evt_charge", "payout_id = 'po_1'"),
    event(LIMITS, "evt_charge", "type = 'payout_paid'"),
    event(LIMITS, "evt_charge", "reference = E'a\\nb'"),
    event(LIMITS, "evt_charge", "event_id = 'evt charge'", "event evt charge"),
    event(
        "event_types_are_known", "evt_charge", "type = 'charge_expected'", "type charge_expected"
    ),
    event("currencies_are_known", "evt_charge", "currency = 'XTS'", "currency XTS"),
    Damage(
        "currencies_are_known",
        "UPDATE balance_accounts SET currency = 'pen' WHERE restaurant_id = 'res_b'",
        ("currency pen",),
    ),
    event("events_have_a_balance_account", "evt_charge", "restaurant_id = 'res_x'"),
    event("events_have_a_balance_account", "evt_charge", "currency = 'USD'"),
    Damage(
        "balance_accounts_have_a_holder",
        "DELETE FROM restaurants WHERE restaurant_id = 'res_b'",
        ("account res_b/USD",),
    ),
    Damage(
        "balance_accounts_are_unique",
        "INSERT INTO balance_accounts (restaurant_id, currency) VALUES ('res_b', 'USD')",
        ("account res_b/USD",),
    ),
    Damage(
        "balance_accounts_are_unique",
        "INSERT INTO balance_accounts (currency) VALUES ('MXN')",
        ("account (platform)/MXN",),
    ),
    event("events_have_a_balance_account", "evt_settled", "currency = 'USD'"),
    Damage(
        "debits_equal_credits",
        "ALTER TABLE ledger_entries ALTER debit_account DROP NOT NULL;"
        "UPDATE ledger_entries SET debit_account = NULL WHERE event_id = 'evt_other'",
        ("account res_b/USD", "currency USD"),
    ),
    entry(
        "balance_sheets_close", "evt_other", 1, "debit_account = 'suspense'", "account res_b/USD"
    ),
    Damage(
        "balances_fit_int64",
        "UPDATE ledger_entries SET amount_minor = 9223372036854775807 WHERE event_id = 'evt_other';"
        + entry_copy("evt_other", 1, position="2"),
        ("account res_b/USD",),
    ),
    entry(
        "reserved_is_not_negative",
        "evt_other",
        1,
        "debit_account = 'payout_reserved'",
        "account res_b/USD",
    ),
    event(
        "nothing_is_recorded_in_the_future", "evt_fee", "recorded_at = now() + interval '1 hour'"
    ),
    entry("nothing_is_recorded_in_the_future", "evt_fee", 1, "recorded_at = 'infinity'"),
    event(
        "recorded_txids_are_past",
        "evt_fee",
        "recorded_txid = '9999999999'",
        "table processor_events",
        severity=WARNING,
    ),
    entry(
        "recorded_txids_are_past",
        "evt_fee",
        1,
        "recorded_txid = '9999999999'",
        "table ledger_entries",
        severity=WARNING,
    ),
    event(
        "events_occurred_before_they_were_recorded",
        "evt_fee",
        "occurred_at = recorded_at + interval '1 hour'",
        severity=WARNING,
    ),
    event(
        "refunds_stay_within_their_charge",
        "evt_refund",
        "amount_minor = 10001",
        "reference res_a/PEN/pay_1",
        severity=WARNING,
    ),
    event(
        "refunds_stay_within_their_charge",
        "evt_reversed",
        "amount_minor = 4001",
        "reference res_t/MXN/pay_t3",
        severity=WARNING,
    ),
    event(
        "refunds_fail_only_if_they_were_booked",
        "evt_refund_failed",
        "amount_minor = 2001",
        "reference res_t/MXN/pay_t1",
        severity=WARNING,
    ),
    event(
        "refunds_fail_only_if_they_were_booked",
        "evt_refund_failed",
        "reference = 'pay_t2'",
        "reference res_t/MXN/pay_t2",
        severity=WARNING,
    ),
    entry(
        "processor_has_settled",
        "evt_settled",
        1,
        "amount_minor = amount_minor - 1",
        "currency MXN",
        severity=WARNING,
    ),
    event(
        "answers_of_the_bank_are_in_order",
        "{res_p.2.paid}",
        "occurred_at = occurred_at + interval '1 microsecond'",
        "payout {res_p.2}",
        severity=WARNING,
    ),
    Damage(
        "payouts_are_answered",
        "UPDATE payouts SET created_at = created_at - interval '60 days' WHERE payout_id = "
        "'{res_q.1}'",
        ("currency EUR",),
        WARNING,
    ),
    event(
        "facts_are_booked_once",
        "evt_no_fee",
        "reference = 'pay_1', amount_minor = 10000",
        "reference res_a/PEN/pay_1",
        severity=WARNING,
    ),
    event(
        "refunds_name_a_known_charge",
        "evt_refund",
        "reference = 'pay_9'",
        "reference res_a/PEN/pay_9",
        severity=WARNING,
    ),
    event(
        "refunds_name_a_known_charge",
        "evt_refund",
        "restaurant_id = 'res_b'",
        "reference res_b/PEN/pay_1",
        severity=WARNING,
    ),
    event(
        "refunds_name_a_known_charge",
        "evt_refund",
        "currency = 'USD'",
        "reference res_a/USD/pay_1",
        severity=WARNING,
    ),
    event(
        "disputes_end_as_they_opened",
        "evt_won",
        "amount_minor = 501",
        "reference res_a/PEN/dp_1",
        severity=WARNING,
    ),
    event(
        "disputes_end_as_they_opened",
        "evt_lost",
        "reference = 'dp_9'",
        "reference res_a/PEN/dp_9",
        severity=WARNING,
    ),
    entry(
        "payable_is_not_negative",
        "evt_refund",
        1,
        "amount_minor = 100000",
        "account res_a/PEN",
        severity=WARNING,
    ),
    entry(
        "dispute_hold_is_not_negative",
        "evt_lost",
        1,
        "amount_minor = 100000",
        "account res_a/PEN",
        severity=WARNING,
    ),
    *(
        entry(
            "reserves_and_taxes_are_not_negative",
            event_id,
            1,
            "amount_minor = 100000",
            "account res_t/MXN",
            severity=WARNING,
        )
        for event_id in ("evt_reserve_back", "evt_tax_back")
    ),
)
