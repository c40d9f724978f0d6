"""The first of a kind is reported at once, its repeats by their number."""

import asyncio

import pytest
from support.waiting import DEADLINE_SECONDS, until

from ledger.application import repeats as module
from ledger.application.repeats import Repeats


async def test_repeats_are_reported_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that continues is counted on. One that had stopped counts as new."""
    monkeypatch.setattr(module, "REPEATS_SECONDS", 0.01)
    reports: list[tuple[str, int]] = []
    is_reported = asyncio.Event()

    def report(kind: str, count: int) -> None:
        reports.append((kind, count))
        is_reported.set()

    repeats = Repeats(report)
    assert [repeats.is_first("a") for _ in range(3)] == [True, False, False]
    assert repeats.is_first("b")
    await asyncio.wait_for(is_reported.wait(), DEADLINE_SECONDS)
    assert reports == [("a", 2)]
    await until(lambda: not repeats._counts, DEADLINE_SECONDS)
    assert repeats.is_first("a")
    repeats.flush()
    assert reports == [("a", 2)]


async def test_flush_reports_what_is_left_once() -> None:
    """For the end of a server."""
    reports: list[tuple[str, int]] = []
    repeats: Repeats[str] = Repeats(lambda kind, count: reports.append((kind, count)))
    for kind in "aabaa":
        repeats.is_first(kind)
    repeats.flush()
    repeats.flush()
    assert reports == [("a", 3)]


async def test_kinds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is reported and forgotten."""
    monkeypatch.setattr(module, "KINDS_MAX", 2)
    reports: list[tuple[int, int]] = []
    repeats: Repeats[int] = Repeats(lambda kind, count: reports.append((kind, count)))
    assert [repeats.is_first(kind) for kind in (1, 1, 2, 3, 1)] == [True, False, True, True, True]
    assert reports == [(1, 1)]
    repeats.flush()
    assert reports == [(1, 1)]
