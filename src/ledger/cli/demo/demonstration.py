"""Shows the service at work, and checks everything that it shows."""

import signal
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.type import date_pb2

from ledger.cli.connection import connect_plainly
from ledger.cli.demo.accounts import show_accounts_and_payments
from ledger.cli.demo.narration import Demonstration
from ledger.cli.demo.server import demo_data_dir, demo_server, demo_settings
from ledger.cli.demo_file import DEMO_FILE, read_demo_lines
from ledger.cli.failures import CommandFailure
from ledger.cli.ingest.batches import read_batches
from ledger.cli.ingest.command import IngestSummary, ResultReporter
from ledger.cli.ingest.lines import parse_event_line
from ledger.cli.ingest.sender import send_batches
from ledger.cli.ingest.source import write_error_line
from ledger.cli.output import Table, print_line, print_table
from ledger.cli.payouts.answers import Said, settle
from ledger.cli.payouts.run import wait_for_run
from ledger.cli.payouts.views import history_table, items_table, payouts_table
from ledger.cli.verify import audit_configured_books, findings_table, summary_of
from ledger.cli.words import word_of
from ledger.client import Ledger, LedgerError
from ledger.domain.money import format_minor
from ledger.limits import BATCH_EVENTS_MAX
from ledger.v1 import ledger_pb2

RUN_TIMEOUT_SECONDS = 60.0
NOT_RIGHT = "not everything was right"

# A line of the file, parsed from JSON.
_Line = dict[str, Any]
# A restaurant and a currency.
_Account = tuple[str, str]


def demonstrate() -> None:
    """Runs the demonstration. Raises CommandFailure if anything was wrong."""
    demonstration = Demonstration()
    # So that these signals, too, end the demonstration with its server and data removed.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, demonstration.interrupt)
    lines = read_demo_lines()
    with demo_data_dir() as data_dir:
        demonstration.say(
            f"Starting a temporary server, with an embedded PostgreSQL in {data_dir}."
        )
        with (
            demo_server(data_dir) as address,
            connect_plainly(address) as ledger,
        ):
            demonstration.say(f"It listens on {address}.")
            _ingest_twice(demonstration, ledger, lines)
            _show_balances(demonstration, ledger, lines)
            _show_event(demonstration, ledger, lines[0])
            _contradict(demonstration, ledger)
            _pay_out(demonstration, ledger, lines)
            show_accounts_and_payments(demonstration, ledger, lines[0]["restaurant_id"])
            _audit(demonstration, data_dir)
    if demonstration.differences:
        raise CommandFailure(NOT_RIGHT, *demonstration.differences)
    demonstration.say("Everything was right; the server and its data are removed again.")


def _ingest_twice(demonstration: Demonstration, ledger: Ledger, lines: list[_Line]) -> None:
    summary = _ingest_demo_file(ledger)
    demonstration.say(
        f"Sent the {len(lines)} events of {DEMO_FILE.name}: {summary.created} were created."
    )
    demonstration.expect("created", summary.created, len(lines))
    again = _ingest_demo_file(ledger)
    demonstration.say(
        f"Sent them again, as processors do: {again.duplicates} were duplicates,"
        f" {again.created} were created."
    )
    demonstration.expect("duplicates", again.duplicates, len(lines))


def _ingest_demo_file(ledger: Ledger) -> IngestSummary:
    reporter = ResultReporter(DEMO_FILE.name, None, write_error_line)
    with DEMO_FILE.open("rb") as source:
        batches = read_batches(source, parse_event_line, batch_size=BATCH_EVENTS_MAX)
        send_batches(ledger, batches, reporter.add)
    return reporter.summary


def owed_by_account(lines: list[_Line]) -> dict[_Account, int]:
    """The sum of the lines for each restaurant and currency: charges less fees and refunds.

    In minor units. Calculated here, and not by the service, whose sums are compared with it.
    """
    owed: defaultdict[_Account, int] = defaultdict(int)
    for line in lines:
        sign = {"charge_succeeded": 1, "refund_succeeded": -1}[line["event_type"]]
        owed[line["restaurant_id"], line["currency"]] += sign * line["amount"] - line["fee"]
    return dict(owed)


