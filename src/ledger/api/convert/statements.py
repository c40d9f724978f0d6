"""Between the contract's ListEntries and a statement, both ways."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.api.convert.enums import by_number
from ledger.api.convert.events import write_entry
from ledger.api.convert.identifiers import decode_page_size, decode_uuid
from ledger.api.convert.instants import decode_instant
from ledger.api.convert.page_tokens import PageTokens, refused_page_token
from ledger.application.ports.statements import (
    StatementMoment,
    StatementPage,
    StatementPlace,
    StatementQuery,
)
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import EPOCH, microseconds
from ledger.domain.fields import ID_RULE, is_id
from ledger.domain.money import CURRENCY_RULE, INT64_MAX, INT64_MIN, is_currency
from ledger.domain.posting_rules import EntryType
from ledger.errors import FieldViolation, InvalidRequest
from ledger.v1 import ledger_pb2

# What a token holds of the transactions under way when the first page was read: enough for any
# pool, and bounded. One that began ten million transactions ago, or is one too many, is not
# remembered; what it books may appear on a later page.
OPEN_TRANSACTIONS_MAX = 64
OPEN_TRANSACTION_AGE_MAX = 10_000_000

_ENTRY_TYPES = by_number(
    ledger_pb2.EntryType, "ENTRY_TYPE_", EntryType, "src/ledger/domain/posting_rules.py"
)
_UINT64_MAX = 2**64 - 1
_SMALLINT_MAX = 2**15 - 1
# Until the year 5138.
_INSTANT_MAX = 10**17
_PLACE_FIELDS = 9


def decode_statement_request(
    tokens: PageTokens, request: ledger_pb2.ListEntriesRequest
) -> tuple[StatementQuery, StatementPlace | None, int]:
    """The statement asked for, the place after which it goes on (None: its first page), and the
    page size.

    Raises InvalidRequest. Types of entries that are never on restaurant_payable are allowed, and
    match nothing.
    """
    violations: list[FieldViolation] = []
    if not is_id(request.restaurant_id):
        violations.append(FieldViolation("restaurant_id", ID_RULE))
    if not is_currency(request.currency):
        violations.append(FieldViolation("currency", CURRENCY_RULE))
    start_at = _decode_instant(request, "start_at", violations)
    end_at = _decode_instant(request, "end_at", violations)
    if start_at is not None and end_at is not None and start_at > end_at:
        violations.append(FieldViolation("start_at", "must not be after end_at"))
    numbers = set(request.entry_types)
    if not numbers <= _ENTRY_TYPES.keys():
        violations.append(FieldViolation("entry_types", "must be among the entry types"))
    if request.event_id and not is_id(request.event_id):
        violations.append(FieldViolation("event_id", f"{ID_RULE}, or be empty"))
    payout_id, page_size = None, 0
    try:
        payout_id = decode_uuid("payout_id", request.payout_id) if request.payout_id else None
    except InvalidRequest as error:
        violations += error.violations
    try:
        page_size = decode_page_size(request.page_size)
    except InvalidRequest as error:
        violations += error.violations
    if violations:
        raise InvalidRequest(violations)
    query = StatementQuery(
        account=BalanceAccount(request.restaurant_id, request.currency),
        start_at=start_at,
        end_at=end_at,
        entry_types=frozenset(_ENTRY_TYPES[number] for number in numbers),
        event_id=request.event_id or None,
        payout_id=payout_id,
    )
    return (
        query,
        _decode_place(tokens, query, request.page_token) if request.page_token else None,
        page_size,
    )


def encode_statement_page(
    tokens: PageTokens, query: StatementQuery, page: StatementPage
) -> ledger_pb2.ListEntriesResponse:
    """A page of a statement. A thousand entries, the most it has, are less than 1 MiB: every field
    of an entry is bounded.
    """
    response = ledger_pb2.ListEntriesResponse(
        opening_balance_minor=page.moment.opening_minor,
        closing_balance_minor=page.moment.closing_minor,
        next_page_token=""
        if page.next_place is None
        else _encode_place(tokens, query, page.next_place),
    )
    add = response.entries.add
    for entry in page.entries:
        write_entry(add(), entry)
    return response


def _decode_instant(
    request: ledger_pb2.ListEntriesRequest, field: str, violations: list[FieldViolation]
) -> datetime | None:
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    message: Timestamp = getattr(request, field)
    instant = decode_instant(message)
    if instant is None:
        violations.append(FieldViolation(field, "must be a valid timestamp"))
    return instant


def _described(query: StatementQuery) -> Sequence[str]:
    """What page tokens of a statement are bound to."""
    return (
        "ListEntries",
        *query.account,
        "" if query.start_at is None else str(microseconds(query.start_at)),
        "" if query.end_at is None else str(microseconds(query.end_at)),
        ",".join(sorted(query.entry_types)),
        query.event_id or "",
        str(query.payout_id or ""),
    )


def _encode_place(tokens: PageTokens, query: StatementQuery, place: StatementPlace) -> str:
    moment = place.moment
    ages = sorted(moment.transactions_end - txid for txid in moment.transactions_open)
    kept = [str(age) for age in ages if age < OPEN_TRANSACTION_AGE_MAX][:OPEN_TRANSACTIONS_MAX]
    return tokens.encode(
        _described(query),
        [
            str(microseconds(moment.read_at)),
            str(moment.transactions_end),
            ",".join(kept),
            str(moment.opening_minor),
            str(moment.closing_minor),
            str(microseconds(place.recorded_at)),
            str(place.recorded_txid),
            str(place.transaction_id),
            str(place.position),
        ],
    )


def _decode_place(tokens: PageTokens, query: StatementQuery, page_token: str) -> StatementPlace:
    """The place in a token. Raises InvalidRequest, also for what no page has put there."""
    fields = tokens.decode(_described(query), page_token, fields=_PLACE_FIELDS)
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
    ) = fields
    end = _number(transactions_end, 0, _UINT64_MAX)
    return StatementPlace(
        moment=StatementMoment(
            read_at=_instant(read_at),
            transactions_end=end,
            transactions_open=tuple(end - _number(age, 1, end) for age in ages.split(","))
            if ages
            else (),
            opening_minor=_number(opening, INT64_MIN, INT64_MAX),
            closing_minor=_number(closing, INT64_MIN, INT64_MAX),
        ),
        recorded_at=_instant(recorded_at),
        recorded_txid=_number(recorded_txid, 0, _UINT64_MAX),
        transaction_id=decode_uuid("page_token", transaction_id),
        position=_number(position, 1, _SMALLINT_MAX),
    )


def _instant(text: str) -> datetime:
    return EPOCH + timedelta(microseconds=_number(text, 0, _INSTANT_MAX))


def _number(text: str, least: int, most: int) -> int:
    if not re.fullmatch("-?[0-9]{1,20}", text) or not least <= int(text) <= most:
        raise refused_page_token()
    return int(text)
