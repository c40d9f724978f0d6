"""The contract's words and amounts as commands show them: a server that is newer than the command may send any."""

import re
from functools import lru_cache
from typing import Any

from ledger.domain.money import format_minor, is_currency


# Bounded, as a number that only a newer server knows may be any.
@lru_cache(maxsize=1024)
def word_of(enum: Any, number: int) -> str:
    """The name of an enum's value in small letters without its prefix: `payout_in_flight`.

    A value that only a newer server knows is its number: `7`.
    """
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
    try:
        name: str = enum.Name(number)
    except ValueError:
        return str(number)
    return name.removeprefix(prefix).lower()


def amount_of(amount_minor: int, currency: str) -> str:
    """The amount as people write it, 12.50; of a currency that only a newer server knows, the number of its minor units."""
    return (
        format_minor(amount_minor, currency)
        if is_currency(currency)
        else f"{amount_minor} minor units"
    )


def amount_or_none(amount_minor: int, currency: str) -> str | None:
    """The same for programs: None for a currency that only a newer server knows."""
    return format_minor(amount_minor, currency) if is_currency(currency) else None
