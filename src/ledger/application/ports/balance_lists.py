"""The balances of many restaurants, and what matures on which day."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from ledger.application.ports.pages import Page
from ledger.domain.balances import Balance


@dataclass(frozen=True, slots=True)
class BalancesQuery:
    """Which restaurants' balances to list, in one currency. None is any.

    `in_the_red`: available and pending together are below 0. `held`: disputed or held as a reserve
    is not 0.
    """

    currency: str
    restaurant_id_prefix: str | None
    in_the_red: bool
    held: bool
    min_available_minor: int | None


@dataclass(frozen=True, slots=True)
class BalanceTotals:
    """Sums over restaurants, in minor units."""

    restaurants_count: int
    available_minor: int
    pending_minor: int
    reserved_minor: int
    disputed_minor: int
    reserve_held_minor: int


@dataclass(frozen=True, slots=True)
class Maturity:
    """What becomes available on a day of the settlement time zone, in minor units."""

    day: date
    amount_minor: int
    entries_count: int


@dataclass(frozen=True, slots=True)
class Maturities:
    """What is pending at an instant, by day, and what matures after the last day."""

    days: Sequence[Maturity]
    later_minor: int
    as_of: datetime


class BalanceLists(Protocol):
    """Reads balances of many restaurants.

    All methods raise DatabaseUnavailable and DatabaseTimeout.
    """

    async def page(self, query: BalancesQuery, after: str, page_size: int) -> Page[Balance, str]:
        """At most `page_size` balances of restaurants whose id is after `after`, in that order. It
        may hold fewer, or none, and have a next place, once it has looked at as many restaurants as
        a page may.
        """
        ...

    async def totals(self, query: BalancesQuery) -> BalanceTotals:
        """The sums over all restaurants that the query selects."""
        ...

    async def maturities(self, currency: str, restaurant_id: str | None, days: int) -> Maturities:
        """What matures today and on the days after it, `days` in all."""
        ...
