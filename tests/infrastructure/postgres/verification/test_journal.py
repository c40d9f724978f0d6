"""Readings of the books: one database snapshot, and no more than it may see."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.books import book, superuser
from support.events import event_message, processor_event
from support.running import RunningLedger

from ledger.bootstrap.database import Database
from ledger.domain.journals import Holder, JournalEntry, Scope, TrialBalanceLine
from ledger.errors import AccountNotFound, DatabaseUnavailable, RestaurantNotFound
from ledger.infrastructure.postgres.sessions.engine import EITHER_ROLE, create_engine
from ledger.infrastructure.postgres.verification import journal
from ledger.infrastructure.postgres.verification.journal import BooksReading, read_books

ALL = Scope()
# As a transaction that began before the instant of the reading and commits after it.
WRITE_ENTRY = """
INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type, debit_account,
  credit_account, amount_minor, occurred_at, recorded_at, event_id)
SELECT balance_account_id, gen_random_uuid(), 1, 'REFUND', 'restaurant_payable',
  'processor_clearing', 7, $2, $2, 'evt_late'
FROM balance_accounts WHERE restaurant_id = $1
"""


async def entries_of(reading: BooksReading) -> list[JournalEntry]:
    return [entry async for page in reading.entries() for entry in page]


async def balances_of(engine: AsyncEngine, scope: Scope = ALL) -> Counter[str]:
    """The closing balances by ledger account, of a reading by itself."""
    async with read_books(engine, scope, first_day=None, end_day=None, zone=UTC) as reading:
        return closing_of(await reading.trial_balance())


def closing_of(lines: list[TrialBalanceLine]) -> Counter[str]:
    closing: Counter[str] = Counter()
    for line in lines:
        closing[line.ledger_account] += line.closing_minor
    return closing


def moved_by(entries: list[JournalEntry]) -> Counter[str]:
    """What entries add to the ledger accounts."""
    moved: Counter[str] = Counter()
    for entry in entries:
        moved[entry.debit_account] += entry.amount_minor
        moved[entry.credit_account] -= entry.amount_minor
    return moved


async def test_trial_balance_and_journal_agree_while_events_are_booked(
    ledger: RunningLedger,
) -> None:
    """All that a reading returns is of one instant, whatever is committed in the meantime."""
    await ledger.ingest(event_message(amount_minor=500, fee_minor=5))
    async with read_books(ledger.engine, ALL, first_day=None, end_day=None, zone=UTC) as reading:
        lines = await reading.trial_balance()
        await ledger.ingest(event_message(amount_minor=900, restaurant_id="res_new"))
        assert closing_of(lines) == moved_by(await entries_of(reading))
        holders = [found async for found in reading.holders()]
        assert [found.holder for found in holders] == [Holder("res_001")]
        assert closing_of(holders[0].lines) == closing_of(lines)
    assert (await balances_of(ledger.engine))["processor_clearing"] == 1_400


async def test_late_commit_is_seen_once_it_is_committed(database: Database) -> None:
    """A transaction that began before a reading and is still open is not in it, then it is."""
    engine = create_engine(database.url, pool_size=2)
    try:
        await book(engine, processor_event(amount_minor=500))
        began_at = datetime.now(UTC) - timedelta(seconds=1)
        async with superuser(database) as connection:
            async with connection.transaction():
                await connection.execute(WRITE_ENTRY, "res_001", began_at)
                assert (await balances_of(engine))["processor_clearing"] == 500
            assert (await balances_of(engine))["processor_clearing"] == 493
    finally:
        await engine.dispose()


async def test_reading_writes_nothing(shared_ledger: RunningLedger) -> None:
    """Its transaction is read-only."""
    async with read_books(
        shared_ledger.engine, ALL, first_day=None, end_day=None, zone=UTC
    ) as reading:
        shown = await reading._connection.fetchval("SHOW transaction_read_only")
        assert shown == "on"


async def test_unknown_holders_are_refused(shared_ledger: RunningLedger) -> None:
    """As elsewhere, so that a misspelt id is no empty report."""
    with pytest.raises(RestaurantNotFound):
        await balances_of(shared_ledger.engine, Scope(restaurant_id="res_9"))
    with pytest.raises(AccountNotFound):
        await balances_of(shared_ledger.engine, Scope(account_id="acc_9"))


async def test_reference_is_that_of_the_event(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked up page by page."""
    monkeypatch.setattr(journal, "PAGE_ROWS", 2)
    events = [event_message(reference=f"pay {number}", fee_minor=1) for number in range(5)]
    await ledger.ingest(*events)
    async with read_books(
        ledger.engine, ALL, first_day=date(2025, 1, 1), end_day=None, zone=UTC
    ) as reading:
        found = {entry.event_id: entry.reference for entry in await entries_of(reading)}
    assert found == {event.event_id: event.reference for event in events}


@pytest.mark.parametrize("role", ["ledger_app", "ledger_read", EITHER_ROLE])
async def test_roles_of_servers_and_of_reports_may_read(ledger: RunningLedger, role: str) -> None:
    await ledger.ingest(event_message(amount_minor=500, fee_minor=5, reference="x"))
    engine = create_engine(ledger.database.migration_url, pool_size=1, role=role)
    try:
        async with read_books(engine, ALL, first_day=None, end_day=None, zone=UTC) as reading:
            assert await reading.currencies() == ["PEN"]
            assert closing_of(await reading.trial_balance()) == moved_by(await entries_of(reading))
            assert len([page async for page in reading.lines_of_holders()]) == 1
            assert len([found async for found in reading.holders()]) == 1
    finally:
        await engine.dispose()


async def test_unreachable_database_is_reported() -> None:
    engine = create_engine("postgresql+asyncpg://ledger_read@127.0.0.1:1/ledger", pool_size=1)
    with pytest.raises(DatabaseUnavailable):
        await balances_of(engine)
    await engine.dispose()
