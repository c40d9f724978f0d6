"""The audit: silent on books that are in order, and every check of it speaks up when what it guards
is broken.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from support.dates import days_ago
from support.events import event_message, unique
from support.payout_runs import answer, finished_run
from support.psql import run_file
from support.running import RunningLedger, execute_alone, query, running_ledger
from support.snapshots import make_marks, take_snapshots

from ledger.bootstrap.database import Database
from ledger.domain.audit import AuditReport, Severity
from ledger.domain.chart_of_accounts import NORMAL_SIDE
from ledger.domain.events import EventType
from ledger.domain.money import EXPONENT_BY_CURRENCY
from ledger.domain.payout_states import MOVES, PayoutState
from ledger.domain.posting_rules import EVENT_POSTING_RULES, PAYOUT_POSTING_RULES, Amount
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.movements import signed_minor
from ledger.infrastructure.postgres.schema.migrations import database_url
from ledger.infrastructure.postgres.schema.newest_schema import privileges
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.infrastructure.postgres.verification.audit import (
    FINDINGS_PER_CHECK_MAX,
    audit,
    load_checks,
)
from ledger.v1 import ledger_pb2

ERROR, WARNING = Severity.ERROR, Severity.WARNING
CHECKS = {check.name: check.statement for check in load_checks()}

# Every type of event that posts, with what makes it special: fees and none, a refund's fee, a
# dispute that ends in two parts, another restaurant and currency, and a charge that is available at
# once.
EVENTS = (
    event_message(
        event_id="evt_charge",
        restaurant_id="res_a",
        amount_minor=10_000,
        fee_minor=300,
        reference="pay_1",
    ),
    event_message(
        event_id="evt_no_fee",
        restaurant_id="res_a",
        amount_minor=5_000,
        reference="pay_2",
        metadata={"k": "v"},
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
        event_id="evt_refund",
        restaurant_id="res_a",
        amount_minor=1_000,
        fee_minor=10,
        reference="pay_1",
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_FEE_ASSESSED,
        event_id="evt_fee",
        restaurant_id="res_a",
        amount_minor=100,
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED,
        event_id="evt_credit",
        restaurant_id="res_a",
        amount_minor=700,
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_ADJUSTMENT_DEBITED,
        event_id="evt_debit",
        restaurant_id="res_a",
        amount_minor=200,
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
        event_id="evt_opened",
        restaurant_id="res_a",
        amount_minor=2_000,
        fee_minor=150,
        reference="dp_1",
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_DISPUTE_WON,
        event_id="evt_won",
        restaurant_id="res_a",
        amount_minor=500,
        reference="dp_1",
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_DISPUTE_LOST,
        event_id="evt_lost",
        restaurant_id="res_a",
        amount_minor=1_500,
        reference="dp_1",
    ),
    event_message(
        event_id="evt_other",
        restaurant_id="res_b",
        currency="USD",
        amount_minor=900,
        reference=" odd ~ reference: pay_3",
    ),
    event_message(event_id="evt_at_once", restaurant_id="res_c", amount_minor=800, fee_minor=800),
)

# Takes off everything that would refuse the damage.
UNGUARD = """
DO $$
DECLARE
  found record;
BEGIN
  FOR found IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
               WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'f') LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.place, found.conname);
  END LOOP;
  FOR found IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
               WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'u') LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.place, found.conname);
  END LOOP;
END
$$;
ALTER TABLE processor_events DISABLE TRIGGER ALL;
ALTER TABLE ledger_entries DISABLE TRIGGER ALL;
ALTER TABLE payouts DISABLE TRIGGER ALL;
ALTER TABLE payout_items DISABLE TRIGGER ALL;
ALTER TABLE payout_runs DISABLE TRIGGER ALL;
ALTER TABLE payout_run_items DISABLE TRIGGER ALL;
ALTER TABLE payout_run_progress DISABLE TRIGGER ALL;
ALTER TABLE balance_snapshots DISABLE TRIGGER ALL;
ALTER TABLE statement_marks DISABLE TRIGGER ALL;
ALTER TABLE archived_ranges DISABLE TRIGGER ALL;
ALTER TABLE archived_run_outcomes DISABLE TRIGGER ALL;
DROP INDEX payouts_in_flight_key, payouts_live_key;
"""


# The items of the run of res_q's first payout are in an archive, whose id is 0...1, and no longer
# in their table.
ARCHIVED = """
INSERT INTO archived_run_outcomes (payout_run_id, outcome, skip_reason, items_count, archive_id)
SELECT payout_run_id, outcome, COALESCE(skip_reason, ''), count(*),
  '00000000-0000-0000-0000-000000000001'
FROM payout_run_items WHERE payout_run_id = '{res_q.1.run}' GROUP BY 1, 2, 3;
INSERT INTO archived_ranges (archive_id, kind, from_at, before_at, rows_count, file_name,
  file_bytes, file_sha256)
SELECT '00000000-0000-0000-0000-000000000001', 'payout_run_items', '2025-11-01', '2025-12-01',
  sum(items_count), 'f', 1,
       sha256('')
