"""Page tokens: where a list goes on, bound to its query, and authenticated by keys that only
servers know.

A statement's token holds the balances of its first page: a caller that could make one would choose
what the server states.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Sequence

from ledger.errors import FieldViolation, InvalidRequest

_MAC_BYTES = 32
_TOKEN_LENGTH_MAX = 1024


class PageTokens:
    """Makes tokens with its first key, and accepts tokens made with any of its keys."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """Raises ValueError without keys."""
        if not keys:
            raise ValueError("there is no key for page tokens")
        self._keys = tuple(keys)

    def encode(self, query: Sequence[str], place: Sequence[str]) -> str:
        """A token for the page after `place` in the list that `query` describes: the method's name
        and its filters.
        """
        body = json.dumps(place, separators=(",", ":")).encode()
        return _spell(_mac(self._keys[0], query, body) + body)

    def decode(self, query: Sequence[str], token: str, texts: int) -> list[str]:
        """The place in `token`, which has `texts` texts.

        Raises InvalidRequest for a token of another query, or of no server of these books.
        """
        place = self._read(query, token) if len(token) <= _TOKEN_LENGTH_MAX else None
        if (
            isinstance(place, list)
            and len(place) == texts
            and all(isinstance(text, str) for text in place)
        ):
            return place
        raise refused_page_token()

    def _read(self, query: Sequence[str], token: str) -> object:
        """Any JSON value in `token`; None if no key of ours made it for `query`."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            # Every key, each in constant time: the time taken reveals nothing.
            if (
                not any([hmac.compare_digest(mac, _mac(key, query, body)) for key in self._keys])
                or _spell(raw) != token
            ):
                return None
            place: object = json.loads(body)
        except (binascii.Error, ValueError, RecursionError):
            return None
        return place


def refused_page_token() -> InvalidRequest:
    """The error for a token that was not made for the query."""
    return InvalidRequest(
        [
            FieldViolation(
                "page_token",
                "must be the next_page_token of the same query; begin again with the first page",
            )
        ]
    )


def _spell(raw: bytes) -> str:
    """The only spelling of these bytes that is accepted: base64 has several for some."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _mac(key: bytes, query: Sequence[str], body: bytes) -> bytes:
    described = json.dumps(list(query), separators=(",", ":")).encode()
    return hmac.digest(key, described + b"\n" + body, hashlib.sha256)
