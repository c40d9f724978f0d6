"""Reads the rows of a report, CSV or JSON lines, each with its line and its layout."""

import csv
import io
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Any, TextIO

from ledger.reconciliation.layouts import Layout, layout_of, normal
from ledger.reconciliation.problems import LayoutUnknown, Problem, ProblemList, shown
from ledger.reconciliation.texts import TextFile

SEPARATORS = (",", ";", "\t", "|")
# A header is among the first rows; titles may stand before it.
HEADER_ROWS_MAX = 50
_SAMPLE_CHARACTERS = 256 * 1024
JSON_LINE_CHARACTERS_MAX = 1024 * 1024
# Names of columns that a message shows.
_NAMES_SHOWN_MAX = 12


@dataclass(frozen=True, slots=True)
class Table:
    """A header with its layout: where each column is, by the layout's name for it."""

    layout: Layout
    places: dict[str, int]
    width: int
    # A row that ends before this column lacks something that decides.
    width_min: int
    # The columns with ids that the table has.
    id_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row by its cells; `line` is the one in which it begins, counted from 1."""

    line: int
    table: Table
    cells: Sequence[str]

    def cell(self, name: str) -> str:
        """The cell of a column, without blanks around; empty if there is no such column."""
        place = self.table.places.get(name)
        return "" if place is None or place >= len(self.cells) else self.cells[place].strip()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Lines that were not read, and why."""

    first_line: int
    last_line: int
    why: str
    # Whether there may be money in them.
    matters: bool


def read_rows(
    text_file: TextFile, layouts: Sequence[Layout], problems: ProblemList
) -> Generator[Row | LeftOut, None, None]:
    """The rows of all tables of the file that have one of `layouts`.

    Raises ReportUnusable if there is none. What is wrong with single rows goes to `problems`.
    """
    with text_file.open() as text:
        sample = text.read(_SAMPLE_CHARACTERS)
    if sample.lstrip("\ufeff \t\r\n")[:1] == "{":
        with text_file.open() as text:
            yield from _read_json(text, layouts, problems)
        return
    separator, rows_before = _find_header(sample, layouts)
    with text_file.open() as text:
        yield from _read_csv(text, separator, rows_before, layouts, problems)


def _find_header(sample: str, layouts: Sequence[Layout]) -> tuple[str, int]:
    """The separator, and how many rows stand before the first header. Raises LayoutUnknown."""
    # Its line, what it lacks, and its cells.
    closest: tuple[int, list[str], list[str]] | None = None
    for separator in SEPARATORS:
        rows = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
        try:
            for number, cells in enumerate(islice(rows, HEADER_ROWS_MAX)):
                if layout_of(cells, layouts) is not None:
                    return separator, number
                names = set(map(normal, cells))
                for layout in layouts:
                    missing = [name for name in layout.required if normal(name) not in names]
                    has_any = len(missing) < len(layout.required)
                    if has_any and (closest is None or len(missing) < len(closest[1])):
                        closest = (rows.line_num, missing, cells)
        except csv.Error:
            continue
    if closest is None:
        one = f"the layout {layouts[0].name}" if len(layouts) == 1 else "a known layout"
        raise LayoutUnknown([Problem(1, "", f"no header of {one} is in the first rows")])
    line, missing, cells = closest
    names_shown = ", ".join(shown(cell, 24) for cell in cells[:_NAMES_SHOWN_MAX])
    raise LayoutUnknown(
        [
            Problem(
                line,
                "",
                f"is no header of a known layout; the closest lacks: {', '.join(missing)}"
                f" (it has {names_shown}{', …' if len(cells) > _NAMES_SHOWN_MAX else ''})",
            )
        ]
    )


