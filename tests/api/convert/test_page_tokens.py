"""Page tokens: their format, and the tokens that a list refuses."""

import base64
import json

import pytest
from support.page_tokens import checksummed_token, keyed_token
from support.violations import violations_of

from ledger.api.convert.page_tokens import PageTokens
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
    for others, query_of_it, texts in (
        (PageTokens([b"n" * 32]), LIST, 1),
        (tokens, ("ListOther",), 1),
        (tokens, LIST, 2),
    ):
        with pytest.raises(InvalidRequest):
            others.decode(query_of_it, token, texts)


@pytest.mark.parametrize("place", ["x", {}, None, 7, [1], [None], [[]], ["a", "b"], [], "[" * 700])
def test_place_under_the_right_key_is_checked_too(place: object) -> None:
    """A leaked key cannot make a server fail."""
    body = place if isinstance(place, str) and place.startswith("[") else json.dumps(place)
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


def test_token_has_the_format_of_earlier_servers() -> None:
    """Base64url of the MAC and the position: servers of two versions may serve one list."""
    assert PageTokens([KEY]).encode(LIST, ["res_1"]) == (
        "53x9j1iI9Le5lrL9yNCVlCJy-GhrdePpYOrEwzg2I_pbInJlc18xIl0"
    )
