"""Page tokens: their format, and the tokens that a list refuses."""

import base64
import json
from datetime import date
from uuid import UUID

import pytest
from support.page_tokens import checksummed_token, keyed_token
from support.violations import violations_of

from ledger.api.convert.page_tokens import PageTokens
from ledger.api.convert.payouts import encode_payout_page, encode_payout_run_page
from ledger.api.convert.restaurants import encode_restaurant_page
from ledger.api.convert.statements import encode_statement_page
from ledger.application.ports.payouts import PayoutQuery, PayoutRunQuery
from ledger.application.ports.statements import (
    StatementMoment,
    StatementPage,
    StatementPlace,
    StatementQuery,
)
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import EPOCH
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import Payout, PayoutRun, PayoutRunKey, PayoutRunState
from ledger.domain.posting_rules import EntryType
from ledger.domain.restaurants import Restaurant, RestaurantProfile
from ledger.errors import InvalidRequest

KEY = b"k" * 32
LIST = ("ListRestaurants",)
REFUSED = [
    (
        "page_token",
        "must be the next_page_token of the same query; begin again with the first page",
    )
]


def test_token_is_accepted_under_the_given_keys() -> None:
    """The first key makes the token, any key verifies it.

    It is refused under another query, another shape or another key.
    """
    tokens = PageTokens([KEY])
    token = tokens.encode(LIST, ["res_1"])
    assert token == keyed_token(KEY, list(LIST), ["res_1"])
    assert PageTokens([b"n" * 32, KEY]).decode(LIST, token, 1) == ["res_1"]
    with pytest.raises(ValueError, match="no key"):
        PageTokens([])
    for others, query_of_it, fields in (
        (PageTokens([b"n" * 32]), LIST, 1),
        (tokens, ("ListOther",), 1),
        (tokens, LIST, 2),
    ):
        with pytest.raises(InvalidRequest):
            others.decode(query_of_it, token, fields)


@pytest.mark.parametrize(
    "position", ["x", {}, None, 7, [1], [None], [[]], ["a", "b"], [], "[" * 700]
)
def test_position_under_the_right_key_is_checked_too(position: object) -> None:
    """A leaked key cannot make a server fail."""
    body = (
        position if isinstance(position, str) and position.startswith("[") else json.dumps(position)
    )
    with pytest.raises(InvalidRequest):
        PageTokens([KEY]).decode(LIST, keyed_token(KEY, list(LIST), body.encode()), 1)


def test_altered_token_is_refused() -> None:
    """Truncated, longer, with any bit flipped, spelled in another way, or of a caller's making."""
    tokens = PageTokens([KEY])
    token = tokens.encode(LIST, ["res_1"])
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    altered = [token[:length] for length in range(len(token))]
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        altered.append(base64.urlsafe_b64encode(flipped).decode().rstrip("="))
    altered += [token + "A", token + "=", " " + token, token + "\n", "A" * 1025, "\u00e9"]
    altered.append(checksummed_token(list(LIST), ["res_1"]))
    for wrong in altered:
        assert violations_of(tokens.decode, LIST, wrong, 1) == REFUSED, wrong


ID = UUID("0190a1b2-0000-7000-8000-00000000000a")
TOKENS = PageTokens([KEY])


def test_token_has_the_format_of_earlier_servers() -> None:
    """Base64url of the MAC and the position: servers of two versions may serve one list."""
    assert TOKENS.encode(LIST, ["res_1"]) == (
        "53x9j1iI9Le5lrL9yNCVlCJy-GhrdePpYOrEwzg2I_pbInJlc18xIl0"
    )


def test_tokens_of_restaurants_are_those_of_earlier_servers() -> None:
    page = [Restaurant(RestaurantProfile("res_1"), EPOCH, EPOCH)]
    found = encode_restaurant_page(TOKENS, LIST, page, more=True)
    assert found.next_page_token == keyed_token(KEY, ["ListRestaurants"], ["res_1"])


@pytest.mark.parametrize(
    ("query", "described"),
    [
        (PayoutQuery(None, None, None), ["ListPayouts", "", "", ""]),
        (
            PayoutQuery("res_1", PayoutState.PAID, ID),
            ["ListPayouts", "res_1", "PAID", str(ID)],
        ),
    ],
)
def test_tokens_of_payouts_are_those_of_earlier_servers(
    query: PayoutQuery, described: list[str]
) -> None:
    day = date(2026, 1, 31)
    payout = Payout(ID, ID, "res_1", "PEN", 1, day, EPOCH, PayoutState.PAID, ID, EPOCH)
    found = encode_payout_page(TOKENS, query, [payout], more=True)
    assert found.next_page_token == keyed_token(KEY, described, ["0", str(ID)])


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
    run = PayoutRun(ID, key, EPOCH, PayoutRunState.RUNNING, 0, 0, 0, 0, {}, EPOCH, None)
    found = encode_payout_run_page(TOKENS, query, [run], more=True)
    assert found.next_page_token == keyed_token(KEY, described, ["0", str(ID)])


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
                EPOCH,
                EPOCH,
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
    place = StatementPlace(StatementMoment(EPOCH, 900, (899, 890), -1, 2), EPOCH, 800, ID, 3)
    found = encode_statement_page(TOKENS, query, StatementPage(place.moment, [], place))
    position = ["0", "900", "1,10", "-1", "2", "0", "800", str(ID), "3"]
    assert found.next_page_token == keyed_token(KEY, described, position)
