"""Seals on PostgreSQL: everything is sealed once, and later tampering is named."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import pytest
import uuid_utils
import uuid_utils.compat
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from support.books import burn_numbers, engine_on, restore
from support.events import event_message, processor_event
from support.folders import folder_for_all
from support.payout_runs import finished_run
from support.psql import run_file
from support.running import RunningLedger, execute_alone, query, running_ledger
from support.seals import (
    COUNTS,
    copy_of,
    findings_of,
    run_unguarded,
    seal,
    seal_everything,
    verify,
)
from support.waiting import DEADLINE_SECONDS, until

from ledger.application.ports.events import Posting
from ledger.application.seal_ledger import LedgerSealer, SealWorker
from ledger.bootstrap.database import Database
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import fingerprint
from ledger.domain.seals import Seal, SealContents
from ledger.infrastructure.postgres.embedded import EmbeddedPostgres
from ledger.infrastructure.postgres.event_ledger import PostgresEventLedger
from ledger.infrastructure.postgres.schema.migrations import database_url
from ledger.infrastructure.postgres.seals import PostgresSealedBooks
from ledger.infrastructure.postgres.sessions.engine import autocommit, create_engine
from ledger.infrastructure.postgres.verification.seal_audit import (
    EXPECTED,
    LINKS,
    ROWS,
    verify_chain,
)
from ledger.v1 import ledger_pb2

BATCHES = (
    (
        event_message(
            event_id="evt_a1",
            restaurant_id="res_a",
            amount_minor=10_000,
            fee_minor=300,
            reference="pay 1 ~",
        ),
        event_message(
            event_id="evt_a2",
            restaurant_id="res_a",
            amount_minor=500,
            metadata={"bb": "1", "a": 'é\n\t"\\\x01\x7f😀'},
        ),
    ),
    (
        event_message(
            event_id="evt_b1", restaurant_id="res_b", amount_minor=800, metadata={"k": "v"}
        ),
        event_message(event_id="evt_b2", restaurant_id="res_b", amount_minor=900),
        event_message(
            ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
            event_id="evt_b3",
            restaurant_id="res_b",
            amount_minor=70,
            fee_minor=7,
        ),
    ),
    (
        event_message(
            event_id="evt_c1", restaurant_id="res_c", currency="JPY", amount_minor=5, fee_minor=5
        ),
    ),
)


@pytest.fixture(scope="module")
async def sealed(new_database: Callable[[], Awaitable[Database]]) -> Database:
    """Books of several seals: the events of each of BATCHES are in one, the payouts in the last."""
    database = await new_database()
    async with running_ledger(database) as ledger:
        for batch in BATCHES:
            await ledger.ingest(*batch)
            await seal_everything(database.migration_url)
        await finished_run(ledger)
        await seal_everything(database.migration_url)
    return database


@pytest.fixture
async def copy_of_sealed(sealed: Database, server_url: str) -> AsyncIterator[str]:
    """A superuser's URL of a copy, to tamper with."""
    async with copy_of(sealed.migration_url, server_url) as url:
        yield url


@dataclass(frozen=True)
class Tampering:
    """A change to sealed books, and the findings that must name it.

    {evt_…} stands for the transaction id of that event.
    """

    sql: str
    named: tuple[str, ...]
    check: str = ROWS

    def __str__(self) -> str:
        return self.sql[:80]


def of_event(event_id: str, change: str) -> str:
    return f"UPDATE processor_events SET {change} WHERE event_id = '{event_id}'"


def of_entry(event_id: str, position: int, change: str) -> str:
    place = f"event_id = '{event_id}' AND position = {position}"
    return f"UPDATE ledger_entries SET {change} WHERE {place}"


