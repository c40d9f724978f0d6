"""`ledger report trial-balance`."""

import asyncio
import json
import os
import re
import sys
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.books_reports import report_rows, report_text
from support.commands import TIMEOUT_SECONDS, run_command
from support.dates import today
from support.folders import names_in
from support.histories import Place, WrittenEntry, balances_before, utc
from support.logins import login
from support.plain_text import minor_of

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.domain.chart_of_accounts import NORMAL_SIDE

# Each month with the instants between which it lies in the zone of the books.
MONTHS = {
    "2025-09": (utc(2025, 9, 1, 5), utc(2025, 10, 1, 5)),
    "2025-10": (utc(2025, 10, 1, 5), utc(2025, 11, 1, 5)),
    "2025-11": (utc(2025, 11, 1, 5), utc(2025, 12, 1, 5)),
}


def place_of(row: dict[str, str]) -> Place:
    holder = (row["restaurant_id"] or None, row["account_id"] or None)
    return (*holder, row["currency"], row["ledger_account"])


async def test_every_line_is_the_sum_of_its_entries(written: list[WrittenEntry]) -> None:
    """Of each month, holder, currency and ledger account; closing balances are the next opening."""
    for month, (start_at, end_at) in MONTHS.items():
        rows = await report_rows("trial-balance", "--month", month, "--by-holder")
        lines = {place_of(row): row for row in rows if row["ledger_account"] != "total"}
        opening, closing = balances_before(written, start_at), balances_before(written, end_at)
        assert set(lines) == set(closing)
        moved = [entry for entry in written if start_at <= entry.recorded_at < end_at]
        debits, credits_ = sides_of(moved)
        for place, row in lines.items():
            minors = [
                int(row[f"{name}_minor"]) for name in ("opening", "debits", "credits", "closing")
            ]
            assert minors == [opening[place], debits[place], credits_[place], closing[place]]
            for name in ("opening", "debits", "credits", "closing"):
                assert minor_of(row[name], row["currency"]) == int(row[f"{name}_minor"])
        totals = [row for row in rows if row["ledger_account"] == "total"]
        assert [row["currency"] for row in totals] == sorted({place[2] for place in closing})
        for row in totals:
            of_currency = [place for place in lines if place[2] == row["currency"]]
            assert row["opening_minor"] == row["closing_minor"] == "0"
            assert row["debits_minor"] == row["credits_minor"]
            assert int(row["debits_minor"]) == sum(debits[place] for place in of_currency)


def sides_of(entries: list[WrittenEntry]) -> tuple[Counter[Place], Counter[Place]]:
    """The debits and the credits of entries."""
    debits: Counter[Place] = Counter()
    credits_: Counter[Place] = Counter()
    for entry in entries:
        holder = (entry.restaurant_id, entry.account_id, entry.currency)
        debits[(*holder, entry.rule.debit.value)] += entry.amount_minor
        credits_[(*holder, entry.rule.credit.value)] += entry.amount_minor
    return debits, credits_


async def test_lines_of_holders_add_up_to_those_of_all_books(written: list[WrittenEntry]) -> None:
    """Without --by-holder there is a line for each ledger account and currency."""
    period = ("--since", "2025-09-15", "--before", "2025-11-02")
    sums: dict[tuple[str, str], Counter[str]] = {}
    for row in await report_rows("trial-balance", *period, "--by-holder"):
        of_line = sums.setdefault((row["currency"], row["ledger_account"]), Counter())
        of_line.update({name: int(row[name]) for name in row if name.endswith("_minor")})
    rows = await report_rows("trial-balance", *period)
    assert len(rows) == len(sums)
    for row in rows:
        found = sums[row["currency"], row["ledger_account"]]
        assert {name: int(row[name]) for name in row if name.endswith("_minor")} == found
    # In the order of the chart, each with its normal side.
    chart = [account.value for account in NORMAL_SIDE]
    names = [row["ledger_account"] for row in rows if row["currency"] == "PEN"]
    assert names == [*(name for name in chart if name in names), "total"]
    normal_sides = {account.value: side.value for account, side in NORMAL_SIDE.items()}
    assert {row["normal_side"] for row in rows if row["ledger_account"] == "total"} == {""}
    assert all(
        row["normal_side"] == normal_sides[row["ledger_account"]]
        for row in rows
        if row["ledger_account"] != "total"
    )