def _show_balances(demonstration: Demonstration, ledger: Ledger, lines: list[_Line]) -> None:
    columns = ("available", "pending", "the lines add up to")
    table = Table(("restaurant", "currency", *columns), right=frozenset(columns))
    for (restaurant_id, currency), owed_minor in sorted(owed_by_account(lines).items()):
        response = ledger.service.GetBalance(
            ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency=currency)
        )
        amounts = (response.available_minor, response.pending_minor, owed_minor)
        table.add(
            restaurant_id,
            currency,
            *(format_minor(amount_minor, currency) for amount_minor in amounts),
        )
        name = f"balance of {restaurant_id} in {currency}, minor units"
        # Every event is long past, so all of it has matured.
        demonstration.expect(f"available {name}", response.available_minor, owed_minor)
        demonstration.expect(f"pending {name}", response.pending_minor, 0)
        demonstration.expect(f"reserved {name}", response.reserved_minor, 0)
        demonstration.expect(f"disputed {name}", response.disputed_minor, 0)
    demonstration.say(
        "This is what each restaurant may be paid now: its charges, less 5 % commission, less its"
        " refunds."
    )
    print_table(table)


def _show_event(demonstration: Demonstration, ledger: Ledger, line: _Line) -> None:
    """Shows the entries of a charge with a fee."""
    response = ledger.get_event(line["event_id"])
    table = Table(
        ("entry", "debit", "credit", line["currency"]), right=frozenset((line["currency"],))
    )
    for entry in response.entries:
        table.add(
            word_of(ledger_pb2.EntryType, entry.type),
            word_of(ledger_pb2.LedgerAccount, entry.debit_account),
            word_of(ledger_pb2.LedgerAccount, entry.credit_account),
            format_minor(entry.amount_minor, entry.currency),
        )
    demonstration.say(
        f"The event {line['event_id']} posted these entries, each with one debit and one credit:"
    )
    print_table(table)
    entries = [(entry.type, entry.amount_minor) for entry in response.entries]
    expected = [
        (ledger_pb2.ENTRY_TYPE_CHARGE, line["amount"]),
        (ledger_pb2.ENTRY_TYPE_FEE, line["fee"]),
    ]
    demonstration.expect(f"entries of {line['event_id']}", entries, expected)


def _contradict(demonstration: Demonstration, ledger: Ledger) -> None:
    """Sends a stored event again, with another amount."""
    first_line = DEMO_FILE.read_text(encoding="utf-8").partition("\n")[0]
    event = parse_event_line(first_line)
    event.amount_minor += 100
    try:
        response = ledger.ingest(event)
        seen = ledger_pb2.IngestStatus.Name(response.status)
    except LedgerError as error:
        seen = f"{error.code.name} {error.reason}"
        demonstration.say(
            f"Sent {event.event_id} with another amount, which is refused:\n  {error}"
        )
    demonstration.expect("the response to a contradiction", seen, "ALREADY_EXISTS EVENT_ID_REUSED")


def _pay_out(demonstration: Demonstration, ledger: Ledger, lines: list[_Line]) -> None:
    """Pays all restaurants. One payout is paid by the bank; one fails, and another run pays it."""
    owed = owed_by_account(lines)
    # The demonstration's server has the settlement zone UTC.
    today = datetime.now(UTC).date()
    as_of = date_pb2.Date(year=today.year, month=today.month, day=today.day)
    paid_account: _Account = (lines[0]["restaurant_id"], lines[0]["currency"])
    currency = paid_account[1]
    failed_account = min(
        account for account in owed if account[1] == currency and account != paid_account
    )

    plan = ledger.service.RunPayouts(
        ledger_pb2.RunPayoutsRequest(currency=currency, as_of=as_of, dry_run=True)
    ).payout_run
    demonstration.say(
        f"Planned a payout run in {currency}, which writes nothing: {_summary_of(plan)}."
    )
    _expect_run(
        demonstration, plan, {account: owed[account] for account in owed if account[1] == currency}
    )
    _run_each_currency(demonstration, ledger, as_of, owed)
    payouts = _list_payouts(demonstration, ledger, owed)
    _show_payout(demonstration, ledger, payouts[paid_account], _items_of(lines, paid_account))
    _book_paid(demonstration, ledger, payouts[paid_account])
    _book_failed(demonstration, ledger, payouts[failed_account])
    _pay_again(demonstration, ledger, as_of, payouts[failed_account], owed)
    # Everything is reserved in payouts now, except what the bank has paid.
    _show_reserved(demonstration, ledger, owed | {paid_account: 0})


