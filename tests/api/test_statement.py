"""ListEntries as a caller sees it: the entries of a period between two balances that tie out.

Page by page, whatever else the server does.
"""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool
from support.audit import assert_books_in_order
from support.dates import date_message, days_ago
from support.events import event_message, timestamp, unique
from support.page_tokens import keyed_token
from support.running import RunningLedger, running_ledger
from support.waiting import POLL_SECONDS

from ledger.api.convert.instants import decode_instant
from ledger.bootstrap.database import Database
from ledger.domain.events import PLATFORM_EVENT_TYPES
from ledger.domain.posting_rules import EVENT_POSTING_RULES
from ledger.v1 import ledger_pb2

PAYABLE = ledger_pb2.LEDGER_ACCOUNT_RESTAURANT_PAYABLE
CHARGE = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED
REFUND = ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED
DISPUTE_OPENED = ledger_pb2.EVENT_TYPE_DISPUTE_OPENED
YEAR_1, YEAR_9999 = -62_135_596_800, 253_402_300_799
INT64_MAX = 2**63 - 1
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Statement:
    """All pages of a statement."""

    opening_minor: int
    closing_minor: int
    entries: list[ledger_pb2.LedgerEntry]
    pages: int

    @property
    def moved_minor(self) -> int:
        return sum(signed(entry) for entry in self.entries)


def signed(entry: ledger_pb2.LedgerEntry) -> int:
    """The change of the amount owed to the restaurant by the entry."""
    assert (entry.credit_account == PAYABLE) != (entry.debit_account == PAYABLE)
    return entry.amount_minor if entry.credit_account == PAYABLE else -entry.amount_minor


def request_of(restaurant_id: str, **fields: Any) -> ledger_pb2.ListEntriesRequest:
    return ledger_pb2.ListEntriesRequest(
        **({"restaurant_id": restaurant_id, "currency": "PEN"} | fields)
    )


async def statement_of(ledger: RunningLedger, restaurant_id: str, **fields: Any) -> Statement:
    """Reads every page. Asserts that each has the same balances."""
    first = await ledger.stub.ListEntries(request_of(restaurant_id, **fields))
    return await rest_of(ledger, restaurant_id, first, **fields)


async def rest_of(
    ledger: RunningLedger, restaurant_id: str, first: ledger_pb2.ListEntriesResponse, **fields: Any
) -> Statement:
    """The statement that `first` is the first page of."""
    entries, pages, page = list(first.entries), 1, first
    while page.next_page_token:
        page = await ledger.stub.ListEntries(
            request_of(restaurant_id, **fields, page_token=page.next_page_token)
        )
        assert page.opening_balance_minor == first.opening_balance_minor
        assert page.closing_balance_minor == first.closing_balance_minor
        assert page.entries, "no page but the first is empty"
        entries += page.entries
        pages += 1
    return Statement(first.opening_balance_minor, first.closing_balance_minor, entries, pages)


async def balance_minor(
    ledger: RunningLedger, restaurant_id: str, as_of: Timestamp | None = None
) -> int:
    """Available and pending together."""
    request = ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency="PEN", as_of=as_of)
    balance = await ledger.stub.GetBalance(request)
    return balance.available_minor + balance.pending_minor


async def refused(
    ledger: RunningLedger, request: ledger_pb2.ListEntriesRequest
) -> tuple[grpc.StatusCode, str, set[str]]:
    """Code, reason, and the fields of the violations."""
    with pytest.raises(aio.AioRpcError) as caught:
        await ledger.stub.ListEntries(request)
    got: Any = caught.value
    status = rpc_status.from_call(got)
    assert status is not None
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
    return (
        caught.value.code(),
        info.reason,
        {violation.field for violation in bad_request.field_violations},
    )


def names(entries: Sequence[ledger_pb2.LedgerEntry]) -> list[str]:
    return [ledger_pb2.EntryType.Name(entry.type).removeprefix("ENTRY_TYPE_") for entry in entries]


