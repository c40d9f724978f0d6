"""Freed memory returns to the system, without needless searches."""

from ledger.freed_memory import (
    GROWN_BYTES,
    LOOK_SECONDS,
    LOOK_SECONDS_MAX,
    MemoryTrimmer,
    memory_trimmer,
)

MIB = 1024 * 1024


class Process:
    """One that has memory in use, and some that is free."""

    def __init__(self) -> None:
        self.used, self.free, self.trims = 100 * MIB, 0, 0

    def resident_bytes(self) -> int:
        return self.used + self.free

    def trim(self) -> None:
        self.trims += 1
        self.free = 0


def test_freed_memory_is_given_back_once_there_is_much() -> None:
    """And the next look comes soon."""
    process = Process()
    trimmer = MemoryTrimmer(process.resident_bytes, process.trim)
    process.free = GROWN_BYTES - 1
    trimmer.look()
    assert process.trims == 0
    process.free = GROWN_BYTES
    trimmer.look()
    assert (process.trims, process.free, trimmer.look_seconds) == (1, 0, LOOK_SECONDS)


def test_memory_in_use_is_looked_at_ever_more_seldom() -> None:
    """Until something can be given back again."""
    process = Process()
    trimmer = MemoryTrimmer(process.resident_bytes, process.trim)
    process.used += GROWN_BYTES
    for _ in range(20):
        trimmer.look()
    assert trimmer.look_seconds == LOOK_SECONDS_MAX
    process.free = GROWN_BYTES
    trimmer.look()
    assert trimmer.look_seconds == LOOK_SECONDS


def test_process_can_give_memory_back() -> None:
    """With the C library of the machine, where it can."""
    trimmer = memory_trimmer()
    if trimmer is not None:
        trimmer.look()
