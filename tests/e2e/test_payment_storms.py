"""Storms of payments through two servers, watched while they last."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import count
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from support.audit import assert_books_in_order
from support.paying import (
    BANK,
    IMMEDIATE,
    MANUAL,
    SELECT_UNBALANCED,
    account_balance,
    batch,
    from_now,
    funds,
    in_batch,
    open_account,
    operation,
    order,
    reason_name,
    status_name,
    update_account,
    watched,
)
from support.running import RunningLedger, running_ledger
from support.sessions import deadlocks_of
from support.statuses import reason_of, response_or_error
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.v1 import account_pb2

ACCOUNTS = 8
FUNDS_MINOR = 300
CALLERS = 16
STEPS = 14
BUSY = "DATABASE_UNAVAILABLE"


async def answered(call: Callable[..., Awaitable[Any]], *arguments: Any, **fields: Any) -> Any:
    """The response of a call, repeated while the database is busy."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            response = await response_or_error(call(*arguments, **fields))
            if not isinstance(response, aio.AioRpcError):
                return response
            assert reason_of(response) == BUSY


async def change_state(ledger: RunningLedger, account_id: str, state: int) -> None:
    """Freezes or opens an account, once the database is not busy."""
    await answered(update_account, ledger, account_id, "state", state=state)


