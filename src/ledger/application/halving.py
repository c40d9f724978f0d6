"""Finds the items that the database refuses, by trying halves."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ledger.errors import DataRejected, LedgerError, QueryRefused

Item = TypeVar("Item")
Result = TypeVar("Result")

REFUSALS: tuple[type[LedgerError], ...] = (DataRejected, QueryRefused)


async def in_halves(
    work: Callable[[Sequence[Item]], Awaitable[Result]],
    items: Sequence[Item],
    refusals: tuple[type[LedgerError], ...] = REFUSALS,
    on_part: Callable[[Sequence[Item], Result | LedgerError], None] | None = None,
) -> list[tuple[Sequence[Item], Result | LedgerError]]:
    """Calls `work` with all items, and with each half of what it refuses: offenders end up alone.

    Returns the parts in the order of `items`: each with the result of `work`, or a single item with
    the error. Items without an offender take one call; one offender among n items takes at most
    2 * log2(n) + 1 calls, any number of them at most 2 * n - 1. Raises what `work` raises besides
    `refusals`; then only `on_part` has the results so far: it gets each part when it is done.

        in_halves(insert, [a, b, c, d]), where the database refuses c, calls
        insert([a, b, c, d])  insert([a, b])  insert([c, d])  insert([c])  insert([d])
        and returns [([a, b], result), ([c], error), ([d], result)]
    """
    result: Result | LedgerError | None = None
    try:
        result = await work(items)
    except refusals as error:
        if len(items) > 1:
            middle = len(items) // 2
            first = await in_halves(work, items[:middle], refusals, on_part)
            return [*first, *await in_halves(work, items[middle:], refusals, on_part)]
        result = error
    if on_part is not None:
        on_part(items, result)
    return [(items, result)]
