"""Servers and sessions that end in the middle of a payment: each is decided once, and repeats get
the decision.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.commands import RunningServer
from support.paying import (
    IMMEDIATE,
    MANUAL,
    SELECT_UNBALANCED,
    Watch,
    batch,
    funds,
    in_batch,
    open_account,
    operation,
    order,
    reason_name,
    status_name,
)
from support.running import RunningLedger, query, running_ledger
from support.serving import serving_on
from support.sessions import locked, sessions_gone, waiting_sessions
from support.statuses import reason_of, response_or_error

from ledger.application import attempts
from ledger.bootstrap.database import Database
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from ledger.v1 import payment_pb2, payment_pb2_grpc

# Commands of one caller, each with the method that takes it.
Command = tuple[str, Any]

COMMANDS: list[Command] = [
    ("AuthorizePayment", order("transfer", "payer", "payee", 100)),
    ("AuthorizePayment", order("hold", "payer", "payee", 200, capture=MANUAL)),
    ("AuthorizePayment", order("too.much", "payer", "payee", 10**6)),
    (
        "BatchAuthorizePayments",
        payment_pb2.BatchAuthorizePaymentsRequest(
            payments=[
                in_batch(order("linked", "payer", "payee", 10), linked=True),
                in_batch(order("last", "payee", "third", 10)),
                in_batch(order("alone", "payer", "", 7, payee_restaurant_id="eatery")),
            ]
        ),
    ),
    (
        "CapturePayment",
        payment_pb2.CapturePaymentRequest(
            operation_id="capture", payment_id="held.1", amount_minor=60
        ),
    ),
    ("VoidPayment", payment_pb2.VoidPaymentRequest(operation_id="void", payment_id="held.2")),
    ("RefundPayment", payment_pb2.RefundPaymentRequest(operation_id="refund", payment_id="paid")),
    (
        "ReversePayment",
        payment_pb2.ReversePaymentRequest(operation_id="reverse", payment_id="held.3"),
    ),
]
# What the accounts have once each command is carried out once: available and held.
AFTER = {
    "payer": (10_000 - 100 - 200 - 10 - 7 - 60 - 40, 200 + 40),
    "payee": (100 + 10 - 10 + 60, 0),
    "third": (10, 0),
}

# The lock of another session that stops groups at a step, and the table of the lock. Payments and
# operations stop there, except that operations alone store operations.
STEPS = {
    "locking accounts": ("LOCK TABLE balance_accounts IN EXCLUSIVE MODE", "balance_accounts"),
    "looking up": ("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE", "payments"),
    "storing": ("LOCK TABLE payments IN SHARE ROW EXCLUSIVE MODE", "payments"),
    "storing operations": (
        "LOCK TABLE payment_operations IN SHARE ROW EXCLUSIVE MODE",
        "payment_operations",
    ),
    "posting": ("LOCK TABLE ledger_entries IN SHARE ROW EXCLUSIVE MODE", "ledger_entries"),
}


async def prepare(ledger: RunningLedger) -> None:
    """The accounts and payments that COMMANDS name."""
    await open_account(ledger, "payer", funds_minor=10_000)
    await open_account(ledger, "payee")
    await open_account(ledger, "third")
    for number in (1, 2, 3):
        held = order(f"held.{number}", "payer", "payee", 100, capture=MANUAL)
        await ledger.payments.AuthorizePayment(held)
    await ledger.payments.AuthorizePayment(order("paid", "payer", "payee", 50))
    await ledger.payments.AuthorizePayment(
        order("first", "payer", "", 1, payee_restaurant_id="eatery")
    )
    await ledger.payments.AuthorizePayment(order("back", "payee", "payer", 1))
    await operation(ledger, "REFUND", "first.refund", "first")
    await operation(ledger, "REFUND", "back.refund", "back")


async def send(address: str, commands: Sequence[Command] = COMMANDS) -> list[Any]:
    """The responses to commands that are sent at once, or their errors."""
    async with aio.insecure_channel(address) as channel:
        stub = payment_pb2_grpc.PaymentServiceStub(channel)
        return await asyncio.gather(
            *(response_or_error(getattr(stub, method)(request)) for method, request in commands)
        )


def decision(response: Any) -> str:
    """What was decided, whether now or before."""
    copy = type(response)()
    copy.CopyFrom(response)
    for message in [copy, *getattr(copy, "results", [])]:
        if hasattr(message, "status"):
            message.ClearField("status")
    return str(copy)


async def assert_decided_once(ledger: RunningLedger, before: Sequence[Any] = ()) -> None:
    """Sends all commands again, twice, and asserts that each has one decision and one effect.

    `before` has the responses of the first time, as far as there are any.
    """
    first = await send(ledger.address)
    again = await send(ledger.address)
    assert not [each for each in first if isinstance(each, aio.AioRpcError)]
    assert [decision(each) for each in again] == [decision(each) for each in first]
    for each in again:
        results = getattr(each, "results", None) or [each]
        assert {status_name(result) for result in results} == {"DUPLICATE"}
    for early, late in zip(before, first, strict=bool(before)):
        if not isinstance(early, aio.AioRpcError):
            assert decision(early) == decision(late)
    reasons = [reason_name(each.payment) for each in first[:3]]
    assert reasons == ["", "", "INSUFFICIENT_FUNDS"]
    for account_id, expected in AFTER.items():
        assert await funds(ledger, account_id) == expected, account_id
    await Watch(ledger).read()
    assert await ledger.query(SELECT_UNBALANCED) == []
    await assert_books_in_order(ledger.database)


@pytest.mark.parametrize("step", STEPS)
async def test_server_killed_at_a_step_leaves_nothing_half_done(
    database: Database, step: str
) -> None:
    """After SIGKILL nothing of the groups is stored, and repeats are decided once."""
    statement, table = STEPS[step]
    async with running_ledger(database) as ledger:
        await prepare(ledger)
    counts = "SELECT (SELECT count(*) FROM payments), (SELECT count(*) FROM payment_operations)"
    before = await query(database.migration_url, counts)
    async with serving_on(database) as server, locked(database, statement):
        # The server may be reading by itself what is locked: these are the sessions of the calls.
        commands = COMMANDS if step != "storing operations" else COMMANDS[4:]
        calls = asyncio.create_task(send(server.address, commands))
        pids = await waiting_sessions(database, table)
        await kill(server)
        assert all(isinstance(each, aio.AioRpcError) for each in await calls)
    await sessions_gone(database, pids)
    assert await query(database.migration_url, counts) == before
    async with running_ledger(database) as ledger:
        await assert_decided_once(ledger)


async def kill(server: RunningServer, after_seconds: float = 0.0) -> None:
    await asyncio.sleep(after_seconds)
    server.process.kill()
    await server.process.wait()


async def test_server_killed_at_random_instants_decides_each_payment_once(
    database: Database, seed: int
) -> None:
    """At any instant, commits included. Every response that came stands."""
    chance = random.Random(seed)
    async with running_ledger(database) as ledger:
        await open_account(ledger, "payer", funds_minor=10_000)
        await open_account(ledger, "payee")
    answered: dict[str, Any] = {}
    commands: dict[str, Command] = {}
    for number in range(2):
        for place in range(100):
            payment_id = f"p{number}.{place}"
            commands[payment_id] = (
                "AuthorizePayment",
                order(payment_id, "payer", "payee", 40, capture=(IMMEDIATE, MANUAL)[place % 2]),
            )
            kind, request = (
                ("CapturePayment", payment_pb2.CapturePaymentRequest)
                if chance.random() < 0.5
                else ("ReversePayment", payment_pb2.ReversePaymentRequest)
            )
            if place % 2:
                commands[f"o{number}.{place}"] = (
                    kind,
                    request(operation_id=f"o{number}.{place}", payment_id=payment_id),
                )
        async with serving_on(database) as server:
            named = list(commands.items())
            responses, _ = await asyncio.gather(
                send(server.address, [command for _, command in named]),
                kill(server, after_seconds=chance.uniform(0.02, 0.4)),
            )
            for (name, _), response in zip(named, responses, strict=True):
                if not isinstance(response, aio.AioRpcError):
                    assert answered.setdefault(name, decision(response)) == decision(response)
    async with running_ledger(database) as ledger:
        for _ in range(2):
            named = list(commands.items())
            responses = await send(ledger.address, [command for _, command in named])
            for (name, _), response in zip(named, responses, strict=True):
                if isinstance(response, aio.AioRpcError):
                    # Its payment was not there yet.
                    assert reason_of(response) == "PAYMENT_NOT_FOUND"
                else:
                    assert answered.setdefault(name, decision(response)) == decision(response)
        assert set(answered) == set(commands)
        await Watch(ledger).read()
    await assert_books_in_order(database)


@pytest.fixture
def lose_commits(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes so many units of work lose their session after COMMIT, before its acknowledgement."""
    commit = PostgresUnitOfWork.commit
    left = 0

    async def commit_and_lose(self: PostgresUnitOfWork) -> None:
        nonlocal left
        await commit(self)
        if left:
            left -= 1
            raise DatabaseUnavailable from ConnectionResetError("the session was lost")

    monkeypatch.setattr(PostgresUnitOfWork, "commit", commit_and_lose)

    def lose(count: int) -> None:
        nonlocal left
        left = count

    return lose


