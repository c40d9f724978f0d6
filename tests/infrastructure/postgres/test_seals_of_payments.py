"""Payments and their operations are sealed, declined ones too, and later tampering names them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext

import asyncpg
import pytest
from support.books import engine_on
from support.events import event_message
from support.paying import MANUAL, expire, open_account, open_accounts, order
from support.running import RunningLedger, query, running_ledger
from support.seals import (
    COUNTS,
    copy_of,
    findings_of,
    run_unguarded,
    seal_everything,
    verify,
)
from support.waiting import DEADLINE_SECONDS, until

from ledger.application.seal_ledger import LedgerSealer, SealWorker
from ledger.bootstrap.database import Database
from ledger.domain.seals import (
    ENTRY_TITLE,
    SEALED_ENTRY_FIELDS,
    SEALED_LATER_EVENT_FIELDS,
    SEALED_OPERATION_FIELDS,
    SEALED_PAYMENT_ENTRY_FIELDS,
    SEALED_PAYMENT_FIELDS,
)
from ledger.infrastructure.postgres import seals
from ledger.infrastructure.postgres.schema.migrations import migrate_async
from ledger.infrastructure.postgres.seals import (
    SEALED_TABLES,
    SELECT_TRANSACTIONS,
    PostgresSealedBooks,
)
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.verification.seal_audit import ROWS, verify_chain
from ledger.v1 import payment_pb2

# The columns of payments that change.
CHANGING = {"state", "captured_minor", "refunded_minor"}
# The fields that a row has from its balance accounts.
OF_HOLDERS = {"payer_account_id", "payee_account_id", "payee_restaurant_id"}
# As many as a payment has columns: each is changed in one of them.
DECLINED = 18


async def pay(ledger: RunningLedger) -> None:
    """Payments of every kind, and operations of every kind, applied and declined.

    A part of them is sealed before payments that it covers are captured and refunded.
    """
    for account_id, limit_minor in (("acc_a", None), ("acc_b", 0)):
        await open_account(ledger, account_id, limit_minor)
    await ledger.ingest(event_message(event_id="evt_1", restaurant_id="res_a", fee_minor=30))
    await seal_everything(ledger.database.migration_url)
    payments = ledger.payments
    for request in (
        order("pay_held", "acc_a", "acc_b", 1000, capture=MANUAL, metadata={"k": "é\n", "a": ""}),
        order("pay_void", "acc_a", "acc_b", 1000, capture=MANUAL, reference="order ~ 1"),
        order("pay_late", "acc_a", "acc_b", 1000, capture=MANUAL),
        order("pay_sold", "acc_a", "", 500, payee_restaurant_id="res_a", fee_minor=50),
        *(order(f"pay_declined_{n:02}", "acc_b", "acc_a", 10**6) for n in range(DECLINED)),
    ):
        await payments.AuthorizePayment(request)
    await expire(ledger.database, "pay_late")
    await seal_everything(ledger.database.migration_url)
    for amount_minor, is_final in ((600, False), (300, True)):
        await payments.CapturePayment(
            payment_pb2.CapturePaymentRequest(
                operation_id=f"cap_{amount_minor}",
                payment_id="pay_held",
                amount_minor=amount_minor,
                is_final=is_final,
            )
        )
    await payments.RefundPayment(
        payment_pb2.RefundPaymentRequest(
            operation_id="ref_1", payment_id="pay_held", amount_minor=100
        )
    )
    for n in range(DECLINED):
        await payments.RefundPayment(
            payment_pb2.RefundPaymentRequest(
                operation_id=f"ref_declined_{n:02}", payment_id="pay_held", amount_minor=10**6
            )
        )
    await payments.VoidPayment(
        payment_pb2.VoidPaymentRequest(operation_id="void_1", payment_id="pay_void")
    )
    await payments.ReversePayment(
        payment_pb2.ReversePaymentRequest(operation_id="rev_1", payment_id="pay_sold")
    )

    async def has_expired() -> bool:
        found = await ledger.query("SELECT 1 FROM payment_operations WHERE operation_id IS NULL")
        return bool(found)

    await until(has_expired, DEADLINE_SECONDS)
    await seal_everything(ledger.database.migration_url)


@pytest.fixture(scope="module")
async def paid(new_database: Callable[[], Awaitable[Database]]) -> Database:
    """The books after `pay`, sealed."""
    database = await new_database()
    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        await pay(ledger)
    return database


@pytest.fixture
async def copy_of_paid(paid: Database, server_url: str) -> AsyncIterator[str]:
    """A superuser's URL of a copy, to tamper with."""
    async with copy_of(paid.migration_url, server_url) as url:
        yield url


