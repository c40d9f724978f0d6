"""Pages of lists: their sizes, the tokens of each list, and the tokens that are refused."""

from collections.abc import Sequence
from datetime import date
from typing import Any
from uuid import UUID

import pytest
from support.page_tokens import keyed_token
from support.violations import violations_of

from ledger.api.convert.event_lists import event_listing
from ledger.api.convert.page_tokens import PageTokens
from ledger.api.convert.paging import PAGE_BYTES_MAX, Listing, Paging, decode_page_size
from ledger.api.convert.payout_entries import payout_entry_listing
from ledger.api.convert.payouts import (
    encode_payout_page,
    encode_payout_run_item_page,
    encode_payout_run_page,
    payout_listing,
    payout_run_item_listing,
    payout_run_listing,
)
from ledger.api.convert.restaurants import RESTAURANT_LISTING, encode_restaurant_page
from ledger.api.convert.statements import encode_statement_page, statement_listing
from ledger.application.ports.event_lists import EventPlace, EventQuery
from ledger.application.ports.pages import CreationPlace, Page
from ledger.application.ports.payout_entries import PayoutEntryPlace
from ledger.application.ports.payouts import PayoutQuery, PayoutRunQuery
from ledger.application.ports.statements import (
    StatementMoment,
    StatementPage,
    StatementPlace,
    StatementQuery,
)
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import UNIX_EPOCH
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import (
    Payout,
    PayoutRun,
    PayoutRunItem,
    PayoutRunItemOutcome,
    PayoutRunKey,
    PayoutRunState,
)
from ledger.domain.posting_rules import EntryType
from ledger.domain.restaurants import Restaurant, RestaurantProfile

KEY = b"k" * 32
TOKENS = PageTokens([KEY])
ID = UUID("0190a1b2-0000-7000-8000-00000000000a")
REFUSED = [
    (
        "page_token",
        "must be the next_page_token of the same query; begin again with the first page",
    )
]
STATEMENT = statement_listing(
    StatementQuery(BalanceAccount("res_1", "PEN"), None, None, frozenset(), None, None)
)
PAYOUTS = payout_listing(PayoutQuery())
PAYOUT_ENTRIES = payout_entry_listing(ID, frozenset())
EVENTS = event_listing(EventQuery(None, None, frozenset(), None, None, None, None))


def test_page_size_has_a_default_and_a_maximum() -> None:
    sizes = (0, 1, 999, 1000, 1001, 2**31 - 1)
    assert [decode_page_size(size) for size in sizes] == [100, 1, 999, 1000, 1000, 1000]


@pytest.mark.parametrize("size", [-1, -(2**31)])
def test_negative_page_size_is_refused(size: int) -> None:
    assert violations_of(decode_page_size, size) == [("page_size", "must not be negative")]


def test_tokens_of_restaurants_are_those_of_earlier_servers() -> None:
    restaurant = Restaurant(RestaurantProfile("res_1"), UNIX_EPOCH, UNIX_EPOCH)
    paging = Paging(TOKENS, RESTAURANT_LISTING, 100, "")
    page = encode_restaurant_page(paging, Page([restaurant], "res_1"))
    assert page.next_page_token == keyed_token(KEY, ["ListRestaurants"], ["res_1"])


@pytest.mark.parametrize(
    ("query", "described"),
    [
        (PayoutQuery(), ["ListPayouts", "", "", ""]),
        (
            PayoutQuery("res_1", frozenset({PayoutState.PAID}), ID),
            ["ListPayouts", "res_1", "PAID", str(ID)],
        ),
        (
            PayoutQuery(
                states=frozenset({PayoutState.SUBMITTED, PayoutState.CREATED}),
                currency="PEN",
                start_at=UNIX_EPOCH,
                unanswered_since=UNIX_EPOCH,
                submission_id="sub_1",
            ),
            ["ListPayouts", "", "CREATED,SUBMITTED", "", "PEN", "0", "", "0", "sub_1"],
        ),
    ],
)
def test_tokens_of_payouts_are_those_of_earlier_servers(
    query: PayoutQuery, described: list[str]
) -> None:
    day = date(2026, 1, 31)
    payout = Payout(ID, ID, "res_1", "PEN", 1, day, UNIX_EPOCH, PayoutState.PAID, ID, UNIX_EPOCH)
    paging = Paging(TOKENS, payout_listing(query), 100, "")
    page = encode_payout_page(paging, Page([payout], CreationPlace(UNIX_EPOCH, ID)))
    assert page.next_page_token == keyed_token(KEY, described, ["0", str(ID)])