def _summary_of(run: ledger_pb2.PayoutRun) -> str:
    noun = "payout" if run.payouts_created == 1 else "payouts"
    total = format_minor(run.total_amount_minor, run.currency)
    return f"{run.payouts_created} {noun}, {total} {run.currency} in all"


def _expect_run(
    demonstration: Demonstration, run: ledger_pb2.PayoutRun, paid: dict[_Account, int]
) -> None:
    """Checks that `run` has paid these amounts."""
    name = f"run in {run.currency}"
    demonstration.expect(f"payouts of the {name}", run.payouts_created, len(paid))
    demonstration.expect(
        f"total of the {name}, minor units", run.total_amount_minor, sum(paid.values())
    )


def _finished_run(
    ledger: Ledger,
    currency: str,
    as_of: date_pb2.Date,
    request_id: str = "",
) -> ledger_pb2.PayoutRun:
    request = ledger_pb2.RunPayoutsRequest(currency=currency, as_of=as_of, request_id=request_id)
    run = ledger.service.RunPayouts(request).payout_run
    return wait_for_run(
        ledger, run, timeout_seconds=RUN_TIMEOUT_SECONDS, on_progress=lambda _: None
    )


def _run_each_currency(
    demonstration: Demonstration,
    ledger: Ledger,
    as_of: date_pb2.Date,
    owed: dict[_Account, int],
) -> None:
    demonstration.say("Paid out every restaurant, with a run for each currency:")
    for currency in sorted({currency for _, currency in owed}):
        run = _finished_run(ledger, currency, as_of)
        print_line(f"  run {run.payout_run_id}: {_summary_of(run)}")
        _expect_run(
            demonstration,
            run,
            {account: owed[account] for account in owed if account[1] == currency},
        )


def _list_payouts(
    demonstration: Demonstration,
    ledger: Ledger,
    owed: dict[_Account, int],
) -> dict[_Account, ledger_pb2.Payout]:
    """Shows the payouts; returns them by restaurant and currency."""
    listed = ledger.service.ListPayouts(ledger_pb2.ListPayoutsRequest()).payouts
    demonstration.say("These payouts go to the bank; what they pay is reserved until it answers.")
    print_table(payouts_table(listed))
    payouts = {(payout.restaurant_id, payout.currency): payout for payout in listed}
    amounts = {account: payout.amount_minor for account, payout in payouts.items()}
    demonstration.expect("amounts of the payouts, minor units", amounts, owed)
    if amounts.keys() != owed.keys():
        raise CommandFailure(NOT_RIGHT, *demonstration.differences)
    return payouts


def _items_of(lines: list[_Line], account: _Account) -> list[tuple[str, int]]:
    """The sums of an account's lines by entry type, in minor units, ordered by the type's name."""
    amounts: defaultdict[str, int] = defaultdict(int)
    for line in lines:
        if (line["restaurant_id"], line["currency"]) == account:
            name, sign = {"charge_succeeded": ("CHARGE", 1), "refund_succeeded": ("REFUND", -1)}[
                line["event_type"]
            ]
            amounts[name] += sign * line["amount"]
            amounts["FEE"] -= line["fee"]
    return sorted((name, amount_minor) for name, amount_minor in amounts.items() if amount_minor)


def _show_payout(
    demonstration: Demonstration,
    ledger: Ledger,
    payout: ledger_pb2.Payout,
    items: list[tuple[str, int]],
) -> None:
    detailed = _payout(ledger, payout)
    demonstration.say(f"The payout to {payout.restaurant_id} consists of:")
    print_table(items_table(detailed))
    seen = sorted((_name(item), item.amount_minor) for item in detailed.items)
    demonstration.expect(f"items of the payout to {payout.restaurant_id}", seen, items)


def _book_paid(
    demonstration: Demonstration,
    ledger: Ledger,
    payout: ledger_pb2.Payout,
) -> None:
    settle(ledger, payout, Said(ledger_pb2.EVENT_TYPE_PAYOUT_PAID))
    _, again = settle(ledger, payout, Said(ledger_pb2.EVENT_TYPE_PAYOUT_PAID))
    demonstration.say("The bank reports twice that it was paid; that is booked once:")
    demonstration.expect(
        "the second report", ledger_pb2.IngestStatus.Name(again.status), "INGEST_STATUS_DUPLICATE"
    )
    _show_history(
        demonstration,
        _payout(ledger, payout),
        [ledger_pb2.PAYOUT_STATE_CREATED, ledger_pb2.PAYOUT_STATE_PAID],
    )