async def changes_found(url: str) -> list[str]:
    """What `verify_chain` finds, without the seals and the times."""
    return sorted(text.partition(" after seal")[0] for text in findings_of(await verify(url), ROWS))


async def test_payments_are_sealed(paid: Database) -> None:
    """Each row once, and what happened to a payment after it was sealed is no finding.

    PostgreSQL hashes for the seal, and Python to verify it: they agree.
    """
    report = await verify(paid.migration_url)
    assert (report.audit.findings, report.unsealed_count) == ((), 0)
    assert (report.events_count, report.payments_count) == (1, 4 + DECLINED)
    assert report.operations_count == 6 + DECLINED
    ((causes_sealed, entries_sealed, causes, entries),) = await query(paid.migration_url, COUNTS)
    assert (causes_sealed, entries_sealed) == (causes, entries)
    assert await query(paid.migration_url, "SELECT DISTINCT covers_payments FROM ledger_seals") == [
        (True,)
    ]


async def test_every_column_is_sealed(paid: Database) -> None:
    """A new column of a sealed table needs a new title, or a reason here to leave it out."""
    rows = await query(
        paid.migration_url,
        "SELECT table_name::text, column_name::text FROM information_schema.columns"
        " WHERE table_schema = 'public'",
    )
    columns = {table: {name for of, name in rows if of == table} for table in SEALED_TABLES}
    assert columns == {
        "processor_events": set(SEALED_LATER_EVENT_FIELDS),
        "ledger_entries": set(SEALED_PAYMENT_ENTRY_FIELDS)
        - {"restaurant_id", "account_id", "currency"},
        "payments": set(SEALED_PAYMENT_FIELDS) - OF_HOLDERS | CHANGING,
        "payment_operations": set(SEALED_OPERATION_FIELDS),
    }
    assert set(SEALED_PAYMENT_ENTRY_FIELDS) - set(SEALED_ENTRY_FIELDS) == {
        "account_id",
        "payment_id",
    }


# Another value of each type.
OTHER = {
    "text": "COALESCE({0}, '') || 'x'",
    "bigint": "{0} + 1",
    "integer": "{0} + 1000",
    "boolean": "NOT {0}",
    "uuid": "gen_random_uuid()",
    "jsonb": '{0} || \'{{"x": ""}}\'',
    "xid8": "'5'",
    "timestamp with time zone": "COALESCE({0} + interval '1 microsecond', 'infinity')",
}
DROP_CHECKS = """
DO $$
DECLARE
  constraint_name name;
BEGIN
  FOR constraint_name IN
    SELECT conname FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype IN ('c', 'f')
  LOOP
    EXECUTE format('ALTER TABLE {table} DROP CONSTRAINT %I', constraint_name);
  END LOOP;
END $$
"""
# The row is another one afterwards: one was deleted and one inserted.
MOVING = {"recorded_txid", "transaction_id"}


