"""Writes command lines for hints, so that a user can copy them."""

import shlex
import sys
from pathlib import Path


def command_line(*arguments: str) -> str:
    """`ledger` with `arguments`, by the path under which it was called this time."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return shlex.join([from_here(Path(sys.executable)), "-m", "ledger", *arguments])
    return shlex.join([from_here(program.absolute()), *arguments])


def from_here(path: Path) -> str:
    """The path, relative to the working directory if it is below that."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
