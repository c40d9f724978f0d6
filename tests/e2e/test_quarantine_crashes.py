"""Servers and sessions that end in the middle of a call about the quarantine: what was acknowledged
is kept, and repeats find it.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.quarantine import (
    DISCARDED,
    PARKED,
    RELEASED,
    delivery,
    discard,
    from_now,
    listed,
    payload_of,
    quarantined,
    resolve,
)
from support.running import RunningLedger, query, running_ledger
from support.serving import serving_on
from support.sessions import locked, sessions_gone, waiting_sessions
from support.statuses import response_or_error

from ledger.bootstrap.database import Database
from ledger.errors import DatabaseUnavailable
from ledger.infrastructure.postgres.quarantine import PostgresQuarantine
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork
from ledger.v1 import ledger_pb2, ledger_pb2_grpc

CREATED = ledger_pb2.QUARANTINE_STATUS_CREATED
DUPLICATE = ledger_pb2.QUARANTINE_STATUS_DUPLICATE
COUNT = (
    "SELECT (SELECT count(*) FROM quarantined_payloads), (SELECT count(*) FROM quarantine_moves)"
)


@pytest.fixture
def lose_answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the next commit lose its session before its acknowledgement."""
    is_next_lost = False

    def losing(method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            nonlocal is_next_lost
            result = await method(*arguments)
            if is_next_lost:
                is_next_lost = False
                raise DatabaseUnavailable from ConnectionResetError("the session was lost")
            return result

        return call

    for kind, name in ((PostgresQuarantine, "add"), (PostgresUnitOfWork, "commit")):
        monkeypatch.setattr(kind, name, losing(getattr(kind, name)))

    def lose() -> None:
        nonlocal is_next_lost
        is_next_lost = True

    return lose


async def test_repeat_finds_what_a_lost_commit_has_stored(
    ledger: RunningLedger, lose_answers: Callable[[], None]
) -> None:
    """The call fails as UNAVAILABLE, and its repeat gets DUPLICATE, or the move that was made."""
    request = delivery(retry_at=from_now(hours=1))
    parked, doomed = [await quarantined(ledger, retry_at=from_now(hours=1)) for _ in range(2)]
    again = from_now(hours=2)
    calls: list[Callable[[], Any]] = [
        lambda: ledger.stub.QuarantinePayload(request),
        lambda: resolve(ledger, parked, PARKED, reason="X", retry_at=again),
        lambda: discard(ledger, doomed.quarantine_id),
    ]
    repeated = []
    for call in calls:
        lose_answers()
        error = await response_or_error(call())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        repeated.append(await call())
    assert repeated[0].status == DUPLICATE
    assert (repeated[1].state, repeated[1].move_number) == (PARKED, 2)
    assert (repeated[2].state, repeated[2].move_number) == (DISCARDED, 2)
    assert await ledger.query(COUNT) == [(3, 5)]
    await assert_books_in_order(ledger.database)


async def test_server_killed_before_a_commit_has_stored_nothing(database: Database) -> None:
    """The payload and its move are stored both or neither; a repeat stores them."""
    request = delivery()
    async with (
        serving_on(database) as server,
        locked(database, "LOCK TABLE quarantine_moves IN EXCLUSIVE MODE"),
        aio.insecure_channel(server.address) as channel,
    ):
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        call = asyncio.ensure_future(response_or_error(stub.QuarantinePayload(request)))
        pids = await waiting_sessions(database, "quarantine_moves")
        server.process.kill()
        await server.process.wait()
        assert isinstance(await call, aio.AioRpcError)
    await sessions_gone(database, pids)
    assert await query(database.migration_url, COUNT) == [(0, 0)]
    async with running_ledger(database) as ledger:
        assert (await ledger.stub.QuarantinePayload(request)).status == CREATED
    await assert_books_in_order(database)


async def test_server_killed_at_a_random_instant_keeps_what_it_acknowledged(
    database: Database, seed: int
) -> None:
    """Deliveries, outcomes and discards at once, commits included."""
    chance = random.Random(seed)
    requests = [delivery(retry_at=from_now(hours=1)) for _ in range(60)]
    kept: dict[str, int] = {}

    async def settle(stub: Any, request: Any) -> None:
        payload = (await stub.QuarantinePayload(request)).payload
        kept[payload.quarantine_id] = payload.move_number
        about = {"quarantine_id": payload.quarantine_id}
        call = (
            stub.ResolveQuarantined(
                ledger_pb2.ResolveQuarantinedRequest(move_number=1, outcome=RELEASED, **about)
            )
            if chance.random() < 0.5
            else stub.DiscardQuarantined(
                ledger_pb2.DiscardQuarantinedRequest(reason="a test", **about)
            )
        )
        kept[payload.quarantine_id] = (await call).payload.move_number

    async with serving_on(database) as server, aio.insecure_channel(server.address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        calls = asyncio.gather(*(response_or_error(settle(stub, request)) for request in requests))
        await asyncio.sleep(chance.random() * 0.2)
        server.process.kill()
        await server.process.wait()
        await calls
    async with running_ledger(database) as ledger:
        for quarantine_id, move_number in kept.items():
            shown = await payload_of(ledger, quarantine_id)
            assert shown.move_number >= move_number
        for request in requests:
            await ledger.stub.QuarantinePayload(request)
        assert len(await listed(ledger)) == len(requests)
    await assert_books_in_order(database)
