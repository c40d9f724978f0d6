"""`ledger report journal`: every ledger entry of a period."""

import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.cli.accounting.books import (
    DATA_FORMATS,
    JSON,
    PARQUET,
    PERIOD,
    TABLE,
    WHERE,
    books_options,
    format_of,
    holder_name,
    read,
    title,
)
from ledger.cli.accounting.output_file import binary_output, text_output
from ledger.cli.accounting.plain_text import NOTATIONS, Notation, PlainText
from ledger.cli.accounting.rows import ENTRY_COLUMNS, row_of_entry
from ledger.cli.output import (
    CsvWriter,
    Table,
    counted,
    instant_text,
    print_json_lines,
    print_line,
    print_table,
    write_unicode,
)
from ledger.cli.words import amount_of
from ledger.domain.journals import JournalEntry

if TYPE_CHECKING:
    from ledger.infrastructure.postgres.verification.journal import BooksReading

HELP = f"""
Write the journal: every ledger entry of the period, in the order in which they
were recorded.

--format beancount and hledger write plain-text accounting: each transaction id
is a transaction, an earlier opening balance is a transaction on the day before
the period, and all closing balances are stated at the end, as the trial balance
has them, so that the program that reads the file proves it.

{PERIOD}
{WHERE}
"""


@click.command(help=HELP)
@books_options((*DATA_FORMATS, *NOTATIONS))
def journal(**given: Any) -> None:
    written, path = format_of(given), given["output"]

    async def write(reading: "BooksReading") -> None:
        if written == PARQUET:
            await _write_entries_as_parquet(reading, path)
            return
        with text_output(path):
            if written == TABLE:
                await _write_entries_as_tables(reading)
            elif written in NOTATIONS:
                await _write_plain_text(reading, NOTATIONS[written])
            else:
                await _write_entries(reading, written)

    read(given, written, write)


async def _write_entries(reading: "BooksReading", written: str) -> None:
    if written == JSON:
        async for page in reading.entries():
            print_json_lines(map(row_of_entry, page))
        return
    rows = CsvWriter(sys.stdout, ENTRY_COLUMNS)
    async for page in reading.entries():
        for entry in page:
            rows.write(row_of_entry(entry))


async def _write_entries_as_parquet(reading: "BooksReading", path: Path | None) -> None:
    from ledger.cli.accounting.parquet import ENTRY_FIELDS, ParquetRows, row_of_entry

    with binary_output(path) as stream, ParquetRows(stream, ENTRY_FIELDS) as rows:
        async for page in reading.entries():
            for entry in page:
                rows.add(row_of_entry(entry))


async def _write_entries_as_tables(reading: "BooksReading") -> None:
    """A table for each page, and the sums of the trial balance, which debits and credits equal."""
    print_line(title(reading))
    count = 0
    sums: dict[str, int] = {}
    async for page in reading.entries():
        table = Table(
            (
                "recorded",
                "holder",
                "type",
                "debit",
                "credit",
                "amount",
                "",
                "event, payout or payment",
            ),
            right=frozenset(("amount",)),
            optional=("recorded",),
        )
        for entry in page:
            sums[entry.currency] = sums.get(entry.currency, 0) + entry.amount_minor
            table.add(
                instant_text(entry.recorded_at),
                holder_name(entry.holder),
                entry.entry_type.lower(),
                entry.debit_account,
                entry.credit_account,
                amount_of(entry.amount_minor, entry.currency),
                entry.currency,
                _cause(entry),
            )
        count += len(page)
        print_table(table)
    for currency, sum_minor in sorted(sums.items()):
        amount = amount_of(sum_minor, currency)
        print_line(f"debits {amount} {currency}, credits {amount} {currency}")
    print_line(counted(count, "entry", "entries"))


def _cause(entry: JournalEntry) -> str:
    return entry.event_id or str(entry.payout_id or "") or entry.payment_id or ""


async def _write_plain_text(reading: "BooksReading", notation: Notation) -> None:
    write_unicode(sys.stdout)
    today = reading.now_at.astimezone(reading.period.zone).date()
    last_day = min(reading.period.end_day - timedelta(days=1), today)
    with PlainText(notation, sys.stdout, reading.period, last_day) as text:
        text.write_head(await reading.currencies())
        async for holder in reading.holders():
            text.write_holder(holder)
        async for entries in _transactions(reading.entries()):
            text.write_transaction(entries)


async def _transactions(
    pages: AsyncIterator[list[JournalEntry]],
) -> AsyncIterator[list[JournalEntry]]:
    """The entries of each transaction id; they are together, but may be on two pages."""
    found: list[JournalEntry] = []
    async for page in pages:
        for entry in page:
            if found and entry.transaction_id != found[0].transaction_id:
                yield found
                found = []
            found.append(entry)
    if found:
        yield found
