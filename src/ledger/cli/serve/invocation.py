"""How a user can call this very command again, for hints that can be copied as they are."""

import shlex
import sys
from pathlib import Path


def command_line(*arguments: str) -> str:
    """`ledger` with `arguments`, as it was found this time: from an environment that is not active it needs its path."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":
        return shlex.join([from_here(Path(sys.executable)), "-m", "ledger", *arguments])
    return shlex.join([from_here(program.absolute()), *arguments])


def from_here(path: Path) -> str:
    """The path as seen from the working directory, if it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
