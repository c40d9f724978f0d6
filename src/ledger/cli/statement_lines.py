"""Writes the statement of a restaurant or of an account: as tables, as CSV and as JSON lines."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.instants import format_instant
from ledger.cli.output import CsvWriter, JsonValue, Table, print_json_lines, print_line, print_table
from ledger.cli.words import amount_of, amount_or_none, word_of
from ledger.v1 import ledger_pb2


@dataclass(frozen=True, slots=True)
class Line:
    """An entry with its signed amount, and the balance after it if all entries are shown.

    The amount is None for an entry between accounts that only a newer server knows, and so are the
    balances from there on.
    """

    entry: ledger_pb2.LedgerEntry
    amount_minor: int | None
    balance_minor: int | None


@dataclass(frozen=True, slots=True)
class Statement:
    """The entries between two balances. `pages` can be read once; no page is empty."""

    # The contract's field that names the holder, and the holder's id.
    holder: tuple[str, str]
    currency: str
    start_at: Timestamp | None
    end_at: Timestamp | None
    opening_minor: int
    closing_minor: int
    # Whether entries are left out, so that no balance follows from the one before.
    is_filtered: bool
    # The title of the column that says where an entry comes from.
    cause_title: str
    # The columns of CSV, and the fields of each line of JSON.
    columns: Sequence[str]
    pages: Iterator[list[Line]]


def refuse_two_formats(*, json: bool, as_csv: bool) -> None:
    """Raises CommandFailure if both are wanted."""
    if json and as_csv:
        raise CommandFailure("--json and --csv exclude each other", exit_status=ExitStatus.USAGE)


def write_statement(statement: Statement, *, json: bool, as_csv: bool) -> None:
    """Writes the statement on standard output, page by page."""
    if json:
        _write_json(statement)
    elif as_csv:
        _write_csv(statement)
    else:
        _write_tables(statement)
    # Now, so that a full disk sets the exit status.
    sys.stdout.flush()


def signed_amount(
    entry: ledger_pb2.LedgerEntry, account: "ledger_pb2.LedgerAccount.ValueType"
) -> int | None:
    """What the entry added to `account`; None if only a newer command knows its accounts."""
    if entry.credit_account == account:
        return entry.amount_minor
    if entry.debit_account == account:
        return -entry.amount_minor
    return None


@dataclass(slots=True)
class _Totals:
    """The sums of the lines added, in minor units: the opening balance, + in, - out, is the closing
    balance of a statement that leaves out no entry.
    """

    count: int = 0
    in_minor: int = 0
    out_minor: int = 0
    are_known: bool = True

    def add(self, line: Line) -> None:
        """Counts a line."""
        self.count += 1
        if line.amount_minor is None:
            self.are_known = False
        else:
            self.in_minor += max(line.amount_minor, 0)
            self.out_minor += max(-line.amount_minor, 0)


def _write_tables(statement: Statement) -> None:
    currency = statement.currency
    print_line(f"{statement.holder[1]}, {currency}, {_period(statement)}")
    # A filter leaves entries out, but not of these balances.
    field, _ = statement.holder
    of_holder = f" of the {field.removesuffix('_id')}" if statement.is_filtered else ""
    print_line(f"opening balance{of_holder} {amount_of(statement.opening_minor, currency)}")
    amounts = _Totals()
    with_balance = () if statement.is_filtered else ("balance",)
    titles = ("recorded", "type", "amount", *with_balance, statement.cause_title)
    for lines in statement.pages:
        table = Table(titles, right=frozenset(("amount", "balance")), optional=("recorded",))
        for line in lines:
            amounts.add(line)
            balance = () if statement.is_filtered else (_shown(line.balance_minor, currency),)
            table.add(
                format_instant(line.entry.recorded_at),
                _type_name(line.entry),
                _shown(line.amount_minor, currency),
                *balance,
                line.entry.event_id or line.entry.payout_id or line.entry.payment_id,
            )
        print_table(table)
    if amounts.are_known:
        came_in, went_out = amounts.in_minor, amounts.out_minor
        print_line(f"in {amount_of(came_in, currency)}, out {amount_of(went_out, currency)}")
    print_line(f"closing balance{of_holder} {amount_of(statement.closing_minor, currency)}")
    print_line(f"{amounts.count} entries")


def _write_csv(statement: Statement) -> None:
    rows = CsvWriter(sys.stdout, statement.columns)

    def write_balance(name: str, balance_minor: int) -> None:
        rows.write(
            {
                "type": name,
                "balance_minor": str(balance_minor),
                "balance": amount_or_none(balance_minor, statement.currency),
                "currency": statement.currency,
            }
        )

    write_balance("opening_balance", statement.opening_minor)
    for lines in statement.pages:
        for line in lines:
            rows.write(_fields_of(line))
    write_balance("closing_balance", statement.closing_minor)


def _write_json(statement: Statement) -> None:
    field, holder_id = statement.holder
    head: dict[str, JsonValue] = {
        field: holder_id,
        "currency": statement.currency,
        "start_at": None if statement.start_at is None else format_instant(statement.start_at),
        "end_at": None if statement.end_at is None else format_instant(statement.end_at),
        "opening_balance_minor": str(statement.opening_minor),
        "opening_balance": amount_or_none(statement.opening_minor, statement.currency),
        "closing_balance_minor": str(statement.closing_minor),
        "closing_balance": amount_or_none(statement.closing_minor, statement.currency),
    }
    print_json_lines([head])
    for lines in statement.pages:
        print_json_lines(_chosen(_fields_of(line), statement.columns) for line in lines)


def _chosen(fields: dict[str, JsonValue], names: Sequence[str]) -> dict[str, JsonValue]:
    return {name: fields[name] for name in names}


def _period(statement: Statement) -> str:
    start = (
        "from the first entry"
        if statement.start_at is None
        else f"from {format_instant(statement.start_at)}"
    )
    end = "now" if statement.end_at is None else format_instant(statement.end_at)
    return f"{start} to {end}"


def _type_name(entry: ledger_pb2.LedgerEntry) -> str:
    return word_of(ledger_pb2.EntryType, entry.type)


def _shown(amount_minor: int | None, currency: str) -> str:
    return "" if amount_minor is None else amount_of(amount_minor, currency)


def _fields_of(line: Line) -> dict[str, JsonValue]:
    """All fields that a line may have; None where it has no value."""
    entry, amount_minor, balance_minor = line.entry, line.amount_minor, line.balance_minor
    return {
        "recorded_at": format_instant(entry.recorded_at),
        "type": _type_name(entry),
        "amount_minor": None if amount_minor is None else str(amount_minor),
        "amount": None if amount_minor is None else amount_or_none(amount_minor, entry.currency),
        "balance_minor": None if balance_minor is None else str(balance_minor),
        "balance": None if balance_minor is None else amount_or_none(balance_minor, entry.currency),
        "currency": entry.currency,
        "event_id": entry.event_id or None,
        "payout_id": entry.payout_id or None,
        "payment_id": entry.payment_id or None,
        "occurred_at": format_instant(entry.occurred_at) if entry.HasField("occurred_at") else None,
        "available_at": format_instant(entry.available_at)
        if entry.HasField("available_at")
        else None,
        "transaction_id": entry.transaction_id,
    }
