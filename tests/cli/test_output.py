"""What commands print, on terminals, in pipes and in files for spreadsheets."""

import csv
import io
import json
import os
import pty
import struct
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl

import pytest
from support.commands import run_command
from support.events import event_message, unique
from support.running import RunningLedger

from ledger.cli.output import (
    CsvWriter,
    Table,
    facts,
    print_json,
    print_json_lines,
    print_line,
    print_table,
    text_width,
)

HOSTILE = '=HYPERLINK("http://x")'
BIDI = "abc\u202edef\u2066\x9b31m"
PAYOUT_IDS = [f"01a220ca-0000-7000-8000-00000000000{number}" for number in range(3)]


def on_terminal(columns: int, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    """What `work` prints on a terminal of that width."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    written: list[bytes] = []
    # A writer that fills the buffer of a terminal waits for its reader.
    reader = threading.Thread(target=_read_to_end, args=(leader, written))
    reader.start()
    with os.fdopen(follower, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        patch.setattr(sys, "__stdout__", terminal)
        work()
    reader.join()
    os.close(leader)
    return b"".join(written).decode().replace("\r\n", "\n")


def _read_to_end(leader: int, written: list[bytes]) -> None:
    # The end of a terminal is an error.
    with suppress(OSError):
        while chunk := os.read(leader, 4096):
            written.append(chunk)


def payouts() -> Table:
    titles = ("payout", "restaurant", "as of", "state", "currency", "amount", "created")
    table = Table(titles, right=frozenset(("amount",)), optional=("created", "as of"))
    for payout_id in PAYOUT_IDS:
        table.add(
            payout_id,
            "res_miraflores",
            "2026-01-31",
            "created",
            "PEN",
            "1234567890.25",
            "2026-02-01T08:00:00.123456Z",
        )
    return table


@pytest.mark.parametrize("columns", [200, 120, 100, 80, 60, 40, 20])
def test_ids_and_amounts_are_whole_at_any_width(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A narrow terminal gets fewer columns or blocks; no table is wider than the terminal."""
    shown = on_terminal(columns, lambda: print_table(payouts()), monkeypatch)
    for payout_id in PAYOUT_IDS:
        assert payout_id in shown
    assert shown.count("1234567890.25") == 3
    if "│" in shown:
        assert all(len(line) <= columns for line in shown.splitlines())
    assert ("│" in shown) == (columns >= 100)
    assert ("2026-02-01T08:00:00.123456Z" in shown) == (columns not in (120, 100))


@pytest.mark.parametrize(("columns", "lines"), [(80, 4), (20, 0)])
def test_table_without_rows_is_no_wider_than_the_terminal(
    columns: int, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has only titles, or is left out: the command prints the number of rows."""
    table = Table(("restaurant_id", "available_minor"))
    shown = on_terminal(columns, lambda: print_table(table), monkeypatch).splitlines()
    assert len(shown) == lines
    assert all(len(line) <= columns for line in shown)


def test_pipe_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a cell holds."""
    table = Table(("id", "text"))
    table.add("x" * 300, "y" * 300)
    print_table(table)
    assert f"│ {'x' * 300} │ {'y' * 300} │" in capsys.readouterr().out


def test_facts_on_a_narrow_terminal_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name and its whole value."""
    table = facts()
    table.add("payout", PAYOUT_IDS[0])
    table.add("to", "z")
    shown = on_terminal(30, lambda: print_table(table), monkeypatch)
    assert shown == f"payout  {PAYOUT_IDS[0]}\nto      z\n"


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 3),
        ("ñandú", 5),
        ("n\u0303", 1),
        ("寿司", 4),
        ("🍣", 2),
        ("❤\ufe0f", 1),
        ("ที่", 1),
        ("दि", 2),
        ("\u1112\u1161\u11ab", 2),
    ],
)
def test_columns_line_up_under_wide_characters(text: str, width: int) -> None:
    """As terminals show them."""
    assert text_width(text) == width


def test_no_output_controls_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither cells and titles, nor lines and JSON, whose value stays the same."""
    table = Table((BIDI, "x"), right=frozenset((BIDI,)))
    table.add(BIDI, "y\nz")
    print_table(table)
    print_line(BIDI)
    print_json({"a": BIDI})
    print_json_lines([BIDI])
    shown = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in shown)
    assert "abc\\u202edef\\u2066\\x9b31m" in shown
    assert json.loads(shown.splitlines()[-1]) == BIDI


FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "-res_1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1",
    "-",
    "--5",
    "-1.",
    "-1e5",
]
HARMLESS = ["-5", "-12.50", "12", "res_1", "a=b", "", "'x", "2026-01-31"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_cell_that_a_spreadsheet_would_run_is_quoted(cell: str) -> None:
    """With ' before it, and inside quotes where CSV needs them."""
    stream = io.StringIO(newline="")
    CsvWriter(stream, ("a",)).write({"a": cell})
    assert list(csv.reader(io.StringIO(stream.getvalue(), newline=""))) == [["a"], [f"'{cell}"]]


@pytest.mark.parametrize("cell", HARMLESS)
def test_other_cells_stay_as_they_are(cell: str) -> None:
    """Negative numbers among them."""
    stream = io.StringIO(newline="")
    CsvWriter(stream, ("a", "b")).write({"a": cell, "b": "x"})
    assert list(csv.reader(io.StringIO(stream.getvalue(), newline=""))) == [["a", "b"], [cell, "x"]]


def test_output_in_ascii_has_only_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables have other lines, JSON escapes, and CSV is UTF-8 everywhere."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace", newline="\n") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        table = Table(("name",))
        table.add("Café")
        print_table(table)
        print_json("Café")
        print_line("Café")
        stdout.flush()
        assert raw.getvalue().decode("ascii").splitlines() == [
            "+---------+",
            "| name    |",
            "+---------+",
            "| Caf\\xe9 |",
            "+---------+",
            '"Caf\\u00e9"',
            "Caf\\xe9",
        ]
        CsvWriter(stdout, ("name",)).write({"name": "Café"})
        stdout.flush()
        assert raw.getvalue().decode("utf-8").endswith("name\nCafé\n")