def _book_failed(
    demonstration: Demonstration,
    ledger: Ledger,
    payout: ledger_pb2.Payout,
) -> None:
    """Books that the bank refused `payout`, and prints that its amount is available again."""
    settle(ledger, payout, Said(ledger_pb2.EVENT_TYPE_PAYOUT_FAILED))
    request = ledger_pb2.GetBalanceRequest(
        restaurant_id=payout.restaurant_id, currency=payout.currency
    )
    available_minor = ledger.service.GetBalance(request).available_minor
    demonstration.say(
        f"The payout to {payout.restaurant_id} failed; "
        f"{format_minor(available_minor, payout.currency)} {payout.currency} of it are available"
        " again at once:"
    )
    demonstration.expect(
        "available after a failed payout, minor units", available_minor, payout.amount_minor
    )
    _show_history(
        demonstration,
        _payout(ledger, payout),
        [ledger_pb2.PAYOUT_STATE_CREATED, ledger_pb2.PAYOUT_STATE_FAILED],
    )


def _pay_again(
    demonstration: Demonstration,
    ledger: Ledger,
    as_of: date_pb2.Date,
    failed: ledger_pb2.Payout,
    owed: dict[_Account, int],
) -> None:
    """Starts a second run of the day. It pays what failed, and no restaurant twice."""
    run = _finished_run(ledger, failed.currency, as_of, request_id="again")
    skipped = sum(reason.count for reason in run.skipped)
    demonstration.say(
        f"A second run of the same day: {_summary_of(run)}; {skipped} restaurants have their payout"
        " already."
    )
    account = (failed.restaurant_id, failed.currency)
    _expect_run(demonstration, run, {account: owed[account]})
    demonstration.expect(
        "restaurants skipped by the second run",
        skipped,
        sum(currency == failed.currency for _, currency in owed) - 1,
    )
    (payout,) = ledger.service.ListPayouts(
        ledger_pb2.ListPayoutsRequest(payout_run_id=run.payout_run_id)
    ).payouts
    _show_payout(demonstration, ledger, payout, [("PAYOUT_REVERSAL", owed[account])])


def _show_history(
    demonstration: Demonstration,
    payout: ledger_pb2.Payout,
    states: "list[ledger_pb2.PayoutState.ValueType]",
) -> None:
    print_table(history_table(payout))
    seen = [move.state for move in payout.history]
    demonstration.expect(f"history of the payout to {payout.restaurant_id}", seen, states)


def _show_reserved(
    demonstration: Demonstration,
    ledger: Ledger,
    reserved: dict[_Account, int],
) -> None:
    columns = ("available", "reserved", "not paid yet")
    table = Table(("restaurant", "currency", *columns), right=frozenset(columns))
    for (restaurant_id, currency), reserved_minor in sorted(reserved.items()):
        response = ledger.service.GetBalance(
            ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency=currency)
        )
        amounts = (response.available_minor, response.reserved_minor, reserved_minor)
        table.add(
            restaurant_id,
            currency,
            *(format_minor(amount_minor, currency) for amount_minor in amounts),
        )
        name = f"balance of {restaurant_id} in {currency} after the payouts, minor units"
        demonstration.expect(f"available {name}", response.available_minor, 0)
        demonstration.expect(f"reserved {name}", response.reserved_minor, reserved_minor)
    demonstration.say("Nothing is available now; what the bank has not paid yet is reserved.")
    print_table(table)


def _payout(ledger: Ledger, payout: ledger_pb2.Payout) -> ledger_pb2.Payout:
    """Reads the payout again, with its items and its history."""
    return ledger.get_payout(payout.payout_id)


def _name(item: ledger_pb2.PayoutItem) -> str:
    return ledger_pb2.EntryType.Name(item.type).removeprefix("ENTRY_TYPE_")


def _audit(demonstration: Demonstration, data_dir: Path) -> None:
    """Audits the database while the server runs on it."""
    report = audit_configured_books(demo_settings(data_dir))
    demonstration.say(f"Audited the books: {summary_of(report)}.")
    if report.findings:
        print_table(findings_table(report))
    demonstration.expect("findings of the audit", len(report.findings), 0)
