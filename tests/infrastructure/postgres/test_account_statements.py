"""Account statements on PostgreSQL: pages show what a full read shows, at the cost of a page."""

import asyncio
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine
from support.books import engine_on, superuser
from support.disorder import recorded
from support.events import unique
from support.plans import buffers_of, explained, rows_read
from support.snapshots import ReportedTails, make_marks, until_final

from ledger.application.list_account_entries import list_account_entries
from ledger.application.list_entries import list_entries
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.statements import (
    AccountStatementQuery,
    StatementMoment,
    StatementQuery,
)
from ledger.bootstrap.database import Database
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import microseconds
from ledger.domain.posting_rules import EntryType
from ledger.errors import QueueFull
from ledger.infrastructure.postgres import account_statements as statements
from ledger.infrastructure.postgres.account_statements import (
    ACCOUNT_STATEMENTS,
    AFTER,
    PAGE_PARAMETERS,
    RESTAURANT_STATEMENTS,
    PostgresAccountStatements,
    PostgresStatements,
)
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import (
    Autocommit,
    BoundedConnections,
    autocommit,
)
from ledger.infrastructure.postgres.statement_marks import MARK_ENTRIES, PostgresStatementMarks
from ledger.infrastructure.postgres.verification.audit import load_checks

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
(MARKS_CHECK,) = [
    check.statement
    for check in load_checks()
    if check.name == "statement_marks_agree_with_the_entries"
]


@dataclass(frozen=True, slots=True)
class Holder:
    """A kind of holder: its statements, and an entry in its books."""

    name: str
    open: str
    keys: tuple[str, ...]
    entry: str
    sql: Any

    def insert(self, amounts: str, rows: str, *, occurred_at: str, cause: str) -> str:
        """SQL that inserts entries of this kind, with further columns for which `rows` has values.

        What a restaurant's entry has of its event, an account's has of its payment.
        """
        occurred = f", {occurred_at}, {cause}" if self is RESTAURANT else f", NULL, {cause}"
        column = "event_id" if self is RESTAURANT else "payment_id"
        return f"""
INSERT INTO ledger_entries ({amounts}, entry_type, debit_account, credit_account, occurred_at,
  {column})
SELECT {rows}, {self.entry}{occurred}
"""

    @property
    def restored(self) -> str:
        """SQL of entries as a restore writes them, with the instants and numbers that they had."""
        return (
            self.insert(
                "balance_account_id, recorded_txid, transaction_id, position, amount_minor,"
                " recorded_at",
                "$1, e.txid::text::xid8, e.transaction_id, e.position, e.amount_minor,"
                " e.recorded_at",
                occurred_at="e.recorded_at",
                cause="'of_' || e.transaction_id",
            )
            + """
FROM unnest($2::bigint[], $3::uuid[], $4::smallint[], $5::bigint[], $6::timestamptz[])
  AS e (txid, transaction_id, position, amount_minor, recorded_at)
"""
        )

    @property
    def insert_now(self) -> str:
        """SQL of an entry of now."""
        return self.insert(
            "balance_account_id, transaction_id, position, amount_minor",
            "$1::bigint, gen_random_uuid(), 1, $2::bigint",
            occurred_at="now()",
            cause="'of_now'",
        )

    def query(
        self,
        holder_id: str,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        *,
        entry_types: frozenset[EntryType] = frozenset(),
        cause: str | None = None,
    ) -> StatementQuery | AccountStatementQuery:
        """The query for a statement in PEN."""
        if self is ACCOUNT:
            return AccountStatementQuery(holder_id, start_at, end_at, entry_types, cause)
        account = BalanceAccount(holder_id, "PEN")
        return StatementQuery(account, start_at, end_at, entry_types, cause, None)

    async def page(
        self,
        connections: Autocommit,
        query: StatementQuery | AccountStatementQuery,
        place: Any,
        page_size: int,
        **reader: Any,
    ) -> tuple[StatementMoment, list[StoredEntry], Any]:
        """A page of a statement. Of an account, the balances after the entries must add up."""
        if isinstance(query, StatementQuery):
            books = PostgresStatements(connections, **reader)
            page = await list_entries(books, query, place, page_size)
            return page.moment, list(page.items), page.next_place
        accounts = PostgresAccountStatements(connections, **reader)
        found = await list_account_entries(accounts, query, place, page_size)
        balance = found.moment.opening_minor if place is None else place.balance_minor
        for entry, balance_minor in found.items:
            if query.is_filtered:
                assert balance_minor is None
            else:
                balance += entry.amount_minor
                assert balance_minor == balance
        return found.moment, [entry for entry, _ in found.items], found.next_place


