"""Work that repeats in the background, on a clock that jumps to the next timer."""

import asyncio
import re
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.fake_time import now, run_on_fake_time

import ledger
from ledger.errors import DatabaseUnavailable
from ledger.jitter import jittered
from ledger.repeating import Repeating, run_or_report


class Work:
    """Records when it ran. `results` are those of the next runs: pauses, or errors to raise."""

    def __init__(self, *results: float | Exception | None, seconds: float = 0.0) -> None:
        self.results = list(results)
        self.seconds = seconds
        self.began_at: list[float] = []
        self.ended_at: list[float] = []

    async def __call__(self) -> float | None:
        self.began_at.append(now())
        await asyncio.sleep(self.seconds)
        self.ended_at.append(now())
        result = self.results.pop(0) if self.results else None
        if isinstance(result, Exception):
            raise result
        return result


Failures = list[tuple[str, BaseException]]


def repeating(work: Work, failures: Failures | None = None, **options: object) -> Repeating:
    def report(what: str, error: BaseException, /) -> None:
        if failures is None:
            raise error
        failures.append((what, error))

    return Repeating(
        "the work",
        work,
        **{  # type: ignore[arg-type]
            "every_seconds": 10.0,
            "has_jitter": False,
            "on_failure": report,
            **options,
        },
    )


@pytest.mark.parametrize(
    ("begins_at_once", "expected"), [(True, [0, 12, 24, 36]), (False, [10, 22, 34])]
)
def test_work_repeats_with_a_pause_between(begins_at_once: bool, expected: list[float]) -> None:
    """The pause begins when a run of the work ends."""
    work = Work(seconds=2)

    async def main() -> None:
        each = repeating(work, begins_at_once=begins_at_once)
        each.start()
        await asyncio.sleep(45)
        await each.stop()

    run_on_fake_time(main())
    assert work.began_at == expected


def test_work_may_choose_the_next_pause() -> None:
    """The one after it has the usual length again. With 0 the work goes on at once."""
    work = Work(3, 0, None)

    async def main() -> None:
        each = repeating(work)
        each.start()
        await asyncio.sleep(14)
        await each.stop()

    run_on_fake_time(main())
    assert work.began_at == [0, 3, 3, 13]


def test_jitter_spreads_every_pause() -> None:
    """To between half of the pause and all of it, and not always to the same."""
    results: list[float | Exception | None] = [4.0, DatabaseUnavailable()] * 100
    work = Work(*results)

    async def main() -> None:
        each = repeating(work, [], has_jitter=True, retry_seconds=2.0)
        each.start()
        await asyncio.sleep(1000)
        await each.stop()

    run_on_fake_time(main())
    pauses = [
        later - earlier for earlier, later in zip(work.began_at, work.began_at[1:], strict=False)
    ]
    for seconds, drawn in ((4.0, pauses[0:200:2]), (2.0, pauses[1:199:2])):
        assert all(seconds / 2 <= pause <= seconds for pause in drawn)
        assert len({round(pause, 6) for pause in drawn}) > 10
    assert {jittered(0.0) for _ in range(10)} == {0.0}


def test_backoff_doubles_up_to_its_bound_and_starts_anew_after_a_success() -> None:
    """After failures of the database and after unexpected ones. Both are reported."""
    defect = ZeroDivisionError()
    away = DatabaseUnavailable()
    work = Work(away, defect, away, away, None, away)
    failures: Failures = []

    async def main() -> None:
        each = repeating(work, failures, retry_seconds=1.0, retry_seconds_max=3.0)
        each.start()
        await asyncio.sleep(20.5)
        await each.stop()

    run_on_fake_time(main())
    assert work.began_at == [0, 1, 3, 6, 9, 19, 20]
    waits, fails = "the work must wait for the database", "the work failed unexpectedly"
    assert failures == [(waits, away), (fails, defect), (waits, away), (waits, away), (waits, away)]


def test_pause_after_a_failure_is_the_usual_one_unless_it_is_set() -> None:
    """It neither grows nor shrinks."""
    work = Work(*[DatabaseUnavailable()] * 3)

    async def main() -> None:
        each = repeating(work, [], retry_seconds_max=2.0)
        each.start()
        await asyncio.sleep(35)
        await each.stop()

    run_on_fake_time(main())
    assert work.began_at == [0, 10, 20, 30]


def test_wake_ends_a_pause_but_not_the_pause_after_a_failure() -> None:
    """Else a busy server would soon repeat what the database cannot do at the moment."""
    work = Work(None, DatabaseUnavailable(), None)

    async def main() -> None:
        each = repeating(work, [], every_seconds=None, retry_seconds=100.0)
        each.start()
        await asyncio.sleep(5)
        each.wake()
        await asyncio.sleep(5)
        each.wake()
        await asyncio.sleep(1000)
        await each.stop()

    run_on_fake_time(main())
    assert work.began_at == [0, 5, 105]