@pytest.mark.both_servers
async def test_statement_ties_out_with_the_balances(shared_ledger: RunningLedger) -> None:
    """Opening and closing equal GetBalance as of the same instants; entries are oldest first."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(
        event_message(restaurant_id=restaurant_id, amount_minor=10_000, fee_minor=300)
    )
    await shared_ledger.ingest(
        event_message(REFUND, restaurant_id=restaurant_id, amount_minor=12_000),
        event_message(DISPUTE_OPENED, restaurant_id=restaurant_id, amount_minor=700, fee_minor=50),
    )
    yesterday = datetime.now(UTC) - timedelta(days=1)
    await shared_ledger.ingest(
        event_message(restaurant_id=restaurant_id, amount_minor=900, occurred_at=yesterday)
    )
    await shared_ledger.ingest(
        event_message(restaurant_id=restaurant_id, currency="JPY", amount_minor=5)
    )
    whole = await statement_of(shared_ledger, restaurant_id)
    assert sorted(names(whole.entries)) == sorted(
        ["CHARGE", "FEE", "REFUND", "DISPUTE_HOLD", "DISPUTE_FEE", "CHARGE"]
    )
    assert names(whole.entries)[:2] == ["CHARGE", "FEE"]
    assert (whole.opening_minor, whole.closing_minor, whole.moved_minor) == (0, -2_150, -2_150)
    assert await balance_minor(shared_ledger, restaurant_id) == -2_150
    start_at, end_at = whole.entries[2].recorded_at, whole.entries[5].recorded_at
    part = await statement_of(shared_ledger, restaurant_id, start_at=start_at, end_at=end_at)
    assert part.entries == whole.entries[2:5]
    assert (
        part.opening_minor == await balance_minor(shared_ledger, restaurant_id, start_at) == 9_700
    )
    assert part.closing_minor == await balance_minor(shared_ledger, restaurant_id, end_at) == -3_050


@pytest.mark.both_servers
async def test_entries_equal_those_of_get_event(shared_ledger: RunningLedger) -> None:
    """The same messages, but only entries on restaurant_payable."""
    event = event_message(DISPUTE_OPENED, restaurant_id=unique("res"), fee_minor=7)
    await shared_ledger.ingest(event)
    stored = await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    got = await statement_of(shared_ledger, event.restaurant_id)
    assert names(stored.entries) == ["DISPUTE_HOLD", "DISPUTE_WITHDRAWAL", "DISPUTE_FEE"]
    assert got.entries == [stored.entries[0], stored.entries[2]]


@pytest.mark.both_servers
async def test_pages_may_end_anywhere(shared_ledger: RunningLedger) -> None:
    """Inside a batch that was recorded at one instant, or inside an event.

    Together the pages are the statement, whatever their size.
    """
    restaurant_id = unique("res")
    for _ in range(2):
        await shared_ledger.ingest(
            *(event_message(restaurant_id=restaurant_id, fee_minor=1) for _ in range(5))
        )
    whole = await statement_of(shared_ledger, restaurant_id)
    assert (len(whole.entries), whole.pages) == (20, 1)
    assert len({(entry.transaction_id, entry.position) for entry in whole.entries}) == 20
    for page_size, pages in ((1, 20), (3, 7), (10, 2), (19, 2), (20, 1), (21, 1)):
        paged = await statement_of(shared_ledger, restaurant_id, page_size=page_size)
        assert (paged.entries, paged.pages) == (whole.entries, pages)


@pytest.mark.both_servers
async def test_page_size_has_a_default_and_a_ceiling(ledger: RunningLedger) -> None:
    """0 means 100, more than 1,000 means 1,000, and -1 is refused.

    The largest page fits a message.
    """
    restaurant_id = "r" * 128
    events = [
        event_message(restaurant_id=restaurant_id, event_id=f"{number:0128d}", fee_minor=1)
        for number in range(501)
    ]
    await ledger.ingest(*events)
    for asked, given_entries in ((0, 100), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)):
        page = await ledger.stub.ListEntries(request_of(restaurant_id, page_size=asked))
        assert len(page.entries) == given_entries
        assert page.next_page_token
        assert page.ByteSize() < 1024 * 1024
    whole = await statement_of(ledger, restaurant_id, page_size=1000)
    assert (len(whole.entries), whole.pages) == (1002, 2)


@pytest.mark.both_servers
async def test_statement_leaves_out_entries_booked_while_paging(
    shared_ledger: RunningLedger,
) -> None:
    """The end of the period at the first page holds for all pages, and so do the balances."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(
        *(event_message(restaurant_id=restaurant_id, amount_minor=100) for _ in range(4))
    )
    entries: list[ledger_pb2.LedgerEntry] = []
    token = ""
    while True:
        page = await shared_ledger.stub.ListEntries(
            request_of(restaurant_id, page_size=1, page_token=token)
        )
        entries += page.entries
        assert (page.opening_balance_minor, page.closing_balance_minor) == (0, 400)
        token = page.next_page_token
        await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
        if not token:
            break
    assert [entry.amount_minor for entry in entries] == [100] * 4