@pytest.mark.parametrize(
    ("table", "key", "left_out", "name"),
    [
        ("payments", "payment_id", CHANGING, "payment {}"),
        ("payment_operations", "operation_id", set(), "operation {} of payment pay_held"),
    ],
)
async def test_change_of_any_column_is_named(
    copy_of_paid: str, table: str, key: str, left_out: set[str], name: str
) -> None:
    """Each column is changed in another declined row."""
    columns = await query(
        copy_of_paid,
        "SELECT column_name::text, data_type::text FROM information_schema.columns"
        " WHERE table_name = :table ORDER BY column_name",
        table=table,
    )
    rows = await query(
        copy_of_paid,
        f"SELECT {key}, transaction_id::text FROM {table} WHERE {key} LIKE '%declined%' ORDER BY 1",
    )
    statements, expected = [DROP_CHECKS.format(table=table)], []
    for (column, kind), (row_key, transaction_id) in zip(
        [each for each in columns if each[0] not in left_out], rows, strict=False
    ):
        statements.append(
            f"UPDATE {table} SET {column} = {OTHER[kind].format(column)} WHERE {key} = '{row_key}'"
        )
        entity = name.format(f"{row_key}x" if column == key else row_key)
        if column == "payment_id" != key:
            entity += "x"
        if column in MOVING:
            expected.append(
                f"event, payment or operation of transaction {transaction_id} was deleted"
            )
            expected.append(f"{entity} was inserted")
        else:
            expected.append(f"{entity} was changed")
    assert len(expected) == len(columns) - len(left_out) + len(MOVING)
    await run_unguarded(copy_of_paid, ";".join(statements))
    assert await changes_found(copy_of_paid) == sorted(expected)


async def test_change_of_what_changes_is_no_finding(copy_of_paid: str) -> None:
    """The state of a payment and its sums move. The operations have their values, sealed."""
    await run_unguarded(
        copy_of_paid,
        DROP_CHECKS.format(table="payments")
        + "; UPDATE payments SET state = 'CAPTURED', captured_minor = 7, refunded_minor = 3",
    )
    assert await changes_found(copy_of_paid) == []


TRANSACTION_OF = """
SELECT p.transaction_id::text FROM payments AS p WHERE p.payment_id = :id
UNION ALL
SELECT o.transaction_id::text FROM payment_operations AS o WHERE o.operation_id = :id
"""


async def transaction_of(url: str, id_: str) -> str:
    """The transaction id of a payment or an operation."""
    ((transaction_id,),) = await query(url, TRANSACTION_OF, id=id_)
    return str(transaction_id)


async def test_removed_rows_are_named(copy_of_paid: str) -> None:
    """By the ids in their entries. One without entries only by the id of its transaction."""
    declined, declined_refund = [
        await transaction_of(copy_of_paid, id_) for id_ in ("pay_declined_03", "ref_declined_03")
    ]
    captured = await transaction_of(copy_of_paid, "cap_600")
    await run_unguarded(
        copy_of_paid,
        DROP_CHECKS.format(table="payment_operations")
        + "; DELETE FROM payments WHERE payment_id IN ('pay_sold', 'pay_late', 'pay_declined_03');"
        "DELETE FROM payment_operations WHERE operation_id IN ('ref_1', 'ref_declined_03');"
        f"DELETE FROM ledger_entries WHERE transaction_id = '{captured}' AND position = 2",
    )
    assert await changes_found(copy_of_paid) == sorted(
        [
            "payment pay_sold was deleted",
            "payment pay_late was deleted",
            f"event, payment or operation of transaction {declined} was deleted",
            "operation of payment pay_held was deleted",
            f"event, payment or operation of transaction {declined_refund} was deleted",
            f"entry {captured}/2 was deleted",
        ]
    )


async def test_books_that_lost_all_payments_lack_them(copy_of_paid: str) -> None:
    """Also if nothing is left in either table."""
    await run_unguarded(
        copy_of_paid, "DELETE FROM payment_operations WHERE true; DELETE FROM payments"
    )
    found = await changes_found(copy_of_paid)
    assert len(found) == 4 + DECLINED + 6 + DECLINED
    assert all(text.endswith("was deleted") for text in found)


# A copy of a row, with other ids.
COPY = """
INSERT INTO {table} SELECT r.* FROM {table} AS o
CROSS JOIN LATERAL jsonb_populate_record(o, '{changes}') AS r WHERE o.{key} = '{id}'
"""


