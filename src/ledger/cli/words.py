"""Writes the contract's words and amounts, also those that only a newer server knows."""

import re
from collections.abc import Collection
from functools import lru_cache
from typing import Any

from ledger.domain.money import format_minor, is_currency


def prefix_of(enum: Any) -> str:
    """The prefix of an enum's names in the contract: PAYOUT_STATE_."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"


# Bounded: a newer server may send any number.
@lru_cache(maxsize=1024)
def word_of(enum: Any, number: int) -> str:
    """The name of an enum's value in lower case without its prefix: `payout_in_flight`.

    A value that only a newer server knows is its number: `7`.
    """
    try:
        name: str = enum.Name(number)
    except ValueError:
        return str(number)
    return name.removeprefix(prefix_of(enum)).lower()


def words_of(enum: Any, *, without: Collection[int] = ()) -> list[str]:
    """The words of an enum in the order of their numbers, without UNSPECIFIED and `without`."""
    return [word_of(enum, number) for number in enum.values() if number and number not in without]


def number_of(enum: Any, word: str) -> Any:
    """The number of a word that `words_of` returned."""
    return enum.Value(f"{prefix_of(enum)}{word.upper()}")


def amount_of(amount_minor: int, currency: str) -> str:
    """The amount as people write it, 12.50.

    For a currency that only a newer server knows, the number of minor units.
    """
    return (
        format_minor(amount_minor, currency)
        if is_currency(currency)
        else f"{amount_minor} minor units"
    )


def amount_or_none(amount_minor: int, currency: str) -> str | None:
    """The amount for programs, 12.50; None for a currency that only a newer server knows."""
    return format_minor(amount_minor, currency) if is_currency(currency) else None
