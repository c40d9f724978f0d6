"""`ledger report`, each test on a separate database."""

import csv
import io
import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
from support.commands import run_command, run_process
from support.dates import days_ago
from support.events import event_message
from support.paying import open_account, order
from support.payout_runs import answer, finished_run
from support.running import RunningLedger, execute_alone

from ledger.cli.debts import one_row_an_age
from ledger.cli.failures import ExitStatus
from ledger.infrastructure.postgres.verification.reports import Report
from ledger.v1 import ledger_pb2, payment_pb2


async def rows_of(*arguments: str) -> list[dict[str, str]]:
    """What a report prints as CSV."""
    outcome = await run_command("report", *arguments, "--csv")
    # The server of this process may still log there.
    assert outcome.status == 0, outcome.stderr
    assert not re.search("^(error|warning): ", outcome.stderr, re.MULTILINE)
    return list(csv.DictReader(io.StringIO(outcome.stdout)))


async def test_every_report_is_printed(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a table for people and as CSV for programs, with the figures of the books."""
    await ledger.ingest(
        event_message(restaurant_id="res_a", amount_minor=5_000, fee_minor=20),
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_red", amount_minor=7
        ),
    )
    await finished_run(ledger, as_of=days_ago(1))
    await answer(
        ledger, "res_a", ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
    )
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    q1 = await rows_of("q1", "PEN")
    assert [
        (row["restaurant_id"], row["available_minor"], row["reserved_minor"]) for row in q1
    ] == [
        ("res_a", "4980", "0"),
        ("res_red", "-7", "0"),
    ]
    q2 = await rows_of("q2", "--until", "2025-12-01T10:00:00.000001Z")
    assert [
        (row["restaurant_id"], row["rank"], row["net_minor"], row["share_percent"]) for row in q2
    ] == [
        ("res_a", "1", "4980", "100.14"),
        ("res_red", "2", "-7", "-0.14"),
    ]
    q3 = await rows_of("q3", "PEN", "--as-of", str(days_ago(1)), "--min-amount-minor", "4981")
    assert [
        (row["restaurant_id"], row["outcome"], row["skip_reason"], row["payable_minor"])
        for row in q3
    ] == [
        ("res_a", "skipped", "below_minimum", "4980"),
        ("res_red", "skipped", "nothing_available", "-7"),
    ]
    assert [row["pays_minor"] for row in await rows_of("q3", "PEN")] == ["4980", "0"]
    assert [row["entity"] for row in await rows_of("q4")] == ["account res_red/PEN"]
    history = await rows_of("payouts", "res_a")
    assert [(row["state"], row["item_charge_minor"], row["item_fee_minor"]) for row in history] == [
        ("returned", "5000", "-20")
    ]
    assert history[0]["paid_at"] == "2025-12-01T10:00:00Z"
    outcome = await run_command("report", "q1", "PEN")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "res_red" in outcome.stdout
    assert outcome.stdout.endswith("\n2 rows\n")
    outcome = await run_command("report", "payouts", "res_red")
    assert outcome.stdout == "no rows\n"
    outcome = await run_command("report", "payouts", "res_9")
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert outcome.stderr == "error: restaurant res_9 is not registered\n"


async def test_accounts_are_reported(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each account in the currency has, in byte order; an unlimited overdraft is empty."""
    await open_account(ledger, "acc_bank", limit_minor=None)
    await open_account(ledger, "acc_a", limit_minor=50)
    await open_account(ledger, "acc_usd", currency="USD")
    await ledger.payments.AuthorizePayment(order("pay_1", "acc_bank", "acc_a", 2_000_000))
    await ledger.payments.AuthorizePayment(
        order("pay_2", "acc_a", "acc_bank", 300, capture=payment_pb2.CAPTURE_MODE_MANUAL)
    )
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    columns = ("account_id", "state", "available_minor", "held_minor", "overdraft_limit_minor")
    assert [tuple(row[name] for name in columns) for row in await rows_of("accounts", "PEN")] == [
        ("acc_a", "open", "1999700", "300", "50"),
        ("acc_bank", "open", "-2000000", "0", ""),
    ]
    table = await run_command("report", "accounts", "PEN")
    assert (table.status, table.stderr) == (0, "")
    assert re.search(r"acc_a .* open .* 1999700 .* 300 .* 50 ", table.stdout)
    assert table.stdout.endswith("\n2 rows\n")
    lines = (await run_command("report", "accounts", "PEN", "--json")).stdout.splitlines()
    assert [json.loads(line)["overdraft_limit_minor"] for line in lines] == ["50", None]
    # A restaurant that an account pays has its own reports.
    await ledger.payments.AuthorizePayment(
        order("pay_3", "acc_a", "", 700, fee_minor=70, payee_restaurant_id="res_a")
    )
    assert [(row["restaurant_id"], row["pending_minor"]) for row in await rows_of("q1", "PEN")] == [
        ("res_a", "630")
    ]
    assert [row["restaurant_id"] for row in await rows_of("q3", "PEN")] == ["res_a"]
    (revenue,) = await rows_of("q2")
    assert [revenue[name] for name in ("charges_count", "charged_minor", "net_minor")] == [
        "1",
        "700",
        "630",
    ]
    assert await rows_of("q4") == []


async def test_debts_are_reported(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each restaurant in the red, and all of them by age."""
    refund = event_message(
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_red", amount_minor=700
    )
    await ledger.ingest(event_message(restaurant_id="res_red", amount_minor=500), refund)
    await ledger.ingest(event_message(restaurant_id="res_good"))
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    (row,) = await rows_of("red", "PEN")
    assert (row["restaurant_id"], row["available_minor"], row["days_count"]) == (
        "res_red",
        "-200",
        "0",
    )
    assert (row["entry_type"], row["taken_minor"], row["cause_id"]) == (
        "refund",
        "700",
        refund.event_id,
    )
    ages = [tuple(row.values()) for row in await rows_of("red", "PEN", "--by-age")]
    assert ages == [
        ("0 to 7 days", "1", "-200", "0"),
        ("8 to 30 days", "0", "0", "0"),
        ("31 to 90 days", "0", "0", "0"),
        ("over 90 days", "0", "0", "0"),
    ]
    assert await rows_of("red", "USD") == []
    for arguments in (("red", "PEN"), ("red", "PEN", "--by-age")):
        shown = (await run_command("report", *arguments)).stdout
        assert "available PEN" in shown
        assert " -2.00 " in shown


@pytest.mark.parametrize(
    ("days", "age"),
    [
        (0, "0 to 7 days"),
        (7, "0 to 7 days"),
        (8, "8 to 30 days"),
        (30, "8 to 30 days"),
        (31, "31 to 90 days"),
        (90, "31 to 90 days"),
        (91, "over 90 days"),
    ],
)
def test_ages_of_debts(days: int, age: str) -> None:
    """A debt is counted in the age of its whole days; sums may exceed 64 bits."""
    debt = Decimal(-(2**63))
    found = one_row_an_age(
        Report(
            ("days_count", "available_minor", "pending_minor"),
            ((days, debt, 1), (days, debt, 2)),
            True,
        )
    )
    assert [row for row in found.rows if row[1]] == [(age, 2, -(2**64), 3)]


async def test_calls_are_reported(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who called, by the id that the call named."""
    await execute_alone(
        ledger.database.migration_url,
        "INSERT INTO audit_log (audit_id, identity, credential, method, request_id, peer, what,"
        " outcome) VALUES (gen_random_uuid(), 'ana', 'token',"
        " '/ledger.v1.LedgerService/RunPayouts',"
        """ 'r1', 'ipv4:127.0.0.1', '{"payout_run_id"\\: "run_1"}', 'OK')""",
    )
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    (row,) = await rows_of("calls", "--about", "run_1", "--method", "RunPayouts")
    assert (row["identity"], row["outcome"], row["what"]) == (
        "ana",
        "ok",
        '{"payout_run_id": "run_1"}',
    )
    assert await rows_of("calls", "--about", "run_2") == []
    assert await rows_of("calls", "--to", "2025-12-01") == []


async def test_dates_are_refused_by_the_clock_of_the_books(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A date in the future or before all events, in any zone: status 2, and the reason."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    monkeypatch.setenv("LEDGER_SETTLEMENT_TIMEZONE", "Asia/Tokyo")
    for date, complaint in (
        ("9999-12-31", "--as-of must not be in the future"),
        ("0001-01-01", "--as-of must not be before 2000-01-01"),
    ):
        outcome = await run_command("report", "q3", "PEN", "--as-of", date)
        assert outcome.status == ExitStatus.USAGE
        assert complaint in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("q1", "pen"), "CURRENCY must be an ISO 4217 code"),
        (("accounts", "XXX"), "CURRENCY must be an ISO 4217 code"),
        (("q3", "XXX"), "CURRENCY must be an ISO 4217 code"),
        (("q2", "--until", "yesterday"), "--until must be an ISO 8601 instant"),
        (("q3", "PEN", "--as-of", "2025-02-30"), "--as-of"),
        (("q3", "PEN", "--min-amount-minor", "-1"), "--min-amount-minor"),
        (("q9",), "q9"),
    ],
    ids=str,
)
async def test_wrong_command_lines_are_reported(arguments: tuple[str, ...], complaint: str) -> None:
    """Status 2 and the reason, before any query."""
    outcome = await run_command("report", *arguments)
    assert outcome.status == ExitStatus.USAGE
    assert complaint in outcome.stderr


