"""`ledger demo`: shows the service at work, and checks that everything it shows is right."""

import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from ledger.cli.connection import connect
from ledger.cli.demo_file import DEMO_FILE, read_demo_lines
from ledger.cli.demo_server import demo_data_dir, demo_server, demo_settings
from ledger.cli.event_batches import BATCH_EVENTS_MAX, read_batches
from ledger.cli.event_lines import parse_event_line
from ledger.cli.failures import CommandFailure, report
from ledger.cli.ingest import IngestSummary, ResultReporter, send_batches
from ledger.cli.output import print_line, print_table
from ledger.cli.refusals import refusal_of_call
from ledger.cli.verify import audit_configured_books, findings_table, summary_of
from ledger.domain.money import format_minor
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

HELP = """
Show the service at work on a server and a database of its own, which are gone afterwards.

It books the 70 events that come with the package, books them again, shows the balances, one event with its entries, and a
contradiction that is refused, and audits the books. What it shows is compared with what the file itself adds up to.

Exit status: 0 if everything was as it must be, 1 otherwise.
"""

# A line of the file, as JSON has it.
_Line = dict[str, Any]


class _Demonstration:
    """Says what happens in plain sentences, and remembers what was not as it must be."""

    def __init__(self) -> None:
        self.complaints: list[str] = []

    def say(self, sentence: str) -> None:
        print_line(f"\n{sentence}")

    def expect(self, what: str, seen: object, expected: object) -> None:
        """Remembers and tells a difference."""
        if seen != expected:
            self.complaints.append(f"{what}: {seen}, which should be {expected}")
            report("wrong", [self.complaints[-1]])


def demo() -> None:
    # So that the server and the data are cleaned up in this case too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    demonstration = _Demonstration()
    lines = read_demo_lines()
    with demo_data_dir() as data_dir:
        demonstration.say(f"Starting a server of its own, with an embedded PostgreSQL in {data_dir}.")
        with demo_server(data_dir) as address, connect(address) as stub:
            demonstration.say(f"It listens on {address}.")
            _ingest_twice(demonstration, stub, lines)
            _show_balances(demonstration, stub, lines)
            _show_event(demonstration, stub, lines[0])
            _contradict(demonstration, stub)
            _audit(demonstration, data_dir)
    if demonstration.complaints:
        raise CommandFailure("not everything was as it must be", *demonstration.complaints)
    demonstration.say("Everything was as it must be; the server and its data are gone again.")


def _ingest_twice(demonstration: _Demonstration, stub: "ledger_pb2_grpc.LedgerServiceStub", lines: list[_Line]) -> None:
    summary = _ingest_demo_file(stub)
    demonstration.say(f"Sent the {len(lines)} events of {DEMO_FILE.name}: {summary.created} were created.")
    demonstration.expect("created", summary.created, len(lines))
    again = _ingest_demo_file(stub)
    demonstration.say(f"Sent them again, as processors do: {again.duplicates} were duplicates, {again.created} were created.")
    demonstration.expect("duplicates", again.duplicates, len(lines))


def _ingest_demo_file(stub: "ledger_pb2_grpc.LedgerServiceStub") -> IngestSummary:
    reporter = ResultReporter(DEMO_FILE.name, None, Console(stderr=True))
    with DEMO_FILE.open("rb") as source:
        batches = read_batches(source, batch_size=BATCH_EVENTS_MAX, ignore_unknown_fields=False)
        send_batches(stub, batches, reporter.add)
    return reporter.summary


def owed_by_account(lines: list[_Line]) -> dict[tuple[str, str], int]:
    """What the lines add up to for each restaurant and currency, in minor units: charges less fees and refunds.

    Added up here and not by any code of the service, which it is to be compared with.
    """
    owed: defaultdict[tuple[str, str], int] = defaultdict(int)
    for line in lines:
        sign = {"charge_succeeded": 1, "refund_succeeded": -1}[line["event_type"]]
        owed[line["restaurant_id"], line["currency"]] += sign * line["amount"] - line["fee"]
    return dict(owed)


def _show_balances(demonstration: _Demonstration, stub: "ledger_pb2_grpc.LedgerServiceStub", lines: list[_Line]) -> None:
    table = Table("restaurant", "currency")
    for heading in ("available", "pending", "the lines add up to"):
        table.add_column(heading, justify="right")
    for (restaurant_id, currency), owed_minor in sorted(owed_by_account(lines).items()):
        answer = stub.GetBalance(ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency=currency))
        amounts = (answer.available_minor, answer.pending_minor, owed_minor)
        table.add_row(restaurant_id, currency, *(format_minor(amount_minor, currency) for amount_minor in amounts))
        name = f"balance of {restaurant_id} in {currency}, minor units"
        # Every event is long past, so all of it has matured.
        demonstration.expect(f"available {name}", answer.available_minor, owed_minor)
        demonstration.expect(f"pending {name}", answer.pending_minor, 0)
        demonstration.expect(f"reserved {name}", answer.reserved_minor, 0)
        demonstration.expect(f"disputed {name}", answer.disputed_minor, 0)
    demonstration.say("This is what each restaurant may be paid now: its charges, less 5 % commission, less its refunds.")
    print_table(table)


def _show_event(demonstration: _Demonstration, stub: "ledger_pb2_grpc.LedgerServiceStub", line: _Line) -> None:
    """The entries of a charge with a fee."""
    answer = stub.GetEvent(ledger_pb2.GetEventRequest(event_id=line["event_id"]))
    table = Table("entry", "debit", "credit")
    table.add_column(line["currency"], justify="right")
    for entry in answer.entries:
        table.add_row(
            _word(ledger_pb2.EntryType.Name(entry.type), "ENTRY_TYPE_"),
            _word(ledger_pb2.LedgerAccount.Name(entry.debit_account), "LEDGER_ACCOUNT_"),
            _word(ledger_pb2.LedgerAccount.Name(entry.credit_account), "LEDGER_ACCOUNT_"),
            format_minor(entry.amount_minor, entry.currency),
        )
    demonstration.say(f"The event {line['event_id']} posted these entries, each with one debit and one credit:")
    print_table(table)
    entries = [(entry.type, entry.amount_minor) for entry in answer.entries]
    expected = [(ledger_pb2.ENTRY_TYPE_CHARGE, line["amount"]), (ledger_pb2.ENTRY_TYPE_FEE, line["fee"])]
    demonstration.expect(f"entries of {line['event_id']}", entries, expected)


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


def _contradict(demonstration: _Demonstration, stub: "ledger_pb2_grpc.LedgerServiceStub") -> None:
    """Sends an event that is stored once more, with another amount."""
    first_line = DEMO_FILE.read_text(encoding="utf-8").partition("\n")[0]
    event = parse_event_line(first_line)
    event.amount_minor += 100
    try:
        answer = stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
        seen = ledger_pb2.IngestStatus.Name(answer.status)
    except grpc.RpcError as error:
        refusal = refusal_of_call(error)
        seen = f"{refusal.code} {refusal.reason}"
        demonstration.say(f"Sent {event.event_id} with another amount, which is refused:\n  {refusal}")
    demonstration.expect("the answer to a contradiction", seen, "ALREADY_EXISTS EVENT_ID_REUSED")


def _audit(demonstration: _Demonstration, data_dir: Path) -> None:
    """The audit, on the database that the server is running on."""
    report = audit_configured_books(demo_settings(data_dir))
    demonstration.say(f"Audited the books: {summary_of(report)}.")
    if report.findings:
        print_table(findings_table(report))
    demonstration.expect("findings of the audit", len(report.findings), 0)
