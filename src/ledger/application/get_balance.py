"""Returns the balance of a restaurant in one currency."""

import asyncio
from collections.abc import Callable, Sequence

from ledger.application.grouping import Grouping
from ledger.application.halving import in_halves
from ledger.application.ports.balances import BalanceQuery, BalanceReader
from ledger.domain.balances import Balance
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
    RestaurantNotFound,
)

AMOUNT_FIELDS = ("available_minor", "pending_minor", "reserved_minor", "disputed_minor")
GROUP_QUERIES_MAX = 200
GROUPS_AT_ONCE_MAX = 3
PAST_READS_AT_ONCE_MAX = 4
# A waiting query takes little memory, but the response to one more would come too late.
QUERIES_WAITING_MAX = 10_000


class GetBalance:
    """The use case of GetBalance. Concurrent calls for the current balance share a query.

    The query of a group begins after each of its calls, so a balance that is read after an event
    was acknowledged includes the event. Balances of past instants are read one by one: they may
    have to count more entries.
    """

    def __init__(
        self,
        balances: BalanceReader,
        past_balances: BalanceReader,
        *,
        on_group: Callable[[int, float], None] = lambda _queries, _seconds: None,
    ) -> None:
        """`balances` is used by at most GROUPS_AT_ONCE_MAX groups at once.

        `past_balances` is used by at most PAST_READS_AT_ONCE_MAX calls at once. `on_group` gets,
        for each group, the number of its calls and the seconds that it took.
        """
        self._balances = balances
        self._past_balances = past_balances
        self._groups: Grouping[BalanceQuery, Balance | LedgerError | None] = Grouping(
            self._read_timed,
            group_items_max=GROUP_QUERIES_MAX,
            groups_at_once_max=GROUPS_AT_ONCE_MAX,
            what="balance reads",
        )
        self._on_group = on_group
        self._waiting = 0
        # Few, so that other work has sessions.
        self._past_reads = asyncio.Semaphore(PAST_READS_AT_ONCE_MAX)

    async def __call__(self, query: BalanceQuery) -> Balance:
        """Returns the balance now, or at the past instant `query.as_of`.

        Zeros for a known restaurant without entries. Raises RestaurantNotFound; InvalidRequest when
        `as_of` is in the future by the database's clock; AmountOutOfRange when a sum does not fit
        the contract's int64; QueueFull, ShuttingDown; DatabaseUnavailable, DatabaseTimeout.
        """
        if self._waiting >= QUERIES_WAITING_MAX:
            raise QueueFull
        self._waiting += 1
        try:
            balance = await self._read_one(query)
        finally:
            self._waiting -= 1
        if isinstance(balance, LedgerError):
            raise balance
        if balance is None:
            raise RestaurantNotFound(query.account.holder_id)
        if query.as_of is not None and balance.as_of < query.as_of:
            raise InvalidRequest([FieldViolation("as_of", "must not be in the future")])
        for field in AMOUNT_FIELDS:
            if not INT64_MIN <= getattr(balance, field) <= INT64_MAX:
                raise AmountOutOfRange(field)
        return balance

    async def close(self) -> None:
        """Refuses further calls, and returns when the admitted ones have ended."""
        await self._groups.close()

    async def _read_one(self, query: BalanceQuery) -> Balance | LedgerError | None:
        if query.as_of is None:
            return await self._groups.add(query)
        async with self._past_reads:
            (balance,) = await self._past_balances.read([query])
        return balance

    async def _read_timed(
        self, queries: Sequence[BalanceQuery]
    ) -> Sequence[Balance | LedgerError | None]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self._read(queries)
        finally:
            self._on_group(len(queries), loop.time() - began)

    async def _read(
        self, queries: Sequence[BalanceQuery]
    ) -> Sequence[Balance | LedgerError | None]:
        """Returns the balances of a group, each in the place of its query.

        If the group takes too long or is refused, reads its halves. In the end an account that has
        too many entries or cannot be read stands alone, with its error in its place.
        """
        balances: list[Balance | LedgerError | None] = []
        for _, read in await in_halves(
            self._balances.read, queries, (DatabaseTimeout, DataRejected, QueryRefused)
        ):
            if isinstance(read, LedgerError):
                balances.append(read)
            else:
                balances.extend(read)
        return balances
