"""The search for long accounts: it reports what it finds, and costs little when all is quiet."""

import asyncio
from collections.abc import Iterable

import pytest
from support.fake_time import now, run_on_fake_time

from ledger.application.find_long_accounts import (
    DRAW_SECONDS,
    LONG_TAIL_ENTRIES,
    QUIET_SECONDS_MAX,
    LongAccountFinder,
)
from ledger.application.ports.balances import DrawnAccounts
from ledger.errors import DatabaseUnavailable

QUIET = DrawnAccounts((), has_grown=False)
GROWN = DrawnAccounts((), has_grown=True)


class FakeAccounts:
    """Implements `LongAccounts`. `draws` are the results of the next draws; then nothing."""

    def __init__(self, *draws: DrawnAccounts | Exception) -> None:
        self.draws = list(draws)
        self.drawn_at: list[float] = []
        self.entries_max = 0

    async def draw(self, entries_max: int) -> DrawnAccounts:
        self.entries_max = entries_max
        self.drawn_at.append(now())
        drawn = self.draws.pop(0) if self.draws else QUIET
        if isinstance(drawn, Exception):
            raise drawn
        return drawn


class FakeTails:
    """Implements `LongTails`."""

    def __init__(self, entries_max: int = 200) -> None:
        self.entries_max = entries_max
        self.reported: list[tuple[int | None, int]] = []

    def report(self, tails: Iterable[tuple[int | None, int]]) -> None:
        self.reported += tails

    async def shortened(self, balance_account_id: int) -> None:
        raise AssertionError("nobody waits")


async def look(
    accounts: FakeAccounts, seconds: float, entries_max: int = 200
) -> tuple[FakeTails, list[str]]:
    """Lets a finder work for some seconds. Returns what it reported, and its failures."""
    tails, failures = FakeTails(entries_max), list[str]()
    finder = LongAccountFinder(accounts, tails, on_failure=lambda what, _: failures.append(what))
    finder.start()
    await asyncio.sleep(seconds)
    await finder.stop()
    return tails, failures


def test_found_accounts_are_reported() -> None:
    accounts = FakeAccounts(
        DrawnAccounts([(7, 2001), (8, 2001)], has_grown=True),
        DrawnAccounts([(9, 2001)], has_grown=False),
    )

    async def main() -> None:
        tails, failures = await look(accounts, 10)
        assert tails.reported == [(7, 2001), (8, 2001), (9, 2001)]
        assert failures == []

    run_on_fake_time(main())


def test_quiet_books_are_looked_at_ever_more_rarely() -> None:
    """Until entries come, or an account is found: both begin the short pauses again."""
    accounts = FakeAccounts(*[QUIET] * 20, GROWN)

    async def main() -> None:
        await look(accounts, 20 * QUIET_SECONDS_MAX)
        pauses = [
            later - earlier
            for earlier, later in zip(accounts.drawn_at, accounts.drawn_at[1:], strict=False)
        ]
        # Each pause is between a half and the whole of what is asked for.
        assert pauses[0] <= 2 * DRAW_SECONDS
        assert all(pause <= QUIET_SECONDS_MAX for pause in pauses)
        assert max(pauses[6:20]) > QUIET_SECONDS_MAX / 2
        assert pauses[20] <= DRAW_SECONDS

    run_on_fake_time(main())


@pytest.mark.parametrize(
    ("entries_max", "looked_for"),
    [(200, LONG_TAIL_ENTRIES), (LONG_TAIL_ENTRIES + 1, LONG_TAIL_ENTRIES + 1)],
)
def test_tails_that_nobody_wants_reported_are_not_looked_for(
    entries_max: int, looked_for: int
) -> None:
    accounts = FakeAccounts()

    async def main() -> None:
        await look(accounts, 1, entries_max)
        assert accounts.entries_max == looked_for

    run_on_fake_time(main())


def test_failure_ends_nothing() -> None:
    accounts = FakeAccounts(DatabaseUnavailable(), DrawnAccounts([(7, 2001)], has_grown=True))

    async def main() -> None:
        tails, failures = await look(accounts, 60)
        assert tails.reported == [(7, 2001)]
        assert failures == ["looking for long accounts must wait for the database"]

    run_on_fake_time(main())