async def test_unreachable_database_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Status 3, for scripts that try again."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/books")
    outcome = await run_command("report", "q4")
    assert outcome.status == ExitStatus.UNREACHABLE
    assert outcome.stderr.startswith(
        "error: the database postgresql://me:***@127.0.0.1:1/books cannot be reached"
    )


async def test_sums_are_whole_numbers_in_digits(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL sends a sum of bigint as a numeric that Python may write as 2.00E+6."""
    await ledger.ingest(
        event_message(
            restaurant_id="res_a", currency="USD", amount_minor=2_000_000, fee_minor=10_000
        ),
        event_message(restaurant_id="res_b", currency="USD", amount_minor=10_000),
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
            restaurant_id="res_b",
            currency="USD",
            amount_minor=30_000,
        ),
        event_message(
            ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
            restaurant_id="res_c",
            currency="USD",
            amount_minor=40_000,
        ),
    )
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    until = ("--until", "2025-12-01T10:00:00.000001Z")
    await finished_run(ledger, currency="USD", as_of=days_ago(1))
    for arguments in (("q1", "USD"), ("q2", *until), ("q3", "USD"), ("q4",), ("payouts", "res_a")):
        rows = await rows_of(*arguments)
        assert rows, arguments
        for row in rows:
            for column, cell in row.items():
                if column.endswith(("_minor", "_count")) or column in ("rank", "sequence"):
                    assert re.fullmatch(r"-?[0-9]+|", cell), (arguments, column, cell)
        table = await run_command("report", *arguments)
        assert not re.search(r"[0-9]E\+?[0-9]", table.stdout), table.stdout
    amounts = {row["restaurant_id"]: row["reserved_minor"] for row in await rows_of("q1", "USD")}
    assert amounts == {"res_a": "1990000", "res_b": "0", "res_c": "0"}


async def test_payout_is_one_row(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a column for each type of item: a sum over amount_minor counts each payout once."""
    await ledger.ingest(
        event_message(restaurant_id="res_a", amount_minor=5_000, fee_minor=20),
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_a", amount_minor=80
        ),
        event_message(restaurant_id="res_a", currency="USD", amount_minor=700),
    )
    await finished_run(ledger, as_of=days_ago(1))
    await finished_run(ledger, currency="USD", as_of=days_ago(1))
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    rows = await rows_of("payouts", "res_a")
    items = (
        "item_charge_minor",
        "item_fee_minor",
        "item_refund_minor",
        "item_adjustment_credit_minor",
    )
    assert [
        (row["currency"], row["amount_minor"], *(row[item] for item in items)) for row in rows
    ] == [
        ("PEN", "4900", "5000", "-20", "-80", "0"),
        ("USD", "700", "700", "0", "0", "0"),
    ]
    for row in rows:
        assert sum(int(cell) for column, cell in row.items() if column.startswith("item_")) == int(
            row["amount_minor"]
        )


async def test_report_creates_no_books(enterable_folder: Path) -> None:
    """On a machine without books it reports where it looked."""
    # As a process, since the embedded server starts from a main thread only.
    outcome = await run_process(
        "report", "q1", "PEN", env={"LEDGER_DATA_DIR": str(enterable_folder / "books")}
    )
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert (
        outcome.stderr == f"error: there are no books in {enterable_folder}/books:"
        " LEDGER_DATA_DIR says where they are\n"
    )
    assert not (enterable_folder / "books").exists()
