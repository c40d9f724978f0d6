"""Page tokens that no page has made."""

import base64
import hashlib
import hmac
import json

CHECKSUM_BYTES = 12


def checksummed_token(query: list[str], position: object) -> str:
    """As anybody can make it: under the checksum that once told a token from a damaged one."""
    body = _body(position)
    return _spelled(
        hashlib.sha256(_described(query) + b"\n" + body).digest()[:CHECKSUM_BYTES] + body
    )


def keyed_token(key: bytes, query: list[str], position: object) -> str:
    """As a server with this key makes it."""
    body = _body(position)
    return _spelled(hmac.digest(key, _described(query) + b"\n" + body, hashlib.sha256) + body)


def _body(position: object) -> bytes:
    return (
        position
        if isinstance(position, bytes)
        else json.dumps(position, separators=(",", ":")).encode()
    )


def _described(query: list[str]) -> bytes:
    return json.dumps(query, separators=(",", ":")).encode()


def _spelled(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
