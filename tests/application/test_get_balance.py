"""GetBalance: which reads share a query, and which balances of the past are read alone."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import pytest
from support.fake_time import now, run_on_fake_time

from ledger.application.get_balance import GetBalance
from ledger.application.grouped_balances import LONG_READS_AT_ONCE_MAX, PAST_GROUP_QUERIES_MAX
from ledger.application.ports.balances import BalanceQuery, TailLength
from ledger.domain.balances import Balance, BalanceAccount
from ledger.errors import DatabaseTimeout, LedgerError, RestaurantNotFound, ShuttingDown

PAST = datetime(2025, 6, 1, tzinfo=UTC)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHORT_SECONDS, LONG_SECONDS = 0.01, 5.0


def balance_of(query: BalanceQuery) -> Balance:
    return Balance(query.account, 1, 2, 3, 4, 5, None, query.as_of or NOW)


class FakeBalances:
    """Implements `PastBalanceReader`. Restaurants named long_… take many entries.

    A read with one of `slow` raises DatabaseTimeout, restaurants named unknown_… are not there.
    """

    def __init__(self, slow: frozenset[str] = frozenset()) -> None:
        self.slow = slow
        self.groups: list[list[str]] = []
        self.alone: list[str] = []
        self.alone_at_once = self.alone_at_once_max = 0

    def _found(self, query: BalanceQuery) -> Balance | None:
        return None if query.account.holder_id.startswith("unknown_") else balance_of(query)

    async def read(self, queries: Sequence[BalanceQuery]) -> list[Balance | None]:
        self.alone += [query.account.holder_id for query in queries]
        self.alone_at_once += 1
        self.alone_at_once_max = max(self.alone_at_once_max, self.alone_at_once)
        await asyncio.sleep(LONG_SECONDS)
        self.alone_at_once -= 1
        return [self._found(query) for query in queries]

    async def read_short(
        self, queries: Sequence[BalanceQuery]
    ) -> list[Balance | Literal[TailLength.LONG] | None]:
        names = [query.account.holder_id for query in queries]
        self.groups.append(names)
        await asyncio.sleep(SHORT_SECONDS)
        if self.slow & set(names):
            raise DatabaseTimeout
        return [
            TailLength.LONG if name.startswith("long_") else self._found(query)
            for name, query in zip(names, queries, strict=True)
        ]


async def read(
    get_balance: GetBalance, names: Sequence[str], as_of: datetime | None = PAST
) -> list[Balance | BaseException]:
    """The balances of several callers at once, or their errors."""
    return await asyncio.gather(
        *(get_balance(BalanceQuery(BalanceAccount(name, "PEN"), as_of)) for name in names),
        return_exceptions=True,
    )


def test_past_balances_share_queries() -> None:
    """Some callers a query; each gets the balance of the restaurant and instant it asked for."""
    present, past = FakeBalances(), FakeBalances()
    sizes: list[int] = []

    async def main() -> None:
        get_balance = GetBalance(present, past, on_past_group=lambda size, _: sizes.append(size))
        names = [f"res_{n}" for n in range(2 * PAST_GROUP_QUERIES_MAX)]
        for balance, name in zip(await read(get_balance, names), names, strict=True):
            assert balance == balance_of(BalanceQuery(BalanceAccount(name, "PEN"), PAST))
        assert sorted(name for group in past.groups for name in group) == sorted(names)
        assert max(len(group) for group in past.groups) <= PAST_GROUP_QUERIES_MAX
        assert len(past.groups) < len(names) / 5
        assert (sizes, present.groups) == ([len(group) for group in past.groups], [])
        await get_balance.close()
        assert all(
            isinstance(refused, ShuttingDown) for refused in await read(get_balance, ["res_1"])
        )

    run_on_fake_time(main())


def test_long_past_balances_are_read_alone_and_delay_no_other() -> None:
    """A few at once. The others of their groups get balances as soon as the group was read."""
    past = FakeBalances()

    async def main() -> None:
        get_balance = GetBalance(FakeBalances(), past)
        long = asyncio.create_task(read(get_balance, [f"long_{n}" for n in range(10)]))
        short = await read(get_balance, [f"res_{n}" for n in range(10)])
        assert all(isinstance(balance, Balance) for balance in short)
        assert now() < 20 * SHORT_SECONDS
        balances = await long
        assert all(isinstance(balance, Balance) for balance in balances)
        assert sorted(past.alone) == sorted(f"long_{n}" for n in range(10))
        assert past.alone_at_once_max == LONG_READS_AT_ONCE_MAX
        await get_balance.close()

    run_on_fake_time(main())


def test_present_balances_are_never_cut() -> None:
    """They are read by the reader of present balances, however many entries they take."""
    present, past = FakeBalances(), FakeBalances()

    async def main() -> None:
        get_balance = GetBalance(present, past)
        (balance,) = await read(get_balance, ["long_1"], None)
        assert isinstance(balance, Balance)
        assert balance.as_of == NOW
        assert (present.alone, past.groups, past.alone) == (["long_1"], [], [])
        await get_balance.close()

    run_on_fake_time(main())


@pytest.mark.parametrize(
    ("name", "error"), [("slow_1", DatabaseTimeout), ("unknown_1", RestaurantNotFound)]
)
def test_error_of_a_past_balance_is_its_own(name: str, error: type[LedgerError]) -> None:
    """The group is read again in halves, and the others of it get their balances."""
    past = FakeBalances(slow=frozenset({"slow_1"}))

    async def main() -> None:
        get_balance = GetBalance(FakeBalances(), past)
        *others, failed = await read(get_balance, [*(f"res_{n}" for n in range(9)), name])
        assert all(isinstance(balance, Balance) for balance in others)
        assert isinstance(failed, error)
        await get_balance.close()

    run_on_fake_time(main())
