"""Encodings of reports."""

import io

import pytest

from ledger.reconciliation.problems import ReportUnusable
from ledger.reconciliation.texts import find_text

TEXT = "Tipo;Año\r\nVenta;€5\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_decide_and_utf8_needs_none(encoding: str) -> None:
    found = find_text(io.BytesIO(TEXT.encode(encoding)))
    with found.open() as text:
        assert text.read() == TEXT
    assert found.note == ""


def test_other_bytes_are_latin1_which_is_said() -> None:
    found = find_text(io.BytesIO("Tipo\nVenta\nAño\n".encode("latin-1")))
    with found.open() as text:
        assert text.read() == "Tipo\nVenta\nAño\n"
    assert found.note == "line 3 is not UTF-8: the file is read as Latin-1"


def test_a_character_across_two_reads_is_whole() -> None:
    """The file is longer than what is read at once, and no character falls apart."""
    raw = ("a" + "ñ" * 1_500_000).encode()
    assert find_text(io.BytesIO(raw)).encoding == "utf-8"
    cut = find_text(io.BytesIO(raw[:-1]))
    assert cut.encoding == "latin-1"


@pytest.mark.parametrize(
    ("raw", "line", "why"),
    [
        (b"", 0, "is empty"),
        ("Tipo\nVenta\n".encode("utf-16-le"), 1, "byte-order mark"),
        (b"Tipo\nVen\0ta\n", 2, "has a NUL"),
    ],
)
def test_what_is_no_text_is_refused(raw: bytes, line: int, why: str) -> None:
    with pytest.raises(ReportUnusable, match=why) as refused:
        find_text(io.BytesIO(raw))
    assert refused.value.problems[0].line == line


def test_half_a_character_of_utf16_is_refused() -> None:
    found = find_text(io.BytesIO("Tipo\n".encode("utf-16") + b"\x00"))
    with pytest.raises(ReportUnusable, match="is not UTF-16"), found.open() as text:
        text.read()
