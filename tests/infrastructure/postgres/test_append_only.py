"""Append-only tables are only added to, and payouts only move: by privilege and by trigger."""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from support.audit import assert_books_in_order
from support.events import event_message
from support.paying import MANUAL, open_account, order, timestamp
from support.payout_runs import finished_run
from support.running import query, running_ledger
from support.seals import seal_everything
from support.snapshots import make_marks, take_snapshots

from ledger.bootstrap.database import Database
from ledger.domain.payments import PaymentState
from ledger.domain.payout_states import MOVES, PayoutState
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.verification.verifications import verify_books
from ledger.v1 import payment_pb2

# Statements, each with the table that it would change.
CHANGES = (
    ("processor_events", "UPDATE processor_events SET amount_minor = amount_minor + 1"),
    ("processor_events", "UPDATE processor_events SET reference = reference WHERE false"),
    ("processor_events", "DELETE FROM processor_events"),
    ("processor_events", "TRUNCATE processor_events"),
    (
        "processor_events",
        "MERGE INTO processor_events USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    ),
    (
        "processor_events",
        "INSERT INTO processor_events SELECT stored.* FROM processor_events AS stored"
        " ON CONFLICT (event_id) DO UPDATE SET amount_minor = 1",
    ),
    ("ledger_entries", "UPDATE ledger_entries SET amount_minor = amount_minor + 1"),
    ("ledger_entries", "UPDATE ledger_entries SET available_at = NULL WHERE false"),
    ("ledger_entries", "DELETE FROM ledger_entries"),
    ("ledger_entries", "TRUNCATE ledger_entries"),
    (
        "ledger_entries",
        "MERGE INTO ledger_entries USING (SELECT 1) AS one ON true WHEN MATCHED THEN UPDATE SET "
        "amount_minor = 1",
    ),
    (
        "ledger_entries",
        "INSERT INTO ledger_entries SELECT stored.* FROM ledger_entries AS stored"
        " ON CONFLICT ON CONSTRAINT ledger_entries_pkey DO UPDATE SET amount_minor = 1",
    ),
    ("payout_items", "UPDATE payout_items SET amount_minor = amount_minor + 1"),
    ("payout_items", "UPDATE payout_items SET counted_minor = counted_minor WHERE false"),
    ("payout_items", "DELETE FROM payout_items"),
    ("payout_items", "TRUNCATE payout_items"),
    (
        "payout_items",
        "MERGE INTO payout_items USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    ),
    ("ledger_seals", "UPDATE ledger_seals SET sealed_at = now()"),
    ("ledger_seals", "DELETE FROM ledger_seals"),
    ("ledger_seals", "TRUNCATE ledger_seals"),
    (
        "ledger_seals",
        "MERGE INTO ledger_seals USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    ),
    ("ledger_stays", "UPDATE ledger_stays SET system_identifier = system_identifier"),
    ("ledger_stays", "DELETE FROM ledger_stays"),
    ("ledger_stays", "TRUNCATE ledger_stays"),
    ("ledger_verifications", "UPDATE ledger_verifications SET errors_count = errors_count"),
    ("ledger_verifications", "DELETE FROM ledger_verifications"),
    ("ledger_verifications", "TRUNCATE ledger_verifications"),
    ("audit_log", "UPDATE audit_log SET identity = 'another', credential = 'token'"),
    ("audit_log", "UPDATE audit_log SET outcome = outcome WHERE false"),
    ("audit_log", "DELETE FROM audit_log"),
    ("audit_log", "TRUNCATE audit_log"),
    ("audit_log", "MERGE INTO audit_log USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE"),
    ("archived_ranges", "UPDATE archived_ranges SET file_name = file_name"),
    ("archived_ranges", "DELETE FROM archived_ranges"),
    ("archived_ranges", "TRUNCATE archived_ranges CASCADE"),
    ("archived_run_outcomes", "UPDATE archived_run_outcomes SET items_count = 1"),
    ("archived_run_outcomes", "DELETE FROM archived_run_outcomes"),
    ("payout_run_items", "DELETE FROM payout_run_items"),
    (
        "payout_run_items",
        "MERGE INTO payout_run_items USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
    ),
    ("payout_run_items", "TRUNCATE payout_run_items"),
    ("balance_accounts", "DELETE FROM balance_accounts"),
    ("balance_accounts", "DELETE FROM balance_accounts WHERE false"),
    ("balance_accounts", "TRUNCATE balance_accounts CASCADE"),
    ("payouts", "DELETE FROM payouts"),
    ("payouts", "DELETE FROM payouts WHERE false"),
    ("payouts", "TRUNCATE payouts CASCADE"),
    ("payouts", "MERGE INTO payouts USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE"),
)

# Changes of any column but the state, and of the state together with another column.
CHANGES_TO_PAYOUTS = (
    "UPDATE payouts SET amount_minor = amount_minor + 1",
    "UPDATE payouts SET amount_minor = 1, state = 'PAID'",
    "UPDATE payouts SET available_minor = available_minor + 1",
    "UPDATE payouts SET balance_account_id = balance_account_id + 1",
    "UPDATE payouts SET payout_id = gen_random_uuid()",
    "UPDATE payouts SET payout_run_id = gen_random_uuid()",
    "UPDATE payouts SET sequence = sequence + 1",
    "UPDATE payouts SET as_of = as_of - 1",
    "UPDATE payouts SET cutoff_at = cutoff_at - interval '1 day'",
    "UPDATE payouts SET transaction_id = gen_random_uuid()",
    "UPDATE payouts SET created_at = now()",
    "INSERT INTO payouts SELECT stored.* FROM payouts AS stored ON CONFLICT (payout_id) DO UPDATE "
    "SET amount_minor = 1",
    "MERGE INTO payouts USING (SELECT 1) AS one ON true WHEN MATCHED THEN UPDATE SET amount_minor "
    "= 1",
)

# Changes of a finished run and of its item with an outcome, including changes to the same value.
CHANGES_TO_RUNS = (
    (
        "payout_run_items",
        "UPDATE payout_run_items SET outcome = 'OPEN', skip_reason = NULL, payout_id = NULL",
    ),
    (
        "payout_run_items",
        "UPDATE payout_run_items SET outcome = 'SKIPPED', skip_reason = 'INACTIVE', payout_id = "
        "NULL",
    ),
    ("payout_run_items", "UPDATE payout_run_items SET outcome = outcome"),
    (
        "payout_run_items",
        "INSERT INTO payout_run_items SELECT stored.* FROM payout_run_items AS stored"
        " ON CONFLICT (payout_run_id, restaurant_id) DO UPDATE SET outcome = 'OPEN', payout_id = "
        "NULL",
    ),
    (
        "payout_run_items",
        "MERGE INTO payout_run_items USING (SELECT 1) AS one ON true"
        " WHEN MATCHED THEN UPDATE SET outcome = 'OPEN', payout_id = NULL",
    ),
    ("payout_runs", "UPDATE payout_runs SET state = 'RUNNING', finished_at = NULL"),
    ("payout_runs", "UPDATE payout_runs SET finished_at = now()"),
    ("payout_runs", "UPDATE payout_runs SET state = state"),
    (
        "payout_runs",
        "MERGE INTO payout_runs USING (SELECT 1) AS one ON true WHEN MATCHED THEN UPDATE SET "
        "finished_at = now()",
    ),
)

# Changes of the identity or the terms of a run and its item, while it runs and the item is open.
CHANGES_OF_TERMS = (
    ("payout_run_items", "UPDATE payout_run_items SET outcome = 'OPEN'"),
    (
        "payout_run_items",
        "UPDATE payout_run_items SET restaurant_id = 'res_x', outcome = 'SKIPPED', skip_reason = "
        "'FAILED'",
    ),
    (
        "payout_run_items",
        "UPDATE payout_run_items SET balance_account_id = 7, outcome = 'SKIPPED', skip_reason = "
        "'FAILED'",
    ),
    (
        "payout_run_items",
        "UPDATE payout_run_items SET payout_run_id = gen_random_uuid(), outcome = 'SKIPPED', "
        "skip_reason = 'FAILED'",
    ),
    ("payout_runs", "UPDATE payout_runs SET payout_run_id = gen_random_uuid()"),
    ("payout_runs", "UPDATE payout_runs SET currency = 'USD'"),
    ("payout_runs", "UPDATE payout_runs SET as_of = as_of - 1"),
    ("payout_runs", "UPDATE payout_runs SET cutoff_at = cutoff_at - interval '1 day'"),
    ("payout_runs", "UPDATE payout_runs SET min_amount_minor = min_amount_minor + 1"),
    (
        "payout_runs",
        "UPDATE payout_runs SET request_id = 'another', state = 'SUCCEEDED', finished_at = now()",
    ),
    ("payout_runs", "UPDATE payout_runs SET created_at = created_at + interval '1 day'"),
)

# A run that was started beside the finished one, with the same restaurant: its id is 0...2.
OPEN_RUN = "00000000-0000-0000-0000-000000000002"
BEGIN_RUN = f"""
INSERT INTO payout_runs (payout_run_id, currency, as_of, cutoff_at, min_amount_minor, request_id)
SELECT '{OPEN_RUN}', currency, as_of, cutoff_at, min_amount_minor, 'open' FROM payout_runs;
INSERT INTO payout_run_items (payout_run_id, restaurant_id, balance_account_id)
SELECT '{OPEN_RUN}', restaurant_id, balance_account_id FROM payout_run_items
"""

STATES = [state.value for state in PayoutState]
ALLOWED_MOVES = {(before.value, after.value) for (before, _), after in MOVES.items()}

# One more payout, with the id 0...1 and the given items, of the run that is under way, else of the
# one that has ended. One statement, as the service writes it.
NEW_PAYOUT = """
WITH paid AS (
  INSERT INTO payouts (payout_id, payout_run_id, balance_account_id, sequence, amount_minor,
    available_minor, as_of, cutoff_at,
                       transaction_id)
  SELECT '00000000-0000-0000-0000-000000000001',
         COALESCE((SELECT payout_run_id FROM payout_runs WHERE state = 'RUNNING'), payout_run_id),
           balance_account_id,
         sequence + 1, 100, 100, as_of + 1, cutoff_at, gen_random_uuid()
  FROM payouts
)
INSERT INTO payout_items (payout_id, entry_type, counted_minor, amount_minor)
SELECT '00000000-0000-0000-0000-000000000001', entry_type, 0, amount_minor
FROM (VALUES {items}) AS i (entry_type, amount_minor)
WHERE amount_minor IS NOT NULL
"""

# Other attempts of the application: turning the guards off, and changing what it may only read or
# add to.
NOT_FOR_THE_APPLICATION = (
    "ALTER TABLE processor_events DISABLE TRIGGER ALL",
    "ALTER TABLE ledger_entries DISABLE TRIGGER ledger_entries_deny_change",
    "DROP TRIGGER ledger_entries_deny_change ON ledger_entries",
    "CREATE OR REPLACE FUNCTION deny_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN "
    "NULL; END'",
    "SET session_replication_role = replica",
    "DROP TABLE ledger_entries",
    "CREATE TABLE another (id bigint)",
    "UPDATE restaurants SET restaurant_id = 'res_x'",
    "UPDATE restaurants SET created_at = now()",
    "DELETE FROM restaurants",
    "TRUNCATE restaurants CASCADE",
    "UPDATE balance_accounts SET balance_account_id = DEFAULT",
    "UPDATE balance_accounts SET restaurant_id = restaurant_id",
    "UPDATE balance_accounts SET currency = currency",
    "UPDATE balance_accounts SET created_at = now()",
    "DELETE FROM balance_accounts",
    "TRUNCATE balance_accounts CASCADE",
    "INSERT INTO balance_accounts (restaurant_id, currency) VALUES ('res_001', 'PEN')"
    " ON CONFLICT (restaurant_id, currency) DO UPDATE SET currency = 'USD'",
    "UPDATE payouts SET amount_minor = amount_minor",
    "UPDATE payouts SET state = 'PAID', amount_minor = 1",
    "ALTER TABLE payouts DISABLE TRIGGER payouts_check_move",
    "ALTER TABLE payouts DISABLE TRIGGER payouts_check_items",
    "ALTER TABLE payouts DISABLE TRIGGER payouts_check_run",
    "CREATE OR REPLACE FUNCTION check_payout_move() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN "
    "RETURN NEW; END'",
    "DROP INDEX payouts_in_flight_key",
    "UPDATE payout_runs SET cutoff_at = now()",
    "UPDATE payout_runs SET min_amount_minor = 0",
    "DELETE FROM payout_runs",
    "TRUNCATE payout_runs CASCADE",
    "UPDATE payout_run_progress SET last_balance_account_id = 0",
    "DELETE FROM payout_run_progress",
    "TRUNCATE payout_run_progress",
    "UPDATE payout_run_items SET restaurant_id = 'res_x'",
    "UPDATE payout_run_items SET balance_account_id = 1",
    "INSERT INTO archived_ranges (archive_id, kind, from_at, before_at, rows_count, file_name, "
    "file_bytes, file_sha256)"
    " VALUES (gen_random_uuid(), 'audit_log', '-infinity', 'infinity', 1, 'f', 1, sha256(''))",
    "INSERT INTO archived_run_outcomes SELECT payout_run_id, outcome, '', 1, payout_run_id FROM "
    "payout_run_items",
    "UPDATE balance_snapshots SET total_minors = total_minors",
    "DELETE FROM balance_snapshots",
    "TRUNCATE balance_snapshots",
    "UPDATE statement_marks SET payable_minor = 0",
    "DELETE FROM statement_marks",
    "TRUNCATE statement_marks",
    "ALTER TABLE ledger_seals DISABLE TRIGGER ledger_seals_deny_change",
    "DROP INDEX ledger_entries_recorded_txid_idx",
    "UPDATE alembic_version SET version_num = '0000'",
    "SET ROLE ledger_owner",
)

FOR_THE_APPLICATION = (
    "UPDATE restaurants SET name = 'Chifa', active = false, maturity_days = 3, metadata = '{}', "
    "updated_at = now()",
    "UPDATE balance_accounts SET lock_pad = false",
    "SELECT FROM balance_accounts ORDER BY balance_account_id FOR NO KEY UPDATE",
    "UPDATE payouts SET state = 'PAID'",
    "SELECT FROM payouts FOR NO KEY UPDATE",
    "UPDATE payout_runs SET state = 'CANCELED', finished_at = now() WHERE payout_run_id = "
    f"'{OPEN_RUN}'",
    "UPDATE payout_run_items SET outcome = 'SKIPPED', skip_reason = 'FAILED' WHERE payout_run_id "
    f"= '{OPEN_RUN}'",
)

TABLES = (
    "restaurants",
    "balance_accounts",
    "processor_events",
    "ledger_entries",
    "payout_runs",
    "payout_run_progress",
    "payouts",
    "payout_items",
    "payout_run_items",
    "balance_snapshots",
    "statement_marks",
    "ledger_seals",
    "ledger_stays",
    "ledger_verifications",
    "audit_log",
    "archived_ranges",
    "alembic_version",
)
# Changes of accounts, payments and operations on payments that no role may make, each with what the
# refusal says.
IS_APPEND_ONLY = "is append-only"
NEW_HOLDERS = """
INSERT INTO accounts (account_id, currency, opened_with) VALUES ('acc_x', 'PEN', '{}');
INSERT INTO restaurants (restaurant_id) VALUES ('res_x')
"""
CANNOT = "cannot be changed so"
CHANGES_TO_PAYMENTS = (
    ("DELETE FROM accounts WHERE false", f"accounts {IS_APPEND_ONLY}"),
    ("TRUNCATE accounts CASCADE", f"accounts {IS_APPEND_ONLY}"),
    # An account without a balance account, which a foreign key would guard.
    (
        f"{NEW_HOLDERS}; UPDATE accounts SET account_id = 'acc_y' WHERE account_id = 'acc_x'",
        f"a row of accounts {CANNOT}",
    ),
    ("UPDATE accounts SET currency = 'USD'", f"a row of accounts {CANNOT}"),
    ("UPDATE accounts SET opened_with = '{}'", f"a row of accounts {CANNOT}"),
    ("UPDATE accounts SET created_at = now()", f"a row of accounts {CANNOT}"),
    (
        "UPDATE accounts SET state = 'OPEN' WHERE account_id = 'acc_closed'",
        f"a row of accounts {CANNOT}",
    ),
    (
        "UPDATE accounts SET name = 'again' WHERE account_id = 'acc_closed'",
        f"a row of accounts {CANNOT}",
    ),
    (
        f"{NEW_HOLDERS}; UPDATE balance_accounts SET account_id = 'acc_x'"
        " WHERE account_id = 'acc_closed'",
        f"a row of balance_accounts {CANNOT}",
    ),
    (
        f"{NEW_HOLDERS}; UPDATE balance_accounts SET account_id = NULL, restaurant_id = 'res_x'"
        " WHERE account_id = 'acc_closed'",
        f"a row of balance_accounts {CANNOT}",
    ),
    ("DELETE FROM payments", f"payments {IS_APPEND_ONLY}"),
    ("TRUNCATE payments CASCADE", f"payments {IS_APPEND_ONLY}"),
    ("UPDATE payments SET payment_id = payment_id || '_'", CANNOT),
    ("UPDATE payments SET amount_minor = amount_minor + 1", CANNOT),
    ("UPDATE payments SET fee_minor = 0 WHERE fee_minor > 0", CANNOT),
    ("UPDATE payments SET payee_balance_account_id = payee_balance_account_id + 1", CANNOT),
    ("UPDATE payments SET expires_at = NULL WHERE expires_at IS NOT NULL", CANNOT),
    ('UPDATE payments SET metadata = \'{"k": "v"}\'', CANNOT),
    ("UPDATE payments SET decline_reason = 'EXPIRED' WHERE state = 'DECLINED'", CANNOT),
    ("UPDATE payments SET recorded_at = now()", CANNOT),
    (
        "UPDATE payments SET captured_minor = captured_minor - 1 WHERE payment_id = 'pay_part'",
        CANNOT,
    ),
    (
        "UPDATE payments SET refunded_minor = refunded_minor - 1 WHERE payment_id = 'pay_back'",
        CANNOT,
    ),
    (
        "INSERT INTO payments SELECT stored.* FROM payments AS stored"
        " ON CONFLICT (payment_id) DO UPDATE SET amount_minor = 1",
        CANNOT,
    ),
    (
        "UPDATE payment_operations SET amount_minor = amount_minor",
        f"payment_operations {IS_APPEND_ONLY}",
    ),
    ("DELETE FROM payment_operations", f"payment_operations {IS_APPEND_ONLY}"),
    ("TRUNCATE payment_operations", f"payment_operations {IS_APPEND_ONLY}"),
)
# What the application may not even try.
PAYMENTS_NOT_FOR_THE_APPLICATION = (
    "UPDATE accounts SET currency = currency",
    "UPDATE accounts SET opened_with = opened_with",
    "DELETE FROM accounts",
    "UPDATE payments SET amount_minor = amount_minor",
    "UPDATE payments SET expires_at = expires_at",
    "DELETE FROM payments",
    "UPDATE payment_operations SET kind = kind",
    "DELETE FROM payment_operations",
    "UPDATE balance_accounts SET account_id = account_id",
    "INSERT INTO payments (payment_id, recorded_txid) VALUES ('pay', '5')",
    "INSERT INTO payment_operations (payment_id, recorded_at) VALUES ('pay', '2020-01-01')",
    "INSERT INTO accounts (account_id, created_at) VALUES ('acc', '2020-01-01')",
    "ALTER TABLE payments DISABLE TRIGGER payments_check_move",
    "DROP INDEX balance_accounts_account_id_key",
)
# Of a payment of 300 that was authorised, each with what captured_minor is there.
PAYMENT_STATES = {
    "AUTHORIZED": 0,
    "PARTIALLY_CAPTURED": 100,
    "CAPTURED": 200,
    "VOIDED": 0,
    "EXPIRED": 0,
}
PAYMENT_MOVES = {
    ("AUTHORIZED", "PARTIALLY_CAPTURED"),
    ("AUTHORIZED", "CAPTURED"),
    ("AUTHORIZED", "VOIDED"),
    ("AUTHORIZED", "EXPIRED"),
    # Another part, and a refund of one.
    ("PARTIALLY_CAPTURED", "PARTIALLY_CAPTURED"),
    ("PARTIALLY_CAPTURED", "CAPTURED"),
    # A refund.
    ("CAPTURED", "CAPTURED"),
}
# Tables from which no row may be removed.
GUARDED = (
    *sorted({table for table, change in CHANGES if change.startswith("DELETE")}),
    "payout_runs",
    "payout_run_progress",
)


@pytest.fixture(scope="module")
async def books(new_database: Callable[[], Awaitable[Database]]) -> AsyncIterator[Database]:
    """Books with one event and one payout, which must be in order when the tests are over."""
    database = await new_database()
    async with running_ledger(database, audit_log=True) as ledger:
        await ledger.ingest(event_message(amount_minor=1000, fee_minor=50))
        await finished_run(ledger)
        assert await take_snapshots(ledger.engine) == 1
        assert await make_marks(ledger.engine) == 1
        await seal_everything(database.url)
        assert (await verify_books(ledger.engine)).audit.errors == ()
    # It covers calls long before these, so that no row may be removed.
    await query(
        database.migration_url,
        "INSERT INTO archived_ranges (archive_id, kind, from_at, before_at, rows_count, file_name, "
        "file_bytes, file_sha256)"
        " VALUES (gen_random_uuid(), 'audit_log', '2001-01-01', '2001-02-01', 1, 'f', 1, "
        "sha256(''))",
    )
    yield database
    for engine in _engines.values():
        await engine.dispose()
    _engines.clear()
    counted = await query(
        database.migration_url,
        "SELECT (SELECT count(*) FROM processor_events), (SELECT sum(amount_minor) FROM "
        "ledger_entries),"
        " (SELECT sum(amount_minor) FROM payouts WHERE state = 'CREATED'), (SELECT "
        "sum(amount_minor) FROM payout_items)",
    )
    assert counted == [(1, 2000, 950, 950)]
    await assert_books_in_order(database)


@pytest.fixture(scope="module")
async def paid(new_database: Callable[[], Awaitable[Database]]) -> AsyncIterator[Database]:
    """Books with accounts and payments, which must be in order when the tests are over."""
    database = await new_database()
    async with running_ledger(database) as ledger:
        for account_id, limit_minor in (("acc_a", None), ("acc_b", 0), ("acc_closed", 0)):
            await open_account(ledger, account_id, limit_minor)
        await ledger.query(
            "UPDATE accounts SET state = 'CLOSED', updated_at = recorded_now()"
            " WHERE account_id = 'acc_closed'"
        )
        at_some_time = timestamp(time.time() + 86_400)
        for request in (
            order("pay_held", "acc_a", "acc_b", 300, capture=MANUAL, expires_at=at_some_time),
            order("pay_part", "acc_a", "acc_b", 300, capture=MANUAL),
            order("pay_back", "acc_a", "acc_b", 300),
            order("pay_fee", "acc_a", "", 300, fee_minor=3, payee_restaurant_id="res_paid"),
            order("pay_declined", "acc_b", "acc_a", 10**12),
        ):
            await ledger.payments.AuthorizePayment(request)
        await ledger.payments.CapturePayment(
            payment_pb2.CapturePaymentRequest(
                operation_id="op_part", payment_id="pay_part", amount_minor=100
            )
        )
        await ledger.payments.RefundPayment(
            payment_pb2.RefundPaymentRequest(
                operation_id="op_back", payment_id="pay_back", amount_minor=50
            )
        )
    yield database
    await assert_books_in_order(database)


@asynccontextmanager
async def session(
    database: Database, *, role: str | None = None, **parameters: str
) -> AsyncIterator[Any]:
    """A superuser's session, or that of `role`, with these parameters of PostgreSQL.

    What it does is rolled back. Hundreds of tests share a few sessions, which `books` ends.
    """
    if role is not None:
        parameters["role"] = role
    engine = _engine(database.migration_url, tuple(parameters.items()))
    async with autocommit(engine) as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield connection
        finally:
            await transaction.rollback()


_engines: dict[tuple[str, tuple[tuple[str, str], ...]], AsyncEngine] = {}


def _engine(url: str, parameters: tuple[tuple[str, str], ...]) -> AsyncEngine:
    """Keeps no prepared statement, as tests change tables."""
    if (url, parameters) not in _engines:
        _engines[url, parameters] = create_async_engine(
            url,
            pool_size=1,
            connect_args={
                "server_settings": dict(parameters),
                "command_timeout": 60,
                "statement_cache_size": 0,
            },
        )
    return _engines[url, parameters]


def names(case: object) -> str:
    return str(case)[:60]


@pytest.mark.parametrize(("table", "change"), CHANGES, ids=names)
async def test_application_may_not_change_what_was_recorded(
    books: Database, table: str, change: str
) -> None:
    """The application role has no such privilege."""
    async with session(books, role="ledger_app") as connection:
        with pytest.raises(
            asyncpg.InsufficientPrivilegeError, match=f"permission denied for table {table}"
        ):
            await connection.execute(change)


@pytest.mark.parametrize(("table", "change"), CHANGES, ids=names)
async def test_owner_may_not_change_what_was_recorded(
    books: Database, table: str, change: str
) -> None:
    """The owner of the tables has every privilege.

    The trigger still refuses the statement, even if it touches no row.
    """
    async with session(books, role="ledger_owner") as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"{table} is append-only"):
            await connection.execute(change)


@pytest.mark.parametrize("replication_role", ["origin", "replica"])
@pytest.mark.parametrize(("table", "change"), CHANGES, ids=names)
async def test_superuser_may_not_change_what_was_recorded(
    books: Database, table: str, change: str, replication_role: str
) -> None:
    """A superuser may not either, even in a session that turns ordinary triggers off."""
    async with session(books, session_replication_role=replication_role) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=f"{table} is append-only"):
            await connection.execute(change)


@pytest.mark.parametrize("replication_role", ["origin", "replica"])
@pytest.mark.parametrize("change", CHANGES_TO_PAYOUTS, ids=names)
async def test_no_role_changes_more_of_a_payout_than_its_state(
    books: Database, change: str, replication_role: str
) -> None:
    """The trigger refuses it to owner and superuser too.

    Also in a session that turns ordinary triggers off.
    """
    async with session(books, session_replication_role=replication_role) as connection:
        with pytest.raises(asyncpg.CheckViolationError, match="cannot be changed so"):
            await connection.execute(change)


@pytest.mark.parametrize("replication_role", ["origin", "replica"])
@pytest.mark.parametrize(
    "change", ["currency = 'USD'", "restaurant_id = 'res_other'", "balance_account_id = DEFAULT"]
)
async def test_no_role_gives_a_balance_account_to_another(
    books: Database, change: str, replication_role: str
) -> None:
    """Its entries would go with it: no foreign key guards them."""
    async with session(books, session_replication_role=replication_role) as connection:
        await connection.execute(
            "INSERT INTO restaurants (restaurant_id) VALUES ('res_moved'), ('res_other')"
        )
        # An account without payouts, which a foreign key would guard.
        await connection.execute(
            "INSERT INTO balance_accounts (restaurant_id, currency) VALUES ('res_moved', 'JPY')"
        )
        with pytest.raises(
            asyncpg.CheckViolationError, match="a row of balance_accounts cannot be changed so"
        ):
            await connection.execute(
                f"UPDATE balance_accounts SET {change} WHERE restaurant_id = 'res_moved'"
            )


@pytest.mark.parametrize("replication_role", ["origin", "replica"])
@pytest.mark.parametrize(("table", "change"), CHANGES_TO_RUNS, ids=names)
async def test_no_role_reopens_a_finished_run_or_item(
    books: Database, table: str, change: str, replication_role: str
) -> None:
    """A finished run and an item with an outcome do not change.

    Also in a session that turns ordinary triggers off.
    """
    async with session(books, session_replication_role=replication_role) as connection:
        with pytest.raises(
            asyncpg.CheckViolationError, match=f"a row of {table} cannot be changed so"
        ):
            await connection.execute(change)


@pytest.mark.parametrize("role", ["ledger_app", "ledger_owner"])
async def test_run_with_open_items_does_not_succeed(books: Database, role: str) -> None:
    """The run continues, whichever role sets it to SUCCEEDED, until its items are closed."""
    async with session(books, role=role) as connection:
        await connection.execute(BEGIN_RUN)
        run = f"WHERE payout_run_id = '{OPEN_RUN}'"
        ended = f"UPDATE payout_runs SET state = 'SUCCEEDED', finished_at = now() {run}"
        assert await connection.execute(ended) == "UPDATE 0"
        await connection.execute(
            f"UPDATE payout_run_items SET outcome = 'SKIPPED', skip_reason = 'FAILED' {run}"
        )
        assert await connection.execute(ended) == "UPDATE 1"


@pytest.mark.parametrize(("table", "change"), CHANGES_TO_RUNS[:3] + CHANGES_TO_RUNS[5:8], ids=names)
async def test_application_reopens_no_run_or_item(books: Database, table: str, change: str) -> None:
    """It may change states and outcomes, but not back."""
    async with session(books, role="ledger_app") as connection:
        with pytest.raises(
            asyncpg.CheckViolationError, match=f"a row of {table} cannot be changed so"
        ):
            await connection.execute(change)


@pytest.mark.parametrize(("table", "change"), CHANGES_OF_TERMS, ids=names)
async def test_no_role_changes_the_terms_of_a_run(books: Database, table: str, change: str) -> None:
    """An open item may only become closed.

    Its identity and the terms of its run do not change, in any session.
    """
    async with session(books, session_replication_role="replica") as connection:
        await connection.execute(BEGIN_RUN)
        with pytest.raises(
            asyncpg.CheckViolationError, match=f"a row of {table} cannot be changed so"
        ):
            await connection.execute(f"{change} WHERE payout_run_id = '{OPEN_RUN}'")


@pytest.mark.parametrize("role", ["ledger_app", "ledger_owner"])
@pytest.mark.parametrize("after", [*STATES, "LOST"])
@pytest.mark.parametrize("before", STATES)
async def test_payout_makes_only_the_moves_of_the_domain(
    books: Database, before: str, after: str, role: str
) -> None:
    """Any other move is refused, also one to the same state."""
    async with session(books) as connection:
        for state in {
            "CREATED": (),
            "SUBMITTED": ("SUBMITTED",),
            "CANCELED": ("CANCELED",),
            "PAID": ("PAID",),
            "FAILED": ("FAILED",),
            "RETURNED": ("PAID", "RETURNED"),
        }[before]:
            await connection.execute(f"UPDATE payouts SET state = '{state}'")
        await connection.execute(f"SET ROLE {role}")
        move = f"UPDATE payouts SET state = '{after}'"
        if (before, after) in ALLOWED_MOVES:
            assert await connection.execute(move) == "UPDATE 1"
        else:
            with pytest.raises(asyncpg.CheckViolationError, match="cannot be changed so"):
                await connection.execute(move)


@pytest.mark.parametrize("replication_role", ["origin", "replica"])
@pytest.mark.parametrize(("change", "refusal"), CHANGES_TO_PAYMENTS, ids=names)
async def test_no_role_changes_payments_or_whose_they_are(
    paid: Database, change: str, refusal: str, replication_role: str
) -> None:
    """Nor what an account was opened with, nor a closed one. No row is ever removed.

    Also in a session that turns ordinary triggers off.
    """
    async with session(paid, session_replication_role=replication_role) as connection:
        with pytest.raises(asyncpg.PostgresError, match=refusal):
            await connection.execute(change)


@pytest.mark.parametrize("statement", PAYMENTS_NOT_FOR_THE_APPLICATION, ids=names)
async def test_application_may_do_no_more_with_payments(paid: Database, statement: str) -> None:
    """It adds payments and operations, moves payments, and changes what callers may change."""
    async with session(paid, role="ledger_app") as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


@pytest.mark.parametrize("table", ["accounts", "payments", "payment_operations"])
async def test_reader_reads_payments(paid: Database, table: str) -> None:
    """And changes nothing."""
    async with session(paid, role="ledger_read") as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") > 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"INSERT INTO {table} SELECT stored.* FROM {table} AS stored")


@pytest.mark.parametrize("role", ["ledger_app", "ledger_owner"])
@pytest.mark.parametrize("after", [state.value for state in PaymentState])
@pytest.mark.parametrize("before", PAYMENT_STATES)
async def test_payment_makes_only_its_moves(
    paid: Database, before: str, after: str, role: str
) -> None:
    """A payment that was held. Any other move is refused, also one to the same state."""
    move = (
        "UPDATE payments SET state = '{}', captured_minor = GREATEST(captured_minor, {}),"
        " refunded_minor = {} WHERE payment_id = 'pay_held'"
    )
    async with session(paid) as connection:
        if before != "AUTHORIZED":
            await connection.execute(move.format(before, PAYMENT_STATES[before], 0))
        await connection.execute(f"SET ROLE {role}")
        # A refund, where something was captured.
        refunded = min(PAYMENT_STATES[before], 7)
        change = move.format(after, PAYMENT_STATES.get(after, 0), refunded)
        if (before, after) in PAYMENT_MOVES:
            assert await connection.execute(change) == "UPDATE 1"
        else:
            with pytest.raises(asyncpg.CheckViolationError, match=CANNOT):
                await connection.execute(change)


@pytest.mark.parametrize("state", ["CAPTURED", "AUTHORIZED", "VOIDED"])
async def test_declined_payment_stays_declined(paid: Database, state: str) -> None:
    """Nothing ever moves by it."""
    async with session(paid) as connection:
        with pytest.raises(asyncpg.CheckViolationError, match=CANNOT):
            await connection.execute(
                f"UPDATE payments SET state = '{state}' WHERE payment_id = 'pay_declined'"
            )


async def test_two_sides_that_do_not_agree_are_not_posted(paid: Database) -> None:
    """The statements that post entries of payments cast what interaccount is left with to a domain
    of zero alone.
    """
    async with session(paid, role="ledger_app") as connection:
        assert await connection.fetchval("SELECT 0::numeric::interaccount_rest") == 0
        with pytest.raises(asyncpg.CheckViolationError, match="interaccount_rest"):
            await connection.fetchval("SELECT (-1)::numeric::interaccount_rest")


async def test_account_has_one_balance_account_and_one_holder(paid: Database) -> None:
    """The keys and the CHECK refuse a second one, one of two holders, and two of the platform."""
    insert = "INSERT INTO balance_accounts (account_id, restaurant_id, currency) VALUES "
    for values, error in (
        ("('acc_a', NULL, 'PEN')", asyncpg.UniqueViolationError),
        ("('acc_a', NULL, 'USD')", asyncpg.UniqueViolationError),
        ("('acc_x', NULL, 'PEN')", asyncpg.ForeignKeyViolationError),
        ("('acc_a', 'res_paid', 'USD')", asyncpg.CheckViolationError),
        ("(NULL, NULL, 'PEN'), (NULL, NULL, 'PEN')", asyncpg.UniqueViolationError),
    ):
        async with session(paid, role="ledger_app") as connection:
            with pytest.raises(error):
                await connection.execute(insert + values)


@pytest.mark.parametrize("role", ["ledger_app", "ledger_owner"])
@pytest.mark.parametrize(
    ("items", "is_accepted"),
    [
        ("('CHARGE', 150), ('FEE', -50)", True),
        ("('CHARGE', 150), ('FEE', -49)", False),
        ("('CHARGE', 99)", False),
        ("('CHARGE', NULL::bigint)", False),
    ],
    ids=["adding up", "one too many", "one too few", "none"],
)
async def test_items_add_up_or_no_payout_is_written(
    books: Database, items: str, is_accepted: bool, role: str
) -> None:
    """A payout is written with items that add up to it or not at all."""
    async with session(books) as connection:
        await connection.execute("UPDATE payouts SET state = 'FAILED'")
        await connection.execute(BEGIN_RUN)
        await connection.execute(f"SET ROLE {role}")
        if is_accepted:
            assert await connection.execute(NEW_PAYOUT.format(items=items)) == "INSERT 0 2"
        else:
            with pytest.raises(asyncpg.CheckViolationError, match="do not add up to its amount"):
                await connection.execute(NEW_PAYOUT.format(items=items))


@asynccontextmanager
async def shadowed(database: Database, *, role: str) -> AsyncIterator[Any]:
    """A session of `role` with a temporary copy of each table, and a temporary clock.

    PostgreSQL looks there first. The copies show that everything is in an archive and that no run
    has open items, and the clock that it is 2099.
    """
    async with session(database) as connection:
        await connection.execute("UPDATE payouts SET state = 'FAILED'")
        await connection.execute(f"SET ROLE {role}")
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind "
            "= 'r'"
        )
        for (table,) in tables:
            await connection.execute(
                f"CREATE TEMPORARY TABLE {table} AS SELECT * FROM public.{table} LIMIT 0"
            )
        await connection.execute(
            "CREATE TEMPORARY SEQUENCE ledger_clock START 4070908800000000;"
            "INSERT INTO pg_temp.archived_ranges (kind, from_at, before_at)"
            " VALUES ('audit_log', '2000-01-01', '2100-01-01'), ('payout_run_items', '2000-01-01', "
            "'2100-01-01');"
            "INSERT INTO pg_temp.archived_run_outcomes (payout_run_id) SELECT payout_run_id FROM "
            "public.payout_runs"
        )
        yield connection


