"""Payments and operations that race, through one server and through two on one database."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC
from typing import Any

import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.paying import (
    MANUAL,
    SELECT_UNBALANCED,
    Watch,
    batch,
    details,
    expire,
    expiries_by_hand,
    funds,
    in_batch,
    open_account,
    operation,
    order,
    pay_in,
    reason_name,
    state_name,
    status_name,
    watched,
)
from support.payment_model import ModelAccount, ModelPayment, PaymentModel
from support.running import RunningLedger, running_ledger
from support.sessions import deadlocks_of
from support.statuses import reason_of

from ledger.application.payments.expire_payments import ExpiryWorker
from ledger.bootstrap.database import Database
from ledger.v1 import payment_pb2

CALLERS = 64


async def statuses(calls: Sequence[Any]) -> Counter[str]:
    """How many calls got which status."""
    return Counter(status_name(response) for response in await asyncio.gather(*calls))


@pytest.mark.parametrize("servers", [1, 2])
async def test_opposite_transfers_at_once_all_succeed(database: Database, servers: int) -> None:
    """200 transfers between two accounts, in both directions, neither wait in a circle nor fail."""
    async with AsyncExitStack() as stack:
        ledgers = [
            await stack.enter_async_context(running_ledger(database)) for _ in range(servers)
        ]
        for account_id in ("left", "right"):
            await open_account(ledgers[0], account_id, funds_minor=100)
        ways = [("left", "right"), ("right", "left")]
        calls = [
            ledgers[place // 2 % servers].payments.AuthorizePayment(
                order(f"p{place}", *ways[place % 2], 1)
            )
            for place in range(200)
        ]
        assert await statuses(calls) == {"CAPTURED": 200}
        for account_id in ("left", "right"):
            assert await funds(ledgers[0], account_id) == (100, 0)
    assert await deadlocks_of(database) == 0
    await assert_books_in_order(database)


@pytest.mark.parametrize("servers", [1, 2])
async def test_last_money_is_spent_once(database: Database, servers: int) -> None:
    """Of 64 payments of all that is there one is captured; the other decisions stand for ever."""
    async with AsyncExitStack() as stack:
        ledgers = [
            await stack.enter_async_context(running_ledger(database)) for _ in range(servers)
        ]
        await open_account(ledgers[0], "payer", funds_minor=1000)
        await open_account(ledgers[0], "payee")
        requests = [order(f"p{place}", "payer", "payee", 1000) for place in range(CALLERS)]

        async def send() -> list[Any]:
            return await asyncio.gather(
                *(
                    ledgers[place % servers].payments.AuthorizePayment(request)
                    for place, request in enumerate(requests)
                )
            )

        first = await send()
        assert Counter((status_name(each), reason_name(each.payment)) for each in first) == {
            ("CAPTURED", ""): 1,
            ("DECLINED", "INSUFFICIENT_FUNDS"): CALLERS - 1,
        }
        await pay_in(ledgers[0], "payer", 1_000_000)
        again = await send()
        assert {status_name(each) for each in again} == {"DUPLICATE"}
        assert [each.payment for each in again] == [each.payment for each in first]
        assert await funds(ledgers[0], "payer") == (1_000_000, 0)
        assert await funds(ledgers[0], "payee") == (1000, 0)
    await assert_books_in_order(database)


async def test_payment_of_64_calls_is_decided_once(database: Database) -> None:
    """One id, through two servers: one decision, 63 duplicates of it."""
    async with running_ledger(database) as first, running_ledger(database) as second:
        await open_account(first, "payer", funds_minor=1000)
        await open_account(first, "payee")
        request = order("p", "payer", "payee", 600)
        ledgers = [first, second]
        responses = await asyncio.gather(
            *(ledgers[place % 2].payments.AuthorizePayment(request) for place in range(CALLERS))
        )
        assert Counter(map(status_name, responses)) == {"CAPTURED": 1, "DUPLICATE": CALLERS - 1}
        assert len({str(response.payment) for response in responses}) == 1
        assert await funds(first, "payer") == (400, 0)
        calls = [
            operation(ledgers[place % 2], "REFUND", "refund", "p", amount_minor=100)
            for place in range(CALLERS)
        ]
        assert await statuses(calls) == {"APPLIED": 1, "DUPLICATE": CALLERS - 1}
        assert await funds(first, "payer") == (500, 0)
    await assert_books_in_order(database)


async def test_one_id_with_64_contents_is_decided_once(database: Database) -> None:
    """Different payers, payees and amounts under one id: one is decided, 63 are conflicts."""
    async with running_ledger(database) as first, running_ledger(database) as second:
        names = [f"a{place}" for place in range(8)]
        for name in names:
            await open_account(first, name, funds_minor=1000)
        requests = [
            order("p", payer, payee, 10 + place)
            for place, (payer, payee) in enumerate(itertools.permutations(names, 2))
        ]
        outcomes = await asyncio.gather(
            *(
                (first, second)[place % 2].payments.AuthorizePayment(request)
                for place, request in enumerate(requests)
            ),
            return_exceptions=True,
        )
        decided = [each for each in outcomes if not isinstance(each, BaseException)]
        assert [status_name(each) for each in decided] == ["CAPTURED"]
        payment = decided[0].payment
        for name in names:
            moved_minor = payment.amount_minor * (
                (name == payment.payee_account_id) - (name == payment.payer_account_id)
            )
            assert await funds(first, name) == (1000 + moved_minor, 0)
    assert await deadlocks_of(database) == 0
    await assert_books_in_order(database)


async def test_one_operation_id_on_many_payments_is_decided_once(database: Database) -> None:
    """Through two servers: one payment gets it, all others conflicts."""
    async with running_ledger(database) as first, running_ledger(database) as second:
        await open_account(first, "payee")
        for place in range(8):
            await open_account(first, f"payer{place}", funds_minor=100)
            held = order(f"p{place}", f"payer{place}", "payee", 100, capture=MANUAL)
            await first.payments.AuthorizePayment(held)
        outcomes = await asyncio.gather(
            *(
                operation((first, second)[place % 2], "CAPTURE", "o", f"p{place // 2 % 8}")
                for place in range(CALLERS)
            ),
            return_exceptions=True,
        )
        decided = [each for each in outcomes if not isinstance(each, BaseException)]
        assert Counter(map(status_name, decided)) == {"APPLIED": 1, "DUPLICATE": 7}
        assert len({each.payment.payment_id for each in decided}) == 1
        reasons = [reason_of(each) for each in outcomes if isinstance(each, aio.AioRpcError)]
        assert reasons == ["OPERATION_ID_REUSED"] * 56
        assert await funds(first, "payee") == (100, 0)
    assert await deadlocks_of(database) == 0
    await assert_books_in_order(database)


async def test_batch_that_is_sent_twice_at_once_is_decided_once(
    database: Database, seed: int
) -> None:
    """To two servers, in one order and in another: each chain is decided by one of them."""
    chance = random.Random(seed)
    async with running_ledger(database) as first, running_ledger(database) as second:
        names = [f"a{place}" for place in range(12)]
        for name in names:
            await open_account(first, name, funds_minor=50)
        chains = []
        for number in range(60):
            chain = []
            for place in range(chance.randint(1, 4)):
                payer, payee = chance.sample(names, 2)
                chain.append(order(f"p{number}.{place}", payer, payee, chance.randint(1, 40)))
            last = len(chain) - 1
            chains.append([in_batch(each, linked=place < last) for place, each in enumerate(chain)])
        others = list(chains)
        chance.shuffle(others)
        sent = [[message for chain in ordered for message in chain] for ordered in (chains, others)]
        responses = await asyncio.gather(batch(first, sent[0]), batch(second, sent[1]))
        found: dict[str, list[Any]] = {}
        for messages, results in zip(sent, responses, strict=True):
            for message, result in zip(messages, results, strict=True):
                assert not result.HasField("error")
                found.setdefault(message.payment_id, []).append(result)
        for one, other in found.values():
            assert [status_name(one), status_name(other)].count("DUPLICATE") == 1
            assert (one.transaction_id, one.decline_reason) == (
                other.transaction_id,
                other.decline_reason,
            )
        await Watch(first).read()
    assert await deadlocks_of(database) == 0
    await assert_books_in_order(database)


# What races: the kind of the operation, and its fields. Of a payment of 1,000, of which 400 are
# captured: 600 are held.
RACERS: dict[str, tuple[str, dict[str, Any]]] = {
    "capture": ("CAPTURE", {}),
    "partial": ("CAPTURE", {"amount_minor": 37}),
    "final": ("CAPTURE", {"amount_minor": 101, "is_final": True}),
    "void": ("VOID", {}),
    "expiry": ("EXPIRE", {}),
    "refund": ("REFUND", {"amount_minor": 29}),
    "reverse": ("REVERSE", {}),
}
PAIRS = list(itertools.combinations_with_replacement(RACERS, 2))
FUNDS_MINOR, AMOUNT_MINOR, CAPTURED_MINOR, SPENT_MINOR = 5000, 1000, 400, 150


@pytest.fixture
async def two_ledgers(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[list[RunningLedger], list[ExpiryWorker]]]:
    """Two servers on one database; their workers release what has expired when a test asks."""
    workers = expiries_by_hand(monkeypatch)
    async with running_ledger(database) as first, running_ledger(database) as second:
        yield [first, second], workers


async def authorized(
    ledger: RunningLedger, pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """A payment for each pair, partly captured; those that expire have done so.

    Some of what each payee got is spent: not all of it can be refunded.
    """
    ids = {pair: ".".join(pair) for pair in pairs}
    for payment_id in ids.values():
        await open_account(ledger, f"payee.{payment_id}")
        await open_account(ledger, f"payer.{payment_id}", funds_minor=FUNDS_MINOR)
        held = order(
            payment_id,
            f"payer.{payment_id}",
            f"payee.{payment_id}",
            AMOUNT_MINOR,
            capture=MANUAL,
        )
        await ledger.payments.AuthorizePayment(held)
        captured = await operation(
            ledger, "CAPTURE", f"first.{payment_id}", payment_id, amount_minor=CAPTURED_MINOR
        )
        assert status_name(captured) == "APPLIED"
        spent = order(f"spent.{payment_id}", f"payee.{payment_id}", "shop", SPENT_MINOR)
        assert status_name(await ledger.payments.AuthorizePayment(spent)) == "CAPTURED"
    await expire(ledger.database, *(ids[pair] for pair in pairs if "expiry" in pair))
    return ids


async def race(
    pair: tuple[str, str],
    payment_id: str,
    ledgers: Sequence[RunningLedger],
    workers: Sequence[ExpiryWorker],
) -> dict[str, Any]:
    """64 callers, half of them of each kind. Returns the answers by operation id."""
    calls: dict[str, Any] = {}
    releases = []
    for place in range(CALLERS):
        kind, fields = RACERS[pair[place % 2]]
        if kind == "EXPIRE":
            if place < 8:
                releases.append(workers[place // 2 % 2].release())
            continue
        name = f"{payment_id}.{place}"
        calls[name] = operation(ledgers[place // 2 % 2], kind, name, payment_id, **fields)
    answers, _ = await asyncio.gather(asyncio.gather(*calls.values()), asyncio.gather(*releases))
    return dict(zip(calls, answers, strict=True))


async def assert_explained(
    ledger: RunningLedger,
    pair: tuple[str, str],
    payment_id: str,
    answers: dict[str, Any],
) -> None:
    """Asserts that the answers, in the order of the operations, are those of the model."""
    got = await details(ledger, payment_id)
    names = (got.payment.payer_account_id, got.payment.payee_account_id)
    model = PaymentModel(
        {names[0]: ModelAccount(available_minor=FUNDS_MINOR), names[1]: ModelAccount()}
    )
    payment = ModelPayment(*names, AMOUNT_MINOR, is_transfer=False)
    if "expiry" in pair:
        payment.expires_at = got.payment.expires_at.ToDatetime(tzinfo=UTC)
    model.authorize(payment_id, payment, "")
    for done in got.operations:
        kind = payment_pb2.OperationKind.Name(done.kind).removeprefix("OPERATION_KIND_")
        now = done.created_at.ToDatetime(tzinfo=UTC)
        is_expired = model.has_expired(payment_id, now)
        assert is_expired is (kind == "EXPIRE")
        asked_minor = done.amount_minor
        if kind in ("VOID", "REVERSE", "EXPIRE"):
            asked_minor = 0
        moved = model.operate(
            kind,
            payment_id,
            reason_name(done),
            amount_minor=asked_minor,
            is_final=done.is_final,
        )
        assert (done.amount_minor, done.released_minor) == moved
        assert (state_name(done), done.captured_minor, done.refunded_minor) == (
            payment.standing()[:3]
        )
        if done.operation_id.startswith("first."):
            model.accounts[names[1]].available_minor -= SPENT_MINOR
            continue
        if kind == "EXPIRE":
            continue
        answer = answers.pop(done.operation_id)
        assert answer.operation == done
        assert status_name(answer) == ("DECLINED" if reason_name(done) else "APPLIED")
        standing = (
            state_name(answer.payment),
            answer.payment.captured_minor,
            answer.payment.refunded_minor,
            answer.payment.held_minor,
        )
        assert standing == payment.standing()
    assert answers == {}, "each caller's operation is stored"
    assert state_name(got.payment) == payment.state
    for name in names:
        account = model.accounts[name]
        assert await funds(ledger, name) == (account.available_minor, account.held_minor)


async def test_racing_operations_are_explained_by_an_order(
    two_ledgers: tuple[list[RunningLedger], list[ExpiryWorker]], seed: int
) -> None:
    """Any two kinds of operations on one payment, 64 callers, two servers, all pairs at once."""
    ledgers, workers = two_ledgers
    first = ledgers[0]
    await open_account(first, "shop")
    ids = await authorized(first, PAIRS)
    pairs = list(PAIRS)
    random.Random(seed).shuffle(pairs)
    for together in (pairs[:7], pairs[7:14], pairs[14:21], pairs[21:]):
        async with watched(first):
            answers = await asyncio.gather(
                *(race(pair, ids[pair], ledgers, workers) for pair in together)
            )
        for pair, answered in zip(together, answers, strict=True):
            await assert_explained(first, pair, ids[pair], answered)
    assert await first.query(SELECT_UNBALANCED) == []
    await assert_books_in_order(first.database)