def test_wake_during_the_work_makes_it_run_once_more() -> None:
    """The work may have missed what arrived while it ran."""
    work = Work(seconds=2)

    async def main() -> None:
        each = repeating(work, every_seconds=None)
        each.start()
        await asyncio.sleep(1)
        each.wake()
        each.wake()
        await asyncio.sleep(100)
        await each.stop()

    run_on_fake_time(main())
    assert work.began_at == [0, 2]


@pytest.mark.parametrize("result", [None, DatabaseUnavailable()], ids=["pause", "backoff"])
def test_stop_ends_every_pause_at_once(result: Exception | None) -> None:
    """No server waits an hour for work that has nothing to do."""
    work = Work(result)

    async def main() -> None:
        each = repeating(work, [], every_seconds=3600.0)
        each.start()
        await asyncio.sleep(1)
        await each.stop()
        assert now() == 1

    run_on_fake_time(main())
    assert work.began_at == [0]


@pytest.mark.parametrize(
    ("stop_seconds", "ended_at", "stopped_at"), [(None, [60], 60), (90.0, [60], 60), (5.0, [], 6)]
)
def test_stop_waits_for_the_work_as_long_as_it_may(
    stop_seconds: float | None, ended_at: list[float], stopped_at: float
) -> None:
    """Then it cancels the work, which does not begin again; a second stop changes nothing."""
    work = Work(seconds=60)

    async def main() -> None:
        each = repeating(work, stop_seconds=stop_seconds)
        each.start()
        await asyncio.sleep(1)
        each.request_stop()
        await each.stop()
        assert now() == stopped_at
        await each.stop()
        await asyncio.sleep(100)

    run_on_fake_time(main())
    assert (work.began_at, work.ended_at) == ([0], ended_at)


def test_stop_before_the_start_is_harmless() -> None:
    """A server that fails before it serves does this."""

    async def main() -> None:
        each = repeating(Work())
        assert not each.is_working
        each.cancel()
        await each.stop()

    run_on_fake_time(main())


def test_cancel_gives_up_the_work_without_waiting() -> None:
    """The work does not reach its end."""
    work = Work(seconds=60)

    async def main() -> None:
        each = repeating(work)
        each.start()
        await asyncio.sleep(1)
        each.cancel()
        assert now() == 1
        await asyncio.sleep(100)

    run_on_fake_time(main())
    assert (work.began_at, work.ended_at) == ([0], [])


def test_stop_that_is_cancelled_leaves_no_work_behind() -> None:
    """A stop with a time limit is cancelled so."""
    work = Work(seconds=60)

    async def main() -> None:
        each = repeating(work)
        each.start()
        await asyncio.sleep(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await each.stop()
        await asyncio.sleep(100)

    run_on_fake_time(main())
    assert (work.began_at, work.ended_at) == ([0], [])


def test_stop_ends_a_rest_within_the_work() -> None:
    """`rest` returns False at once. Without a stop it returns True after the rest."""
    rested: list[tuple[float, bool]] = []

    async def main() -> None:
        async def work() -> None:
            for _ in range(2):
                goes_on = await each.rest(50)
                rested.append((now(), goes_on))

        each = Repeating("the work", work, every_seconds=10)
        each.start()
        await asyncio.sleep(60)
        each.request_stop()
        assert (each.is_stopping, each.is_working) == (True, False)
        await each.stop()

    run_on_fake_time(main())
    assert rested == [(50, True), (60, False)]


def test_unexpected_failure_is_logged_with_its_traceback() -> None:
    """Unless the caller reports failures in another way."""
    work = Work(ZeroDivisionError())

    async def main() -> None:
        each = Repeating("the work", work, every_seconds=10)
        each.start()
        await asyncio.sleep(1)
        await each.stop()

    with capture_logs() as lines:
        run_on_fake_time(main())
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("error", "the work failed unexpectedly")
    ]
    assert isinstance(lines[0]["exc_info"], ZeroDivisionError)


async def test_run_or_report_returns_the_result_or_reports_the_failure() -> None:
    """So one part of the work that fails does not stop the others."""
    failures: Failures = []

    def report(what: str, error: BaseException, /) -> None:
        failures.append((what, error))

    async def succeed() -> int:
        return 7

    async def fail() -> int:
        raise away

    away = DatabaseUnavailable()
    assert await run_or_report("run 1", succeed(), report) == 7
    assert await run_or_report("run 2", fail(), report) is None
    assert failures == [("run 2 must wait for the database", away)]


def test_jitter_is_drawn_in_one_place() -> None:
    """Except for waits whose bounds are not those of `jittered`: two here, two of the client.

    The search for long accounts draws places and no time.
    """
    package = Path(ledger.__file__).parent
    drawing = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^import random$|^from random import", path.read_text(), re.MULTILINE)
    }
    assert drawing == {
        "jitter.py",
        "application/ingest/contended_groups.py",
        "client/batches.py",
        "client/streaming.py",
        "infrastructure/postgres/long_accounts.py",
        "infrastructure/postgres/schema/migrations.py",
    }