# Each command alone: what it answers when it is new.
ANSWERS = [
    ["CAPTURED"],
    ["AUTHORIZED"],
    ["DECLINED"],
    ["CAPTURED", "CAPTURED", "CAPTURED"],
    ["APPLIED"],
    ["APPLIED"],
    ["APPLIED"],
    ["APPLIED"],
]


async def test_lost_acknowledgement_of_a_commit_is_answered_as_new(
    ledger: RunningLedger, lose_commits: Callable[[int], None]
) -> None:
    """The server finds what it has stored itself, and books nothing twice."""
    await prepare(ledger)
    before = []
    for command, expected in zip(COMMANDS, ANSWERS, strict=True):
        lose_commits(1)
        (response,) = await send(ledger.address, [command])
        results = getattr(response, "results", None) or [response]
        assert [status_name(result) for result in results] == expected
        before.append(response)
    await assert_decided_once(ledger, before)
    # An id that a batch repeats is new once.
    repeated = [in_batch(order("repeated", "payer", "payee", 1))] * 3
    lose_commits(1)
    results = await batch(ledger, repeated)
    assert [status_name(result) for result in results] == ["CAPTURED", "DUPLICATE", "DUPLICATE"]


async def test_repeat_of_a_command_whose_outcome_was_unknown_is_a_duplicate(
    ledger: RunningLedger, lose_commits: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call fails once the server has tried often enough; the decision is stored."""
    monkeypatch.setattr(attempts, "BACKOFF_SECONDS", 0.001)
    await prepare(ledger)
    for command in COMMANDS:
        lose_commits(attempts.ATTEMPTS_MAX)
        (failed,) = await send(ledger.address, [command])
        assert isinstance(failed, aio.AioRpcError)
        assert reason_of(failed) == "DATABASE_UNAVAILABLE"
        (again,) = await send(ledger.address, [command])
        results = getattr(again, "results", None) or [again]
        assert {status_name(result) for result in results} == {"DUPLICATE"}
    await assert_decided_once(ledger)


async def test_session_ended_in_a_group_is_repeated_inside(ledger: RunningLedger) -> None:
    """PostgreSQL ends the session before the commit: the server decides again, on a new one."""
    await prepare(ledger)
    for command, expected in zip(COMMANDS, ANSWERS, strict=True):
        if expected == ["DECLINED"]:
            # It posts nothing, so it waits for no lock on the entries.
            continue
        async with locked(ledger.database, "LOCK TABLE ledger_entries IN SHARE ROW EXCLUSIVE MODE"):
            call = asyncio.create_task(send(ledger.address, [command]))
            pids = await waiting_sessions(ledger.database, "ledger_entries")
            await ledger.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = ANY (:pids)",
                pids=pids,
            )
            await sessions_gone(ledger.database, pids)
        (response,) = await call
        results = getattr(response, "results", None) or [response]
        assert [status_name(result) for result in results] == expected
    await assert_decided_once(ledger)
