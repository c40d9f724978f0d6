"""Balances that are read together: concurrent calls share a query."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ClassVar, Generic, Literal, TypeVar

from ledger.application.grouping import Grouping
from ledger.application.halving import in_halves
from ledger.application.ports.balances import (
    AsksForBalance,
    BalanceReader,
    HasInstant,
    PastBalanceReader,
    TailLength,
)
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.errors import (
    AmountOutOfRange,
    DatabaseTimeout,
    DataRejected,
    FieldViolation,
    InvalidRequest,
    LedgerError,
    QueryRefused,
    QueueFull,
)

Query = TypeVar("Query", bound=AsksForBalance)
Found = TypeVar("Found", bound=HasInstant)
# What is read for a query.
Read = TypeVar("Read")

GROUP_QUERIES_MAX = 200
GROUPS_AT_ONCE_MAX = 3
# A past balance takes some hundred entries, ten times as many as a present one: its groups are
# smaller, and there are more of them.
PAST_GROUP_QUERIES_MAX = 20
PAST_GROUPS_AT_ONCE_MAX = 4
# Past balances that take very many entries, each in a query of its own. Fewer than the sessions for
# long reads, so that groups have one.
LONG_READS_AT_ONCE_MAX = 3
# A waiting query takes little memory, but the response to one more would come too late.
QUERIES_WAITING_MAX = 10_000


class GroupedBalances(ABC, Generic[Query, Found]):
    """Balances of one kind of holder. Concurrent calls share a query.

    The query of a group begins after each of its calls, so a balance that is read after an event or
    a payment was acknowledged includes it. Balances of past instants have separate groups. One that
    takes very many entries is read alone, so that its group need not wait for it.
    """

    # The amounts of a balance, as its fields are named here and in the contract.
    amount_fields: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        balances: BalanceReader[Query, Found],
        past_balances: PastBalanceReader[Query, Found],
        *,
        long_reads: asyncio.Semaphore | None = None,
        on_group: Callable[[int, float], None] = lambda _queries, _seconds: None,
        on_past_group: Callable[[int, float], None] = lambda _queries, _seconds: None,
    ) -> None:
        """`balances` is used by at most GROUPS_AT_ONCE_MAX groups at once.

        `past_balances` is used by at most PAST_GROUPS_AT_ONCE_MAX groups at once, and by as many
        calls as `long_reads` lets through: by default LONG_READS_AT_ONCE_MAX. `on_group` and
        `on_past_group` get, for each group, the number of its calls and the seconds that it took.
        """
        self._past_balances = past_balances
        self._groups: Grouping[Query, Found | LedgerError | None] = Grouping(
            partial(_read_timed, balances.read, on_group),
            group_items_max=GROUP_QUERIES_MAX,
            groups_at_once_max=GROUPS_AT_ONCE_MAX,
            what="balance reads",
        )
        self._past_groups: Grouping[
            Query, Found | Literal[TailLength.LONG] | LedgerError | None
        ] = Grouping(
            partial(_read_timed, past_balances.read_short, on_past_group),
            group_items_max=PAST_GROUP_QUERIES_MAX,
            groups_at_once_max=PAST_GROUPS_AT_ONCE_MAX,
            what="past balance reads",
        )
        self._waiting = 0
        self._long_reads = long_reads or asyncio.Semaphore(LONG_READS_AT_ONCE_MAX)

    @abstractmethod
    def _not_found(self, query: Query) -> LedgerError:
        """The error of a query whose holder is unknown."""

    async def __call__(self, query: Query) -> Found:
        """Returns the balance now, or at the past instant `query.as_of`.

        Raises RestaurantNotFound or AccountNotFound; InvalidRequest when `as_of` is in the future
        by the database's clock; AmountOutOfRange when a sum does not fit the contract's int64;
        QueueFull, ShuttingDown; DatabaseUnavailable, DatabaseTimeout.
        """
        if self._waiting >= QUERIES_WAITING_MAX:
            raise QueueFull
        self._waiting += 1
        try:
            if query.as_of is None:
                balance = await self._groups.add(query)
            else:
                balance = await self._read_past(query)
        finally:
            self._waiting -= 1
        if isinstance(balance, LedgerError):
            raise balance
        if balance is None:
            raise self._not_found(query)
        if query.as_of is not None and balance.as_of < query.as_of:
            raise InvalidRequest([FieldViolation("as_of", "must not be in the future")])
        for field in self.amount_fields:
            if not INT64_MIN <= getattr(balance, field) <= INT64_MAX:
                raise AmountOutOfRange(field)
        return balance

    async def close(self) -> None:
        """Refuses further calls, and returns when the groups of the admitted ones have been read.

        A call that is read alone goes on: its caller waits for it.
        """
        await asyncio.gather(self._groups.close(), self._past_groups.close())

    async def _read_past(self, query: Query) -> Found | LedgerError | None:
        balance = await self._past_groups.add(query)
        if balance is not TailLength.LONG:
            return balance
        async with self._long_reads:
            (balance,) = await self._past_balances.read([query])
        return balance


async def _read_timed(
    read: Callable[[Sequence[Query]], Awaitable[Sequence[Read]]],
    on_group: Callable[[int, float], None],
    queries: Sequence[Query],
) -> Sequence[Read | LedgerError]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        return await _read_in_parts(read, queries)
    finally:
        on_group(len(queries), loop.time() - began)


async def _read_in_parts(
    read: Callable[[Sequence[Query]], Awaitable[Sequence[Read]]],
    queries: Sequence[Query],
) -> Sequence[Read | LedgerError]:
    """Returns what was read for a group, each in the place of its query.

    If the group takes too long or is refused, reads its halves. In the end an account that has too
    many entries or cannot be read stands alone, with its error in its place.
    """
    found: list[Read | LedgerError] = []
    for _, part in await in_halves(read, queries, (DatabaseTimeout, DataRejected, QueryRefused)):
        if isinstance(part, LedgerError):
            found.append(part)
        else:
            found.extend(part)
    return found
