"""Prints tables for people, and JSON and CSV for programs, on standard output."""

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

# A cell that begins with one of these is a formula to a spreadsheet. The last four are the wide
# forms of the first four.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

# A cell of CSV that holds one of these needs quotes.
_SEPARATOR = re.compile('[,"\r\n]')

_WITH_LINES = ("┏━┳┓", "┃", "┡━╇┩", "│", "└─┴┘", "├─┼┤", "┌─┬┐")
_IN_ASCII = ("+-++", "|", "+-++", "|", "+-++", "+-++", "+-++")


def print_json(value: JsonValue) -> None:
    """Prints `value` as indented JSON."""
    sys.stdout.write(f"{_json_text(value, indent=2)}\n")


def print_json_lines(values: Iterable[JsonValue]) -> None:
    """Prints each of `values` as JSON on one line."""
    for value in values:
        sys.stdout.write(f"{_json_text(value)}\n")
    sys.stdout.flush()


def _json_text(value: JsonValue, indent: int | None = None) -> str:
    """`value` as JSON. Escapes characters that could control a terminal or that it cannot write."""
    text = _json_encoder(not _is_unicode(sys.stdout), indent).encode(value)
    if text.isascii():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]
        for character in text
    )


@cache
def _json_encoder(ensure_ascii: bool, indent: int | None) -> json.JSONEncoder:
    """Cached, since making an encoder takes as long as writing a line with it."""
    return json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent)


def instant_text(instant: datetime) -> str:
    """The instant in UTC as ISO 8601."""
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count in words: "no runs", "1 run", "2 runs"."""
    return f"{count or 'no'} {noun if count == 1 else plural or f'{noun}s'}"


def print_line(line: str = "") -> None:
    """Prints a line and flushes it. Escapes characters that could control a terminal."""
    sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()


class CsvWriter:
    """Writes CSV in UTF-8, with a ' before each cell that a spreadsheet would run as a formula."""

    def __init__(
        self, stream: TextIO, columns: Sequence[str], *, shown_on: TextIO | None = None
    ) -> None:
        """Writes the header, `columns`, at once.

        `shown_on` is the stream that later receives the text, if it is not `stream` itself.
        """
        if stream is sys.stdout:
            write_unicode(stream)
        self._is_terminal = (shown_on or stream).isatty()
        self._columns = tuple(columns)
        self._stream = stream
        self._write(self._columns)

    def write(self, row: Mapping[str, object]) -> None:
        """Writes a row, by the names of its columns; a missing value or None is an empty cell."""
        cells = (row.get(column) for column in self._columns)
        self._write(["" if cell is None else self._harmless(str(cell)) for cell in cells])

    def _harmless(self, text: str) -> str:
        shown = printable(text) if self._is_terminal else text
        return f"'{shown}" if text.startswith(_FORMULA_STARTS) and not _is_number(text) else shown

    def _write(self, cells: Iterable[str]) -> None:
        # Not by the csv module: it leaves a carriage return without quotes, and spreadsheets begin
        # a row there.
        self._stream.write(",".join(map(_csv_cell, cells)) + "\n")


def _csv_cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _SEPARATOR.search(text) else text


def _is_number(text: str) -> bool:
    """Whether `text` is a number with or without a minus: -12.50."""
    whole, _, fraction = text.removeprefix("-").partition(".")
    return (
        text.isascii()
        and whole.isdigit()
        and (fraction.isdigit() or whole == text.removeprefix("-"))
    )


@dataclass(slots=True)
class Table:
    """Rows of texts under titles. Columns named in `right` are aligned right, as numbers are.

    `optional` are the columns that a narrow terminal does not show, the least important first.
    Without a header the table is a list of names and values.
    """

    titles: Sequence[str]
    right: frozenset[str] = frozenset()
    optional: Sequence[str] = ()
    rows: list[Sequence[str]] = field(default_factory=list)
    # The last row, below a line: a total, for example.
    footer: Sequence[str] = ()
    has_header: bool = True

    def __post_init__(self) -> None:
        self.titles = tuple(map(printable, self.titles))
        self.right = frozenset(map(printable, self.right))

    def add(self, *cells: str) -> None:
        """Adds a row."""
        self.rows.append(tuple(map(printable, cells)))


def facts() -> Table:
    """An empty table of names and values, without a header."""
    return Table(("name", "value"), has_header=False)


def print_table(table: Table) -> None:
    """Prints `table`; never cuts a cell.

    On a terminal that is too narrow it leaves out the optional columns. If that is not enough, it
    prints a block of lines for each row, and nothing for a table without rows. Lines are as long as
    needed if the output is no terminal.
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
    """The table, with the characters escaped that the output's encoding lacks."""
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
    """Prints each row as lines of a title and a value, without the empty values."""
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
    # Marks take no column, nor do the vowels and endings of a Korean syllable written in parts.
    if unicodedata.category(character) in {"Mn", "Me"} or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _is_unicode(stream: TextIO) -> bool:
    """Whether `stream` can write every character; a stream without an encoding is in memory."""
    return (stream.encoding or "utf-8").lower().replace("_", "-").startswith("utf")


def write_unicode(stream: TextIO) -> None:
    """Makes `stream` UTF-8: files for spreadsheets have one encoding, whatever the terminal has."""
    if not _is_unicode(stream) and hasattr(stream, "reconfigure"):
        stream.reconfigure(encoding="utf-8")
