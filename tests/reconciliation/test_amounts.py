"""Amounts of reports: exact, however they are written; what is in doubt is refused."""

from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.money import EXPONENT_BY_CURRENCY, format_minor
from ledger.reconciliation.amounts import DIGITS_MAX, AmountReader

CURRENCIES = sorted(EXPONENT_BY_CURRENCY)


@pytest.mark.parametrize(
    ("text", "currency", "amount_minor"),
    [
        ("45.99", "GBP", 4599),
        ("-5.00", "GBP", -500),
        ("−5.00", "GBP", -500),
        ("(5.00)", "GBP", -500),
        ("5.00-", "GBP", -500),
        ("+5.00", "GBP", 500),
        ("0.5", "GBP", 50),
        (".5", "GBP", 50),
        ("12", "GBP", 1200),
        ("4.476,23", "EUR", 447623),
        ("4,476.23", "EUR", 447623),
        ("1.234.567", "EUR", 123456700),
        ("1,234,567.8", "EUR", 123456780),
        ("1 234,50", "EUR", 123450),
        ("1\u00a0234,50", "EUR", 123450),
        ("1\u202f234\u202f567,5", "EUR", 123456750),
        ("1'234.50", "CHF", 123450),
        ("1’234.50", "CHF", 123450),
        ("1234.567", "KWD", 1234567),
        ("4000.00", "CLP", 4000),
        ("335", "JPY", 335),
        ("3.450000", "EUR", 345),
        ("  7.10 ", "EUR", 710),
        ("-0.00", "EUR", 0),
        ("0", "EUR", 0),
        ("9999999999999999.99", "EUR", 999999999999999999),
    ],
)
def test_amounts_are_read_exactly(text: str, currency: str, amount_minor: int) -> None:
    assert AmountReader().read(text, currency) == amount_minor


@pytest.mark.parametrize(
    ("text", "currency", "why"),
    [
        ("", "EUR", "not an amount"),
        ("-", "EUR", "not an amount"),
        ("12.345,678", "EUR", "more decimals"),
        ("0.001", "EUR", "more decimals"),
        ("1.5", "JPY", "more decimals"),
        ("1.234", "EUR", "name the decimal mark"),
        ("1,234", "EUR", "name the decimal mark"),
        ("-1,234", "JPY", "name the decimal mark"),
        ("1.2E+05", "EUR", "damaged by a spreadsheet"),
        ("2E+15", "EUR", "damaged by a spreadsheet"),
        ("1e3", "EUR", "damaged by a spreadsheet"),
        ("=1+1", "EUR", "formula"),
        ("@SUM(A1)", "EUR", "formula"),
        ("--5", "EUR", "formula"),
        ("€5.00", "EUR", "not an amount"),
        ("5.00 EUR", "EUR", "not an amount"),
        ("1,23,456.00", "EUR", "not an amount"),
        ("12,34.00", "EUR", "not an amount"),
        ("1.234.56", "EUR", "not an amount"),
        ("1.2.3", "EUR", "not an amount"),
        ("٣.٥٠", "EUR", "not an amount"),
        ("NaN", "EUR", "not an amount"),
        ("Infinity", "EUR", "not an amount"),
        ("0x10", "EUR", "not an amount"),
        ("1_000", "EUR", "not an amount"),
        ("5,", "EUR", "not an amount"),
        ("99999999999999999.99", "EUR", "too large"),
        ("9" * 5000, "EUR", "too large"),
    ],
)
def test_what_is_no_amount_is_refused(text: str, currency: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        AmountReader().read(text, currency)


def test_three_digits_behind_a_sign_follow_the_rest_of_the_file() -> None:
    """ "1.234" is 1234 beside "4,50", and has too many decimals beside "4.50"."""
    with_commas = AmountReader()
    assert with_commas.read("4,50", "EUR") == 450
    assert with_commas.read("1.234", "EUR") == 123400
    with_points = AmountReader()
    with_points.learn("4.50")
    with pytest.raises(ValueError, match="more decimals"):
        with_points.read("1.234", "EUR")
    assert with_points.read("1,234", "EUR") == 123400


def test_a_file_has_one_decimal_mark() -> None:
    reader = AmountReader()
    assert reader.read("4.50", "EUR") == 450
    with pytest.raises(ValueError, match="has a comma as its decimal mark"):
        reader.read("4,50", "EUR")


def test_minor_units_are_digits_only() -> None:
    reader = AmountReader(is_in_minor_units=True)
    assert reader.read("-1250", "JPY") == -1250
    for text in ("12.50", "1,250", "1e3", "9" * 19):
        with pytest.raises(ValueError, match=r"minor units|exponent"):
            reader.read(text, "EUR")


@given(
    st.integers(-(10**DIGITS_MAX) + 1, 10**DIGITS_MAX - 1),
    st.sampled_from(CURRENCIES),
    st.sampled_from([(".", ""), (",", ""), (".", ","), (",", "."), (",", " "), (".", "'")]),
)
def test_every_amount_is_read_as_it_was_written(
    amount_minor: int, currency: str, signs: tuple[str, str]
) -> None:
    """With either decimal mark, with grouping and without, in every currency."""
    mark, grouping = signs
    plain = format_minor(abs(amount_minor), currency)
    whole, _, decimals = plain.partition(".")
    if grouping:
        whole = f"{int(whole):,}".replace(",", grouping)
    text = ("-" if amount_minor < 0 else "") + whole + (f"{mark}{decimals}" if decimals else "")
    reader = AmountReader(mark)
    # Grouping with a sign that may be the mark is only told apart by the mark that is given.
    assert reader.read(text, currency) == amount_minor


@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=2, min_value=-(10**12), max_value=10**12
    )
)
def test_reading_is_that_of_decimal(value: Decimal) -> None:
    assert AmountReader(".").read(f"{value:f}", "EUR") == int(value * 100)


@given(st.text(max_size=30))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Any text is an amount or is refused."""
    with suppress(ValueError):
        assert abs(AmountReader().read(text, "EUR")) < 10**DIGITS_MAX
