"""Runs `ledger report trial-balance` and `journal`, and reads what they print."""

import csv
import io
from pathlib import Path

from support.commands import run_command


async def report_text(*arguments: str) -> str:
    """What a report prints, on the configured database."""
    outcome = await run_command("report", *arguments)
    assert outcome.status == 0, outcome.stderr
    return outcome.stdout


async def report_rows(*arguments: str) -> list[dict[str, str]]:
    """The rows that a report prints as CSV, without the ' before what looks like a formula."""
    text = await report_text(*arguments, "--csv")
    return [
        {name: cell[1:] if cell.startswith("'") else cell for name, cell in row.items()}
        for row in csv.DictReader(io.StringIO(text))
    ]


async def journal_file(folder: Path, notation: str, *arguments: str) -> Path:
    """A file of plain-text accounting."""
    path = folder / f"books.{notation}"
    await report_text("journal", "--format", notation, "--output", str(path), *arguments)
    return path
