"""`ledger payouts`: pays restaurants out, and books what the bank answers."""

import csv
import json as json_text
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import IO, Annotated

import grpc
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import date_pb2
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ledger.cli.configuration import AddressOption, load_settings
from ledger.cli.connection import connect
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.instants import parse_instant
from ledger.cli.output import JsonOption, JsonValue, print_json, print_line, print_table
from ledger.cli.payout_views import (
    history_table,
    items_table,
    json_of_payout,
    json_of_run,
    json_of_run_item,
    payout_state,
    payout_table,
    payouts_table,
    run_items_table,
    run_table,
)
from ledger.cli.refusals import refusal_of_call
from ledger.domain.money import INT64_MAX, format_minor
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

PAGE_SIZE = 1000
WAIT_TIMEOUT_SECONDS = 600.0
# How often an export looks again because runs appeared while it was reading.
EXPORT_PASSES_MAX = 10
_POLL_SECONDS_MIN = 0.05
_POLL_SECONDS_MAX = 1.0
_POLL_FACTOR = 1.5

_EXPORT_COLUMNS = ("payout_id", "restaurant_id", "currency", "amount_minor", "amount", "as_of", "created_at")

RUN_HELP = """
Pay out every restaurant of CURRENCY what it may be paid by the end of a date, and wait until that is done.

The date is one of the server's settlement time zone and is not guessed: --as-of is required. What has matured by its end counts,
or by now if it is today there; refunds, disputes and fees count at once.

The same date, minimum and request id name the same run: the same command again starts nothing and shows that run. With
--request-id it starts another, to pay again what failed, for example. What is paid or under way for a date is never paid
again for it.

Exit status: 0 once the run has ended, 1 if it was refused, 3 if nobody answers or the time is over: the run goes on at the
servers then, and the same command waits for it again.
"""

EXPORT_HELP = """
Write the payouts that the bank has not answered, as CSV for the bank, to standard output; the latest first.

Columns: payout_id, restaurant_id, currency, amount_minor, amount, as_of, created_at. **The payout id is the bank's idempotency
key**: as long as the bank takes each id once, a file may be sent twice.

Nothing is written until everything was read, and nothing at all while one of the runs in it is under way: exit status 0 says that
the file is whole.
"""

app = typer.Typer(no_args_is_help=True)

_Stub = "ledger_pb2_grpc.LedgerServiceStub"


class StateOption(StrEnum):
    """The states of a payout, as people write them."""

    CREATED = "created"
    PAID = "paid"
    FAILED = "failed"
    RETURNED = "returned"


_PayoutArgument = Annotated[str, typer.Argument(metavar="PAYOUT", help="The payout's id.")]
_OccurredAtOption = Annotated[
    str | None,
    typer.Option(
        "--occurred-at",
        metavar="INSTANT",
        help="When the bank did it, such as 2025-12-01T10:00:00Z. Default: now; on repeat, what was told the first time.",
    ),
]


@app.command("run", help=RUN_HELP)
def run_payouts(
    currency: Annotated[str, typer.Argument(metavar="CURRENCY", help="ISO 4217 code in upper case, such as PEN.")],
    as_of: Annotated[str, typer.Option("--as-of", metavar="DATE", help="The date to pay out by, such as 2025-12-01.")],
    min_amount_minor: Annotated[
        int, typer.Option("--min", metavar="AMOUNT_MINOR", min=0, max=INT64_MAX, help="Pay no less than this, in minor units.")
    ] = 0,
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="ID", help="Tells runs of one date apart.", show_default=False)
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what a run would do, and write nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Whether to wait until the run has ended.")] = True,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout-seconds", min=0, help="How long to wait at the most.")
    ] = WAIT_TIMEOUT_SECONDS,
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    settings = load_settings(address)
    request = ledger_pb2.RunPayoutsRequest(
        currency=currency,
        as_of=_parse_date(as_of),
        min_amount_minor=min_amount_minor,
        request_id=request_id,
        dry_run=dry_run,
    )
    with connect(settings) as stub:
        run = stub.RunPayouts(request).payout_run
        if wait and not dry_run:
            with _progress_bar(run) as on_progress:
                run = wait_for_run(stub, run, timeout_seconds=timeout_seconds, on_progress=on_progress)
    if json:
        print_json(json_of_run(run))
    else:
        print_table(run_table(run))


