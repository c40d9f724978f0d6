"""The books after any order and repetition of deliveries are the same."""

import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from support.audit import assert_books_in_order
from support.events import unique
from support.gateway import (
    RunningGateway,
    body_of,
    charge,
    endpoint_table,
    gateway_file,
    gateway_on,
)
from support.running import RunningLedger

from ledger.client import AsyncLedger
from ledger.gateway.books import RemoteBooks
from ledger.gateway.retries import try_again
from ledger.v1 import ledger_pb2

ROUNDS = 4
# Of each repeat of a payload in the quarantine, until nothing changes any more.
TRIES_MAX = 10
FEES = "fees = { commission = 'rate', percent = 7.3, fixed_minor = 11 }"
SELECT_BOOKS = """
SELECT replace(event_id, :prefix, ''), type, amount_minor, fee_minor,
       replace(restaurant_id, :prefix, '')
FROM processor_events
WHERE event_id LIKE :prefix || '%'
ORDER BY 1
"""


def month_of(prefix: str, rng: random.Random) -> list[dict[str, Any]]:
    """Facts of one restaurant or two that depend on each other, all ids under a prefix."""
    facts: list[dict[str, Any]] = []
    for number in range(4):
        sold, restaurant = f"{prefix}ch{number}", f"{prefix}res{number % 2}"
        amount = 100 * number + 157
        facts.append(charge(sold, account=restaurant, amount_minor=amount))
        # Neither says whose money it is.
        facts.append(
            charge(
                f"{prefix}re{number}",
                type="refund_succeeded",
                account="",
                charge=sold,
                amount_minor=amount // 3,
            )
        )
        for part in range(2):
            facts.append(
                charge(
                    f"{prefix}rev{number}.{part}",
                    type="charge_reversed",
                    account="",
                    reverses=sold,
                    amount_minor=amount // 3 + part,
                )
            )
    rng.shuffle(facts)
    return facts


async def retry_all(
    gateway: RunningGateway, ledger: RunningLedger, bodies: Sequence[bytes]
) -> None:
    """Tries what waits, as the worker does in time, until nothing waits that can be booked."""
    books = gateway.gateway.books
    assert isinstance(books, RemoteBooks)
    for _ in range(TRIES_MAX):
        listed = await ledger.stub.ListQuarantined(
            ledger_pb2.ListQuarantinedRequest(
                endpoint="plain",
                states=[ledger_pb2.QUARANTINE_STATE_PARKED],
                with_bodies=True,
                oldest_first=True,
            )
        )
        waiting = [one for one in listed.payloads if one.body in bodies]
        if not waiting:
            return
        for payload in waiting:
            await try_again(
                gateway.gateway.routes["plain"],
                payload,
                books,
                books,
                give_up_after=timedelta(days=3),
            )
    raise AssertionError("deliveries still wait")


async def test_the_books_after_any_order_and_repetition_of_deliveries_are_the_same(
    shared_ledger: RunningLedger, tmp_path: Path, seed: int
) -> None:
    """In batches of any size, each delivery up to three times; what waits is tried again."""
    rng = random.Random(seed)
    path = gateway_file(tmp_path, endpoint_table(lines=FEES), poll_seconds=600)
    outcomes: list[list[tuple[Any, ...]]] = []
    async with (
        AsyncLedger(shared_ledger.address) as client,
        gateway_on(path, RemoteBooks(client.service)) as gateway,
    ):
        for _ in range(ROUNDS):
            prefix = f"{unique('month')}."
            facts = month_of(prefix, rng)
            bodies: list[bytes] = []
            while facts:
                size = rng.randint(1, 4)
                bodies.append(body_of(*facts[:size]))
                facts = facts[size:]
            sent = [body for body in bodies for _ in range(rng.randint(1, 3))]
            rng.shuffle(sent)
            for body in sent:
                assert (await gateway.post(body)).status_code == 200
            await retry_all(gateway, shared_ledger, bodies)
            # And once more, after everything is settled.
            for body in bodies:
                assert (await gateway.post(body)).status_code == 200
            outcomes.append(await shared_ledger.query(SELECT_BOOKS, prefix=prefix))
    assert len(outcomes[0]) == 16
    assert all(outcome == outcomes[0] for outcome in outcomes)
    await assert_books_in_order(shared_ledger.database)
