"""Balances in memory: sums over all entries of a balance account."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Literal

from ledger.application.ports.balance_lists import (
    BalancesQuery,
    BalanceTotals,
    Maturities,
    Maturity,
)
from ledger.application.ports.balances import AccountBalanceQuery, BalanceQuery, TailLength
from ledger.application.ports.pages import Page
from ledger.domain.accounts import AccountBalance
from ledger.domain.balances import Balance, BalanceAccount
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import UNIX_EPOCH, microseconds
from ledger.domain.payouts import day_bounds
from ledger.testing.memory.books import BookedEntry, Books
from ledger.zones import settlement_zone


class MemoryBalanceReader:
    """Implements `ledger.application.ports.balances.PastBalanceReader` for restaurants."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def read(self, queries: Sequence[BalanceQuery]) -> list[Balance | None]:
        now = self._books.clock()
        return [self._read(query, now) for query in queries]

    async def read_short(
        self, queries: Sequence[BalanceQuery]
    ) -> list[Balance | Literal[TailLength.LONG] | None]:
        return [*await self.read(queries)]

    def _read(self, query: BalanceQuery, now: datetime) -> Balance | None:
        if query.account.holder_id not in self._books.restaurants:
            return None
        as_of, entries = _as_of(self._books, query.account, query.as_of, now)
        return balance_of(query.account, entries, as_of)


class MemoryAccountBalanceReader:
    """Implements `ledger.application.ports.balances.PastBalanceReader` for accounts."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def read(self, queries: Sequence[AccountBalanceQuery]) -> list[AccountBalance | None]:
        now = self._books.clock()
        return [self._read(query, now) for query in queries]

    async def read_short(
        self, queries: Sequence[AccountBalanceQuery]
    ) -> list[AccountBalance | Literal[TailLength.LONG] | None]:
        return [*await self.read(queries)]

    def _read(self, query: AccountBalanceQuery, now: datetime) -> AccountBalance | None:
        account = self._books.accounts.get(query.account_id)
        if account is None:
            return None
        as_of, entries = _as_of(self._books, query.account_id, query.as_of, now)
        return AccountBalance(
            account_id=query.account_id,
            currency=account.profile.currency,
            available_minor=sum_on(entries, LedgerAccount.ACCOUNT_FUNDS),
            held_minor=sum_on(entries, LedgerAccount.ACCOUNT_HELD),
            as_of=as_of,
        )


class MemoryBalanceLists:
    """Implements `ledger.application.ports.balance_lists.BalanceLists`."""

    def __init__(self, books: Books, *, settlement_timezone: str) -> None:
        """`settlement_timezone` is the IANA zone in which a day begins and ends."""
        self._books = books
        self._zone = settlement_zone(settlement_timezone)

    async def page(self, query: BalancesQuery, after: str, page_size: int) -> Page[Balance, str]:
        found = [each for each in self._balances(query) if each.account.holder_id > after]
        return Page.cut(found, page_size, lambda balance: balance.account.holder_id)

    async def totals(self, query: BalancesQuery) -> BalanceTotals:
        found = self._balances(query)
        return BalanceTotals(
            restaurants_count=len(found),
            available_minor=sum(each.available_minor for each in found),
            pending_minor=sum(each.pending_minor for each in found),
            reserved_minor=sum(each.reserved_minor for each in found),
            disputed_minor=sum(each.disputed_minor for each in found),
            reserve_held_minor=sum(each.reserve_held_minor for each in found),
        )

    async def maturities(self, currency: str, restaurant_id: str | None, days: int) -> Maturities:
        now = self._books.clock()
        today: date = now.astimezone(self._zone).date()
        dates = [today + timedelta(days=number) for number in range(days)]
        ends = [microseconds(day_bounds(day, self._zone)[1]) for day in dates]
        begins_and_ends = pairwise([microseconds(now), *ends])
        pending = [
            (booked.entry.available_at_microseconds or 0, booked.minor_on(_PAYABLE))
            for account, number in self._books.balance_accounts.items()
            if account.holder_id
            and account.currency == currency
            and restaurant_id in (None, account.holder_id)
            for booked in self._books.entries_of(number)
            if booked.is_on(_PAYABLE) and not booked.has_matured(microseconds(now))
        ]
        listed = []
        for day, (begin, end) in zip(dates, begins_and_ends, strict=True):
            # An entry that matures at the very end of a day is available on the next one.
            amounts = [minor for at, minor in pending if begin <= at < end]
            if amounts:
                listed.append(Maturity(day, sum(amounts), len(amounts)))
        later_minor = sum(minor for at, minor in pending if at >= ends[-1])
        return Maturities(listed, later_minor, now)

    def _balances(self, query: BalancesQuery) -> list[Balance]:
        """The balances that the query selects, in the order of the restaurants' ids."""
        now = self._books.clock()
        balances = [
            balance_of(account, self._books.entries_of(number), now)
            for account, number in sorted(self._books.balance_accounts.items())
            if account.holder_id
            and account.currency == query.currency
            and account.holder_id.startswith(query.restaurant_id_prefix or "")
        ]
        return [balance for balance in balances if _passes(query, balance)]


_PAYABLE = LedgerAccount.RESTAURANT_PAYABLE


def sum_on(entries: Iterable[BookedEntry], ledger_account: LedgerAccount) -> int:
    """What entries add up to on a ledger account, in minor units."""
    return sum(booked.minor_on(ledger_account) for booked in entries)


def balance_of(account: BalanceAccount, entries: Sequence[BookedEntry], as_of: datetime) -> Balance:
    """The balance that the entries add up to, with maturity at `as_of`."""
    at = microseconds(as_of)
    payable_minor = sum_on(entries, _PAYABLE)
    available_minor = sum_on((each for each in entries if each.has_matured(at)), _PAYABLE)
    last_at = max(
        (
            booked.entry.occurred_at_microseconds
            for booked in entries
            if booked.entry.occurred_at_microseconds is not None
        ),
        default=None,
    )
    return Balance(
        account=account,
        available_minor=available_minor,
        pending_minor=payable_minor - available_minor,
        reserved_minor=sum_on(entries, LedgerAccount.PAYOUT_RESERVED),
        disputed_minor=sum_on(entries, LedgerAccount.DISPUTE_HOLD),
        reserve_held_minor=sum_on(entries, LedgerAccount.RESERVE_HOLD),
        last_event_at=None if last_at is None else UNIX_EPOCH + timedelta(microseconds=last_at),
        as_of=as_of.astimezone(UTC),
    )


def _as_of(
    books: Books, account: BalanceAccount | str, as_of: datetime | None, now: datetime
) -> tuple[datetime, list[BookedEntry]]:
    """The instant of a balance, `now` unless `as_of` is past, and the entries that it counts."""
    number = (
        books.account_ids.get(account)
        if isinstance(account, str)
        else books.balance_accounts.get(account)
    )
    entries = books.entries_of(number)
    if as_of is None or as_of >= now:
        return now, entries
    end = microseconds(as_of)
    return as_of, [each for each in entries if each.entry.recorded_at_microseconds < end]


def _passes(query: BalancesQuery, balance: Balance) -> bool:
    minimum = query.min_available_minor
    return (
        (not query.in_the_red or balance.available_minor + balance.pending_minor < 0)
        and (not query.held or bool(balance.disputed_minor or balance.reserve_held_minor))
        and (minimum is None or balance.available_minor >= minimum)
    )