@app.command("show")
def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The id of a payout, or of a payout run.")],
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Show a payout with its items and its history, or a payout run with its restaurants.

    With --json a run is JSON lines: the run, then each of its restaurants.
    """
    settings = load_settings(address)
    with connect(settings) as stub:
        payout = _payout_or_none(stub, identifier)
        if payout is None:
            _show_run(stub, _run_or_failure(stub, identifier), json=json)
            return
    if json:
        print_json(json_of_payout(payout))
    else:
        print_table(payout_table(payout))
        print_table(items_table(payout))
        print_table(history_table(payout))


@app.command("list")
def list_payouts(
    restaurant: Annotated[str, typer.Option("--restaurant", help="Only this restaurant's.", show_default=False)] = "",
    state: Annotated[StateOption | None, typer.Option("--state", help="Only those in this state.")] = None,
    payout_run_id: Annotated[str, typer.Option("--run", metavar="RUN", help="Only those of this run.", show_default=False)] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines, for programs.")] = False,
    address: AddressOption = None,
) -> None:
    """List payouts, the latest first."""
    settings = load_settings(address)
    request = ledger_pb2.ListPayoutsRequest(restaurant_id=restaurant, payout_run_id=payout_run_id, state=_state_number(state))
    count = 0
    with connect(settings) as stub:
        # Page by page: however many there are, only one page of them is held.
        for page in _payout_pages(stub, request):
            count += len(page)
            if json:
                _print_json_lines(json_of_payout(payout) for payout in page)
            elif page:
                print_table(payouts_table(page))
    if not json:
        print_line(f"{count} payouts")


@app.command("paid")
def paid(
    payout_id: _PayoutArgument,
    occurred_at: _OccurredAtOption = None,
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Book that the bank carried a payout out. May be repeated: it is booked once."""
    _settle(payout_id, ledger_pb2.EVENT_TYPE_PAYOUT_PAID, occurred_at, json=json, address=address)


