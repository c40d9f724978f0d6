"""The rounds and the parts in which commands are decided."""

import asyncio
from collections.abc import Collection, Sequence

import pytest
from support.fake_time import now, run_on_fake_time

from ledger.application.payments.parts import PATIENCE_SECONDS, in_parts, rounds
from ledger.errors import DatabaseContention, DatabaseTimeout, DataRejected, LedgerError

USUAL_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0


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
    """Decides items, some of which are locked until an instant, are slow, or are refused as data.

    An item is decided after the same item before it.
    """

    def __init__(
        self,
        items: str,
        locked_until: dict[str, float] | None = None,
        *,
        slow: str = "",
        refused: str = "",
        unseen: bool = False,
    ) -> None:
        """`unseen`: what is locked shows only when it is waited for."""
        self.items = items
        self.locked_until = locked_until or {}
        self.is_slow, self.is_refused, self.unseen = slow, refused, unseen
        self.decided: list[str] = []

    async def decide(self, places: Sequence[int], lock_wait_seconds: float | None) -> str:
        """Waits for the locks of all items, as a session does."""
        part = self._of(places)
        wait_seconds = USUAL_SECONDS if lock_wait_seconds is None else lock_wait_seconds
        free_at = max(self.locked_until.get(item, 0.0) for item in part)
        if free_at > now() + wait_seconds:
            await asyncio.sleep(wait_seconds)
            raise DatabaseContention
        await asyncio.sleep(max(0.0, free_at - now()))
        if set(part) & set(self.is_slow):
            await asyncio.sleep(TIMEOUT_SECONDS)
            raise DatabaseTimeout
        if set(part) & set(self.is_refused):
            raise DataRejected
        self.decided.append(part)
        return part

    async def locked(self, places: Sequence[int]) -> Collection[int]:
        if self.unseen:
            return ()
        return [place for place in places if self.locked_until.get(self.items[place], 0.0) > now()]

    async def refuse(self, places: Sequence[int]) -> Collection[int]:
        """A look at what is locked, of a session that has to wait itself."""
        await asyncio.sleep(0.1)
        raise DatabaseContention

    async def slow(self, places: Sequence[int]) -> Collection[int]:
        return [place for place in places if self.items[place] in self.is_slow]

    def behind(self, stopped: Collection[int], places: Sequence[int]) -> set[int]:
        items = self._of([place for place in places if place in stopped])
        return {place for place in places if self.items[place] in items}

    def _of(self, places: Sequence[int]) -> str:
        return "".join(self.items[place] for place in places)


def outcomes_of(locks: Locks) -> tuple[dict[str, type[LedgerError]], float]:
    """The items that failed, each with its error, and when the last was answered."""

    async def decide() -> tuple[dict[str, type[LedgerError]], float]:
        failed: dict[str, type[LedgerError]] = {}
        answered: list[int] = []
        for places, outcome in await in_parts(locks, len(locks.items)):
            answered += places
            if isinstance(outcome, LedgerError):
                (place,) = places
                failed[locks.items[place]] = type(outcome)
            else:
                assert outcome == "".join(locks.items[place] for place in places)
        assert sorted(answered) == list(range(len(locks.items)))
        return failed, now()

    return run_on_fake_time(decide())


@pytest.mark.parametrize(
    ("items", "locked_until", "decided", "failed"),
    [
        # Free all along, or within the usual time.
        ("abcd", {}, ["abcd"], ""),
        ("abcd", {"c": 0.9}, ["abcd"], ""),
        # It gets the usual time again.
        ("a", {"a": 1.5}, ["a"], ""),
        ("a", {"a": 9.0}, [], "a"),
        # The others do not wait for it, and it has its turn.
        ("abcd", {"c": 1.8}, ["abd", "c"], ""),
        ("abcd", {"c": 2.8}, ["abd", "c"], ""),
        ("abcd", {"c": 9.0}, ["abd"], "c"),
        # Locked ones wait together; what is free by then no longer does.
        ("abcd", {"b": 2.5, "c": 9.0}, ["ad", "b"], "c"),
        # What repeats a waiting one comes after it.
        ("acbcd", {"c": 1.8}, ["abd", "cc"], ""),
        ("acbcd", {"c": 9.0}, ["abd"], "c"),
    ],
)
def test_only_what_stays_locked_fails(
    items: str, locked_until: dict[str, float], decided: list[str], failed: str
) -> None:
    """A busy account is waited for; the commands of other accounts are decided meanwhile."""
    locks = Locks(items, locked_until)
    errors, _ = outcomes_of(locks)
    assert locks.decided == decided
    assert errors == dict.fromkeys(failed, DatabaseContention)


