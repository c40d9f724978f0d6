"""Returns the balances of many restaurants, and what matures on which day."""

from dataclasses import dataclass, fields

from ledger.application.ports.balance_lists import (
    BalanceLists,
    BalancesQuery,
    BalanceTotals,
    Maturities,
)
from ledger.application.ports.pages import Page
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.application.restaurants import get_restaurant
from ledger.domain.balances import Balance
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.errors import AmountOutOfRange

_AMOUNTS = [field.name for field in fields(BalanceTotals) if field.name.endswith("_minor")]


@dataclass(frozen=True, slots=True)
class BalancesPage(Page[Balance, str]):
    """Some balances, with the totals over all restaurants that the query selects, if asked for."""

    totals: BalanceTotals | None


async def list_balances(
    balances: BalanceLists,
    query: BalancesQuery,
    after: str | None,
    page_size: int,
    *,
    with_totals: bool,
) -> BalancesPage:
    """Returns balances in the byte order of restaurant ids.

    Raises AmountOutOfRange when a balance or a total does not fit the contract's int64;
    DatabaseUnavailable, DatabaseTimeout.
    """
    page = await balances.page(query, after or "", page_size)
    totals = await balances.totals(query) if with_totals else None
    for shown in (*page.items, *([] if totals is None else [totals])):
        for name in _AMOUNTS:
            _check(name, getattr(shown, name))
    return BalancesPage(page.items, page.next_place, totals)


async def list_maturities(
    balances: BalanceLists,
    begin: UnitOfWorkFactory,
    currency: str,
    restaurant_id: str | None,
    days: int,
) -> Maturities:
    """Returns what is pending by the day on which it becomes available.

    Raises RestaurantNotFound; AmountOutOfRange when a sum does not fit the contract's int64;
    DatabaseUnavailable, DatabaseTimeout.
    """
    found = await balances.maturities(currency, restaurant_id, days)
    if restaurant_id is not None and not found.days and not found.later_minor:
        await get_restaurant(begin, restaurant_id)
    for maturity in found.days:
        _check("amount_minor", maturity.amount_minor)
    _check("later_minor", found.later_minor)
    return found


def _check(field: str, amount_minor: int) -> None:
    if not INT64_MIN <= amount_minor <= INT64_MAX:
        raise AmountOutOfRange(field)
