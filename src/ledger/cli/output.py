"""What commands print on standard output: tables for people, JSON and CSV for programs."""

import json
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TextIO

from ledger.cli.failures import printable

JsonValue = str | int | bool | None | list["JsonValue"] | dict[str, "JsonValue"]

# A cell that begins with one of these is a formula to a spreadsheet; the last four are the wide forms of the first four.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

# What a cell of CSV has only within quotes.
_SEPARATOR = re.compile('[,"\r\n]')

_WITH_LINES = ("┏━┳┓", "┃", "┡━╇┩", "│", "└─┴┘", "├─┼┤", "┌─┬┐")
_IN_ASCII = ("+-++", "|", "+-++", "|", "+-++", "+-++", "+-++")


def print_json(value: JsonValue) -> None:
    """Prints `value`, indented."""
    sys.stdout.write(f"{_json_text(value, indent=2)}\n")


def print_json_lines(values: Iterable[JsonValue]) -> None:
    """Prints each of `values` in a line of its own."""
    for value in values:
        sys.stdout.write(f"{_json_text(value)}\n")
    sys.stdout.flush()


def _json_text(value: JsonValue, indent: int | None = None) -> str:
    """JSON, in which every character is escaped that could steer a terminal or that the output's encoding lacks."""
    text = _json_encoder(not _is_unicode(sys.stdout), indent).encode(value)
    if text.isascii():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in text
    )


@cache
def _json_encoder(ensure_ascii: bool, indent: int | None) -> json.JSONEncoder:
    """Kept, since to make one takes as long as to write a line with it."""
    return json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent)


def instant_text(instant: datetime) -> str:
    """The instant in UTC as ISO 8601."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def counted(count: int, noun: str, plural: str = "") -> str:
    """So many of something: "no runs", "1 run", "2 runs"."""
    return f"{count or 'no'} {noun if count == 1 else plural or f'{noun}s'}"


def print_line(line: str = "") -> None:
    """Prints a line, at once, without what could steer a terminal."""
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()


class CsvWriter:
    """Writes CSV in UTF-8, a row a line, with every cell quoted by ' that a spreadsheet would take for a formula."""

    def __init__(
        self, stream: TextIO, columns: Sequence[str], *, shown_on: TextIO | None = None
    ) -> None:
        """`columns` are the header, which is written at once; `shown_on` is where the stream's text goes, if elsewhere."""
        if stream is sys.stdout:
            write_unicode(stream)
        self._is_terminal = (shown_on or stream).isatty()
        self._columns = tuple(columns)
        self._stream = stream
        self._write(self._columns)

    def write(self, row: Mapping[str, object]) -> None:
        """Writes a row by the names of its columns; what it lacks or is None is empty."""
        cells = (row.get(column) for column in self._columns)
        self._write(["" if cell is None else self._harmless(str(cell)) for cell in cells])

    def _harmless(self, text: str) -> str:
        shown = printable(text) if self._is_terminal else text
        return f"'{shown}" if text.startswith(_FORMULA_STARTS) and not _is_number(text) else shown

    def _write(self, cells: Iterable[str]) -> None:
        # Not by the library: it leaves a carriage return without quotes, where spreadsheets begin a row.
        self._stream.write(",".join(map(_csv_cell, cells)) + "\n")


def _csv_cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _SEPARATOR.search(text) else text


def _is_number(text: str) -> bool:
    """Whether it is a number with or without a minus: -12.50."""
    whole, _, fraction = text.removeprefix("-").partition(".")
    return (
        text.isascii()
        and whole.isdigit()
        and (fraction.isdigit() or whole == text.removeprefix("-"))
    )


@dataclass(slots=True)
class Table:
    """Rows of texts under titles. Columns named in `right` stand on the right, as numbers do.

    `optional` are the columns that a narrow terminal goes without, the least important first. Without titles it is a list of
    names and values.
    """

    titles: Sequence[str]
    right: frozenset[str] = frozenset()
    optional: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)
    # Stands below a line, as a total does.
    footer: Sequence[str] = ()
    has_header: bool = True

    def __post_init__(self) -> None:
        self.titles = tuple(map(printable, self.titles))
        self.right = frozenset(map(printable, self.right))

    def add(self, *cells: str) -> None:
        """Adds a row."""
        self.rows.append(tuple(map(printable, cells)))