FROM archived_run_outcomes;
DELETE FROM payout_run_items WHERE payout_run_id = '{res_q.1.run}';
"""
ARCHIVE = "archive 00000000-0000-0000-0000-000000000001"


@dataclass(frozen=True)
class Damage:
    """What is done to the books, and whom the check must name.

    {evt_…} stands for that event's transaction id, {res_p.1} for the id of that restaurant's first
    payout, {res_p.1.transaction} for its transaction id, {res_p.1.run} for its run, {res_p.1.paid}
    and {res_p.1.failed} for what the bank said of it.
    """

    check: str
    sql: str
    entities: tuple[str, ...]
    severity: Severity = ERROR

    def __str__(self) -> str:
        return f"{self.check}: {self.sql}"[:100]


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
    Damage(
        "entries_have_an_event",
        "DELETE FROM processor_events WHERE event_id = 'evt_fee'",
        ("entry {evt_fee}/1",),
    ),
    entry("entries_have_an_event", "evt_fee", 1, "event_id = NULL"),
    entry("entries_have_a_balance_account", "evt_fee", 1, "balance_account_id = 999"),
    entry(MATURITY, "evt_charge", 1, "available_at = available_at + interval '1 microsecond'"),
    entry(MATURITY, "evt_charge", 1, "available_at = occurred_at + interval '8784 hours'"),
    entry(MATURITY, "evt_charge", 1, "available_at = occurred_at"),
    entry(MATURITY, "evt_charge", 1, "available_at = 'infinity'"),
    entry(MATURITY, "evt_fee", 1, "available_at = occurred_at + interval '168 hours'"),
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
    event(LIMITS, "evt_charge", "amount_minor = 0, fee_minor = 0"),
    event(LIMITS, "evt_charge", "amount_minor = 1000000000001"),
    event(LIMITS, "evt_charge", "fee_minor = amount_minor + 1"),
    event(LIMITS, "evt_charge", "fee_minor = -1"),
    event(LIMITS, "evt_fee", "fee_minor = 1"),
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
        "balance_accounts_have_a_restaurant",
        "DELETE FROM restaurants WHERE restaurant_id = 'res_b'",
        ("account res_b/USD",),
    ),
    Damage(
        "balance_accounts_are_unique",
        "INSERT INTO balance_accounts (restaurant_id, currency) VALUES ('res_b', 'USD')",
        ("account res_b/USD",),
    ),
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
)


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
STATES = "payouts_have_the_entries_of_their_state"
MOVED = "payouts_are_where_their_events_lead"
PAYOUT_LIMITS = "payouts_are_within_limits"
TELESCOPE = "payout_items_telescope"
COUNTED = "payouts_count_what_is_booked"
OF_RUN = "payouts_agree_with_their_run"
AGREED = "archives_agree_with_their_runs"
RUN_ITEMS = "run_items_agree_with_their_payout"
OF_DENY_MOVE = ("table payout_run_items", "table payout_run_progress", "table payout_runs")
HAS_ITEMS = "runs_have_an_item_for_each_account_they_reached"
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

TRIGGERS = "append_only_triggers_are_on"
CONSTRAINTS = "constraints_are_in_force"
ROLES = "roles_hold_no_more_than_they_need"
VIEWS = "views_are_as_they_were_made"
NEEDS, SEQUENCES = "roles_hold_what_they_need", "sequences_are_ahead_of_their_tables"
SETTINGS, CREATES = "settings_of_roles_are_safe", "only_owners_create_beside_the_books"
EVENTS_TRIGGER = "TRIGGER processor_events_deny_change"

DAMAGE_TO_GUARDS = (
    Damage(VIEWS, "DROP VIEW ledger_movements", ("view ledger_movements",)),
    Damage(
        VIEWS,
        "ALTER VIEW ledger_movements RENAME TO both_sides;"
        "CREATE VIEW ledger_movements AS SELECT * FROM both_sides WHERE entry_type <> 'FEE'",
        ("view ledger_movements",),
    ),
    Damage(
        VIEWS,
        "CREATE OR REPLACE VIEW current_stay AS SELECT stay_id FROM ledger_stays",
        ("view current_stay",),
    ),
    Damage(
        TRIGGERS,
        f"ALTER TABLE processor_events DISABLE {EVENTS_TRIGGER}",
        ("table processor_events",),
    ),
    Damage(
        TRIGGERS,
        f"ALTER TABLE processor_events ENABLE {EVENTS_TRIGGER}",
        ("table processor_events",),
    ),
    Damage(TRIGGERS, f"DROP {EVENTS_TRIGGER} ON processor_events", ("table processor_events",)),
    Damage(
        TRIGGERS,
        "DROP TRIGGER ledger_entries_deny_change ON ledger_entries;"
        "CREATE TRIGGER ledger_entries_deny_change BEFORE UPDATE OR DELETE ON ledger_entries"
        " FOR EACH STATEMENT EXECUTE FUNCTION deny_change();"
        "ALTER TABLE ledger_entries ENABLE ALWAYS TRIGGER ledger_entries_deny_change",
        ("table ledger_entries",),
    ),
    Damage(
        TRIGGERS,
        f"DROP {EVENTS_TRIGGER} ON processor_events;"
        f"CREATE {EVENTS_TRIGGER} BEFORE UPDATE OR DELETE OR TRUNCATE ON processor_events"
        " FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION deny_change();"
        f"ALTER TABLE processor_events ENABLE ALWAYS {EVENTS_TRIGGER}",
        ("table processor_events",),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION deny_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN "
        "RETURN NULL; END'",
        (
            "table archived_ranges",
            "table archived_run_outcomes",
            "table audit_log",
            "table balance_snapshots",
            "table ledger_entries",
            "table ledger_seals",
            "table ledger_stays",
            "table payout_items",
            "table payout_run_items",
            "table payout_run_progress",
            "table payout_runs",
            "table payouts",
            "table processor_events",
            "table statement_marks",
        ),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION check_payout_move() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN "
        "RETURN NEW; END'",
        ("table payouts",),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION check_payout_items() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RETURN NULL; END'",
        ("table payout_items", "table payouts"),
    ),
    Damage(
        TRIGGERS,
        "CREATE OR REPLACE FUNCTION deny_move() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN "
        "NULL; END'",
        OF_DENY_MOVE,
    ),
    Damage(
        TRIGGERS,
        "DROP TRIGGER payout_runs_deny_move ON payout_runs;"
        "CREATE TRIGGER payout_runs_deny_move AFTER UPDATE ON payout_runs"
        " FOR EACH ROW WHEN (OLD.state <> 'RUNNING') EXECUTE FUNCTION deny_move();"
        "ALTER TABLE payout_runs ENABLE ALWAYS TRIGGER payout_runs_deny_move",
        ("table payout_runs",),
    ),
    Damage(
        TRIGGERS,
        "DROP TRIGGER payout_run_items_deny_move ON payout_run_items",
        ("table payout_run_items",),
    ),
    Damage(TRIGGERS, "ALTER TABLE payouts ENABLE TRIGGER payouts_check_move", ("table payouts",)),
    Damage(
        TRIGGERS,
        "DROP TRIGGER balance_snapshots_deny_change ON balance_snapshots",
        ("table balance_snapshots",),
    ),
    Damage(
        TRIGGERS,
        "ALTER TABLE payouts ENABLE ALWAYS TRIGGER payouts_check_items",
        ("table payouts",),
    ),
    Damage(TRIGGERS, "ALTER FUNCTION deny_move() RESET search_path", OF_DENY_MOVE),
    Damage(
        TRIGGERS, "ALTER FUNCTION check_payout_move() SET search_path = public", ("table payouts",)
    ),
    Damage(TRIGGERS, "ALTER TABLE payouts ENABLE TRIGGER payouts_deny_change", ("table payouts",)),
    Damage(TRIGGERS, "ALTER TABLE payouts DISABLE TRIGGER payouts_check_items", ("table payouts",)),
    Damage(
        TRIGGERS, "DROP TRIGGER payout_items_check_items ON payout_items", ("table payout_items",)
    ),
    Damage(
        TRIGGERS,
        "ALTER TABLE payout_items ENABLE REPLICA TRIGGER payout_items_deny_change",
        ("table payout_items",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_accounts_check",
        ("table ledger_entries",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE restaurants DROP CONSTRAINT restaurants_name_check;"
        "ALTER TABLE restaurants ADD CONSTRAINT restaurants_name_check CHECK (char_length(name) <= "
        "200) NOT VALID",
        ("table restaurants",),
    ),
    Damage(
        CONSTRAINTS, "ALTER TABLE balance_accounts DISABLE TRIGGER ALL", ("table balance_accounts",)
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE ledger_entries ALTER amount_minor DROP NOT NULL",
        ("table ledger_entries",),
    ),
    Damage(
        CONSTRAINTS,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = "
        "'processor_events_pkey'::regclass",
        ("table processor_events",),
    ),
    Damage(CONSTRAINTS, "DROP INDEX payouts_in_flight_key", ("table payouts",)),
    Damage(
        CONSTRAINTS,
        "DROP INDEX payouts_live_key;"
        "CREATE UNIQUE INDEX payouts_live_key ON payouts (balance_account_id, as_of) WHERE state "
        "IN ('PAID')",
        ("table payouts",),
    ),
    Damage(
        CONSTRAINTS,
        "ALTER TABLE payouts DROP CONSTRAINT payouts_available_minor_check",
        ("table payouts",),
    ),
    Damage(
        CONSTRAINTS, "ALTER TABLE payout_run_items DISABLE TRIGGER ALL", ("table payout_run_items",)
    ),
    Damage(ROLES, "GRANT UPDATE (amount_minor) ON payouts TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT UPDATE ON payout_items TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT DELETE ON balance_snapshots TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT DELETE ON payout_run_items TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT TRUNCATE ON payout_runs TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "GRANT UPDATE (state) ON payouts TO ledger_read", ("role ledger_read",)),
    Damage(ROLES, "GRANT UPDATE ON processor_events TO ledger_app", ("role ledger_app",)),
    Damage(
        ROLES, "GRANT UPDATE (reference) ON processor_events TO ledger_app", ("role ledger_app",)
    ),
    Damage(
        ROLES, "GRANT DELETE ON ledger_entries TO PUBLIC", ("role ledger_app", "role ledger_read")
    ),
    Damage(ROLES, "GRANT TRUNCATE ON ledger_entries TO ledger_app", ("role ledger_app",)),
    Damage(
        ROLES, "GRANT UPDATE (currency) ON balance_accounts TO ledger_app", ("role ledger_app",)
    ),
    Damage(ROLES, "GRANT INSERT ON restaurants TO ledger_read", ("role ledger_read",)),
    Damage(ROLES, "GRANT SELECT ON page_token_keys TO ledger_read", ("role ledger_read",)),
    Damage(ROLES, "GRANT SELECT (secret) ON page_token_keys TO PUBLIC", ("role ledger_read",)),
    Damage(ROLES, "GRANT INSERT ON page_token_keys TO ledger_app", ("role ledger_app",)),
    Damage(
        NEEDS,
        "REVOKE INSERT (amount_minor) ON ledger_entries FROM ledger_app",
        ("role ledger_app",),
    ),
    Damage(NEEDS, "REVOKE INSERT ON payout_items FROM ledger_app", ("role ledger_app",)),
    Damage(
        NEEDS,
        "REVOKE SELECT ON restaurants FROM ledger_app, ledger_read",
        ("role ledger_app", "role ledger_read"),
    ),
    Damage(
        NEEDS,
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC, ledger_app, ledger_read",
        ("role ledger_app", "role ledger_read"),
    ),
    Damage(
        NEEDS,
        "REVOKE EXECUTE ON FUNCTION recorded_now() FROM PUBLIC, ledger_app",
        ("role ledger_app",),
    ),
    Damage(
        NEEDS,
        "REVOKE EXECUTE ON FUNCTION ledger_now() FROM PUBLIC, ledger_read",
        ("role ledger_read",),
    ),
    Damage(CREATES, "GRANT CREATE ON SCHEMA public TO PUBLIC", ("every role",), WARNING),
    Damage(CREATES, "GRANT CREATE ON SCHEMA public TO ledger_read", ("role ledger_read",), WARNING),
    Damage(
        SEQUENCES,
        "ALTER SEQUENCE balance_accounts_balance_account_id_seq RESTART",
        ("table balance_accounts",),
    ),
    Damage(
        SEQUENCES,
        # Unlike setval, it is taken back with its transaction.
        "ALTER SEQUENCE balance_accounts_balance_account_id_seq RESTART WITH 1",
        ("table balance_accounts",),
    ),
    Damage(
        "the_database_keeps_every_text",
        "UPDATE pg_database SET encoding = pg_char_to_encoding('SQL_ASCII') WHERE datname = "
        "current_database()",
        ("database {database}",),
    ),
    Damage(
        SETTINGS,
        "DO $$ BEGIN EXECUTE format("
        "'ALTER ROLE ledger_app IN DATABASE %I SET synchronous_commit = off', current_database()); "
        "END $$",
        ("role ledger_app",),
        WARNING,
    ),
    Damage(
        SETTINGS,
        "DO $$ BEGIN EXECUTE format("
        "'ALTER ROLE ledger_read IN DATABASE %I SET search_path = elsewhere', current_database()); "
        "END $$",
        ("role ledger_read",),
        WARNING,
    ),
    Damage(
        SETTINGS,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = local', "
        "current_database()); END $$",
        ("database {database}",),
        WARNING,
    ),
)

# Roles belong to the whole server, so these are rolled back.
DAMAGE_TO_ROLES = (
    Damage(ROLES, "ALTER ROLE ledger_app SUPERUSER", ("role ledger_app",)),
    Damage(ROLES, "GRANT ledger_owner TO ledger_app", ("role ledger_app",)),
    Damage(ROLES, "ALTER ROLE ledger_read RENAME TO ledger_gone", ("role ledger_read",)),
)


# As if no server had sealed since.
DAMAGE_TO_SEALING = (
    Damage(
        "rows_are_sealed_in_time",
        "ALTER TABLE ledger_seals DISABLE TRIGGER ALL; DELETE FROM ledger_seals;"
        "UPDATE processor_events SET recorded_at = recorded_at - interval '11 minutes' WHERE "
        "event_id = 'evt_p'",
        ("table ledger_seals",),
        Severity.WARNING,
    ),
)

DAMAGE_TO_CLOCK = (
    Damage(
        "clock_is_not_behind_the_books",
        # Unlike setval, it is taken back with its transaction; the next value is the latest
        # instant.
        "DO $$ BEGIN EXECUTE 'ALTER SEQUENCE ledger_clock RESTART WITH '"
        " || (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 7200000000; PERFORM "
        "nextval('ledger_clock'); END $$",
        ("clock",),
        Severity.WARNING,
    ),
    Damage(
        "clock_agrees_with_the_host",
        "SET LOCAL ledger.host_during = '[2026-01-01 00:00:00+00,2026-01-01 00:00:01+00]'",
        ("clock",),
        Severity.WARNING,
    ),
)

DAMAGE = (
    DAMAGE_TO_CLOCK
    + DAMAGE_TO_SEALING
    + DAMAGE_TO_DATA
    + DAMAGE_TO_PAYOUTS
    + DAMAGE_TO_SNAPSHOTS
    + DAMAGE_TO_MARKS
    + DAMAGE_TO_GUARDS
)


# As if all snapshots had been taken before any charge had matured: the next ones have to make up
# for that.
EARLIER_SNAPSHOTS = """
WITH taken AS (DELETE FROM balance_snapshots RETURNING *)
INSERT INTO balance_snapshots
SELECT t.balance_account_id, t.system_identifier, t.horizon, '2025-12-01', t.entries_count,
  t.last_recorded_at, t.last_event_at,
       t.ledger_accounts, t.entry_types, t.total_minors, ARRAY(
         SELECT COALESCE(sum(CASE l.ledger_account WHEN e.credit_account THEN e.amount_minor ELSE
           -e.amount_minor END), 0)
         FROM unnest(t.ledger_accounts, t.entry_types) WITH ORDINALITY AS l (ledger_account,
           entry_type, place)
         LEFT JOIN ledger_entries AS e ON e.balance_account_id = t.balance_account_id
           AND e.entry_type = l.entry_type
           AND l.ledger_account IN (e.debit_account, e.credit_account) AND e.available_at IS NULL
         GROUP BY l.place
         ORDER BY l.place),
       t.stay_id