async def test_hostile_name_is_shown_and_exported_harmlessly(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a server: a formula in CSV, and characters that change the direction of writing."""
    address = ("--address", ledger.address)
    for restaurant_id, name in (("res_1", HOSTILE), ("res_2", "abc\u202edef")):
        assert (
            await run_command("restaurants", "put", restaurant_id, "--name", name, *address)
        ).status == 0
    await ledger.ingest(event_message(restaurant_id="-res"))
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    shown = await run_command("report", "q1", "PEN", "--csv")
    rows = {row["restaurant_id"]: row["name"] for row in csv.DictReader(io.StringIO(shown.stdout))}
    assert rows == {"'-res": "", "res_1": f"'{HOSTILE}", "res_2": "abc\u202edef"}
    listed = await run_command("restaurants", "list", *address)
    assert "\u202e" not in listed.stdout
    assert "abc\\u202edef" in listed.stdout


async def test_numbers_of_64_bits_are_strings_in_json(ledger: RunningLedger) -> None:
    """In every command: jq and node round numbers beyond 2^53."""
    restaurant_id = unique("res")
    await ledger.ingest(
        *(event_message(restaurant_id=restaurant_id, amount_minor=10**12) for _ in range(9))
    )
    address = ("--address", ledger.address)
    run = json.loads(
        (
            await run_command("payouts", "run", "PEN", "--as-of", "2026-01-31", "--json", *address)
        ).stdout
    )
    (payout,) = (await run_command("payouts", "list", "--json", *address)).stdout.splitlines()
    for command in (
        ("balance", restaurant_id, "PEN"),
        ("statement", restaurant_id, "PEN"),
        ("payouts", "show", json.loads(payout)["payout_id"]),
        ("payouts", "show", run["payout_run_id"]),
        ("payouts", "run", "PEN", "--as-of", "2026-01-31", "--dry-run"),
    ):
        outcome = await run_command(*command, "--json", *address)
        assert outcome.status == 0
        is_whole = outcome.stdout.startswith("{\n")
        documents = [outcome.stdout] if is_whole else outcome.stdout.splitlines()
        assert documents
        for document in documents:
            json.loads(document, parse_int=_refuse)


def _refuse(text: str) -> int:
    raise AssertionError(f"a number: {text}")