COPY_ENTRY = """
INSERT INTO ledger_entries (balance_account_id, recorded_txid, transaction_id, position, entry_type,
  debit_account,
                            credit_account, amount_minor, available_at, occurred_at, recorded_at,
                            event_id)
SELECT balance_account_id, recorded_txid, {transaction_id}, {position}, entry_type, debit_account,
       credit_account,
       amount_minor, available_at, occurred_at, recorded_at, event_id
FROM ledger_entries WHERE event_id = 'evt_a2'
"""
RESERVE_OF_A = """
UPDATE ledger_entries SET amount_minor = 1 WHERE entry_type = 'PAYOUT_RESERVE'
AND balance_account_id = (SELECT balance_account_id FROM balance_accounts
  WHERE restaurant_id = 'res_a')
"""
TAMPERINGS = (
    Tampering(
        ";".join(
            (
                of_entry("evt_a1", 2, "amount_minor = amount_minor + 1"),
                of_entry(
                    "evt_b2",
                    1,
                    "entry_type = 'FEE', debit_account = 'restaurant_payable', credit_account ="
                    " 'platform_fees'",
                ),
                of_entry("evt_a1", 1, "available_at = available_at + interval '1 microsecond'"),
                of_entry("evt_c1", 1, "recorded_at = recorded_at - interval '1 microsecond'"),
                of_entry(
                    "evt_c1",
                    2,
                    "balance_account_id = (SELECT min(balance_account_id) FROM balance_accounts)",
                ),
                RESERVE_OF_A,
            )
        ),
        tuple(
            f"entry {entry} was changed"
            for entry in (
                "{evt_a1}/2",
                "{evt_b2}/1",
                "{evt_a1}/1",
                "{evt_c1}/1",
                "{evt_c1}/2",
                "{reserve_a}/1",
            )
        ),
    ),
    Tampering(
        of_entry("evt_a1", 1, "available_at = NULL")
        + ";"
        + of_entry("evt_c1", 1, "available_at = 'infinity'"),
        ("entry {evt_a1}/1 was changed", "entry {evt_c1}/1 was changed"),
    ),
    Tampering(
        ";".join(
            (
                of_event("evt_b1", 'metadata = \'{"k": "w"}\''),
                of_event("evt_b2", 'metadata = \'{"k": {"n": 1}}\''),
                of_event("evt_a1", "fingerprint = sha256('')"),
                of_event("evt_a2", "occurred_at = 'infinity'"),
                of_event("evt_c1", "event_id = 'evt_x'"),
            )
        ),
        tuple(
            f"event {event_id} was changed"
            for event_id in ("evt_b1", "evt_b2", "evt_a1", "evt_a2", "evt_x")
        ),
    ),
    # Moves it into the range of another seal.
    Tampering(
        of_event("evt_b1", "recorded_txid = '5'")
        + ";"
        + of_entry(
            "evt_b2",
            1,
            "recorded_txid = (SELECT recorded_txid FROM processor_events WHERE event_id ="
            " 'evt_a1')",
        ),
        (
            "event evt_b1 was deleted",
            "event evt_b1 was inserted",
            "entry {evt_b2}/1 was deleted",
            "entry {evt_b2}/1 was inserted",
        ),
    ),
    Tampering(
        "UPDATE ledger_entries SET amount_minor = CASE event_id WHEN 'evt_b1' THEN 900 ELSE 800 END"
        " WHERE event_id IN ('evt_b1', 'evt_b2')",
        ("entry {evt_b1}/1 was changed", "entry {evt_b2}/1 was changed"),
    ),
    Tampering(
        "DELETE FROM ledger_entries WHERE event_id = 'evt_a1' AND position = 1;"
        "DELETE FROM processor_events WHERE event_id = 'evt_b3';"
        "DELETE FROM processor_events WHERE event_id = 'evt_b1';"
        "DELETE FROM ledger_entries WHERE event_id = 'evt_b1'",
        (
            "entry {evt_a1}/1 was deleted",
            "event evt_b3 was deleted",
            "event, payment or operation of transaction {evt_b1} was deleted",
            "entry {evt_b1}/1 was deleted",
        ),
    ),
    Tampering(
        ";".join(
            (
                COPY_ENTRY.format(transaction_id="transaction_id", position=2),
                COPY_ENTRY.format(transaction_id="transaction_id", position=300)
                + "AND position = 1",
                COPY_ENTRY.format(
                    transaction_id="'00000000-0000-0000-0000-000000000001'", position=1
                )
                + "AND position = 1",
            )
        ),
        (
            "entry {evt_a2}/2 was inserted",
            "entry {evt_a2}/300 was inserted",
            "entry 00000000-0000-0000-0000-000000000001/1 was inserted",
        ),
    ),
    Tampering(
        "UPDATE balance_accounts SET restaurant_id = 'res_c' WHERE restaurant_id = 'res_b' AND"
        " currency = 'PEN'",
        tuple(
            f"entry {entry} was changed"
            for entry in (
                "{evt_b1}/1",
                "{evt_b2}/1",
                "{evt_b3}/1",
                "{evt_b3}/2",
                "{evt_b3}/3",
                "{reserve_b}/1",
            )
        ),
    ),
    Tampering("DELETE FROM ledger_seals WHERE sequence = 2", ("seal 3 follows seal 1",), LINKS),
    Tampering("DELETE FROM ledger_seals WHERE sequence = 1", ("seal 2 follows nothing",), LINKS),
    Tampering(
        "UPDATE ledger_seals SET sealed_at = now() WHERE sequence = 1;"
        "UPDATE ledger_seals SET contents_hash = sha256('') WHERE sequence = 2;"
        "UPDATE ledger_seals SET row_digests = 'x' WHERE sequence = 3",
        ("seal 1 its hash", "seal 2 its hash", "seal 3 its hash"),
        LINKS,
    ),
    Tampering(
        "UPDATE ledger_seals SET hash = sha256('') WHERE sequence = 2",
        ("seal 2 its hash", "seal 3 its previous hash"),
        LINKS,
    ),
    Tampering(
        "UPDATE ledger_seals SET row_digests = 'x' WHERE sequence = 2", ("seal 2 its row digests",)
    ),
    Tampering(
        "UPDATE ledger_seals SET contents_hash = sha256('') WHERE sequence = 2",
        ("seal 2 its rows are not those",),
    ),
)

