"""Compares the books with the callers' records. Shares only the contract with the service."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from support.audit import audit_of
from support.model import ModelBalance, model_balances
from support.running import RunningLedger, query, running_ledger
from support.seals import seal_everything

from faults.journal import Call, Contents, Journal, Reply
from faults.payment_judge import doubled_payments, lost_payments, wrong_payments
from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.infrastructure.postgres.verification.seal_audit import verify_chain
from ledger.v1 import ledger_pb2

SEAL_SECONDS = 120.0
MATURITY = timedelta(days=7)
PAYOUT_TYPES = (
    "payout_paid",
    "payout_failed",
    "payout_submitted",
    "payout_canceled",
    "payout_referenced",
)
# The entries of an event without a fee and with one.
ENTRIES_BY_TYPE = {
    "dispute_opened": (2, 3),
    "dispute_won": (2, 2),
    "charge_succeeded": (1, 2),
    "payout_submitted": (0, 0),
    "payout_referenced": (0, 0),
    "charge_reversed": (1, 2),
}

# A payment after the failure of its payout posts nothing. One query: it counts an event that is
# booked at the same time with its entries, or not at all.
_STORED = """
WITH entries AS (
  SELECT event_id, count(*) AS entries, count(DISTINCT transaction_id) AS transactions
  FROM ledger_entries WHERE event_id IS NOT NULL GROUP BY event_id
)
SELECT v.event_id, v.transaction_id::text, v.type = 'payout_paid' AND r.payout_id IS NOT NULL,
       COALESCE(e.entries, 0), COALESCE(e.transactions, 0),
       v.type, v.restaurant_id, v.currency, v.amount_minor, v.fee_minor, v.occurred_at,
       COALESCE(v.payout_id, ''), v.reference, v.available_at, COALESCE(v.processor_fee_minor, 0)
