"""Rows: each measure beside its limit, as a table and as JSON."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from scripts.bench.measured import Measured

RESULTS_DIR = Path(__file__).resolve().parents[2] / ".bench"
WIDTH_MIN = 165


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, its limit and its costs.

    CPU is in seconds per thousand of what `value` counts, by server, database and load generator;
    resident memory of the server in MiB. `wanted` is the ratio to reach. The first row has the
    `facts` about the machine.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    ratio: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    wanted: str | None = None
    cpu_server_s: float | None = None
    cpu_database_s: float | None = None
    cpu_load_s: float | None = None
    limit_cpu_server_s: float | None = None
    limit_cpu_load_s: float | None = None
    resident_before_mib: float | None = None
    resident_after_mib: float | None = None
    note: str | None = None
    facts: Mapping[str, str] | None = None


def percentile_ms(latencies: Sequence[float], percent: int) -> float | None:
    """A percentile of latencies, which are in seconds; None when there are too few."""
    return (
        round(statistics.quantiles(latencies, n=100)[percent - 1] * 1000, 3)
        if len(latencies) > 1
        else None
    )


def row(
    name: str,
    value: float,
    unit: str,
    limit: float | None = None,
    latencies: Sequence[float] = (),
    *,
    wanted: str | None = None,
    note: str | None = None,
) -> Row:
    """A row with its ratio and percentiles; `latencies` in seconds."""
    digits = 3 if unit == "ms" else 1
    return Row(
        name,
        round(value, digits),
        unit,
        None if limit is None else round(limit, digits),
        round(value / limit, 3) if limit else None,
        percentile_ms(latencies, 50),
        percentile_ms(latencies, 99),
        wanted=wanted,
        note=note,
    )


def with_costs(figure: Row, measured: Measured, limit: Measured | None = None) -> Row:
    """The row with the costs of its load and of its limit."""
    return replace(
        figure,
        cpu_server_s=measured.cpu_per_thousand("server"),
        cpu_database_s=measured.cpu_per_thousand("database"),
        cpu_load_s=measured.cpu_per_thousand("load"),
        limit_cpu_server_s=None if limit is None else limit.cpu_per_thousand("server"),
        limit_cpu_load_s=None if limit is None else limit.cpu_per_thousand("load"),
        resident_before_mib=measured.resident_before_mib,
        resident_after_mib=measured.resident_after_mib,
    )


def load_row(
    name: str,
    measured: Measured,
    unit: str,
    limit: Measured,
    *,
    wanted: str | None = None,
    note: str | None = None,
) -> Row:
    """A row of a rate: how many a second, and the costs."""
    return with_costs(
        row(name, measured.rate, unit, limit.rate, measured.latencies, wanted=wanted, note=note),
        measured,
        limit,
    )


def p50_row(
    name: str,
    measured: Measured,
    limit_ms: float,
    *,
    wanted: str | None = None,
    note: str | None = None,
) -> Row:
    """A row of a latency: the median, and the costs."""
    return with_costs(
        row(name, measured.p50_ms, "ms", limit_ms, measured.latencies, wanted=wanted, note=note),
        measured,
    )


def write(name: str, content: object, folder: Path = RESULTS_DIR) -> Path:
    """Writes a result file; returns its path."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def write_rows(rows: Sequence[Row]) -> Path:
    """Writes the rows as JSON; returns the path."""
    return write("latest.json", [asdict(figure) for figure in rows])


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def show(rows: Sequence[Row]) -> None:
    """Prints the machine, the table, and the notes below it."""
    console = Console(highlight=False)
    console.width = max(console.width, WIDTH_MIN)
    for figure in rows:
        for name, fact in (figure.facts or {}).items():
            console.print(f"{name}: {fact}", markup=False)
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column("measure", no_wrap=True)
    for heading in (
        "value",
        "unit",
        "limit",
        "ratio",
        "wanted",
        "p50 ms",
        "p99 ms",
        "server",
        "of limit",
        "db",
        "load",
        "MiB",
    ):
        table.add_column(
            heading, justify="left" if heading in ("unit", "wanted") else "right", no_wrap=True
        )
    for figure in rows:
        if figure.facts is not None:
            continue
        latencies = figure.p50_ms, figure.p99_ms
        cpu = (
            figure.cpu_server_s,
            figure.limit_cpu_server_s,
            figure.cpu_database_s,
            figure.cpu_load_s,
        )
        memory = figure.resident_before_mib, figure.resident_after_mib
        resident = " > ".join(f"{each:.0f}" for each in memory if each is not None)
        table.add_row(
            figure.name,
            f"{figure.value:,}",
            figure.unit,
            _cell(figure.limit),
            _cell(figure.ratio),
            figure.wanted or "",
            *map(_cell, (*latencies, *cpu)),
            resident,
        )
    console.print()
    console.print(table)
    console.print(
        "server, of limit, db, load: CPU seconds per 1,000 calls or events of the server, of the "
        "server measured for the limit, of the database, of the load generator. "
        "MiB: resident memory of the server before > after."
    )
    for figure in rows:
        if figure.note is not None:
            console.print(f"{figure.name}: {figure.note}", markup=False)
