"""The files of callers and their scopes: one line for each token or client certificate.

`#` begins a comment. A name in a certificate is written with its kind, `uri:spiffe://house/admin`
or `dns:admin.internal`: a certificate may have any text in either.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ledger.api.access.authorization import parse_scopes
from ledger.api.access.reloading import FileMissingOrEmpty, FileUnusable, read_file
from ledger.api.methods import Scope

# A name in the call log, for people: printable ASCII without blanks.
_IDENTITY = re.compile(r"[!-~]+")
IDENTITY_LENGTH_MAX = 256
LINES_MAX = 1000
URI_KIND = "uri:"
DNS_KIND = "dns:"
# Names without their kind, from older files: what cannot be a DNS name, and what cannot be a URI.
_PLAIN_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://|urn:).+")
_PLAIN_DNS_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StaticToken:
    """A line of the file of tokens. `digest` is the token's SHA-256; the token is not stored."""

    identity: str
    scopes: frozenset[Scope]
    digest: bytes


def is_identity(text: str) -> bool:
    """Whether `text` can be the name of a caller."""
    return len(text) <= IDENTITY_LENGTH_MAX and _IDENTITY.fullmatch(text) is not None


def read_tokens(path: Path) -> tuple[StaticToken, ...]:
    """The file's tokens; each line is `IDENTITY SCOPES SHA256`. Raises FileUnusable."""
    tokens: dict[bytes, StaticToken] = {}
    for number, words in _lines(path):
        if len(words) != 3 or not _DIGEST.fullmatch(words[2]):
            # The line is not shown: it may contain the token itself.
            raise FileUnusable(
                f"{path}:{number}: a line must be: IDENTITY SCOPES SHA256"
                " (the token's SHA-256 in lower-case hex)"
            )
        identity, scopes = _entry(path, number, words)
        digest = bytes.fromhex(words[2])
        if digest in tokens:
            raise FileUnusable(f"{path}:{number}: an earlier line has the same token")
        tokens[digest] = StaticToken(identity, scopes, digest)
    return tuple(tokens.values())


def read_identities(path: Path) -> Mapping[str, frozenset[Scope]]:
    """The scopes of each identity in the file; each line is `IDENTITY SCOPES`.

    An identity is a name in a certificate with its kind: `dns:admin.internal`. Raises FileUnusable.
    """
    identities: dict[str, frozenset[Scope]] = {}
    for number, words in _lines(path):
        if len(words) != 2:
            raise FileUnusable(f"{path}:{number}: a line must be: IDENTITY SCOPES")
        words[0] = _with_kind(path, number, words[0])
        identity, scopes = _entry(path, number, words)
        if identity in identities:
            raise FileUnusable(f"{path}:{number}: an earlier line has the same identity")
        identities[identity] = scopes
    return identities


def _with_kind(path: Path, number: int, name: str) -> str:
    """`name` with its kind. Adds the kind to a name that can only be of one."""
    if name.startswith((URI_KIND, DNS_KIND)):
        if name in (URI_KIND, DNS_KIND):
            raise FileUnusable(f"{path}:{number}: there is no name after {name}")
        return name
    if _PLAIN_URI.fullmatch(name):
        return URI_KIND + name
    if _PLAIN_DNS_NAME.fullmatch(name):
        return DNS_KIND + name
    raise FileUnusable(
        f"{path}:{number}: say which kind of name it is: {URI_KIND}NAME or {DNS_KIND}NAME"
    )


def _entry(path: Path, number: int, words: list[str]) -> tuple[str, frozenset[Scope]]:
    if not is_identity(words[0]):
        raise FileUnusable(
            f"{path}:{number}: an identity has at most {IDENTITY_LENGTH_MAX} printable ASCII "
            "characters"
        )
    try:
        return words[0], parse_scopes(words[1])
    except ValueError as error:
        raise FileUnusable(f"{path}:{number}: {error}") from None


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The words of each line that has any, with the line's number."""
    try:
        lines = read_file(path).decode().splitlines()
    except UnicodeDecodeError as error:
        raise FileUnusable(f"{path} is not UTF-8") from error
    found = [
        (number, words)
        for number, line in enumerate(lines, 1)
        if (words := line.partition("#")[0].split())
    ]
    # Verifying a token compares it with every line.
    if len(found) > LINES_MAX:
        raise FileUnusable(f"{path} has more than {LINES_MAX} lines")
    if not found:
        raise FileMissingOrEmpty(f"{path} names no caller")
    yield from found
