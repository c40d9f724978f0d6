"""Installed checkouts of other revisions, in .cache/against; git's own folder stays as it is."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = ".cache/against"
# The newest stay, to be used again.
KEPT = 4
# Of `make` and `uv run` around this process; an installation beside it must not see them.
_NOT_INHERITED = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "VIRTUAL_ENV", "UV_PYTHON")


class NoCheckout(Exception):
    """There is no such revision, or its checkout cannot be installed."""


def commit_of(root: Path, revision: str) -> str:
    """The full hash of a revision. Raises NoCheckout."""
    found = _git(
        root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"
    )
    if found is None:
        if _git(root, "rev-parse", "--git-dir") is None:
            raise NoCheckout(f"{root} is not a checkout of git, so it has no other revisions")
        raise NoCheckout(f"{revision} is no commit of this repository; `git log` lists them")
    return found.decode().strip()


@contextmanager
def checkout(root: Path, commit: str) -> Iterator[Path]:
    """A checkout with the locked environment of its revision; made unless it is there.

    No other process removes it meanwhile. Older ones are removed. Raises NoCheckout.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / commit
    with _lock(folder, commit, fcntl.LOCK_EX) as lock:
        if not path.exists():
            _extract(root, commit, path)
        _install(root, path)
        # For the next use this is the newest.
        os.utime(path)
        fcntl.flock(lock, fcntl.LOCK_SH)
        _remove_old(folder)
        yield path


def _extract(root: Path, commit: str, path: Path) -> None:
    """An interrupted copy is never taken for a whole one: it has another name."""
    part = path.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    archive = _git(root, "archive", "--format=tar", commit)
    if archive is None:
        raise NoCheckout(f"git cannot read the files of {commit}")
    subprocess.run(["tar", "-xf", "-", "-C", str(part)], input=archive, check=True)
    part.rename(path)


def _install(root: Path, path: Path) -> None:
    """`make install`: first from uv's cache alone, without the network. A repeat does nothing."""
    env = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    command = ["make", "--silent", "install", f"PYTHON={Path(sys.executable).resolve()}"]
    uv = shutil.which("uv") or shutil.which("uv", path=root / ".tools" / "bin")
    if uv is not None:
        command.append(f"UV={uv}")
    for more in ({"UV_OFFLINE": "1"}, {}):
        installed = subprocess.run(
            command, cwd=path, env=env | more, check=False, capture_output=True, text=True
        )
        if installed.returncode == 0:
            return
    raise NoCheckout(f"`make install` fails in {path}:\n{installed.stderr.strip()}")


def _remove_old(folder: Path) -> None:
    """Removes all but the newest checkouts, and none that another process uses."""
    found = [path for path in folder.iterdir() if path.is_dir()]
    for path in sorted(found, key=lambda each: each.stat().st_mtime, reverse=True)[KEPT:]:
        with suppress(BlockingIOError), _lock(folder, path.stem, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(path)


@contextmanager
def _lock(folder: Path, commit: str, kind: int) -> Iterator[int]:
    with (folder / f"{commit}.lock").open("w") as file:
        fcntl.flock(file, kind)
        yield file.fileno()


def _git(root: Path, *arguments: str) -> bytes | None:
    """The output of a git command; None if it fails. Raises NoCheckout without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, check=False, capture_output=True)
    except FileNotFoundError:
        raise NoCheckout("git is not installed; only --against needs it") from None
    return done.stdout if done.returncode == 0 else None