FROM taken AS t
"""


@pytest.fixture(scope="module")
async def booked(new_database: Callable[[], Awaitable[Database]]) -> Database:
    """Books with every event, written by the service; unchanged and without sessions."""
    database = await new_database()
    async with running_ledger(database) as ledger:
        await book_everything(ledger)
    return database


@pytest.fixture(scope="module")
async def copy_of_books(
    server_url: str, booked: Database
) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Makes copies of those books; each a superuser's URL."""
    numbers = count(1)
    name = make_url(booked.migration_url).database
    copies: list[str] = []

    async def copy() -> str:
        copies.append(f"{name}_{next(numbers)}")
        await execute_alone(server_url, f"CREATE DATABASE {copies[-1]} TEMPLATE {name}")
        return database_url(server_url, database=copies[-1])

    yield copy
    for made in copies:
        await execute_alone(server_url, f"DROP DATABASE IF EXISTS {made} WITH (FORCE)")


async def book_everything(ledger: RunningLedger) -> None:
    await ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id="res_c", maturity_days=0)
    )
    results = await ledger.ingest(*EVENTS)
    assert {result.status for result in results} == {ledger_pb2.INGEST_STATUS_CREATED}
    assert await take_snapshots(ledger.engine) == 3
    await ledger.query(EARLIER_SNAPSHOTS)
    await pay_everything(ledger)


