"""CPU and memory of processes, from Linux's /proc; None on systems without it."""

import os
from pathlib import Path

_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self" / "stat").exists()


def _stat(pid: int) -> list[str] | None:
    """The fields of a process after its name, which may contain blanks; None when it has ended."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _tree(root: int) -> dict[int, list[str]]:
    """A process and its descendants, with their fields."""
    stats = {
        int(path.name): fields
        for path in _PROC.glob("[0-9]*")
        if (fields := _stat(int(path.name))) is not None
    }
    found, wave = dict[int, list[str]](), {root}
    while wave:
        found.update({pid: stats[pid] for pid in wave if pid in stats})
        wave = {pid for pid, fields in stats.items() if int(fields[1]) in wave}
    return found


def cpu_seconds(root: int) -> float | None:
    """CPU of a process and its descendants, including ended ones."""
    if not _HAS_PROC:
        return None
    # utime, stime, and the same of the children that were waited for.
    ticks = sum(int(field) for fields in _tree(root).values() for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(root: int) -> int | None:
    """Resident memory of a process and its descendants; shared memory counts for each."""
    if not _HAS_PROC:
        return None
    return sum(int(fields[21]) for fields in _tree(root).values()) * os.sysconf("SC_PAGE_SIZE")


def private_bytes(root: int) -> int | None:
    """Memory of a process and its descendants that they share with no other."""
    if not _HAS_PROC:
        return None
    return sum(_anonymous_bytes(pid) for pid in _tree(root))


def _anonymous_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def has_loaded(pid: int, library: str) -> bool | None:
    """Whether a process has loaded a shared library; None where unknown."""
    try:
        return f"/{library}/" in (_PROC / str(pid) / "maps").read_text()
    except (FileNotFoundError, PermissionError):
        return None


def filesystem_of(path: Path) -> str:
    """The type of a directory's file system: on tmpfs no commit is durable."""
    try:
        mounts = [line.split() for line in (_PROC / "mounts").read_text().splitlines()]
    except FileNotFoundError:
        return "unknown"
    holding = [(len(place), kind) for _, place, kind, *_ in mounts if path.is_relative_to(place)]
    return max(holding)[1] if holding else "unknown"
