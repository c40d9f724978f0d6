"""Writes a statement as PDF, by the package fpdf2, which is in the extra `pdf`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.cli.failures import CommandFailure, ExitStatus, printable
from ledger.cli.printed.parts import COLUMNS, SUMMARY_COLUMNS, PrintedStatement

if TYPE_CHECKING:
    from fpdf import FPDF

# The whole PDF is made in memory, at some 20 kB a line.
LINES_MAX = 10_000
# Every reader has this font. Its letters are those of Western Europe.
_FONT_OF_READERS = "Helvetica"
_ENCODING_OF_READERS = "latin-1"
# In millimetres, of the 190 that A4 has between margins of 10.
_WIDTHS, _SUMMARY_WIDTHS = (30, 52, 56, 26, 26), (82, 26, 40)
_LEFT, _RIGHT = "LEFT", "RIGHT"


def write_pdf(printed: PrintedStatement, font: Path | None) -> None:
    """Writes the PDF on standard output.

    `font` is a TrueType or OpenType font for characters beyond those of Western Europe. Raises
    CommandFailure if the font is none or lacks a character, if fpdf2 is not installed, if there are
    more than LINES_MAX lines, or if standard output is a terminal.
    """
    if sys.stdout.isatty():
        raise CommandFailure(
            "--pdf writes a file: write > statement.pdf behind the command",
            exit_status=ExitStatus.USAGE,
        )
    page = _new_page(font)
    rows = [COLUMNS, _balance("Opening balance", printed.opening)]
    for cells in printed.lines():
        if len(rows) > LINES_MAX:
            raise CommandFailure(
                f"a PDF has room for {LINES_MAX} entries: choose a shorter period, or --html"
            )
        rows.append(cells)
    rows.append(_balance("Closing balance", printed.closing))
    summary = [SUMMARY_COLUMNS, *printed.summary()]
    _require_characters(
        page,
        font,
        [printed.title, *printed.head, *(cell for row in (*rows, *summary) for cell in row)],
    )
    page.set_title(printed.title)
    page.set_creation_date(printed.made_at)
    page.set_font_size(14)
    _paragraph(page, printed.title, 8)
    page.set_font_size(9)
    for text in printed.head:
        _paragraph(page, text, 5)
    page.ln(4)
    page.set_font_size(8)
    _table(page, rows, _WIDTHS, (_LEFT, _LEFT, _LEFT, _RIGHT, _RIGHT))
    page.ln(6)
    _table(page, summary, _SUMMARY_WIDTHS, (_LEFT, _RIGHT, _RIGHT))
    sys.stdout.buffer.write(bytes(page.output()))
    sys.stdout.buffer.flush()


def _balance(title: str, amount: str) -> tuple[str, ...]:
    return ("", title, "", "", amount)


def _new_page(font: Path | None) -> "FPDF":
    try:
        from fpdf import FPDF
    except ImportError:
        raise CommandFailure(
            "--pdf needs the package fpdf2: install the extra `pdf`, or print what --html writes",
            exit_status=ExitStatus.USAGE,
        ) from None
    page = FPDF(format="A4")
    page.set_margin(10)
    page.set_auto_page_break(True, 15)
    if font is None:
        page.set_font(_FONT_OF_READERS)
    else:
        try:
            page.add_font("given", fname=font)
        # The library raises what its parser of fonts happens to meet.
        except Exception as error:  # noqa: BLE001
            raise CommandFailure(
                f"--font {font} is no font that a PDF can have: {printable(str(error))}",
                exit_status=ExitStatus.USAGE,
            ) from None
        page.set_font("given")
    page.add_page()
    return page


def _require_characters(page: "FPDF", font: Path | None, texts: Sequence[str]) -> None:
    """Raises CommandFailure for a character that would be left out of the PDF."""
    characters = {character for text in texts for character in text}
    if font is None:
        missing = {
            character
            for character in characters
            if not character.encode(_ENCODING_OF_READERS, "ignore")
        }
        advice = "name a font that has them with --font, or use --html"
    else:
        # The map from characters to glyphs.
        known = page.fonts["given"].cmap  # type: ignore[union-attr]
        missing = {character for character in characters if ord(character) not in known}
        advice = "name another one, or use --html"
    if missing:
        shown = " ".join(sorted(missing)[:10])
        raise CommandFailure(f"the font of the PDF lacks {printable(shown)}: {advice}")


def _paragraph(page: "FPDF", text: str, height: float) -> None:
    page.multi_cell(0, height, text, new_x="LMARGIN", new_y="NEXT")


def _table(
    page: "FPDF", rows: Sequence[Sequence[str]], widths: Sequence[int], sides: Sequence[str]
) -> None:
    """The first of `rows` is repeated on each sheet of paper."""
    with page.table(
        col_widths=tuple(widths),
        text_align=tuple(sides),
        width=sum(widths),
        align=_LEFT,
        borders_layout="HORIZONTAL_LINES",
        line_height=4.5,
        padding=0.6,
    ) as table:
        for row in rows:
            table.row(row)
