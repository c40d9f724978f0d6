"""The rows of sealing: the lag of the sealer at half of the peak and at the peak."""

import asyncio
import sys
import time

from scripts.bench.bench import Bench
from scripts.bench.report import row
from scripts.bench.rows import BATCH, Rows

# Seconds of one turn of load and, at half of the peak, of the pause after it.
TURN_SECONDS = 1.0
# As many rounds as a side of other comparisons.
LOAD_RATIO = 15
LAG_SECONDS_MAX = 60.0
CATCH_UP_SECONDS_MAX = 600.0
CATCH_UP_POLL_SECONDS = 0.5
# Long loads report progress: `--only seals --seconds 80` is twenty minutes of each.
REPORT_SECONDS = 10.0

# The age of the oldest row that is not sealed.
SELECT_LAG = """
WITH head AS (
  SELECT COALESCE((SELECT end_txid FROM ledger_seals ORDER BY sequence DESC LIMIT 1), 0) AS end_txid
)
SELECT COALESCE(extract(epoch FROM clock_timestamp() - min(e.recorded_at)), 0)::float8
FROM processor_events AS e
WHERE e.recorded_txid::text::bigint >= (SELECT end_txid FROM head)
"""


async def seals(bench: Bench) -> Rows:
    """Batches every other second, then all the time; the largest lag, and the time to catch up."""
    await _catch_up(bench)
    for name, pause_seconds, wanted in (
        ("half of the peak", TURN_SECONDS, "<= 1"),
        ("the peak", 0.0, None),
    ):
        began = reported_at = time.monotonic()
        lags: list[float] = []
        events = 0.0
        while time.monotonic() - began < LOAD_RATIO * bench.sizes.seconds:
            measured = await bench.run(BATCH, bench.service, TURN_SECONDS)
            events += measured.rate * TURN_SECONDS
            lags.append(await bench.connection.fetchval(SELECT_LAG))
            if time.monotonic() - reported_at >= REPORT_SECONDS:
                reported_at = time.monotonic()
                print(
                    f"{name}: {reported_at - began:.0f} s, lag {lags[-1]:.1f} s,"
                    f" largest {max(lags):.1f} s",
                    file=sys.stderr,
                )
            await asyncio.sleep(pause_seconds)
        rate = events / (time.monotonic() - began)
        caught_up_after = await _catch_up(bench)
        third = max(1, len(lags) // 3)
        parts = [lags[start : start + third] for start in range(0, 3 * third, third)]
        note = (
            f"{rate:,.0f} events/s; mean lag in the thirds of the time "
            f"{', '.join(f'{_mean(part):.0f}' for part in parts)} s; "
            f"caught up {caught_up_after:.0f} s afterwards"
        )
        yield row(
            f"seal lag at {name}", max(lags), "s", LAG_SECONDS_MAX, lags, wanted=wanted, note=note
        )


async def _catch_up(bench: Bench) -> float:
    """Waits until everything is sealed, or a deadline has passed; returns the seconds."""
    began = time.monotonic()
    while (  # noqa: ASYNC110  # it happens in another process
        await bench.connection.fetchval(SELECT_LAG) > 0
        and time.monotonic() - began < CATCH_UP_SECONDS_MAX
    ):
        await asyncio.sleep(CATCH_UP_POLL_SECONDS)
    return time.monotonic() - began


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
