"""The platform's commission on a charge, and what of it goes back with a reversal.

Exact arithmetic with named rounding: a rate is rounded to the nearest minor unit, halves up; what
goes back is rounded down.
"""

from decimal import Decimal

from ledger.gateway.deliveries import Fact
from ledger.gateway.endpoints import FeePolicy
from ledger.gateway.reasons import FEE_ABOVE_AMOUNT, FEE_MALFORMED, FEE_MISSING, CannotBook

# 10^12, the largest amount of an event, has 13 digits.
_FEE_DIGITS_MAX = 13


def commission_minor(policy: FeePolicy, fact: Fact) -> int:
    """The commission of a charge, in minor units. Raises CannotBook.

    percent = 12.5, fixed_minor = 30     of 1001: 125.125 + 30 = 155
                                         of 1004: 125.5   + 30 = 156
    """
    match policy.commission:
        case "none":
            fee_minor = 0
        case "processor":
            fee_minor = fact.commission_minor or 0
        case "metadata":
            fee_minor = _in_metadata(policy.key, fact)
        case "rate":
            fee_minor = _by_rate(policy.percent, fact.amount_minor) + policy.fixed_minor
        case "pass_through":
            fee_minor = fact.processor_fee_minor
    if fee_minor < 0:
        raise CannotBook(FEE_MALFORMED, f"the commission is {fee_minor}, below zero")
    if fee_minor > fact.amount_minor:
        raise CannotBook(
            FEE_ABOVE_AMOUNT,
            f"the commission of {fee_minor} is above the amount of {fact.amount_minor}"
            f" (fees: {policy.commission})",
        )
    return fee_minor


def returned_commission_minor(
    reversed_minor: int, charge_amount_minor: int, charge_fee_minor: int
) -> int:
    """What goes back of a charge's commission when `reversed_minor` of its amount do.

    In proportion, rounded down to the minor unit; all of it with all of the amount. It depends on
    nothing but the charge and the reversal, so reversals may come in any order and again. Parts
    that add up to the amount never give back more than was taken, and keep back less than one
    minor unit each.

        of a charge of 1000 with a commission of 155     400 give back 62
                                                         333 give back 51 (51.615)
                                                         1000 give back 155
    """
    return reversed_minor * charge_fee_minor // charge_amount_minor


def _by_rate(percent: Decimal, amount_minor: int) -> int:
    numerator, denominator = percent.as_integer_ratio()
    # floor(x + 1/2), in integers.
    return (2 * amount_minor * numerator + 100 * denominator) // (200 * denominator)


def _in_metadata(key: str, fact: Fact) -> int:
    text = fact.owner.metadata.get(key)
    if text is None:
        raise CannotBook(FEE_MISSING, f"the metadata has no {key}, which holds the commission")
    if not (text.isascii() and text.isdecimal() and len(text) <= _FEE_DIGITS_MAX):
        raise CannotBook(
            FEE_MALFORMED,
            f"the metadata's {key} is {text[:32]!r}, and must be minor units in digits",
        )
    return int(text)
