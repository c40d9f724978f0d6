"""An amount with its currency, for callers: exact, and never a float."""

from dataclasses import dataclass
from decimal import Decimal
from functools import total_ordering
from typing import Any, Self

from ledger.domain.money import (
    EXPONENT_BY_CURRENCY,
    INT64_MAX,
    INT64_MIN,
    format_minor,
    is_currency,
    parse_major,
)


@total_ordering
@dataclass(frozen=True, slots=True, init=False, repr=False, order=False)
class Money:
    """An amount of one ISO 4217 currency, held as the whole number of its minor units.

    `minor` fits int64. Two amounts are equal if amount and currency are; an amount of zero is
    false.

        Money("12.50", "PEN")              # as people write it: all decimals, or none
        Money(12, "PEN")                   # a whole number is in major units: 12.00 PEN
        Money(Decimal("12.5"), "PEN")      # any Decimal that is exact in the currency
        Money.of_minor(1250, "PEN")        # minor units say so
    """

    minor: int
    currency: str

    def __init__(self, amount: str | int | Decimal, currency: str) -> None:
        """Raises TypeError for a float, ValueError if the currency cannot hold `amount` exactly."""
        self._set(_minor_of(amount, currency), currency)

    @classmethod
    def of_minor(cls, minor: int, currency: str) -> Self:
        """The amount of so many minor units: 1250 PEN is 12.50 PEN, 1250 JPY is 1250 JPY.

        Raises TypeError if `minor` is no int, ValueError if the currency is not known here.
        """
        if not isinstance(minor, int) or isinstance(minor, bool):
            raise TypeError(f"minor units are an int, not {type(minor).__name__}")
        _check_currency(currency)
        money = object.__new__(cls)
        money._set(minor, currency)
        return money

    def _set(self, minor: int, currency: str) -> None:
        if not INT64_MIN <= minor <= INT64_MAX:
            raise ValueError(f"{minor} minor units do not fit 64 bits")
        object.__setattr__(self, "minor", minor)
        object.__setattr__(self, "currency", currency)

    @property
    def amount(self) -> Decimal:
        """The amount in major units, with all decimals of the currency."""
        return Decimal(format_minor(self.minor, self.currency))

    def __str__(self) -> str:
        return f"{format_minor(self.minor, self.currency)} {self.currency}"

    def __repr__(self) -> str:
        return f'Money("{format_minor(self.minor, self.currency)}", "{self.currency}")'

    def __format__(self, specification: str) -> str:
        """Aligns the text, as for a str: f"{fee:>14}"."""
        return format(str(self), specification)

    def __bool__(self) -> bool:
        return self.minor != 0

    def __lt__(self, other: "Money") -> bool:
        if not isinstance(other, Money):
            return NotImplemented
        return self.minor < self._same_currency(other)

    def __add__(self, other: "Money") -> Self:
        if not isinstance(other, Money):
            return NotImplemented
        return self.of_minor(self.minor + self._same_currency(other), self.currency)

    def __sub__(self, other: "Money") -> Self:
        if not isinstance(other, Money):
            return NotImplemented
        return self.of_minor(self.minor - self._same_currency(other), self.currency)

    def __mul__(self, factor: int) -> Self:
        """So many times the amount. There is no division: it would need a rule for the rest."""
        if not isinstance(factor, int) or isinstance(factor, bool):
            return NotImplemented
        return self.of_minor(self.minor * factor, self.currency)

    __rmul__ = __mul__

    def __neg__(self) -> Self:
        return self.of_minor(-self.minor, self.currency)

    def __abs__(self) -> Self:
        return self.of_minor(abs(self.minor), self.currency)

    def _same_currency(self, other: "Money") -> int:
        if other.currency != self.currency:
            raise ValueError(f"{self} and {other} are of two currencies")
        return other.minor


def _minor_of(amount: Any, currency: str) -> int:
    if isinstance(amount, str):
        digits = amount.removeprefix("-")
        try:
            minor = parse_major(digits, currency)
        except ValueError as error:
            raise ValueError(f"{amount!r} {error}") from None
        return minor if digits == amount else -minor
    if isinstance(amount, Decimal):
        _check_currency(currency)
        return _minor_of_decimal(amount, currency)
    if isinstance(amount, int) and not isinstance(amount, bool):
        _check_currency(currency)
        return int(amount * 10 ** EXPONENT_BY_CURRENCY[currency])
    raise TypeError(
        f"money is made of a str, an int or a Decimal, not of a {type(amount).__name__}:"
        ' write Money("12.50", "PEN")'
    )


def _minor_of_decimal(amount: Decimal, currency: str) -> int:
    if not amount.is_finite():
        raise ValueError(f"{amount} is no amount")
    # By digits, as the precision of the Decimal context would round.
    sign, digits, exponent = amount.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"{amount} is no amount")
    shift = exponent + EXPONENT_BY_CURRENCY[currency]
    if shift + len(digits) > len(str(INT64_MAX)):
        raise ValueError(f"{amount} {currency} does not fit 64 bits")
    unscaled = int("".join(map(str, digits)))
    if shift >= 0:
        minor, rest = int(unscaled * 10**shift), 0
    elif -shift > len(digits):
        # Smaller than one minor unit, however small: its power of ten may be huge.
        minor, rest = 0, unscaled
    else:
        minor, rest = divmod(unscaled, int(10**-shift))
    if rest:
        raise ValueError(
            f"{amount} has more than the {EXPONENT_BY_CURRENCY[currency]} decimals of {currency}"
        )
    return -minor if sign else minor


def _check_currency(currency: str) -> None:
    if not isinstance(currency, str):
        raise TypeError(f"a currency is a str, not {type(currency).__name__}")
    if not is_currency(currency):
        hint = ": currencies are in upper case" if is_currency(currency.upper()) else ""
        raise ValueError(f"{currency!r} is no currency known here{hint}")
