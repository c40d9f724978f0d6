"""The rounds and the parts in which commands that come together are decided."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from ledger.application.halving import in_halves
from ledger.errors import DatabaseContention, DatabaseTimeout, LedgerError

Outcome = TypeVar("Outcome")
Outcome_co = TypeVar("Outcome_co", covariant=True)

# Once a group has met a lock that lasted: how long commands wait for one that need nothing locked.
PART_LOCK_WAIT_SECONDS = 0.1
# For this long after it the other commands wait, each time as long as usual: many groups that take
# one busy account wait for each other, and each gets its turn.
PATIENCE_SECONDS = 2.0
# How often a transaction begins again because another one has stored an id, or opened a balance
# account. Each time one of them has got further.
RESTARTS_MAX = 10


def rounds(ids: Sequence[str]) -> Iterator[list[int]]:
    """The places of the ids in rounds: in each no id occurs twice, and the first comes first.

    What repeats an id is decided in a later round, when the first is stored.

        rounds(["a", "b", "a", "c"])   [0, 1, 3], [2]
    """
    pending = list(range(len(ids)))
    while pending:
        seen: set[str] = set()
        later: list[int] = []
        now: list[int] = []
        for place in pending:
            (later if ids[place] in seen else now).append(place)
            seen.add(ids[place])
        yield now
        pending = later


class Commands(Protocol[Outcome_co]):
    """Commands that come together, by their places."""

    async def decide(self, places: Sequence[int], lock_wait_seconds: float | None) -> Outcome_co:
        """Decides these in one transaction. None: a lock is waited for as long as usual."""
        ...

    async def locked(self, places: Sequence[int]) -> Collection[int]:
        """Which of these need something that is locked now. Waits for no row."""
        ...

    async def slow(self, places: Sequence[int]) -> Collection[int]:
        """Which of these are decided by a balance that takes long to add up."""
        ...

    def behind(self, stopped: Collection[int], places: Sequence[int]) -> set[int]:
        """The stopped ones among `places`, and those that must not be decided before them."""
        ...


async def in_parts(
    commands: Commands[Outcome], count: int
) -> list[tuple[Sequence[int], Outcome | LedgerError]]:
    """Decides commands, if possible together. Returns parts of their places with their outcomes;
    a command that fails is a part by itself.

    When a lock lasts, the commands that need nothing locked are decided first, together. The others
    wait together, and fail PATIENCE_SECONDS and one wait later, however many they are. When the
    database times out, the commands that slow accounts decide fail: to halve them would take
    another time-out for each half. What the database refuses is found by halving.

    Raises DatabaseTimeout if it timed out and no account is slow.
    """
    parts = _Parts(commands, count)
    await parts.decide_all()
    return parts.found


class _Parts(Generic[Outcome]):
    """Commands that are decided in parts, and what is found so far."""

    def __init__(self, commands: Commands[Outcome], count: int) -> None:
        self.found: list[tuple[Sequence[int], Outcome | LedgerError]] = []
        self._commands = commands
        self._count = count
        # The places that are not decided yet, in their order.
        self._left = dict.fromkeys(range(count))
        # Since a lock has lasted.
        self._patient_until: float | None = None
        # What waits for a lock that cannot be asked for, such as that of a row not yet committed.
        self._stuck: set[int] = set()
        # How many that need nothing locked are decided together, to find a stuck one among them.
        self._part_max = count

    async def decide_all(self) -> None:
        time = asyncio.get_running_loop().time
        while self._left:
            left = list(self._left)
            if self._patient_until is None:
                if not await self._attempt(left, None):
                    self._patient_until = time() + PATIENCE_SECONDS
                continue
            is_patient = time() < self._patient_until
            waiting = self._commands.behind({*self._stuck, *await self._locked(left)}, left)
            part = [place for place in left if place not in waiting]
            if part:
                await self._decide_free(part[: self._part_max], is_patient)
            elif is_patient:
                await self._attempt(left, None)
            else:
                self._fail(left, DatabaseContention())

    async def _decide_free(self, part: Sequence[int], is_patient: bool) -> None:
        if await self._attempt(part, PART_LOCK_WAIT_SECONDS):
            self._part_max = self._count
        elif is_patient and len(part) > 1:
            self._part_max = len(part) // 2
        else:
            self._stuck.update(part)
            self._part_max = self._count

    async def _attempt(self, part: Sequence[int], lock_wait_seconds: float | None) -> bool:
        """Whether it met no lock that lasts. Behind one it decides nothing, to keep the order."""
        is_free = True

        async def work(places: Sequence[int]) -> Outcome | None:
            nonlocal is_free
            if is_free:
                try:
                    return await self._commands.decide(places, lock_wait_seconds)
                except DatabaseContention:
                    is_free = False
            return None

        try:
            await in_halves(work, part, on_part=self._add)
        except DatabaseTimeout as error:
            left = list(self._left)
            slow = self._commands.behind(await self._commands.slow(left), left)
            if not slow:
                raise
            self._fail(slow, error)
            # The others have waited for these, not for a lock.
            self._patient_until = None
        return is_free

    async def _locked(self, places: Sequence[int]) -> Collection[int]:
        try:
            return await self._commands.locked(places)
        except DatabaseContention:
            # A whole table is locked.
            return places

    def _fail(self, places: Iterable[int], error: LedgerError) -> None:
        for place in places:
            self._add([place], error)

    def _add(self, places: Sequence[int], outcome: Outcome | LedgerError | None) -> None:
        """None: they are not decided yet."""
        if outcome is not None:
            self.found.append((places, outcome))
            for place in places:
                del self._left[place]
