"""Damage to accounts, payments and operations on payments, and their entries."""

from support.damage.case import ERROR, WARNING, Damage
from support.damage.events import RULES as EVENT_RULES

from ledger.domain.audit import Severity


def payment(check: str, payment_id: str, change: str, *entities: str) -> Damage:
    """A payment that was changed."""
    sql = f"UPDATE payments SET {change} WHERE payment_id = '{payment_id}'"
    return Damage(check, sql, entities or (f"payment {payment_id}",))


def operation(check: str, place: str, change: str, *entities: str) -> Damage:
    """An operation that was changed; `place` is such as pay_parts.2, the second on pay_parts."""
    payment_id, _, sequence = place.partition(".")
    sql = (
        f"UPDATE payment_operations SET {change}"
        f" WHERE payment_id = '{payment_id}' AND sequence = {sequence}"
    )
    return Damage(check, sql, entities or (f"payment {payment_id}",))


def posted(check: str, place: str, change: str, *entities: str) -> Damage:
    """An entry that was changed; `place` is such as op_part_1/2: what posted it, its position."""
    name, _, position = place.partition("/")
    sql = (
        f"UPDATE ledger_entries SET {change}"
        f" WHERE transaction_id = '{{{name}}}' AND position = {position}"
    )
    return Damage(check, sql, entities or (f"entry {{{name}}}/{position}",))


def posted_copy(place: str, /, **changed: str) -> str:
    """SQL that posts an entry once more, with some columns changed."""
    name, _, position = place.partition("/")
    columns = (
        "balance_account_id recorded_txid transaction_id position entry_type debit_account "
        "credit_account amount_minor"
    )
    columns += " available_at recorded_at payment_id"
    names = columns.split()
    values = ", ".join(changed.get(column, column) for column in names)
    return (
        f"INSERT INTO ledger_entries ({', '.join(names)}) SELECT {values} FROM ledger_entries"
        f" WHERE transaction_id = '{{{name}}}' AND position = {position}"
    )


def account(check: str, account_id: str, change: str, severity: Severity = ERROR) -> Damage:
    """An account that was changed."""
    sql = f"UPDATE accounts SET {change} WHERE account_id = '{account_id}'"
    return Damage(check, sql, (f"account {account_id}",), severity)


