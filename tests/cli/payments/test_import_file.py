"""`ledger payments import` against a server."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.commands import run_command, run_process
from support.events import unique
from support.paying import funded_account, funds, opened_account
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.client import Ledger, sync_ledger


def transfer(payer: str, payee: str, amount_minor: int, **fields: Any) -> dict[str, Any]:
    """A valid line's fields, with a new id unless one is given."""
    return {
        "payment_id": unique("pay"),
        "payer_account_id": payer,
        "payee_account_id": payee,
        "amount_minor": amount_minor,
        "currency": "PEN",
    } | fields


def write_file(path: Path, *lines: dict[str, Any] | str) -> str:
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )
    return str(path)


async def test_file_is_carried_out_once_however_often_it_is_sent(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    """In batches; the second time all lines are duplicates. An import that broke off resumes so."""
    payer, payee = await funded_account(shared_ledger, 10_000), await opened_account(shared_ledger)
    lines = [transfer(payer, payee, 100) for _ in range(25)]
    part = write_file(tmp_path / "part.jsonl", *lines[:12])
    whole = write_file(tmp_path / "whole.jsonl", *lines)
    address = ("--batch-size", "10", "--address", shared_ledger.address)
    outcome = await run_command("payments", "import", part, *address)
    assert (outcome.status, outcome.stderr) == (0, "")
    outcome = await run_command("payments", "import", whole, *address)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines() == [
        f"{whole}: 25 lines",
        "  captured    13",
        "  duplicates  12",
        "  declined    0",
        "  refused     0",
    ]
    outcome = await run_command("payments", "import", whole, *address, "--json")
    assert json.loads(outcome.stdout) == {
        "file": whole,
        "lines": "25",
        "captured": "0",
        "duplicates": "25",
        "declined": {},
        "declined_before": {},
        "refused": {},
        "unknown": "0",
    }
    assert await funds(shared_ledger, payee) == (2_500, 0)


async def test_declines_are_counted_by_reason(shared_ledger: RunningLedger, tmp_path: Path) -> None:
    """The status is 4, on a repeat too, where they are duplicates."""
    payer, payee = await funded_account(shared_ledger, 250), await opened_account(shared_ledger)
    foreign = await opened_account(shared_ledger, currency="USD")
    lines = [transfer(payer, payee, 100) for _ in range(4)] + [transfer(payer, foreign, 1)]
    file = write_file(tmp_path / "transfers.jsonl", *lines)
    command = ("payments", "import", file, "--address", shared_ledger.address)
    first = await run_command(*command)
    assert first.status == ExitStatus.DECLINED
    assert first.stdout.splitlines()[1:4] == [
        "  captured    2",
        "  duplicates  0",
        "  declined    3 (1 currency_mismatch, 2 insufficient_funds)",
    ]
    reasons = [
        "insufficient_funds: the account that would pay has too little, its overdraft included",
        "insufficient_funds: the account that would pay has too little, its overdraft included",
        "currency_mismatch: an account has another currency",
    ]
    assert first.stderr.splitlines() == [
        f"{file}:{number}: {line['payment_id']}: declined: {reason}"
        for number, line, reason in zip((3, 4, 5), lines[2:], reasons, strict=True)
    ]
    again = await run_command(*command)
    assert (again.status, again.stderr) == (first.status, first.stderr)
    assert (
        "  duplicates  5 (declined before: 1 currency_mismatch, 2 insufficient_funds)"
        in again.stdout
    )


async def test_refused_lines_are_reported_and_the_others_carried_out(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    """With line, id and reason, in the order of the file; the status is 1."""
    payer, payee = await funded_account(shared_ledger, 10_000), await opened_account(shared_ledger)
    first = transfer(payer, payee, 100)
    file = write_file(
        tmp_path / "transfers.jsonl",
        first,
        "{",
        "",
        first | {"amount_minor": 101},
        transfer(payer, "nobody", 100),
        transfer(payer, payee, 0),
        transfer(payer, payee, 20_000),
        transfer(payer, payee, 100),
    )
    command = ("payments", "import", file, "--address", shared_ledger.address)
    outcome = await run_command(*command)
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stdout.splitlines()[1:] == [
        "  captured    2",
        "  duplicates  0",
        "  declined    1 (1 insufficient_funds)",
        "  refused     4 (1 ACCOUNT_NOT_FOUND, 1 INVALID_LINE, 1 INVALID_REQUEST,"
        " 1 PAYMENT_ID_REUSED)",
    ]
    assert [line.removeprefix(f"{file}:")[:2] for line in outcome.stderr.splitlines()] == [
        "2:",
        "4:",
        "5:",
        "6:",
        "7:",
    ]
    assert "INVALID_REQUEST amount_minor must be" in outcome.stderr
    assert await funds(shared_ledger, payee) == (200, 0)
    outcome = await run_command(*command, "--errors", "1")
    assert outcome.stderr.splitlines()[1:] == [
        "4 more declined or refused lines; --errors all shows them"
    ]


async def test_csv_of_standard_input_is_read(shared_ledger: RunningLedger) -> None:
    """By a header."""
    payer, payee = await funded_account(shared_ledger, 10_000), await opened_account(shared_ledger)
    header = "payment_id,payer_account_id,payee_account_id,amount_minor,currency,metadata.day\n"
    rows = "".join(f"{unique('pay')},{payer},{payee},{100 + n},PEN,monday\n" for n in range(3))
    outcome = await run_process(
        *("payments", "import", "-", "--address", shared_ledger.address),
        stdin=f"{header}{rows}".encode(),
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines()[:2] == ["<stdin>: 3 lines", "  captured    3"]
    assert await funds(shared_ledger, payee) == (303, 0)


@pytest.mark.parametrize("text", [None, "nothing\n"])
async def test_unreadable_file_is_a_usage_error(tmp_path: Path, text: str | None) -> None:
    """A missing one, and one of another format; no call is made."""
    file = tmp_path / "transfers.csv"
    if text is not None:
        file.write_text(text)
    outcome = await run_command("payments", "import", str(file), "--address", "127.0.0.1:1")
    assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")
    assert "the same command again resumes" not in outcome.stderr


async def test_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    """It carries out nothing; no call is made."""
    file = write_file(tmp_path / "transfers.csv")
    outcome = await run_command("payments", "import", file, "--address", "127.0.0.1:1")
    assert (outcome.status, outcome.stderr) == (0, "")
    first = outcome.stdout.splitlines()[0]
    assert first == f"{file}: no lines: the file is empty, or has a header only"


async def test_absent_server_is_reported_with_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with how to go on."""
    monkeypatch.setattr(sync_ledger, "ATTEMPTS_MAX", 1)
    file = write_file(tmp_path / "transfers.jsonl", transfer("a", "b", 1))
    outcome = await run_command("payments", "import", file, "--address", "127.0.0.1:1")
    assert (outcome.status, outcome.stdout) == (ExitStatus.UNREACHABLE, "")
    assert outcome.stderr.splitlines()[-1].startswith("  no lines are known to be decided;")


async def test_interruption_shows_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how to go on."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "batch_transfers", interrupt)
    file = write_file(tmp_path / "transfers.jsonl", transfer("a", "b", 1))
    outcome = await run_command("payments", "import", file)
    assert outcome.status == ExitStatus.INTERRUPTED
    assert outcome.stderr.splitlines()[0] == "error: interrupted"
    assert outcome.stderr.splitlines()[1].startswith("  no lines are known to be decided;")
