"""What a processor means by an amount, in the ledger's minor units: exact, or refused.

A processor may count other minor units of a currency than ISO 4217, whose decimals the ledger uses:
Stripe's 1250 of ISK is 12.50, the ledger's 12.50 ISK does not exist.
"""

from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType

from ledger.domain.money import EXPONENT_BY_CURRENCY
from ledger.gateway.payloads import Malformed

# Where a processor's decimals of a currency are not those of ISO 4217, by the processor's pages on
# currencies. An endpoint may add to it: `exponents`.
STRIPE_EXPONENTS: Mapping[str, int] = MappingProxyType({"ISK": 2, "MGA": 0, "UGX": 2})
ADYEN_EXPONENTS: Mapping[str, int] = MappingProxyType({"CLP": 2, "CVE": 0, "IDR": 0, "ISK": 2})

# More decimals than any currency has, so that no amount is as long as a processor likes.
EXPONENT_MAX = 6


def processor_exponent(
    currency: str, table: Mapping[str, int], exceptions: Mapping[str, int]
) -> int:
    """The decimals by which a processor counts: the endpoint's, the processor's, else ISO's.

    Raises Malformed for a currency that the ledger does not know.
    """
    for exponents in (exceptions, table, EXPONENT_BY_CURRENCY):
        if (exponent := exponents.get(currency)) is not None:
            return exponent
    raise Malformed(f"the ledger knows no currency {currency[:16]!r}")


def minor_units(amount: int, currency: str, processor_exponent: int) -> int:
    """The ledger's minor units of `amount`, which counts units of 10^-processor_exponent.

        minor_units(1000, "ISK", 2) == 10
        minor_units(1050, "ISK", 2)          raises: 10.50 ISK does not exist

    Raises Malformed for an unknown currency, and if it is not a whole number of minor units.
    """
    if currency not in EXPONENT_BY_CURRENCY:
        raise Malformed(f"the ledger knows no currency {currency[:16]!r}")
    surplus = processor_exponent - EXPONENT_BY_CURRENCY[currency]
    if surplus <= 0:
        return amount * int(10**-surplus)
    minor, rest = divmod(amount, int(10**surplus))
    if rest:
        raise Malformed(
            f"{amount} with {processor_exponent} decimals is no whole number of minor units of"
            f" {currency}"
        )
    return minor


def minor_units_of_major(amount: Decimal, currency: str) -> int:
    """The minor units of an amount in whole units: 12.5 PEN is 1250.

    Raises Malformed for an unknown currency, for more decimals than it has (but for zeros), and
    for numbers beyond any amount.
    """
    if currency not in EXPONENT_BY_CURRENCY:
        raise Malformed(f"the ledger knows no currency {currency[:16]!r}")
    # 1e999999 would be multiplied out; of more than 28 digits the last would be rounded away.
    if not amount.is_finite() or amount.adjusted() > 18 or len(amount.as_tuple().digits) > 28:
        raise Malformed("an amount is beyond any that the ledger books")
    minor = amount.scaleb(EXPONENT_BY_CURRENCY[currency])
    if minor != minor.to_integral_value():
        raise Malformed(f"{amount} is no whole number of minor units of {currency}")
    return int(minor)
