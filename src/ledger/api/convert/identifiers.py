"""Ids, as every request of the contract has them."""

from collections.abc import Mapping
from uuid import UUID

from ledger.domain.fields import ID_RULE, is_id
from ledger.errors import FieldViolation, InvalidRequest


def parse_uuid(text: str) -> UUID:
    """The id in its one spelling: lower case, with hyphens. Raises ValueError."""
    found = UUID(text)
    if str(found) != text:
        raise ValueError("another spelling of an id")
    return found


def decode_uuid(field: str, text: str) -> UUID:
    """The id in its one spelling: lower case, with hyphens. Raises InvalidRequest."""
    try:
        return parse_uuid(text)
    except ValueError:
        raise InvalidRequest(
            [FieldViolation(field, "must be an id that this service made")]
        ) from None


def id_violations(ids: Mapping[str, str]) -> list[FieldViolation]:
    return [FieldViolation(field, ID_RULE) for field, value in ids.items() if not is_id(value)]


def require_ids(ids: Mapping[str, str]) -> None:
    violations = id_violations(ids)
    if violations:
        raise InvalidRequest(violations)
