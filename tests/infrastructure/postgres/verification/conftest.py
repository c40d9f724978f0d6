"""The books that the audit's tests damage."""

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import pytest
from sqlalchemy import make_url
from support.audited_books import book_everything
from support.damage.every import end_sessions
from support.running import execute_alone, query, running_ledger

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.schema.migrations import database_url


@pytest.fixture(scope="module")
async def booked(new_database: Callable[[], Awaitable[Database]]) -> AsyncIterator[Database]:
    """Books with every event, written by the service; unchanged."""
    database = await new_database()
    async with running_ledger(database) as ledger:
        await book_everything(ledger)
    yield database
    await end_sessions(database)


@pytest.fixture(scope="module")
async def copy_of_books(
    server_url: str, booked: Database
) -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Makes copies of those books; each a superuser's URL."""
    numbers = count(1)
    name = make_url(booked.migration_url).database
    copies: list[str] = []

    async def copy() -> str:
        await end_sessions(booked)
        copies.append(f"{name}_{next(numbers)}")
        await execute_alone(server_url, f"CREATE DATABASE {copies[-1]} TEMPLATE {name}")
        return database_url(server_url, database=copies[-1])

    yield copy
    for made in copies:
        await execute_alone(server_url, f"DROP DATABASE IF EXISTS {made} WITH (FORCE)")


@pytest.fixture(scope="module")
async def names(booked: Database) -> dict[str, str]:
    """What the braces in a Damage stand for."""
    url = booked.migration_url
    names = {
        row[0]: str(row[1])
        for row in await query(
            url,
            "SELECT event_id, transaction_id::text FROM processor_events"
            " UNION ALL SELECT payment_id, transaction_id::text FROM payments"
            " UNION ALL SELECT operation_id, transaction_id::text FROM payment_operations"
            " WHERE operation_id IS NOT NULL"
            " UNION ALL SELECT account_id, balance_account_id::text FROM balance_accounts"
            " WHERE account_id IS NOT NULL",
        )
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
        "SELECT COALESCE(a.restaurant_id, a.account_id) || '.snapshot.' || row_number() OVER"
        " (PARTITION BY a.balance_account_id ORDER BY s.horizon),"
        " s.horizon::text FROM balance_snapshots AS s JOIN balance_accounts AS a USING "
        "(balance_account_id)",
    )
    rows += await query(
        url,
        "SELECT COALESCE(a.restaurant_id, a.account_id) || '.mark.' || row_number() OVER"
        " (PARTITION BY a.balance_account_id ORDER BY m.horizon),"
        " m.horizon::text FROM statement_marks AS m JOIN balance_accounts AS a USING "
        "(balance_account_id)",
    )
    return (
        names
        | {name: horizon for name, horizon in rows}
        | {"database": make_url(url).database or ""}
    )