INSERT_ENTRY = """
INSERT INTO ledger_entries (
  balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
  amount_minor, occurred_at, event_id, recorded_at)
SELECT balance_account_id, gen_random_uuid(), 1, 'ADJUSTMENT_CREDIT', 'adjustments',
       'restaurant_payable', :amount_minor, now(), 'evt_by_hand',
       COALESCE(CAST(:recorded_at AS timestamptz), now())
FROM balance_accounts
WHERE restaurant_id = :restaurant_id
"""


@asynccontextmanager
async def transaction(ledger: RunningLedger) -> AsyncIterator[AsyncConnection]:
    """A transaction that has begun, as the superuser; rolled back unless it is committed."""
    engine = create_async_engine(ledger.database.migration_url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT now()"))
            yield connection
    finally:
        await engine.dispose()


@pytest.mark.parametrize("written", ["before", "after"])
@pytest.mark.parametrize("period", ["open", "closed"])
async def test_entries_that_commit_late_are_in_the_next_statement(
    shared_ledger: RunningLedger, written: str, period: str
) -> None:
    """A transaction begins before the first page is read and commits after it.

    The pages tie out without it. A new statement has its entries, and they are final then.
    """
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id, amount_minor=1))
    by_hand = {"restaurant_id": restaurant_id, "amount_minor": 777, "recorded_at": None}
    async with transaction(shared_ledger) as late:
        if written == "before":
            await late.execute(text(INSERT_ENTRY), by_hand)
        for amount_minor in (2, 4):
            await shared_ledger.ingest(
                event_message(restaurant_id=restaurant_id, amount_minor=amount_minor)
            )
        fields: dict[str, Any] = {"page_size": 1}
        if period == "closed":
            fields["end_at"] = (await shared_ledger.balance(restaurant_id)).as_of
        first = await shared_ledger.stub.ListEntries(request_of(restaurant_id, **fields))
        if written == "after":
            await late.execute(text(INSERT_ENTRY), by_hand)
        await late.commit()
    shown = await rest_of(shared_ledger, restaurant_id, first, **fields)
    assert [entry.amount_minor for entry in shown.entries] == [1, 2, 4]
    assert (shown.opening_minor, shown.closing_minor) == (0, 7)
    final = await statement_of(shared_ledger, restaurant_id, **fields)
    assert [entry.amount_minor for entry in final.entries] == [1, 777, 2, 4]
    assert (final.opening_minor, final.closing_minor, final.moved_minor) == (0, 784, 784)


async def test_entries_with_higher_transaction_numbers_are_listed(
    shared_ledger: RunningLedger,
) -> None:
    """As after a restore into another cluster, whose transaction numbers start lower.

    Such an entry is not treated as one that commits late.
    """
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    await shared_ledger.query(
        INSERT_ENTRY.replace("recorded_at)", "recorded_at, recorded_txid)").replace(
            "now())\nFROM", "now()), CAST('9000000000000000000' AS xid8)\nFROM"
        ),
        restaurant_id=restaurant_id,
        amount_minor=3,
        recorded_at=None,
    )
    paged = await statement_of(shared_ledger, restaurant_id, page_size=1)
    assert [entry.amount_minor for entry in paged.entries] == [10_000, 3]
    assert paged.closing_minor == paged.moved_minor == 10_003


