"""Deliveries of the quarantine that are tried again, by a worker beside a real ledger."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.events import event_message, unique
from support.gateway import RunningGateway, body_of, charge, gateway_file, gateway_on
from support.running import RunningLedger
from support.waiting import until

from ledger.client import AsyncLedger, LedgerError
from ledger.gateway import retries
from ledger.gateway.allowances import Allowance
from ledger.gateway.books import RemoteBooks
from ledger.gateway.metrics import GatewayMetrics
from ledger.gateway.payloads import parse
from ledger.gateway.retries import RetryWorker
from ledger.v1 import ledger_pb2

PARKED = ledger_pb2.QUARANTINE_STATE_PARKED
QUARANTINED = ledger_pb2.QUARANTINE_STATE_QUARANTINED
RELEASED = ledger_pb2.QUARANTINE_STATE_RELEASED


@pytest.fixture(scope="module")
async def gateway(
    shared_ledger: RunningLedger, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningGateway]:
    """Its own worker rests: each test runs rounds of one."""
    path: Path = gateway_file(tmp_path_factory.mktemp("gateway"), poll_seconds=600)
    async with (
        AsyncLedger(shared_ledger.address) as client,
        gateway_on(path, RemoteBooks(client.service)) as running,
    ):
        yield running


def worker_of(
    gateway: RunningGateway, *, give_up_after: timedelta = timedelta(days=3)
) -> RetryWorker:
    """A worker whose rounds a test runs."""
    books = gateway.gateway.books
    assert isinstance(books, RemoteBooks)
    return RetryWorker(
        lambda: gateway.gateway.routes,
        books,
        books,
        gateway.gateway.metrics,
        give_up_after=give_up_after,
    )


async def kept(ledger: RunningLedger, body: bytes) -> ledger_pb2.QuarantinedPayload:
    """The payload with this body, with its moves."""
    listed = await ledger.stub.ListQuarantined(ledger_pb2.ListQuarantinedRequest(with_bodies=True))
    found = next(one for one in listed.payloads if one.body == body)
    response = await ledger.stub.GetQuarantined(
        ledger_pb2.GetQuarantinedRequest(quarantine_id=found.quarantine_id)
    )
    return response.payload


async def request_retry(ledger: RunningLedger, payload: ledger_pb2.QuarantinedPayload) -> None:
    await ledger.stub.RetryQuarantined(
        ledger_pb2.RetryQuarantinedRequest(quarantine_ids=[payload.quarantine_id])
    )


async def test_a_refund_before_its_charge_waits_for_it(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """The delivery does not say whose money it is; the charge does, once it is booked."""
    restaurant, event_id = unique("res"), unique("ch")
    refund = charge(
        unique("re"), type="refund_succeeded", amount_minor=400, account="", charge=event_id
    )
    body = body_of(refund)
    assert (await gateway.post(body)).status_code == 200
    parked = await kept(shared_ledger, body)
    assert (parked.state, parked.reason) == (PARKED, "CHARGE_NOT_FOUND")
    wait = parked.retry_at.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    assert timedelta(0) < wait <= timedelta(seconds=30)
    await worker_of(gateway).work()
    assert (await kept(shared_ledger, body)).move_number == parked.move_number
    await gateway.deliver(charge(event_id, account=restaurant))
    await request_retry(shared_ledger, parked)
    await worker_of(gateway).work()
    released = await kept(shared_ledger, body)
    assert released.state == RELEASED
    assert list(released.moves[-1].event_ids) == [refund["event_id"]]
    balance = await shared_ledger.balance(restaurant)
    assert balance.pending_minor + balance.available_minor == 600


async def test_waits_grow_until_a_person_is_asked(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    body = body_of(charge(unique("po"), type="payout_paid", payout_id="no-payout"))
    assert (await gateway.post(body)).status_code == 200
    parked = await kept(shared_ledger, body)
    assert (parked.state, parked.reason) == (PARKED, "PAYOUT_NOT_FOUND")
    await request_retry(shared_ledger, parked)
    await worker_of(gateway).work()
    again = await kept(shared_ledger, body)
    assert (again.state, again.move_number) == (PARKED, 3)
    await request_retry(shared_ledger, parked)
    await worker_of(gateway, give_up_after=timedelta(0)).work()
    assert (await kept(shared_ledger, body)).state == QUARANTINED


async def test_several_workers_at_once_release_a_delivery_once(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """What a person has mended: here the processor's report of another amount."""
    event_id = unique("ch")
    bodies = [body_of({"fetch_failed": str(number)}, charge(event_id)) for number in range(2)]
    body = body_of({"unbookable": "ODD"}, charge(event_id))
    for sent in (*bodies, body):
        assert (await gateway.post(sent)).status_code == 200
    payload = await kept(shared_ledger, body)
    await request_retry(shared_ledger, payload)
    processor: Any = gateway.gateway.routes["plain"].processor
    processor.forgives = True
    try:
        await asyncio.gather(*(worker_of(gateway).work() for _ in range(5)))
    finally:
        processor.forgives = False
    released = await kept(shared_ledger, body)
    assert (released.state, released.move_number) == (RELEASED, 3)
    rows = await shared_ledger.query(
        "SELECT count(*) FROM processor_events WHERE event_id = :id", id=event_id
    )
    assert rows == [(1,)]


