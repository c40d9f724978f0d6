"""Page tokens that no list has returned."""

import base64
import hashlib
import hmac
import json

CHECKSUM_BYTES = 12


def checksummed_token(query: list[str], position: object) -> str:
    """A token that any caller can make: with a plain checksum instead of the server's MAC.

    Early servers used this checksum to recognize damaged tokens.
    """
    body = _body(position)
    return _spelled(
        hashlib.sha256(_described(query) + b"\n" + body).digest()[:CHECKSUM_BYTES] + body
    )


def keyed_token(key: bytes, query: list[str], position: object) -> str:
    """The token that a server with this key makes."""
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