def facts() -> Table:
    """A table of names and values, which needs no titles."""
    return Table(("name", "value"), has_header=False)


def print_table(table: Table) -> None:
    """Prints `table` without cutting any cell.

    A terminal that is too narrow gets fewer columns, or a block of lines a row, and so nothing of a
    table without rows; where there is none, the lines are as long as they need be.
    """
    table = _writable(table)
    shown = list(range(len(table.titles)))
    widths = _widths(table)
    if sys.stdout.isatty():
        limit = shutil.get_terminal_size().columns
        for title in table.optional:
            if _line_width(widths, shown) <= limit:
                break
            shown.remove(list(table.titles).index(title))
        if _line_width(widths, shown) > limit:
            _print_blocks(table)
            return
    _print_grid(table, shown, widths)


def _writable(table: Table) -> Table:
    """The table with its characters escaped that the output's encoding lacks."""
    if _is_unicode(sys.stdout):
        return table

    def cells(texts: Sequence[str]) -> list[str]:
        return [text.encode("ascii", "backslashreplace").decode() for text in texts]

    return Table(
        cells(table.titles),
        frozenset(cells(list(table.right))),
        table.optional,
        [cells(row) for row in table.rows],
        cells(table.footer),
        table.has_header,
    )


def _widths(table: Table) -> list[int]:
    rows = [
        *table.rows,
        *([table.footer] if table.footer else []),
        *([table.titles] if table.has_header else []),
    ]
    return [
        max((text_width(row[place]) for row in rows), default=0)
        for place in range(len(table.titles))
    ]


def _line_width(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[place] + 3 for place in shown) + 1


def _print_grid(table: Table, shown: Sequence[int], widths: Sequence[int]) -> None:
    head, head_side, below_head, side, bottom, section, top = (
        _WITH_LINES if _is_unicode(sys.stdout) else _IN_ASCII
    )

    def rule(corners: str) -> str:
        left, line, between, right = tuple(corners)
        return left + between.join(line * (widths[place] + 2) for place in shown) + right

    def row(cells: Sequence[str], edge: str) -> str:
        texts = (
            _padded(cells[place], widths[place], table.titles[place] in table.right)
            for place in shown
        )
        return f"{edge} " + f" {edge} ".join(texts) + f" {edge}"

    lines = (
        [rule(head), row(table.titles, head_side), rule(below_head)]
        if table.has_header
        else [rule(top)]
    )
    lines += [row(cells, side) for cells in table.rows]
    if table.footer:
        lines += [rule(section), row(table.footer, side)]
    lines.append(rule(bottom))
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _print_blocks(table: Table) -> None:
    """Each row as lines of a title and a value; what is empty is left out."""
    width = (
        max((text_width(title) for title in table.titles), default=0)
        if table.has_header
        else _widths(table)[0]
    )
    for number, cells in enumerate([*table.rows, *([table.footer] if table.footer else [])]):
        if not table.has_header:
            sys.stdout.write(f"{_padded(cells[0], width, False)}  {cells[1]}\n")
            continue
        if number:
            sys.stdout.write("\n")
        for title, cell in zip(table.titles, cells, strict=True):
            if cell:
                sys.stdout.write(f"{_padded(title, width, False)}  {cell}\n")


def _padded(text: str, width: int, is_right: bool) -> str:
    blanks = " " * (width - text_width(text))
    return blanks + text if is_right else text + blanks


def text_width(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(map(_character_width, text))


def _character_width(character: str) -> int:
    # Marks stand on the character before them, as do the vowels and endings of a Korean syllable that is written in parts.
    if unicodedata.category(character) in {"Mn", "Me"} or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _is_unicode(stream: TextIO) -> bool:
    """Whether every character can be written; streams without an encoding are in memory."""
    return (stream.encoding or "utf-8").lower().replace("_", "-").startswith("utf")


def write_unicode(stream: TextIO) -> None:
    """A file for a spreadsheet has one encoding everywhere, whatever the terminal's is."""
    if not _is_unicode(stream) and hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8")