@pytest.mark.parametrize("role", ["ledger_app", "ledger_owner"])
async def test_run_that_has_ended_creates_no_payout(books: Database, role: str) -> None:
    """A temporary table that shows the run as running does not help."""
    statement = re.sub(
        r"\b(INTO|FROM) (payout)", r"\1 public.\2", NEW_PAYOUT.format(items="('CHARGE', 100)")
    )
    async with shadowed(books, role=role) as connection:
        await connection.execute("INSERT INTO pg_temp.payout_runs SELECT * FROM public.payout_runs")
        await connection.execute(
            "UPDATE pg_temp.payout_runs SET state = 'RUNNING', finished_at = NULL"
        )
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="has ended"):
            await connection.execute(statement)


async def test_replication_copies_what_ended_runs_paid(books: Database) -> None:
    """The row was checked where it was first written; replication copies table by table."""
    async with session(books) as connection:
        await connection.execute("UPDATE payouts SET state = 'FAILED'")
        await connection.execute("SET session_replication_role = replica")
        assert await connection.execute(NEW_PAYOUT.format(items="('CHARGE', 100)")) == "INSERT 0 1"


@pytest.mark.parametrize("role", ["ledger_app", "ledger_owner"])
@pytest.mark.parametrize(
    "items", ["('CHARGE', 1)", "('CHARGE', NULL::bigint)"], ids=["too few", "none"]
)
async def test_temporary_tables_do_not_hide_the_books_from_the_check(
    books: Database, items: str, role: str
) -> None:
    """A temporary table of items that add up does not get a payout through."""
    statement = re.sub(r"\b(INTO|FROM) (payout)", r"\1 public.\2", NEW_PAYOUT.format(items=items))
    async with shadowed(books, role=role) as connection:
        await connection.execute(
            "INSERT INTO pg_temp.payout_items VALUES ('00000000-0000-0000-0000-000000000001', "
            "'CHARGE', 0, 100);"
            "INSERT INTO pg_temp.payouts (payout_id, amount_minor) VALUES "
            "('00000000-0000-0000-0000-000000000001', 100)"
        )
        with pytest.raises(asyncpg.CheckViolationError, match="do not add up to its amount"):
            await connection.execute(statement)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("DELETE FROM public.{table}", asyncpg.InsufficientPrivilegeError),
        ("UPDATE public.payouts SET state = 'CREATED'", asyncpg.CheckViolationError),
        (
            "UPDATE public.payout_runs SET state = 'RUNNING', finished_at = NULL",
            asyncpg.CheckViolationError,
        ),
        ("UPDATE public.payout_run_items SET outcome = outcome", asyncpg.CheckViolationError),
    ],
    ids=names,
)
async def test_temporary_tables_do_not_turn_the_guards_off(
    books: Database, change: str, error: type[Exception]
) -> None:
    """Every other trigger refuses as it does without temporary tables."""
    for table in GUARDED if "{table}" in change else ("",):
        async with shadowed(books, role="ledger_owner") as connection:
            with pytest.raises(error):
                await connection.execute(change.format(table=table))


