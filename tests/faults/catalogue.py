"""The faults by number, how each is played, and its report."""

import random
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from faults.clusters import Cluster
from faults.judge import judge
from faults.stage import Skipped, Stage

VIOLATIONS_SHOWN = 5
Play = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `missing` names what the service lacks to pass it; such a fault must fail."""

    number: str
    title: str
    play: Play
    missing: str


FAULTS: dict[str, Fault] = {}


def fault(number: str, title: str, *, missing: str = "") -> Callable[[Play], Play]:
    """Adds a function that plays a fault to the catalogue. Raises ValueError for a used number."""

    def add(play: Play) -> Play:
        if number in FAULTS:
            raise ValueError(f"{number} is taken by {FAULTS[number].title}")
        FAULTS[number] = Fault(number, title, play, missing)
        return play

    return add


def together(*faults: Fault) -> Fault:
    """Several faults on one stage in turn, judged once: for faults that leave the stage intact."""

    async def play_each(stage: Stage) -> None:
        for fault in faults:
            await fault.play(stage)

    return Fault(
        "+".join(fault.number for fault in faults),
        "; ".join(fault.title for fault in faults),
        play_each,
        "",
    )


class Status(StrEnum):
    """The result of a fault."""

    PASSED = "passed"
    FAILED = "FAILED"
    SKIPPED = "skipped"
    # It failed as expected: the service is known to lack something.
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line of the report."""

    fault: str
    title: str
    status: Status
    seed: int
    acked: int = 0
    paid: int = 0
    lost: int = 0
    doubled: int = 0
    gap_seconds: float = 0.0
    calls: int = 0
    unknown_calls: int = 0
    reads: int = 0
    seals: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    failure: str = ""


async def play(fault: Fault, cluster: Cluster, folder: Path, *, seed: int, full: bool) -> Outcome:
    """Plays one fault on a new database, then judges the books, whatever the fault expected."""
    began = time.monotonic()
    outcome = Outcome(fault.number, fault.title, Status.PASSED, seed)
    failures: list[str] = []
    random.seed(seed)
    async with AsyncExitStack() as exits:
        stage = Stage(cluster, await cluster.new_database(), folder, seed, full, exits)
        try:
            await fault.play(stage)
        except Skipped as reason:
            return Outcome(fault.number, fault.title, Status.SKIPPED, seed, notes=(str(reason),))
        except Exception:  # noqa: BLE001  # the outermost edge: report it and play the next fault
            failures.append(traceback.format_exc(limit=-4))
        try:
            # Bookings while the judge reads would make the books and the journal differ.
            await stage.end_servers()
            verdict = await judge(stage.database, stage.journal)
        except Exception:  # noqa: BLE001  # as above
            failures.append(f"the books could not be judged: {traceback.format_exc(limit=-4)}")
        else:
            failures += verdict.violations[:VIOLATIONS_SHOWN]
            if len(verdict.violations) > VIOLATIONS_SHOWN:
                failures.append(f"and {len(verdict.violations) - VIOLATIONS_SHOWN} more")
            outcome = Outcome(
                fault.number,
                fault.title,
                Status.PASSED,
                seed,
                verdict.acked,
                verdict.paid,
                verdict.lost,
                verdict.doubled,
                round(verdict.gap_seconds, 2),
                verdict.calls,
                verdict.unknown_calls,
                verdict.reads,
                verdict.seals,
                notes=tuple(stage.notes),
            )
    return _judged(outcome, fault, failures, time.monotonic() - began)


def _judged(outcome: Outcome, fault: Fault, failures: list[str], seconds: float) -> Outcome:
    status, notes = Status.FAILED if failures else Status.PASSED, outcome.notes
    if fault.missing:
        # Once the service passes, the catalogue must not list the fault as missing.
        status = Status.MISSING if failures else Status.FAILED
        notes += (
            f"missing: {fault.missing}" if failures else f"not missing any more: {fault.missing}",
        )
    return replace(
        outcome, status=status, notes=notes, failure="\n".join(failures), seconds=round(seconds, 1)
    )