@pytest.mark.both_servers
async def test_statements_tie_out_while_events_are_booked(shared_ledger: RunningLedger) -> None:
    """The pages of each statement add up from its opening to its closing balance."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    stop = asyncio.Event()

    async def book() -> int:
        booked = 0
        while not stop.is_set():
            event = event_message(restaurant_id=restaurant_id, amount_minor=10, fee_minor=1)
            await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
            booked += 1
        return booked

    writers = [asyncio.create_task(book()) for _ in range(8)]
    page_size = 20
    try:
        for _ in range(8):
            got = await statement_of(shared_ledger, restaurant_id, page_size=page_size)
            assert got.opening_minor + got.moved_minor == got.closing_minor
            middle = got.entries[len(got.entries) // 2].recorded_at
            late = await statement_of(
                shared_ledger, restaurant_id, page_size=page_size, start_at=middle
            )
            assert late.opening_minor + late.moved_minor == late.closing_minor
            # Few pages each time: the more pages there are, the more is booked while they are read,
            # which makes ever more pages.
            page_size = min(max(page_size, len(got.entries) // 5), 1000)
    finally:
        stop.set()
        booked = sum(await asyncio.gather(*writers))
    whole = await statement_of(shared_ledger, restaurant_id, page_size=1000)
    assert whole.moved_minor == whole.closing_minor == 10_000 + 9 * booked


@pytest.mark.both_servers
async def test_filters_choose_entries_and_leave_the_balances(shared_ledger: RunningLedger) -> None:
    """By type, by event, both, and by types that are never on restaurant_payable.

    The balances are always those of the period.
    """
    restaurant_id = unique("res")
    events = [
        event_message(restaurant_id=restaurant_id, amount_minor=100 + number, fee_minor=1)
        for number in range(5)
    ]
    events.append(event_message(REFUND, restaurant_id=restaurant_id, amount_minor=50))
    await shared_ledger.ingest(*events)
    fee, refund = ledger_pb2.ENTRY_TYPE_FEE, ledger_pb2.ENTRY_TYPE_REFUND

    async def listed(**filters: Any) -> list[str]:
        got = await statement_of(shared_ledger, restaurant_id, page_size=2, **filters)
        assert (got.opening_minor, got.closing_minor) == (0, 455)
        return names(got.entries)

    assert await listed(entry_types=[fee]) == ["FEE"] * 5
    assert sorted(await listed(entry_types=[refund, fee, fee])) == ["FEE"] * 5 + ["REFUND"]
    assert await listed(event_id=events[2].event_id) == ["CHARGE", "FEE"]
    assert await listed(event_id=events[2].event_id, entry_types=[fee]) == ["FEE"]
    assert await listed(event_id="nothing") == []
    assert await listed(payout_id="0190a1b2-0000-7000-8000-000000000000") == []
    assert (
        await listed(
            entry_types=[ledger_pb2.ENTRY_TYPE_DISPUTE_LOSS, ledger_pb2.ENTRY_TYPE_PAYOUT_RELEASE]
        )
        == []
    )


@pytest.mark.both_servers
async def test_payouts_appear_with_their_reserves_and_reversals(ledger: RunningLedger) -> None:
    """A reserve, which no event caused, and the reversal of a failed payout.

    Both name the payout.
    """
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=10_000))
    today = days_ago(0)
    run = ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=date_message(today))
    started = (await ledger.stub.RunPayouts(run)).payout_run
    async with asyncio.timeout(60):
        while started.state != ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED:
            await asyncio.sleep(POLL_SECONDS)
            wanted = ledger_pb2.GetPayoutRunRequest(payout_run_id=started.payout_run_id)
            started = (await ledger.stub.GetPayoutRun(wanted)).payout_run
    (payout,) = (await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest())).payouts
    reserved = await statement_of(ledger, "res_1")
    assert names(reserved.entries) == ["CHARGE", "PAYOUT_RESERVE"]
    reserve = reserved.entries[1]
    assert (reserve.payout_id, reserve.event_id, reserve.HasField("occurred_at")) == (
        payout.payout_id,
        "",
        False,
    )
    assert reserve.transaction_id == payout.transaction_id
    assert reserved.closing_minor == 0
    failed = event_message(
        ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
        restaurant_id="res_1",
        amount_minor=10_000,
        payout_id=payout.payout_id,
    )
    await ledger.ingest(failed)
    whole = await statement_of(ledger, "res_1", page_size=1)
    assert names(whole.entries) == ["CHARGE", "PAYOUT_RESERVE", "PAYOUT_REVERSAL"]
    assert (
        whole.moved_minor == whole.closing_minor == await balance_minor(ledger, "res_1") == 10_000
    )
    of_payout = await statement_of(ledger, "res_1", payout_id=payout.payout_id, page_size=1)
    assert of_payout.entries == whole.entries[1:]
    assert (await statement_of(ledger, "res_1", event_id=failed.event_id)).entries == whole.entries[
        2:
    ]
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_unknown_restaurant_is_not_found_and_unused_currency_is_empty(
    shared_ledger: RunningLedger,
) -> None:
    """A restaurant without entries in the currency has an empty statement and zero balances."""
    code, reason, _ = await refused(shared_ledger, request_of("unknown"))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND")
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    response = await shared_ledger.stub.ListEntries(request_of(restaurant_id, currency="JPY"))
    assert response == ledger_pb2.ListEntriesResponse()


@pytest.mark.both_servers
async def test_period_may_begin_or_end_in_the_year_1(shared_ledger: RunningLedger) -> None:
    """A period from the year 1 starts at the first entry.

    A period up to the year 1, or of no length, is empty.
    """
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    year_1 = Timestamp(seconds=YEAR_1)
    whole = await statement_of(shared_ledger, restaurant_id, start_at=year_1)
    assert (len(whole.entries), whole.opening_minor, whole.closing_minor) == (1, 0, 10_000)
    for start_at in (None, year_1):
        none = await statement_of(shared_ledger, restaurant_id, start_at=start_at, end_at=year_1)
        assert (none.entries, none.opening_minor, none.closing_minor) == ([], 0, 0)
    now = (await shared_ledger.balance(restaurant_id)).as_of
    none = await statement_of(shared_ledger, restaurant_id, start_at=now, end_at=now)
    assert (none.entries, none.opening_minor, none.closing_minor) == ([], 10_000, 10_000)
    # Digits finer than a microsecond are cut off, in the period and in the query of a token.
    at = whole.entries[0].recorded_at
    finer = Timestamp(seconds=at.seconds, nanos=at.nanos + 999)
    assert (
        await statement_of(shared_ledger, restaurant_id, start_at=finer)
    ).entries == whole.entries
    assert (await statement_of(shared_ledger, restaurant_id, end_at=finer)).entries == []


@pytest.mark.both_servers
async def test_invalid_periods_are_refused(shared_ledger: RunningLedger) -> None:
    """The future by the database's clock, as in GetBalance; a start after the end."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    now = datetime.now(UTC)
    later, year_9999 = (
        timestamp(now + timedelta(hours=1)),
        Timestamp(seconds=YEAR_9999, nanos=999_999_999),
    )
    invalid = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    for future in (later, year_9999):
        assert await refused(shared_ledger, request_of(restaurant_id, end_at=future)) == (
            *invalid,
            {"end_at"},
        )
        assert await refused(shared_ledger, request_of(restaurant_id, start_at=future)) == (
            *invalid,
            {"start_at"},
        )
    past = request_of(
        restaurant_id,
        start_at=timestamp(now - timedelta(hours=1)),
        end_at=timestamp(now - timedelta(hours=2)),
    )
    assert await refused(shared_ledger, past) == (*invalid, {"start_at"})


