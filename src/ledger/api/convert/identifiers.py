"""Ids, page sizes and page positions, as every request of the contract has them."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from ledger.api.convert.page_tokens import PageTokens
from ledger.domain.fields import ID_RULE, is_id
from ledger.errors import (
    FieldViolation,
    InvalidRequest,
)
from ledger.limits import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX

# A page ends early rather than be larger than the 4 MiB that clients take by default.
PAGE_BYTES_MAX = 3 * 1024 * 1024


def decode_uuid(field: str, text: str) -> UUID:
    """The id in its one spelling: lower case, with hyphens. Raises InvalidRequest."""
    try:
        found = UUID(text)
    except ValueError:
        found = None
    if found is None or str(found) != text:
        raise InvalidRequest([FieldViolation(field, "must be an id that this service made")])
    return found


def decode_page_size(page_size: int) -> int:
    """At most how many rows a page has. Raises InvalidRequest for a negative size."""
    if page_size < 0:
        raise InvalidRequest([FieldViolation("page_size", "must not be negative")])
    return min(page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def decode_page_position(tokens: PageTokens, query: Sequence[str], page_token: str) -> str:
    """The id after which the list that `query` describes goes on; empty for its first page. Raises
    InvalidRequest.
    """
    if not page_token:
        return ""
    (after,) = tokens.decode(query, page_token, fields=1)
    require_ids({"page_token": after})
    return after


def id_violations(ids: Mapping[str, str]) -> list[FieldViolation]:
    return [FieldViolation(field, ID_RULE) for field, value in ids.items() if not is_id(value)]


def require_ids(ids: Mapping[str, str]) -> None:
    violations = id_violations(ids)
    if violations:
        raise InvalidRequest(violations)