RULES = "payments_follow_posting_rules"
CAUSE = "entries_of_payments_have_a_payment"
ASKED = "operations_do_what_was_asked"
LED = "payments_are_where_their_operations_lead"
LIMITS = "payments_are_within_limits"
PARTIES = "payments_have_two_parties"
MATURITY = "payments_mature_after_whole_days"
ONCE = "payments_are_stored_once"
NETS = "interaccount_nets_to_zero"
HAVE_ONE = "accounts_have_a_balance_account"
OF_HOLDER = "balance_accounts_have_a_holder"
OVERDRAFT = "accounts_stay_within_their_overdraft"
DAMAGE_TO_ENTRIES = (
    posted(RULES, "pay_in/1", "amount_minor = amount_minor + 1", "payment pay_in"),
    posted(
        RULES,
        "op_part_1/2",
        "debit_account = credit_account, credit_account = debit_account",
        "payment pay_parts",
    ),
    posted(RULES, "pay_later/2", "entry_type = 'PAYMENT'", "payment pay_later"),
    posted(RULES, "pay_later/3", "position = 4", "payment pay_later"),
    posted(RULES, "pay_in/2", "balance_account_id = {acc_b}", "payment pay_in"),
    # Its share of the fee is what all captures bear less what those before bear.
    posted(RULES, "op_part_2/3", "amount_minor = 110", "payment pay_parts"),
    posted(RULES, "op_part_3/4", "position = 5", "payment pay_parts"),
    posted(RULES, "op_reversed_2/1", "amount_minor = 351", "payment pay_reversed"),
    posted(RULES, "evt_fee/1", "payment_id = 'pay_in'", "payment pay_in"),
    Damage(
        RULES,
        "DELETE FROM ledger_entries WHERE transaction_id = '{op_part_3}' AND position = 3",
        ("payment pay_parts",),
    ),
    Damage(
        RULES,
        "DELETE FROM ledger_entries WHERE transaction_id IN ('{op_voided}', '{pay_in}')",
        ("payment pay_in", "payment pay_voided"),
    ),
    Damage(
        RULES,
        posted_copy("pay_in/1", transaction_id="'{pay_too_much}'", payment_id="'pay_too_much'"),
        ("payment pay_too_much",),
    ),
    payment(RULES, "pay_captured", "fee_minor = 1"),
    payment(RULES, "pay_later", "fee_minor = 0"),
    payment(RULES, "pay_later", "capture = 'MANUAL'"),
    payment(RULES, "pay_in", "decline_reason = 'EXPIRED'"),
    payment(RULES, "pay_too_much", "decline_reason = NULL"),
    payment(RULES, "pay_later", "payee_balance_account_id = {acc_b}"),
    operation(RULES, "pay_voided.1", "kind = 'CAPTURE', amount_minor = 1"),
    operation(RULES, "pay_reversed.2", "released_minor = 0"),
    operation(RULES, "pay_voided.2", "decline_reason = NULL, released_minor = 1"),
    posted(CAUSE, "pay_in/1", "recorded_txid = '7'"),
    posted(CAUSE, "op_part_3/4", "recorded_at = recorded_at - interval '1 microsecond'"),
    posted(CAUSE, "pay_in/1", "payment_id = 'pay_later'"),
    posted(
        CAUSE,
        "pay_in/1",
        "transaction_id = '00000000-0000-0000-0000-000000000001'",
        "entry 00000000-0000-0000-0000-000000000001/1",
    ),
    Damage(
        CAUSE,
        "DELETE FROM payments WHERE payment_id = 'pay_in'",
        ("entry {pay_in}/1", "entry {pay_in}/2"),
    ),
    Damage(
        CAUSE,
        "DELETE FROM payment_operations WHERE operation_id = 'op_voided'",
        ("entry {op_voided}/1",),
    ),
    posted("entries_have_an_event", "pay_in/1", "payment_id = NULL"),
    posted("entries_have_a_balance_account", "pay_in/1", "balance_account_id = 999"),
    posted(
        EVENT_RULES, "pay_in/1", "payment_id = NULL, event_id = 'evt_charge'", "event evt_charge"
    ),
    Damage(
        "entries_are_posted_once",
        posted_copy("pay_in/1", recorded_txid="'7'"),
        ("transaction {pay_in}",),
    ),
    posted(
        "entries_stand_in_the_account_of_their_event",
        "evt_fee/1",
        "balance_account_id = {acc_a}",
    ),
    posted(NETS, "pay_in/2", "amount_minor = amount_minor + 1", "transaction {pay_in}"),
    posted(
        NETS,
        "pay_in/2",
        "transaction_id = '{pay_later}'",
        *("transaction {pay_in}", "transaction {pay_later}"),
    ),
    posted(NETS, "op_reversed_2/2", "debit_account = 'adjustments'", "transaction {op_reversed_2}"),
    Damage(
        NETS,
        "DELETE FROM ledger_entries WHERE transaction_id = '{pay_in}' AND position = 1",
        ("transaction {pay_in}",),
    ),
    posted(MATURITY, "pay_later/2", "available_at = available_at + interval '1 microsecond'"),
    posted(MATURITY, "op_part_1/3", "available_at = recorded_at + interval '8784 hours'"),
    posted(MATURITY, "pay_later/2", "available_at = 'infinity'"),
    posted(MATURITY, "pay_later/2", "available_at = recorded_at"),
    posted(MATURITY, "pay_in/2", "available_at = recorded_at + interval '24 hours'"),
    posted(MATURITY, "op_part_refund/2", "available_at = recorded_at + interval '24 hours'"),
    posted(
        MATURITY,
        "res_q.1.transaction/1",
        "available_at = recorded_at + interval '24 hours'",
        "entry {res_q.1.transaction}/1",
    ),
    posted(
        "fees_mature_with_their_payment", "pay_later/3", "available_at = NULL", "payment pay_later"
    ),
    posted(
        "fees_mature_with_their_payment",
        "op_part_2/2",
        "available_at = available_at + interval '24 hours'",
        "payment pay_parts",
    ),
    posted(
        "fees_mature_with_their_payment",
        "pay_at_once/3",
        "available_at = recorded_at + interval '24 hours'",
        "payment pay_at_once",
    ),
    Damage(
        "debits_equal_credits",
        "ALTER TABLE ledger_entries ALTER debit_account DROP NOT NULL;"
        "UPDATE ledger_entries SET debit_account = NULL"
        " WHERE transaction_id = '{pay_in_frozen}' AND position = 2",
        ("account acc_frozen", "currency CHF"),
    ),
    posted(
        "balance_sheets_close",
        "pay_in_frozen/2",
        "debit_account = 'suspense'",
        "account acc_frozen",
    ),
    posted(
        "nothing_is_recorded_in_the_future", "pay_in/2", "recorded_at = now() + interval '1 hour'"
    ),
)
DAMAGE_TO_PAYMENTS = (
    operation(ASKED, "pay_parts.2", "amount_minor = 3332"),
    operation(ASKED, "pay_parts.2", "requested_minor = 0"),
    operation(ASKED, "pay_parts.2", "state = 'CAPTURED'"),
    operation(ASKED, "pay_parts.2", "captured_minor = 6667"),
    operation(ASKED, "pay_parts.1", "refunded_minor = 1"),
    operation(ASKED, "pay_parts.2", "is_final = true"),
    operation(ASKED, "pay_parts.4", "is_final = false"),
    operation(ASKED, "pay_parts.4", "released_minor = 1333"),
    operation(ASKED, "pay_parts.3", "decline_reason = NULL, amount_minor = 3335"),
    operation(ASKED, "pay_voided.1", "state = 'EXPIRED'"),
    operation(ASKED, "pay_voided.2", "decline_reason = NULL"),
    operation(ASKED, "pay_voided.2", "released_minor = 700"),
    operation(ASKED, "pay_part_voided.2", "state = 'VOIDED'"),
    operation(ASKED, "pay_reversed.2", "amount_minor = 249, refunded_minor = 249"),
    operation(ASKED, "pay_reversed_hold.1", "state = 'CAPTURED'"),
    # More than could be refunded, as the operation before left it.
    operation(
        ASKED, "pay_at_once.2", "decline_reason = NULL, amount_minor = 7501, refunded_minor = 8001"
    ),
    operation(ASKED, "pay_too_much.1", "decline_reason = NULL, amount_minor = 1"),
    operation(ASKED, "pay_expired.1", "decline_reason = 'EXPIRED'"),
    payment(ASKED, "pay_expired", "expires_at = NULL"),
    payment(ASKED, "pay_expired", "expires_at = expires_at + interval '1 hour'"),
    payment(ASKED, "pay_parts", "amount_minor = amount_minor + 1"),
    payment(LED, "pay_in", "state = 'AUTHORIZED'"),
    payment(LED, "pay_in", "captured_minor = captured_minor - 1"),
    payment(LED, "pay_in", "refunded_minor = 1"),
    payment(LED, "pay_hold", "state = 'VOIDED'"),
    payment(LED, "pay_hold", "capture = 'IMMEDIATE'"),
    payment(LED, "pay_too_much", "decline_reason = NULL, state = 'CAPTURED'"),
    payment(LED, "pay_parts", "refunded_minor = 0"),
    operation(LED, "pay_parts.5", "refunded_minor = 999"),
    operation(LED, "pay_parts.5", "sequence = 6"),
    operation(LED, "pay_parts.1", "sequence = 2"),
    operation(LED, "pay_parts.1", "sequence = 0"),
    Damage(
        LED,
        "DELETE FROM payment_operations WHERE operation_id = 'op_part_refund'",
        ("payment pay_parts",),
    ),
    Damage(LED, "DELETE FROM payments WHERE payment_id = 'pay_voided'", ("payment pay_voided",)),
    payment(LIMITS, "pay_in", "amount_minor = 0, captured_minor = 0"),
    payment(LIMITS, "pay_in", "amount_minor = 1000000000001"),
    payment(LIMITS, "pay_in", "fee_minor = -1"),
    payment(LIMITS, "pay_in", "fee_minor = amount_minor + 1"),
    payment(LIMITS, "pay_in", "capture = 'LATER'"),
    payment(LIMITS, "pay_in", "expires_at = now()"),
    payment(LIMITS, "pay_in", "state = 'LOST'"),
    payment(LIMITS, "pay_in", "state = 'DECLINED'"),
    payment(LIMITS, "pay_in", "decline_reason = 'EXPIRED'"),
    payment(LIMITS, "pay_too_much", "decline_reason = 'NO_REASON'"),
    payment(LIMITS, "pay_in", "captured_minor = amount_minor + 1"),
    payment(LIMITS, "pay_in", "refunded_minor = captured_minor + 1"),
    payment(LIMITS, "pay_in", "reference = E'a\\nb'"),
    payment(LIMITS, "pay_in", "payment_id = 'pay in'", "payment pay in"),
    operation(LIMITS, "pay_parts.1", "operation_id = NULL"),
    operation(LIMITS, "pay_expired.1", "operation_id = 'op_1'"),
    operation(LIMITS, "pay_parts.1", "operation_id = 'op 1'"),
    operation(LIMITS, "pay_parts.1", "kind = 'SETTLE'"),
    operation(LIMITS, "pay_parts.1", "requested_minor = -1"),
    operation(LIMITS, "pay_voided.1", "requested_minor = 700"),
    operation(LIMITS, "pay_voided.1", "is_final = true"),
    operation(LIMITS, "pay_voided.2", "decline_reason = 'NO_REASON'"),
    payment(PARTIES, "pay_in", "payer_balance_account_id = 999"),
    payment(PARTIES, "pay_in", "payee_balance_account_id = 999"),
    payment(PARTIES, "pay_in", "payee_balance_account_id = payer_balance_account_id"),
    payment(PARTIES, "pay_later", "payer_balance_account_id = payee_balance_account_id"),
    payment(PARTIES, "pay_in", "fee_minor = 1"),
    payment(PARTIES, "pay_in", "currency = 'USD'"),
    payment(PARTIES, "pay_too_much", "decline_reason = 'CURRENCY_MISMATCH'"),
    payment(PARTIES, "pay_mismatch", "decline_reason = 'ACCOUNT_FROZEN'"),
    payment(PARTIES, "pay_mismatch", "decline_reason = NULL"),
    Damage(
        ONCE,
        "INSERT INTO payments SELECT stored.* FROM payments AS stored WHERE payment_id = 'pay_in'",
        ("payment pay_in",),
    ),
    operation(ONCE, "pay_voided.2", "operation_id = 'op_voided'", "operation op_voided"),
    payment(
        "transaction_ids_belong_to_one_event",
        "pay_in",
        "transaction_id = '{evt_charge}'",
        "transaction {evt_charge}",
    ),
    operation(
        "transaction_ids_belong_to_one_event",
        "pay_voided.2",
        "transaction_id = '{pay_voided}'",
        "transaction {pay_voided}",
    ),
    payment("currencies_are_known", "pay_in", "currency = 'XTS'", "currency XTS"),
    payment(
        "nothing_is_recorded_in_the_future", "pay_in", "recorded_at = now() + interval '1 hour'"
    ),
    operation("nothing_is_recorded_in_the_future", "pay_parts.1", "recorded_at = 'infinity'"),
    Damage(
        "recorded_txids_are_past",
        "UPDATE payments SET recorded_txid = '9999999999' WHERE payment_id = 'pay_in'",
        ("table payments",),
        WARNING,
    ),
    Damage(
        "recorded_txids_are_past",
        "UPDATE payment_operations SET recorded_txid = '9999999999' WHERE sequence = 2",
        ("table payment_operations",),
        WARNING,
    ),
    Damage(
        "expired_holds_are_released",
        "UPDATE payments SET expires_at = now() - interval '11 minutes'"
        " WHERE payment_id IN ('pay_hold', 'pay_voided')",
        ("currency CHF",),
        WARNING,
    ),
    Damage(
        "payouts_have_a_balance_account",
        "UPDATE payouts SET balance_account_id = {acc_a} WHERE payout_id = '{res_q.1}'",
        ("payout {res_q.1}",),
    ),
    Damage(
        "payout_items_telescope",
        "UPDATE payout_items SET amount_minor = -amount_minor, counted_minor = -counted_minor"
        " WHERE payout_id = '{res_at_once.1}' AND entry_type = 'REFUND_OUT'",
        ("payout {res_at_once.1}",),
    ),
    Damage(
        "payout_items_telescope",
        "UPDATE payout_items SET amount_minor = -amount_minor, counted_minor = -counted_minor"
        " WHERE payout_id = '{res_at_once.1}' AND entry_type = 'TRANSFER_IN'",
        ("payout {res_at_once.1}",),
    ),
)
DAMAGE_TO_ACCOUNTS = (
    Damage(
        HAVE_ONE,
        "INSERT INTO balance_accounts (account_id, currency) VALUES ('acc_a', 'CHF')",
        ("account acc_a",),
    ),
    Damage(
        HAVE_ONE,
        "DELETE FROM balance_accounts WHERE account_id = 'acc_empty'",
        ("account acc_empty",),
    ),
    account(HAVE_ONE, "acc_usd", "currency = 'EUR'"),
    Damage(
        OF_HOLDER, "DELETE FROM accounts WHERE account_id = 'acc_empty'", ("account acc_empty",)
    ),
    Damage(
        HAVE_ONE,
        "UPDATE balance_accounts SET account_id = NULL WHERE account_id = 'acc_empty'",
        ("account acc_empty",),
    ),
    Damage(
        OF_HOLDER,
        "UPDATE balance_accounts SET restaurant_id = 'res_b' WHERE account_id = 'acc_usd'",
        ("account res_b/USD",),
    ),
    Damage(
        "balance_accounts_are_unique",
        "INSERT INTO balance_accounts (account_id, currency) VALUES ('acc_a', 'CHF')",
        ("account acc_a",),
    ),
    account("accounts_are_within_limits", "acc_a", "state = 'LOST'"),
    account("accounts_are_within_limits", "acc_a", "overdraft_limit_minor = -1"),
    account("accounts_are_within_limits", "acc_a", "updated_at = created_at - interval '1 hour'"),
    account("nothing_is_recorded_in_the_future", "acc_a", "updated_at = now() + interval '1 hour'"),
    Damage(
        "currencies_are_known",
        "UPDATE accounts SET currency = 'XTS' WHERE account_id = 'acc_empty'",
        ("currency XTS",),
    ),
    payment("held_is_in_payments", "pay_hold", "state = 'VOIDED'", "account acc_a"),
    payment("held_is_in_payments", "pay_part_held", "captured_minor = 0", "account acc_a"),
    posted("held_is_in_payments", "pay_hold/1", "amount_minor = 1", "account acc_a"),
    posted("held_is_in_payments", "pay_in/2", "credit_account = 'account_held'", "account acc_a"),
    posted(
        "closed_accounts_are_empty", "pay_in_closed/2", "amount_minor = 1", "account acc_closed"
    ),
    account("closed_accounts_are_empty", "acc_a", "state = 'CLOSED'"),
    # Whether an account was ever allowed more is known only while it was never changed.
    posted(OVERDRAFT, "pay_overdraft/1", "amount_minor = 1201", "account acc_b"),
    account(OVERDRAFT, "acc_lowered", "overdraft_limit_minor = 299", WARNING),
)
