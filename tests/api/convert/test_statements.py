"""Statements, as requests and responses have them."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from support.dates import timestamp
from support.violations import violations_of

from ledger.api.convert.page_tokens import PageTokens
from ledger.api.convert.paging import Paging
from ledger.api.convert.statements import (
    OPEN_TRANSACTIONS_MAX,
    decode_statement_query,
    encode_statement_page,
    statement_listing,
)
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.statements import (
    StatementMoment,
    StatementPage,
    StatementPlace,
    StatementQuery,
)
from ledger.domain.balances import BalanceAccount
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import UNIX_EPOCH, microseconds
from ledger.domain.fields import ID_RULE
from ledger.domain.money import CURRENCY_RULE
from ledger.domain.posting_rules import EntryType
from ledger.v1 import ledger_pb2

UUID_TEXT = "0190a1b2-0000-7000-8000-000000000000"
TOKENS = PageTokens([b"k" * 32])
INSTANTS = (
    datetime.min.replace(tzinfo=UTC),
    UNIX_EPOCH - timedelta(microseconds=1),
    UNIX_EPOCH,
    UNIX_EPOCH + timedelta(microseconds=1),
    UNIX_EPOCH + timedelta(days=1),
    datetime.max.replace(tzinfo=UTC),
)


def instant_of(microseconds_since_1970: int) -> datetime:
    return UNIX_EPOCH + timedelta(microseconds=microseconds_since_1970)


def _optional_timestamp(microseconds_since_1970: int | None) -> Timestamp | None:
    return (
        None if microseconds_since_1970 is None else timestamp(instant_of(microseconds_since_1970))
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
        restaurant_id=entry.restaurant_id or "",
        currency=entry.currency,
        available_at=_optional_timestamp(entry.available_at_microseconds),
        occurred_at=_optional_timestamp(entry.occurred_at_microseconds),
        recorded_at=timestamp(instant_of(entry.recorded_at_microseconds)),
        event_id=entry.event_id or "",
        payout_id="" if entry.payout_id is None else str(entry.payout_id),
        payment_id=entry.payment_id or "",
        account_id=entry.account_id or "",
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
        restaurant_id=chance.choice((None, "r", "res:1.a-b_" + "x" * 118)),
        currency=chance.choice(("PEN", "JPY")),
        available_at_microseconds=chance.choice((None, instant())),
        occurred_at_microseconds=chance.choice((None, instant())),
        recorded_at_microseconds=instant(),
        event_id=chance.choice((None, "evt_1", "e" * 128)),
        payout_id=chance.choice((None, UUID(int=chance.getrandbits(128)))),
        payment_id=chance.choice((None, "pay_1")),
        account_id=chance.choice((None, "acc_1")),
    )


def _bytes_of(page: ledger_pb2.ListEntriesResponse) -> bytes:
    return page.SerializeToString(deterministic=True)


def test_statement_page_has_the_message_of_each_entry(seed: int) -> None:
    """Byte for byte as protobuf encodes the messages, whatever fields an entry has or lacks."""
    chance = random.Random(seed)
    query = StatementQuery(BalanceAccount("res_1", "PEN"), None, None, frozenset(), None, None)
    for number in (0, 1, 1000):
        entries = [some_entry(chance) for _ in range(number)]
        moment = StatementMoment(UNIX_EPOCH, 900, (), -(2**63), 2**63 - 1)
        page = StatementPage(entries, None, moment)
        expected = ledger_pb2.ListEntriesResponse(
            entries=[plain_entry(entry) for entry in entries],
            opening_balance_minor=-(2**63),
            closing_balance_minor=2**63 - 1,
        )
        paging = Paging(TOKENS, statement_listing(query), 100, "")
        found = encode_statement_page(paging, page)
        assert _bytes_of(found) == _bytes_of(expected), f"seed {seed}"


def test_query_is_decoded() -> None:
    """Without limits, and with all of them; the order of the types and their repeats are lost."""
    request = ledger_pb2.ListEntriesRequest(restaurant_id="res_1", currency="PEN")
    account = BalanceAccount("res_1", "PEN")
    query = decode_statement_query(request)
    assert query == StatementQuery(account, None, None, frozenset(), None, None)
    request = ledger_pb2.ListEntriesRequest(
        restaurant_id="res_1",
        currency="PEN",
        start_at=Timestamp(),
        end_at=Timestamp(),
        entry_types=[
            ledger_pb2.ENTRY_TYPE_FEE,
            ledger_pb2.ENTRY_TYPE_CHARGE,
            ledger_pb2.ENTRY_TYPE_FEE,
        ],
        event_id="evt",
        payout_id=UUID_TEXT,
        page_size=7,
    )
    query = decode_statement_query(request)
    types = {EntryType.CHARGE, EntryType.FEE}
    assert query == StatementQuery(
        account, UNIX_EPOCH, UNIX_EPOCH, frozenset(types), "evt", UUID(UUID_TEXT)
    )


def test_every_wrong_field_is_reported() -> None:
    """The page token is not judged until the query is right."""
    request = ledger_pb2.ListEntriesRequest(
        restaurant_id="a b",
        currency="pen",
        start_at=Timestamp(nanos=-1),
        end_at=Timestamp(seconds=2**62),
        entry_types=[0, 77],  # type: ignore[list-item]
        event_id="e v",
        payout_id=UUID_TEXT.replace("-", ""),
        page_size=-1,
        page_token="garbage",
    )
    assert violations_of(decode_statement_query, request) == [
        ("restaurant_id", ID_RULE),
        ("currency", CURRENCY_RULE),
        ("start_at", "must be a valid timestamp"),
        ("end_at", "must be a valid timestamp"),
        ("entry_types", "must be among the entry types"),
        ("event_id", f"{ID_RULE}, or be empty"),
        ("payout_id", "must be an id that this service made"),
        ("page_size", "must not be negative"),
    ]


def test_period_must_not_end_before_it_begins() -> None:
    request = ledger_pb2.ListEntriesRequest(
        restaurant_id="res_1",
        currency="PEN",
        start_at=Timestamp(nanos=1000),
        end_at=Timestamp(),
    )
    assert violations_of(decode_statement_query, request) == [
        ("start_at", "must not be after end_at")
    ]


def test_token_stays_small_whatever_transactions_are_open() -> None:
    """Two hundred open transactions with the largest possible numbers: the token is accepted.

    The newest transactions are still in it.
    """
    end = 2**64 - 1
    moment = StatementMoment(
        read_at=datetime(2026, 11, 20, tzinfo=UTC),
        transactions_end=end,
        transactions_open=(5, *(end - 9_999_999 + number for number in range(200))),
        opening_minor=-(2**63),
        closing_minor=-(2**63),
    )
    place = StatementPlace(
        moment, datetime(5138, 1, 1, tzinfo=UTC), end, UUID(UUID_TEXT), 2**15 - 1
    )
    request = ledger_pb2.ListEntriesRequest(
        restaurant_id="r" * 128, currency="PEN", payout_id=UUID_TEXT, event_id="e" * 128
    )
    listing = statement_listing(decode_statement_query(request))
    token = encode_statement_page(
        Paging(TOKENS, listing, 100, ""), StatementPage([], place, moment)
    ).next_page_token
    found = Paging(TOKENS, listing, 100, token).after
    assert found is not None
    assert found.moment.transactions_open == tuple(
        sorted(moment.transactions_open, reverse=True)[:OPEN_TRANSACTIONS_MAX]
    )
    assert (found.recorded_at, found.recorded_txid, found.position) == (
        place.recorded_at,
        end,
        2**15 - 1,
    )
    assert (found.moment.opening_minor, found.moment.transactions_end) == (-(2**63), end)