def _read_csv(
    text: TextIO,
    separator: str,
    rows_before: int,
    layouts: Sequence[Layout],
    problems: ProblemList,
) -> Iterator[Row | LeftOut]:
    reader = csv.reader(text, delimiter=separator, strict=True)
    # Every row is looked at, so no name is made normal first.
    known_names = frozenset(
        spelt
        for layout in layouts
        for name in layout.required
        for spelt in (name, name.lower(), name.upper())
    )
    table: Table | None = None
    header: list[str] = []
    left_from, left_why = 0, ""
    is_after_blank = False
    number = -1
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problems.add(line, "", _csv_problem(error))
            problems.require_none()
        number += 1
        if number < rows_before:
            if any(cells):
                yield LeftOut(line, reader.line_num, "it stands before the header", False)
            continue
        if not any(map(str.strip, cells)):
            is_after_blank = True
            continue
        if cells == header:
            continue
        may_be_header = number == rows_before or not known_names.isdisjoint(cells)
        if may_be_header and (layout := layout_of(cells, layouts)) is not None:
            if left_from:
                yield LeftOut(left_from, line - 1, left_why, True)
                left_from = 0
            header = cells
            table = _table_of(layout, cells, line, problems)
            is_after_blank = False
            continue
        if table is None:
            raise RuntimeError("the header that was found is not there")
        if left_from:
            continue
        if (len(cells) > table.width and any(map(str.strip, cells[table.width :]))) or (
            len(cells) < table.width_min
        ):
            if is_after_blank:
                left_from = line
                names = ", ".join(shown(cell, 24) for cell in cells[:_NAMES_SHOWN_MAX])
                left_why = f"it is a table of no known layout ({names})"
                continue
            problems.add(line, "", f"has {len(cells)} cells for {table.width} columns")
            continue
        is_after_blank = False
        yield Row(line, table, cells)
    if left_from:
        yield LeftOut(left_from, reader.line_num, left_why, True)


def _table_of(layout: Layout, header: Sequence[str], line: int, problems: ProblemList) -> Table:
    found: dict[str, int] = {}
    used = {normal(name) for name in layout.used_columns()}
    for place, name in enumerate(map(normal, header)):
        if name in found and name in used:
            problems.add(line, header[place].strip(), "is twice in the header")
        found.setdefault(name, place)
    places = {
        name: found[normal(name)]
        for name in (*layout.used_columns(), *layout.ids())
        if normal(name) in found
    }
    width_min = max(place for name, place in found.items() if name in used) + 1
    ids = tuple(name for name in layout.ids() if name in places)
    return Table(layout, places, len(header), width_min, ids)


def _csv_problem(error: csv.Error) -> str:
    message = str(error)
    if "unexpected end of data" in message:
        return "a quote is opened here and not closed"
    if "field larger" in message:
        return (
            f"a cell is longer than {csv.field_size_limit()} characters; is a quote opened here"
            " and not closed?"
        )
    return f"is not CSV: {message}"


def _read_json(
    text: TextIO, layouts: Sequence[Layout], problems: ProblemList
) -> Iterator[Row | LeftOut]:
    tables: dict[tuple[str, ...], Table] = {}
    number = 0
    while line_text := text.readline(JSON_LINE_CHARACTERS_MAX + 1):
        number += 1
        if len(line_text) > JSON_LINE_CHARACTERS_MAX:
            problems.add(number, "", f"is longer than {JSON_LINE_CHARACTERS_MAX} characters")
            problems.require_none()
        if not line_text.strip("\ufeff \t\r\n"):
            continue
        try:
            members = json.loads(
                line_text.removeprefix("\ufeff"),
                parse_float=_exact,
                parse_constant=_refuse_constant,
            )
        except (ValueError, RecursionError) as error:
            problems.add(number, "", f"is not JSON: {error}")
            continue
        if not isinstance(members, dict):
            problems.add(number, "", "is not a JSON object")
            continue
        cells = dict(_flat(members))
        names = tuple(cells)
        if names not in tables:
            layout = layout_of(names, layouts)
            if layout is None:
                problems.add(number, "", "has no fields of a known layout")
                continue
            if len(tables) == HEADER_ROWS_MAX:
                # Objects with ever other fields: each is a table, and none is kept.
                tables.clear()
            tables[names] = _table_of(layout, names, number, problems)
        yield Row(number, tables[names], list(cells.values()))


def _exact(text: str) -> Decimal:
    return Decimal(text)


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _flat(members: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """The members with those of inner objects: amount.value. Null is left empty, lists too."""
    for name, value in members.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        elif value is None or isinstance(value, list):
            yield f"{path}{name}", ""
        else:
            # JSON can write halves of characters, which no text has.
            yield f"{path}{name}", str(value).encode("utf-8", "replace").decode()