NAMES = """
SELECT event_id, transaction_id::text FROM processor_events
UNION ALL
SELECT 'reserve' || substr(a.restaurant_id, 4), e.transaction_id::text
FROM ledger_entries AS e JOIN balance_accounts AS a USING (balance_account_id)
WHERE e.entry_type = 'PAYOUT_RESERVE'
"""


async def tamper(url: str, sql: str) -> dict[str, str]:
    """Runs SQL as a superuser who has turned the triggers off.

    Returns the names that the expected findings may contain.
    """
    names = {row[0]: row[1] for row in await query(url, NAMES)}
    await run_unguarded(url, sql)
    return names


async def test_books_in_order_verify(sealed: Database) -> None:
    """Every row is sealed once and the chain has no fault, for every role that reads the books."""
    for role in ("ledger_app", "ledger_read", "ledger_owner"):
        engine = create_engine(sealed.migration_url, pool_size=1, role=role)
        try:
            report = await verify_chain(engine)
        finally:
            await engine.dispose()
        assert report.audit.findings == ()
        assert (report.events_count, report.unsealed_count) == (6, 0)
        assert report.head is not None
        assert report.head.sequence >= 4
    ((events_sealed, entries_sealed, events, entries),) = await query(sealed.migration_url, COUNTS)
    assert (events_sealed, entries_sealed) == (events, entries)


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=str)
async def test_tampering_is_named(copy_of_sealed: str, tampering: Tampering) -> None:
    """Findings name the changed rows and the kind of change, and no other row."""
    names = await tamper(copy_of_sealed, tampering.sql)
    found = findings_of(await verify(copy_of_sealed), tampering.check)
    expected = sorted(text.format_map(names) for text in tampering.named)
    assert len(found) == len(expected)
    for text, beginning in zip(sorted(found), expected, strict=True):
        assert text.startswith(beginning)


