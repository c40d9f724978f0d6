"""Between the contract's lists of balances and of maturities and the application, both ways."""

from ledger.api.convert.instants import encode_instant, encode_optional_instant
from ledger.api.convert.paging import ID_PLACE, Listing, Paging, decode_page_size
from ledger.api.convert.payouts import encode_date
from ledger.application.list_balances import BalancesPage
from ledger.application.ports.balance_lists import BalancesQuery, Maturities
from ledger.domain.fields import ID_RULE, is_id
from ledger.domain.money import CURRENCY_RULE, is_currency
from ledger.errors import FieldViolation, InvalidRequest
from ledger.v1 import ledger_pb2

DAYS_DEFAULT = 14
# An event's available_at is at most so many days after it.
DAYS_MAX = 400


def decode_balances_query(request: ledger_pb2.ListBalancesRequest) -> BalancesQuery:
    """Which balances to list. Raises InvalidRequest, which names a negative page size as well."""
    violations: list[FieldViolation] = []
    if not is_currency(request.currency):
        violations.append(FieldViolation("currency", CURRENCY_RULE))
    if request.restaurant_id_prefix and not is_id(request.restaurant_id_prefix):
        violations.append(FieldViolation("restaurant_id_prefix", f"{ID_RULE}, or be empty"))
    try:
        decode_page_size(request.page_size)
    except InvalidRequest as error:
        violations += error.violations
    if violations:
        raise InvalidRequest(violations)
    return BalancesQuery(
        currency=request.currency,
        restaurant_id_prefix=request.restaurant_id_prefix or None,
        in_the_red=request.in_the_red,
        held=request.held,
        min_available_minor=request.min_available_minor
        if request.HasField("min_available_minor")
        else None,
    )


def balance_listing(query: BalancesQuery) -> Listing[str]:
    """The balances that `query` selects."""
    minimum = query.min_available_minor
    described = (
        "ListBalances",
        query.currency,
        query.restaurant_id_prefix or "",
        "in_the_red" if query.in_the_red else "",
        "held" if query.held else "",
        "" if minimum is None else str(minimum),
    )
    return Listing(described, ID_PLACE)


def encode_balances_page(
    paging: Paging[str], page: BalancesPage
) -> ledger_pb2.ListBalancesResponse:
    """A page of balances: a thousand of them are less than 1 MiB."""
    response = ledger_pb2.ListBalancesResponse(
        next_page_token=paging.next_page_token(page.next_place)
    )
    for balance in page.items:
        response.balances.add(
            restaurant_id=balance.account.holder_id,
            available_minor=balance.available_minor,
            pending_minor=balance.pending_minor,
            reserved_minor=balance.reserved_minor,
            disputed_minor=balance.disputed_minor,
            reserve_held_minor=balance.reserve_held_minor,
            last_event_at=encode_optional_instant(balance.last_event_at),
            as_of=encode_instant(balance.as_of),
        )
    if (totals := page.totals) is not None:
        response.totals.CopyFrom(
            ledger_pb2.BalanceTotals(
                restaurants_count=totals.restaurants_count,
                available_minor=totals.available_minor,
                pending_minor=totals.pending_minor,
                reserved_minor=totals.reserved_minor,
                disputed_minor=totals.disputed_minor,
                reserve_held_minor=totals.reserve_held_minor,
            )
        )
    return response


def decode_maturities(
    request: ledger_pb2.ListMaturitiesRequest,
) -> tuple[str, str | None, int]:
    """The currency, the restaurant or None, and how many days. Raises InvalidRequest."""
    violations: list[FieldViolation] = []
    if request.restaurant_id and not is_id(request.restaurant_id):
        violations.append(FieldViolation("restaurant_id", f"{ID_RULE}, or be empty"))
    if not is_currency(request.currency):
        violations.append(FieldViolation("currency", CURRENCY_RULE))
    if not 0 <= request.days <= DAYS_MAX:
        violations.append(FieldViolation("days", f"must be 1 to {DAYS_MAX}, or 0"))
    if violations:
        raise InvalidRequest(violations)
    return request.currency, request.restaurant_id or None, request.days or DAYS_DEFAULT


def encode_maturities(found: Maturities) -> ledger_pb2.ListMaturitiesResponse:
    return ledger_pb2.ListMaturitiesResponse(
        maturities=[
            ledger_pb2.Maturity(
                as_of=encode_date(maturity.day),
                amount_minor=maturity.amount_minor,
                entries_count=maturity.entries_count,
            )
            for maturity in found.days
        ],
        later_minor=found.later_minor,
        as_of=encode_instant(found.as_of),
    )
