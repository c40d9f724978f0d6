"""JSON of a processor is read exactly, and every field is checked as it is taken."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from ledger.gateway.payloads import Malformed, Payload, parse


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-05-31T20:15:00+02:00", datetime(2026, 5, 31, 18, 15, tzinfo=UTC)),
        ("2026-05-31T20:15:00.250-04:00", datetime(2026, 6, 1, 0, 15, 0, 250_000, tzinfo=UTC)),
        ("2026-05-31T20:15:00Z", datetime(2026, 5, 31, 20, 15, tzinfo=UTC)),
        ("2026-05-31T20:15:00", None),
        ("2026-05-31", None),
        ("0001-01-01T00:00:00+02:00", None),
        ("tomorrow", None),
        ("", None),
    ],
)
def test_an_instant_has_an_offset(text: str, instant: datetime | None) -> None:
    """An instant of no zone could be hours off, so it is none."""
    payload = Payload({"at": text})
    if instant is None:
        with pytest.raises(Malformed, match="at is no instant"):
            payload.instant("at")
    else:
        assert payload.instant("at") == instant
        assert payload.instant("at").tzinfo is UTC


@pytest.mark.parametrize("value", [None, 1780000000.5, [], {}, True])
def test_what_is_no_text_is_no_instant(value: object) -> None:
    """The message names the field."""
    with pytest.raises(Malformed, match="at must be a text"):
        Payload({"at": value}).instant("at")


def test_numbers_are_exact() -> None:
    """Floats would lose digits of amounts, and other readers those of ids."""
    payload = parse(b'{"amount": 4.10, "id": 217000061307271001, "flag": true}')
    assert str(payload.decimal("amount")) == "4.10"
    assert payload.decimal("id") == Decimal(217000061307271001)
    assert payload.text("id") == "217000061307271001"
    for name in ("amount", "flag"):
        with pytest.raises(Malformed):
            payload.integer(name)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"[1]",
        b"7",
        b"",
        b"\xff{}",
        b"[" * 100_000,
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_two_readers_may_see_differently_is_malformed(body: bytes) -> None:
    """So that an amount is never another one than the sender's."""
    with pytest.raises(Malformed):
        parse(body)
