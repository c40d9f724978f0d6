"""Options before the name of a command: how to call a server is the same for all of them."""

from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path

# The command line belongs to one invocation; tests have several in a process.
_GIVEN: ContextVar[Mapping[str, str]] = ContextVar("_GIVEN", default={})  # noqa: B039  # never changed


def take_options(**given: str | Path | None) -> None:
    """Remembers options of `ledger` itself for the command that follows them, by the fields of the settings."""
    _GIVEN.set({field: str(value) for field, value in given.items() if value is not None})


def given_options(**given: str | int | None) -> dict[str, str | int]:
    """Those and `given`, which goes before them."""
    return {**_GIVEN.get(), **{field: value for field, value in given.items() if value is not None}}