async def test_no_seals_and_empty_books_verify(database: Database) -> None:
    """There is no head, and booked rows are reported as not sealed."""
    report = await verify(database.url)
    assert (report.audit.findings, report.head, report.unsealed_count) == ((), None, 0)
    await seal(database.url)
    assert await query(database.url, "SELECT count(*) FROM ledger_seals") == [(0,)]


async def test_chain_that_was_cut_off_lacks_the_expected_head(copy_of_sealed: str) -> None:
    """Without its last seal a chain is whole: only a head that is kept elsewhere shows it.

    Earlier heads are still found.
    """
    ((last,), (before,)) = await query(
        copy_of_sealed, "SELECT hash FROM ledger_seals ORDER BY sequence DESC LIMIT 2"
    )
    whole = await verify(copy_of_sealed, last)
    assert (whole.audit.findings, whole.expected_sequence) == (
        (),
        whole.head.sequence if whole.head else 0,
    )
    await tamper(
        copy_of_sealed,
        "DELETE FROM ledger_seals WHERE sequence = (SELECT max(sequence) FROM ledger_seals)",
    )
    assert (await verify(copy_of_sealed)).audit.findings == ()
    assert (await verify(copy_of_sealed, before)).audit.findings == ()
    assert len(findings_of(await verify(copy_of_sealed, last), EXPECTED)) == 1


async def test_chain_that_was_written_anew_lacks_the_expected_head(copy_of_sealed: str) -> None:
    """A row is changed and everything sealed again: the chain has no fault, but another head."""
    ((published,),) = await query(
        copy_of_sealed, "SELECT hash FROM ledger_seals WHERE sequence = 1"
    )
    await tamper(
        copy_of_sealed, of_entry("evt_a1", 1, "amount_minor = 1") + "; DELETE FROM ledger_seals"
    )
    await seal_everything(copy_of_sealed)
    assert (await verify(copy_of_sealed)).audit.findings == ()
    report = await verify(copy_of_sealed, published)
    assert findings_of(report, EXPECTED) == [
        f"hash {published.hex()} no seal has it: the chain was cut off or written anew"
    ]


async def test_findings_are_bounded(copy_of_sealed: str) -> None:
    """A hundred findings are reported, and the number of the others."""
    await tamper(
        copy_of_sealed,
        "INSERT INTO processor_events SELECT event_id || i, fingerprint, transaction_id, batch_id,"
        " type, restaurant_id, currency,"
        " amount_minor, fee_minor, occurred_at, payout_id, reference, metadata, recorded_txid,"
        " recorded_at"
        " FROM processor_events, generate_series(1, 150) AS i WHERE event_id = 'evt_a1'",
    )
    found = findings_of(await verify(copy_of_sealed), ROWS)
    assert len(found) == 101
    assert found[-1] == "more 50 more like these"


async def test_late_commit_is_sealed_later(database: Database) -> None:
    """A transaction that took its number early holds the horizon.

    Nothing from its number on is sealed until it has ended.
    """
    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        await ledger.ingest(event_message(event_id="evt_before"))
        await seal_everything(database.url)
        engine = create_async_engine(database.migration_url, poolclass=NullPool)
        async with engine.connect() as late:
            await late.exec_driver_sql("SELECT pg_current_xact_id()")
            await ledger.ingest(event_message(event_id="evt_after"))
            await seal(database.url)
            assert (await verify(database.url)).unsealed_count == 2
            await late.exec_driver_sql(
                "INSERT INTO processor_events (event_id, fingerprint, transaction_id, batch_id,"
                " type, restaurant_id, currency,"
                " amount_minor, fee_minor, occurred_at) SELECT 'evt_late', fingerprint,"
                " gen_random_uuid(), batch_id, type,"
                " restaurant_id, currency, amount_minor, fee_minor, occurred_at FROM"
                " processor_events"
                " WHERE event_id = 'evt_before'"
            )
            await late.commit()
        await engine.dispose()
        await seal_everything(database.url)
    report = await verify(database.url)
    assert (report.audit.findings, report.events_count, report.unsealed_count) == ((), 3, 0)


