"""What repeats is told once at once, and then by its number."""

import asyncio

import pytest
from support.waiting import until

from ledger.application import repeats as module
from ledger.application.repeats import Repeats

DEADLINE_SECONDS = 60.0


async def test_repeats_are_told_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that goes on is counted further; one that has stopped is new when it comes again."""
    monkeypatch.setattr(module, "REPEATS_SECONDS", 0.01)
    told: list[tuple[str, int]] = []
    is_told = asyncio.Event()

    def tell(kind: str, count: int) -> None:
        told.append((kind, count))
        is_told.set()

    repeats = Repeats(tell)
    assert [repeats.is_first("a") for _ in range(3)] == [True, False, False]
    assert repeats.is_first("b")
    await asyncio.wait_for(is_told.wait(), DEADLINE_SECONDS)
    assert told == [("a", 2)]
    await until(lambda: not repeats._counts, DEADLINE_SECONDS)
    assert repeats.is_first("a")
    repeats.flush()
    assert told == [("a", 2)]


async def test_flush_tells_what_is_left_once() -> None:
    """For the end of a server."""
    told: list[tuple[str, int]] = []
    repeats: Repeats[str] = Repeats(lambda kind, count: told.append((kind, count)))
    for kind in "aabaa":
        repeats.is_first(kind)
    repeats.flush()
    repeats.flush()
    assert told == [("a", 3)]


async def test_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is told and forgotten."""
    monkeypatch.setattr(module, "KINDS_MAX", 2)
    told: list[tuple[int, int]] = []
    repeats: Repeats[int] = Repeats(lambda kind, count: told.append((kind, count)))
    assert [repeats.is_first(kind) for kind in (1, 1, 2, 3, 1)] == [True, False, True, True, True]
    assert told == [(1, 1)]
    repeats.flush()