@pytest.mark.parametrize("commands", [1, 1000])
def test_locked_commands_fail_in_the_same_time_however_many(commands: int) -> None:
    """And the one that is not locked is decided after the first time-out."""
    locks = Locks("a" * commands + "b", {"a": 1e9})
    errors, answered_at = outcomes_of(locks)
    assert errors == {"a": DatabaseContention}
    assert locks.decided == ["b"]
    assert answered_at <= PATIENCE_SECONDS + 2 * USUAL_SECONDS


@pytest.mark.parametrize(("place", "commands"), [(0, 1), (0, 100), (63, 100), (99, 100)])
def test_lock_that_cannot_be_seen_is_found(place: int, commands: int) -> None:
    """The database waits for the end of a transaction that has inserted the same id."""
    items = "a" * place + "x" + "b" * (commands - place - 1)
    locks = Locks(items, {"x": 1e9}, unseen=True)
    errors, answered_at = outcomes_of(locks)
    assert errors == {"x": DatabaseContention}
    assert "".join(locks.decided) == items.replace("x", "")
    assert answered_at <= PATIENCE_SECONDS + 2 * USUAL_SECONDS


def test_many_locks_that_cannot_be_seen_end_soon() -> None:
    """After the patience nothing more is tried."""
    items = "".join(chr(0x100 + number) for number in range(64))
    locks = Locks(items, dict.fromkeys(items, 1e9), unseen=True)
    errors, answered_at = outcomes_of(locks)
    assert errors == dict.fromkeys(items, DatabaseContention)
    assert answered_at <= PATIENCE_SECONDS + 2 * USUAL_SECONDS


@pytest.mark.parametrize(
    ("items", "locked_until", "decided", "seconds_max"),
    [
        ("s", {}, [], TIMEOUT_SECONDS),
        ("asbssc", {}, ["abc"], TIMEOUT_SECONDS),
        ("s" * 100 + "a", {}, ["a"], TIMEOUT_SECONDS),
        # Whose time-out is no wait of the others for a lock.
        ("asb", {"b": 12.5}, ["a", "b"], TIMEOUT_SECONDS + PATIENCE_SECONDS + USUAL_SECONDS),
    ],
)
def test_only_slow_commands_time_out(
    items: str, locked_until: dict[str, float], decided: list[str], seconds_max: float
) -> None:
    """Once for all of them."""
    locks = Locks(items, locked_until, slow="s")
    errors, answered_at = outcomes_of(locks)
    assert errors == {"s": DatabaseTimeout}
    assert sorted(locks.decided) == decided
    assert answered_at <= seconds_max


def test_locked_table_is_waited_for() -> None:
    """Then what is locked cannot be asked for."""
    locks = Locks("abc", dict.fromkeys("abc", 2.5))
    locks.locked = locks.refuse  # type: ignore[method-assign]
    assert outcomes_of(locks) == ({}, 2.5)


def test_timeout_without_a_slow_account_is_raised() -> None:
    """The caller may repeat all of them."""
    locks = Locks("abc", slow="b")
    locks.slow = locks.locked  # type: ignore[method-assign]
    with pytest.raises(DatabaseTimeout):
        outcomes_of(locks)


def test_only_what_the_database_refuses_alone_fails() -> None:
    """The others are decided."""
    locks = Locks("abcd", refused="c")
    errors, _ = outcomes_of(locks)
    assert errors == {"c": DataRejected}
    assert locks.decided == ["ab", "d"]


def test_refused_and_locked_commands_fail_apart() -> None:
    """A part that meets a lock ends the attempt, so that the order stays."""
    locks = Locks("abcdefgh", {"f": 1e9}, refused="c")
    errors, _ = outcomes_of(locks)
    assert errors == {"c": DataRejected, "f": DatabaseContention}
    assert "".join(locks.decided) == "abdegh"
