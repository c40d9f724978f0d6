"""Writes a statement as one page of HTML without scripts, for screens and for paper."""

import sys
from collections.abc import Collection, Iterator, Sequence
from html import escape

from ledger.cli.output import write_unicode
from ledger.cli.printed.parts import COLUMNS, SUMMARY_COLUMNS, PrintedStatement

_STYLE = """
body { font: 10pt/1.4 system-ui, sans-serif; color: #111; max-width: 60em; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.5em; margin: 0 0 .2em; }
h2 { font-size: 1.1em; margin: 1.6em 0 .4em; }
p { margin: .2em 0; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25em .6em; border-bottom: 1px solid #ddd;
  overflow-wrap: anywhere; }
th { border-bottom: 2px solid #111; }
.amount { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.balance td { font-weight: bold; }
@page { size: A4; margin: 15mm; }
@media print {
  body { margin: 0; max-width: none; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
}
"""


def write_html(printed: PrintedStatement) -> None:
    """Writes the page on standard output, line by line."""
    write_unicode(sys.stdout)
    for part in _page(printed):
        sys.stdout.write(part)
    # Now, so that a full disk sets the exit status.
    sys.stdout.flush()


def _page(printed: PrintedStatement) -> Iterator[str]:
    title = escape(printed.title)
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width">\n'
    yield f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    for text in printed.head:
        yield f"<p>{escape(text)}</p>\n"
    yield f"<h2>Entries</h2>\n<table>\n<thead>{_row(COLUMNS, (3, 4), 'th')}</thead>\n<tbody>\n"
    yield _balance("Opening balance", printed.opening)
    for cells in printed.lines():
        yield _row(cells, (3, 4))
    yield _balance("Closing balance", printed.closing)
    yield "</tbody>\n</table>\n<h2>Summary</h2>\n<table>\n"
    yield f"<thead>{_row(SUMMARY_COLUMNS, (1, 2), 'th')}</thead>\n<tbody>\n"
    for cells in printed.summary():
        yield _row(cells, (1, 2))
    yield "</tbody>\n</table>\n</body>\n</html>\n"


def _row(cells: Sequence[str], amounts: Collection[int], tag: str = "td") -> str:
    columns = (
        f'<{tag} class="amount">{escape(cell)}</{tag}>'
        if place in amounts
        else f"<{tag}>{escape(cell)}</{tag}>"
        for place, cell in enumerate(cells)
    )
    return f"<tr>{''.join(columns)}</tr>\n"


def _balance(title: str, amount: str) -> str:
    return (
        f'<tr class="balance"><td colspan="{len(COLUMNS) - 1}">{title}</td>'
        f'<td class="amount">{amount}</td></tr>\n'
    )