@pytest.mark.parametrize("role", ["ledger_app", "ledger_owner"])
async def test_temporary_tables_end_no_run(books: Database, role: str) -> None:
    """A run with an open item continues, whatever a temporary table shows of its items."""
    run = f"WHERE payout_run_id = '{OPEN_RUN}'"
    async with shadowed(books, role=role) as connection:
        await connection.execute(re.sub(r"\b(INTO|FROM) (payout)", r"\1 public.\2", BEGIN_RUN))
        ended = await connection.execute(
            f"UPDATE public.payout_runs SET state = 'SUCCEEDED', finished_at = now() {run}"
        )
        assert ended == "UPDATE 0"


@pytest.mark.parametrize("role", ["ledger_app", "ledger_owner"])
async def test_temporary_clock_is_not_the_books(books: Database, role: str) -> None:
    """A session with a sequence of the clock's name records the time of the books."""
    async with shadowed(books, role=role) as connection:
        assert (
            await connection.fetchval(
                "SELECT public.recorded_now() BETWEEN now() AND now() + interval '1 hour'"
            )
        ) is True
        assert (
            await connection.fetchval(
                "SELECT public.ledger_now() BETWEEN now() AND now() + interval '1 hour'"
            )
        ) is True
        assert (
            await connection.fetchval("SELECT pg_sequence_last_value('pg_temp.ledger_clock')")
            is None
        )