async def test_nothing_is_missed_or_sealed_twice_while_events_are_booked(
    database: Database, seed: int
) -> None:
    """Writers that take numbers early and commit late or never, with two sealers."""
    dice = random.Random(seed)
    books = create_async_engine(database.url, pool_size=8)
    accounts = create_engine(database.url, pool_size=1)
    await PostgresEventLedger(partial(autocommit, accounts), maturity_days=7).open_accounts(
        [BalanceAccount("res_001", "PEN")], register=True
    )
    await accounts.dispose()
    writing = True

    async def write() -> None:
        for _ in range(12):
            async with books.connect() as connection:
                await connection.exec_driver_sql("SELECT pg_current_xact_id()")
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(dice.random() / 100)
                    event = processor_event()
                    await connection.exec_driver_sql(
                        "INSERT INTO processor_events (event_id, fingerprint, transaction_id,"
                        " batch_id, type, restaurant_id,"
                        " currency, amount_minor, fee_minor, occurred_at)"
                        " VALUES ($1, $2, $3, $3, $4, 'res_001', 'PEN', 5, 0, $5)",
                        (
                            event.event_id,
                            fingerprint(event),
                            uuid_utils.compat.uuid7(),
                            event.type.value,
                            event.occurred_at,
                        ),
                    )
                if dice.random() < 0.8:
                    await connection.commit()

    async def keep_sealing() -> None:
        async with engine_on(database.url, pool_size=1) as engine:
            sealer = LedgerSealer(PostgresSealedBooks(engine))
            while writing:
                await sealer.seal_next()

    sealers = [asyncio.create_task(keep_sealing()) for _ in range(2)]
    await asyncio.gather(*(write() for _ in range(6)))
    writing = False
    await asyncio.gather(*sealers)
    await books.dispose()
    await seal_everything(database.url)
    report = await verify(database.url)
    assert report.audit.findings == ()
    assert report.unsealed_count == 0
    assert [(report.events_count,)] == await query(
        database.url, "SELECT count(*) FROM processor_events"
    )


BY_HAND = (
    """
    INSERT INTO processor_events (event_id, fingerprint, transaction_id, batch_id, type,
      restaurant_id, currency, amount_minor,
                                  fee_minor, occurred_at)
    SELECT event_id || '_' || i, fingerprint, gen_random_uuid(), batch_id, type, restaurant_id,
           currency, amount_minor, fee_minor,
           occurred_at
    FROM processor_events, generate_series(1, 300) AS i WHERE event_id = 'evt_a1'
    """,
    # One transaction id with more rows than a slice, many of them at the place that stands for all
    # late positions.
    """
    INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
      debit_account, credit_account,
                                amount_minor, available_at, occurred_at, event_id)
    SELECT balance_account_id, transaction_id, i, entry_type, debit_account, credit_account,
           amount_minor, available_at,
           occurred_at, event_id
    FROM ledger_entries, generate_series(1, 250) AS i WHERE event_id = 'evt_a1' AND position = 1
    """,
    """
    INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
      debit_account, credit_account,
                                amount_minor, available_at, occurred_at, event_id)
    SELECT e.balance_account_id, v.transaction_id, e.position, e.entry_type, e.debit_account,
           e.credit_account, e.amount_minor,
           e.available_at, e.occurred_at, v.event_id
    FROM processor_events AS v, ledger_entries AS e
    WHERE v.event_id LIKE 'evt_a1\\_%' AND e.event_id = 'evt_a1'
      AND e.recorded_txid = (SELECT recorded_txid FROM processor_events WHERE event_id = 'evt_a1')
    """,
)


