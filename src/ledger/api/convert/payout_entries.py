"""Between the contract's ListPayoutEntries and the entries of a payout, both ways."""

from collections.abc import Sequence
from uuid import UUID

from ledger.api.convert.events import write_entry
from ledger.api.convert.identifiers import decode_uuid, parse_uuid
from ledger.api.convert.paging import (
    Listing,
    Paging,
    PlaceFormat,
    read_microseconds,
    read_number,
)
from ledger.api.convert.statements import check_page_size, decode_entry_types
from ledger.application.ports.events import StoredEntry
from ledger.application.ports.pages import Page
from ledger.application.ports.payout_entries import PayoutEntryPlace
from ledger.domain.events import microseconds
from ledger.domain.money import INT64_MAX
from ledger.domain.posting_rules import EntryType
from ledger.errors import FieldViolation, InvalidRequest
from ledger.v1 import ledger_pb2

_SMALLINT_MAX = 2**15 - 1


def decode_payout_entries(
    request: ledger_pb2.ListPayoutEntriesRequest,
) -> tuple[UUID, frozenset[EntryType]]:
    """The payout and the types of entries. Raises InvalidRequest, which names a negative page size
    as well.
    """
    violations: list[FieldViolation] = []
    payout_id = None
    try:
        payout_id = decode_uuid("payout_id", request.payout_id)
    except InvalidRequest as error:
        violations += error.violations
    entry_types = decode_entry_types(request, violations)
    check_page_size(request, violations)
    if violations or payout_id is None:
        raise InvalidRequest(violations)
    return payout_id, entry_types


def payout_entry_listing(
    payout_id: UUID, entry_types: frozenset[EntryType]
) -> Listing[PayoutEntryPlace]:
    """The entries of a payout, of all types or some."""
    described = ("ListPayoutEntries", str(payout_id), ",".join(sorted(entry_types)))
    return Listing(described, PAYOUT_ENTRY_PLACE)


def encode_payout_entries_page(
    paging: Paging[PayoutEntryPlace], page: Page[StoredEntry, PayoutEntryPlace]
) -> ledger_pb2.ListPayoutEntriesResponse:
    """A page of entries: a thousand of them are less than 1 MiB."""
    response = ledger_pb2.ListPayoutEntriesResponse(
        next_page_token=paging.next_page_token(page.next_place)
    )
    for entry in page.items:
        write_entry(response.entries.add(), entry)
    return response


def _write_place(place: PayoutEntryPlace) -> Sequence[str]:
    return (
        "" if place.matured_at is None else str(microseconds(place.matured_at)),
        str(place.recorded_txid),
        str(place.transaction_id),
        str(place.position),
    )


def _read_place(texts: Sequence[str]) -> PayoutEntryPlace:
    matured_at, recorded_txid, transaction_id, position = texts
    return PayoutEntryPlace(
        read_microseconds(matured_at) if matured_at else None,
        read_number(recorded_txid, 0, INT64_MAX),
        parse_uuid(transaction_id),
        read_number(position, 1, _SMALLINT_MAX),
    )


PAYOUT_ENTRY_PLACE = PlaceFormat(4, _write_place, _read_place)