RESTAURANT = Holder(
    "restaurant",
    "INSERT INTO restaurants (restaurant_id) VALUES ($1)",
    ("res_1", "PEN"),
    "'ADJUSTMENT_CREDIT', 'adjustments', 'restaurant_payable'",
    RESTAURANT_STATEMENTS,
)
ACCOUNT = Holder(
    "account",
    "INSERT INTO accounts (account_id, currency, opened_with) VALUES ($1, 'PEN', '{}')",
    ("res_1",),
    "'TRANSFER_IN', 'interaccount', 'account_funds'",
    ACCOUNT_STATEMENTS,
)


@pytest.fixture(params=[RESTAURANT, ACCOUNT], ids=lambda holder: holder.name)
def holder(request: pytest.FixtureRequest) -> Holder:
    """Each kind of holder: what is promised of statements holds for both."""
    found: Holder = request.param
    return found


# The sizes from which PostgreSQL reads a table or an index with several processes.
MIN_SIZES_FOR_MORE_PROCESSES = ("min_parallel_table_scan_size", "min_parallel_index_scan_size")

NOW_AND_HORIZON = (
    "SELECT now() AS now, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of an entry in a statement, and its amount."""

    recorded_at: datetime
    txid: int
    transaction_id: UUID
    position: int
    amount_minor: int


async def open_account(connection: Connection, holder: Holder, holder_id: str) -> int:
    """Opens the balance account of a holder in PEN. Returns its id."""
    await connection.execute(holder.open, holder_id)
    account: int = await connection.fetchval(
        f"INSERT INTO balance_accounts ({holder.name}_id, currency) VALUES ($1, 'PEN')"
        " RETURNING balance_account_id",
        holder_id,
    )
    return account


async def restore(
    connection: Connection, holder: Holder, account: int, entries: Sequence[Entry]
) -> None:
    await connection.execute(
        holder.restored,
        account,
        [entry.txid for entry in entries],
        [entry.transaction_id for entry in entries],
        [entry.position for entry in entries],
        [entry.amount_minor for entry in entries],
        [entry.recorded_at for entry in entries],
    )


def some_entries(chance: random.Random, number: int, txid_end: int, now: datetime) -> list[Entry]:
    """Entries in any disorder of instants and numbers."""
    entries: list[Entry] = []
    for recorded_at, txid in recorded(chance, max(3, txid_end - 400), txid_end, now):
        if len(entries) >= number:
            break
        for position in range(1, chance.choice((1, 1, 2, 3)) + 1):
            entries.append(
                Entry(
                    recorded_at,
                    txid,
                    uuid_utils.compat.uuid7(),
                    position,
                    chance.randrange(1, 10**9),
                )
            )
    return entries


async def paged(
    engine: AsyncEngine,
    holder: Holder,
    statement_query: StatementQuery | AccountStatementQuery,
    page_size: int,
) -> tuple[int, int, list[tuple[datetime, UUID, int, int]]]:
    """The whole statement: opening, closing, entries."""
    place: Any = None
    found: list[tuple[datetime, UUID, int, int]] = []
    while True:
        moment, entries, place = await holder.page(
            partial(autocommit, engine), statement_query, place, page_size
        )
        assert len(entries) <= page_size
        assert place is None or len(entries) == page_size
        found += [
            (
                EPOCH + entry.recorded_at_microseconds * MICROSECOND,
                entry.transaction_id,
                entry.position,
                entry.amount_minor,
            )
            for entry in entries
        ]
        if place is None:
            return moment.opening_minor, moment.closing_minor, found


def expected(
    entries: Sequence[Entry], start_at: datetime | None, end_at: datetime | None
) -> tuple[int, int, list[tuple[datetime, UUID, int, int]]]:
    """The same, computed from all entries."""
    ordered = sorted(
        entries,
        key=lambda entry: (entry.recorded_at, entry.txid, entry.transaction_id, entry.position),
    )
    before_end = [entry for entry in ordered if end_at is None or entry.recorded_at < end_at]
    shown = [entry for entry in before_end if start_at is None or entry.recorded_at >= start_at]
    closing = sum(entry.amount_minor for entry in before_end)
    opening = closing - sum(entry.amount_minor for entry in shown)
    return (
        opening,
        closing,
        [(e.recorded_at, e.transaction_id, e.position, e.amount_minor) for e in shown],
    )


@pytest.fixture
def short_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page needs several reaches, as in an account of many more entries."""
    monkeypatch.setattr(statements, "MARK_ENTRIES", 2)


@pytest.mark.usefixtures("short_reach")
@pytest.mark.parametrize("book", range(6))
async def test_statement_equals_a_read_of_everything(
    shared_database: Database, holder: Holder, book: int, seed: int
) -> None:
    """For any order of instants and numbers, and marks of any density, some missing.

    Any page size and period shows the entries of the period, each once, between balances that tie
    out. The audit has no finding about the marks.
    """
    chance = random.Random(seed)
    restaurant_id = unique(f"res_{book}")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        account = await open_account(connection, holder, restaurant_id)
        ((now, txid_end),) = await connection.fetch(NOW_AND_HORIZON)
        entries = some_entries(chance, chance.choice((1, 30, 120)), txid_end, now)
        await restore(connection, holder, account, entries)
        if chance.random() < 0.9:
            await make_marks(
                engine,
                restaurant_id,
                mark_entries=chance.choice((1, 3, 10)),
                read_entries_max=chance.choice((1, 7, 1000)),
            )
        assert await connection.fetch(MARKS_CHECK) == []
        marks = await connection.fetch(
            "SELECT horizon::text FROM statement_marks WHERE balance_account_id = $1", account
        )
        missing = [row["horizon"] for row in marks if chance.random() < 0.2]
        await connection.execute(
            "DELETE FROM statement_marks WHERE balance_account_id = $1 AND horizon::text = ANY "
            "($2)",
            account,
            missing,
        )
        edges = sorted({entry.recorded_at for entry in entries})
        for _ in range(6):
            period = [
                None
                if chance.random() < 0.3
                else chance.choice(edges) + chance.choice((-1, 0, 1)) * MICROSECOND
                for _ in range(2)
            ]
            start_at, end_at = (
                period if None in period else sorted(period, key=lambda at: at or now)
            )
            statement_query = holder.query(restaurant_id, start_at, end_at)
            found = await paged(engine, holder, statement_query, chance.choice((1, 4, 25, 1000)))
            assert found == expected(entries, start_at, end_at), (
                f"seed {seed}, {start_at} to {end_at}"
            )
        await connection.execute(
            "DELETE FROM statement_marks WHERE balance_account_id = $1", account
        )


@pytest.mark.usefixtures("short_reach")
async def test_statements_tie_out_while_marks_are_made(
    shared_database: Database, holder: Holder, seed: int
) -> None:
    """Writers commit late, in any order, and marks are made between pages.

    Every statement adds up to its closing balance, and a later one has what an earlier one had, in
    the same order.
    """
    restaurant_id = unique("res")
    whole = holder.query(restaurant_id)
    chance = random.Random(seed)
    stop = asyncio.Event()
    async with (
        engine_on(shared_database.url, pool_size=8) as engine,
        superuser(shared_database) as connection,
    ):
        account = await open_account(connection, holder, restaurant_id)

        async def write() -> None:
            async with superuser(shared_database) as writer:
                while not stop.is_set():
                    transaction = writer.transaction()
                    await transaction.start()
                    # Its instant is that of its start, its number that of its first row.
                    await writer.execute("SELECT pg_sleep($1)", chance.choice((0, 0, 0.001, 0.02)))
                    for _ in range(chance.choice((1, 3))):
                        await writer.execute(holder.insert_now, account, chance.randrange(1, 10**6))
                    await writer.execute("SELECT pg_sleep($1)", chance.choice((0, 0, 0.001, 0.02)))
                    await transaction.commit()

        async def mark() -> None:
            marks = PostgresStatementMarks(engine, mark_entries=2, read_entries_max=5)
            while not stop.is_set():
                await marks.take(account, 1)
                await asyncio.sleep(0)

        workers = [asyncio.create_task(work()) for work in (write, write, write, write, mark)]
        try:
            for _ in range(10):
                opening, closing, entries = await paged(
                    engine, holder, whole, chance.choice((3, 10, 40))
                )
                assert opening + sum(entry[-1] for entry in entries) == closing, f"seed {seed}"
                assert [entry[0] for entry in entries] == sorted(entry[0] for entry in entries)
                assert len({entry[1] for entry in entries}) == len(entries)
        finally:
            stop.set()
            await asyncio.gather(*workers)
        await make_marks(engine, restaurant_id, mark_entries=2)
        assert await connection.fetch(MARKS_CHECK) == []
        opening, closing, entries = await paged(engine, holder, whole, 100)
        stored = await connection.fetch(
            "SELECT transaction_id FROM ledger_entries WHERE balance_account_id = $1"
            " ORDER BY recorded_at, recorded_txid, transaction_id, position",
            account,
        )
        assert [entry[1] for entry in entries] == [row["transaction_id"] for row in stored]
        assert (opening, closing) == (0, sum(entry[-1] for entry in entries))


@pytest.mark.usefixtures("short_reach")
async def test_filters_choose_among_all_entries(shared_database: Database, holder: Holder) -> None:
    """Matching entries may be anywhere in the account, many marks apart."""
    restaurant_id = unique("res")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        account = await open_account(connection, holder, restaurant_id)
        ((now, txid_end),) = await connection.fetch(NOW_AND_HORIZON)
        entries = [
            Entry(
                now - timedelta(seconds=90 - number),
                txid_end - 90 + number,
                uuid_utils.compat.uuid7(),
                1,
                1 + number,
            )
            for number in range(90)
        ]
        await restore(connection, holder, account, entries)
        await make_marks(engine, restaurant_id, mark_entries=3)
        for entry in (entries[0], entries[44], entries[89]):
            of_event = holder.query(restaurant_id, cause=f"of_{entry.transaction_id}")
            _, closing, found = await paged(engine, holder, of_event, 1)
            assert found == [(entry.recorded_at, entry.transaction_id, 1, entry.amount_minor)]
            assert closing == sum(range(1, 91))
        of_type = holder.query(restaurant_id, entry_types=frozenset({EntryType.CHARGE}))
        assert (await paged(engine, holder, of_type, 5))[2] == []


@pytest.mark.parametrize(
    ("change", "is_used"),
    [
        ("", True),
        ("stay_id = gen_random_uuid()", False),
        ("horizon = '9000000000000000000'", False),
        ("written_txid = '3'", False),
        ("written_txid = NULL", False),
    ],
    ids=[
        "of this stay",
        "of another stay",
        "ahead of this cluster",
        "written elsewhere",
        "written in an unknown cluster",
    ],
)
async def test_only_marks_of_this_stay_are_used(
    shared_database: Database, holder: Holder, change: str, is_used: bool
) -> None:
    """A mark with a wrong sum shows whether it is used.

    It is, only if it is of this stay, written in it, and not ahead of the cluster.
    """
    restaurant_id = unique("res")
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        account = await open_account(connection, holder, restaurant_id)
        await connection.execute(holder.insert_now, account, 5)
        assert await make_marks(engine, restaurant_id) == 1
        await connection.execute(
            "ALTER TABLE statement_marks DISABLE TRIGGER statement_marks_deny_change"
        )
        believed = "" if "written_txid" in change else "written_txid = pg_current_xact_id()"
        sum_minor = "payable_minor" if holder is RESTAURANT else "funds_minor"
        changes = ", ".join(filter(None, (f"{sum_minor} = 77", believed, change)))
        await connection.execute(
            f"UPDATE statement_marks SET {changes} WHERE balance_account_id = $1", account
        )
        await connection.execute(
            "ALTER TABLE statement_marks ENABLE ALWAYS TRIGGER statement_marks_deny_change"
        )
        whole = holder.query(restaurant_id)
        assert (await paged(engine, holder, whole, 10))[1] == (77 if is_used else 5)
        await connection.execute(
            "DELETE FROM statement_marks WHERE balance_account_id = $1", account
        )


# A mark as a server of before 0027 makes it.
INSERT_OLD_MARK = """
INSERT INTO statement_marks (balance_account_id, stay_id, horizon, entries_count, last_recorded_at,
  late_by_max, payable_minor)
SELECT $1, (SELECT stay_id FROM current_stay), pg_snapshot_xmin(pg_current_snapshot()), count(*),
       max(recorded_at), interval '0', $2
FROM ledger_entries WHERE balance_account_id = $1
"""


async def test_marks_without_the_funds_of_an_account_are_not_stored(
    shared_database: Database,
) -> None:
    """Servers that know no accounts make them. They would take the places of marks with the sum.

    Marks of restaurants are used, and continued with both sums.
    """
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        for holder, amount in ((ACCOUNT, 0), (RESTAURANT, 5)):
            holder_id = unique(holder.name)
            account = await open_account(connection, holder, holder_id)
            await connection.execute(holder.insert_now, account, 5)
            await until_final(engine)
            async with autocommit(engine) as session:
                status = await session.execute(INSERT_OLD_MARK, account, amount)
            assert status == ("INSERT 0 0" if holder is ACCOUNT else "INSERT 0 1")
            await connection.execute(holder.insert_now, account, 7)
            assert await make_marks(engine, holder_id) == 1
            sums = await connection.fetch(
                "SELECT payable_minor, funds_minor FROM statement_marks"
                " WHERE balance_account_id = $1 ORDER BY horizon",
                account,
            )
            assert [tuple(row) for row in sums] == (
                [(0, 12)] if holder is ACCOUNT else [(5, None), (12, 0)]
            )
            assert (await paged(engine, holder, holder.query(holder_id), 1))[:2] == (0, 12)
            assert await connection.fetch(MARKS_CHECK) == []


async def test_marks_are_made_before_a_long_tail_is_read(
    shared_database: Database, holder: Holder
) -> None:
    """The first page then reads none of the entries that they count."""
    restaurant_id = unique("res")
    whole = holder.query(restaurant_id)
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        account = await open_account(connection, holder, restaurant_id)
        asked: list[int] = []

        class MarkedTails(ReportedTails):
            async def shortened(self, balance_account_id: int) -> None:
                asked.append(balance_account_id)
                await make_marks(engine, restaurant_id)

        tails = MarkedTails()
        for number in range(1, 5):
            await connection.execute(holder.insert_now, account, 1)
            moment, page, _ = await holder.page(
                partial(autocommit, engine), whole, None, 10, long_tails=tails, tail_entries_max=3
            )
            assert (len(page), moment.closing_minor) == (number, number)
            assert asked == ([] if number < 4 else [account])
        assert tails.tails[account] == 0


async def test_statement_reports_how_many_entries_no_mark_counts(
    shared_database: Database, holder: Holder
) -> None:
    """All entries without a mark; with one, those since."""
    restaurant_id = unique("res")
    whole = holder.query(restaurant_id)
    async with engine_on(shared_database.url) as engine, superuser(shared_database) as connection:
        account = await open_account(connection, holder, restaurant_id)

        async def reported() -> int:
            tails = ReportedTails()
            await holder.page(partial(autocommit, engine), whole, None, 1, long_tails=tails)
            return tails.tails[account]

        for _ in range(4):
            await connection.execute(holder.insert_now, account, 1)
        assert await reported() == 4
        await until_final(engine)
        assert not await PostgresStatementMarks(engine).take(account, 5)
        assert await PostgresStatementMarks(engine).take(account, 4)
        assert await reported() == 0
        await connection.execute(holder.insert_now, account, 1)
        assert await reported() == 1


# What a page costs

ACCOUNT_ENTRIES = 20_000
PAGE_ENTRIES = 100


async def test_cost_of_a_page_does_not_grow_with_the_account(
    database: Database, holder: Holder
) -> None:
    """In an account of 20,000 entries, one a transaction, some written late.

    A page and the balances read some hundred rows and not the account: as many at its beginning, in
    its middle and at its end.
    """
    async with engine_on(database.url) as engine, superuser(database) as connection:
        account = await open_account(connection, holder, "res_1")
        ((now, first),) = await connection.fetch(NOW_AND_HORIZON)
        await connection.execute(
            "DO $$ BEGIN FOR n IN 1..20000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; "
            "END $$"
        )
        entries = [
            Entry(
                now - timedelta(seconds=ACCOUNT_ENTRIES - number - (number % 7)),
                first + number,
                uuid_utils.compat.uuid7(),
                1,
                1,
            )
            for number in range(ACCOUNT_ENTRIES)
        ]
        await restore(connection, holder, account, entries)
        await make_marks(engine, "res_1")
        await connection.execute("ANALYZE ledger_entries")
    async with engine_on(database.url) as engine, autocommit(engine) as connection:
        for place in (0, ACCOUNT_ENTRIES // 2, ACCOUNT_ENTRIES - 150):
            start_at = entries[place].recorded_at
            (reach,) = await connection.fetch(
                holder.sql.reach, *holder.keys, start_at, now, PAGE_ENTRIES + 1 + MARK_ENTRIES
            )
            until = now if reach["complete_before"] is None else reach["complete_before"]
            ends = (reach["first_txid"], reach["end_txid"], reach["tail_txid"])
            found = await connection.fetch(
                holder.sql.page.format(conditions=""), *holder.keys, start_at, until, 100, *ends
            )
            assert len(found) == PAGE_ENTRIES
            page = await explained(
                connection,
                holder.sql.page.format(conditions=""),
                *holder.keys,
                start_at,
                until,
                100,
                *ends,
            )
            assert rows_read(page) <= PAGE_ENTRIES + 4 * MARK_ENTRIES, place
            assert buffers_of(page) <= 100, place
            moment = await explained(
                connection, holder.sql.moment, *holder.keys, start_at, now - timedelta(minutes=1)
            )
            assert rows_read(moment) <= 8 * MARK_ENTRIES, place
            assert (
                buffers_of(
                    await explained(connection, holder.sql.reach, *holder.keys, start_at, now, 301)
                )
                <= 60
            ), place


async def test_page_of_batches_is_read_at_once(database: Database, holder: Holder) -> None:
    """Each transaction wrote a whole page of one instant; the page before ended inside of one.

    The first reach has the page and one entry more. It reads three batches beyond the one in which
    it starts.
    """
    batch_entries, batches = 500, 20
    begin = (
        f"DO $$ BEGIN FOR n IN 1..{batches} LOOP PERFORM pg_current_xact_id(); COMMIT; END "
        "LOOP; END $$"
    )
    async with engine_on(database.url) as engine, superuser(database) as connection:
        account = await open_account(connection, holder, "res_1")
        ((now, first),) = await connection.fetch(NOW_AND_HORIZON)
        await connection.execute(begin)
        entries = [
            Entry(
                now - timedelta(seconds=batches - batch),
                first + batch,
                uuid_utils.compat.uuid7(),
                1,
                1,
            )
            for batch in range(batches)
            for _ in range(batch_entries)
        ]
        await restore(connection, holder, account, entries)
        await make_marks(engine, "res_1")
        await connection.execute("ANALYZE ledger_entries")
    limit = batch_entries + 1
    async with engine_on(database.url) as engine, autocommit(engine) as connection:
        for place in (batch_entries - 1, 10 * batch_entries - 1, 10 * batch_entries + 200):
            last = entries[place]
            first = len(holder.keys) + PAGE_PARAMETERS + 1
            after = AFTER.format(*range(first, first + 4))
            (reach,) = await connection.fetch(
                holder.sql.reach, *holder.keys, last.recorded_at, now, limit + MARK_ENTRIES
            )
            values = (
                *(*holder.keys, last.recorded_at, reach["complete_before"], limit),
                *(reach["first_txid"], reach["end_txid"], reach["tail_txid"]),
                *(last.recorded_at, str(last.txid), last.transaction_id, last.position),
            )
            statement = holder.sql.page.format(conditions=f"AND {after}")
            found = await connection.fetch(statement, *values)
            expected_page = entries[place + 1 : place + 1 + limit]
            assert [row["transaction_id"] for row in found] == [
                e.transaction_id for e in expected_page
            ]
            plan = await explained(connection, statement, *values)
            assert rows_read(plan) <= 4 * batch_entries, place


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (RESTAURANT_STATEMENTS.moment, "'res_1', 'PEN', now(), now()"),
        (ACCOUNT_STATEMENTS.moment, "'acc_1', now(), now()"),
        (
            RESTAURANT_STATEMENTS.page.format(conditions=""),
            "'res_1', 'PEN', now(), now(), 10, '3', '4', '5'",
        ),
        (
            ACCOUNT_STATEMENTS.page.format(conditions=""),
            "'acc_1', now(), now(), 10, '3', '4', '5'",
        ),
    ],
    ids=["moment", "moment of an account", "page", "page of an account"],
)
async def test_plans_made_while_the_tables_are_empty_read_ranges(
    database: Database, statement: str, values: str
) -> None:
    """Plans are kept when the tables have grown, so the first ones must read ranges.

    Entries are read by ranges of the primary key.
    """
    async with superuser(database) as connection:
        await connection.execute(f"PREPARE planned AS {statement}")
        plan = "\n".join(
            row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE planned ({values})")
        )
    assert "Seq Scan on ledger_entries" not in plan
    scans = re.findall(r"ledger_entries_(\w+).*\n *Index Cond: (.*)", plan)
    assert {name for name, _ in scans} == {"pkey"}
    assert all("recorded_txid >=" in condition for _, condition in scans)
    assert any("recorded_txid <" in condition for _, condition in scans)


async def test_page_and_balances_are_read_by_one_process(
    database: Database, holder: Holder
) -> None:
    """Even with settings by which further processes cost nothing.

    A plan for any values expects a third of the account, and a page would start two processes.
    """
    name = make_url(database.url).database
    async with engine_on(database.url) as engine, superuser(database) as connection:
        for setting in (
            "parallel_setup_cost",
            "parallel_tuple_cost",
            *MIN_SIZES_FOR_MORE_PROCESSES,
        ):
            await connection.execute(f"ALTER DATABASE {name} SET {setting} = 0")
        account = await open_account(connection, holder, "res_1")
        ((now, first),) = await connection.fetch(NOW_AND_HORIZON)
        await restore(
            connection,
            holder,
            account,
            [Entry(now, first - 1, uuid_utils.compat.uuid7(), 1, 1) for _ in range(10_000)],
        )
        await connection.execute("ANALYZE ledger_entries")
        keys = ", ".join(f"'{key}'" for key in holder.keys)
        async with autocommit(engine) as session:
            for statement, values in (
                (holder.sql.moment, f"{keys}, now(), now()"),
                (
                    holder.sql.page.format(conditions=""),
                    f"{keys}, now(), now(), 10, '3', '4', '5'",
                ),
            ):
                await session.execute(f"PREPARE planned AS {statement}")
                plan = "\n".join(
                    row[0] for row in await session.fetch(f"EXPLAIN EXECUTE planned ({values})")
                )
                assert "Gather" not in plan, plan
                await session.execute("DEALLOCATE planned")


async def test_endless_instants_are_the_last_of_the_contract(database: Database) -> None:
    """Only a manual write can have stored them; the statement still shows them."""
    holder = RESTAURANT
    async with engine_on(database.url) as engine, superuser(database) as connection:
        account = await open_account(connection, holder, "res_1")
        ((now, first),) = await connection.fetch(NOW_AND_HORIZON)
        entries = [
            Entry(now - number * MICROSECOND, first - 1, uuid_utils.compat.uuid7(), 1, 1)
            for number in (2, 1)
        ]
        await restore(connection, holder, account, entries)
        await connection.execute("ALTER TABLE ledger_entries DISABLE TRIGGER USER")
        for entry, at in zip(entries, ("infinity", "-infinity"), strict=True):
            statement = f"UPDATE ledger_entries SET occurred_at = '{at}' WHERE transaction_id = $1"
            await connection.execute(statement, entry.transaction_id)
        _, page, _ = await holder.page(partial(autocommit, engine), holder.query("res_1"), None, 10)
    found = [(entry.occurred_at_microseconds, entry.available_at_microseconds) for entry in page]
    last, earliest = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
    assert found == [(microseconds(last), None), (microseconds(earliest), None)]


async def test_long_reads_are_bounded(shared_database: Database) -> None:
    """Of three reads two may be open: the third is refused, and admitted after one ended."""
    async with engine_on(shared_database.url, pool_size=1) as engine:
        connections = BoundedConnections(engine, uses_max=2)
        async with connections.autocommit() as connection:

            async def read_one() -> int:
                async with connections.autocommit() as other:
                    one: int = await other.fetchval("SELECT 1")
                    return one

            waiting = asyncio.create_task(read_one())
            while connections.uses < 2:  # noqa: ASYNC110  # until the other task has run
                await asyncio.sleep(0)
            with pytest.raises(QueueFull):
                async with connections.autocommit():
                    pass
            assert await connection.fetchval("SELECT 1") == 1
        assert await waiting == 1
        async with connections.autocommit() as connection:
            assert await connection.fetchval("SELECT 1") == 1
