"""A temporary SQLite database that holds a report and its part of the books, in bounded memory."""

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ledger.reconciliation.books import EXPECTED_TYPES, BookEvent
from ledger.reconciliation.layouts import Kind
from ledger.reconciliation.lines import DamagedId, ReportLine

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INSERT_ROWS = 1000
# A look-up takes a fifth of the time that calling the enum takes.
_KINDS = {kind.value: kind for kind in Kind}
# Of SQLite's pages; the rest is on disk.
_CACHE_KIBIBYTES = 32 * 1024
# Parameters of one statement.
IDS_MAX = 500

# Those that are read from the report, then those that matching finds.
_READ_COLUMNS = {
    "report_row": "INTEGER NOT NULL",
    "word": "TEXT NOT NULL",
    "kind": "TEXT NOT NULL",
    "row_id": "TEXT NOT NULL",
    "currency": "TEXT NOT NULL",
    "gross_minor": "INTEGER NOT NULL",
    "cost_minor": "INTEGER NOT NULL",
    "net_minor": "INTEGER NOT NULL",
    "untied_minor": "INTEGER NOT NULL",
    "occurred_us": "INTEGER",
    "exact_us": "INTEGER NOT NULL",
    "event_ids": "TEXT NOT NULL",
    "fee_ids": "TEXT NOT NULL",
    "owner_id": "TEXT NOT NULL",
    "reference_list": "TEXT NOT NULL",
    "payout_group": "TEXT NOT NULL",
    "closes_group": "INTEGER NOT NULL",
    "note": "TEXT NOT NULL",
    "content": "TEXT NOT NULL",
}
_FOUND_COLUMNS = {"duplicate_of": "INTEGER", "event": "INTEGER", "matched_by": "TEXT NOT NULL"}
_COLUMNS = {"id": "INTEGER PRIMARY KEY", **_READ_COLUMNS, **_FOUND_COLUMNS}
_COLUMNS_SQL = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS.items())
_LINE = ", ".join(f"lines.{name}" for name in _COLUMNS)
_READ = slice(1, 1 + len(_READ_COLUMNS))
_DUPLICATE_OF, _EVENT_PLACE, _MATCHED_BY = range(_READ.stop, len(_COLUMNS))

_SCHEMA = f"""
CREATE TABLE lines ({_COLUMNS_SQL}) STRICT;
CREATE TABLE controls ({_COLUMNS_SQL}) STRICT;
CREATE TABLE group_sums (
    payout_group TEXT NOT NULL, currency TEXT NOT NULL, rest_minor INTEGER NOT NULL,
    last_control INTEGER UNIQUE, closes INTEGER NOT NULL
) STRICT;
CREATE TABLE identities (identity TEXT PRIMARY KEY, report_row INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE contents (content TEXT PRIMARY KEY, times INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE damaged (line INTEGER NOT NULL, column_name TEXT NOT NULL, shown TEXT NOT NULL) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, type TEXT NOT NULL,
    restaurant_id TEXT NOT NULL, currency TEXT NOT NULL, amount_minor INTEGER NOT NULL,
    fee_minor INTEGER NOT NULL, processor_fee_minor INTEGER NOT NULL, occurred_us INTEGER NOT NULL,
    reference TEXT NOT NULL, in_period INTEGER NOT NULL,
    -- The first line that stands for it, and how many do; 0 lines: it is the fee of that line.
    first_line INTEGER, line_count INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX events_reference ON events (reference);
CREATE TABLE fees (line INTEGER NOT NULL, event INTEGER NOT NULL UNIQUE) STRICT;
CREATE INDEX fees_line ON fees (line);
"""
_EVENT = (
    "event_id, type, restaurant_id, currency, amount_minor, fee_minor, processor_fee_minor,"
    " occurred_us, reference"
)
_STORED_EVENT = ", ".join(
    f"events.{name}" for name in f"id, {_EVENT}, in_period, first_line, line_count".split(", ")
)