@pytest.mark.both_servers
async def test_every_field_that_is_wrong_is_named(shared_ledger: RunningLedger) -> None:
    """All at once, except the token: it is checked last, as it belongs to the rest of the query."""
    wrong = request_of(
        "res 1",
        currency="pen",
        start_at=Timestamp(nanos=-1),
        end_at=Timestamp(seconds=YEAR_9999 + 1),
        entry_types=[0, 77],
        event_id="evt 1",
        payout_id="{0190a1b2-0000-7000-8000-000000000000}",
        page_size=-1,
        page_token="garbage",
    )
    _, _, fields = await refused(shared_ledger, wrong)
    assert fields == {field.name for field in ledger_pb2.ListEntriesRequest.DESCRIPTOR.fields} - {
        "page_token"
    }


async def test_balance_beyond_int64_is_out_of_range(ledger: RunningLedger) -> None:
    """OUT_OF_RANGE names the balance that does not fit: opening and closing alike."""
    await ledger.ingest(event_message(restaurant_id="res_1", amount_minor=1))
    long_ago = datetime(2025, 1, 1, tzinfo=UTC)
    await ledger.query(
        INSERT_ENTRY, restaurant_id="res_1", amount_minor=INT64_MAX, recorded_at=long_ago
    )
    whole = request_of("res_1")
    assert (await refused(ledger, whole))[:2] == (
        grpc.StatusCode.OUT_OF_RANGE,
        "AMOUNT_OUT_OF_RANGE",
    )
    before = await statement_of(ledger, "res_1", end_at=timestamp(long_ago + timedelta(days=1)))
    assert before.opening_minor + before.moved_minor == before.closing_minor == INT64_MAX
    await ledger.query(
        INSERT_ENTRY, restaurant_id="res_1", amount_minor=INT64_MAX, recorded_at=long_ago
    )
    code, _, _ = await refused(
        ledger, request_of("res_1", start_at=timestamp(long_ago + timedelta(days=1)))
    )
    assert code == grpc.StatusCode.OUT_OF_RANGE