async def pay_everything(ledger: RunningLedger) -> None:
    """Payouts in every state, and restaurants that are skipped."""
    paid, failed = ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
    await ledger.ingest(
        event_message(
            event_id="evt_p",
            restaurant_id="res_p",
            currency="EUR",
            amount_minor=10_000,
            fee_minor=400,
        ),
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
            restaurant_id="res_q",
            currency="EUR",
            amount_minor=1,
        ),
    )
    for answers in ((failed,), (paid, failed), (paid,)):
        run = await finished_run(
            ledger, currency="EUR", as_of=days_ago(2), request_id=unique("run")
        )
        assert run.payouts_created == 1
        await answer(ledger, "res_p", *answers)
    await take_snapshots(ledger.engine)
    await make_marks(ledger.engine)
    await ledger.ingest(
        event_message(restaurant_id="res_p", currency="EUR", amount_minor=5_000),
        event_message(
            event_id="evt_q",
            restaurant_id="res_q",
            currency="EUR",
            amount_minor=7_000,
            fee_minor=100,
        ),
    )
    assert (await finished_run(ledger, currency="EUR")).payouts_created == 2
    await take_snapshots(ledger.engine)
    # The bank's answers in the wrong order, and another payout.
    await ledger.ingest(event_message(restaurant_id="res_l", currency="GBP"))
    await finished_run(ledger, currency="GBP", request_id=unique("run"))
    await answer(ledger, "res_l", failed, paid)
    assert (
        await finished_run(ledger, currency="GBP", request_id=unique("run"))
    ).payouts_created == 1
    await make_marks(ledger.engine)


