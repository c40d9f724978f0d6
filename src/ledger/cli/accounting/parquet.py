"""Parquet files of the trial balance and the journal, by pyarrow, which an extra installs."""

from collections.abc import Sequence
from decimal import Decimal
from io import RawIOBase
from typing import Any, Self

from ledger.cli.accounting.rows import HOLDER_COLUMNS, LINE_COLUMNS
from ledger.cli.failures import CommandFailure
from ledger.domain.chart_of_accounts import NORMAL_SIDE, LedgerAccount
from ledger.domain.journals import JournalEntry, TrialBalanceLine
from ledger.domain.money import EXPONENT_BY_CURRENCY

# The most decimals that a currency has.
_SCALE = max(EXPONENT_BY_CURRENCY.values())
_DIGITS = 38
# Rows of a row group: readers skip groups, and a group is in memory while it is written.
ROW_GROUP_ROWS = 50_000


def require_pyarrow() -> Any:
    """The library. Raises CommandFailure if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CommandFailure(
            "Parquet needs the extra `parquet`: pip install 'ledger-service[server,parquet]'"
        ) from None
    return pyarrow


class ParquetRows:
    """Writes rows of one schema to a file, in row groups."""

    def __init__(self, stream: RawIOBase, fields: Sequence[tuple[str, str]]) -> None:
        """`fields` are the names and kinds of the columns."""
        arrow = require_pyarrow()
        kinds = {
            "text": arrow.string(),
            "date": arrow.date32(),
            "instant": arrow.timestamp("us", tz="UTC"),
            "position": arrow.int16(),
            "minor": arrow.int64(),
            "sum": arrow.decimal128(_DIGITS, 0),
            "amount": arrow.decimal128(_DIGITS, _SCALE),
        }
        self._arrow = arrow
        self._schema = arrow.schema([(name, kinds[kind]) for name, kind in fields])
        self._writer = arrow.parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._columns: list[list[Any]] = [[] for _ in fields]

    def add(self, row: Sequence[Any]) -> None:
        """Adds a row of values in the order of the columns."""
        for column, value in zip(self._columns, row, strict=True):
            column.append(value)
        if len(self._columns[0]) >= ROW_GROUP_ROWS:
            self._write()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Writes what is left and the end of the file; without its end a file cannot be read."""
        if kind is None:
            if self._columns[0]:
                self._write()
            self._writer.close()

    def _write(self) -> None:
        arrays = [
            self._arrow.array(column, type=field.type)
            for column, field in zip(self._columns, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._columns = [[] for _ in self._columns]


def major(amount_minor: int, currency: str) -> Decimal:
    """The amount in whole units of its currency, exactly."""
    return Decimal(amount_minor).scaleb(-EXPONENT_BY_CURRENCY[currency])


def line_fields(by_holder: bool) -> list[tuple[str, str]]:
    """The columns of a trial balance."""
    kinds = {name: "text" for name in ("currency", "ledger_account", "normal_side")}
    return [
        *((name, "text") for name in (HOLDER_COLUMNS if by_holder else ())),
        *(
            (name, kinds.get(name) or ("sum" if name.endswith("_minor") else "amount"))
            for name in LINE_COLUMNS
        ),
    ]


def row_of_line(line: TrialBalanceLine) -> list[Any]:
    """The values of `line_fields`."""
    of_holder: list[Any] = []
    if line.holder is not None:
        of_holder = [line.holder.restaurant_id, line.holder.account_id]
    amounts: list[Any] = []
    for minor in (line.opening_minor, line.debits_minor, line.credits_minor, line.closing_minor):
        amounts += [Decimal(minor), major(minor, line.currency)]
    side = NORMAL_SIDE[LedgerAccount(line.ledger_account)].value
    return [*of_holder, line.currency, line.ledger_account, side, *amounts]


ENTRY_FIELDS = (
    ("date", "date"),
    ("recorded_at", "instant"),
    ("transaction_id", "text"),
    ("position", "position"),
    ("restaurant_id", "text"),
    ("account_id", "text"),
    ("currency", "text"),
    ("type", "text"),
    ("debit_account", "text"),
    ("credit_account", "text"),
    ("amount_minor", "minor"),
    ("amount", "amount"),
    ("event_id", "text"),
    ("payout_id", "text"),
    ("payment_id", "text"),
    ("reference", "text"),
    ("occurred_at", "instant"),
    ("available_at", "instant"),
)


def row_of_entry(entry: JournalEntry) -> list[Any]:
    """The values of ENTRY_FIELDS."""
    return [
        entry.day,
        entry.recorded_at,
        str(entry.transaction_id),
        entry.position,
        entry.holder.restaurant_id,
        entry.holder.account_id,
        entry.currency,
        entry.entry_type.lower(),
        entry.debit_account,
        entry.credit_account,
        entry.amount_minor,
        major(entry.amount_minor, entry.currency),
        entry.event_id,
        None if entry.payout_id is None else str(entry.payout_id),
        entry.payment_id,
        entry.reference or None,
        entry.occurred_at,
        entry.available_at,
    ]