async def test_long_reads_leave_connections_to_others(database: Database) -> None:
    """Twelve statements wait for the database: two are admitted and the rest are refused at once.

    GetRestaurant still works. Once the database responds again, statements work too.
    """
    async with running_ledger(database, long_read_pool_size=1, long_reads=2) as ledger:
        await ledger.ingest(event_message(restaurant_id="res_1"))
        async with transaction(ledger) as blocking:
            await blocking.execute(text("LOCK TABLE ledger_entries IN ACCESS EXCLUSIVE MODE"))
            waiting = {
                asyncio.ensure_future(ledger.stub.ListEntries(request_of("res_1")))
                for _ in range(12)
            }
            while len(waiting) > 2:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    with pytest.raises(aio.AioRpcError) as caught:
                        await call
                    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            restaurant = await ledger.stub.GetRestaurant(
                ledger_pb2.GetRestaurantRequest(restaurant_id="res_1")
            )
            assert restaurant.restaurant.restaurant_id == "res_1"
        # On a slow machine the statements may have waited too long for the lock.
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len((await ledger.stub.ListEntries(request_of("res_1"))).entries) == 1


# Tokens


async def token_of(ledger: RunningLedger, restaurant_id: str, **fields: Any) -> str:
    return (
        await ledger.stub.ListEntries(request_of(restaurant_id, page_size=1, **fields))
    ).next_page_token


