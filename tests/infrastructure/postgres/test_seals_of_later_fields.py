"""Fields that events have had since revision 0032 are sealed; older servers seal none of them."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import asyncpg
import pytest
from support.events import event_message
from support.payout_runs import answer, finished_run
from support.running import RunningLedger, query, running_ledger
from support.seals import copy_of, findings_of, run_unguarded, seal_everything, verify

from ledger.bootstrap.database import Database
from ledger.domain.events import LATER_FIELDS
from ledger.domain.seals import EVENTS_VERSION
from ledger.infrastructure.postgres import seals
from ledger.infrastructure.postgres.verification.seal_audit import ROWS
from ledger.v1 import ledger_pb2

AVAILABLE_AT = datetime(2025, 12, 3, tzinfo=UTC)
# Another value of each field than that of the event that has it.
CHANGES = {
    "available_at": "'2025-12-04T00:00:00Z'",
    "processor_fee_minor": "31",
    "bank_reference": "'TRACE-2'",
    "failure_code": "'AC05'",
    "failure_text": "'another reason'",
}


async def book(ledger: RunningLedger) -> None:
    """An event without later fields, and events that have each of them."""
    await ledger.ingest(
        event_message(event_id="evt_plain", restaurant_id="res_c", amount_minor=500),
        event_message(
            event_id="evt_terms",
            restaurant_id="res_a",
            available_at=AVAILABLE_AT,
            processor_fee_minor=30,
        ),
    )
    await finished_run(ledger)
    await answer(
        ledger,
        "res_c",
        ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
        bank_reference="TRACE-1",
        failure_code="AC04",
        failure_text="the account is closed",
    )


@pytest.fixture(scope="module")
async def sealed(new_database: Callable[[], Awaitable[Database]]) -> Database:
    database = await new_database()
    async with running_ledger(database) as ledger:
        await book(ledger)
    await seal_everything(database.migration_url)
    return database


async def test_books_in_order_verify(sealed: Database) -> None:
    report = await verify(sealed.migration_url)
    assert (report.audit.findings, report.unsealed_count) == ((), 0)


def test_every_later_field_is_tried() -> None:
    assert tuple(CHANGES) == LATER_FIELDS


@pytest.mark.parametrize("field", LATER_FIELDS)
@pytest.mark.parametrize("kind", ["changed", "removed", "added"])
async def test_change_of_a_later_field_is_named(
    sealed: Database, server_url: str, field: str, kind: str
) -> None:
    """Another value, none, and one on an event that had none: it is of another version then."""
    value = "NULL" if kind == "removed" else CHANGES[field]
    async with copy_of(sealed.migration_url, server_url) as url:
        ((changed,),) = await query(
            url, f"SELECT event_id FROM processor_events WHERE {field} IS NOT NULL"
        )
        if kind == "added":
            changed = "evt_plain"
        table = "ALTER TABLE processor_events DROP CONSTRAINT processor_events_"
        await run_unguarded(
            url,
            f"{table}terms_check;"
            f" UPDATE processor_events SET {field} = {value} WHERE event_id = '{changed}'",
        )
        (found,) = findings_of(await verify(url), ROWS)
    assert found.startswith(f"event {changed} was changed")


async def test_earlier_server_seals_no_event_with_later_fields(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database refuses its seal; one over other events it takes, and a newer server seals."""
    named = ", events_version)"
    values = f", true, {EVENTS_VERSION}"
    assert named in seals.INSERT_SEALS
    assert values in seals.INSERT_SEALS
    of_earlier = seals.INSERT_SEALS.replace(named, ")").replace(values, ", true")
    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        await ledger.ingest(event_message(event_id="evt_first", restaurant_id="res_b"))
        with monkeypatch.context() as patch:
            patch.setattr(seals, "INSERT_SEALS", of_earlier)
            await seal_everything(database.url)
            assert await ledger.query("SELECT count(*) FROM ledger_seals") == [(1,)]
            await book(ledger)
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="later seal"):
                await seal_everything(database.url)
        assert await ledger.query("SELECT count(*) FROM ledger_seals") == [(1,)]
        await seal_everything(database.url)
    report = await verify(database.url)
    assert (report.audit.findings, report.unsealed_count) == ((), 0)
