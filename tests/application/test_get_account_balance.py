"""GetAccountBalance: calls at once share a query, and each gets its own balance or error."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import pytest
from support.fake_time import run_on_fake_time

from ledger.application.get_account_balance import GetAccountBalance
from ledger.application.ports.balances import AccountBalanceQuery, TailLength
from ledger.domain.accounts import AccountBalance
from ledger.errors import AccountNotFound, AmountOutOfRange, InvalidRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAST = datetime(2025, 6, 1, tzinfo=UTC)
INT64_MAX = 2**63 - 1


class FakeBalances:
    """Implements `PastBalanceReader`. Accounts are named after what they have available."""

    def __init__(self) -> None:
        self.groups: list[int] = []

    async def read(self, queries: Sequence[AccountBalanceQuery]) -> list[AccountBalance | None]:
        self.groups.append(len(queries))
        await asyncio.sleep(0.01)
        return [
            None
            if query.account_id == "unknown"
            else AccountBalance(
                query.account_id, "PEN", int(query.account_id), 1, min(query.as_of or NOW, NOW)
            )
            for query in queries
        ]

    async def read_short(
        self, queries: Sequence[AccountBalanceQuery]
    ) -> list[AccountBalance | Literal[TailLength.LONG] | None]:
        return [*await self.read(queries)]


def test_calls_share_queries_and_have_separate_outcomes() -> None:
    """Available and held together must fit the response too."""
    names = ["5", "unknown", str(INT64_MAX), "-7", str(INT64_MAX - 1)]

    async def main() -> None:
        for as_of in (None, PAST):
            reader = FakeBalances()
            get_account_balance = GetAccountBalance(reader, reader)
            outcomes = await asyncio.gather(
                *(get_account_balance(AccountBalanceQuery(name, as_of)) for name in names * 3),
                return_exceptions=True,
            )
            assert len(reader.groups) < 6
            for name, outcome in zip(names * 3, outcomes, strict=True):
                if name == "unknown":
                    assert isinstance(outcome, AccountNotFound)
                    assert outcome.account_id == name
                elif int(name) == INT64_MAX:
                    assert isinstance(outcome, AmountOutOfRange)
                    assert outcome.field == "posted_minor"
                else:
                    assert isinstance(outcome, AccountBalance)
                    assert (outcome.available_minor, outcome.held_minor) == (int(name), 1)
                    assert outcome.as_of == (as_of or NOW)
            await get_account_balance.close()

    run_on_fake_time(main())


def test_balance_of_the_future_is_refused() -> None:
    async def main() -> None:
        get_account_balance = GetAccountBalance(FakeBalances(), FakeBalances())
        with pytest.raises(InvalidRequest) as caught:
            await get_account_balance(AccountBalanceQuery("5", datetime(2026, 1, 2, tzinfo=UTC)))
        assert [violation.field for violation in caught.value.violations] == ["as_of"]
        await get_account_balance.close()

    run_on_fake_time(main())
