"""How the memory that a server may take is shared out, so that what all callers send together fits into it.

Every place that holds requests has a bound; this is their sum. What is left beside the fixed bounds
goes to connections and to messages of 4 MiB that are not whole yet.
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
# A server that has worked and is at rest: code, the libraries' tables, the database's connections.
RESTING_BYTES = 110 * MIB
# What starts several workers, and replaces those that die.
SUPERVISOR_BYTES = 100 * MIB
# A call that waits to be read: the first window of its stream, and what the library keeps of it.
WAITING_CALL_BYTES = 28 * KIB
# The largest request as a message and decoded: 4 MiB of texts of which each character takes four
# bytes, or 64,000 entries of metadata. One at a time is parsed, and one may be beyond HELD_BYTES_MAX.
PARSED_BYTES = 40 * MIB
DECODED_BYTES = 28 * MIB
# The statement that books a large batch, as text, in the driver and on its way.
STATEMENT_BYTES = 3 * MESSAGE_BYTES_MAX
CONNECTION_BYTES = 60 * KIB
# Of what is left; the rest is for messages that are not whole.
CONNECTIONS_SHARE = 1 / 3
CONNECTIONS_MIN, PLACES_MIN = 64, 4
# As a server of control groups says that there is no limit.
_UNLIMITED_MIN = 1 << 60


@dataclass(frozen=True, slots=True)
class MemoryShares:
    """How many clients may be connected, and how many large messages may be there in part; what all bounds add up to."""

    connections: int
    large_places: int
    sum_bytes: int

    @classmethod
    def of(
        cls, memory_bytes: int | None, *, queue_bytes: int, bookings: int, streams: int
    ) -> "MemoryShares":
        """Shares of `memory_bytes`; without a limit, or with enough, as many as there may be at all.

        `queue_bytes` is what may wait to be booked, `bookings` the batches booked at once, `streams` how
        many may be open. With too little memory the sum is larger than `memory_bytes`.
        """
        fixed_bytes = (
            RESTING_BYTES
            + (READING_MAX + OPEN_READING_MAX) * MESSAGE_BYTES_MAX
            + (WAITING_MAX + BATCHES_WAITING_MAX + OPEN_WAITING_MAX) * WAITING_CALL_BYTES
            + queue_bytes
            + HELD_BYTES_MAX
            + DECODED_BYTES
            + PARSED_BYTES
            + bookings * STATEMENT_BYTES
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
    """Of what one worker takes by itself, or several in equal parts beside their supervisor."""
    return memory_bytes if workers == 1 else max(0, memory_bytes - SUPERVISOR_BYTES) // workers


def memory_limit_bytes(
    groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """The least limit of the control groups that this process is in, as a container's; None without one."""
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
        # In a container the path may be that of the host, of which only the root is seen.
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
        # There is none, or it says "max".
        return None
