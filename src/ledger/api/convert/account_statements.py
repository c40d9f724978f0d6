"""Between the contract's ListAccountEntries and a statement, both ways."""

from collections.abc import Sequence

from ledger.api.convert.events import write_entry
from ledger.api.convert.paging import Listing, Paging, PlaceFormat, read_number
from ledger.api.convert.statements import (
    STATEMENT_PLACE,
    check_page_size,
    decode_entry_types,
    decode_period,
    described_period,
)
from ledger.application.list_account_entries import AccountPlace, AccountStatementPage
from ledger.application.ports.statements import AccountStatementQuery
from ledger.domain.fields import ID_RULE, is_id
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.errors import FieldViolation, InvalidRequest
from ledger.v1 import account_pb2


def decode_account_statement_query(
    request: account_pb2.ListAccountEntriesRequest,
) -> AccountStatementQuery:
    """Returns the requested statement.

    Raises InvalidRequest, which names a negative page size with the other fields. Types of entries
    that are never on account_funds are allowed, and match nothing.
    """
    violations: list[FieldViolation] = []
    if not is_id(request.account_id):
        violations.append(FieldViolation("account_id", ID_RULE))
    start_at, end_at = decode_period(request, violations)
    entry_types = decode_entry_types(request, violations)
    if request.payment_id and not is_id(request.payment_id):
        violations.append(FieldViolation("payment_id", f"{ID_RULE}, or be empty"))
    check_page_size(request, violations)
    if violations:
        raise InvalidRequest(violations)
    return AccountStatementQuery(
        account_id=request.account_id,
        start_at=start_at,
        end_at=end_at,
        entry_types=entry_types,
        payment_id=request.payment_id or None,
    )


def account_statement_listing(query: AccountStatementQuery) -> Listing[AccountPlace]:
    """The entries that `query` selects."""
    described = (
        "ListAccountEntries",
        query.account_id,
        *described_period(query),
        query.payment_id or "",
    )
    return Listing(described, _PLACE_FORMAT)


def encode_account_statement_page(
    paging: Paging[AccountPlace], page: AccountStatementPage
) -> account_pb2.ListAccountEntriesResponse:
    """A page of a statement. It has at most a thousand entries, which are less than 1 MiB: every
    field of an entry is bounded.
    """
    response = account_pb2.ListAccountEntriesResponse(
        opening_balance_minor=page.moment.opening_minor,
        closing_balance_minor=page.moment.closing_minor,
        next_page_token=paging.next_page_token(page.next_place),
    )
    add = response.entries.add
    for entry, balance_minor in page.items:
        line = add()
        write_entry(line.entry, entry)
        if balance_minor is not None:
            line.balance_minor = balance_minor
    return response


def _write_place(place: AccountPlace) -> Sequence[str]:
    balance = "" if place.balance_minor is None else str(place.balance_minor)
    return (*STATEMENT_PLACE.write(place.place), balance)


def _read_place(texts: Sequence[str]) -> AccountPlace:
    *place, balance = texts
    return AccountPlace(
        STATEMENT_PLACE.read(place),
        read_number(balance, INT64_MIN, INT64_MAX) if balance else None,
    )


_PLACE_FORMAT = PlaceFormat(STATEMENT_PLACE.texts + 1, _write_place, _read_place)