@pytest.fixture(scope="module")
async def names(booked: Database) -> dict[str, str]:
    """What the braces in a Damage stand for."""
    url = booked.migration_url
    names = {
        row[0]: str(row[1])
        for row in await query(url, "SELECT event_id, transaction_id FROM processor_events")
    }
    rows = await query(
        url,
        "SELECT a.restaurant_id || '.' || p.sequence, p.payout_id, p.transaction_id, "
        "p.payout_run_id, paid.event_id,"
        " failed.event_id FROM payouts AS p JOIN balance_accounts AS a ON a.balance_account_id = "
        "p.balance_account_id"
        " LEFT JOIN processor_events AS paid ON paid.payout_id = p.payout_id::text AND paid.type = "
        "'payout_paid'"
        " LEFT JOIN processor_events AS failed ON failed.payout_id = p.payout_id::text AND "
        "failed.type = 'payout_failed'",
    )
    for name, *values in rows:
        for suffix, value in zip(
            ("", ".transaction", ".run", ".paid", ".failed"), values, strict=True
        ):
            names[name + suffix] = str(value)
    rows = await query(
        url,
        "SELECT a.restaurant_id || '.snapshot.' || row_number() OVER (PARTITION BY "
        "a.balance_account_id ORDER BY s.horizon),"
        " s.horizon::text FROM balance_snapshots AS s JOIN balance_accounts AS a USING "
        "(balance_account_id)",
    )
    rows += await query(
        url,
        "SELECT a.restaurant_id || '.mark.' || row_number() OVER (PARTITION BY "
        "a.balance_account_id ORDER BY m.horizon),"
        " m.horizon::text FROM statement_marks AS m JOIN balance_accounts AS a USING "
        "(balance_account_id)",
    )
    return (
        names
        | {name: horizon for name, horizon in rows}
        | {"database": make_url(url).database or ""}
    )


def filled_in(text: str, names: dict[str, str]) -> str:
    """`text` with its braces replaced."""
    return re.sub(r"\{([a-z_.0-9]+)\}", lambda found: names[found[1]], text)


async def run_script(url: str, script: str) -> None:
    """Runs statements in one transaction."""
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with autocommit(engine) as connection:
            await connection.execute(script)
    finally:
        await engine.dispose()


async def findings_after(database: Database, damage: str, check: str) -> list[Row]:
    """What a check returns once the damage is done, which is then taken back."""
    engine = create_async_engine(database.migration_url, poolclass=NullPool)
    try:
        async with autocommit(engine) as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                await connection.execute(damage)
                return list(await connection.fetch(CHECKS[check]))
            finally:
                await transaction.rollback()
    finally:
        await engine.dispose()


async def audit_of(url: str) -> AuditReport:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        return await audit(engine)
    finally:
        await engine.dispose()


