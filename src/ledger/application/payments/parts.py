"""The rounds and the parts in which commands that come together are decided."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from ledger.application.halving import REFUSALS, in_halves
from ledger.errors import DatabaseContention, LedgerError

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

# How long a part waits for a lock, once a group has met one that lasted.
PART_LOCK_WAIT_SECONDS = 0.1
# For this long after it a single command waits as long as usual: many groups that take one busy
# account wait for each other, and each gets its turn.
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


async def in_parts(
    decide: Callable[[Sequence[Item], float | None], Awaitable[Outcome]], items: Sequence[Item]
) -> list[tuple[Sequence[Item], Outcome | LedgerError]]:
    """Decides `items` together, or in ever smaller parts if the database refuses them or some of
    them are locked. What it refuses alone gets its error.

    `decide` gets a part and how many seconds it may wait for a lock; None: as long as usual.
    """
    time = asyncio.get_running_loop().time
    patient_until: float | None = None

    async def work(part: Sequence[Item]) -> Outcome:
        nonlocal patient_until
        is_alone = len(part) == 1
        is_patient = patient_until is None or (is_alone and time() < patient_until)
        try:
            return await decide(part, None if is_patient else PART_LOCK_WAIT_SECONDS)
        except DatabaseContention:
            if patient_until is not None:
                raise
            patient_until = time() + PATIENCE_SECONDS
            if not is_alone:
                raise
        return await decide(part, None)

    return await in_halves(work, items, (*REFUSALS, DatabaseContention))
