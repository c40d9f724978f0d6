"""The count of the quarantine: it is repeated, and a failure does not end it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from support.fake_time import now, run_on_fake_time

from ledger.application.count_quarantine import EVERY_SECONDS, QuarantineCounter
from ledger.application.ports.quarantine import OpenPayloads
from ledger.domain.quarantine import QuarantineState
from ledger.errors import DatabaseUnavailable

OPEN: OpenPayloads = {QuarantineState.PARKED: (2, 60.0)}


class FakeQuarantine:
    """Answers `open` with each of `answers` in turn, then with nothing."""

    def __init__(self, answers: Sequence[OpenPayloads | Exception]) -> None:
        self._answers = list(answers)

    async def open(self) -> OpenPayloads:
        answer = self._answers.pop(0) if self._answers else {}
        if isinstance(answer, Exception):
            raise answer
        return answer


async def count(*answers: OpenPayloads | Exception) -> tuple[list[OpenPayloads], list[str], float]:
    """What was counted within some periods, the failures, and how long the first count took."""
    counted: list[tuple[float, OpenPayloads]] = []
    failures: list[str] = []
    quarantine: Any = FakeQuarantine(answers)
    counter = QuarantineCounter(
        quarantine,
        on_counted=lambda found: counted.append((now(), found)),
        on_failure=lambda what, _: failures.append(what),
    )
    began_at = now()
    counter.start()
    await asyncio.sleep(4 * EVERY_SECONDS)
    await counter.stop()
    return [found for _, found in counted], failures, counted[0][0] - began_at


def test_counts_at_once_and_again() -> None:
    counted, failures, seconds = run_on_fake_time(count(OPEN))
    assert counted[:2] == [OPEN, {}]
    assert (failures, seconds) == ([], 0)


def test_failure_is_reported_and_the_next_count_follows() -> None:
    counted, failures, seconds = run_on_fake_time(count(DatabaseUnavailable("gone"), OPEN))
    assert counted[0] == OPEN
    assert failures == ["the count of the quarantine must wait for the database"]
    assert seconds > 0
