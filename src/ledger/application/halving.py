"""Finds the items that the database refuses, by halving."""

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
    """Calls `work` with all items, then with each half of what it refuses: offenders end up alone.

    Returns the parts in the order of `items`, each with the result of `work`; an offender is a part
    by itself, with its error. Without an offender `work` is called once; with one among n items, at
    most 2 * log2(n) + 1 times; with any number, at most 2 * n - 1 times. `on_part` gets each part
    when it is done. Raises what `work` raises besides `refusals`; then only `on_part` has the
    results so far.

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