async def test_every_function_has_a_fixed_search_path(books: Database) -> None:
    """The path begins with pg_catalog and ends with pg_temp: no session decides what it finds.

    A function whose body is SQL of the standard needs none: its names were looked up when it was
    made.
    """
    paths = await query(
        books.migration_url,
        "SELECT proname, (SELECT setting FROM unnest(proconfig) AS setting WHERE setting LIKE "
        "'search_path=%')"
        " FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosqlbody IS NULL",
    )
    assert paths
    assert [
        name
        for name, path in paths
        if not re.fullmatch(r"search_path=pg_catalog,( public,)? pg_temp", path or "")
    ] == []


@pytest.mark.parametrize("role", ["ledger_app", "ledger_owner"])
async def test_items_cannot_be_added_to_a_payout_later(books: Database, role: str) -> None:
    """One more item would break the sum; an item of zero changes nothing and is accepted."""
    statement = "INSERT INTO payout_items SELECT payout_id, 'REFUND', 0, {amount} FROM payouts"
    async with session(books, role=role) as connection:
        assert await connection.execute(statement.format(amount=0)) == "INSERT 0 1"
    async with session(books, role=role) as connection:
        with pytest.raises(asyncpg.CheckViolationError, match="do not add up to its amount"):
            await connection.execute(statement.format(amount=-1))


