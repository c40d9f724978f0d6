"""Amounts of callers: exact in, exact out, and never a float."""

import copy
import pickle
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest

from ledger.client import Money
from ledger.domain.money import EXPONENT_BY_CURRENCY, INT64_MAX, INT64_MIN

EXACT: list[tuple[Any, str, int, str]] = [
    ("12.50", "PEN", 1250, "12.50 PEN"),
    ("12", "PEN", 1200, "12.00 PEN"),
    ("-0.05", "PEN", -5, "-0.05 PEN"),
    ("0.00", "PEN", 0, "0.00 PEN"),
    ("1250", "JPY", 1250, "1250 JPY"),
    ("1.234", "KWD", 1234, "1.234 KWD"),
    ("1.2345", "CLF", 12345, "1.2345 CLF"),
    ("92233720368547758.07", "PEN", INT64_MAX, "92233720368547758.07 PEN"),
    ("-92233720368547758.08", "PEN", INT64_MIN, "-92233720368547758.08 PEN"),
    (12, "PEN", 1200, "12.00 PEN"),
    (-3, "KWD", -3000, "-3.000 KWD"),
    (1250, "JPY", 1250, "1250 JPY"),
    (Decimal("12.5"), "PEN", 1250, "12.50 PEN"),
    (Decimal("12.500000"), "PEN", 1250, "12.50 PEN"),
    (Decimal("-0.050"), "PEN", -5, "-0.05 PEN"),
    (Decimal("1E+3"), "JPY", 1000, "1000 JPY"),
    (Decimal("0E-1000000"), "PEN", 0, "0.00 PEN"),
    (Decimal("92233720368547758.07"), "PEN", INT64_MAX, "92233720368547758.07 PEN"),
]


@pytest.mark.parametrize(("amount", "currency", "minor", "text"), EXACT)
def test_amount_is_exact(amount: Any, currency: str, minor: int, text: str) -> None:
    """What is given is what is held, in minor units and as text, whatever the Decimal context."""
    with localcontext(prec=3):
        money = Money(amount, currency)
    assert (money.minor, str(money)) == (minor, text)
    assert money == Money.of_minor(minor, currency)
    assert Money(money.amount, currency) == money


@pytest.mark.parametrize("currency", EXPONENT_BY_CURRENCY)
def test_every_currency_goes_there_and_back(currency: str) -> None:
    money = Money.of_minor(-123_456_789, currency)
    assert Money(str(money).split()[0], currency) == money
    assert eval(repr(money)) == money


@pytest.mark.parametrize(
    "amount", [12.5, 12.0, float("nan"), True, None, b"12.50", Fraction(25, 2)]
)
def test_float_is_no_money(amount: Any) -> None:
    """Nor is anything else that is not text, int or Decimal."""
    with pytest.raises(TypeError, match="str, an int or a Decimal"):
        Money(amount, "PEN")
    with pytest.raises(TypeError, match="minor units are an int"):
        Money.of_minor(amount, "PEN")


@pytest.mark.parametrize(
    ("amount", "currency", "problem"),
    [
        ("12.5", "PEN", "must be an amount in PEN such as 12.00 or 12"),
        ("12.505", "PEN", "must be an amount"),
        ("1,250.00", "PEN", "must be an amount"),
        (" 12.50", "PEN", "must be an amount"),
        ("--1", "PEN", "must be an amount"),
        ("+1", "PEN", "must be an amount"),
        ("1e3", "JPY", "must be an amount"),
        ("12.00", "JPY", "must be an amount in JPY such as 12"),
        ("12.50", "pen", "upper case"),
        (12, "pen", "upper case"),
        (Decimal(12), "XXX", "no currency"),
        ("12.50", "XAU", "no currency"),
        (Decimal("12.505"), "PEN", "more than the 2 decimals of PEN"),
        (Decimal("1E-1000000"), "PEN", "more than the 2 decimals"),
        (Decimal("0.5"), "JPY", "more than the 0 decimals"),
        (Decimal("NaN"), "PEN", "no amount"),
        (Decimal("-Infinity"), "PEN", "no amount"),
        (Decimal("1E+1000000"), "PEN", "does not fit 64 bits"),
        ("92233720368547758.08", "PEN", "do not fit 64 bits"),
        (10**18, "PEN", "do not fit 64 bits"),
    ],
)
def test_what_a_currency_cannot_hold_is_refused(amount: Any, currency: str, problem: str) -> None:
    """Nothing is rounded and nothing is guessed."""
    with pytest.raises(ValueError, match=problem):
        Money(amount, currency)


def test_arithmetic_stays_in_one_currency() -> None:
    ten, three = Money("10.00", "PEN"), Money("3.00", "PEN")
    assert (ten + three, ten - three, three - ten) == (
        Money(13, "PEN"),
        Money(7, "PEN"),
        Money(-7, "PEN"),
    )
    assert (3 * ten, ten * 3, -ten, abs(-ten)) == (
        Money(30, "PEN"),
        Money(30, "PEN"),
        Money(-10, "PEN"),
        ten,
    )
    assert sum([ten, three], Money(0, "PEN")) == Money(13, "PEN")
    assert (max(ten, three), sorted([ten, three])) == (ten, [three, ten])
    assert (bool(Money(0, "PEN")), bool(three)) == (False, True)
    yen = Money(10, "JPY")
    for wrong in (lambda: ten + yen, lambda: ten - yen, lambda: ten < yen, lambda: ten >= yen):
        with pytest.raises(ValueError, match=r"10\.00 PEN and 10 JPY are of two currencies"):
            wrong()
    assert ten != yen
    assert ten not in [10, "10.00 PEN"]


def test_arithmetic_takes_no_numbers_and_does_not_divide() -> None:
    ten: Any = Money("10.00", "PEN")
    for wrong in (
        "ten + 1",
        "0 + ten",
        "ten * 1.5",
        "ten * ten",
        "ten * True",
        "ten / 2",
        "ten // 2",
        "ten < 11",
    ):
        with pytest.raises(TypeError):
            eval(wrong, {"ten": ten})


def test_sum_beyond_int64_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 64 bits"):
        Money.of_minor(INT64_MAX, "PEN") + Money.of_minor(1, "PEN")


def test_money_is_a_value() -> None:
    """It cannot be changed, is a key, is copied and pickled, and is written in columns."""
    money = Money("12.50", "PEN")
    with pytest.raises(AttributeError):
        money.minor = 1  # type: ignore[misc]
    assert {money: 1}[Money.of_minor(1250, "PEN")] == 1
    assert pickle.loads(pickle.dumps(money)) == copy.deepcopy(money) == money
    assert (f"{money}", f"{money:>12}|") == ("12.50 PEN", "   12.50 PEN|")
    assert money.amount == Decimal("12.50")