class Caller:
    """Makes calls at random, one after the other."""

    def __init__(
        self, number: int, ledger: RunningLedger, chance: random.Random, answers: Counter[str]
    ) -> None:
        self.number, self.ledger, self.chance, self.answers = number, ledger, chance, answers
        self.count = 0
        self.payments: list[str] = []

    def order(self) -> Any:
        """A payment of a random account, often of more than it has."""
        self.count += 1
        payment_id = f"p{self.number}.{self.count}"
        names = [f"a{place}" for place in range(ACCOUNTS)]
        payer, payee = self.chance.sample([*names, BANK], 2)
        amount_minor = self.chance.randint(1, 200)
        fields: dict[str, Any] = {"capture": self.chance.choice([IMMEDIATE, MANUAL])}
        if self.chance.random() < 0.2:
            fields |= {"payee_restaurant_id": f"r{self.count % 3}", "fee_minor": amount_minor // 9}
        if fields["capture"] == MANUAL and self.chance.random() < 0.3:
            fields["expires_at"] = from_now(self.chance.uniform(0.02, 0.5))
        return order(payment_id, payer, payee, amount_minor, **fields)

    async def step(self) -> None:
        """One call: a payment, a batch with chains, or an operation."""
        kind = self.chance.random()
        if kind < 0.35 or not self.payments:
            request = self.order()
            response = await answered(self.ledger.payments.AuthorizePayment, request)
            self.answers[f"{status_name(response)} {reason_name(response.payment)}"] += 1
            self.payments.append(request.payment_id)
        elif kind < 0.5:
            requests = [self.order() for _ in range(self.chance.randint(2, 30))]
            linked = [self.chance.random() < 0.3 for _ in requests[1:]] + [False]
            orders = [
                in_batch(request, linked=is_linked)
                for request, is_linked in zip(requests, linked, strict=True)
            ]

            async def is_decided() -> bool:
                results = await batch(self.ledger, orders)
                errors = {reason_of(each.error) for each in results if each.HasField("error")}
                assert errors <= {BUSY}
                return not errors

            await until(is_decided)
            self.payments += [request.payment_id for request in requests]
        else:
            self.count += 1
            kind_of = self.chance.choice(["CAPTURE", "CAPTURE", "VOID", "REFUND", "REVERSE"])
            fields: dict[str, Any] = {}
            if kind_of in ("CAPTURE", "REFUND"):
                fields["amount_minor"] = self.chance.choice([0, 0, 10, 50])
            if kind_of == "CAPTURE":
                fields["is_final"] = self.chance.random() < 0.5
            operation_id = f"o{self.number}.{self.count}"
            payment_id = self.chance.choice(self.payments)
            response = await answered(
                operation, self.ledger, kind_of, operation_id, payment_id, **fields
            )
            self.answers[f"{kind_of} {reason_name(response.operation)}"] += 1


async def test_nothing_is_lost_or_doubled_at_any_instant_of_a_storm(
    database: Database, seed: int
) -> None:
    """All balances together are zero, none is below its limit, and holds are what is held.

    Meanwhile accounts are frozen and opened. Balances as of instants of the storm add up to zero,
    too, once the transactions that began before them have ended.
    """
    chance = random.Random(seed)
    answers: Counter[str] = Counter()
    instants: list[datetime] = []
    async with running_ledger(database) as first, running_ledger(database) as second:
        for place in range(ACCOUNTS):
            limit_minor = 100 if place % 3 == 0 else 0
            await open_account(first, f"a{place}", limit_minor, funds_minor=FUNDS_MINOR)
        callers = [
            Caller(number, (first, second)[number % 2], random.Random(f"{seed}/{number}"), answers)
            for number in range(CALLERS)
        ]

        async def call(caller: Caller) -> None:
            for _ in range(STEPS):
                await caller.step()

        async def freeze() -> None:
            for _ in range(6):
                account_id = f"a{chance.randrange(ACCOUNTS)}"
                await change_state(second, account_id, account_pb2.ACCOUNT_STATE_FROZEN)
                instants.append(datetime.now(UTC))
                await change_state(first, account_id, account_pb2.ACCOUNT_STATE_OPEN)

        async with watched(first) as watch:
            await asyncio.gather(*map(call, callers), freeze())
        assert watch.readings >= 2
        assert len(set(watch.payments)) > 1, "the balances were read while payments came"
        for instant in instants:
            as_of = Timestamp()
            as_of.FromDatetime(instant)
            holders = [f"a{place}" for place in range(ACCOUNTS)] + [BANK]
            balances = [await account_balance(first, holder, as_of) for holder in holders]
            rows = await first.query(
                "SELECT COALESCE(sum(signed_minor), 0)::bigint FROM ledger_movements"
                " WHERE ledger_account IN ('restaurant_payable', 'platform_fees')"
                " AND recorded_at < CAST(:instant AS timestamptz)",
                instant=instant,
            )
            assert sum(each.posted_minor for each in balances) + rows[0][0] == 0
        assert await first.query(SELECT_UNBALANCED) == []
    assert len(answers) > 8, answers
    assert await deadlocks_of(database) == 0
    await assert_books_in_order(database)


async def test_batches_of_the_same_accounts_through_two_servers_all_succeed(
    database: Database,
) -> None:
    """Each batch takes all accounts; none waits in a circle, and none is refused."""
    async with running_ledger(database) as first, running_ledger(database) as second:
        names = [f"a{place}" for place in range(20)]
        for name in names:
            await open_account(first, name, funds_minor=1000)
        batches = []
        for number in range(8):
            ring = names if number % 2 else names[::-1]
            batches.append(
                [
                    in_batch(
                        order(f"p{number}.{place}", ring[place % 20], ring[(place + 1) % 20], 1)
                    )
                    for place in range(250)
                ]
            )
        async with watched(first):
            found = await asyncio.gather(
                *(
                    batch((first, second)[number // 2 % 2], orders)
                    for number, orders in enumerate(batches)
                )
            )
        assert Counter(status_name(result) for results in found for result in results) == {
            "CAPTURED": 8 * 250
        }
    assert await deadlocks_of(database) == 0
    await assert_books_in_order(database)


async def test_busy_account_can_be_frozen(database: Database) -> None:
    """Payments to it come without a break. From the answer on, all of them are declined."""
    async with running_ledger(database) as first, running_ledger(database) as second:
        await open_account(first, "busy")
        payers = [f"payer{place}" for place in range(CALLERS)]
        for payer in payers:
            await open_account(first, payer, None)
        numbers = count()
        answers: list[str] = []
        is_frozen = is_over = False

        async def pay(place: int) -> None:
            ledger = (first, second)[place % 2]
            while not is_over:
                request = order(f"p{next(numbers)}", payers[place], "busy", 1)
                was_frozen = is_frozen
                response = await answered(ledger.payments.AuthorizePayment, request)
                answers.append(reason_name(response.payment))
                if was_frozen and is_frozen:
                    assert answers[-1] == "ACCOUNT_FROZEN"

        async def until_answered(more: int) -> None:
            wanted = len(answers) + more
            await until(lambda: len(answers) >= wanted)

        async with asyncio.TaskGroup() as tasks:
            for place in range(CALLERS):
                tasks.create_task(pay(place))
            for _ in range(3):
                await until_answered(100)
                await change_state(first, "busy", account_pb2.ACCOUNT_STATE_FROZEN)
                is_frozen = True
                await until_answered(4 * CALLERS)
                is_frozen = False
                await change_state(first, "busy", account_pb2.ACCOUNT_STATE_OPEN)
            is_over = True
        assert set(answers) == {"", "ACCOUNT_FROZEN"}
        assert await funds(first, "busy") == (answers.count(""), 0)
    await assert_books_in_order(database)