async def test_audit_is_silent_on_books_in_order(ledger: RunningLedger) -> None:
    """Every type of event booked through the service: no error and no warning, and every check of
    the file was made.
    """
    await book_everything(ledger)
    report = await audit(ledger.engine)
    assert report.checks == tuple(CHECKS)
    assert report.findings == ()


async def test_audit_is_silent_on_archived_runs(booked: Database, names: dict[str, str]) -> None:
    """A run whose items are in an archive is as good as one that has them, to every check about
    runs.
    """
    for check in (
        OF_RUN,
        RUN_ITEMS,
        AGREED,
        "ended_runs_have_their_items",
        "archives_are_finished",
    ):
        older = "UPDATE balance_accounts SET created_at = created_at - interval '1 hour';"
        assert (
            await findings_after(booked, UNGUARD + older + filled_in(ARCHIVED, names), check) == []
        )


async def test_audit_is_silent_on_empty_books(database: Database) -> None:
    """A database that was only migrated is in order."""
    assert (await audit_of(database.migration_url)).findings == ()


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
async def test_check_finds_damage(booked: Database, names: dict[str, str], damage: Damage) -> None:
    """The check names exactly what was damaged, with its severity, and says something about it."""
    sql = filled_in(damage.sql, names)
    found = await findings_after(
        booked, sql if damage in DAMAGE_TO_GUARDS else UNGUARD + sql, damage.check
    )
    assert {row["entity"] for row in found} == {
        filled_in(entity, names) for entity in damage.entities
    }
    assert {row["severity"] for row in found} == {damage.severity.value}
    assert all(row["detail"] for row in found)


@pytest.mark.parametrize("damage", DAMAGE_TO_ROLES, ids=str)
async def test_check_finds_roles_that_grew(booked: Database, damage: Damage) -> None:
    """A role that became mighty, or is gone, is named once, and not once for every privilege that
    follows from it.
    """
    rows = await findings_after(booked, damage.sql, damage.check)
    assert [(row["entity"], row["severity"]) for row in rows] == [(damage.entities[0], "ERROR")]


def test_every_check_has_a_case() -> None:
    """No check goes without a proof that it fires, and no case is about a check that is gone."""
    assert {damage.check for damage in DAMAGE} == set(CHECKS)


def test_statement_names_its_check() -> None:
    """The rows of a check carry the name in its heading."""
    assert [
        name for name, statement in CHECKS.items() if f"'{name}' AS check_name" not in statement
    ] == []


