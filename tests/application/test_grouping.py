"""Grouping: which calls share a group, what each caller gets, and that waiting is bounded."""

import asyncio
import contextvars
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs
from support.waiting import DEADLINE_SECONDS, run_ready_tasks, until

from ledger.application import grouping
from ledger.application.grouping import PRUNE_ITEMS, Grouping
from ledger.errors import DatabaseUnavailable, ShuttingDown

CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="no caller")


class Work:
    """Doubles each item. After `hold`, groups wait until `let`; every group raises `raises`."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.callers: list[str] = []
        self.under_way = 0
        self.under_way_max = 0
        self.raises: BaseException | None = None
        self._let: asyncio.Event = asyncio.Event()
        self._let.set()

    def hold(self) -> None:
        """From now on groups wait."""
        self._let.clear()

    def let(self) -> None:
        """Groups wait no longer."""
        self._let.set()

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.groups.append(list(items))
        self.callers.append(CALLER.get())
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            await self._let.wait()
            # If a group took no time at all, the next one could not begin too early.
            await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        if self.raises is not None:
            raise self.raises
        return [2 * item for item in items]


def grouping_of(
    work: Work, *, group_items_max: int = 100, groups_at_once_max: int = 1
) -> Grouping[int, int]:
    return Grouping(
        work,
        group_items_max=group_items_max,
        groups_at_once_max=groups_at_once_max,
        what="items",
    )


@pytest.fixture
def _no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers take longer than any test."""
    monkeypatch.setattr(grouping, "LINGER_SECONDS", 3600)
    monkeypatch.setattr(grouping, "PATIENCE_SECONDS", 3600)


@pytest.mark.usefixtures("_no_timers")
async def test_lone_caller_never_waits_for_a_timer() -> None:
    """One call after the other: a group each, at once."""
    work = Work()
    groups = grouping_of(work)
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert [await groups.add(number) for number in range(30)] == [
            2 * number for number in range(30)
        ]
        await groups.close()
    assert work.groups == [[number] for number in range(30)]


@pytest.mark.usefixtures("_no_timers")
async def test_concurrent_items_share_a_group_and_keep_their_outcomes() -> None:
    """The group has the items that came together, in their order."""
    work = Work()
    groups = grouping_of(work)
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await asyncio.gather(*(groups.add(number) for number in (3, 1, 2))) == [6, 2, 4]
        await groups.close()
    assert work.groups == [[3, 1, 2]]


@pytest.mark.usefixtures("_no_timers")
async def test_group_that_is_complete_waits_for_no_timer() -> None:
    """As many items as before are enough; the item that completes the group starts it."""
    work = Work()
    groups = grouping_of(work)
    async with asyncio.timeout(DEADLINE_SECONDS):
        for _ in range(20):
            await asyncio.gather(*(groups.add(number) for number in range(10)))
        futures = [groups.add(number) for number in range(9)]
        await run_ready_tasks()
        assert len(work.groups) == 20, "an incomplete group waits"
        await asyncio.gather(*futures, groups.add(9))
        await groups.close()
    assert work.groups[-1] == list(range(10))


async def test_incomplete_group_is_waited_for_no_longer_than_the_linger() -> None:
    """When fewer callers come than before, the callers that came are served."""
    work = Work()
    groups = grouping_of(work)
    for _ in range(20):
        await asyncio.gather(*(groups.add(number) for number in range(10)))
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await groups.add(1) == 2
        await groups.close()


async def test_group_has_no_more_items_than_allowed() -> None:
    """The others come next, in their order."""
    work = Work()
    groups = grouping_of(work, group_items_max=4)
    assert await asyncio.gather(*(groups.add(number) for number in range(10))) == [
        2 * number for number in range(10)
    ]
    assert work.groups == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    await groups.close()


async def test_failure_is_raised_to_every_caller_of_its_group() -> None:
    """The next group is not affected."""
    work = Work()
    groups = grouping_of(work)
    work.raises = DatabaseUnavailable("away")
    outcomes = await asyncio.gather(
        *(groups.add(number) for number in range(3)), return_exceptions=True
    )
    assert outcomes == [work.raises] * 3
    work.raises = None
    assert await groups.add(1) == 2
    await groups.close()


async def test_work_that_is_cancelled_leaves_no_caller_waiting() -> None:
    """Nor does work that returns too few outcomes: every caller gets an error."""
    work = Work()
    groups = grouping_of(work)
    work.raises = asyncio.CancelledError()
    future = groups.add(1)
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(asyncio.CancelledError):
            await future

        async def forgetful(items: Sequence[int]) -> Sequence[int]:
            return list(items)[1:]

        forgetting: Grouping[int, int] = Grouping(
            forgetful, group_items_max=10, groups_at_once_max=1, what="items"
        )
        outcomes = await asyncio.gather(
            *(forgetting.add(number) for number in range(3)), return_exceptions=True
        )
        assert [type(error) for error in outcomes] == [RuntimeError] * 3
        await forgetting.close()
        await groups.close()


