"""The row of past balances: reads as of instants of a long account, against reads of now."""

import asyncio
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import accumulate
from random import Random
from typing import Any

from grpc import StatusCode, aio

from ledger.domain.events import microseconds
from ledger.v1 import ledger_pb2, ledger_pb2_grpc
from scripts.bench import books
from scripts.bench.bench import Bench, Load, interleaved
from scripts.bench.report import load_row
from scripts.bench.rows import LONG_CURRENCY, Rows

CALLERS = 16
INSTANTS = 500
# Reads as fast as this do not get faster; so many in a row show that all are.
FAST_SECONDS = 0.02
FAST_READS = 10
# Sealing takes a part of the database while it works; measured in `seconds` of the bench's sizes.
WAIT_RATIO = 20
POLL_SECONDS = 0.25

SELECT_IS_SEALED = """
SELECT COALESCE((SELECT end_txid FROM ledger_seals ORDER BY sequence DESC LIMIT 1), 0)
       > (SELECT e.recorded_txid::text::bigint FROM ledger_entries AS e
          JOIN balance_accounts AS a ON a.balance_account_id = e.balance_account_id
          WHERE a.restaurant_id = $1 ORDER BY e.recorded_txid DESC LIMIT 1)
"""
SELECT_PAYABLE = """
SELECT e.recorded_at, e.available_at,
       CASE 'restaurant_payable' WHEN e.credit_account THEN e.amount_minor ELSE -e.amount_minor END
         AS payable_minor
FROM ledger_entries AS e
JOIN balance_accounts AS a ON a.balance_account_id = e.balance_account_id
WHERE a.restaurant_id = $1
"""


async def balance_past(bench: Bench) -> Rows:
    """16 callers as of instants all along an account, against 16 that read its present balance."""
    entries = bench.sizes.long_account_entries
    restaurant_id = f"history_{entries}"
    await books.load_history(bench.connection, restaurant_id, LONG_CURRENCY, entries)
    await bench.connection.execute("VACUUM (ANALYZE) ledger_entries")
    rows = await bench.connection.fetch(SELECT_PAYABLE, restaurant_id)
    now = Load(
        "GetBalance",
        CALLERS,
        currency=LONG_CURRENCY,
        restaurant=restaurant_id,
        available_minor=sum(row["payable_minor"] for row in rows),
    )
    past = replace(now, moments=moments_of(rows))
    first_seconds, fast_after_seconds = await read_until_fast(bench, past)
    deadline = time.monotonic() + WAIT_RATIO * bench.sizes.seconds
    while (  # noqa: ASYNC110  # it happens in another process
        not await bench.connection.fetchval(SELECT_IS_SEALED, restaurant_id)
        and time.monotonic() < deadline
    ):
        await asyncio.sleep(POLL_SECONDS)
    (limit,), measured = await interleaved(
        bench.sizes.rounds,
        [partial(bench.run, now, bench.service)],
        partial(bench.run, past, bench.service),
    )
    note = f"the first read took {1000 * first_seconds:.0f} ms; " + (
        "reads did not become fast before the deadline"
        if fast_after_seconds is None
        else f"reads were fast after {fast_after_seconds:.1f} s"
    )
    yield load_row(
        f"GetBalance as of instants, {CALLERS} callers, {entries:,} entries against now",
        measured,
        "calls/s",
        limit,
        wanted=">= 0.5",
        note=note,
    )


def moments_of(rows: Sequence[Any]) -> tuple[tuple[int, int], ...]:
    """Instants at random, in microseconds since 1970, with what was available then.

    An entry counts from the instant after it was recorded, or at which it matures.
    """
    counts_from = sorted(
        (
            max(row["recorded_at"] + timedelta(microseconds=1), row["available_at"])
            if row["available_at"] is not None
            else row["recorded_at"] + timedelta(microseconds=1),
            row["payable_minor"],
        )
        for row in rows
    )
    instants = [instant for instant, _ in counts_from]
    sums = [0, *accumulate(minor for _, minor in counts_from)]
    first = min(row["recorded_at"] for row in rows)
    last = max(row["recorded_at"] for row in rows)
    chance = Random(1)
    drawn: list[datetime] = sorted(
        first + (last - first) * chance.random() for _ in range(INSTANTS)
    )
    chance.shuffle(drawn)
    return tuple((microseconds(at), sums[bisect_right(instants, at)]) for at in drawn)


async def read_until_fast(bench: Bench, past: Load) -> tuple[float, float | None]:
    """Reads as of the instants one by one until some in a row are fast, or a deadline passes.

    Returns the seconds of the first read, and after how many seconds reads were fast; None if they
    were not.
    """
    began = time.monotonic()
    took: list[float] = []
    async with aio.insecure_channel(bench.service.address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        while time.monotonic() < began + WAIT_RATIO * bench.sizes.seconds:
            request = ledger_pb2.GetBalanceRequest(
                restaurant_id=past.restaurant, currency=past.currency
            )
            request.as_of.FromMicroseconds(past.moments[len(took) % len(past.moments)][0])
            call_began = time.monotonic()
            try:
                await stub.GetBalance(request)
            except aio.AioRpcError as error:
                if error.code() is not StatusCode.UNAVAILABLE:
                    raise
            took.append(time.monotonic() - call_began)
            if len(took) >= FAST_READS and max(took[-FAST_READS:]) < FAST_SECONDS:
                return took[0], time.monotonic() - began
    return took[0], None
