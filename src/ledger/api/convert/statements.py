"""Between the contract's ListEntries and a statement, both ways."""

from collections.abc import Sequence
from datetime import datetime

from ledger.api.convert.enums import by_number
from ledger.api.convert.events import write_entry
from ledger.api.convert.identifiers import decode_uuid, parse_uuid
from ledger.api.convert.instants import decode_instant_of
from ledger.api.convert.paging import (
    Listing,
    Paging,
    PlaceFormat,
    decode_page_size,
    read_microseconds,
    read_number,
)
from ledger.application.ports.statements import (
    AsksForStatement,
    StatementMoment,
    StatementPage,
    StatementPlace,
    StatementQuery,
)
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import microseconds
from ledger.domain.fields import ID_RULE, is_id
from ledger.domain.money import CURRENCY_RULE, INT64_MAX, INT64_MIN, is_currency
from ledger.domain.posting_rules import EntryType
from ledger.errors import FieldViolation, InvalidRequest
from ledger.v1 import account_pb2, ledger_pb2

# A token holds so many of the database transactions that were under way at the first page, if they
# are no older than so many txids: enough for any pool, and bounded. What others book may appear on
# a later page.
OPEN_TRANSACTIONS_MAX = 64
OPEN_TRANSACTION_AGE_MAX = 10_000_000

_ENTRY_TYPES = by_number(
    ledger_pb2.EntryType, "ENTRY_TYPE_", EntryType, "src/ledger/domain/posting_rules.py"
)
StatementRequest = ledger_pb2.ListEntriesRequest | account_pb2.ListAccountEntriesRequest
PeriodRequest = StatementRequest | ledger_pb2.ListEventsRequest
TypesRequest = StatementRequest | ledger_pb2.ListPayoutEntriesRequest

_UINT64_MAX = 2**64 - 1
_SMALLINT_MAX = 2**15 - 1


def decode_statement_query(request: ledger_pb2.ListEntriesRequest) -> StatementQuery:
    """Returns the requested statement.

    Raises InvalidRequest, which names a negative page size with the other fields. Types of entries
    that are never on restaurant_payable are allowed, and match nothing.
    """
    violations: list[FieldViolation] = []
    if not is_id(request.restaurant_id):
        violations.append(FieldViolation("restaurant_id", ID_RULE))
    if not is_currency(request.currency):
        violations.append(FieldViolation("currency", CURRENCY_RULE))
    start_at, end_at = decode_period(request, violations)
    entry_types = decode_entry_types(request, violations)
    if request.event_id and not is_id(request.event_id):
        violations.append(FieldViolation("event_id", f"{ID_RULE}, or be empty"))
    payout_id = None
    try:
        payout_id = decode_uuid("payout_id", request.payout_id) if request.payout_id else None
    except InvalidRequest as error:
        violations += error.violations
    check_page_size(request, violations)
    if violations:
        raise InvalidRequest(violations)
    return StatementQuery(
        account=BalanceAccount(request.restaurant_id, request.currency),
        start_at=start_at,
        end_at=end_at,
        entry_types=entry_types,
        event_id=request.event_id or None,
        payout_id=payout_id,
    )


def statement_listing(query: StatementQuery) -> Listing[StatementPlace]:
    """The entries that `query` selects."""
    described = (
        "ListEntries",
        *query.account,
        *described_period(query),
        query.event_id or "",
        str(query.payout_id or ""),
    )
    return Listing(described, STATEMENT_PLACE)


def encode_statement_page(
    paging: Paging[StatementPlace], page: StatementPage
) -> ledger_pb2.ListEntriesResponse:
    """A page of a statement. It has at most a thousand entries, which are less than 1 MiB: every
    field of an entry is bounded.
    """
    response = ledger_pb2.ListEntriesResponse(
        opening_balance_minor=page.moment.opening_minor,
        closing_balance_minor=page.moment.closing_minor,
        next_page_token=paging.next_page_token(page.next_place),
    )
    add = response.entries.add
    for entry in page.items:
        write_entry(add(), entry)
    return response


def decode_period(
    request: PeriodRequest, violations: list[FieldViolation]
) -> tuple[datetime | None, datetime | None]:
    """The beginning and the end of the requested period. Adds what is wrong to `violations`."""
    start_at = decode_instant_of(request, "start_at", violations)
    end_at = decode_instant_of(request, "end_at", violations)
    if start_at is not None and end_at is not None and start_at > end_at:
        violations.append(FieldViolation("start_at", "must not be after end_at"))
    return start_at, end_at


def decode_entry_types(
    request: TypesRequest, violations: list[FieldViolation]
) -> frozenset[EntryType]:
    """The types of entries that are requested. Adds what is wrong to `violations`."""
    numbers = set(request.entry_types)
    if not numbers <= _ENTRY_TYPES.keys():
        violations.append(FieldViolation("entry_types", "must be among the entry types"))
    return frozenset(_ENTRY_TYPES[number] for number in numbers & _ENTRY_TYPES.keys())


def check_page_size(
    request: PeriodRequest | TypesRequest, violations: list[FieldViolation]
) -> None:
    """Adds a negative page size to `violations`."""
    try:
        decode_page_size(request.page_size)
    except InvalidRequest as error:
        violations += error.violations


def described_period(query: AsksForStatement) -> tuple[str, str, str]:
    """The period and the types of entries, as page tokens are bound to them."""
    return (
        *described_instants(query.start_at, query.end_at),
        ",".join(sorted(query.entry_types)),
    )


def described_instants(start_at: datetime | None, end_at: datetime | None) -> tuple[str, str]:
    """A period, as page tokens are bound to it."""
    return (
        "" if start_at is None else str(microseconds(start_at)),
        "" if end_at is None else str(microseconds(end_at)),
    )


def _write_place(place: StatementPlace) -> Sequence[str]:
    moment = place.moment
    ages = sorted(moment.transactions_end - txid for txid in moment.transactions_open)
    kept = [str(age) for age in ages if age < OPEN_TRANSACTION_AGE_MAX][:OPEN_TRANSACTIONS_MAX]
    return (
        str(microseconds(moment.read_at)),
        str(moment.transactions_end),
        ",".join(kept),
        str(moment.opening_minor),
        str(moment.closing_minor),
        str(microseconds(place.recorded_at)),
        str(place.recorded_txid),
        str(place.transaction_id),
        str(place.position),
    )


def _read_place(texts: Sequence[str]) -> StatementPlace:
    (
        read_at,
        transactions_end,
        ages,
        opening,
        closing,
        recorded_at,
        recorded_txid,
        transaction_id,
        position,
    ) = texts
    end = read_number(transactions_end, 0, _UINT64_MAX)
    return StatementPlace(
        moment=StatementMoment(
            read_at=read_microseconds(read_at),
            transactions_end=end,
            transactions_open=tuple(end - read_number(age, 1, end) for age in ages.split(","))
            if ages
            else (),
            opening_minor=read_number(opening, INT64_MIN, INT64_MAX),
            closing_minor=read_number(closing, INT64_MIN, INT64_MAX),
        ),
        recorded_at=read_microseconds(recorded_at),
        recorded_txid=read_number(recorded_txid, 0, _UINT64_MAX),
        transaction_id=parse_uuid(transaction_id),
        position=read_number(position, 1, _SMALLINT_MAX),
    )


STATEMENT_PLACE = PlaceFormat(9, _write_place, _read_place)
