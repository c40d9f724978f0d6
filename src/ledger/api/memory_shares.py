"""Divides the memory of a server, so that what all clients send together fits into it.

Every place that holds requests has a limit; this adds them up. What the fixed limits leave goes to
connections, and to messages of 4 MiB that have not arrived whole.
"""

from dataclasses import dataclass
from pathlib import Path

from ledger.api.call_frame import (
    BATCHES_READING_MAX,
    BATCHES_WAITING_MAX,
    OPEN_READING_MAX,
    OPEN_WAITING_MAX,
    READING_MAX,
    WAITING_MAX,
)
from ledger.api.event_stream import HELD_BYTES_MAX
from ledger.api.transport.connections import CONNECTIONS_MAX
from ledger.api.transport.receiving import KEPT_FOR_BATCHES
from ledger.api.unread_responses import UNREAD_BYTES_MAX, UNREAD_OF_BATCHES_BYTES_MAX
from ledger.limits import MESSAGE_BYTES_MAX

KIB, MIB = 1024, 1024 * 1024
# A server at rest after some work: code, tables of libraries, sessions with the database.
RESTING_BYTES = 110 * MIB
# The process that starts several worker processes, and replaces dead ones.
SUPERVISOR_BYTES = 100 * MIB
# A call that waits to be read: the first window of its stream, and the state of the library.
WAITING_CALL_BYTES = 28 * KIB
# The largest request as a message and decoded: 4 MiB of text with four bytes a character, or 64,000
# entries of metadata. One is parsed at a time, and one may be beyond HELD_BYTES_MAX.
PARSED_BYTES = 40 * MIB
DECODED_BYTES = 28 * MIB
# The SQL statement that books a large batch: as text, in the driver, and being sent.
SQL_STATEMENT_BYTES = 3 * MESSAGE_BYTES_MAX
CONNECTION_BYTES = 60 * KIB
# The connections' share of what is left. The rest is for messages that have not arrived whole.
CONNECTIONS_SHARE = 1 / 3
CONNECTIONS_MIN, PLACES_MIN = 64, 4
# Control groups of version 1 report a number above this if there is no limit.
_UNLIMITED_MIN = 1 << 60


@dataclass(frozen=True, slots=True)
class MemoryShares:
    """How many clients may be connected, and how many large messages may be arriving.

    `sum_bytes` is the memory that all limits together allow.
    """

    connections: int
    large_places: int
    sum_bytes: int

    @classmethod
    def of(
        cls, memory_bytes: int | None, *, queue_bytes: int, bookings: int, streams: int
    ) -> "MemoryShares":
        """Divides `memory_bytes`. Returns the largest shares for None, no limit, or enough memory.

        `queue_bytes` is the limit of the ingest queue, `bookings` the batches booked at once,
        `streams` the limit on open streams. With too little memory the sum exceeds `memory_bytes`.
        """
        fixed_bytes = (
            RESTING_BYTES
            + (READING_MAX + OPEN_READING_MAX) * MESSAGE_BYTES_MAX
            + (WAITING_MAX + BATCHES_WAITING_MAX + OPEN_WAITING_MAX) * WAITING_CALL_BYTES
            + queue_bytes
            + HELD_BYTES_MAX
            + DECODED_BYTES
            + PARSED_BYTES
            + bookings * SQL_STATEMENT_BYTES
            + UNREAD_BYTES_MAX
            + UNREAD_OF_BATCHES_BYTES_MAX
        )
        connections, large_places = CONNECTIONS_MAX, streams + BATCHES_READING_MAX
        if memory_bytes is not None:
            left_bytes = max(0, memory_bytes - fixed_bytes)
            of_places = left_bytes - min(
                connections * CONNECTION_BYTES, int(left_bytes * CONNECTIONS_SHARE)
            )
            large_places = min(large_places, max(PLACES_MIN, of_places // MESSAGE_BYTES_MAX))
            of_connections = left_bytes - large_places * MESSAGE_BYTES_MAX
            connections = min(connections, max(CONNECTIONS_MIN, of_connections // CONNECTION_BYTES))
        sum_bytes = fixed_bytes + connections * CONNECTION_BYTES + large_places * MESSAGE_BYTES_MAX
        return cls(connections, large_places, sum_bytes)

    @property
    def streams(self) -> int:
        """How many streams may be open at once."""
        return self.large_places - min(KEPT_FOR_BATCHES, self.large_places - 1)


def part_of_a_worker(memory_bytes: int, workers: int) -> int:
    """The memory of one worker process: all, or an equal part of what the supervisor leaves."""
    return memory_bytes if workers == 1 else max(0, memory_bytes - SUPERVISOR_BYTES) // workers


def memory_limit_bytes(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """The smallest memory limit of the control groups, or container, of this process.

    None if there is no limit.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = groups / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        # In a container the path may be the host's, of which only the root is visible.
        for group in (folder, *folder.parents):
            if group.is_relative_to(root):
                limits.append(_limit_in(group / name))
    return min(
        (limit for limit in limits if limit is not None and limit < _UNLIMITED_MIN), default=None
    )


def _limit_in(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # There is no such file, or it says "max".
        return None
