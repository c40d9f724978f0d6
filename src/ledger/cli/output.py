"""What commands print on standard output: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Iterable
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

# Where the output is no terminal, nobody's window has to hold a line.
_PIPE_WIDTH = 200

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

JsonValue = str | int | bool | None | list["JsonValue"] | dict[str, "JsonValue"]


def print_json(value: JsonValue) -> None:
    """Prints `value`; text other than ASCII as it is."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_json_lines(values: Iterable[JsonValue]) -> None:
    """Prints each of `values` in a line of its own."""
    for value in values:
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_line(line: str = "") -> None:
    """Prints a line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def print_table(table: Table) -> None:
    """Prints `table` as wide as the terminal, or as wide as it needs where there is none."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)
