"""`ledger report journal`."""

import json
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from support.books_reports import journal_file, report_rows, report_text
from support.commands import run_command
from support.events import event_message
from support.histories import Place, WrittenEntry, balances_before, utc
from support.plain_text import (
    HLEDGER,
    AccountAndCurrency,
    beancount_balances,
    beancount_errors,
    beancount_transactions,
    hledger_balances,
    id_of,
    run_hledger,
)
from support.running import RunningLedger

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.domain.money import format_minor
from ledger.infrastructure.postgres.verification import journal as journal_of_books

LIMA = ZoneInfo("America/Lima")
# Periods with the instant at which they end: all, each month, and dates.
PERIODS = (
    ((), utc(2026, 6, 1)),
    (("--month", "2025-09"), utc(2025, 10, 1, 5)),
    (("--month", "2025-10"), utc(2025, 11, 1, 5)),
    (("--since", "2025-10-20", "--before", "2025-11-07"), utc(2025, 11, 7, 5)),
    (("--before", "2025-09-20"), utc(2025, 9, 20, 5)),
)
HOSTILE = (
    'a, event-id:x "q" \\ ; [2020-01-01]',
    "date:2020-01-01, transaction-id:y",
    " odd ~ reference ",
    "%2C %",
    "2020-01-01 open Assets:X",
    "\\",
    '"',
    "*/ #tag ^link",
)


def by_place(balances: Counter[AccountAndCurrency]) -> Counter[Place]:
    """Balances of plain-text accounting by what they are of; 0 is left out, as programs do."""
    found: Counter[Place] = Counter()
    for (name, currency), minor in balances.items():
        account = name.split(":")
        holder: tuple[str | None, str | None] = (None, None)
        if account[1] == "Restaurants":
            holder = (id_of(account[2]), None)
        elif account[1] == "Accounts":
            holder = (None, id_of(account[2]))
        found[(*holder, currency, account[-1].replace("-", "_").lower())] += minor
    return Counter({place: minor for place, minor in found.items() if minor})


def expected(written: list[WrittenEntry], end_at: Any) -> Counter[Place]:
    sums = balances_before(written, end_at)
    return Counter({place: minor for place, minor in sums.items() if minor})


async def test_beancount_agrees_with_every_balance(
    written: list[WrittenEntry], tmp_path: Path
) -> None:
    """To the last minor unit, in currencies of all exponents, also where a period is cut out."""
    for arguments, end_at in PERIODS:
        path = await journal_file(tmp_path, "beancount", *arguments)
        assert by_place(beancount_balances(path)) == expected(written, end_at), arguments


@pytest.mark.skipif(HLEDGER is None, reason="hledger is not installed")
async def test_hledger_agrees_with_every_balance(
    written: list[WrittenEntry], tmp_path: Path
) -> None:
    """As Beancount does, after hledger's strict checks."""
    for arguments, end_at in PERIODS:
        path = await journal_file(tmp_path, "hledger", *arguments)
        assert by_place(hledger_balances(path)) == expected(written, end_at), arguments


