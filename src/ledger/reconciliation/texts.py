"""Opens a report as text: finds its encoding, and what no text has."""

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, TextIO

from ledger.reconciliation.problems import Problem, ReportUnusable

_CHUNK_BYTES = 1024 * 1024
# The longer one first: the mark of UTF-16 is the beginning of that of UTF-32.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NAMES = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "utf-16": "UTF-16", "utf-32": "UTF-32"}


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of text: its encoding, and a sentence about it where that is worth one."""

    source: BinaryIO
    encoding: str
    note: str = ""

    @contextmanager
    def open(self) -> Iterator[TextIO]:
        """The text from the beginning, with its ends of line. Raises ReportUnusable in the block.

        The file stays open.
        """
        self.source.seek(0)
        text = io.TextIOWrapper(self.source, encoding=self.encoding, newline="")
        try:
            yield text
        except UnicodeError as error:
            raise ReportUnusable(
                [Problem(0, "", f"is not {_NAMES.get(self.encoding, self.encoding)}: {error}")]
            ) from None
        finally:
            text.detach()


def find_text(source: BinaryIO) -> TextFile:
    """The text in a seekable file. Reads all of it once. Raises ReportUnusable.

    Byte-order marks decide. A file without one is UTF-8, or else Latin-1, which any bytes are.
    """
    source.seek(0)
    beginning = source.read(4)
    if not beginning:
        raise ReportUnusable([Problem(0, "", "is empty")])
    for mark, encoding in _MARKS:
        if beginning.startswith(mark):
            return TextFile(source, encoding)
    source.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, is_utf8 = 1, True
    while chunk := source.read(_CHUNK_BYTES):
        if (place := chunk.find(b"\0")) >= 0:
            raise ReportUnusable(
                [
                    Problem(
                        line + chunk.count(b"\n", 0, place),
                        "",
                        "has a NUL, which no text has; UTF-16 needs a byte-order mark",
                    )
                ]
            )
        if is_utf8:
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                is_utf8 = False
                broken_line = line + chunk.count(b"\n", 0, error.start)
        line += chunk.count(b"\n")
    if is_utf8:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            is_utf8, broken_line = False, line
    if is_utf8:
        return TextFile(source, "utf-8")
    return TextFile(
        source, "latin-1", f"line {broken_line} is not UTF-8: the file is read as Latin-1"
    )
