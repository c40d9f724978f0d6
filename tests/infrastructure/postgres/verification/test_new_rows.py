"""Checks of what is new: silent on books in order, and they find damage to new rows."""

import random
import re

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from support.damage.case import UNGUARD, Damage
from support.damage.every import DAMAGE, filled_in, findings_after
from support.damage.guards import DAMAGE_TO_GUARDS
from support.running import query

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.verification.audit import (
    audit,
    finding_query,
    load_checks,
)

POSITIONS = 10
BY_NAME = {check.name: check for check in load_checks()}


async def test_silent_since_any_position(booked: Database, seed: int) -> None:
    """From whatever transaction on, what is new in books in order breaks no check.

    From the first, from the last, and from others, which differ in each run.
    """
    url = booked.migration_url
    positions = [
        row[0]
        for row in await query(
            url,
            "SELECT DISTINCT recorded_txid::text::bigint FROM ledger_entries"
            " UNION SELECT recorded_txid::text::bigint FROM processor_events"
            " UNION SELECT recorded_txid::text::bigint FROM payment_operations"
            " UNION SELECT written_txid::text::bigint FROM balance_snapshots"
            " UNION SELECT written_txid::text::bigint FROM statement_marks ORDER BY 1",
        )
    ]
    others = random.Random(seed).sample(positions[1:-1], POSITIONS - 2)
    engine = create_async_engine(url, pool_size=1)
    try:
        for position in (positions[0], *sorted(others), positions[-1]):
            report = await audit(engine, position=position)
            assert (position, report.findings) == (position, ())
    finally:
        await engine.dispose()


@pytest.fixture(scope="module")
async def txids(booked: Database) -> dict[str, int]:
    """The txid that recorded what a Damage names: an event, a payout, a payment, an operation."""
    rows = await query(
        booked.migration_url,
        "SELECT event_id, recorded_txid::text::bigint FROM processor_events"
        " UNION ALL SELECT payment_id, recorded_txid::text::bigint FROM payments"
        " UNION ALL SELECT operation_id, recorded_txid::text::bigint FROM payment_operations"
        " WHERE operation_id IS NOT NULL"
        " UNION ALL SELECT payment_id || '.' || sequence, recorded_txid::text::bigint"
        " FROM payment_operations"
        " UNION ALL SELECT p.payout_id::text, e.recorded_txid::text::bigint FROM payouts AS p"
        " JOIN ledger_entries AS e ON e.transaction_id = p.transaction_id"
        " UNION ALL SELECT p.payout_run_id::text, min(e.recorded_txid::text::bigint)"
        " FROM payouts AS p JOIN ledger_entries AS e ON e.transaction_id = p.transaction_id"
        " GROUP BY p.payout_run_id",
    )
    return dict(rows)


def position_of(damage: Damage, names: dict[str, str], txids: dict[str, int]) -> int:
    """The lowest txid of what the damage names: everything before it is old.

    Some damage gives a row the txid 7.
    """
    words = re.findall(r"[A-Za-z0-9_.-]+", damage.sql + filled_in(damage.sql, names))
    named = [txids[word] for word in words if word in txids]
    return min(named + [7] * ("'7'" in damage.sql), default=1)


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
async def test_check_finds_damage_to_new_rows(
    booked: Database, names: dict[str, str], txids: dict[str, int], damage: Damage
) -> None:
    """If what was damaged is new, the check of what is new names it as the check of all does."""
    check = BY_NAME[damage.check]
    sql = filled_in(damage.sql, names)
    found = await findings_after(
        booked,
        sql if damage in DAMAGE_TO_GUARDS else UNGUARD + sql,
        finding_query(check, position_of(damage, names, txids)),
    )
    assert {row["entity"] for row in found} == {
        filled_in(entity, names) for entity in damage.entities
    }
