"""Amounts as text, for currencies with and without decimals."""

import pytest

from ledger.domain.money import EXPONENT_BY_CURRENCY, format_minor, is_currency, parse_major


@pytest.mark.parametrize(
    ("amount_minor", "currency", "written"),
    [
        (1250, "PEN", "12.50"),
        (1250, "JPY", "1250"),
        (1250, "KWD", "1.250"),
        (1250, "CLF", "0.1250"),
        (5, "USD", "0.05"),
        (0, "USD", "0.00"),
        (-5, "USD", "-0.05"),
        (-1250, "JPY", "-1250"),
        (2**63 - 1, "PEN", "92233720368547758.07"),
        (-(2**63), "PEN", "-92233720368547758.08"),
    ],
)
def test_amount_is_written_with_the_decimals_of_its_currency(
    amount_minor: int, currency: str, written: str
) -> None:
    """No digit is lost or rounded, at the ends of int64 either."""
    assert format_minor(amount_minor, currency) == written


@pytest.mark.parametrize(
    "code",
    [
        "",
        "pen",
        " PEN",
        "PEN ",
        "PE",
        "PENN",
        "PÉN",
        "\uff30\uff25\uff2e",
        "XXX",
        "XAU",
        "ZZZ",
        "123",
    ],
)
def test_other_codes_are_no_currencies(code: str) -> None:
    """Neither blanks nor lower case are mended, and gold (XAU) is no currency."""
    assert not is_currency(code)


def test_currencies_that_iso_has_withdrawn_are_known() -> None:
    """Books in such a currency can still be read and paid out."""
    assert {"BGN", "HRK", "ANG"} <= set(EXPONENT_BY_CURRENCY)
    assert set(EXPONENT_BY_CURRENCY.values()) == {0, 2, 3, 4}


@pytest.mark.parametrize(
    ("text", "currency", "amount_minor"),
    [
        ("12.50", "PEN", 1250),
        ("12", "PEN", 1200),
        ("0.05", "USD", 5),
        ("1250", "JPY", 1250),
        ("1.250", "KWD", 1250),
        ("0.1250", "CLF", 1250),
        ("007.00", "USD", 700),
    ],
)
def test_amount_is_read_with_all_decimals_or_none(
    text: str, currency: str, amount_minor: int
) -> None:
    """As people write it: leading zeros do not matter."""
    assert parse_major(text, currency) == amount_minor


@pytest.mark.parametrize(
    ("text", "currency"),
    [
        *(
            (text, "PEN")
            for text in (
                "12.5",
                "12.500",
                "12,50",
                "1,000.00",
                "1_0",
                "1e3",
                "+1",
                "-1",
                " 1",
                "",
                ".50",
                "12.",
                "１",
            )
        ),
        ("12.50", "JPY"),
        ("1.25", "KWD"),
        ("1", "XXX"),
        ("1" * 20, "PEN"),
    ],
)
def test_ambiguous_amount_is_refused(text: str, currency: str) -> None:
    """Nothing is rounded, filled up or guessed."""
    with pytest.raises(ValueError):
        parse_major(text, currency)


def test_currency_in_lower_case_is_named() -> None:
    """The rule says what to write instead."""
    with pytest.raises(ValueError, match="is in 'pen': currencies are in upper case"):
        parse_major("10.00", "pen")