@pytest.mark.parametrize("ends_well", [True, False])
async def test_outcome_that_the_work_sets_early_is_kept(ends_well: bool) -> None:
    """Its caller does not wait for the group, whose result or error is for the others."""
    may_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    outcomes: list[asyncio.Future[int]] = [loop.create_future() for _ in range(3)]

    async def work(items: Sequence[int]) -> list[int]:
        outcomes[1].set_result(-1)
        await may_end.wait()
        if not ends_well:
            raise DatabaseUnavailable("away")
        return [2 * item for item in items]

    groups: Grouping[int, int] = Grouping(
        work, group_items_max=10, groups_at_once_max=1, what="items"
    )
    for number, outcome in enumerate(outcomes):
        assert groups.add(number, outcome) is outcome
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await outcomes[1] == -1
        assert not outcomes[0].done()
        may_end.set()
        for outcome, expected in ((outcomes[0], 0), (outcomes[2], 4)):
            if ends_well:
                assert await outcome == expected
            else:
                with pytest.raises(DatabaseUnavailable):
                    await outcome
        await groups.close()
    assert outcomes[1].result() == -1


async def test_cancelled_caller_leaves_the_others_untouched() -> None:
    """The work of its group goes on, and every other caller gets its outcome."""
    work = Work()
    groups = grouping_of(work)
    work.hold()
    futures = [groups.add(number) for number in range(3)]
    await until(lambda: bool(work.groups))
    futures[1].cancel()
    work.let()
    assert [await futures[0], await futures[2]] == [0, 4]
    assert work.groups == [[0, 1, 2]]
    await groups.close()


async def test_item_of_a_cancelled_caller_is_dropped_if_it_still_waits() -> None:
    """No caller waits for it."""
    work = Work()
    groups = grouping_of(work)
    work.hold()
    first = groups.add(0)
    await until(lambda: bool(work.groups))
    futures = [groups.add(number) for number in range(1, 5)]
    futures[0].cancel()
    futures[2].cancel()
    work.let()
    assert [await first, await futures[1], await futures[3]] == [0, 4, 8]
    await groups.close()
    assert work.groups == [[0], [2, 4]]


@pytest.mark.usefixtures("_no_timers")
async def test_next_group_waits_for_the_one_before() -> None:
    """Unless that takes longer than usual. Small groups would be slower for all callers."""
    work = Work()
    groups = grouping_of(work, groups_at_once_max=2)
    work.hold()
    first = groups.add(0)
    await until(lambda: bool(work.groups))
    second = groups.add(1)
    await run_ready_tasks()
    assert work.groups == [[0]]
    work.let()
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert [await first, await second] == [0, 2]
        await groups.close()
    assert work.under_way_max == 1


async def test_group_that_takes_long_does_not_hold_up_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to as many as are allowed at once."""
    monkeypatch.setattr(grouping, "PATIENCE_SECONDS", 0.001)
    work = Work()
    groups = grouping_of(work, groups_at_once_max=3)
    work.hold()
    futures = []
    for number in range(3):
        futures.append(groups.add(number))
        await until(lambda number=number: len(work.groups) == number + 1)
    futures += [groups.add(3), groups.add(4)]
    await run_ready_tasks()
    assert work.groups == [[0], [1], [2]]
    work.let()
    assert await asyncio.gather(*futures) == [0, 2, 4, 6, 8]
    await groups.close()
    assert work.under_way_max == 3


async def test_callers_that_leave_are_forgotten() -> None:
    """However many come and go while a group takes long, the queue stays bounded."""
    work = Work()
    groups = grouping_of(work)
    work.hold()
    first = groups.add(0)
    await until(lambda: bool(work.groups))
    staying = [groups.add(number) for number in range(1, 4)]
    waiting_max = 0
    for _ in range(20 * PRUNE_ITEMS):
        groups.add(-1).cancel()
        waiting_max = max(waiting_max, len(groups._waiting))
    assert waiting_max <= PRUNE_ITEMS
    work.let()
    assert [await first, *await asyncio.gather(*staying)] == [0, 2, 4, 6]
    await groups.close()
    assert work.groups == [[0], [1, 2, 3]]


async def test_close_drains_and_takes_no_more() -> None:
    """Everything that was added has its outcome when `close` returns."""
    work = Work()
    groups = grouping_of(work, group_items_max=2)
    work.hold()
    futures = [groups.add(number) for number in range(7)]
    await until(lambda: bool(work.groups))
    closing = asyncio.create_task(groups.close())
    await run_ready_tasks()
    assert not closing.done()
    with pytest.raises(ShuttingDown):
        groups.add(7)
    work.let()
    await closing
    assert [future.result() for future in futures] == [2 * number for number in range(7)]
    await groups.close()


async def test_close_without_anything_added_is_done_at_once() -> None:
    """Nothing has been started that would have to end."""
    groups = grouping_of(Work())
    await groups.close()
    with pytest.raises(ShuttingDown):
        groups.add(0)


async def test_groups_run_in_the_context_of_no_call() -> None:
    """Log lines of a group must not carry the id of its first call."""
    work = Work()
    groups = grouping_of(work)

    async def call(name: str) -> int:
        CALLER.set(name)
        return await groups.add(1)

    for name in ("first", "second"):
        await asyncio.create_task(call(name))
    assert work.callers == ["no caller", "no caller"]
    await groups.close()


async def test_gathering_that_breaks_fails_its_callers_and_begins_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For lack of memory, for example: no caller waits for ever, and the next call is served."""
    work = Work()
    groups = grouping_of(work)
    with monkeypatch.context() as broken, capture_logs() as lines:

        def take(self: object) -> None:
            raise MemoryError

        broken.setattr(Grouping, "_take", take)
        futures = [groups.add(1), groups.add(2)]
        async with asyncio.timeout(DEADLINE_SECONDS):
            outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [RuntimeError, RuntimeError]
    assert [(line["event"], type(line["exc_info"])) for line in lines] == [
        ("gathering items into groups broke", MemoryError)
    ]
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert await groups.add(3) == 6
        await groups.close()
