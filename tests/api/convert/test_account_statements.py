"""Statements of accounts, as requests and responses have them."""

from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.violations import violations_of

from ledger.api.convert.account_statements import (
    account_statement_listing,
    decode_account_statement_query,
    encode_account_statement_page,
)
from ledger.api.convert.page_tokens import PageTokens
from ledger.api.convert.paging import Paging
from ledger.application.list_account_entries import (
    AccountLine,
    AccountPlace,
    AccountStatementPage,
)
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.statements import (
    AccountStatementQuery,
    StatementMoment,
    StatementPlace,
)
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import UNIX_EPOCH
from ledger.domain.fields import ID_RULE
from ledger.domain.posting_rules import EntryType
from ledger.errors import InvalidRequest
from ledger.v1 import account_pb2, ledger_pb2

UUID_TEXT = "0190a1b2-0000-7000-8000-000000000000"
TOKENS = PageTokens([b"k" * 32])
QUERY = AccountStatementQuery("acc_1", None, None, frozenset(), None)
MOMENT = StatementMoment(UNIX_EPOCH, 900, (), -5, 7)
ENTRY = StoredEntry(
    UUID(UUID_TEXT),
    2,
    EntryType.TRANSFER_IN,
    LedgerAccount.INTERACCOUNT,
    LedgerAccount.ACCOUNT_FUNDS,
    12,
    None,
    "PEN",
    None,
    None,
    1,
    None,
    None,
    "pay_1",
    "acc_1",
)


def test_query_is_decoded() -> None:
    """Without limits, and with all of them."""
    request = account_pb2.ListAccountEntriesRequest(account_id="acc_1")
    assert decode_account_statement_query(request) == QUERY
    request = account_pb2.ListAccountEntriesRequest(
        account_id="acc_1",
        start_at=Timestamp(),
        end_at=Timestamp(),
        entry_types=[ledger_pb2.ENTRY_TYPE_PAYMENT, ledger_pb2.ENTRY_TYPE_PAYMENT],
        payment_id="pay_1",
        page_size=7,
    )
    query = decode_account_statement_query(request)
    assert query == AccountStatementQuery(
        "acc_1", UNIX_EPOCH, UNIX_EPOCH, frozenset({EntryType.PAYMENT}), "pay_1"
    )
    assert query.is_filtered
    assert not QUERY.is_filtered


def test_every_wrong_field_is_reported() -> None:
    request = account_pb2.ListAccountEntriesRequest(
        account_id="a b",
        start_at=Timestamp(nanos=-1),
        end_at=Timestamp(seconds=2**62),
        entry_types=[0, 77],  # type: ignore[list-item]
        payment_id="p y",
        page_size=-1,
        page_token="garbage",
    )
    assert violations_of(decode_account_statement_query, request) == [
        ("account_id", ID_RULE),
        ("start_at", "must be a valid timestamp"),
        ("end_at", "must be a valid timestamp"),
        ("entry_types", "must be among the entry types"),
        ("payment_id", f"{ID_RULE}, or be empty"),
        ("page_size", "must not be negative"),
    ]
    request = account_pb2.ListAccountEntriesRequest(
        account_id="acc_1", start_at=Timestamp(nanos=1000), end_at=Timestamp()
    )
    assert violations_of(decode_account_statement_query, request) == [
        ("start_at", "must not be after end_at")
    ]


def test_page_has_the_entries_and_the_balances_after_them() -> None:
    page = AccountStatementPage([AccountLine(ENTRY, 7), AccountLine(ENTRY, None)], None, MOMENT)
    paging = Paging(TOKENS, account_statement_listing(QUERY), 100, "")
    entry = ledger_pb2.LedgerEntry(
        transaction_id=UUID_TEXT,
        position=2,
        type=ledger_pb2.ENTRY_TYPE_TRANSFER_IN,
        debit_account=ledger_pb2.LEDGER_ACCOUNT_INTERACCOUNT,
        credit_account=ledger_pb2.LEDGER_ACCOUNT_ACCOUNT_FUNDS,
        amount_minor=12,
        currency="PEN",
        recorded_at=Timestamp(nanos=1000),
        payment_id="pay_1",
        account_id="acc_1",
    )
    assert encode_account_statement_page(paging, page) == account_pb2.ListAccountEntriesResponse(
        entries=[
            account_pb2.AccountEntry(entry=entry, balance_minor=7),
            account_pb2.AccountEntry(entry=entry),
        ],
        opening_balance_minor=-5,
        closing_balance_minor=7,
    )


@pytest.mark.parametrize("balance_minor", [None, 0, -(2**63), 2**63 - 1])
def test_token_has_the_balance_at_its_place(balance_minor: int | None) -> None:
    """Also with as many open transactions as a token holds, and with the longest numbers."""
    end = 2**64 - 1
    moment = StatementMoment(
        datetime(2026, 11, 20, tzinfo=UTC),
        end,
        tuple(end - 9_999_999 + number for number in range(200)),
        -(2**63),
        -(2**63),
    )
    place = AccountPlace(
        StatementPlace(moment, datetime(5138, 1, 1, tzinfo=UTC), end, UUID(UUID_TEXT), 2**15 - 1),
        balance_minor,
    )
    listing = account_statement_listing(QUERY)
    token = encode_account_statement_page(
        Paging(TOKENS, listing, 100, ""), AccountStatementPage([], place, moment)
    ).next_page_token
    found = Paging(TOKENS, listing, 100, token).after
    assert found is not None
    assert found.balance_minor == balance_minor
    assert (found.place.recorded_txid, found.place.position) == (end, 2**15 - 1)
    for other in (
        AccountStatementQuery("acc_2", None, None, frozenset(), None),
        AccountStatementQuery("acc_1", UNIX_EPOCH, None, frozenset(), None),
        AccountStatementQuery("acc_1", None, None, frozenset({EntryType.PAYMENT}), None),
        AccountStatementQuery("acc_1", None, None, frozenset(), "pay_1"),
    ):
        with pytest.raises(InvalidRequest):
            Paging(TOKENS, account_statement_listing(other), 100, token)
