"""The progress bar, on an output that is no terminal."""

import pytest

from ledger.cli.ingest.bar import ingest_bar


@pytest.mark.parametrize("total_bytes", [100, None])
def test_lines_are_written_as_they_are(
    total_bytes: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Above the bar, and without markup: brackets are part of the line."""
    with ingest_bar(total_bytes) as bar:
        bar.show(50, 3, "10 events/s")
        bar.write("events.jsonl:3: evt_1: [red]refused[/red]")
        bar.show(100, 7, "12 events/s")
    written = "".join(capsys.readouterr())
    assert "events.jsonl:3: evt_1: [red]refused[/red]\n" in written
