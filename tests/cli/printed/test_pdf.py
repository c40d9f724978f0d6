"""`ledger statement --pdf`: the same as a PDF."""

import re
import sys
import zlib
from pathlib import Path

import fpdf
import pytest
from support.commands import run_command, start_process
from support.events import event_message, unique
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.cli.printed import pdf
from ledger.v1 import ledger_pb2


async def pdf_of(*arguments: str) -> tuple[int, bytes, str]:
    """The exit status of `ledger statement --pdf`, what it wrote, and its errors."""
    process = await start_process("statement", *arguments, "--pdf")
    stdout, stderr = await process.communicate()
    return process.returncode or 0, stdout, stderr.decode()


def texts_of(document: bytes) -> str:
    """The texts that the pages of a PDF show, one below the other."""
    streams = re.findall(rb"stream\n(.*?)\nendstream", document, re.DOTALL)
    shown = []
    for stream in streams:
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        shown += [
            text.decode("latin-1").replace("\\", "")
            for text in re.findall(rb"\((.*?)\) Tj", content)
        ]
    return "\n".join(shown)


async def test_pdf_shows_what_the_page_shows(shared_ledger: RunningLedger) -> None:
    """Title, entries, balances and the sums of each kind."""
    restaurant_id = unique("res")
    charge = event_message(restaurant_id=restaurant_id, amount_minor=10_000, fee_minor=250)
    await shared_ledger.ingest(charge)
    await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id, name="Café Ñandú")
    )
    status, document, errors = await pdf_of(
        restaurant_id, "PEN", "--address", shared_ledger.address
    )
    assert (status, errors) == (0, "")
    assert document.startswith(b"%PDF-")
    assert document.rstrip().endswith(b"%%EOF")
    shown = texts_of(document).splitlines()
    assert shown[0] == "Statement of Café Ñandú"
    for text in ("100.00", "-2.50", "97.50", "Platform fee", "Together"):
        assert text in shown, text


async def test_missing_characters_are_said(shared_ledger: RunningLedger) -> None:
    """The font of every reader lacks them; nothing is written."""
    restaurant_id = unique("res")
    await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id, name="Žižkov")
    )
    arguments = (restaurant_id, "PEN", "--address", shared_ledger.address)
    status, document, errors = await pdf_of(*arguments)
    assert (status, document) == (ExitStatus.REFUSED, b"")
    assert errors == (
        "error: the font of the PDF lacks Ž ž: name a font that has them with --font, or use"
        " --html\n"
    )


async def test_file_that_is_no_font_is_refused(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    """One that is not there, and one that is something else."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    other = tmp_path / "other.ttf"
    other.write_text("no font")
    for font in (tmp_path / "missing.ttf", other):
        status, document, errors = await pdf_of(
            restaurant_id, "PEN", "--font", str(font), "--address", shared_ledger.address
        )
        assert (status, document) == (ExitStatus.USAGE, b"")
        assert f"--font {font} is no font that a PDF can have" in errors


async def test_too_many_entries_are_refused(
    shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PDF is made in memory."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(*(event_message(restaurant_id=restaurant_id) for _ in range(3)))
    monkeypatch.setattr(pdf, "LINES_MAX", 2)
    outcome = await run_command(
        "statement", restaurant_id, "PEN", "--pdf", "--address", shared_ledger.address
    )
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert "a PDF has room for 2 entries: choose a shorter period, or --html" in outcome.stderr


async def test_missing_package_is_named(
    shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the extra is not installed."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    monkeypatch.setitem(sys.modules, fpdf.__name__, None)
    outcome = await run_command(
        "statement", restaurant_id, "PEN", "--pdf", "--address", shared_ledger.address
    )
    assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")
    assert "--pdf needs the package fpdf2" in outcome.stderr
