"""Returns freed memory to the system. The C library would keep it for the next requests.

After a few large requests a server would hold twice what it needs. In a container with a memory
limit the next ones would get it killed.
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
# With less returned the memory is in use, and the next look comes later.
RETURNED_BYTES = 8 * 1024 * 1024
_STATM = Path("/proc/self/statm")


class MemoryTrimmer:
    """Calls `trim` when the process has GROWN_BYTES more memory than the least that was seen."""

    def __init__(self, resident_bytes: Callable[[], int], trim: Callable[[], object]) -> None:
        self._resident_bytes = resident_bytes
        self._trim = trim
        self._least_bytes = resident_bytes()
        self.look_seconds = LOOK_SECONDS

    def look(self) -> None:
        """Trims if the process has grown. Sets `look_seconds`, the pause before the next look."""
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

    def in_background(self) -> Repeating:
        """Returns background work that looks again and again; the caller starts it."""
        return Repeating(
            "returning freed memory",
            self._look_in_thread,
            every_seconds=LOOK_SECONDS,
            begins_at_once=False,
            has_jitter=False,
        )

    async def _look_in_thread(self) -> float:
        # In a thread: a trim of much memory takes some milliseconds.
        await asyncio.to_thread(self.look)
        return self.look_seconds


def memory_trimmer() -> MemoryTrimmer | None:
    """The trimmer of this process; None where the C library cannot trim."""
    if sys.platform != "linux" or not _STATM.exists():
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return None
    page_bytes = resource.getpagesize()
    return MemoryTrimmer(lambda: int(_STATM.read_bytes().split()[1]) * page_bytes, lambda: trim(0))
