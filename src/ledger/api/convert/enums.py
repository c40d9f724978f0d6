"""Enums of the contract and of the domain, which have the same names."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

Member = TypeVar("Member", bound=Enum)


def by_number(contract: Any, prefix: str, domain: type[Member], where: str) -> Mapping[int, Member]:
    """The domain's member for each number of a contract enum, except 0, which says nothing.

    `where` is the file of the domain's enum. Raises TypeError, which names the file to change, when
    one of the two has a value that the other lacks.
    """
    names = {name.removeprefix(prefix): number for name, number in contract.items() if number}
    for name in names.keys() - domain.__members__.keys():
        raise TypeError(f"{prefix}{name} is in the contract: add {name} to {where}")
    for name in domain.__members__.keys() - names.keys():
        raise TypeError(
            f"{name} is in {where}: add {prefix}{name} to proto/ledger/v1/ledger.proto,"
            " then run make proto"
        )
    return {number: domain[name] for name, number in names.items()}
