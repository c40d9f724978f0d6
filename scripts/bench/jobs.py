"""The protocol between the parent and the processes that make load: lines of JSON, times as bytes.

1. The parent writes a job; the process prepares it and reports that it is ready.
2. The parent writes the interval, on the clock that all processes of a machine share.
3. The process makes the load and writes a header and two arrays of doubles.

The process ends when its standard input does.
"""

import asyncio
import gc
import json
import signal
import sys
import time
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

READY = b"ready\n"


@dataclass(slots=True)
class Outcome:
    """The instant and seconds of each response, and the events acknowledged, warm-up included.

    `ran_dry_at` is when the prepared work ended, if that was before the interval did.
    """

    # In quotes: before Python 3.12 an array has no such form outside annotations.
    ends: "array[float]" = field(default_factory=lambda: array("d"))
    took: "array[float]" = field(default_factory=lambda: array("d"))
    acknowledged: int = 0
    ran_dry_at: float | None = None

    def add(self, began: float, events: int) -> None:
        """Records a response that came now."""
        ended = time.monotonic()
        self.ends.append(ended)
        self.took.append(ended - began)
        self.acknowledged += events


@dataclass(frozen=True, slots=True)
class Interval:
    """Load runs from `begins_at` to `ends_at`; until `counts_from` it warms up."""

    begins_at: float
    counts_from: float
    ends_at: float


Run = Callable[[Interval], Awaitable[Outcome]]
Prepare = Callable[[dict[str, Any]], Awaitable[Run]]


async def work(prepare: Prepare) -> None:
    """Does jobs until standard input ends. A job that fails ends the process."""
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        run = await prepare(json.loads(line))
        # What was prepared stays in memory: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        _write(READY)
        interval = Interval(*json.loads(await asyncio.to_thread(sys.stdin.buffer.readline)))
        await asyncio.sleep(interval.begins_at - time.monotonic())
        outcome = await run(interval)
        times = outcome.ends.tobytes() + outcome.took.tobytes()
        header = {
            "bytes": len(times),
            "acknowledged": outcome.acknowledged,
            "ran_dry_at": outcome.ran_dry_at,
        }
        _write(json.dumps(header).encode() + b"\n" + times)
        gc.unfreeze()


def _write(content: bytes) -> None:
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def run_worker(prepare: Prepare, *, uvloop: bool) -> None:
    """The main function of a process that makes load."""
    # Ctrl-C is for the parent, which ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=loop_factory(uvloop=uvloop)) as runner:
        runner.run(work(prepare))


def loop_factory(*, uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes event loops: uvloop, or None for asyncio's default."""
    if not uvloop:
        return None
    from importlib import import_module

    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory
