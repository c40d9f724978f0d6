"""Finds accounts whose statements have become slow, in the background, before one is asked for."""

from ledger.application.ports.balances import LongAccounts, LongTails
from ledger.repeating import Repeating, ReportFailure

# The pause between two draws while accounts are found or entries come.
DRAW_SECONDS = 2.0
# The longest pause while neither is so. It doubles until then.
QUIET_SECONDS_MAX = 60.0
# A statement reads as many entries beyond the newest mark in a millisecond: fewer are not long.
LONG_TAIL_ENTRIES = 2_000
# How long a stop waits for the draw under way, which takes milliseconds.
STOP_SECONDS = 1.0


class LongAccountFinder:
    """Draws accounts again and again, and reports the long ones.

    Without it the first statement of a long account would wait until its marks are made: a second
    for a million entries. Several servers may draw at once.
    """

    def __init__(
        self, accounts: LongAccounts, long_tails: LongTails, *, on_failure: ReportFailure
    ) -> None:
        """Found accounts are reported to `long_tails`."""
        self._accounts = accounts
        self._long_tails = long_tails
        self._pause_seconds = DRAW_SECONDS
        self._work = Repeating(
            "looking for long accounts",
            self._draw,
            every_seconds=DRAW_SECONDS,
            retry_seconds_max=QUIET_SECONDS_MAX,
            stop_seconds=STOP_SECONDS,
            on_failure=on_failure,
        )

    def start(self) -> None:
        self._work.start()

    async def stop(self) -> None:
        """Ends the draw under way, or gives it up."""
        await self._work.stop()

    async def _draw(self) -> float:
        # A shorter tail would be reported in vain.
        drawn = await self._accounts.draw(max(LONG_TAIL_ENTRIES, self._long_tails.entries_max))
        self._long_tails.report(drawn.long)
        if drawn.long or drawn.has_grown:
            self._pause_seconds = DRAW_SECONDS
        else:
            self._pause_seconds = min(2 * self._pause_seconds, QUIET_SECONDS_MAX)
        return self._pause_seconds
