"""The journal as plain-text accounting: the files of Beancount and of hledger.

Both have the same transactions. Before the period each holder has one with its opening balances,
then each transaction id is one, and at the end every closing balance is stated, as the trial
balance has it, so that the program that reads the file compares it with the transactions.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from typing import Protocol, Self, TextIO

from ledger.cli.accounting.names import account_name
from ledger.cli.output import instant_text
from ledger.domain.journals import HolderLines, JournalEntry, Period, TrialBalanceLine
from ledger.domain.money import EXPONENT_BY_CURRENCY, format_minor

# An account, a signed amount, a currency, and a word about it.
Posting = tuple[str, int, str, str]

_ACCOUNT_WIDTH = 64
_AMOUNT_WIDTH = 18
# The closing balances wait in memory up to this size, then in a file.
_SPOOL_BYTES_MAX = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Account:
    """An account that is used from `opened_on` on. `about` are names and values of its holder."""

    name: str
    opened_on: date
    currencies: Sequence[str]
    about: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Transaction:
    """Postings that add up to zero. The values of `about` may be hostile."""

    day: date
    words: str
    about: Mapping[str, str]
    postings: Iterable[Posting]


@dataclass(frozen=True, slots=True)
class Balances:
    """The balances of a holder at the end of `last_day`, as amounts of postings."""

    last_day: date
    holder: str
    postings: Iterable[Posting]


class Notation(Protocol):
    """How a program writes the parts of a journal."""

    def head(self, currencies: Sequence[str]) -> Iterator[str]:
        """The lines that declare the currencies."""
        ...

    def account(self, account: Account) -> Iterator[str]:
        """The lines that declare an account."""
        ...

    def transaction(self, transaction: Transaction) -> Iterator[str]:
        """The lines of a transaction."""
        ...

    def balances(self, balances: Balances) -> Iterator[str]:
        """The lines that state balances."""
        ...


class Beancount:
    """Beancount 3."""

    def head(self, currencies: Sequence[str]) -> Iterator[str]:
        yield 'option "title" "Ledger"'
        for currency in currencies:
            yield f'option "operating_currency" "{currency}"'
        yield ""

    def account(self, account: Account) -> Iterator[str]:
        yield f"{account.opened_on} open {account.name} {','.join(account.currencies)}"
        yield from self._metadata(account.about)

    def transaction(self, transaction: Transaction) -> Iterator[str]:
        yield f"{transaction.day} * {_quoted(transaction.words)}"
        yield from self._metadata(transaction.about)
        for posting in transaction.postings:
            yield _posting_line(posting, indent=2)
        yield ""

    def balances(self, balances: Balances) -> Iterator[str]:
        # A balance is that of the morning. Without its tolerance, 0, a difference of one minor unit
        # would pass.
        day = balances.last_day + timedelta(days=1)
        for account, minor, currency, _ in balances.postings:
            amount, none = format_minor(minor, currency), format_minor(0, currency)
            yield (
                f"{day} balance {account:<{_ACCOUNT_WIDTH}}"
                f" {amount:>{_AMOUNT_WIDTH}} ~ {none} {currency}"
            )

    @staticmethod
    def _metadata(about: Mapping[str, str]) -> Iterator[str]:
        for name, value in about.items():
            yield f"  {name}: {_quoted(value)}"


class Hledger:
    """hledger 1.25 and later."""

    def head(self, currencies: Sequence[str]) -> Iterator[str]:
        yield "decimal-mark ."
        for currency in currencies:
            yield f"commodity 1000.{'0' * EXPONENT_BY_CURRENCY[currency]} {currency}"
        yield ""

    def account(self, account: Account) -> Iterator[str]:
        yield f"account {account.name}"
        yield from self._tags(account.about)

    def transaction(self, transaction: Transaction) -> Iterator[str]:
        yield f"{transaction.day} * {transaction.words}"
        yield from self._tags(transaction.about)
        for posting in transaction.postings:
            yield _posting_line(posting, indent=4)
        yield ""

    def balances(self, balances: Balances) -> Iterator[str]:
        yield f"{balances.last_day} * closing balances of {balances.holder}"
        for account, minor, currency, _ in balances.postings:
            none, amount = format_minor(0, currency), format_minor(minor, currency)
            yield f"    {account:<{_ACCOUNT_WIDTH}}  {none} {currency} = {amount} {currency}"
        yield ""

    @staticmethod
    def _tags(about: Mapping[str, str]) -> Iterator[str]:
        for name, value in about.items():
            yield f"    ; {name}:{tag_value(value)}"


NOTATIONS: Mapping[str, Notation] = {"beancount": Beancount(), "hledger": Hledger()}


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# A comma ends a tag, brackets hold a date, and other signs may begin something in later versions.
# Blanks at an end would be lost.
_NOT_IN_TAGS = re.compile(r"[^\w !#$&'()*+./:=?@^`{}~-]|^ +| +$")


def tag_value(text: str) -> str:
    """The text with every sign that could end a tag or begin another one as in URLs: `%2C`."""
    return _NOT_IN_TAGS.sub(
        lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text
    )


def _posting_line(posting: Posting, *, indent: int) -> str:
    account, minor, currency, word = posting
    amount = format_minor(minor, currency)
    line = f"{' ' * indent}{account:<{_ACCOUNT_WIDTH}}  {amount:>{_AMOUNT_WIDTH}} {currency}"
    return f"{line}  ; {word}" if word else line


class PlainText:
    """Writes a journal: the head, then the lines of the trial balance, then the entries, the end.

    Keeps no more than a holder's lines and a transaction's entries in memory.
    """

    def __init__(self, notation: Notation, stream: TextIO, period: Period, last_day: date) -> None:
        """`last_day` is the last date of the period that has begun."""
        self._notation = notation
        self._stream = stream
        self._first_day = period.first_day
        self._last_day = last_day
        self._zone = period.zone
        self._closing = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            _SPOOL_BYTES_MAX, "w+", encoding="utf-8"
        )

    def write_head(self, currencies: Sequence[str]) -> None:
        """Declares the currencies."""
        self._write(self._notation.head(currencies))

    def write_holder(self, found: HolderLines) -> None:
        """Declares the accounts of a holder, and books its opening balances."""
        holder, lines = found.holder, found.lines
        about = _about_holder(found)
        for ledger_account, group in groupby(lines, key=lambda line: line.ledger_account):
            of_account = list(group)
            account = Account(
                account_name(holder, ledger_account),
                self._opened_on(of_account),
                sorted(line.currency for line in of_account),
                about,
            )
            self._write(self._notation.account(account))
        self._write([""])
        opening = [_posting(line, line.opening_minor) for line in lines if line.opening_minor]
        if opening and self._first_day is not None:
            day = self._first_day - timedelta(days=1)
            transaction = Transaction(day, "opening balances", about, opening)
            self._write(self._notation.transaction(transaction))
        closing = [_posting(line, line.closing_minor) for line in lines]
        words = holder.restaurant_id or holder.account_id or "the platform"
        for text in self._notation.balances(Balances(self._last_day, words, closing)):
            self._closing.write(f"{text}\n")

    def write_transaction(self, entries: Sequence[JournalEntry]) -> None:
        """Writes the entries of one transaction id."""
        types = dict.fromkeys(entry.entry_type.lower() for entry in entries)
        transaction = Transaction(
            entries[0].day, ", ".join(types), _about(entries), _postings(entries)
        )
        self._write(self._notation.transaction(transaction))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """States the closing balances, if all before them was written."""
        with self._closing:
            if kind is None:
                self._closing.seek(0)
                shutil.copyfileobj(self._closing, self._stream)

    def _opened_on(self, lines: Sequence[TrialBalanceLine]) -> date:
        """The day before the period; without a first day, that of the first entry."""
        if self._first_day is not None:
            return self._first_day - timedelta(days=1)
        return min(line.first_at for line in lines).astimezone(self._zone).date()

    def _write(self, lines: Iterable[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines))


def _about_holder(found: HolderLines) -> dict[str, str]:
    named = {
        "restaurant-id": found.holder.restaurant_id,
        "account-id": found.holder.account_id,
        "name": found.name,
    }
    return {name: value for name, value in named.items() if value}


def _about(entries: Sequence[JournalEntry]) -> dict[str, str]:
    """What names a transaction, of the first entry that has it: all of them have the same."""
    about = {
        "transaction-id": str(entries[0].transaction_id),
        "recorded-at": instant_text(entries[0].recorded_at),
    }
    for entry in entries:
        for name, value in (
            ("event-id", entry.event_id),
            ("payout-id", entry.payout_id),
            ("payment-id", entry.payment_id),
            ("reference", entry.reference),
        ):
            if value:
                about.setdefault(name, str(value))
    return about


def _posting(line: TrialBalanceLine, minor: int) -> Posting:
    if line.holder is None:
        raise ValueError("a line of several holders has no account")
    return (account_name(line.holder, line.ledger_account), minor, line.currency, "")


def _postings(entries: Iterable[JournalEntry]) -> Iterator[Posting]:
    for entry in entries:
        word = entry.entry_type.lower()
        debit = account_name(entry.holder, entry.debit_account)
        yield (debit, entry.amount_minor, entry.currency, word)
        credit = account_name(entry.holder, entry.credit_account)
        yield (credit, -entry.amount_minor, entry.currency, word)
