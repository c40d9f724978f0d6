"""Page tokens: where a list goes on, checksummed, and bound to the query that they belong to.

The checksum tells a damaged or misplaced token from a good one. It is no secret: forging a token gains nothing that asking for
the page before would not, and what is in one is judged like any other field of a request.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence

from ledger.errors import FieldViolation, InvalidRequest

_CHECKSUM_BYTES = 12
_TOKEN_LENGTH_MAX = 1024


def encode_page_token(query: Sequence[str], position: Sequence[str]) -> str:
    """A token for the page after `position` in the list that `query` describes: the method's name and its filters."""
    body = json.dumps(position, separators=(",", ":")).encode()
    return _spell(_checksum(query, body) + body)


def decode_page_token(query: Sequence[str], token: str, fields: int) -> list[str]:
    """The position in `token`, of as many `fields`. Raises InvalidRequest for any token not made for this very query."""
    position = _read(query, token) if len(token) <= _TOKEN_LENGTH_MAX else None
    if isinstance(position, list) and len(position) == fields and all(isinstance(field, str) for field in position):
        return position
    raise InvalidRequest([FieldViolation("page_token", "must be the next_page_token of the same query")])


def _read(query: Sequence[str], token: str) -> object:
    """Whatever position is in `token`; None if it was not made for `query`."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        body = raw[_CHECKSUM_BYTES:]
        if raw[:_CHECKSUM_BYTES] != _checksum(query, body) or _spell(raw) != token:
            return None
        position: object = json.loads(body)
    except (binascii.Error, ValueError, RecursionError):
        return None
    return position


def _spell(raw: bytes) -> str:
    """The only spelling of these bytes that is accepted: base64 has several for some."""
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _checksum(query: Sequence[str], body: bytes) -> bytes:
    described = json.dumps(list(query), separators=(",", ":")).encode()
    return hashlib.sha256(described + b"\n" + body).digest()[:_CHECKSUM_BYTES]