async def test_added_rows_are_named(copy_of_paid: str) -> None:
    """Rows with the txid of sealed ones, under a new transaction id or a sealed one."""
    other = "00000000-0000-0000-0000-000000000001"
    await run_unguarded(
        copy_of_paid,
        ";".join(
            COPY.format(table=table, changes=changes, key=key, id=id_)
            for table, key, id_, changes in (
                ("payments", "payment_id", "pay_sold", '{"payment_id": "pay_copy"}'),
                (
                    "payments",
                    "payment_id",
                    "pay_declined_00",
                    f'{{"payment_id": "pay_new", "transaction_id": "{other}"}}',
                ),
                (
                    "payment_operations",
                    "operation_id",
                    "ref_declined_00",
                    f'{{"operation_id": "ref_new", "sequence": 99, "transaction_id": "{other}"}}',
                ),
                (
                    "payment_operations",
                    "operation_id",
                    "void_1",
                    '{"operation_id": null, "kind": "EXPIRE", "sequence": 98}',
                ),
            )
        ),
    )
    assert await changes_found(copy_of_paid) == sorted(
        [
            "payment pay_copy was inserted",
            "payment pay_new was inserted",
            "operation ref_new of payment pay_held was inserted",
            "operation number 98 of payment pay_void was inserted",
        ]
    )


async def test_entries_are_bound_to_their_payment_and_account(copy_of_paid: str) -> None:
    """An entry that changes its payment, loses it or gets one, was changed."""
    held, sold = [await transaction_of(copy_of_paid, id_) for id_ in ("pay_held", "pay_sold")]
    ((charged,),) = await query(
        copy_of_paid, "SELECT transaction_id::text FROM processor_events WHERE event_id = 'evt_1'"
    )
    await run_unguarded(
        copy_of_paid,
        DROP_CHECKS.format(table="ledger_entries")
        + f"""; UPDATE ledger_entries
SET payment_id = CASE WHEN transaction_id = '{held}' THEN 'pay_sold'
                      WHEN transaction_id = '{charged}' THEN 'pay_sold' END
WHERE (transaction_id, position) IN (('{held}', 1), ('{sold}', 2), ('{charged}', 1))""",
    )
    assert await changes_found(copy_of_paid) == sorted(
        f"entry {entry} was changed" for entry in (f"{held}/1", f"{sold}/2", f"{charged}/1")
    )


async def test_accounts_that_change_places_are_noticed(copy_of_paid: str) -> None:
    """By each of their entries, and by each payment, declined ones too."""
    await run_unguarded(
        copy_of_paid,
        "DROP INDEX balance_accounts_account_id_key; UPDATE balance_accounts"
        " SET account_id = CASE account_id WHEN 'acc_a' THEN 'acc_b' ELSE 'acc_a' END"
        " WHERE account_id IS NOT NULL",
    )
    entries = await query(
        copy_of_paid,
        "SELECT 'entry ' || transaction_id || '/' || position || ' was changed'"
        " FROM ledger_entries JOIN balance_accounts USING (balance_account_id)"
        " WHERE account_id IS NOT NULL",
    )
    payments = await query(
        copy_of_paid, "SELECT 'payment ' || payment_id || ' was changed' FROM payments"
    )
    assert len(entries) >= 10
    assert await changes_found(copy_of_paid) == sorted(text for (text,) in entries + payments)


# Revision 0026's.
INSERT_SEALS_OF_EARLIER = """
INSERT INTO ledger_seals (sequence, epoch, is_restored, system_identifier, first_txid, end_txid,
  events_count, entries_count, contents_hash, sealed_at, previous_hash, hash, row_digests, stay_id)
SELECT *, $14::uuid
FROM unnest($1::bigint[], $2::integer[], $3::boolean[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::integer[], $8::integer[], $9::bytea[], $10::timestamptz[], $11::bytea[],
            $12::bytea[], $13::bytea[])
"""