async def booked_by_hand(url: str) -> int:
    """Books all of BY_HAND in one database transaction. Returns its txid."""
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        for statement in BY_HAND:
            await connection.exec_driver_sql(statement)
        txid = await connection.exec_driver_sql("SELECT pg_current_xact_id()::text")
        booked_in = int(txid.scalar_one())
    await engine.dispose()
    return booked_in


async def test_large_transaction_is_sealed_in_slices_as_it_would_be_whole(
    copy_of_sealed: str,
) -> None:
    """Its seal and its verification do not depend on how many rows are read at a time."""
    txid = await booked_by_hand(copy_of_sealed)
    async with engine_on(copy_of_sealed) as engine, asyncio.timeout(DEADLINE_SECONDS):
        sealer = LedgerSealer(PostgresSealedBooks(engine, slice_rows=7), read_rows_max=10)
        # A copy of a database is another place, with a separate epoch.
        while not await query(
            copy_of_sealed, f"SELECT 1 FROM ledger_seals WHERE end_txid > {txid} AND epoch = 2"
        ):
            await sealer.seal_next()
        whole = await PostgresSealedBooks(engine).transactions(
            txid, txid + 1, 10_000, is_restored=False
        )
        assert whole is not None
        assert [transaction.recorded_txid for transaction in whole] == [txid]
        contents = SealContents()
        contents.add_packed(whole[0])
        assert contents.rows_count == 300 + 250 + 600
        expected = (contents.contents_hash, contents.row_digests(), contents.events_count)
        sealed = (
            "SELECT contents_hash, row_digests, events_count FROM ledger_seals WHERE end_txid = "
        )
        assert await query(copy_of_sealed, f"{sealed}{txid + 1}") == [expected]
        for slice_rows in (1, 7, 4096):
            report = await verify_chain(engine, slice_rows=slice_rows)
            assert (report.audit.findings, report.unsealed_count) == ((), 0)
    await tamper(
        copy_of_sealed,
        "UPDATE ledger_entries SET amount_minor = 1 WHERE position IN (2, 200) AND event_id LIKE"
        " 'evt_a1%';"
        "DELETE FROM processor_events WHERE event_id LIKE 'evt_a1\\_1%';"
        "DELETE FROM ledger_seals WHERE sequence = 1",
    )
    async with engine_on(copy_of_sealed) as engine:
        in_slices, at_once = [
            await verify_chain(engine, slice_rows=slice_rows) for slice_rows in (7, 4096)
        ]
    assert len(at_once.audit.findings) == 1 + 100 + 1
    assert len(in_slices.audit.findings) == len(at_once.audit.findings)
    assert in_slices.audit.findings[-1] == at_once.audit.findings[-1]
    assert in_slices.unsealed_count == at_once.unsealed_count


async def test_large_transaction_is_sealed_in_parts(copy_of_sealed: str) -> None:
    """Several servers, one after the other, seal a part each.

    Each row is in one seal, and later changes are named.
    """
    txid = await booked_by_hand(copy_of_sealed)
    async with engine_on(copy_of_sealed) as engine, asyncio.timeout(DEADLINE_SECONDS):
        books = PostgresSealedBooks(engine, slice_rows=7)
        sealed = (
            "SELECT events_count + entries_count FROM ledger_seals"
            " WHERE is_restored ORDER BY sequence"
        )
        while not await query(
            copy_of_sealed,
            f"SELECT 1 FROM ledger_seals WHERE end_txid > {txid} AND NOT is_restored",
        ):
            await LedgerSealer(books, read_rows_max=10, part_rows=400).seal_next()
        parts = [row[0] for row in await query(copy_of_sealed, sealed)]
        assert len(parts) > 2
        assert sum(parts) == 300 + 250 + 600
        report = await verify_chain(engine, slice_rows=7)
        assert (report.audit.findings, report.unsealed_count) == ((), 0)
    await seal_everything(copy_of_sealed)
    await tamper(
        copy_of_sealed,
        "UPDATE ledger_entries SET amount_minor = 1 WHERE event_id LIKE 'evt_a1\\_1%' AND position"
        " = 1",
    )
    async with engine_on(copy_of_sealed) as engine:
        report = await verify_chain(engine, slice_rows=7)
    assert len(report.audit.findings) == 101
    assert report.unsealed_count == 0


