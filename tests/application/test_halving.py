"""Halving: each item that the database refuses ends up alone, in few calls."""

import math
from collections.abc import Sequence

import pytest

from ledger.application.halving import in_halves
from ledger.errors import (
    DatabaseTimeout,
    DatabaseUnavailable,
    DataRejected,
    LedgerError,
    QueryRefused,
)


class Table:
    """Returns the sum of the items it takes; raises their error when one is among `offenders`."""

    def __init__(self, offenders: dict[int, Exception]) -> None:
        self.offenders = offenders
        self.calls: list[list[int]] = []

    async def insert(self, items: Sequence[int]) -> int:
        self.calls.append(list(items))
        for item in items:
            if item in self.offenders:
                raise self.offenders[item]
        return sum(items)


async def test_items_without_an_offender_take_one_call() -> None:
    """All of them at once, with one result."""
    table = Table({})
    assert await in_halves(table.insert, [1, 2, 3]) == [([1, 2, 3], 6)]
    assert table.calls == [[1, 2, 3]]


async def test_offender_stands_alone_and_the_order_is_kept() -> None:
    """The parts come back in the order of the items, the offender with its own error."""
    error = DataRejected()
    table = Table({3: error})
    assert await in_halves(table.insert, [1, 2, 3, 4]) == [([1, 2], 3), ([3], error), ([4], 4)]
    assert table.calls == [[1, 2, 3, 4], [1, 2], [3, 4], [3], [4]]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 256, 1000])
@pytest.mark.parametrize("place", [0, 0.5, 1])
async def test_one_offender_takes_few_calls(size: int, place: float) -> None:
    """Two calls for each size of a part, and one for the whole."""
    offender = round(place * (size - 1))
    table = Table({offender: QueryRefused()})
    parts = await in_halves(table.insert, range(size))
    assert [item for part, _ in parts for item in part] == list(range(size))
    refused = [list(part) for part, result in parts if not isinstance(result, int)]
    assert refused == [[offender]]
    assert len(table.calls) <= 2 * math.ceil(math.log2(size)) + 1


async def test_offenders_only_take_twice_as_many_calls_as_there_are_items() -> None:
    """Each has its own error."""
    errors = [DataRejected(str(item)) for item in range(100)]
    table = Table(dict(enumerate(errors)))
    parts = await in_halves(table.insert, range(100))
    assert [result for _, result in parts] == errors
    assert len(table.calls) == 2 * 100 - 1


async def test_errors_that_concern_all_items_are_raised() -> None:
    """Halves would not help when the database is away; a timeout is halved only where asked for."""
    table = Table({2: DatabaseUnavailable("away")})
    with pytest.raises(DatabaseUnavailable):
        await in_halves(table.insert, [1, 2])
    timeout = DatabaseTimeout()
    table = Table({2: timeout})
    with pytest.raises(DatabaseTimeout):
        await in_halves(table.insert, [1, 2])
    assert await in_halves(table.insert, [1, 2], (DatabaseTimeout,)) == [([1], 1), ([2], timeout)]


async def test_no_items_are_tried_once() -> None:
    """Nothing is halved if the database refuses even no items."""

    async def refuse(_items: Sequence[int]) -> int:
        raise DataRejected

    nothing: list[int] = []
    ((part, error),) = await in_halves(refuse, nothing)
    assert (list(part), type(error)) == ([], DataRejected)


async def test_parts_are_reported_before_a_later_one_breaks_off() -> None:
    """The earlier parts are known, although the function raises."""
    error = DataRejected()
    table = Table({1: error, 4: DatabaseUnavailable("away")})
    done: list[tuple[list[int], int | LedgerError]] = []
    with pytest.raises(DatabaseUnavailable):
        await in_halves(
            table.insert,
            [1, 2, 3, 4],
            on_part=lambda part, result: done.append((list(part), result)),
        )
    assert done == [([1], error), ([2], 2)]
