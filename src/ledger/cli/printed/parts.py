"""The parts of a statement that is sent to its restaurant, the same as HTML and as PDF."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.cli.failures import CommandFailure
from ledger.cli.statement_lines import Line, Statement
from ledger.cli.words import amount_of, word_of
from ledger.v1 import ledger_pb2

# What an entry is to the restaurant, where the contract's word says less.
_TITLES = {
    "fee": "Platform fee",
    "adjustment_credit": "Adjustment in your favour",
    "adjustment_debit": "Adjustment against you",
    "dispute_hold": "Dispute: held back",
    "dispute_fee": "Dispute: fee",
    "dispute_release": "Dispute won: released",
    "payout_reserve": "Payout",
    "payout_reversal": "Payout not carried out",
    "payout_return": "Payout returned by the bank",
    "transfer_in": "Payment",
    "refund_out": "Refund",
}

COLUMNS = ("Date", "What", "Reference", "Amount", "Balance")
SUMMARY_COLUMNS = ("What", "Number", "Amount")


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whose statement it is, and in which zone its dates are."""

    restaurant_id: str
    name: str
    zone: tzinfo


@dataclass(slots=True)
class _Sum:
    count: int = 0
    sum_minor: int = 0


@dataclass(slots=True)
class PrintedStatement:
    """A statement in words for its restaurant. The summary is there once all lines were read."""

    statement: Statement
    recipient: Recipient
    made_at: datetime
    _sums: dict[str, _Sum] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Whose statement it is."""
        return f"Statement of {self.recipient.name or self.recipient.restaurant_id}"

    @property
    def head(self) -> tuple[str, ...]:
        """What stands below the title."""
        start_at, end_at = self.statement.start_at, self.statement.end_at
        start = "the first entry" if start_at is None else self._instant(start_at)
        end = self._at(self.made_at) if end_at is None else self._instant(end_at)
        return (
            f"Restaurant: {self.recipient.restaurant_id}",
            f"Period: from {start} to {end}",
            f"All amounts in {self.statement.currency}; dates in the time zone"
            f" {self.recipient.zone}",
            f"Made on {self._at(self.made_at)}",
        )

    @property
    def opening(self) -> str:
        """The balance before the first line."""
        return amount_of(self.statement.opening_minor, self.statement.currency)

    @property
    def closing(self) -> str:
        """The balance after the last line."""
        return amount_of(self.statement.closing_minor, self.statement.currency)

    def lines(self) -> Iterator[tuple[str, ...]]:
        """The cells of each entry, by COLUMNS; can be read once.

        Raises CommandFailure if an entry is of accounts that only a newer command knows.
        """
        for lines in self.statement.pages:
            for line in lines:
                yield self._cells(line)

    def summary(self) -> list[tuple[str, ...]]:
        """A row for each kind of entry, and one for all, by SUMMARY_COLUMNS."""
        currency = self.statement.currency
        total = _Sum(
            sum(each.count for each in self._sums.values()),
            sum(each.sum_minor for each in self._sums.values()),
        )
        return [
            (title, str(each.count), amount_of(each.sum_minor, currency))
            for title, each in (*sorted(self._sums.items()), ("Together", total))
        ]

    def _cells(self, line: Line) -> tuple[str, ...]:
        entry, amount_minor, balance_minor = line.entry, line.amount_minor, line.balance_minor
        if amount_minor is None or balance_minor is None:
            raise CommandFailure(
                f"entry {entry.transaction_id}/{entry.position} is of accounts that this command"
                " does not know: use the command of the server's version"
            )
        word = word_of(ledger_pb2.EntryType, entry.type)
        title = _TITLES.get(word, word.replace("_", " ").capitalize())
        found = self._sums.setdefault(title, _Sum())
        found.count += 1
        found.sum_minor += amount_minor
        currency = self.statement.currency
        return (
            self._instant(entry.recorded_at),
            title,
            entry.event_id or entry.payout_id or entry.payment_id,
            amount_of(amount_minor, currency),
            amount_of(balance_minor, currency),
        )

    def _instant(self, instant: Timestamp) -> str:
        # Not ToDatetime, which refuses instants beyond its own bounds.
        return self._at(datetime.fromtimestamp(0, UTC) + timedelta(seconds=instant.seconds))

    def _at(self, instant: datetime) -> str:
        return instant.astimezone(self.recipient.zone).strftime("%Y-%m-%d %H:%M")
