"""`ledger report trial-balance`: debits, credits and balances of every ledger account."""

import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ledger.cli.accounting.books import (
    CSV,
    DATA_FORMATS,
    JSON,
    PARQUET,
    PERIOD,
    WHERE,
    books_options,
    format_of,
    holder_name,
    read,
    title,
)
from ledger.cli.accounting.output_file import binary_output, text_output
from ledger.cli.accounting.rows import (
    HOLDER_COLUMNS,
    LINE_COLUMNS,
    TOTAL,
    Totals,
    normal_side,
    row_of_line,
)
from ledger.cli.output import CsvWriter, Table, print_json_lines, print_line, print_table
from ledger.cli.words import amount_of
from ledger.domain.journals import TrialBalanceLine

if TYPE_CHECKING:
    from ledger.infrastructure.postgres.verification.journal import BooksReading

# A longer table is printed in parts.
TABLE_ROWS_MAX = 1_000

HELP = f"""
Show the trial balance: for each ledger account and currency its balance before
the period, its debits and credits in the period, and its balance at the end.

Balances are above zero on the debit side and below zero on the credit side. So
the balances of a currency add up to zero, and its debits equal its credits.

{PERIOD}
{WHERE}
"""


@click.command("trial-balance", help=HELP)
@click.option("--by-holder", is_flag=True, help="Lines for each restaurant, account and platform.")
@books_options(DATA_FORMATS)
def trial_balance(by_holder: bool, **given: Any) -> None:
    written = format_of(given)

    async def write(reading: "BooksReading") -> None:
        pages = _with_totals(_lines(reading, by_holder=by_holder))
        if written == PARQUET:
            await _write_lines_as_parquet(pages, given["output"], by_holder=by_holder)
        else:
            with text_output(given["output"]):
                await _write_lines(reading, pages, written, by_holder=by_holder)

    read(given, written, write)


async def _lines(
    reading: "BooksReading", *, by_holder: bool
) -> AsyncIterator[list[TrialBalanceLine]]:
    """Pages of lines in the order of their currencies."""
    if not by_holder:
        yield await reading.trial_balance()
        return
    async for page in reading.lines_of_holders():
        yield page


async def _with_totals(
    pages: AsyncIterator[list[TrialBalanceLine]],
) -> AsyncIterator[list[TrialBalanceLine | Totals]]:
    """The pages, with the totals of each currency behind its lines."""
    latest: Totals | None = None
    async for page in pages:
        lines: list[TrialBalanceLine | Totals] = []
        for line in page:
            if latest is None or line.currency != latest.currency:
                if latest is not None:
                    lines.append(latest)
                latest = Totals(line.currency)
            latest.add(line)
            lines.append(line)
        yield lines
    if latest is not None:
        yield [latest]


async def _write_lines(
    reading: "BooksReading",
    pages: AsyncIterator[list[TrialBalanceLine | Totals]],
    written: str,
    *,
    by_holder: bool,
) -> None:
    if written == CSV:
        rows = CsvWriter(sys.stdout, (*(HOLDER_COLUMNS if by_holder else ()), *LINE_COLUMNS))
        async for page in pages:
            for line in page:
                rows.write(row_of_line(line))
        return
    if written == JSON:
        async for page in pages:
            print_json_lines(map(row_of_line, page))
        return
    print_line(title(reading))
    # A table ends with the totals of its currency, and is not longer than a page.
    shown: list[TrialBalanceLine] = []
    is_empty = True
    async for page in pages:
        for line in page:
            is_empty = False
            if isinstance(line, Totals):
                _print_lines(shown, line, by_holder=by_holder)
                shown.clear()
            else:
                shown.append(line)
        if len(shown) >= TABLE_ROWS_MAX:
            _print_lines(shown, None, by_holder=by_holder)
            shown.clear()
    if is_empty:
        print_line("no entries")


def _print_lines(
    lines: Sequence[TrialBalanceLine], totals: Totals | None, *, by_holder: bool
) -> None:
    amounts = ("opening", "debits", "credits", "closing")
    holder = ("holder",) if by_holder else ()
    currency = totals.currency if totals is not None else lines[0].currency
    table = Table(
        (*holder, "ledger account", "side", *amounts, ""),
        right=frozenset(amounts),
        optional=("side",),
    )
    for line in lines:
        name = (holder_name(line.holder),) if line.holder is not None else ()
        table.add(
            *name,
            line.ledger_account,
            normal_side(line.ledger_account),
            *_shown_amounts(line),
            line.currency,
        )
    if totals is not None:
        blank = ("",) if by_holder else ()
        table.footer = (*blank, TOTAL, "", *_shown_amounts(totals), currency)
    print_table(table)


def _shown_amounts(of: TrialBalanceLine | Totals) -> tuple[str, ...]:
    minors = (of.opening_minor, of.debits_minor, of.credits_minor, of.closing_minor)
    return tuple(amount_of(minor, of.currency) for minor in minors)


async def _write_lines_as_parquet(
    pages: AsyncIterator[list[TrialBalanceLine | Totals]], path: Path | None, *, by_holder: bool
) -> None:
    """Only the lines: a program adds them up."""
    from ledger.cli.accounting.parquet import ParquetRows, line_fields, row_of_line

    with binary_output(path) as stream, ParquetRows(stream, line_fields(by_holder)) as rows:
        async for page in pages:
            for line in page:
                if not isinstance(line, Totals):
                    rows.add(row_of_line(line))