async def test_sealer_that_dies_leaves_its_rows_to_the_next(database: Database) -> None:
    """A sealer that dies between its read and its insert."""

    class Dying(PostgresSealedBooks):
        async def append(self, seals: Sequence[Seal], stay_id: UUID) -> bool:
            raise RuntimeError(f"died before {len(seals)}")

    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        await ledger.ingest(event_message())
        with pytest.raises(RuntimeError, match="died before 1"):
            async with asyncio.timeout(DEADLINE_SECONDS):
                while True:
                    await LedgerSealer(Dying(ledger.engine)).seal_next()
                    await asyncio.sleep(0.02)
        await seal_everything(database.url)
    report = await verify(database.url)
    assert (report.audit.findings, report.events_count, report.unsealed_count) == ((), 1, 0)


async def until_sealed(ledger: RunningLedger) -> None:
    """Waits for the first seal."""

    async def sealed() -> bool:
        return await ledger.query("SELECT count(*) FROM ledger_seals") != [(0,)]

    await until(sealed, DEADLINE_SECONDS)


async def test_server_seals_by_itself(database: Database) -> None:
    """At the interval of LEDGER_SEAL_INTERVAL_SECONDS."""
    async with running_ledger(database, seal_interval_seconds=0.01) as ledger:
        await ledger.ingest(event_message())
        await until_sealed(ledger)


async def test_worker_outlives_failures(database: Database) -> None:
    """An outage of the database is reported, and sealing is tried again."""
    failures: list[str] = []

    class Flaky(LedgerSealer):
        async def seal_next(self, reads_at_once: int = 1) -> bool:
            if not failures:
                raise RuntimeError("not now")
            return await super().seal_next(reads_at_once)

    # The server's sealer is off: it might be quicker than this one.
    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        worker = SealWorker(
            Flaky(PostgresSealedBooks(ledger.engine)),
            interval_seconds=0.01,
            on_failure=lambda what, _: failures.append(what),
        )
        await ledger.ingest(event_message())
        worker.start()
        await until_sealed(ledger)
        await worker.stop()
    assert failures == ["sealing failed unexpectedly"]


@pytest.fixture(scope="module")
def other_server_url(starts_postgres: None) -> Iterator[str]:
    """Another cluster, with the low numbers of a new one."""
    if os.environ.get("LEDGER_TEST_DATABASE_URL"):
        pytest.skip("needs the programs of the embedded PostgreSQL")
    with (
        folder_for_all() as folder,
        EmbeddedPostgres.start(
            folder, parameters={"fsync": "off", "full_page_writes": "off"}
        ) as postgres,
    ):
        yield postgres.url(user=postgres.superuser, database="postgres")


