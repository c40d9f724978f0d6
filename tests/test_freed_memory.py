"""Freed memory returns to the system, without needless searches."""

import platform

from ledger.freed_memory import (
    GROWN_BYTES,
    LOOK_SECONDS,
    LOOK_SECONDS_MAX,
    MemoryTrimmer,
    memory_trimmer,
)

MIB = 1024 * 1024


class Process:
    """A process with memory in use and free memory."""

    def __init__(self) -> None:
        self.used, self.free, self.trims = 100 * MIB, 0, 0

    def resident_bytes(self) -> int:
        return self.used + self.free

    def trim(self) -> None:
        self.trims += 1
        self.free = 0


def test_freed_memory_is_given_back_once_there_is_much() -> None:
    """Then the next look comes soon."""
    process = Process()
    trimmer = MemoryTrimmer(process.resident_bytes, process.trim)
    process.free = GROWN_BYTES - 1
    trimmer.look()
    assert process.trims == 0
    process.free = GROWN_BYTES
    trimmer.look()
    assert (process.trims, process.free, trimmer.look_seconds) == (1, 0, LOOK_SECONDS)


def test_looks_that_give_nothing_back_become_rarer() -> None:
    """Until memory can be given back again."""
    process = Process()
    trimmer = MemoryTrimmer(process.resident_bytes, process.trim)
    process.used += GROWN_BYTES
    for _ in range(20):
        trimmer.look()
    assert trimmer.look_seconds == LOOK_SECONDS_MAX
    process.free = GROWN_BYTES
    trimmer.look()
    assert trimmer.look_seconds == LOOK_SECONDS


def test_process_has_a_trimmer_where_the_c_library_can_trim() -> None:
    """The C library of glibc can, that of other systems cannot."""
    trimmer = memory_trimmer()
    assert (trimmer is not None) == (platform.libc_ver()[0] == "glibc")
    if trimmer is not None:
        trimmer.look()
        assert trimmer.look_seconds >= LOOK_SECONDS