@app.command("failed")
def failed(
    payout_id: _PayoutArgument,
    occurred_at: _OccurredAtOption = None,
    json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Book that the bank refused a payout, or returned it after it was paid: its amount is available again at once.

    May be repeated: it is booked once.
    """
    _settle(payout_id, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED, occurred_at, json=json, address=address)


@app.command("export", help=EXPORT_HELP)
def export(
    currency: Annotated[
        str, typer.Option("--currency", metavar="CURRENCY", help="Only payouts in this currency.", show_default=False)
    ] = "",
    payout_run_id: Annotated[
        str, typer.Option("--run", metavar="RUN", help="Only payouts of this run.", show_default=False)
    ] = "",
    address: AddressOption = None,
) -> None:
    settings = load_settings(address)
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as whole:
        with connect(settings) as stub:
            _collect_export(stub, whole, currency, payout_run_id)
        whole.seek(0)
        shutil.copyfileobj(whole, sys.stdout)
        # So that a full disk is told by the exit status.
        sys.stdout.flush()


def wait_for_run(
    stub: "ledger_pb2_grpc.LedgerServiceStub",
    run: ledger_pb2.PayoutRun,
    *,
    timeout_seconds: float,
    on_progress: Callable[[ledger_pb2.PayoutRun], None],
) -> ledger_pb2.PayoutRun:
    """The run once it has ended; `on_progress` is told how it stands meanwhile.

    Servers that do not answer are asked again: the run is in the database, and any of them goes on with it. Raises
    CommandFailure when the time is over, or on Ctrl-C; grpc.RpcError for a refusal that would not pass.
    """
    deadline = time.monotonic() + timeout_seconds
    request = ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
    pause_seconds = _POLL_SECONDS_MIN
    try:
        while run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING:
            on_progress(run)
            left_seconds = deadline - time.monotonic()
            if left_seconds <= 0:
                raise CommandFailure(
                    f"the run has not ended within {timeout_seconds:g} s",
                    *_goes_on(run),
                    exit_status=ExitStatus.UNREACHABLE,
                )
            time.sleep(min(pause_seconds, left_seconds))
            pause_seconds = min(pause_seconds * _POLL_FACTOR, _POLL_SECONDS_MAX)
            try:
                run = stub.GetPayoutRun(request).payout_run
            except grpc.RpcError as error:
                if not refusal_of_call(error).is_retryable:
                    raise
    except KeyboardInterrupt:
        raise CommandFailure("interrupted", *_goes_on(run), exit_status=ExitStatus.INTERRUPTED) from None
    return run


def settle(
    stub: "ledger_pb2_grpc.LedgerServiceStub",
    payout: ledger_pb2.Payout,
    type: ledger_pb2.EventType.ValueType,
    occurred_at: Timestamp | None = None,
) -> tuple[str, ledger_pb2.IngestEventResponse]:
    """Sends the event of `type` about `payout`; its id and the answer. On repeat the answer is DUPLICATE.

    The id follows from the payout, so the event is booked once. Unless `occurred_at` is given a new event has the time of now,
    and a repeat that of the event that is stored: another time would make it another event under the same id. Raises
    grpc.RpcError.
    """
    name = ledger_pb2.EventType.Name(type).removeprefix("EVENT_TYPE_").lower()
    event = ledger_pb2.ProcessorEvent(
        event_id=f"cli.{name}.{payout.payout_id}",
        type=type,
        restaurant_id=payout.restaurant_id,
        currency=payout.currency,
        amount_minor=payout.amount_minor,
        occurred_at=occurred_at or _now(),
        payout_id=payout.payout_id,
    )
    request = ledger_pb2.IngestEventRequest(event=event)
    try:
        return event.event_id, stub.IngestEvent(request)
    except grpc.RpcError as error:
        if occurred_at is not None or refusal_of_call(error).reason != "EVENT_ID_REUSED":
            raise
    # Whatever else differs from what is stored is refused once more.
    stored = stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id)).event
    event.occurred_at.CopyFrom(stored.occurred_at)
    return event.event_id, stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))


def _parse_date(text: str) -> date_pb2.Date:
    try:
        # The library takes more spellings than people agree on.
        found = date.fromisoformat(text) if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        found = None
    if found is None:
        raise CommandFailure(f"--as-of must be a date such as 2025-12-01 (it is {text!r})", exit_status=ExitStatus.USAGE)
    return date_pb2.Date(year=found.year, month=found.month, day=found.day)


def _now() -> Timestamp:
    now = Timestamp()
    now.FromDatetime(datetime.now(UTC))
    return now


@contextmanager
def _progress_bar(run: ledger_pb2.PayoutRun) -> Iterator[Callable[[ledger_pb2.PayoutRun], None]]:
    """A bar on standard error while the block runs, if that is a terminal."""
    columns = (BarColumn(), TextColumn("{task.completed:.0f} of {task.total:.0f} restaurants"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("payouts", total=run.restaurants_total)
        yield lambda seen: progress.update(task, completed=seen.restaurants_considered)


def _goes_on(run: ledger_pb2.PayoutRun) -> tuple[str, str]:
    return (
        f"run {run.payout_run_id} had considered {run.restaurants_considered} of {run.restaurants_total} restaurants",
        "it goes on at the servers; the same command again waits for it, and `ledger payouts show` tells how it stands",
    )


def _payout_or_none(stub: "ledger_pb2_grpc.LedgerServiceStub", payout_id: str) -> ledger_pb2.Payout | None:
    try:
        return stub.GetPayout(ledger_pb2.GetPayoutRequest(payout_id=payout_id)).payout
    except grpc.RpcError as error:
        if refusal_of_call(error).reason != "PAYOUT_NOT_FOUND":
            raise
    return None


def _run_or_failure(stub: "ledger_pb2_grpc.LedgerServiceStub", identifier: str) -> ledger_pb2.PayoutRun:
    try:
        return stub.GetPayoutRun(ledger_pb2.GetPayoutRunRequest(payout_run_id=identifier)).payout_run
    except grpc.RpcError as error:
        if refusal_of_call(error).reason != "PAYOUT_RUN_NOT_FOUND":
            raise
    raise CommandFailure(f"NOT_FOUND PAYOUT_NOT_FOUND: neither a payout nor a payout run has the id {identifier}")


def _show_run(stub: "ledger_pb2_grpc.LedgerServiceStub", run: ledger_pb2.PayoutRun, *, json: bool) -> None:
    if json:
        _print_json_lines([json_of_run(run)])
    else:
        print_table(run_table(run))
    request = ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=run.payout_run_id, page_size=PAGE_SIZE)
    while True:
        answer = stub.ListPayoutRunItems(request)
        if json:
            _print_json_lines(json_of_run_item(item) for item in answer.items)
        elif answer.items:
            print_table(run_items_table(answer.items, run.currency))
        request.page_token = answer.next_page_token
        if not request.page_token:
            return


def _payout_pages(
    stub: "ledger_pb2_grpc.LedgerServiceStub", request: ledger_pb2.ListPayoutsRequest
) -> Iterator[list[ledger_pb2.Payout]]:
    request.page_size = PAGE_SIZE
    while True:
        answer = stub.ListPayouts(request)
        yield list(answer.payouts)
        request.page_token = answer.next_page_token
        if not request.page_token:
            return


def _settle(
    payout_id: str, type: ledger_pb2.EventType.ValueType, occurred_at: str | None, *, json: bool, address: str | None
) -> None:
    settings = load_settings(address)
    try:
        instant = None if occurred_at is None else parse_instant(occurred_at)
    except ValueError as error:
        raise CommandFailure(f"--occurred-at {error}", exit_status=ExitStatus.USAGE) from None
    request = ledger_pb2.GetPayoutRequest(payout_id=payout_id)
    with connect(settings) as stub:
        event_id, answer = settle(stub, stub.GetPayout(request).payout, type, instant)
        payout = stub.GetPayout(request).payout
    status = ledger_pb2.IngestStatus.Name(answer.status).removeprefix("INGEST_STATUS_").lower()
    if json:
        print_json(
            {
                "status": status,
                "event_id": event_id,
                "transaction_id": answer.transaction_id,
                "payout": json_of_payout(payout),
            }
        )
        return
    amount = f"{format_minor(payout.amount_minor, payout.currency)} {payout.currency}"
    print_line(f"{status}: event {event_id}, transaction id {answer.transaction_id}")
    print_line(f"payout {payout.payout_id} of {amount} to {payout.restaurant_id} is {payout_state(payout.state)}")


def _collect_export(stub: "ledger_pb2_grpc.LedgerServiceStub", whole: IO[str], currency: str, payout_run_id: str) -> None:
    """Writes to `whole` every payout in state CREATED, and no run's half.

    Payouts of a run under way may appear behind the page that is being read. So what counts is a reading of which all runs are
    known to have ended before it began.
    """
    ended: set[str] = set()
    if payout_run_id:
        _require_ended(stub, payout_run_id)
        ended.add(payout_run_id)
    for _ in range(EXPORT_PASSES_MAX):
        whole.seek(0)
        whole.truncate()
        unknown = _read_export(stub, whole, currency, payout_run_id) - ended
        if not unknown:
            return
        for found in sorted(unknown):
            _require_ended(stub, found)
        ended |= unknown
    raise CommandFailure("new payout runs kept appearing; try again when they have ended", exit_status=ExitStatus.UNREACHABLE)


def _read_export(stub: "ledger_pb2_grpc.LedgerServiceStub", whole: IO[str], currency: str, payout_run_id: str) -> set[str]:
    """One reading; the runs whose payouts are in it."""
    request = ledger_pb2.ListPayoutsRequest(payout_run_id=payout_run_id, state=ledger_pb2.PAYOUT_STATE_CREATED)
    runs: set[str] = set()
    rows = csv.writer(whole, lineterminator="\n")
    rows.writerow(_EXPORT_COLUMNS)
    for page in _payout_pages(stub, request):
        for payout in page:
            if currency not in ("", payout.currency):
                continue
            runs.add(payout.payout_run_id)
            values = json_of_payout(payout)
            rows.writerow([values[column] for column in _EXPORT_COLUMNS])
    return runs


def _require_ended(stub: "ledger_pb2_grpc.LedgerServiceStub", payout_run_id: str) -> None:
    run = stub.GetPayoutRun(ledger_pb2.GetPayoutRunRequest(payout_run_id=payout_run_id)).payout_run
    if run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING:
        raise CommandFailure(
            f"run {payout_run_id} has considered {run.restaurants_considered} of {run.restaurants_total} restaurants, "
            "so its payouts are not all there yet; try again when it has ended",
            exit_status=ExitStatus.UNREACHABLE,
        )


def _state_number(state: StateOption | None) -> ledger_pb2.PayoutState.ValueType:
    return ledger_pb2.PAYOUT_STATE_UNSPECIFIED if state is None else ledger_pb2.PayoutState.Value(f"PAYOUT_STATE_{state.name}")


def _print_json_lines(values: Iterable[JsonValue]) -> None:
    for value in values:
        sys.stdout.write(json_text.dumps(value, ensure_ascii=False) + "\n")