async def test_a_delivery_at_which_the_ledger_fails_holds_up_no_other(
    gateway: RunningGateway, shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was the first to fall due, and waits again."""
    bodies = [body_of({"unbookable": "ODD"}, charge(unique("ch"))) for _ in range(2)]
    for body in bodies:
        await gateway.post(body)
        await request_retry(shared_ledger, await kept(shared_ledger, body))
    bad_id = parse(bodies[0]).values["facts"][1]["event_id"]
    ingest = gateway.gateway.books.ingest

    async def fail(event: ledger_pb2.ProcessorEvent, allowance: Allowance) -> Any:
        if event.event_id == bad_id:
            raise LedgerError("it\nfailed", code=grpc.StatusCode.INTERNAL, reason="INTERNAL")
        return await ingest(event, allowance)

    monkeypatch.setattr(gateway.gateway.books, "ingest", fail)
    monkeypatch.setattr(gateway.gateway.routes["plain"].processor, "forgives", True)
    await worker_of(gateway).work()
    bad, good = [await kept(shared_ledger, body) for body in bodies]
    assert (bad.state, bad.reason) == (PARKED, "INTERNAL")
    assert good.state == RELEASED


async def test_a_delivery_of_more_events_than_a_move_names_is_released(
    gateway: RunningGateway, shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "EVENT_IDS_MAX", 2)
    body = body_of({"unbookable": "ODD"}, *(charge(unique("ch")) for _ in range(3)))
    await gateway.post(body)
    await request_retry(shared_ledger, await kept(shared_ledger, body))
    monkeypatch.setattr(gateway.gateway.routes["plain"].processor, "forgives", True)
    await worker_of(gateway).work()
    released = await kept(shared_ledger, body)
    assert released.state == RELEASED
    assert len(released.moves[-1].event_ids) == 2


async def test_a_released_delivery_that_says_what_to_fetch_is_kept_again(
    gateway: RunningGateway, shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is fetched may have changed since, so what is answered must be stored."""
    routes = gateway.gateway.routes
    fetching = {name: replace(route, fetches=True) for name, route in routes.items()}
    monkeypatch.setattr(gateway.gateway, "routes", fetching)
    body = body_of({"unbookable": "ODD"}, {"ignored": unique("x")})

    async def stored() -> list[ledger_pb2.QuarantinedPayload]:
        request = ledger_pb2.ListQuarantinedRequest(with_bodies=True)
        listed = await shared_ledger.stub.ListQuarantined(request)
        return [one for one in listed.payloads if one.body == body]

    for number in range(1, 4):
        assert (await gateway.post(body)).status_code == 200
        assert (await gateway.post(body)).status_code == 200
        payloads = await stored()
        assert len(payloads) == number
        assert [one.state for one in payloads] == [QUARANTINED, *[RELEASED] * (number - 1)]
        await request_retry(shared_ledger, payloads[0])
        with monkeypatch.context() as mended:
            mended.setattr(routes["plain"].processor, "forgives", True)
            await worker_of(gateway).work()


async def test_a_discarded_delivery_stays_so(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """Also when it comes again, and when a try of it is under way."""
    body = body_of({"unbookable": "ODD"}, {"ignored": unique("x")})
    await gateway.post(body)
    payload = await kept(shared_ledger, body)
    await request_retry(shared_ledger, payload)
    books = gateway.gateway.books
    assert isinstance(books, RemoteBooks)
    under_way = await books.payload(payload.quarantine_id, Allowance.of("test", 10))
    await shared_ledger.stub.DiscardQuarantined(
        ledger_pb2.DiscardQuarantinedRequest(quarantine_id=payload.quarantine_id, reason="a test")
    )
    await worker_of(gateway)._try(under_way)
    assert (await gateway.post(body)).status_code == 200
    assert (await kept(shared_ledger, body)).state == ledger_pb2.QUARANTINE_STATE_DISCARDED


async def test_deliveries_of_other_gateways_are_left_alone(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    request = ledger_pb2.QuarantinePayloadRequest(
        endpoint="elsewhere", processor="plain", body=unique("x").encode(), reason="ODD"
    )
    request.received_at.FromDatetime(datetime.now(UTC))
    payload = (await shared_ledger.stub.QuarantinePayload(request)).payload
    await request_retry(shared_ledger, payload)
    await worker_of(gateway).work()
    left = await kept(shared_ledger, request.body)
    assert left.state == ledger_pb2.QUARANTINE_STATE_RETRY_REQUESTED


async def test_the_quarantine_shows_in_metrics(gateway: RunningGateway) -> None:
    await gateway.post(body_of({"unbookable": "SHOWN"}, {"ignored": unique("x")}))
    await worker_of(gateway).work()
    page = (await gateway.client.get(f"{gateway.url}/metrics")).text
    group = 'endpoint="plain",reason="SHOWN",state="quarantined"'
    assert f"ledger_gateway_quarantine_open{{{group}}} 1.0" in page
    oldest = 'ledger_gateway_quarantine_oldest_timestamp_seconds{endpoint="plain",state="quarant'
    assert oldest in page


async def test_a_gateway_tries_by_itself(shared_ledger: RunningLedger, tmp_path: Path) -> None:
    """Its worker polls; here every 50 ms."""
    async with (
        AsyncLedger(shared_ledger.address) as client,
        gateway_on(gateway_file(tmp_path), RemoteBooks(client.service)) as gateway,
    ):
        event_id = unique("ch")
        body = body_of(charge(unique("re"), type="refund_succeeded", account="", charge=event_id))
        await gateway.post(body)
        await shared_ledger.ingest(event_message(event_id=event_id, restaurant_id=unique("res")))
        await request_retry(shared_ledger, await kept(shared_ledger, body))

        async def is_released() -> bool:
            return (await kept(shared_ledger, body)).state == RELEASED

        await until(is_released)


async def test_a_ledger_that_is_away_ends_a_round() -> None:
    async with AsyncLedger("127.0.0.1:1") as client:
        books = RemoteBooks(client.service)
        worker = RetryWorker(dict, books, books, GatewayMetrics(), give_up_after=timedelta(days=3))
        with pytest.raises(LedgerError) as failure:
            await worker.work()
        assert failure.value.code is grpc.StatusCode.UNAVAILABLE