@pytest.mark.parametrize(
    ("query", "described"),
    [
        (PayoutRunQuery(None, None), ["ListPayoutRuns", "", ""]),
        (PayoutRunQuery("PEN", PayoutRunState.RUNNING), ["ListPayoutRuns", "PEN", "RUNNING"]),
    ],
)
def test_tokens_of_payout_runs_are_those_of_earlier_servers(
    query: PayoutRunQuery, described: list[str]
) -> None:
    key = PayoutRunKey("PEN", date(2026, 1, 31))
    run = PayoutRun(ID, key, UNIX_EPOCH, PayoutRunState.RUNNING, 0, 0, 0, 0, {}, UNIX_EPOCH, None)
    paging = Paging(TOKENS, payout_run_listing(query), 100, "")
    page = encode_payout_run_page(paging, Page([run], CreationPlace(UNIX_EPOCH, ID)))
    assert page.next_page_token == keyed_token(KEY, described, ["0", str(ID)])


@pytest.mark.parametrize(
    ("query", "described"),
    [
        (
            StatementQuery(BalanceAccount("res_1", "PEN"), None, None, frozenset(), None, None),
            ["ListEntries", "res_1", "PEN", "", "", "", "", ""],
        ),
        (
            StatementQuery(
                BalanceAccount("res_1", "PEN"),
                UNIX_EPOCH,
                UNIX_EPOCH,
                frozenset({EntryType.FEE, EntryType.CHARGE}),
                "evt",
                ID,
            ),
            ["ListEntries", "res_1", "PEN", "0", "0", "CHARGE,FEE", "evt", str(ID)],
        ),
    ],
)
def test_tokens_of_statements_are_those_of_earlier_servers(
    query: StatementQuery, described: list[str]
) -> None:
    """Open transactions are in it by their age."""
    place = StatementPlace(
        StatementMoment(UNIX_EPOCH, 900, (899, 890), -1, 2), UNIX_EPOCH, 800, ID, 3
    )
    paging = Paging(TOKENS, statement_listing(query), 100, "")
    page = encode_statement_page(paging, StatementPage([], place, place.moment))
    texts = ["0", "900", "1,10", "-1", "2", "0", "800", str(ID), "3"]
    assert page.next_page_token == keyed_token(KEY, described, texts)


@pytest.mark.parametrize(
    ("outcome", "described"),
    [
        (None, ["ListPayoutRunItems", str(ID), ""]),
        (PayoutRunItemOutcome.PAYOUT_CREATED, ["ListPayoutRunItems", str(ID), "PAYOUT_CREATED"]),
    ],
)
def test_tokens_of_run_items_are_those_of_earlier_servers(
    outcome: PayoutRunItemOutcome | None, described: list[str]
) -> None:
    item = PayoutRunItem("res_1", PayoutRunItemOutcome.PAYOUT_CREATED, None, ID, 1)
    paging = Paging(TOKENS, payout_run_item_listing(ID, outcome), 100, "")
    page = encode_payout_run_item_page(paging, Page([item], "res_1"))
    assert page.next_page_token == keyed_token(KEY, described, ["res_1"])


@pytest.mark.parametrize(
    ("listing", "place"),
    [
        (RESTAURANT_LISTING, "res_1"),
        (PAYOUTS, CreationPlace(UNIX_EPOCH, ID)),
        (PAYOUT_ENTRIES, PayoutEntryPlace(None, 900, ID, 3)),
        (PAYOUT_ENTRIES, PayoutEntryPlace(UNIX_EPOCH, 900, ID, 3)),
        (EVENTS, EventPlace(900, "evt_1")),
        (EVENTS, EventPlace(900, "")),
        (
            STATEMENT,
            StatementPlace(
                StatementMoment(UNIX_EPOCH, 900, (899, 890), -1, 2), UNIX_EPOCH, 800, ID, 3
            ),
        ),
    ],
    ids=[
        *("id", "creation", "other entry", "matured entry", "event", "before an instant"),
        "statement",
    ],
)
def test_list_continues_after_the_place_of_its_token(listing: Listing[Any], place: object) -> None:
    """The first page begins at the start; the last one has no token."""
    first = Paging(TOKENS, listing, 7, "")
    assert (first.after, first.page_size) == (None, 7)
    assert first.next_page_token(None) == ""
    assert Paging(TOKENS, listing, 7, first.next_page_token(place)).after == place


