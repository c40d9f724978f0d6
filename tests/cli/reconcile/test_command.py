"""`ledger reconcile` against a server."""

import csv
import io
import json
from pathlib import Path

from support.audit import assert_books_in_order
from support.commands import Outcome, run_command, run_process
from support.events import event_message
from support.reports import ADYEN_SETTLEMENT, STRIPE_PAYOUT, at, books_of_stripe_payout
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.reconciliation.books import BookEvent
from ledger.v1 import ledger_pb2

CHARGES = """\
balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id
txn_1,2026-03-02 08:15:00,eur,12.00,0.00,12.00,charge,ch_1
txn_2,2026-03-02 09:15:00,eur,8.00,0.00,8.00,charge,ch_2
"""


def write_report(folder: Path, text: str, name: str = "report.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


async def book_charges(ledger: RunningLedger, *, second_minor: int = 800) -> None:
    """Books what CHARGES has; the second charge with another amount if one is given."""
    for number, amount_minor, instant in (
        (1, 1200, "2026-03-02T08:15:00"),
        (2, second_minor, "2026-03-02T09:15:00"),
    ):
        event = event_message(
            event_id=f"stripe:ch_{number}",
            currency="EUR",
            amount_minor=amount_minor,
            occurred_at=at(instant),
        )
        await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))


def message_of(event: BookEvent) -> ledger_pb2.ProcessorEvent:
    """The event as a caller sends it."""
    message = event_message(
        ledger_pb2.EventType.Value(f"EVENT_TYPE_{event.type.upper()}"),
        event_id=event.event_id,
        restaurant_id=event.restaurant_id,
        currency=event.currency,
        amount_minor=event.amount_minor,
        fee_minor=event.fee_minor,
        occurred_at=event.occurred_at,
        reference=event.reference,
    )
    message.processor_fee_minor = event.processor_fee_minor
    return message


def counts_of(stdout: str) -> dict[str, str]:
    """What the server answered to the postings."""
    lines = stdout.partition("posted:\n")[2].splitlines()
    return {name: number for name, number in map(str.split, lines)}


async def reconcile(ledger: RunningLedger, *arguments: str) -> Outcome:
    return await run_command("reconcile", *arguments, "--address", ledger.address)


async def test_report_that_agrees_with_the_books(ledger: RunningLedger, tmp_path: Path) -> None:
    """The exit status is 0, and the totals of both sides are the same."""
    await book_charges(ledger)
    file = write_report(tmp_path, CHARGES)
    outcome = await reconcile(ledger, file)
    assert (outcome.status, outcome.stderr) == (ExitStatus.DONE, "")
    assert "report and books agree" in outcome.stdout
    summary = json.loads((await reconcile(ledger, file, "--json")).stdout)
    assert summary["agrees"] is True
    totals = summary["totals"]["EUR"]
    assert totals["report"]["total"] == totals["books"]["total"]
    assert totals["report"]["total"]["net_minor"] == "2000"


async def test_what_differs_is_shown_with_both_sides(ledger: RunningLedger, tmp_path: Path) -> None:
    """As a table, as CSV and as JSON lines; the exit status is 1."""
    await book_charges(ledger, second_minor=801)
    file = write_report(tmp_path, CHARGES)
    table = await reconcile(ledger, file)
    assert table.status == ExitStatus.REFUSED
    assert "amount: 8.00 there, 8.01 here" in table.stdout
    rows = list(csv.DictReader(io.StringIO((await reconcile(ledger, file, "--csv")).stdout)))
    assert [(r["outcome"], r["differs_in"], r["report_net"], r["books_net"]) for r in rows] == [
        ("differs", "amount", "8.00", "8.01")
    ]
    matched = (await reconcile(ledger, file, "--json", "--matched")).stdout.splitlines()
    assert [json.loads(line)["outcome"] for line in matched[1:]] == ["matched", "differs"]


async def test_what_is_missing_there_is_found(ledger: RunningLedger, tmp_path: Path) -> None:
    """Events of the report's period without a line, however long after it they were recorded."""
    await book_charges(ledger)
    for event_id, instant in (
        ("stripe:ch_3", "2026-03-02T09:00:00"),
        ("stripe:ch_4", "2026-03-02T09:15:01"),
        ("adyen:ch_5", "2026-03-02T09:00:00"),
    ):
        event = event_message(event_id=event_id, currency="EUR", occurred_at=at(instant))
        await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    outcome = await reconcile(ledger, write_report(tmp_path, CHARGES), "--csv")
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [(row["outcome"], row["event_id"]) for row in rows] == [("missing_there", "stripe:ch_3")]


async def test_events_under_other_ids_are_found_by_reference(
    ledger: RunningLedger, tmp_path: Path
) -> None:
    """Also outside of the report's period."""
    for number, instant in ((1, "2026-03-02T08:15:00"), (2, "2026-03-01T23:00:00")):
        event = event_message(
            event_id=f"evt-{number}",
            currency="EUR",
            amount_minor=1200 if number == 1 else 800,
            occurred_at=at(instant),
            reference=f"ch_{number}",
        )
        await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    file = write_report(tmp_path, CHARGES)
    outcome = await reconcile(ledger, file, "--csv", "--matched")
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [(row["outcome"], row["matched_by"]) for row in rows] == [("matched", "reference")] * 2


async def test_unusable_report_is_refused_by_line_and_column(
    ledger: RunningLedger, tmp_path: Path
) -> None:
    """The exit status is 2, and nothing is booked, also with --post."""
    file = write_report(tmp_path, STRIPE_PAYOUT.replace("-3.30,0.00", "=3.30,0.00"))
    outcome = await reconcile(ledger, file, "--post")
    assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")
    assert f"{file}:7: gross: is a formula, not an amount" in outcome.stderr
    assert "nothing was booked" in outcome.stderr