def test_semicolon_of_a_comment_ends_no_statement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The comment of a check may be several sentences joined by semicolons."""
    script = tmp_path / "invariants.sql"
    script.write_text("-- check: one\n-- It proves this;\n-- and that.\nSELECT 1\n  -- here;\n;\n")
    monkeypatch.setattr(
        "ledger.infrastructure.postgres.verification.audit.resource", lambda *_: script
    )
    (check,) = load_checks()
    assert check.statement == "-- It proves this;\n-- and that.\nSELECT 1\n  -- here;"


def values_of(check: str, name: str) -> str:
    """The lines of the VALUES list called `name` in a check."""
    found = re.search(
        rf"\b{name} \([a-z_, ]+\) AS \(\n  VALUES\n(.*?)\n\)", CHECKS[check], re.DOTALL
    )
    assert found is not None
    return found[1]


def test_posting_rules_are_those_of_the_code() -> None:
    """The VALUES list of the check is what the posting rules of the domain say, line by line."""
    lines = [
        f"    ('{event_type}', {position}, '{rule.entry_type}', '{rule.debit}', '{rule.credit}', "
        f"'{rule.amount.value}')"
        for event_type, rules in EVENT_POSTING_RULES.items()
        for position, rule in enumerate(rules, 1)
    ]
    # Long lines of the list go on in the next line.
    assert values_of(RULES, "rule").replace("\n     ", " ") == ",\n".join(lines)


def test_payout_posting_rules_are_those_of_the_code() -> None:
    """The VALUES lists of the check: what each state posts, and the states that a payout went
    through to get there.
    """
    lines = [
        f"    ('{state}', '{rule.entry_type}', '{rule.debit}', '{rule.credit}')"
        for state, rule in PAYOUT_POSTING_RULES.items()
    ]
    assert values_of(STATES, "rule") == ",\n".join(lines)
    # The first way there is: the other one posts what a state before it does.
    before = {after: state for (state, _), after in reversed(MOVES.items())}
    lines = []
    for state in PayoutState:
        passed = [state]
        while passed[0] in before:
            passed.insert(0, before[passed[0]])
        lines += [f"    ('{state}', '{earlier}')" for earlier in passed]
    assert values_of(STATES, "path") == ",\n".join(lines)


def test_only_the_last_rule_of_an_event_is_of_its_fee() -> None:
    """The check takes the place of a rule for the position of its entry: a fee that is not posted
    must leave no gap.
    """
    for rules in EVENT_POSTING_RULES.values():
        assert all(rule.amount is Amount.AMOUNT for rule in rules[:-1])


def test_chart_of_accounts_is_that_of_the_code() -> None:
    """The VALUES list of the check is the chart with its normal sides."""
    lines = [f"    ('{account}', '{side}')" for account, side in NORMAL_SIDE.items()]
    assert values_of("balance_sheets_close", "chart") == ",\n".join(lines)


def test_currencies_and_event_types_are_those_of_the_code() -> None:
    """The lists in the checks are the currencies and the event types of the domain."""
    listed = re.findall(
        r"\b[A-Z]{3}\b", "".join(re.findall(r"'((?:[A-Z]{3} ?)+)'", CHECKS["currencies_are_known"]))
    )
    assert listed == sorted(EXPONENT_BY_CURRENCY)
    types = re.findall(r"'([a-z_]+)'", CHECKS["event_types_are_known"].partition("HAVING")[2])
    assert types == [event_type.value for event_type in EventType]


async def test_constraints_listed_are_those_of_the_schema(booked: Database) -> None:
    """The list in the check is every constraint that the migrations made, in order."""
    rows = await query(
        booked.migration_url,
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE connamespace = "
        "'public'::regnamespace "
        "AND contype IN ('c', 'f', 'p', 'u', 'x') AND conrelid <> 'alembic_version'::regclass",
    )
    lines = [f"    ('{table}', '{constraint}')" for table, constraint in sorted(rows)]
    assert values_of(CONSTRAINTS, "wanted") == ",\n".join(lines)


async def test_triggers_listed_are_those_of_the_schema(booked: Database) -> None:
    """The check lists every trigger, in order, as the migrations made it."""
    rows = await query(
        booked.migration_url,
        "SELECT t.tgrelid::regclass::text, t.tgname::text, p.proname::text, t.tgtype, "
        "t.tgenabled::text,"
        " quote_literal(COALESCE(substring(pg_get_triggerdef(t.oid) FROM 'WHEN (.*) EXECUTE "
        "FUNCTION'), ''))"
        " FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal",
    )
    lines = [
        f"    ('{table}', '{name}', '{function}', {kind}, '{enabled}',"
        # Long ones go on in the next line, as literals of SQL may.
        + (" ''" if condition == "''" else "\n     " + condition.replace(" OR (", "'\n     ' OR ("))
        + ")"
        for table, name, function, kind, enabled, condition in sorted(rows)
    ]
    assert values_of(TRIGGERS, "wanted") == ",\n".join(lines)


async def test_unique_indexes_listed_are_those_of_the_schema(booked: Database) -> None:
    """The check lists every unique partial index, in order, with its condition."""
    rows = await query(
        booked.migration_url,
        "SELECT indrelid::regclass::text, indexrelid::regclass::text, "
        "quote_literal(pg_get_expr(indpred, indrelid)) FROM pg_index"
        " WHERE indisunique AND indpred IS NOT NULL AND indrelid IN (SELECT oid FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace)",
    )
    lines = [f"    ('{table}', '{index}', {condition})" for table, index, condition in sorted(rows)]
    assert values_of(CONSTRAINTS, "unique_where") == ",\n".join(lines)


async def test_views_listed_are_those_of_the_schema(booked: Database) -> None:
    """The list in the check names every view; that it has their definitions, silent audits show."""
    rows = await query(
        booked.migration_url,
        "SELECT relname::text FROM pg_class"
        " WHERE relkind = 'v' AND relnamespace = 'public'::regnamespace ORDER BY relname",
    )
    listed = re.findall(r"^    \('(\w+)',$", values_of(VIEWS, "wanted"), re.MULTILINE)
    assert listed == [name for (name,) in rows]


async def test_statements_that_read_entries_sign_amounts_as_the_view_does(booked: Database) -> None:
    """The expression of the hot SQL gives the same as ledger_movements, for every account."""
    for account in NORMAL_SIDE:
        signed = signed_minor(account)
        of_entries, of_view, other = (
            f"SELECT transaction_id, position, {signed} FROM ledger_entries AS e"
            f" WHERE {signed} IS NOT NULL",
            "SELECT transaction_id, position, signed_minor FROM ledger_movements"
            f" WHERE ledger_account = '{account}'",
            f"SELECT count(*) FROM ledger_entries AS e WHERE {signed_minor(account, '0')} = 0",
        )
        url = booked.migration_url
        found = sorted(await query(url, of_entries))
        assert found == sorted(await query(url, of_view)) != []
        ((total,),) = await query(url, "SELECT count(*) FROM ledger_entries")
        assert await query(url, other) == [(total - len(found),)]


def test_functions_listed_are_those_that_the_schema_grants() -> None:
    """The lists in the check are the functions that the migrations grant the two roles by name."""
    of_app, of_both = (
        set(re.findall(r"'(\w+\(.*?\))'", listed))
        for listed in re.findall(r"f\.called IN \((.*?')\)", CHECKS[NEEDS], re.DOTALL)
    )
    granted: dict[str, set[str]] = {"ledger_app": set(), "ledger_read": set()}
    for privilege in privileges():
        if privilege.kind == "FUNCTION":
            granted[privilege.role].add(f"{privilege.name}({privilege.arguments})")
    assert of_both == granted["ledger_read"]
    assert of_app == granted["ledger_app"] - of_both


async def test_nullable_columns_listed_are_those_of_the_schema(booked: Database) -> None:
    """The list in the check is every column that may be NULL, in order."""
    rows = await query(
        booked.migration_url,
        "SELECT table_name::text, column_name::text FROM information_schema.columns "
        "JOIN information_schema.tables USING (table_schema, table_name) "
        "WHERE table_schema = 'public' AND is_nullable = 'YES' AND table_type = 'BASE TABLE'",
    )
    assert values_of(CONSTRAINTS, "nullable") == ",\n".join(
        f"    ('{table}', '{column}')" for table, column in sorted(rows)
    )


async def test_findings_without_a_name_are_told(
    copy_of_books: Callable[[], Awaitable[str]],
) -> None:
    """Damage that leaves nothing to name a row by is reported all the same."""
    url = await copy_of_books()
    await run_script(
        url,
        UNGUARD + "ALTER TABLE ledger_entries ALTER transaction_id DROP NOT NULL;"
        "UPDATE ledger_entries SET transaction_id = NULL WHERE event_id = 'evt_fee'",
    )
    found = [finding.entity for finding in (await audit_of(url)).findings if finding.check == AGREE]
    assert found == ["(nameless)"]


async def test_privileges_listed_are_held(booked: Database) -> None:
    """The check allows nothing that the migrations did not grant."""
    for role, table, privilege, column in re.findall(
        r"\('(\w+)', '(\w+)', '(\w+)', '(\w*)'\)", values_of(ROLES, "allowed")
    ):
        asked = f"has_column_privilege('{role}', '{table}', '{column}', '{privilege}')"
        if not column:
            # INSERT may be held on some columns only.
            asked = f"has_any_column_privilege('{role}', '{table}', '{privilege}')"
        assert await query(booked.migration_url, f"SELECT {asked}") == [(True,)], (
            role,
            table,
            privilege,
            column,
        )


async def test_findings_are_bounded(copy_of_books: Callable[[], Awaitable[str]]) -> None:
    """Of many findings the first are listed, in order, with the number of the others."""
    url = await copy_of_books()
    await run_script(
        url,
        UNGUARD + "INSERT INTO balance_accounts (restaurant_id, currency)"
        " SELECT 'res_lost_' || lpad(n::text, 4, '0'), 'PEN' FROM generate_series(1, "
        f"{FINDINGS_PER_CHECK_MAX + 42}) AS n",
    )
    found = [
        finding
        for finding in (await audit_of(url)).findings
        if finding.check == "balance_accounts_have_a_restaurant"
    ]
    names = [f"account res_lost_{number:04}/PEN" for number in range(1, FINDINGS_PER_CHECK_MAX + 1)]
    assert [finding.entity for finding in found[:-1]] == names
    assert (found[-1].severity, found[-1].entity, found[-1].detail) == (
        ERROR,
        "more",
        "42 more like these",
    )


async def test_audit_is_silent_while_events_are_booked(ledger: RunningLedger) -> None:
    """Audits made while batches of events are being booked see whole transactions only."""
    booked_count = 0
    is_over = False

    async def book(restaurant_id: str) -> None:
        nonlocal booked_count
        while not is_over:
            events = [
                event_message(restaurant_id=restaurant_id, amount_minor=100, fee_minor=3)
                for _ in range(20)
            ]
            booked_count += len(await ledger.ingest(*events))

    writers = [asyncio.create_task(book(f"res_{number}")) for number in range(4)]
    audits_under_load = 0
    try:
        async with asyncio.timeout(60):
            while audits_under_load < 4:
                before = booked_count
                report = await audit(ledger.engine)
                assert report.findings == ()
                audits_under_load += booked_count > before
    finally:
        is_over = True
        await asyncio.gather(*writers)
    assert (await audit(ledger.engine)).findings == ()


@pytest.mark.parametrize("role", ["ledger_read", "ledger_app", "ledger_owner"])
async def test_audit_runs_as_every_role(booked: Database, role: str) -> None:
    """The role that may read the tables can audit them."""
    engine = create_engine(booked.migration_url, pool_size=1, role=role)
    try:
        assert (await audit(engine)).findings == ()
    finally:
        await engine.dispose()


# The first check of a session waits, for longer than a busy machine takes for anything else.
ONE_LONG_WAIT = """
CREATE FUNCTION wait_once() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('test.waited', true) IS DISTINCT FROM 'yes' THEN
    PERFORM set_config('test.waited', 'yes', false), pg_sleep(2);
  END IF;