@contextmanager
def earlier_statements() -> Iterator[None]:
    """Sealers read and write as those of revision 0026, which know no payments."""
    of_events, _, *_ = seals._SEALED
    of_entries = (seals.ENTRIES, seals.PLACE, seals._digest(ENTRY_TITLE, seals.ENTRY_VALUES))
    with pytest.MonkeyPatch.context() as patch:
        now = seals._row_digests("LIMIT $4 + 1")
        patch.setattr(seals, "_SEALED", (of_events, of_entries))
        earlier = seals._row_digests("LIMIT $4 + 1")
        assert now in seals.SELECT_TRANSACTIONS
        patch.setattr(seals, "SELECT_TRANSACTIONS", seals.SELECT_TRANSACTIONS.replace(now, earlier))
        patch.setattr(seals, "INSERT_SEALS", INSERT_SEALS_OF_EARLIER)
        yield


async def test_earlier_server_seals_until_there_are_payments(database: Database) -> None:
    """From then on the database refuses its seals, which it logs; a newer server seals instead.

    Its seals of before the first payment stay valid.
    """
    failures: list[BaseException] = []
    count = "SELECT count(*), bool_or(covers_payments) FROM ledger_seals"
    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        await ledger.ingest(event_message(event_id="evt_1", fee_minor=3))
        with earlier_statements():
            await seal_everything(database.url)
            assert await ledger.query(count) == [(1, False)]
            await open_accounts(ledger.engine, "acc_a", "acc_b")
            await ledger.payments.AuthorizePayment(order("pay_1", "acc_a", "acc_b", 100))
            worker = SealWorker(
                LedgerSealer(PostgresSealedBooks(ledger.engine)),
                interval_seconds=0.01,
                on_failure=lambda _what, error: failures.append(error),
            )
            worker.start()
            await until(lambda: len(failures) > 1)
            await worker.stop()
        assert await ledger.query(count) == [(1, False)]
        await seal_everything(database.url)
    assert isinstance(failures[0], asyncpg.ObjectNotInPrerequisiteStateError)
    assert "only servers of revision 0029 and later seal" in str(failures[0])
    report = await verify(database.url)
    assert (report.audit.findings, report.unsealed_count, report.payments_count) == ((), 0, 1)


async def test_books_without_payments_have_the_seals_that_they_had(
    database: Database, server_url: str
) -> None:
    """Byte for byte, but for the time."""
    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        await ledger.ingest(
            event_message(event_id="evt_1", fee_minor=30), event_message(event_id="evt_2")
        )
    made = []
    for statements in (earlier_statements, nullcontext):
        async with copy_of(database.migration_url, server_url) as url:
            with statements():
                await seal_everything(url)
            made += await query(
                url,
                "SELECT contents_hash, row_digests, events_count, entries_count FROM ledger_seals",
            )
    assert len(made) == 2
    assert made[0] == made[1]


async def test_restored_payments_are_sealed_at_once(copy_of_paid: str) -> None:
    """Those with txids that this cluster has yet to reach."""
    ((ahead,),) = await query(
        copy_of_paid, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1000000"
    )
    await run_unguarded(
        copy_of_paid,
        f"UPDATE payments SET recorded_txid = '{ahead}' WHERE payment_id LIKE '%declined%';"
        f"UPDATE payment_operations SET recorded_txid = '{ahead + 1}'"
        " WHERE operation_id LIKE '%declined%'; DELETE FROM ledger_seals",
    )
    await seal_everything(copy_of_paid)
    assert await query(
        copy_of_paid, "SELECT sum(events_count)::integer FROM ledger_seals WHERE is_restored"
    ) == [(2 * DECLINED,)]
    report = await verify(copy_of_paid)
    assert (report.audit.findings, report.unsealed_count) == ((), 0)
    assert report.payments_count == 4 + DECLINED


