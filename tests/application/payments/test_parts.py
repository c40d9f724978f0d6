"""The rounds and the parts in which commands are decided."""

import asyncio
from collections.abc import Sequence

import pytest
from support.fake_time import now, run_on_fake_time

from ledger.application.payments.parts import (
    PART_LOCK_WAIT_SECONDS,
    PATIENCE_SECONDS,
    in_parts,
    rounds,
)
from ledger.errors import DatabaseContention, DataRejected, LedgerError

USUAL_SECONDS = 1.0


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ("", []),
        ("ab", [[0, 1]]),
        ("aaa", [[0], [1], [2]]),
        ("abac", [[0, 1, 3], [2]]),
        ("aabbab", [[0, 2], [1, 3], [4, 5]]),
    ],
)
def test_no_id_occurs_twice_in_a_round(ids: str, expected: list[list[int]]) -> None:
    """And the first of an id comes first."""
    assert list(rounds(ids)) == expected


class Locks:
    """Decides items, some of which are locked until an instant, or are refused as data."""

    def __init__(self, locked_until: dict[str, float], refused: Sequence[str] = ()) -> None:
        self.locked_until = locked_until
        self.refused = refused
        self.tried: list[tuple[str, float | None]] = []

    async def decide(self, part: Sequence[str], lock_wait_seconds: float | None) -> str:
        """Waits for the locks of all items, as a session does."""
        self.tried.append(("".join(part), lock_wait_seconds))
        wait_seconds = USUAL_SECONDS if lock_wait_seconds is None else lock_wait_seconds
        free_at = max(self.locked_until.get(item, 0.0) for item in part)
        if free_at > now() + wait_seconds:
            await asyncio.sleep(wait_seconds)
            raise DatabaseContention
        await asyncio.sleep(max(0.0, free_at - now()))
        if set(part) & set(self.refused):
            raise DataRejected
        return "".join(part)


def decided(locks: Locks, items: str) -> list[tuple[str, str | type[LedgerError]]]:
    """The parts of the items, each with its outcome."""

    async def decide() -> list[tuple[str, str | type[LedgerError]]]:
        found = await in_parts(locks.decide, items)
        return [
            ("".join(part), type(outcome) if isinstance(outcome, LedgerError) else outcome)
            for part, outcome in found
        ]

    return run_on_fake_time(decide())


@pytest.mark.parametrize(
    ("items", "locked_until", "expected"),
    [
        # Free all along, or within the usual time.
        ("abcd", {}, [("abcd", "abcd")]),
        ("abcd", {"c": 0.9}, [("abcd", "abcd")]),
        # Alone it gets the usual time once more.
        ("a", {"a": 1.5}, [("a", "a")]),
        ("a", {"a": 9.0}, [("a", DatabaseContention)]),
        # The others do not wait for it, and it has its turn.
        ("abcd", {"c": 1.8}, [("ab", "ab"), ("c", "c"), ("d", "d")]),
        ("abcd", {"c": 9.0}, [("ab", "ab"), ("c", DatabaseContention), ("d", "d")]),
    ],
)
def test_only_what_stays_locked_fails(
    items: str,
    locked_until: dict[str, float],
    expected: list[tuple[str, str | type[LedgerError]]],
) -> None:
    """A busy account is waited for; the commands of other accounts are decided meanwhile."""
    assert decided(Locks(locked_until), items) == expected


def test_many_locked_commands_end_soon() -> None:
    """Once patience is over each waits for a moment only."""
    items = [chr(0x100 + number) for number in range(64)]
    locks = Locks(dict.fromkeys(items, 1e9))
    found = decided(locks, "".join(items))
    assert {outcome for _, outcome in found} == {DatabaseContention}
    waited = [USUAL_SECONDS if seconds is None else seconds for _, seconds in locks.tried]
    parts = 2 * len(items) - 1
    assert sum(waited) <= 2 * USUAL_SECONDS + PATIENCE_SECONDS + parts * PART_LOCK_WAIT_SECONDS


def test_only_what_the_database_refuses_alone_fails() -> None:
    """The others are decided."""
    assert decided(Locks({}, refused="c"), "abcd") == [
        ("ab", "ab"),
        ("c", DataRejected),
        ("d", "d"),
    ]