async def test_scope_is_one_holder_or_one_currency(written: list[WrittenEntry]) -> None:
    """A restaurant, an account, the platform, and each with a currency."""
    closing = balances_before(written, utc(2026, 1, 1))
    for option, place, id_ in (("--restaurant", 0, "res:1"), ("--account", 1, "acc-h1")):
        rows = await report_rows("trial-balance", f"{option}={id_}")
        assert {
            (row["currency"], row["ledger_account"]): int(row["closing_minor"])
            for row in rows
            if row["ledger_account"] != "total"
        } == {of[2:]: minor for of, minor in closing.items() if of[place] == id_}
    rows = await report_rows("trial-balance", "--restaurant=res:1", "--currency", "JPY")
    assert {row["currency"] for row in rows} <= {"JPY"}
    rows = await report_rows("trial-balance", "--platform")
    assert {
        (row["currency"], row["ledger_account"]): int(row["closing_minor"])
        for row in rows
        if row["ledger_account"] != "total"
    } == {of[2:]: minor for of, minor in closing.items() if of[:2] == (None, None)}
    assert await report_rows("trial-balance", "--platform", "--currency", "CHF") == []


async def test_formats_hold_the_same_lines(written: list[WrittenEntry], tmp_path: Path) -> None:
    """A table for people; JSON lines, with the totals; Parquet with typed columns, without them."""
    import pyarrow.parquet

    period = ("--month", "2025-10")
    rows = await report_rows("trial-balance", *period)
    table = await report_text("trial-balance", *period)
    assert table.startswith("all books, from 2025-10-01 to before 2025-11-01, America/Lima\n")
    for row in rows:
        names = ("opening", "debits", "credits", "closing")
        cells = " │ +".join(row[name] for name in names)
        assert re.search(f"{row['ledger_account']} .*│ +{cells} │ {row['currency']}", table), row
    objects = [
        json.loads(line)
        for line in (await report_text("trial-balance", *period, "--json")).splitlines()
    ]
    assert [
        {name: "" if value is None else value for name, value in each.items()} for each in objects
    ] == rows
    for more in ((), ("--by-holder",)):
        path = tmp_path / "lines.parquet"
        arguments = (*period, *more)
        await report_text("trial-balance", *arguments, "--format", "parquet", "--output", str(path))
        lines: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
        expected = await report_rows("trial-balance", *arguments)
        assert [{name: in_words(value) for name, value in line.items()} for line in lines] == [
            {name: without_zeros(value) for name, value in row.items()}
            for row in expected
            if row["ledger_account"] != "total"
        ]


def in_words(value: str | Decimal | None) -> str:
    return without_zeros(f"{value:f}") if isinstance(value, Decimal) else value or ""


def without_zeros(text: str) -> str:
    """An amount without the zeros at the end of its decimals."""
    if not re.fullmatch(r"-?[0-9]+\.[0-9]+", text):
        return text
    return text.rstrip("0").rstrip(".")


async def test_parquet_without_its_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line, before the database is opened; nothing is left behind."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "lines.parquet"
    outcome = await run_command(
        "report", "trial-balance", "--format", "parquet", "--output", str(path)
    )
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stderr == (
        "error: Parquet needs the extra `parquet`: pip install 'ledger-service[server,parquet]'\n"
    )
    assert names_in(tmp_path) == []