MANY = """
INSERT INTO payments SELECT r.* FROM payments AS o
CROSS JOIN LATERAL generate_series(1, 90) AS i
CROSS JOIN LATERAL jsonb_populate_record(o, jsonb_build_object(
  'payment_id', 'pay_many_' || i, 'transaction_id', gen_random_uuid(),
  'recorded_txid', pg_current_xact_id()::text)) AS r
WHERE o.payment_id = 'pay_sold';
INSERT INTO payment_operations SELECT r.* FROM payment_operations AS o
CROSS JOIN LATERAL generate_series(1, 60) AS i
CROSS JOIN LATERAL jsonb_populate_record(o, jsonb_build_object(
  'payment_id', 'pay_many_' || i, 'operation_id', 'op_many_' || i, 'sequence', 1,
  'transaction_id', gen_random_uuid(), 'recorded_txid', pg_current_xact_id()::text)) AS r
WHERE o.operation_id = 'rev_1';
INSERT INTO ledger_entries SELECT r.* FROM ledger_entries AS o
JOIN payments AS p ON p.payment_id LIKE 'pay_many_%'
CROSS JOIN LATERAL jsonb_populate_record(o, jsonb_build_object(
  'payment_id', p.payment_id, 'transaction_id', p.transaction_id,
  'recorded_txid', pg_current_xact_id()::text)) AS r
WHERE o.payment_id = 'pay_sold' AND o.entry_type IN ('TRANSFER_OUT', 'TRANSFER_IN', 'FEE')
"""
MANY_ROWS = 90 + 60 + 3 * 90


@pytest.mark.parametrize("part_rows", [120, 100_000])
async def test_large_transaction_is_sealed_whole_or_in_parts(
    copy_of_paid: str, part_rows: int
) -> None:
    """Each of its rows once, and later changes are named."""
    await run_unguarded(copy_of_paid, MANY)
    ((txid,),) = await query(
        copy_of_paid,
        "SELECT recorded_txid::text::bigint FROM payments WHERE payment_id = 'pay_many_1'",
    )
    async with engine_on(copy_of_paid) as engine, asyncio.timeout(DEADLINE_SECONDS):
        books = PostgresSealedBooks(engine, slice_rows=7)
        while not await query(
            copy_of_paid,
            f"SELECT 1 FROM ledger_seals WHERE end_txid > {txid} AND NOT is_restored AND epoch > 1",
        ):
            await LedgerSealer(books, read_rows_max=10, part_rows=part_rows).seal_next()
        await seal_everything(copy_of_paid)
        report = await verify_chain(engine, slice_rows=7)
        assert (report.audit.findings, report.unsealed_count) == ((), 0)
        assert report.payments_count == 4 + DECLINED + 90
        assert report.operations_count == 6 + DECLINED + 60
    parts = await query(
        copy_of_paid,
        "SELECT events_count + entries_count FROM ledger_seals"
        f" WHERE end_txid = {txid + 1} AND events_count + entries_count > 0",
    )
    assert sum(rows for (rows,) in parts) == MANY_ROWS
    assert (len(parts) > 2) == (part_rows == 120)
    await run_unguarded(
        copy_of_paid,
        "UPDATE payments SET fee_minor = 1 WHERE payment_id LIKE 'pay_many_2_';"
        "UPDATE payment_operations SET batch_id = payment_operations.transaction_id"
        " WHERE operation_id = 'op_many_7'",
    )
    async with engine_on(copy_of_paid) as engine:
        report = await verify_chain(engine, slice_rows=7)
    assert len(report.audit.findings) == 11


async def test_rows_are_found_by_indexes(paid: Database) -> None:
    """Those of a range of txids, in each table."""
    async with engine_on(paid.url) as engine, autocommit(engine) as connection:
        statement = SELECT_TRANSACTIONS
        for number, value in enumerate(("0", "100", "false", "10"), 1):
            statement = statement.replace(f"${number}", value)
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {statement}"))
    for table in SEALED_TABLES:
        assert f"{table}_recorded_txid_idx" in plan


async def test_schema_without_payments_in_seals_needs_books_without_payments(
    paid: Database, server_url: str
) -> None:
    """The migration does not go back once there are payments: earlier servers seal none."""
    async with copy_of(paid.migration_url, server_url) as url:
        with pytest.raises(Exception, match="there are payments"):
            await migrate_async(url, "0028")
