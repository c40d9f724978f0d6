"""`ledger doctor` reports whether a server can run on the database."""

import json

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.commands import run_command
from support.running import query, role_settings

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.infrastructure.postgres.verification.doctor import (
    CHECKS,
    DURABLE,
    RESTRICTED,
    Fitness,
    examine,
)


@pytest.fixture
def configured(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Settings that name the database."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
    monkeypatch.setenv("LEDGER_REQUIRE_DURABLE_DATABASE", "false")
    for name, value in role_settings(database).items():
        monkeypatch.setenv(name, value)
    return database


async def test_fit_database_is_fit(configured: Database) -> None:
    """Every check is named, nothing is broken, and the status is 0."""
    outcome = await run_command("doctor")
    assert outcome.status == ExitStatus.DONE, outcome.stderr
    assert all(check in outcome.stdout for check in CHECKS)
    assert "nothing broken" in outcome.stdout


async def test_broken_check_has_a_remedy(configured: Database) -> None:
    """For programs, too; the exit status is that of a refusal."""
    await query(configured.migration_url, "REVOKE INSERT ON payout_items FROM ledger_app")
    outcome = await run_command("doctor", "--json")
    assert outcome.status == ExitStatus.REFUSED
    shown = json.loads(outcome.stdout)
    assert shown["broken"] == 1
    (broken,) = [check for check in shown["checks"] if check["status"] == "broken"]
    assert "INSERT on payout_items" in broken["detail"]
    assert "ledger migrate" in broken["remedy"]


async def test_check_that_the_database_refuses_hides_no_other(configured: Database) -> None:
    """The check of privileges, not that of clocks, names a function that the role may not call."""
    await query(
        configured.migration_url, "REVOKE EXECUTE ON FUNCTION ledger_now() FROM PUBLIC, ledger_app"
    )
    outcome = await run_command("doctor", "--json")
    assert outcome.status == ExitStatus.REFUSED, outcome.stderr
    broken = {
        check["check"]: check
        for check in json.loads(outcome.stdout)["checks"]
        if check["status"] == "broken"
    }
    assert "EXECUTE on ledger_now" in broken["the role may do what it has to"]["detail"]
    assert "permission denied for function ledger_now" in broken["clocks agree"]["detail"]


async def test_schema_that_the_role_may_not_use_is_named(
    configured: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not reported as missing: `ledger migrate` would report that it is up to date."""
    await query(
        configured.migration_url,
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC, ledger_app, ledger_read",
    )
    outcome = await run_command("doctor", "--json")
    assert outcome.status == ExitStatus.REFUSED, outcome.stderr
    (broken,) = [
        check for check in json.loads(outcome.stdout)["checks"] if check["status"] == "broken"
    ]
    assert "USAGE on schema public" in broken["detail"]
    refused = await run_command("migrate")
    assert refused.status == ExitStatus.REFUSED
    assert "LEDGER_MIGRATION_DATABASE_URL must name a superuser" in refused.stderr
    monkeypatch.setenv("LEDGER_MIGRATION_DATABASE_URL", configured.migration_url)
    assert (await run_command("migrate")).status == ExitStatus.DONE
    assert (await run_command("doctor")).status == ExitStatus.DONE


async def test_role_that_may_not_connect_is_named_with_the_missing_right(
    configured: Database,
) -> None:
    """`ledger migrate` does not grant it: another role may be meant to log in."""
    if configured.url == configured.migration_url:
        pytest.skip("the tests log in as a superuser")
    name = configured.url.partition("?")[0].rpartition("/")[2]
    await query(configured.migration_url, f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    outcome = await run_command("doctor")
    assert outcome.status == ExitStatus.UNREACHABLE
    assert outcome.stderr.splitlines() == [
        outcome.stderr.splitlines()[0],
        "  as a superuser, GRANT CONNECT ON DATABASE … TO the role that logs in",
    ]
    assert outcome.stderr.splitlines()[0].endswith("; User does not have CONNECT privilege.")


async def test_database_out_of_reach_has_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """3, and nothing on standard output."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    outcome = await run_command("doctor")
    assert (outcome.status, outcome.stdout) == (ExitStatus.UNREACHABLE, "")


async def test_check_that_times_out_is_a_warning(database: Database) -> None:
    """The results of the other checks are still shown."""
    engine = create_engine(database.url, pool_size=2, lock_timeout_seconds=1)
    locking = create_async_engine(database.migration_url, poolclass=NullPool)
    try:
        async with locking.connect() as connection:
            await connection.execute(text("LOCK TABLE ledger_entries IN ACCESS EXCLUSIVE MODE"))
            conditions = await examine(engine, not_required=frozenset((DURABLE, RESTRICTED)))
            await connection.rollback()
    finally:
        await engine.dispose()
        await locking.dispose()
    assert [condition.check for condition in conditions] == list(CHECKS)
    late = [
        condition.check
        for condition in conditions
        if condition.detail.startswith("no answer in time")
    ]
    assert late == ["transaction numbers are past"]
    assert Fitness.BROKEN not in {condition.fitness for condition in conditions}
