"""The audit: silent on books in order, and each check finds the damage that it is there for."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from support.audited_books import book_everything
from support.damage.case import ARCHIVED, CHECKS, ERROR, UNGUARD, WARNING, Damage
from support.damage.events import AGREE
from support.damage.every import DAMAGE, filled_in, findings_after
from support.damage.guards import DAMAGE_TO_GUARDS, DAMAGE_TO_ROLES, ROLES
from support.damage.payouts import AGREED, OF_RUN, RUN_ITEMS
from support.events import event_message
from support.psql import run_file
from support.running import RunningLedger

from ledger.bootstrap.database import Database
from ledger.domain.audit import AuditReport
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.infrastructure.postgres.verification.audit import (
    FINDINGS_PER_CHECK_MAX,
    audit,
)
from ledger.v1 import ledger_pb2


async def run_script(url: str, script: str) -> None:
    """Runs statements in one transaction."""
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with autocommit(engine) as connection:
            await connection.execute(script)
    finally:
        await engine.dispose()


async def audit_of(url: str) -> AuditReport:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        return await audit(engine)
    finally:
        await engine.dispose()


async def test_audit_is_silent_on_books_in_order(ledger: RunningLedger) -> None:
    """Every type of event, and payments of every kind, booked through the service: no error and no
    warning, and every check of the file was made.
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
            await findings_after(
                booked, UNGUARD + older + filled_in(ARCHIVED, names), CHECKS[check]
            )
            == []
        )


async def test_audit_is_silent_on_empty_books(database: Database) -> None:
    """A database that was only migrated is in order."""
    assert (await audit_of(database.migration_url)).findings == ()


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
async def test_check_finds_damage(booked: Database, names: dict[str, str], damage: Damage) -> None:
    """The check names exactly what was damaged, with its severity, and says something about it."""
    sql = filled_in(damage.sql, names)
    found = await findings_after(
        booked, sql if damage in DAMAGE_TO_GUARDS else UNGUARD + sql, CHECKS[damage.check]
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
    rows = await findings_after(booked, damage.sql, CHECKS[damage.check])
    assert [(row["entity"], row["severity"]) for row in rows] == [(damage.entities[0], "ERROR")]


def test_every_check_has_a_case() -> None:
    """No check goes without a proof that it fires, and no case is about a check that is gone."""
    assert {damage.check for damage in DAMAGE} == set(CHECKS)


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


async def test_what_the_processor_owes_is_one_finding_a_currency(ledger: RunningLedger) -> None:
    """It says how much is open, and from which day to which, however many days are."""
    settled = event_message(
        ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED, restaurant_id="", currency="MXN", amount_minor=150
    )
    charges = [event_message(currency="MXN", amount_minor=100) for _ in range(3)]
    for day, charge in enumerate(charges, start=1):
        charge.occurred_at.FromJsonString(f"2025-12-0{day}T10:00:00Z")
    assert all(
        result.status == ledger_pb2.INGEST_STATUS_CREATED
        for result in await ledger.ingest(settled, *charges)
    )
    found = [
        (finding.severity, finding.entity, finding.detail)
        for finding in (await audit_of(ledger.database.migration_url)).findings
        if finding.check == "processor_has_settled"
    ]
    says = "the processor has not settled 150 of what it came to owe from 2025-12-02 to 2025-12-03"
    assert found == [(WARNING, "currency MXN", says)]


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
        if finding.check == "balance_accounts_have_a_holder"
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
                for _ in range(5)
            ]
            booked_count += len(await ledger.ingest(*events))
            # The rest of the machine is for the audit.
            await asyncio.sleep(0.02)

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
