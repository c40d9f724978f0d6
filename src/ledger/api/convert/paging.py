"""The page of a list that a request asks for, and the token for the next one.

A list is described once, by a Listing; Paging reads a request's page size and page token by it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from google.protobuf.message import Message

from ledger.api.convert.identifiers import parse_uuid
from ledger.api.convert.page_tokens import PageTokens, refused_page_token
from ledger.application.ports.pages import CreationPlace, Place
from ledger.domain.events import UNIX_EPOCH, microseconds
from ledger.domain.fields import is_id
from ledger.errors import FieldViolation, InvalidRequest
from ledger.limits import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX

Encoded = TypeVar("Encoded", bound=Message)

# A page ends early rather than be larger than the 4 MiB that clients take by default.
PAGE_BYTES_MAX = 3 * 1024 * 1024
# Until the year 5138.
_MICROSECONDS_MAX = 10**17


@dataclass(frozen=True, slots=True)
class PlaceFormat(Generic[Place]):
    """How page tokens spell a place: as `texts` texts.

    `read` raises ValueError for texts that `write` does not make.
    """

    texts: int
    write: Callable[[Place], Sequence[str]]
    read: Callable[[Sequence[str]], Place]


@dataclass(frozen=True, slots=True)
class Listing(Generic[Place]):
    """A list that a query selects. Its page tokens are bound to `described`: the method's name and
    every filter.
    """

    described: tuple[str, ...]
    place_format: PlaceFormat[Place]


class Paging(Generic[Place]):
    """The page that a request asks for: at most `page_size` items after the place `after`, or from
    the start if that is None.
    """

    def __init__(
        self, tokens: PageTokens, listing: Listing[Place], page_size: int, page_token: str
    ) -> None:
        """Raises InvalidRequest for a token of another list or query."""
        self.page_size = page_size
        self.after = _read_place(tokens, listing, page_token) if page_token else None
        self._tokens = tokens
        self._listing = listing

    def next_page_token(self, place: Place | None) -> str:
        """The token for what follows `place`; empty for None, after the last page."""
        if place is None:
            return ""
        return self._tokens.encode(self._listing.described, self._listing.place_format.write(place))


def fitting(
    messages: Iterable[Encoded], next_place: Place | None, place_of: Callable[[Encoded], Place]
) -> tuple[list[Encoded], Place | None]:
    """As many messages of a page as PAGE_BYTES_MAX allows, at least one, and the place after which
    the list goes on. Of a page that ends early, that is the place of its last message.
    """
    kept: list[Encoded] = []
    size_bytes = 0
    for message in messages:
        size_bytes += message.ByteSize()
        if size_bytes > PAGE_BYTES_MAX and kept:
            return kept, place_of(kept[-1])
        kept.append(message)
    return kept, next_place


def decode_page_size(page_size: int) -> int:
    """How many items a page has at most. Raises InvalidRequest for a negative size."""
    if page_size < 0:
        raise InvalidRequest([FieldViolation("page_size", "must not be negative")])
    return min(page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def read_number(text: str, least: int, most: int) -> int:
    """A number of a place. Raises ValueError for another text, or beyond the bounds."""
    if not re.fullmatch("-?[0-9]{1,20}", text) or not least <= int(text) <= most:
        raise ValueError("not a number of a place")
    return int(text)


def read_microseconds(text: str) -> datetime:
    """An instant of a place, in microseconds since 1970. Raises ValueError."""
    return UNIX_EPOCH + timedelta(microseconds=read_number(text, 0, _MICROSECONDS_MAX))


def _read_place(tokens: PageTokens, listing: Listing[Place], page_token: str) -> Place:
    place_format = listing.place_format
    texts = tokens.decode(listing.described, page_token, place_format.texts)
    try:
        return place_format.read(texts)
    except ValueError:
        raise refused_page_token() from None


def _read_id(texts: Sequence[str]) -> str:
    (identifier,) = texts
    if not is_id(identifier):
        raise ValueError("not an id")
    return identifier


def _read_creation(texts: Sequence[str]) -> CreationPlace:
    created_at, identifier = texts
    return CreationPlace(read_microseconds(created_at), parse_uuid(identifier))


# The two common orders: by ids of the caller, and by creation.
ID_PLACE = PlaceFormat(1, lambda identifier: (identifier,), _read_id)
CREATION_PLACE = PlaceFormat(
    2, lambda place: (str(microseconds(place.created_at)), str(place.identifier)), _read_creation
)