@pytest.mark.parametrize("replication_role", ["origin", "replica"])
async def test_snapshots_are_deleted_but_never_changed(
    books: Database, replication_role: str
) -> None:
    """Their owner may delete them, as nothing depends on them.

    A changed one would be used, so no role changes one.
    """
    async with session(books, session_replication_role=replication_role) as connection:
        await connection.execute("SET ROLE ledger_owner")
        for statement in ("DELETE FROM balance_snapshots", "TRUNCATE balance_snapshots"):
            await connection.execute(statement)
        assert await connection.fetchval("SELECT count(*) FROM balance_snapshots") == 0
        with pytest.raises(
            asyncpg.InsufficientPrivilegeError, match="balance_snapshots is append-only"
        ):
            await connection.execute("UPDATE balance_snapshots SET entries_count = entries_count")


@pytest.mark.parametrize("statement", NOT_FOR_THE_APPLICATION, ids=names)
async def test_application_may_do_no_more_than_it_needs(books: Database, statement: str) -> None:
    """It cannot turn the guards off or become the owner.

    It can change only profiles, the lock column, states and outcomes.
    """
    async with session(books, role="ledger_app") as connection:
        # The login of a session decides which roles it may become, so here it is the application's.
        await connection.execute("SET SESSION AUTHORIZATION ledger_app")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


