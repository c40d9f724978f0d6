"""A memory limit like a container's, by control groups of Linux, version 1 or 2."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

_CGROUPS = Path("/sys/fs/cgroup")
_GONE_SECONDS = 10.0


class NoMemoryLimit(Exception):
    """Memory cannot be limited on this machine, or not by this user."""


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """A control group with a limit; processes that it kills are counted."""

    folder: Path

    def command(self, *command: str) -> tuple[str, ...]:
        """The command, started within the limit; earlier memory of the process does not count."""
        return (
            "/bin/sh",
            "-c",
            'echo $$ > "$0" && exec "$@"',
            str(self.folder / "cgroup.procs"),
            *command,
        )

    @property
    def killed(self) -> int:
        """How many processes the kernel has killed for lack of memory."""
        events = self.folder / "memory.events"
        if not events.exists():
            events = self.folder / "memory.oom_control"
        counts = dict(line.split() for line in events.read_text().splitlines())
        return int(counts["oom_kill"])


@contextmanager
def memory_limit(limit_bytes: int) -> Iterator[MemoryLimit]:
    """A group below ours, so that our limits still hold. Raises NoMemoryLimit."""
    folder, files = _own_group()
    folder /= f"ledger-{uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError as error:
        raise NoMemoryLimit(f"no control group can be made: {error.strerror}") from error
    try:
        for name in files:
            try:
                (folder / name).write_text(str(limit_bytes))
            except OSError as error:
                raise NoMemoryLimit(f"no memory limit can be set: {error.strerror}") from error
        yield MemoryLimit(folder)
    finally:
        _remove(folder)


def _own_group() -> tuple[Path, tuple[str, ...]]:
    """The folder of our group, and the files for the limit. Raises NoMemoryLimit."""
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except FileNotFoundError as error:
        raise NoMemoryLimit("this system has no control groups") from error
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            return _CGROUPS / "memory" / path.lstrip("/"), ("memory.limit_in_bytes",)
    for _, controllers, path in groups:
        if not controllers:
            return _CGROUPS / path.lstrip("/"), ("memory.max",)
    raise NoMemoryLimit("this system has no control groups")


def _remove(folder: Path) -> None:
    """Removes the group. The kernel notices the end of its processes a moment late."""
    ends_at = time.monotonic() + _GONE_SECONDS
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.05)
        else:
            return