async def test_period_that_goes_on_is_reported(
    written: list[WrittenEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning on standard error if the end is named; by default it is now."""
    monkeypatch.setenv("LEDGER_SETTLEMENT_TIMEZONE", "UTC")
    outcome = await run_command("report", "trial-balance", "--month", f"{today():%Y-%m}")
    assert outcome.status == 0
    assert outcome.stderr.startswith("warning: the period has not ended: this is what it has at ")
    for ended in ((), ("--before", "2025-12-01")):
        outcome = await run_command("report", "trial-balance", *ended)
        assert (outcome.status, outcome.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--month", "2025-13"), "--month must be a month such as 2025-12"),
        (("--month", "9999-12"), "--month must be a month such as 2025-12"),
        (("--month", "2025-12", "--before", "2025-12-05"), "--month excludes --since and --before"),
        (("--since", "yesterday"), "--since must be a date such as 2025-12-01"),
        (("--restaurant", "a", "--account", "b"), "exclude each other"),
        (("--restaurant", "a", "--platform"), "exclude each other"),
        (("--currency", "pen"), "--currency must be an ISO 4217 code in upper case"),
        (("--csv", "--json"), "--format, --json and --csv exclude each other"),
        (("--format", "table", "--json"), "--format, --json and --csv exclude each other"),
        (("--format", "beancount"), "beancount"),
    ],
    ids=str,
)
async def test_wrong_command_lines_are_reported(arguments: tuple[str, ...], complaint: str) -> None:
    """Status 2 and the reason, before any query."""
    outcome = await run_command("report", "trial-balance", *arguments)
    assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")
    assert complaint in outcome.stderr


async def test_wrong_periods_and_unknown_holders_are_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the clock of the books; status 2 for a period, 1 for a holder; no file appears."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
    for arguments, status, complaint in (
        (("--month", "9998-12"), ExitStatus.USAGE, "--month must not be in the future; today is"),
        (("--month", "1999-12"), ExitStatus.USAGE, "--month must not be before 2000-01-01"),
        (("--before", "1999-12-31"), ExitStatus.USAGE, "--before must not be before 2000-01-01"),
        (
            ("--since", "2025-12-01", "--before", "2025-12-01"),
            ExitStatus.USAGE,
            "--since must be earlier",
        ),
        (("--restaurant", "res_9"), ExitStatus.REFUSED, "restaurant res_9 is not registered"),
        (("--restaurant", ""), ExitStatus.REFUSED, "is not registered"),
        (("--account", "acc_9"), ExitStatus.REFUSED, "account acc_9 does not exist"),
    ):
        path = tmp_path / "lines.csv"
        outcome = await run_command(
            "report", "trial-balance", *arguments, "--csv", "--output", str(path)
        )
        assert (outcome.status, outcome.stdout) == (status, "")
        assert outcome.stderr.startswith("error: ")
        assert complaint in outcome.stderr
        assert names_in(tmp_path) == []


async def test_books_without_entries_have_no_lines(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A table says so; the other formats are empty."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
    assert (await report_text("trial-balance")).endswith("\nno entries\n")
    assert await report_text("trial-balance", "--json") == ""
    assert await report_rows("trial-balance", "--by-holder") == []


@pytest.mark.parametrize("role", ["ledger_read", "ledger_app"])
async def test_login_of_reports_is_enough(
    written: list[WrittenEntry],
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
) -> None:
    """A login that is a member of ledger_read alone may run it; so may that of a server."""
    expected = await report_rows("trial-balance", "--by-holder")
    async with login(database, "", f"GRANT {role} TO {{role}}") as (_, url):
        monkeypatch.setenv("LEDGER_DATABASE_URL", url)
        assert await report_rows("trial-balance", "--by-holder") == expected
        assert len(await report_rows("journal")) == len(written)


async def test_output_that_cannot_be_written_is_reported(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Status 1 and the reason; a file that was there stays."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
    outcome = await run_command(
        "report", "trial-balance", "--output", str(tmp_path / "missing" / "lines")
    )
    assert outcome.status == ExitStatus.REFUSED
    assert "cannot be written: No such file or directory" in outcome.stderr
    there = tmp_path / "there"
    there.mkdir()
    outcome = await run_command("report", "trial-balance", "--output", str(there))
    assert outcome.status == ExitStatus.REFUSED
    assert names_in(tmp_path) == ["there"]


@pytest.mark.parametrize("format_", ["csv", "parquet", "table"])
async def test_lost_output_is_no_fault_of_the_database(
    written: list[WrittenEntry], format_: str
) -> None:
    """A full disk is named, and a reader that has closed the pipe is not; status 1 for both."""
    arguments = ("report", "journal", "--format", format_)
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230, PTH123
        status, stderr = await run_into(full.fileno(), *arguments)
    assert status == ExitStatus.REFUSED
    assert stderr == "error: the output could not be written: No space left on device\n"
    reading, writing = os.pipe()
    os.close(reading)
    try:
        status, stderr = await run_into(writing, *arguments)
    finally:
        os.close(writing)
    assert (status, stderr) == (ExitStatus.REFUSED, "")


async def run_into(output: int, *arguments: str) -> tuple[int, str]:
    """Runs a command as a process that writes to `output`. Returns status and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ledger", *arguments),
        stdout=output,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    return process.returncode or 0, stderr.decode()
