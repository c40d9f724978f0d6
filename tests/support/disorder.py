"""Places of entries in time, in every disorder that books may have."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta


def recorded(
    chance: random.Random, first_txid: int, txid_end: int, now: datetime
) -> Iterator[tuple[datetime, int]]:
    """Yields an instant and a number below `txid_end` for each transaction, in the order of these.

    The clock runs, stands still, is read late or set back. Or the transactions are of another
    cluster: then numbers have nothing to do with instants, and may be in the future.
    """
    disorder = chance.choice(("none", "late", "late", "steps", "any"))
    clock, txid = now - timedelta(days=30), first_txid
    while True:
        clock += timedelta(microseconds=chance.choice((0, 0, 1, 1000, 10**6, 10**9)))
        if disorder == "steps" and chance.random() < 0.05:
            clock -= timedelta(hours=chance.choice((1, 2, 48)))
        if disorder == "any":
            yield (
                now - timedelta(microseconds=chance.randrange(10**12)),
                chance.choice((chance.randrange(3, txid_end), chance.randrange(2**40, 2**40 + 50))),
            )
            continue
        recorded_at = clock
        if disorder == "late" and chance.random() < 0.2:
            recorded_at -= timedelta(microseconds=chance.randrange(3 * 10**6))
        txid = min(txid + chance.choice((0, 1, 1, 2)), txid_end - 1)
        yield recorded_at, txid