async def test_reports_come_from_pipes(ledger: RunningLedger) -> None:
    await book_charges(ledger)
    outcome = await run_process(
        "reconcile", "-", "--address", ledger.address, stdin=CHARGES.encode("utf-16")
    )
    assert (outcome.status, outcome.stderr) == (ExitStatus.DONE, "")


async def test_dry_run_shows_what_would_be_posted(ledger: RunningLedger, tmp_path: Path) -> None:
    file = write_report(tmp_path, ADYEN_SETTLEMENT)
    outcome = await reconcile(ledger, file, "--post", "--dry-run", "--json")
    assert outcome.status == ExitStatus.REFUSED
    posted = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [(p["event_type"], p["amount_minor"]) for p in posted] == [
        ("processor_fee_assessed", "310"),
        ("processor_settled", "3889"),
    ]
    table = await reconcile(ledger, file, "--post", "--dry-run")
    assert "2 events would be booked" in table.stdout
    await assert_books_in_order(ledger.database)


async def test_postings_can_be_ingested_from_a_file(ledger: RunningLedger, tmp_path: Path) -> None:
    """The JSON lines of a dry run are events as `ledger ingest` takes them; what they book is what
    --post books.
    """
    file = write_report(tmp_path, ADYEN_SETTLEMENT)
    shown = await reconcile(ledger, file, "--post", "--dry-run", "--json")
    events = write_report(tmp_path, shown.stdout, "postings.jsonl")
    ingested = await run_command("ingest", events, "--address", ledger.address)
    assert (ingested.status, ingested.stderr) == (ExitStatus.DONE, "")
    posted = await reconcile(ledger, file, "--post")
    assert counts_of(posted.stdout) == {"created": "0", "duplicates": "2", "refused": "0"}
    await assert_books_in_order(ledger.database)


async def test_posting_books_once_what_only_the_report_knows(
    ledger: RunningLedger, tmp_path: Path
) -> None:
    """The second time all are duplicates; the books pass their audit."""
    for event in books_of_stripe_payout():
        await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=message_of(event)))
    file = write_report(tmp_path, STRIPE_PAYOUT)
    first = await reconcile(ledger, file, "--post")
    assert counts_of(first.stdout) == {"created": "2", "duplicates": "0", "refused": "0"}
    # The reserve stays: it needs a restaurant.
    assert "report and books do not agree: 1 missing here" in first.stdout
    second = await reconcile(ledger, file, "--post")
    assert counts_of(second.stdout) == {"created": "0", "duplicates": "2", "refused": "0"}
    reserve = event_message(
        ledger_pb2.EVENT_TYPE_RESERVE_HELD,
        event_id="stripe:rsv_a7",
        currency="EUR",
        amount_minor=900,
        occurred_at=at("2026-03-06T12:00:00"),
    )
    await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=reserve))
    assert (await reconcile(ledger, file, "--post")).status == ExitStatus.DONE
    await assert_books_in_order(ledger.database)


async def test_a_posting_that_is_booked_otherwise_is_refused(
    ledger: RunningLedger, tmp_path: Path
) -> None:
    """An id that names another fact is a conflict, which is shown; the others are booked."""
    taken = event_message(
        event_id="stripe:txn_a6:fee", currency="EUR", occurred_at=at("2026-03-06T00:00:00")
    )
    await ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=taken))
    file = write_report(tmp_path, STRIPE_PAYOUT)
    outcome = await reconcile(ledger, file, "--post")
    assert outcome.status == ExitStatus.REFUSED
    assert counts_of(outcome.stdout) == {"created": "1", "duplicates": "0", "refused": "1"}
    assert f"{file}:7: stripe:txn_a6:fee: ALREADY_EXISTS" in outcome.stderr


async def test_unknown_layout_points_to_a_mapping(ledger: RunningLedger, tmp_path: Path) -> None:
    """Beside what the closest known layout has and the file lacks."""
    for text in ("day,what,how much\n1,2,3\n", CHARGES.replace("currency", "coin")):
        outcome = await reconcile(ledger, write_report(tmp_path, text))
        assert outcome.status == ExitStatus.USAGE
        assert "needs --mapping FILE" in outcome.stderr
        assert "docs/reconciliation.md" in outcome.stderr


async def test_bad_options_are_refused(ledger: RunningLedger, tmp_path: Path) -> None:
    file = write_report(tmp_path, CHARGES)
    mapping = write_report(tmp_path, '[columns]\nkin = "a"\n', "mapping.toml")
    for arguments, text in (
        (["--currency", "eur"], "--currency must be an ISO 4217 code"),
        (["--timezone", "Mars"], "--timezone 'Mars' is no time zone"),
        (["--dry-run"], "--dry-run goes with --post"),
        (["--layout", "stripe-payout", "--mapping", mapping], "give --layout or --mapping"),
        (["--mapping", mapping], "columns.kin: is no key of a mapping"),
        (["--mapping", "nowhere.toml"], "cannot read nowhere.toml"),
        (["--layout", "adyen-settlement"], "no header of the layout adyen-settlement"),
        (["--currency", "USD"], "is EUR, where --currency says USD"),
    ):
        outcome = await reconcile(ledger, file, *arguments)
        assert outcome.status == ExitStatus.USAGE, arguments
        assert text in outcome.stderr, outcome.stderr
    missing = await reconcile(ledger, "nowhere.csv")
    assert "cannot read nowhere.csv" in missing.stderr