END
$$;
"""


async def test_audit_outlasts_the_timeouts_of_the_sessions(
    copy_of_books: Callable[[], Awaitable[str]],
) -> None:
    """A check that takes longer than a statement of the service may is finished all the same."""
    url = await copy_of_books()
    await run_script(
        url,
        "ALTER TABLE restaurants RENAME TO restaurants_kept;"
        + ONE_LONG_WAIT
        + "CREATE VIEW restaurants AS"
        " SELECT kept.* FROM restaurants_kept AS kept CROSS JOIN wait_once() AS waited",
    )
    engine: AsyncEngine = create_async_engine(
        url,
        poolclass=NullPool,
        connect_args={
            "command_timeout": 1.5,
            "server_settings": {"statement_timeout": "1500ms", "jit": "off"},
        },
    )
    report = await audit(engine)
    await engine.dispose()
    assert report.checks == tuple(CHECKS)


async def test_unreachable_database_is_unavailable() -> None:
    """No server at the address: DatabaseUnavailable."""
    engine = create_engine("postgresql+asyncpg://ledger_read@127.0.0.1:1/ledger", pool_size=1)
    with pytest.raises(DatabaseUnavailable):
        await audit(engine)
    await engine.dispose()


async def test_psql_runs_the_file(
    booked: Database, copy_of_books: Callable[[], Awaitable[str]]
) -> None:
    """Run by psql, the file prints nothing of books in order, and the same rows of others."""
    clean = run_file(booked.migration_url, "invariants.sql")
    assert (clean.returncode, clean.stdout, clean.stderr) == (0, "", "")
    url = await copy_of_books()
    await run_script(url, "GRANT DELETE ON ledger_entries TO ledger_app")
    damaged = run_file(url, "invariants.sql")
    assert (damaged.returncode, damaged.stderr) == (0, "")
    assert damaged.stdout.splitlines() == [
        "|".join((ROLES, "ERROR", "role ledger_app", "may DELETE ledger_entries"))
    ]
