"""A processor's amounts in the ledger's minor units: exact, or refused."""

from decimal import Decimal

import pytest

from ledger.gateway.amounts import (
    ADYEN_EXPONENTS,
    STRIPE_EXPONENTS,
    minor_units,
    minor_units_of_major,
    processor_exponent,
)
from ledger.gateway.payloads import Malformed


@pytest.mark.parametrize(
    ("amount", "currency", "exponent", "minor"),
    [
        (1250, "PEN", 2, 1250),
        (1250, "JPY", 0, 1250),
        (1000, "ISK", 2, 10),
        (-1000, "ISK", 2, -10),
        (500, "MGA", 0, 50_000),
        (1230, "KWD", 3, 1230),
        (335, "IDR", 0, 33_500),
        (100_000, "CLP", 2, 1000),
        (0, "CLP", 2, 0),
    ],
)
def test_an_amount_is_counted_in_the_ledgers_decimals(
    amount: int, currency: str, exponent: int, minor: int
) -> None:
    assert minor_units(amount, currency, exponent) == minor


@pytest.mark.parametrize(("amount", "currency"), [(1050, "ISK"), (1, "CLP"), (-1, "CLP")])
def test_a_part_of_a_minor_unit_is_refused(amount: int, currency: str) -> None:
    with pytest.raises(Malformed, match="no whole number of minor units"):
        minor_units(amount, currency, 2)


def test_the_endpoints_exponents_come_before_the_processors_and_those_before_isos() -> None:
    assert processor_exponent("ISK", STRIPE_EXPONENTS, {"ISK": 0}) == 0
    assert processor_exponent("ISK", STRIPE_EXPONENTS, {}) == 2
    assert processor_exponent("CLP", ADYEN_EXPONENTS, {}) == 2
    assert processor_exponent("JPY", ADYEN_EXPONENTS, {}) == 0


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("95.9", "ARS", 9590),
        ("100.00", "CLP", 100),
        ("1E+2", "ARS", 10_000),
        ("0.010", "BRL", 1),
        ("-4.10", "BRL", -410),
        ("123456789012345678.01", "BRL", 12_345_678_901_234_567_801),
    ],
)
def test_an_amount_in_whole_units_is_exact(amount: str, currency: str, minor: int) -> None:
    assert minor_units_of_major(Decimal(amount), currency) == minor


@pytest.mark.parametrize("amount", ["0.001", "1e999999", "NaN", "Infinity", "1." + "0" * 50])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(Malformed):
        minor_units_of_major(Decimal(amount), "BRL")


@pytest.mark.parametrize("currency", ["XXX", "usd", "", "\x00" * 100])
def test_an_unknown_currency_is_refused(currency: str) -> None:
    with pytest.raises(Malformed, match="knows no currency"):
        processor_exponent(currency, {}, {})
    with pytest.raises(Malformed, match="knows no currency"):
        minor_units(1, currency, 2)
    with pytest.raises(Malformed, match="knows no currency"):
        minor_units_of_major(Decimal(1), currency)