STATEMENT_TEXTS = ["0", "900", "1,10", "-1", "2", "0", "800", str(ID), "3"]


def wrong_statements() -> list[tuple[Listing[Any], list[str]]]:
    """A statement's place with one text that servers do not write."""
    wrong_texts = {
        0: ("", "x", "-1", str(10**17 + 1), "1" * 21, "\u0661"),
        1: ("", "-1", str(2**64)),
        2: (",", "0", "1,", "901", "1,x"),
        3: ("", "1.5", str(-(2**63) - 1)),
        4: (str(2**63),),
        5: ("-1",),
        6: ("-1", str(2**64)),
        7: ("", "x", str(ID).upper()),
        8: ("0", str(2**15)),
    }
    return [
        (STATEMENT, [*STATEMENT_TEXTS[:index], text, *STATEMENT_TEXTS[index + 1 :]])
        for index, texts in wrong_texts.items()
        for text in texts
    ]


@pytest.mark.parametrize(
    ("listing", "texts"),
    [
        (RESTAURANT_LISTING, [""]),
        (RESTAURANT_LISTING, ["a b"]),
        (RESTAURANT_LISTING, ["a" * 129]),
        (PAYOUTS, ["x", str(ID)]),
        (PAYOUTS, ["-1", str(ID)]),
        (PAYOUTS, [str(10**17 + 1), str(ID)]),
        (PAYOUTS, ["0", "x"]),
        (PAYOUTS, ["0", str(ID).upper()]),
        (PAYOUT_ENTRIES, ["x", "900", str(ID), "3"]),
        (PAYOUT_ENTRIES, ["", "-1", str(ID), "3"]),
        (PAYOUT_ENTRIES, ["", str(2**63), str(ID), "3"]),
        (PAYOUT_ENTRIES, ["", "900", str(ID).upper(), "3"]),
        (PAYOUT_ENTRIES, ["", "900", str(ID), "0"]),
        (PAYOUT_ENTRIES, ["", "900", str(ID), str(2**15)]),
        (EVENTS, ["", "evt_1"]),
        (EVENTS, ["-1", "evt_1"]),
        (EVENTS, [str(10**17 + 1), "evt_1"]),
        (EVENTS, ["0", "a b"]),
        *wrong_statements(),
    ],
)
def test_place_that_no_server_writes_is_refused(
    listing: Listing[Any], texts: Sequence[str]
) -> None:
    """So a caller with a leaked key can neither make a server fail nor reach an impossible page."""
    token = keyed_token(KEY, list(listing.described), list(texts))
    assert violations_of(Paging, TOKENS, listing, 100, token) == REFUSED


def test_page_of_large_restaurants_ends_early() -> None:
    """Its token continues after its last restaurant, and the next page has the others."""
    metadata = {f"key_{number}": "v" * 500 for number in range(50)}
    found = [
        Restaurant(RestaurantProfile(f"res_{number:03}", metadata=metadata), UNIX_EPOCH, UNIX_EPOCH)
        for number in range(200)
    ]
    paging = Paging(TOKENS, RESTAURANT_LISTING, 1000, "")
    page = encode_restaurant_page(paging, Page(found, None))
    assert 0 < len(page.restaurants) < len(found)
    assert page.ByteSize() <= PAGE_BYTES_MAX + 1024
    last = page.restaurants[-1].restaurant_id
    assert Paging(TOKENS, RESTAURANT_LISTING, 1000, page.next_page_token).after == last
    rest = encode_restaurant_page(paging, Page(found[len(page.restaurants) :], None))
    assert rest.next_page_token == ""
    assert len(page.restaurants) + len(rest.restaurants) == len(found)
