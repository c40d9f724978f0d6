"""The entries of a payout, as requests and responses have them."""

from uuid import UUID

from support.page_tokens import keyed_token
from support.violations import violations_of

from ledger.api.convert.page_tokens import PageTokens
from ledger.api.convert.paging import Paging
from ledger.api.convert.payout_entries import (
    decode_payout_entries,
    encode_payout_entries_page,
    payout_entry_listing,
)
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.pages import Page
from ledger.application.ports.payout_entries import PayoutEntryPlace
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import UNIX_EPOCH
from ledger.domain.posting_rules import EntryType
from ledger.v1 import ledger_pb2

KEY = b"k" * 32
TOKENS = PageTokens([KEY])
UUID_TEXT = "0190a1b2-0000-7000-8000-00000000000a"
ID = UUID(UUID_TEXT)
OTHER = UUID("0190a1b2-0000-7000-8000-00000000000b")
ALL: frozenset[EntryType] = frozenset()


def test_query_is_decoded() -> None:
    """Without types, all of them."""
    request = ledger_pb2.ListPayoutEntriesRequest(payout_id=UUID_TEXT)
    assert decode_payout_entries(request) == (ID, frozenset())
    request.entry_types.extend([ledger_pb2.ENTRY_TYPE_FEE, ledger_pb2.ENTRY_TYPE_FEE])
    assert decode_payout_entries(request) == (ID, frozenset({EntryType.FEE}))


def test_every_wrong_field_is_reported() -> None:
    request = ledger_pb2.ListPayoutEntriesRequest(payout_id=UUID_TEXT.upper(), page_size=-1)
    request.entry_types.append(99)  # type: ignore[arg-type]
    assert [field for field, _ in violations_of(decode_payout_entries, request)] == [
        "payout_id",
        "entry_types",
        "page_size",
    ]
    empty = ledger_pb2.ListPayoutEntriesRequest()
    assert violations_of(decode_payout_entries, empty) == [
        ("payout_id", "must be an id that this service made")
    ]


def test_page_continues_after_its_place() -> None:
    """In either part of the payout's entries."""
    entry = StoredEntry(
        transaction_id=ID,
        position=2,
        entry_type=EntryType.CHARGE,
        debit=LedgerAccount.PROCESSOR_CLEARING,
        credit=LedgerAccount.RESTAURANT_PAYABLE,
        amount_minor=7,
        restaurant_id="res_1",
        currency="PEN",
        available_at_microseconds=None,
        occurred_at_microseconds=None,
        recorded_at_microseconds=0,
        event_id="evt_1",
        payout_id=None,
    )
    listing = payout_entry_listing(ID, ALL)
    for place, texts in (
        (PayoutEntryPlace(UNIX_EPOCH, 900, ID, 2), ["0", "900", UUID_TEXT, "2"]),
        (PayoutEntryPlace(None, 900, ID, 2), ["", "900", UUID_TEXT, "2"]),
    ):
        page = encode_payout_entries_page(Paging(TOKENS, listing, 1, ""), Page([entry], place))
        assert [(found.position, found.amount_minor) for found in page.entries] == [(2, 7)]
        described = ["ListPayoutEntries", UUID_TEXT, ""]
        assert page.next_page_token == keyed_token(KEY, described, texts)
        assert Paging(TOKENS, listing, 1, page.next_page_token).after == place
        for other in (
            payout_entry_listing(OTHER, ALL),
            payout_entry_listing(ID, frozenset({EntryType.CHARGE})),
        ):
            refused = violations_of(Paging, TOKENS, other, 1, page.next_page_token)
            assert [field for field, _ in refused] == ["page_token"]