async def current_number(url: str) -> int:
    ((number,),) = await query(url, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    return int(number)


async def number_of(url: str, event_id: str) -> int:
    ((number,),) = await query(
        url,
        "SELECT recorded_txid::text::bigint FROM processor_events WHERE event_id = :event_id",
        event_id=event_id,
    )
    return int(number)


async def test_chain_continues_after_a_restore_into_another_cluster(
    database: Database, other_server_url: str
) -> None:
    """The other cluster's numbers are lower than those of the restored rows.

    These are sealed at once. New rows with numbers that sealed rows have are sealed too, each once,
    and tampering is named as before.
    """
    async with running_ledger(database, seal_interval_seconds=0) as ledger:
        await ledger.ingest(event_message(event_id="evt_old_1"))
        await seal_everything(database.url)
        # Enough to be ahead of the other cluster, and for that to catch up with the middle of what
        # was sealed here.
        await burn_numbers(database.migration_url, 4000)
        await ledger.ingest(event_message(event_id="evt_old_2", metadata={"k": "é"}))
        await seal_everything(database.url)
        await ledger.ingest(event_message(event_id="evt_old_3"))
    await execute_alone(other_server_url, "CREATE DATABASE restored")
    url = database_url(other_server_url, database="restored")
    # A dump has no roles.
    roles = run_file(url, "roles.sql")
    assert roles.returncode == 0, roles.stderr
    await restore(database.migration_url, url)
    ((published,),) = await query(
        database.url, "SELECT hash FROM ledger_seals ORDER BY sequence DESC LIMIT 1"
    )
    report = await verify(url, published)
    assert (report.audit.findings, report.events_count, report.unsealed_count) == ((), 2, 2)
    assert await current_number(url) < await number_of(url, "evt_old_2")

    restored = Database(url, url)
    async with running_ledger(restored, seal_interval_seconds=0) as ledger:
        await ledger.ingest(event_message(event_id="evt_new_1"))
        await seal_everything(url)
        assert (await verify(url, published)).audit.findings == ()
        epochs = await query(
            url, "SELECT DISTINCT epoch, is_restored FROM ledger_seals ORDER BY epoch"
        )
        assert epochs == [(1, False), (2, True), (3, False)]
        # Past everything restored, through the ranges that are already sealed, with events on the
        # way.
        old = await number_of(url, "evt_old_2")
        await burn_numbers(url, (old - await current_number(url)) // 2)
        await ledger.ingest(event_message(event_id="evt_new_2"))
        await burn_numbers(url, max(1, old + 500 - await current_number(url)))
        await ledger.ingest(event_message(event_id="evt_new_3"))
        await seal_everything(url)
    report = await verify(url, published)
    assert (report.audit.findings, report.events_count, report.unsealed_count) == ((), 6, 0)

    await query(url, "ALTER TABLE ledger_entries DISABLE TRIGGER USER")
    await query(
        url,
        "UPDATE ledger_entries SET amount_minor = 1 WHERE event_id IN ('evt_old_3', 'evt_new_2')",
    )
    await execute_alone(
        url,
        COPY_ENTRY.format(transaction_id="gen_random_uuid()", position=1).replace(
            "evt_a2", "evt_old_1"
        ),
    )
    found = [
        text.partition(" was ")[2].partition(" after ")[0]
        for text in findings_of(await verify(url), ROWS)
    ]
    assert sorted(found) == ["changed", "changed", "inserted"]


async def test_canonical_metadata_is_what_another_program_writes(sealed: Database) -> None:
    """PostgreSQL's text of a jsonb, as docs/seals.md describes it for other languages."""
    rows = await query(
        sealed.migration_url,
        "SELECT metadata::text, metadata FROM processor_events WHERE metadata <> '{}'",
    )
    assert len(rows) == 2
    for text, metadata in rows:
        ordered = dict(
            sorted(metadata.items(), key=lambda pair: (len(pair[0].encode()), pair[0].encode()))
        )
        assert json.dumps(ordered, ensure_ascii=False) == text


async def test_ingested_posting_is_read_back_as_it_was_hashed(database: Database) -> None:
    """Amounts at their limits, long ids and every printable character of a reference."""
    event = processor_event(
        event_id="e" * 128,
        restaurant_id="r" * 128,
        amount_minor=10**12,
        fee_minor=10**12,
        reference="".join(map(chr, range(32, 127))),
        metadata={"": "", "\x02": "\x1f", "ключ": "значение", "k" * 200: "v" * 3000},
    )
    async with engine_on(database.url) as engine:
        ledger = PostgresEventLedger(partial(autocommit, engine), maturity_days=365)
        await ledger.open_accounts([event.account], register=True)
        posting = Posting(event, fingerprint(event), str(uuid_utils.uuid7()))
        await ledger.insert([posting], uuid_utils.compat.uuid7())
    await seal_everything(database.url)
    report = await verify(database.url)
    assert (report.audit.findings, report.unsealed_count) == ((), 0)
