"""Gives memory that was freed back to the system, which the C library keeps for the next requests.

After some large requests a server would hold twice what it needs, and in a container with a limit be
killed by the next ones.
"""

import asyncio
import ctypes
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from ledger.repeating import Repeating

LOOK_SECONDS, LOOK_SECONDS_MAX = 1.0, 64.0
GROWN_BYTES = 32 * 1024 * 1024
# It was worth the look: else the memory is in use, and the next look comes later.
RETURNED_BYTES = 8 * 1024 * 1024
_STATM = Path("/proc/self/statm")


class FreedMemory:
    """Looks after the memory of the process: `trim` is called when it has grown since the least that was seen."""

    def __init__(self, resident_bytes: Callable[[], int], trim: Callable[[], object]) -> None:
        self._resident_bytes = resident_bytes
        self._trim = trim
        self._least_bytes = resident_bytes()
        self.look_seconds = LOOK_SECONDS

    def look(self) -> None:
        """Gives back what can be, if there is much; sets `look_seconds` to when to look again."""
        before = self._resident_bytes()
        self._least_bytes = min(self._least_bytes, before)
        if before < self._least_bytes + GROWN_BYTES:
            self.look_seconds = LOOK_SECONDS
            return
        self._trim()
        returned = before - self._resident_bytes()
        self.look_seconds = (
            LOOK_SECONDS
            if returned >= RETURNED_BYTES
            else min(2 * self.look_seconds, LOOK_SECONDS_MAX)
        )

    def looking(self) -> Repeating:
        """Looks in the background, once it is started."""
        return Repeating(
            "returning freed memory",
            self._look_in_thread,
            every_seconds=LOOK_SECONDS,
            begins_at_once=False,
            has_jitter=False,
        )

    async def _look_in_thread(self) -> float:
        # In a thread: a look takes some milliseconds when there is much to give back.
        await asyncio.to_thread(self.look)
        return self.look_seconds


def freed_memory() -> FreedMemory | None:
    """That of this process; None where the C library has no such call."""
    if sys.platform != "linux" or not _STATM.exists():
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return None
    page_bytes = resource.getpagesize()
    return FreedMemory(lambda: int(_STATM.read_bytes().split()[1]) * page_bytes, lambda: trim(0))