@dataclass(frozen=True, slots=True)
class StoredLine:
    """A line with what is known about it."""

    id: int
    line: ReportLine
    # The row of which it is a copy.
    duplicate_of: int | None
    event: int | None
    matched_by: str


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with its place."""

    id: int
    event: BookEvent
    in_period: bool
    first_line: int | None
    line_count: int


@contextmanager
def open_workspace() -> Iterator["Workspace"]:
    """A workspace in a temporary folder, which is removed at the end."""
    with (
        tempfile.TemporaryDirectory(prefix="ledger-reconcile-") as folder,
        closing(sqlite3.connect(Path(folder) / "work.sqlite", isolation_level=None)) as connection,
    ):
        # Nothing outlives the process.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
        connection.executescript(_SCHEMA)
        # One transaction for all: a statement alone would write to the disk each time.
        connection.execute("BEGIN")
        yield Workspace(connection)


class Workspace:
    """The lines of a report, and the events that they are compared with."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._pending: list[tuple[object, ...]] = []

    # Reading the report.

    def add_line(self, line: ReportLine) -> None:
        """Adds a line, or a control sum if it is one."""
        if line.kind in (Kind.PAYOUT, Kind.TOTAL, Kind.OPENING):
            self._insert("controls", [(*_values_of(line), None, None, "")])
            return
        self._pending.append((*_values_of(line), self._copied_row(line), None, ""))
        if len(self._pending) >= _INSERT_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes the lines that were added."""
        self._insert("lines", self._pending)
        self._pending = []

    def _insert(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        marks = ", ".join("?" * (len(_COLUMNS) - 1))
        self._db.executemany(f"INSERT INTO {table} VALUES (NULL, {marks})", rows)  # noqa: S608

    def _copied_row(self, line: ReportLine) -> int | None:
        """The row of which the line is a copy: of the same id, or without one of the same words."""
        identity = f"{line.kind}\n{line.row_id or line.content}"
        cursor = self._db.execute(
            "INSERT INTO identities VALUES (?, ?) ON CONFLICT DO NOTHING", (identity, line.row)
        )
        if cursor.rowcount:
            return None
        found = self._db.execute(
            "SELECT report_row FROM identities WHERE identity = ?", (identity,)
        ).fetchone()
        return int(found[0])

    def count_content(self, content: str) -> int:
        """How often this was called with the same text, this call included."""
        found = self._db.execute(
            "INSERT INTO contents VALUES (?, 1)"
            " ON CONFLICT (content) DO UPDATE SET times = times + 1 RETURNING times",
            (content,),
        ).fetchone()
        return int(found[0])

    def add_damaged_id(self, damaged: DamagedId) -> None:
        self._db.execute(
            "INSERT INTO damaged VALUES (?, ?, ?)", (damaged.line, damaged.column, damaged.text)
        )

    def damaged_ids(self) -> list[tuple[str, int, int, str]]:
        """By column: its name, how many are damaged, the first line, and what it has."""
        return self._db.execute(
            "SELECT column_name, count(*), min(line), shown FROM damaged"
            " GROUP BY column_name ORDER BY column_name"
        ).fetchall()

    # What the report is about.

    def period(self) -> tuple[datetime, datetime] | None:
        """From the first instant of a line to just after the last; None if none has an instant."""
        start_us, end_us = self._db.execute(
            "SELECT min(occurred_us), max(occurred_us + exact_us) FROM lines"
        ).fetchone()
        return None if start_us is None else (_instant(start_us), _instant(end_us))

    def currencies(self) -> list[str]:
        return [
            code
            for (code,) in self._db.execute(
                "SELECT DISTINCT currency FROM lines"
                " UNION SELECT DISTINCT currency FROM controls ORDER BY 1"
            )
        ]

    def line_sums(self) -> dict[str, tuple[int, int]]:
        """How many lines there are in each currency, and their net, straight from the rows."""
        rows = self._db.execute("SELECT currency, count(*), sum(net_minor) FROM lines GROUP BY 1")
        return {currency: (count, net) for currency, count, net in rows}

    def event_sums(self) -> dict[str, tuple[int, int]]:
        """The same of the events that are compared: those of the period, and those with a line."""
        sums: dict[str, tuple[int, int]] = {}
        marks = ", ".join("?" * len(EXPECTED_TYPES))
        for stored in self._events(
            f"WHERE first_line IS NOT NULL OR (in_period = 1 AND type IN ({marks}))", EXPECTED_TYPES
        ):
            count, net = sums.get(stored.event.currency, (0, 0))
            sums[stored.event.currency] = (count + 1, net + stored.event.net_minor)
        return sums

    # Events.

    def add_events(self, events: Iterable[BookEvent], *, in_period: bool) -> None:
        """Adds events; those that are there already stay as they are."""
        self._db.executemany(
            f"INSERT INTO events ({_EVENT}, in_period) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
            " ON CONFLICT DO NOTHING",
            (
                (
                    event.event_id,
                    event.type,
                    event.restaurant_id,
                    event.currency,
                    event.amount_minor,
                    event.fee_minor,
                    event.processor_fee_minor,
                    _microseconds(event.occurred_at),
                    event.reference,
                    int(in_period),
                )
                for event in events
            ),
        )

    def events_by_id(self, event_ids: Sequence[str]) -> dict[str, StoredEvent]:
        """The events with these ids, those that there are."""
        found: dict[str, StoredEvent] = {}
        for start in range(0, len(event_ids), IDS_MAX):
            part = event_ids[start : start + IDS_MAX]
            marks = ", ".join("?" * len(part))
            for stored in self._events(f"WHERE event_id IN ({marks})", part):
                found[stored.event.event_id] = stored
        return found

    def events_at(self, places: Sequence[int]) -> dict[int, BookEvent]:
        """The events at these places."""
        marks = ", ".join("?" * len(places))
        return {
            stored.id: stored.event for stored in self._events(f"WHERE id IN ({marks})", places)
        }

    def free_events_by_reference(self, references: Sequence[str]) -> list[StoredEvent]:
        """The events with one of these references that no line stands for."""
        if not references:
            return []
        marks = ", ".join("?" * len(references))
        return list(
            self._events(
                f"WHERE reference IN ({marks}) AND first_line IS NULL"
                " ORDER BY occurred_us, event_id",
                references,
            )
        )

    def events_missing_there(self) -> Iterator[StoredEvent]:
        """The events of the period that no line stands for."""
        marks = ", ".join("?" * len(EXPECTED_TYPES))
        return self._events(
            f"WHERE in_period = 1 AND first_line IS NULL AND type IN ({marks})"
            " ORDER BY occurred_us, event_id",
            EXPECTED_TYPES,
        )

    def fee_events(self, line: int) -> list[BookEvent]:
        """The events that are the fee of a line alone."""
        return [
            stored.event
            for stored in self._events(
                "WHERE id IN (SELECT event FROM fees WHERE line = ?) ORDER BY event_id", (line,)
            )
        ]

    def _events(self, condition: str, parameters: Sequence[object]) -> Iterator[StoredEvent]:
        rows = self._db.execute(
            f"SELECT {_STORED_EVENT} FROM events {condition}",  # noqa: S608
            parameters,
        )
        return map(_stored_event, rows)

    # Lines.

    def lines_with_events(self) -> Iterator[tuple[StoredLine, StoredEvent | None, bool]]:
        """All lines in their order, each with its event, and whether its fee has events."""
        rows = self._db.execute(
            f"""
            SELECT {_LINE}, {_STORED_EVENT},
                   EXISTS (SELECT 1 FROM fees WHERE fees.line = lines.id)
            FROM lines LEFT JOIN events ON events.id = lines.event
            ORDER BY lines.id
            """  # noqa: S608
        )
        event_place = len(_COLUMNS)
        for row in rows:
            event = None if row[event_place] is None else _stored_event(row[event_place:-1])
            yield _stored_line(row), event, bool(row[-1])

    def chunks(self, condition: str, size: int = IDS_MAX) -> Iterator[list[StoredLine]]:
        """The lines that a condition holds for, by parts; they may be changed in between."""
        last = 0
        while found := list(
            self._lines(f"WHERE ({condition}) AND id > ? ORDER BY id LIMIT {size}", (last,))
        ):
            yield found
            last = found[-1].id

    def count(self, condition: str) -> int:
        """How many lines a condition holds for."""
        found = self._db.execute(f"SELECT count(*) FROM lines WHERE {condition}")  # noqa: S608
        return int(found.fetchone()[0])

    def lines_of(self, event: int) -> list[StoredLine]:
        """The lines that stand for an event."""
        return list(self._lines("WHERE event = ? ORDER BY id", (event,)))

    def index_matches(self) -> None:
        """Makes `lines_of` fast. Call it when the lines have their events."""
        self._db.execute("CREATE INDEX lines_event ON lines (event) WHERE event IS NOT NULL")

    def _lines(self, condition: str, parameters: Sequence[object]) -> Iterator[StoredLine]:
        rows = self._db.execute(f"SELECT {_LINE} FROM lines {condition}", parameters)  # noqa: S608
        return map(_stored_line, rows)

    def control_ids(self) -> Iterator[list[str]]:
        """The candidates for the events of payouts, by parts."""
        rows = self._db.execute(
            "SELECT event_ids FROM controls WHERE kind = ? ORDER BY id", (Kind.PAYOUT.value,)
        )
        while part := rows.fetchmany(IDS_MAX):
            yield [event_id for (joined,) in part for event_id in _texts(joined)]

    def add_group_sums(self) -> None:
        """Adds up the groups of payouts and totals. Call it when all lines are there."""
        self._db.execute(
            """
            INSERT INTO group_sums
            SELECT payout_group, currency, sum(net_minor), max(control), max(closes_group)
            FROM (
                SELECT payout_group, currency, net_minor, NULL AS control, 0 AS closes_group
                FROM lines
                WHERE duplicate_of IS NULL
                  AND payout_group IN (SELECT payout_group FROM controls)
                UNION ALL
                SELECT payout_group, currency,
                       CASE kind WHEN 'total' THEN -net_minor ELSE net_minor END, id, closes_group
                FROM controls
            )
            GROUP BY payout_group, currency
            """
        )

    def controls(self) -> Iterator[tuple[ReportLine, int | None]]:
        """The payouts and control sums in their order.

        The last one of a group that must come to zero has what the group comes to; others None.
        """
        rows = self._db.execute(
            f"""
            SELECT {_LINE}, group_sums.rest_minor
            FROM controls AS lines
            LEFT JOIN group_sums
              ON group_sums.last_control = lines.id AND group_sums.closes = 1
            ORDER BY lines.id
            """  # noqa: S608
        )
        for row in rows:
            yield _line_of(row[_READ]), row[-1]

    def assign(self, line: StoredLine, event: StoredEvent, matched_by: str) -> None:
        """Makes a line stand for an event."""
        self.assign_all([(line, event)], matched_by)

    def assign_all(self, pairs: Sequence[tuple[StoredLine, StoredEvent]], matched_by: str) -> None:
        """Makes each line stand for its event."""
        self._db.executemany(
            "UPDATE lines SET event = ?, matched_by = ? WHERE id = ?",
            [(event.id, matched_by, line.id) for line, event in pairs],
        )
        self._db.executemany(
            "UPDATE events SET first_line = coalesce(first_line, ?), line_count = line_count + 1"
            " WHERE id = ?",
            [(line.id, event.id) for line, event in pairs],
        )

    def assign_fee(self, line: StoredLine, event: StoredEvent) -> None:
        """Makes an event the fee of a line, unless it stands for something already."""
        cursor = self._db.execute(
            "UPDATE events SET first_line = ? WHERE id = ? AND first_line IS NULL",
            (line.id, event.id),
        )
        if cursor.rowcount:
            self._db.execute("INSERT INTO fees VALUES (?, ?)", (line.id, event.id))


def _values_of(line: ReportLine) -> tuple[object, ...]:
    return (
        line.row,
        line.word,
        line.kind.value,
        line.row_id,
        line.currency,
        line.gross_minor,
        line.cost_minor,
        line.net_minor,
        line.untied_minor,
        None if line.occurred_at is None else _microseconds(line.occurred_at),
        line.exact_to // _MICROSECOND,
        "\n".join(line.event_ids),
        "\n".join(line.fee_ids),
        line.owner_id,
        "\n".join(line.references),
        line.group,
        int(line.closes_group),
        line.note,
        line.content,
    )


def _line_of(row: Sequence[Any]) -> ReportLine:
    (
        report_row, word, kind, row_id, currency, gross, cost, net, untied, occurred_us, exact_us,
        event_ids, fee_ids, owner_id, references, group, closes_group, note, content,
    ) = row  # fmt: skip
    return ReportLine(
        row=report_row,
        word=word,
        kind=_KINDS[kind],
        row_id=row_id,
        currency=currency,
        gross_minor=gross,
        cost_minor=cost,
        net_minor=net,
        untied_minor=untied,
        occurred_at=None if occurred_us is None else _instant(occurred_us),
        exact_to=exact_us * _MICROSECOND,
        event_ids=_texts(event_ids),
        fee_ids=_texts(fee_ids),
        owner_id=owner_id,
        references=_texts(references),
        group=group,
        closes_group=bool(closes_group),
        note=note,
        content=content,
    )


def _stored_line(row: Sequence[Any]) -> StoredLine:
    return StoredLine(
        row[0], _line_of(row[_READ]), row[_DUPLICATE_OF], row[_EVENT_PLACE], row[_MATCHED_BY]
    )


def _stored_event(row: Sequence[Any]) -> StoredEvent:
    place, *fields, in_period, first_line, line_count = row
    return StoredEvent(place, _event_of(fields), bool(in_period), first_line, line_count)


def _event_of(row: Sequence[Any]) -> BookEvent:
    event_id, kind, restaurant_id, currency, amount, fee, processor_fee, occurred_us, reference = (
        row
    )
    return BookEvent(
        event_id=event_id,
        type=kind,
        restaurant_id=restaurant_id,
        currency=currency,
        amount_minor=amount,
        fee_minor=fee,
        processor_fee_minor=processor_fee,
        occurred_at=_instant(occurred_us),
        reference=reference,
    )


def _texts(joined: str) -> tuple[str, ...]:
    return tuple(joined.split("\n")) if joined else ()


def _microseconds(instant: datetime) -> int:
    return (instant - _UNIX_EPOCH) // _MICROSECOND


def _instant(microseconds: int) -> datetime:
    return _UNIX_EPOCH + microseconds * _MICROSECOND
