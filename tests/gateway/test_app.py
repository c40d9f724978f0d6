"""The gateway over HTTP on a real ledger: answers, bounds, and what is booked."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.events import unique
from support.gateway import RunningGateway, body_of, charge, gateway_file, gateway_on
from support.running import RunningLedger

from ledger.gateway.books import RemoteBooks


@pytest.fixture(scope="module")
async def gateway(
    shared_ledger: RunningLedger, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningGateway]:
    path: Path = gateway_file(tmp_path_factory.mktemp("gateway"))
    async with gateway_on(path, RemoteBooks(shared_ledger.stub)) as running:
        yield running


async def test_a_signed_charge_is_booked_once(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    restaurant = unique("res")
    body = body_of(charge(unique("ch"), account=restaurant))
    answer = await gateway.post(body)
    assert (answer.status_code, answer.text) == (200, "taken")
    assert (await gateway.post(body)).status_code == 200
    balance = await shared_ledger.balance(restaurant)
    assert balance.pending_minor + balance.available_minor == 1000


async def test_the_same_delivery_64_times_at_once_is_booked_once(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    restaurant, event_id = unique("res"), unique("ch")
    body = body_of(charge(event_id, account=restaurant))
    answers = await asyncio.gather(*(gateway.post(body) for _ in range(64)))
    assert {answer.status_code for answer in answers} == {200}
    rows = await shared_ledger.query(
        "SELECT count(*) FROM processor_events WHERE event_id = :id", id=event_id
    )
    assert rows == [(1,)]


async def test_a_wrong_signature_is_refused_and_nothing_booked(gateway: RunningGateway) -> None:
    body = body_of(charge("never"))
    assert (await gateway.post(body, secret="another")).status_code == 400
    assert (
        await gateway.client.post(f"{gateway.url}/hooks/plain", content=b"{}")
    ).status_code == 401
