"""The progress bar of `ledger ingest` on a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class IngestBar:
    """Shows how much of a file is booked, and how fast."""

    def __init__(self, progress: Progress, total_bytes: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("ingest", total=total_bytes, booked=0, pace="")

    def show(self, bytes_read: int, booked: int, pace: str) -> None:
        """Updates the bar."""
        self._progress.update(self._task, completed=bytes_read, booked=booked, pace=pace)

    def write(self, line: str) -> None:
        """Writes a line above the bar."""
        self._progress.console.print(
            line, markup=False, highlight=False, emoji=False, soft_wrap=True
        )


@contextmanager
def ingest_bar(total_bytes: int | None) -> Iterator[IngestBar]:
    """Shows the bar while the block runs. Without `total_bytes` it shows no share."""
    columns = (
        BarColumn(),
        TextColumn("{task.fields[booked]} booked"),
        TextColumn("{task.fields[pace]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield IngestBar(progress, total_bytes)