async def test_each_transaction_id_is_a_transaction(
    written: list[WrittenEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the ids of its event, payout and payment, also if it is on two pages of the reading."""
    monkeypatch.setattr(journal_of_books, "PAGE_ROWS", 2)
    path = await journal_file(tmp_path, "beancount", "--month", "2025-10")
    transactions = beancount_transactions(path)
    assert {
        each.date.isoformat() for each in transactions if each.narration == "opening balances"
    } == {"2025-09-30"}
    found = {
        each.meta["transaction-id"]: each
        for each in transactions
        if each.narration != "opening balances"
    }
    by_id: dict[str, list[WrittenEntry]] = {}
    for entry in written:
        if utc(2025, 10, 1, 5) <= entry.recorded_at < utc(2025, 11, 1, 5):
            by_id.setdefault(str(entry.transaction_id), []).append(entry)
    assert set(found) == set(by_id)
    assert len(found) + len(openings(transactions)) == len(transactions)
    for transaction_id, entries in by_id.items():
        transaction = found[transaction_id]
        assert transaction.date == entries[0].recorded_at.astimezone(LIMA).date()
        for name in ("event_id", "payout_id", "payment_id"):
            values = [str(getattr(entry, name)) for entry in entries if getattr(entry, name)]
            assert transaction.meta.get(name.replace("_", "-")) == (values[0] if values else None)
        # Beancount puts the postings of one currency together.
        amounts = Counter(str(posting.units) for posting in transaction.postings)
        assert amounts == Counter(
            f"{sign}{format_minor(entry.amount_minor, entry.currency)} {entry.currency}"
            for entry in entries
            for sign in ("", "-")
        )


def openings(transactions: list[Any]) -> list[Any]:
    return [each for each in transactions if each.narration == "opening balances"]


async def test_file_proves_itself_to_the_minor_unit(
    written: list[WrittenEntry], tmp_path: Path
) -> None:
    """A changed amount is noticed by its transaction, a lost entry by the closing balances."""
    path = await journal_file(tmp_path, "beancount")
    text = path.read_text(encoding="utf-8")
    ones = [entry for entry in written if entry.amount_minor == 1 and entry.currency == "PEN"]
    times = Counter(entry.transaction_id for entry in ones)
    smallest = next(entry for entry in ones if times[entry.transaction_id] == 1)
    block = next(
        part
        for part in text.split("\n\n")
        if f'transaction-id: "{smallest.transaction_id}"' in part
    )
    changed = tmp_path / "changed.beancount"
    amount = format_minor(-1, smallest.currency)
    changed.write_text(text.replace(block, block.replace(f" {amount} ", " -0.02 ", 1)))
    assert any("does not balance" in error for error in beancount_errors(changed))
    # Only the postings of one minor unit: the rest of the transaction stays.
    lines = [line for line in block.splitlines() if not re.search(r" -?0\.01 PEN ", line)]
    changed.write_text(text.replace(block, "\n".join(lines)))
    errors = beancount_errors(changed)
    assert errors
    assert all(error.startswith("Balance failed") for error in errors)


async def test_data_formats_hold_every_entry(
    written: list[WrittenEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they were recorded: CSV, JSON lines, Parquet and the table."""
    import pyarrow.parquet

    monkeypatch.setattr(journal_of_books, "PAGE_ROWS", 7)
    month = ("--month", "2025-11")
    rows = await report_rows("journal", *month)
    in_month = sorted(
        (entry for entry in written if entry.recorded_at >= utc(2025, 11, 1, 5)),
        key=lambda entry: (entry.recorded_at, entry.transaction_id, entry.position),
    )
    assert [
        (
            row["date"],
            row["transaction_id"],
            row["restaurant_id"] or row["account_id"] or None,
            row["currency"],
            row["type"],
            row["debit_account"],
            row["credit_account"],
            row["amount_minor"],
            row["amount"],
            row["event_id"] or row["payment_id"],
        )
        for row in rows
    ] == [
        (
            entry.recorded_at.astimezone(LIMA).date().isoformat(),
            str(entry.transaction_id),
            entry.restaurant_id or entry.account_id,
            entry.currency,
            entry.rule.entry_type.value.lower(),
            entry.rule.debit.value,
            entry.rule.credit.value,
            str(entry.amount_minor),
            format_minor(entry.amount_minor, entry.currency),
            entry.event_id or entry.payment_id or "",
        )
        for entry in in_month
    ]
    objects = [
        json.loads(line) for line in (await report_text("journal", *month, "--json")).splitlines()
    ]
    assert [
        {name: "" if value is None else str(value) for name, value in each.items()}
        for each in objects
    ] == rows
    path = tmp_path / "entries.parquet"
    await report_text("journal", *month, "--format", "parquet", "--output", str(path))
    entries: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    assert [(each["amount_minor"], each["amount"], each["recorded_at"]) for each in entries] == [
        (
            entry.amount_minor,
            Decimal(format_minor(entry.amount_minor, entry.currency)),
            entry.recorded_at,
        )
        for entry in in_month
    ]
    table = await report_text("journal", *month)
    assert table.endswith(f"\n{len(in_month)} entries\n")
    sums: Counter[str] = Counter()
    for entry in in_month:
        sums[entry.currency] += entry.amount_minor
    for currency, minor in sums.items():
        amount = format_minor(minor, currency)
        assert f"\ndebits {amount} {currency}, credits {amount} {currency}\n" in table


async def test_journal_of_one_holder_has_its_entries_only(
    written: list[WrittenEntry], tmp_path: Path
) -> None:
    """Its books close by themselves, so its file balances as well."""
    path = await journal_file(tmp_path, "beancount", "--account", "acc_1")
    sums = {
        place: minor
        for place, minor in expected(written, utc(2026, 6, 1)).items()
        if place[1] == "acc_1"
    }
    assert by_place(beancount_balances(path)) == sums
    rows = await report_rows("journal", "--account", "acc_1", "--currency", "PEN")
    assert {row["account_id"] for row in rows} == {"acc_1"}
    assert await report_rows("journal", "--account", "acc_1", "--currency", "JPY") == []
    of_platform = [
        entry for entry in written if entry.restaurant_id is None and entry.account_id is None
    ]
    rows = await report_rows("journal", "--platform")
    assert len(rows) == len(of_platform) > 0
    assert {(row["restaurant_id"], row["account_id"]) for row in rows} == {("", "")}


async def test_hostile_references_stay_what_they_are(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Beancount reads them as they are; to hledger each is one tag, its signs as in URLs."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    await ledger.ingest(
        *(
            event_message(event_id=f"evt:{number}", reference=reference)
            for number, reference in enumerate(HOSTILE)
        )
    )
    path = await journal_file(tmp_path, "beancount")
    found = {each.meta["event-id"]: each.meta["reference"] for each in beancount_transactions(path)}
    assert found == {f"evt:{number}": reference for number, reference in enumerate(HOSTILE)}
    if HLEDGER is None:
        return
    path = await journal_file(tmp_path, "hledger")
    transactions = json.loads(run_hledger(path, "print", "-O", "json"))
    tags = [dict(each["ttags"]) for each in transactions if each["ttags"]]
    names = {"transaction-id", "recorded-at", "event-id", "reference"}
    assert [set(each) for each in tags] == [names] * len(HOSTILE)
    assert {each["event-id"]: unescaped(each["reference"]) for each in tags} == found
    assert {each["tdate"] for each in transactions} == {
        each.date.isoformat() for each in beancount_transactions(tmp_path / "books.beancount")
    }


def unescaped(text: str) -> str:
    return re.sub("%([0-9A-F]{2})", lambda match: chr(int(match[1], 16)), text)


async def test_names_of_restaurants_are_shown(written: list[WrittenEntry], tmp_path: Path) -> None:
    """Beside the accounts, with every sign that a name may have."""
    path = await journal_file(tmp_path, "beancount", "--restaurant", "res:1")
    assert r'name: "Name of \"res:1\", 100 % \\ ; [2020-01-01] ñ"' in path.read_text("utf-8")
    path = await journal_file(tmp_path, "hledger", "--restaurant", "res:1")
    shown = "; name:Name of %22res:1%22%2C 100 %25 %5C %3B %5B2020-01-01%5D ñ\n"
    assert shown in path.read_text("utf-8")


async def test_two_formats_are_refused() -> None:
    """Status 2, before any query."""
    outcome = await run_command("report", "journal", "--format", "hledger", "--csv")
    assert outcome.status == ExitStatus.USAGE
    assert "exclude each other" in outcome.stderr


async def test_empty_books_are_a_file_without_transactions(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
    assert beancount_transactions(await journal_file(tmp_path, "beancount")) == []
    assert (await report_text("journal")).endswith("\nno entries\n")
