"""The rows of sealing: how far the sealer falls behind while events are booked, at half of the peak and at the peak."""

import asyncio
import sys
import time

from scripts.bench.bench import Bench
from scripts.bench.report import row
from scripts.bench.rows import BATCH, Rows

# Of one turn of load and, at half of the peak, of the pause that follows.
TURN_SECONDS = 1.0
# As many times as a side of other comparisons.
LOAD_RATIO = 15
LAG_SECONDS_MAX = 60.0
CATCH_UP_SECONDS_MAX = 600.0
CATCH_UP_POLL_SECONDS = 0.5
# Long loads tell how they go: `--only seals --seconds 80` is twenty minutes of each.
TELL_SECONDS = 10.0

# The age of the oldest row that is not sealed.
SELECT_LAG = """
WITH head AS (SELECT COALESCE((SELECT end_txid FROM ledger_seals ORDER BY sequence DESC LIMIT 1), 0) AS end_txid)
SELECT COALESCE(extract(epoch FROM clock_timestamp() - min(e.recorded_at)), 0)::float8
FROM processor_events AS e
WHERE e.recorded_txid::text::bigint >= (SELECT end_txid FROM head)
"""


async def seals(bench: Bench) -> Rows:
    """Batches as fast as they are taken, every other second and all the time; the largest lag, and how long catching up takes."""
    await _catch_up(bench)
    for name, pause_seconds, wanted in (
        ("half of the peak", TURN_SECONDS, "<= 1"),
        ("the peak", 0.0, None),
    ):
        began = told_at = time.monotonic()
        lags: list[float] = []
        events = 0.0
        while time.monotonic() - began < LOAD_RATIO * bench.sizes.seconds:
            measured = await bench.run(BATCH, bench.service, TURN_SECONDS)
            events += measured.rate * TURN_SECONDS
            lags.append(await bench.connection.fetchval(SELECT_LAG))
            if time.monotonic() - told_at >= TELL_SECONDS:
                told_at = time.monotonic()
                print(
                    f"{name}: {told_at - began:.0f} s, lag {lags[-1]:.1f} s, largest {max(lags):.1f} s",
                    file=sys.stderr,
                )
            await asyncio.sleep(pause_seconds)
        rate = events / (time.monotonic() - began)
        caught_up_after = await _catch_up(bench)
        third = len(lags) // 3
        note = (
            f"{rate:,.0f} events/s; mean lag in the thirds of the time "
            f"{', '.join(f'{_mean(lags[start : start + third]):.0f}' for start in range(0, 3 * third, max(1, third)))} s; "
            f"caught up {caught_up_after:.0f} s afterwards"
        )
        yield row(
            f"seal lag at {name}", max(lags), "s", LAG_SECONDS_MAX, lags, wanted=wanted, note=note
        )


async def _catch_up(bench: Bench) -> float:
    """Waits until everything is sealed, or a deadline has passed; the seconds that it took."""
    began = time.monotonic()
    while (  # noqa: ASYNC110  # it happens in another process
        await bench.connection.fetchval(SELECT_LAG) > 0
        and time.monotonic() - began < CATCH_UP_SECONDS_MAX
    ):
        await asyncio.sleep(CATCH_UP_POLL_SECONDS)
    return time.monotonic() - began


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
