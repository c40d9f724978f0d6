"""Keeps the options that stand before the name of a command: how to call a server."""

from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path

# A context variable, since tests run several invocations in one process.
# The default is never changed in place.
_GIVEN: ContextVar[Mapping[str, str]] = ContextVar("_GIVEN", default={})  # noqa: B039


def take_options(**given: str | Path | None) -> None:
    """Keeps options of `ledger` itself for the command that follows, by field of the settings."""
    _GIVEN.set({field: str(value) for field, value in given.items() if value is not None})


def given_options(**given: str | int | None) -> dict[str, str | int]:
    """The options kept by `take_options`, overridden by `given`; None counts as not given."""
    return {**_GIVEN.get(), **{field: value for field, value in given.items() if value is not None}}