FROM processor_events AS v
LEFT JOIN entries AS e USING (event_id)
LEFT JOIN (
  SELECT payout_id::text FROM ledger_entries WHERE entry_type = 'PAYOUT_REVERSAL'
) AS r ON r.payout_id = v.payout_id
"""
_PAYOUTS = """
SELECT a.restaurant_id, a.currency, p.state, sum(p.amount_minor)::bigint
FROM payouts AS p JOIN balance_accounts AS a USING (balance_account_id) GROUP BY 1, 2, 3
"""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of processor_events and how many entries name it."""

    contents: Contents
    transaction_id: str
    is_late_payment: bool
    entries: int
    transactions: int

    @property
    def entries_expected(self) -> int:
        if self.is_late_payment:
            return 0
        plain, with_fee = ENTRIES_BY_TYPE.get(self.contents.type, (1, 1))
        # The processor's fee has one more.
        is_costing = self.contents.processor_fee_minor > 0
        return (with_fee if self.contents.fee_minor else plain) + is_costing


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of judging the books."""

    calls: int
    unknown_calls: int
    acked: int
    # Payments and operations that were decided.
    paid: int
    lost: int
    doubled: int
    reads: int
    # Those that servers made during the fault.
    seals: int
    gap_seconds: float
    violations: tuple[str, ...]


async def judge(database: Database, journal: Journal) -> Verdict:
    """Reads all rows, and every balance from a new server. No other session may write."""
    stored = await stored_events(database)
    calls = defaultdict[str, list[Call]](list)
    for call in journal.calls:
        calls[call.event_id].append(call)
    lost = sorted(event_id for event_id in journal.acknowledged_at if event_id not in stored)
    doubled = sorted(_doubled(stored, calls))
    violations = list(dict.fromkeys(journal.violations))
    violations += [f"H1: {event_id} was acknowledged and is not stored" for event_id in lost]
    violations += [f"H3: {event_id} is booked twice, or was CREATED twice" for event_id in doubled]
    violations += _unsent(stored, journal)
    for event_id, replies in calls.items():
        violations += _wrong_replies(replies, stored.get(event_id))
    violations += [
        f"a call ended with {code.name}"
        for code in journal.forbidden_codes
        if code.name in journal.codes
    ]
    async with running_ledger(database) as ledger:
        violations += await wrong_balances(ledger, stored.values())
        if journal.payments.orders:
            lost += await lost_payments(ledger, journal)
            doubled += doubled_payments(journal)
        violations += await wrong_payments(ledger, journal)
    report = await audit_of(database)
    violations += [
        f"audit: {finding.check}: {finding.entity} {finding.detail}" for finding in report.errors
    ]
    if not report.checks:
        violations.append("the audit checked nothing")
    ((seals,),) = await query(database.migration_url, "SELECT count(*) FROM ledger_seals")
    violations += await wrong_seals(database)
    unknown = sum(call.reply is Reply.UNKNOWN for call in journal.calls)
    return Verdict(
        len(journal.calls),
        unknown,
        len(journal.acknowledged_at),
        len(journal.payments.answered),
        len(lost),
        len(doubled),
        journal.reads,
        int(seals),
        journal.longest_gap_seconds,
        tuple(violations),
    )


async def stored_events(database: Database) -> dict[str, StoredEvent]:
    """Every event that is stored, by its id."""
    rows = await query(database.migration_url, _STORED)
    return {
        event_id: StoredEvent(Contents(*contents), transaction_id, is_late, entries, transactions)
        for event_id, transaction_id, is_late, entries, transactions, *contents in rows
    }


def _doubled(stored: dict[str, StoredEvent], calls: dict[str, list[Call]]) -> Iterator[str]:
    for event_id in stored.keys() | calls.keys():
        created = sum(call.reply is Reply.CREATED for call in calls.get(event_id, ()))
        event = stored.get(event_id)
        booked_twice = event is not None and (
            event.entries > event.entries_expected or event.transactions > 1
        )
        if created > 1 or booked_twice:
            yield event_id


def _unsent(stored: dict[str, StoredEvent], journal: Journal) -> Iterator[str]:
    for event_id, event in stored.items():
        if event.contents not in journal.intents.get(event_id, ()):
            yield f"H2: {event_id} is stored with contents that no caller sent"
        if event.entries < event.entries_expected:
            yield (
                f"H1: {event_id} is stored and has {event.entries} entries"
                f" instead of {event.entries_expected}"
            )


def _wrong_replies(calls: list[Call], event: StoredEvent | None) -> Iterator[str]:
    """Replies about one event that cannot be true."""
    event_id = calls[0].event_id
    counts = Counter(call.reply for call in calls)
    if counts[Reply.DUPLICATE] and not counts[Reply.CREATED] and not counts[Reply.UNKNOWN]:
        yield f"H4: {event_id} is a duplicate without an earlier call"
    if event is not None and not any(
        counts[known] for known in (Reply.CREATED, Reply.DUPLICATE, Reply.CONFLICT, Reply.UNKNOWN)
    ):
        yield f"H4: {event_id} is stored, and every call for it was refused"
    for call in calls:
        if call.reply is Reply.CONFLICT and (event is None or call.contents == event.contents):
            yield f"H7: {event_id} was a conflict with its own contents"
        if call.reply in (Reply.CREATED, Reply.DUPLICATE) and event is not None:
            if call.contents != event.contents:
                yield f"H7: {event_id} was acknowledged with contents that are not stored"
            if call.transaction_id != event.transaction_id:
                yield f"H1: {event_id} was acknowledged with another transaction id than it has"


async def wrong_balances(ledger: RunningLedger, stored: Iterable[StoredEvent]) -> list[str]:
    """H6: balances that differ from the model of the stored events and payouts."""
    events = [
        _message(number, event.contents)
        for number, event in enumerate(stored)
        if event.contents.type not in PAYOUT_TYPES
    ]
    model = model_balances(events, datetime.now(UTC), MATURITY)
    reserved = Counter[tuple[str, str]]()
    for restaurant_id, currency, state, amount_minor in await query(
        ledger.database.migration_url, _PAYOUTS
    ):
        if state in ("CREATED", "SUBMITTED", "PAID"):
            model[restaurant_id, currency].available_minor -= amount_minor
        if state in ("CREATED", "SUBMITTED"):
            reserved[restaurant_id, currency] += amount_minor
    room = asyncio.Semaphore(32)

    # The platform has no balance that a caller may read.
    model = {account: expected for account, expected in model.items() if account[0]}

    async def read(restaurant_id: str, currency: str) -> tuple[ModelBalance, int]:
        async with room:
            response = await ledger.balance(restaurant_id, currency)
        balance = ModelBalance(
            response.available_minor,
            response.pending_minor,
            response.disputed_minor,
            response.reserve_held_minor,
        )
        return balance, response.reserved_minor

    wrong = []
    balances = await asyncio.gather(*(read(*account) for account in model))
    for account, expected, (balance, reserved_minor) in zip(
        model, model.values(), balances, strict=True
    ):
        # The model has no payout events, which may be a restaurant's latest.
        expected.last_event_at = None
        if (balance, reserved_minor) != (expected, reserved[account]):
            wrong.append(
                f"H6: {account} has {balance}, {reserved_minor} reserved;"
                f" expected {expected}, {reserved[account]}"
            )
    return wrong


async def wrong_seals(database: Database) -> list[str]:
    """What is wrong with the chain of seals.

    It must continue what servers have sealed, cover every row once, and match every row.
    """
    try:
        await seal_everything(database.url, timeout_seconds=SEAL_SECONDS)
    except TimeoutError:
        return [f"chain: the books could not be sealed in {SEAL_SECONDS:.0f} s"]
    engine = create_engine(database.url, pool_size=1)
    try:
        report = await verify_chain(engine)
    finally:
        await engine.dispose()
    wrong = [f"chain: {finding.entity} {finding.detail}" for finding in report.audit.errors]
    if report.unsealed_count:
        wrong.append(f"chain: {report.unsealed_count} rows are in no seal")
    return wrong


def _message(number: int, contents: Contents) -> ledger_pb2.ProcessorEvent:
    occurred_at = Timestamp()
    occurred_at.FromDatetime(contents.occurred_at)
    available_at = None
    if contents.available_at is not None:
        available_at = Timestamp()
        available_at.FromDatetime(contents.available_at)
    return ledger_pb2.ProcessorEvent(
        # The model forgets repeats of an id; what is stored has none.
        event_id=str(number),
        type=ledger_pb2.EventType.Value(f"EVENT_TYPE_{contents.type.upper()}"),
        restaurant_id=contents.restaurant_id,
        currency=contents.currency,
        amount_minor=contents.amount_minor,
        fee_minor=contents.fee_minor,
        occurred_at=occurred_at,
        available_at=available_at,
        processor_fee_minor=contents.processor_fee_minor,
    )