@pytest.mark.both_servers
async def test_damaged_token_is_refused(shared_ledger: RunningLedger, seed: int) -> None:
    """Garbage, cut, extended, any bit flipped: INVALID_ARGUMENT. The intact token still works."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(*(event_message(restaurant_id=restaurant_id) for _ in range(3)))
    token = await token_of(shared_ledger, restaurant_id)
    damaged = [
        "garbage",
        " ",
        "\0",
        "A" * 100_000,
        token[:-1],
        token[1:],
        token[: len(token) // 2],
        f"{token}A",
        f"{token}=",
    ]
    chosen = random.Random(seed)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    for place in chosen.sample(range(8 * len(raw)), 24):
        flipped = bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        damaged.append(base64.urlsafe_b64encode(flipped).decode().rstrip("="))
    for wrong in damaged:
        got = await refused(shared_ledger, request_of(restaurant_id, page_size=1, page_token=wrong))
        assert got == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", {"page_token"}), (
            f"{wrong!r} (seed {seed})"
        )
    # Another page size is the same query.
    page = await shared_ledger.stub.ListEntries(
        request_of(restaurant_id, page_size=5, page_token=token)
    )
    assert len(page.entries) == 2


@pytest.mark.both_servers
async def test_token_of_another_query_is_refused(shared_ledger: RunningLedger) -> None:
    """A token belongs to its query: restaurant, currency, period and filter, types in any order."""
    restaurant_id, other = unique("res"), unique("res")
    event = event_message(restaurant_id=restaurant_id, fee_minor=1)
    await shared_ledger.ingest(
        event, *(event_message(restaurant_id=restaurant_id, fee_minor=2) for _ in range(2))
    )
    await shared_ledger.ingest(*(event_message(restaurant_id=other) for _ in range(2)))
    charge, fee = ledger_pb2.ENTRY_TYPE_CHARGE, ledger_pb2.ENTRY_TYPE_FEE
    start_at, end_at = Timestamp(seconds=1), (await shared_ledger.balance(restaurant_id)).as_of
    queries: list[dict[str, Any]] = [
        {},
        {"start_at": start_at},
        {"end_at": end_at},
        {"start_at": start_at, "end_at": end_at},
        {"entry_types": [charge]},
        {"entry_types": [charge, fee]},
        {"event_id": event.event_id},
    ]
    tokens = [await token_of(shared_ledger, restaurant_id, **query) for query in queries]
    for query, own in zip(queries, tokens, strict=True):
        for token in tokens:
            request = request_of(restaurant_id, page_token=token, **query)
            if token == own:
                assert (await shared_ledger.stub.ListEntries(request)).entries
            else:
                assert (await refused(shared_ledger, request))[2] == {"page_token"}
    for strange in (
        request_of(other, page_token=tokens[0]),
        request_of(restaurant_id, currency="JPY", page_token=tokens[0]),
    ):
        assert (await refused(shared_ledger, strange))[2] == {"page_token"}
    swapped = request_of(restaurant_id, page_token=tokens[5], entry_types=[fee, charge, fee])
    assert (await shared_ledger.stub.ListEntries(swapped)).entries
    restaurants = await shared_ledger.stub.ListRestaurants(
        ledger_pb2.ListRestaurantsRequest(page_size=1)
    )
    assert (
        await refused(
            shared_ledger, request_of(restaurant_id, page_token=restaurants.next_page_token)
        )
    )[2] == {"page_token"}


UUID_TEXT = "0190a1b2-0000-7000-8000-000000000000"
FORGED = ["1700000000000000", "800", "1,2", "0", "5", "1700000000000000", "700", UUID_TEXT, "1"]
WRONG_FIELDS = {
    0: ["", "-1", "1" * 18, "x", "\u0661", "1.0"],
    1: ["", "-1", str(2**64), "0x1"],
    2: ["0", "801", ",", "1,", "-1", "a"],
    3: ["", str(2**63), "--1"],
    4: [str(-(2**63) - 1), "5\n"],
    5: ["", "-1", "9" * 40],
    6: ["-1", str(2**64)],
    7: ["", UUID_TEXT.upper(), f"{{{UUID_TEXT}}}"],
    8: ["0", "32768", "-1"],
}


async def test_position_under_the_right_key_is_checked_like_any_field(
    shared_ledger: RunningLedger,
) -> None:
    """A position that no page made, under a leaked key, never makes the server fail.

    The result is INVALID_ARGUMENT, or a page of the caller's own books.
    """
    restaurant_id = unique("res")
    ((key,),) = await shared_ledger.query("SELECT secret FROM page_token_keys")

    def forged(position: object, restaurant_id: str) -> str:
        return keyed_token(key, ["ListEntries", restaurant_id, "PEN", "", "", "", "", ""], position)

    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    good = await shared_ledger.stub.ListEntries(
        request_of(restaurant_id, page_token=forged(FORGED, restaurant_id))
    )
    assert good.entries == []
    extremes = [
        ["0", "0", "", str(-(2**63)), str(INT64_MAX), "0", "0", UUID_TEXT, "1"],
        [
            str(10**17),
            str(2**64 - 1),
            "1",
            "0",
            "0",
            str(10**17),
            str(2**64 - 1),
            UUID_TEXT,
            "32767",
        ],
    ]
    for extreme in extremes:
        page_token = forged(extreme, restaurant_id)
        assert (
            await shared_ledger.stub.ListEntries(request_of(restaurant_id, page_token=page_token))
        ).entries == []
    for place, values in WRONG_FIELDS.items():
        for value in values:
            page_token = forged([*FORGED[:place], value, *FORGED[place + 1 :]], restaurant_id)
            got = await refused(shared_ledger, request_of(restaurant_id, page_token=page_token))
            assert got[2] == {"page_token"}, (place, value)
    shapes: list[object] = [FORGED[:8], [*FORGED, "1"], "x", {}, None, [1] * 9]
    for shape in shapes:
        assert (
            await refused(
                shared_ledger, request_of(restaurant_id, page_token=forged(shape, restaurant_id))
            )
        )[2]


# The property

# Of events in a restaurant's books that need no payout.
EVENT_TYPES = [
    ledger_pb2.EventType.Value(f"EVENT_TYPE_{event_type.name}")
    for event_type in EVENT_POSTING_RULES
    if event_type not in PLATFORM_EVENT_TYPES
]
FEE_TYPES = {CHARGE, REFUND, DISPUTE_OPENED}


@st.composite
def events(draw: st.DrawFn) -> tuple[int, int, int]:
    """Type, amount and fee."""
    type, amount_minor = draw(st.sampled_from(EVENT_TYPES)), draw(st.integers(1, 10**12))
    return type, amount_minor, draw(st.integers(0, amount_minor)) if type in FEE_TYPES else 0


@settings(
    max_examples=30,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    batches=st.lists(st.lists(events(), min_size=1, max_size=6), min_size=1, max_size=4),
    page_size=st.integers(1, 12),
    bounds=st.tuples(st.none() | st.integers(0, 10**6), st.none() | st.integers(0, 10**6)),
    offsets=st.tuples(st.sampled_from([-1, 0, 1]), st.sampled_from([-1, 0, 1])),
)
async def test_pages_are_exactly_the_entries_of_the_period(
    shared_ledger: RunningLedger,
    batches: list[list[tuple[int, int, int]]],
    page_size: int,
    bounds: tuple[int | None, int | None],
    offsets: tuple[int, int],
) -> None:
    """For any events, batches, page size and period.

    The pages are the stored entries of the period in order, once each. The balances equal
    GetBalance as of the ends of the period.
    """
    restaurant_id = unique("res")
    for batch in batches:
        await shared_ledger.ingest(
            *(
                event_message(
                    type,
                    restaurant_id=restaurant_id,
                    amount_minor=amount_minor,
                    fee_minor=fee_minor,
                )
                for type, amount_minor, fee_minor in batch
            )
        )
    stored = await shared_ledger.query(
        "SELECT recorded_at, transaction_id::text, position, "
        "CASE WHEN credit_account = 'restaurant_payable' THEN amount_minor ELSE -amount_minor END "
        "FROM ledger_entries JOIN balance_accounts USING (balance_account_id) "
        "WHERE restaurant_id = :restaurant_id "
        "AND 'restaurant_payable' IN (debit_account, credit_account) "
        "ORDER BY recorded_at, recorded_txid, transaction_id, position",
        restaurant_id=restaurant_id,
    )
    instants = sorted({row[0] for row in stored}) or [datetime(2025, 12, 1, tzinfo=UTC)]
    start_at, end_at = (
        None if bound is None else instants[bound % len(instants)] + offset * MICROSECOND
        for bound, offset in zip(bounds, offsets, strict=True)
    )
    if start_at is not None and end_at is not None and start_at > end_at:
        start_at, end_at = end_at, start_at
    fields: dict[str, Any] = {
        name: timestamp(instant)
        for name, instant in (("start_at", start_at), ("end_at", end_at))
        if instant is not None
    }
    got = await statement_of(shared_ledger, restaurant_id, page_size=page_size, **fields)
    expected = [
        row
        for row in stored
        if (start_at is None or row[0] >= start_at) and (end_at is None or row[0] < end_at)
    ]
    assert [
        (decode_instant(entry.recorded_at), entry.transaction_id, entry.position, signed(entry))
        for entry in got.entries
    ] == expected
    assert got.pages == max(1, -(-len(expected) // page_size))
    assert got.opening_minor + got.moved_minor == got.closing_minor
    assert got.closing_minor == await balance_minor(
        shared_ledger, restaurant_id, fields.get("end_at")
    )
    if start_at is not None:
        assert got.opening_minor == await balance_minor(
            shared_ledger, restaurant_id, fields["start_at"]
        )
    else:
        assert got.opening_minor == 0