@pytest.mark.parametrize("statement", FOR_THE_APPLICATION, ids=names)
async def test_application_may_do_what_it_needs(books: Database, statement: str) -> None:
    """It changes profiles, locks balance accounts, moves payouts, finishes runs and items."""
    async with session(books, role="ledger_app") as connection:
        await connection.execute(BEGIN_RUN)
        assert await connection.execute(statement) in ("UPDATE 1", "SELECT 1")


@pytest.mark.parametrize("table", TABLES)
async def test_reader_reads_and_does_nothing_else(books: Database, table: str) -> None:
    """ledger_read reads every table; it cannot add to it, change it or lock its rows."""
    async with session(books, role="ledger_read") as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") > 0
    column = await query(
        books.migration_url,
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(:table) AND attnum = 1",
        table=table,
    )
    for statement in (
        f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT stored.* FROM {table} AS stored",
        f"UPDATE {table} SET {column[0][0]} = DEFAULT",
        f"DELETE FROM {table}",
        f"TRUNCATE {table} CASCADE",
        f"SELECT FROM {table} FOR KEY SHARE",
    ):
        async with session(books, role="ledger_read") as connection:
            with pytest.raises(
                asyncpg.InsufficientPrivilegeError, match=f"permission denied for table {table}"
            ):
                await connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO processor_events (event_id, recorded_txid) VALUES ('evt', '5')",
        "INSERT INTO processor_events (event_id, recorded_at) VALUES ('evt', '2020-01-01')",
        "INSERT INTO ledger_entries (balance_account_id, recorded_txid) VALUES (1, '5')",
        "INSERT INTO ledger_entries (balance_account_id, recorded_at) VALUES (1, '2020-01-01')",
        "INSERT INTO balance_accounts (balance_account_id, restaurant_id) OVERRIDING SYSTEM VALUE "
        "VALUES (1, 'res')",
        "INSERT INTO restaurants (restaurant_id, created_at) VALUES ('res', '2020-01-01')",
    ],
)
async def test_application_cannot_set_number_or_instant_of_a_record(
    shared_database: Database, statement: str
) -> None:
    """The database sets numbers and instants of recording: past balances depend on them."""
    with pytest.raises(DBAPIError) as refused:
        await query(shared_database.url, statement)
    assert getattr(refused.value.orig, "sqlstate", None) == "42501"
