"""Shares of a server's memory: the sum of all bounds, and the limit of a container."""

from itertools import pairwise
from pathlib import Path

import pytest

from ledger.api.memory_shares import (
    CONNECTION_BYTES,
    MIB,
    MemoryShares,
    memory_limit_bytes,
    part_of_a_worker,
)
from ledger.api.transport.connections import CONNECTIONS_MAX
from ledger.limits import MESSAGE_BYTES_MAX


def shares_of(memory_bytes: int | None) -> MemoryShares:
    """The shares of a server with the default settings."""
    return MemoryShares.of(memory_bytes, queue_bytes=32 * MIB, bookings=6, streams=32)


@pytest.mark.parametrize(
    "memory_bytes", [512_000_000, 512 * MIB, 600 * MIB, 700 * MIB, 1000 * MIB, 64_000 * MIB]
)
def test_all_bounds_add_up_to_the_memory(memory_bytes: int) -> None:
    """Connections, streams and batches all have a share."""
    shares = shares_of(memory_bytes)
    assert shares.sum_bytes <= memory_bytes
    assert shares.connections >= 500
    assert shares.streams >= 12


def test_more_memory_never_lowers_a_limit() -> None:
    """Up to the largest limits, which a server without a memory limit has too."""
    shares = [shares_of(memory) for memory in range(0, 1000 * MIB, MIB)]
    for one, more in pairwise(shares):
        assert one.connections <= more.connections + MESSAGE_BYTES_MAX // CONNECTION_BYTES + 1
        assert one.large_places <= more.large_places
    assert shares[-1] == shares_of(None)
    assert shares[-1].connections == CONNECTIONS_MAX
    assert shares[-1].streams >= 32


def test_server_with_too_little_memory_still_takes_connections() -> None:
    """Its bounds may exceed its memory; the sum shows by how much."""
    shares = shares_of(100 * MIB)
    assert shares.sum_bytes > 100 * MIB
    assert shares.streams > 0
    assert shares.connections > 0


def test_workers_have_equal_parts_of_what_their_supervisor_leaves() -> None:
    """A single worker has no supervisor."""
    assert part_of_a_worker(500 * MIB, 1) == 500 * MIB
    assert part_of_a_worker(500 * MIB, 4) == 100 * MIB
    assert part_of_a_worker(50 * MIB, 4) == 0


def cgroups(folder: Path, own: str, limits: dict[str, str]) -> int | None:
    """The limit of a process in the groups `own`, where the files of limits have these contents."""
    for name, limit in limits.items():
        file = folder / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit)
    (folder / "own").write_text(own)
    return memory_limit_bytes(folder / "groups", folder / "own")


@pytest.mark.parametrize(
    ("own", "limits", "limit_bytes"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "512000000\n"}, 512_000_000),
        ("0::/a/b\n", {"a/b/memory.max": "100\n", "a/memory.max": "200\n"}, 100),
        # The path on the host, seen from inside the container.
        ("0::/docker/1f\n", {"memory.max": "300\n"}, 300),
        ("3:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "400\n"}, 400),
        ("3:memory:/docker/1f\n", {"memory/memory.limit_in_bytes": "500\n"}, 500),
        ("3:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ("0::/a\n", {"a/memory.max": "max\n"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_limit_is_the_least_of_the_enclosing_groups(
    tmp_path: Path, own: str, limits: dict[str, str], limit_bytes: int | None
) -> None:
    """Of both versions of control groups; none if none is set."""
    assert cgroups(tmp_path, own, limits) == limit_bytes


def test_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    """Such as macOS."""
    assert memory_limit_bytes(tmp_path, tmp_path / "none") is None
