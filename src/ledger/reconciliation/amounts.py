"""Amounts as reports write them, in whole units: "45.99", "4.476,23", "(5.00)", "-8.85".

Exact: a text becomes a Decimal and then minor units; what is not whole in them is refused.
"""

import re
from decimal import Decimal

from ledger.domain.money import EXPONENT_BY_CURRENCY

# Fits int64 with room for sums; no report has more in one cell.
DIGITS_MAX = 18

POINT = "."
COMMA = ","

_MINUS = ("-", "\u2212", "\u2013")
# Blanks, no-break and thin ones, and apostrophes stand between groups of three digits.
_OTHER_GROUPING = " \u00a0\u202f\u2009'\u2019"
_EXPONENT = re.compile(r"[0-9.,]+[eE][+-]?[0-9]+")
_GROUPED = re.compile(rf"[0-9]{{1,3}}(?:([{_OTHER_GROUPING}.,])[0-9]{{3}})(?:\1[0-9]{{3}})*")
_NAMES = {POINT: "a point", COMMA: "a comma"}


class AmountReader:
    """Reads the amounts of one file, whose decimal mark is the same throughout.

    The mark is given, or learnt from the first amount that leaves no doubt.
    """

    def __init__(self, decimal_mark: str | None = None, *, is_in_minor_units: bool = False) -> None:
        self._mark = decimal_mark
        self._is_in_minor_units = is_in_minor_units

    def learn(self, text: str) -> None:
        """Learns the decimal mark from an amount that may come later."""
        if self._mark is None:
            self._mark = _mark_of(_unsigned(text.strip())[1])

    def read(self, text: str, currency: str) -> int:
        """The minor units of an amount that is not empty. Raises ValueError with the rule."""
        if self._mark is not None and not self._is_in_minor_units:
            # Almost every amount: digits with the mark, which need no closer look.
            whole, mark, decimals = text.removeprefix("-").partition(self._mark)
            if (
                (whole + decimals).isdecimal()
                and text.isascii()
                and whole
                and bool(mark) == bool(decimals)
            ):
                amount_minor = _minor_of(f"{whole}.{decimals or '0'}", currency)
                return -amount_minor if text[0] == "-" else amount_minor
        sign, body = _unsigned(text.strip())
        if not body:
            raise ValueError("is not an amount")
        if body[0] in "=@+-" or text.lstrip()[:1] in ("=", "@"):
            raise ValueError("is a formula, not an amount")
        if _EXPONENT.fullmatch(body):
            raise ValueError("was damaged by a spreadsheet: it has an exponent")
        if self._is_in_minor_units:
            if not re.fullmatch(f"[0-9]{{1,{DIGITS_MAX}}}", body):
                raise ValueError("must be whole minor units, in digits only")
            return sign * int(body)
        return sign * _minor_of(self._plain(body), currency)

    def _plain(self, body: str) -> str:
        """The amount with a point as its decimal mark, and without grouping."""
        found = _mark_of(body)
        if found is None and (POINT in body or COMMA in body) and self._mark is None:
            raise ValueError(
                f"may be {body.replace(POINT, COMMA).replace(COMMA, '')} or have three decimals:"
                " name the decimal mark"
            )
        if found is not None and self._mark is not None and found != self._mark:
            raise ValueError(
                f"has {_NAMES[found]} as its decimal mark, where the file has {_NAMES[self._mark]}"
            )
        self._mark = self._mark or found
        whole, mark, decimals = body.partition(self._mark or POINT)
        if mark and not (decimals.isascii() and decimals.isdigit()):
            raise ValueError("is not an amount")
        if not (whole.isascii() and whole.isdigit()):
            if whole and not _GROUPED.fullmatch(whole):
                raise ValueError("is not an amount")
            whole = re.sub("[^0-9]", "", whole)
        if not whole and not mark:
            raise ValueError("is not an amount")
        return f"{whole or '0'}.{decimals or '0'}"


def _unsigned(text: str) -> tuple[int, str]:
    """The sign and the rest. Minus may stand before or behind, or be parentheses."""
    if text.startswith("(") and text.endswith(")"):
        return -1, text[1:-1].strip()
    if text.startswith(_MINUS):
        return -1, text[1:].strip()
    if text.endswith(_MINUS):
        return -1, text[:-1].strip()
    return 1, text.removeprefix("+")


def _mark_of(body: str) -> str | None:
    """The decimal mark that the amount shows; None if it shows none, or leaves a doubt.

    The last of two different signs is the mark. A sign that repeats is grouping. A single sign is
    grouping or the mark if exactly three digits follow it: that is the doubt.
    """
    last_point, last_comma = body.rfind(POINT), body.rfind(COMMA)
    if last_point >= 0 and last_comma >= 0:
        return POINT if last_point > last_comma else COMMA
    if last_point < 0 and last_comma < 0:
        return None
    sign = POINT if last_point >= 0 else COMMA
    if body.count(sign) > 1:
        return COMMA if sign == POINT else POINT
    before, _, after = body.partition(sign)
    is_group = len(after) == 3 and 1 <= len(before) <= 3 and before != "0"
    return None if is_group else sign


def _minor_of(plain: str, currency: str) -> int:
    exponent = EXPONENT_BY_CURRENCY[currency]
    whole, _, decimals = plain.partition(POINT)
    decimals = decimals.rstrip("0")
    if len(decimals) > exponent:
        raise ValueError(f"has more decimals than {currency} has, which is {exponent}")
    if len(whole.lstrip("0")) + exponent > DIGITS_MAX:
        raise ValueError("is too large")
    return int(Decimal(f"{whole}.{decimals or '0'}").scaleb(exponent))
