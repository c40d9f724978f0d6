"""Fast conversions make the same messages as protobuf's conversions do."""

import random
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.events import event_message, unique

from ledger.api.convert.events import decode_batch, memory_bytes
from ledger.api.convert.instants import encode_instant
from ledger.api.convert.page_tokens import PageTokens
from ledger.api.convert.statements import encode_statement_page
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.statements import StatementMoment, StatementPage, StatementQuery
from ledger.domain.balances import BalanceAccount
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import microseconds
from ledger.domain.posting_rules import EntryType
from ledger.errors import InvalidRequest
from ledger.v1 import ledger_pb2

NOW = datetime.now(UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
INSTANTS = (
    datetime.min.replace(tzinfo=UTC),
    EPOCH - timedelta(microseconds=1),
    EPOCH,
    EPOCH + timedelta(microseconds=1),
    EPOCH + timedelta(days=1),
    LAST,
)


def plain_timestamp(instant: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(instant)
    return message


def instant_of(microseconds_since_1970: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds_since_1970)


def _optional_timestamp(microseconds_since_1970: int | None) -> Timestamp | None:
    return (
        None
        if microseconds_since_1970 is None
        else plain_timestamp(instant_of(microseconds_since_1970))
    )


def plain_entry(entry: StoredEntry) -> ledger_pb2.LedgerEntry:
    """The message of an entry, made field by field with protobuf's conversion of instants."""
    return ledger_pb2.LedgerEntry(
        transaction_id=str(entry.transaction_id),
        position=entry.position,
        type=ledger_pb2.EntryType.Value(f"ENTRY_TYPE_{entry.entry_type.name}"),
        debit_account=ledger_pb2.LedgerAccount.Value(f"LEDGER_ACCOUNT_{entry.debit.name}"),
        credit_account=ledger_pb2.LedgerAccount.Value(f"LEDGER_ACCOUNT_{entry.credit.name}"),
        amount_minor=entry.amount_minor,
        restaurant_id=entry.restaurant_id,
        currency=entry.currency,
        available_at=_optional_timestamp(entry.available_at_microseconds),
        occurred_at=_optional_timestamp(entry.occurred_at_microseconds),
        recorded_at=plain_timestamp(instant_of(entry.recorded_at_microseconds)),
        event_id=entry.event_id or "",
        payout_id="" if entry.payout_id is None else str(entry.payout_id),
    )


def some_entry(chance: random.Random) -> StoredEntry:
    def instant() -> int:
        return chance.choice((*map(microseconds, INSTANTS), chance.randrange(10**16)))

    return StoredEntry(
        transaction_id=UUID(int=chance.getrandbits(128)),
        position=chance.choice((1, 2, 2**15 - 1)),
        entry_type=chance.choice(list(EntryType)),
        debit=chance.choice(list(LedgerAccount)),
        credit=chance.choice(list(LedgerAccount)),
        amount_minor=chance.choice((1, chance.randrange(1, 10**12), 2**63 - 1)),
        restaurant_id=chance.choice(("r", "res:1.a-b_" + "x" * 118)),
        currency=chance.choice(("PEN", "JPY")),
        available_at_microseconds=chance.choice((None, instant())),
        occurred_at_microseconds=chance.choice((None, instant())),
        recorded_at_microseconds=instant(),
        event_id=chance.choice((None, "evt_1", "e" * 128)),
        payout_id=chance.choice((None, UUID(int=chance.getrandbits(128)))),
    )


def _bytes_of(page: ledger_pb2.ListEntriesResponse) -> bytes:
    return page.SerializeToString(deterministic=True)


def test_statement_page_is_the_messages_of_its_entries(seed: int) -> None:
    """The page equals them byte for byte, whatever fields an entry has or lacks."""
    chance = random.Random(seed)
    query = StatementQuery(BalanceAccount("res_1", "PEN"), None, None, frozenset(), None, None)
    for number in (0, 1, 1000):
        entries = [some_entry(chance) for _ in range(number)]
        page = StatementPage(StatementMoment(EPOCH, 900, (), -(2**63), 2**63 - 1), entries, None)
        expected = ledger_pb2.ListEntriesResponse(
            entries=[plain_entry(entry) for entry in entries],
            opening_balance_minor=-(2**63),
            closing_balance_minor=2**63 - 1,
        )
        found = encode_statement_page(PageTokens([b"key"]), query, page)
        assert _bytes_of(found) == _bytes_of(expected), f"seed {seed}"


def test_instants_equal_the_conversion_of_protobuf() -> None:
    for instant in INSTANTS:
        assert encode_instant(instant) == plain_timestamp(instant), instant


@pytest.mark.parametrize(
    "contents",
    [
        {},
        {"reference": "r" * 255, "restaurant_id": "r" * 128},
        {"metadata": {"text": "x" * 8000}},
        {"metadata": {"text": "x" * 8000 + "\U0001f600"}},
        {"metadata": {str(entry): "" for entry in range(1000)}},
        {"metadata": {str(entry): "\U0001f600" for entry in range(1000)}},
        {"metadata": {str(entry): "" for entry in range(30)}},
        {"event_id": "!" * 8000},
        {
            "event_id": "!",
            "restaurant_id": "!",
            "currency": "!",
            "amount_minor": -1,
            "fee_minor": -1,
            "reference": "\n",
        },
    ],
)
def test_memory_that_decoded_events_take_is_counted(contents: Any) -> None:
    """The estimate is never too low: valid events and others, in large and in small requests."""
    event = event_message(**{"event_id": unique("evt"), **contents})
    for events in (10, 100):
        raw = ledger_pb2.BatchIngestEventsRequest(events=[event] * events).SerializeToString()
        request = ledger_pb2.BatchIngestEventsRequest.FromString(raw)
        # What is made once is made.
        decode_batch(request, NOW)
        tracemalloc.start()
        try:
            decoded = decode_batch(request, NOW)
            taken_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert taken_bytes <= memory_bytes(decoded, len(raw))


def test_refused_event_keeps_nothing_of_its_request() -> None:
    """It has no traceback, whose frames would keep the request in memory."""
    (refused,) = decode_batch(
        ledger_pb2.BatchIngestEventsRequest(events=[ledger_pb2.ProcessorEvent()]), NOW
    )
    assert isinstance(refused, InvalidRequest)
    assert refused.__traceback__ is None
