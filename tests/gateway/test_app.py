"""The gateway over HTTP on a real ledger: answers, bounds, and what is booked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.events import event_message, unique
from support.gateway import (
    OCCURRED_AT,
    PlainEndpoint,
    RunningGateway,
    body_of,
    charge,
    endpoint_table,
    gateway_file,
    gateway_on,
    request_of,
)
from support.ports import held_port, port_of
from support.running import RunningLedger, running_ledger
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.client import AsyncLedger
from ledger.gateway import connections
from ledger.gateway.app import BODY_BYTES_MAX, QUERY_BYTES_MAX
from ledger.gateway.books import RemoteBooks
from ledger.gateway.connections import HEADER_BYTES_MAX
from ledger.v1 import ledger_pb2

ENDPOINTS = (
    endpoint_table(),
    endpoint_table("rated", "fees = { commission = 'rate', percent = 12.5, fixed_minor = 30 }"),
    endpoint_table("passing", "fees = { commission = 'pass_through' }"),
    endpoint_table("mapped", "restaurant = { by = 'account', table = { a1 = 'res_of_a1' } }"),
)


@pytest.fixture(scope="module")
async def gateway(
    shared_ledger: RunningLedger, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningGateway]:
    path: Path = gateway_file(tmp_path_factory.mktemp("gateway"), *ENDPOINTS)
    async with (
        AsyncLedger(shared_ledger.address) as client,
        gateway_on(path, RemoteBooks(client.service)) as running,
    ):
        yield running


async def quarantined(ledger: RunningLedger, endpoint: str = "plain") -> list[Any]:
    """All payloads in the quarantine of an endpoint, the latest first."""
    response = await ledger.stub.ListQuarantined(
        ledger_pb2.ListQuarantinedRequest(endpoint=endpoint, with_bodies=True)
    )
    return list(response.payloads)


async def booked(ledger: RunningLedger, event_id: str) -> ledger_pb2.ProcessorEvent:
    """The event as it is booked."""
    response = await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event_id))
    return response.event


async def count_of(ledger: RunningLedger, *event_ids: str) -> int:
    """How many of these events are booked."""
    rows = await ledger.query(
        "SELECT count(*) FROM processor_events WHERE event_id = ANY(:ids)", ids=list(event_ids)
    )
    count: int = rows[0][0]
    return count


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
    event_id = unique("ch")
    body = body_of(charge(event_id))
    answers = await asyncio.gather(*(gateway.post_alone(body) for _ in range(64)))
    assert {answer.split(b" ")[1] for answer in answers} == {b"200"}
    assert await count_of(shared_ledger, event_id) == 1


async def test_a_thousand_posts_at_once_are_all_answered_and_booked(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """Each with 200, or with a status that makes the processor send it again."""
    ids = [unique("ch") for _ in range(1000)]
    left = {event_id: body_of(charge(event_id)) for event_id in ids}
    while left:
        answers = await asyncio.gather(*map(gateway.post_alone, left.values()))
        for event_id, answer in zip(list(left), answers, strict=True):
            if answer.startswith(b"HTTP/1.1 200 "):
                del left[event_id]
            else:
                assert answer.startswith((b"HTTP/1.1 429 ", b"HTTP/1.1 503 "))
                assert b"\r\nretry-after: " in answer
    assert await count_of(shared_ledger, *ids) == 1000


async def test_posts_beyond_the_bound_are_asked_to_come_again(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    event_id = unique("ch")
    gateway.gateway.under_way += gateway.gateway.bounds.posts_max
    try:
        answer = await gateway.post(body_of(charge(event_id)))
    finally:
        gateway.gateway.under_way -= gateway.gateway.bounds.posts_max
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert await count_of(shared_ledger, event_id) == 0


async def test_a_wrong_signature_is_refused_and_nothing_kept(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """As the processor expects it; no stranger fills the quarantine."""
    event_id = unique("ch")
    body = body_of(charge(event_id))
    assert (await gateway.post(body, secret="another")).status_code == 400
    unsigned = await gateway.client.post(f"{gateway.url}/hooks/plain", content=body)
    assert unsigned.status_code == 401
    assert "secret" not in unsigned.text
    assert await count_of(shared_ledger, event_id) == 0
    assert event_id.encode() not in b"".join(one.body for one in await quarantined(shared_ledger))


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/hooks/nobody", {}, 404),
        ("POST", "/", {}, 404),
        ("POST", "/hooks/plain/", {}, 404),
        ("GET", "/hooks/plain", {}, 405),
        ("PUT", "/hooks/plain", {}, 405),
        ("POST", "/hooks/plain", {"content-type": "text/plain"}, 415),
        ("POST", "/hooks/plain", {"content-type": "multipart/form-data; boundary=x"}, 415),
        ("POST", "/hooks/plain", {"content-encoding": "gzip"}, 415),
        ("POST", "/hooks/plain", {"content-encoding": "Identity"}, 401),
        ("POST", "/hooks/plain", {"x-large": "x" * HEADER_BYTES_MAX}, 431),
        ("POST", f"/hooks/plain?{'q' * (QUERY_BYTES_MAX + 1)}", {}, 414),
        ("GET", "/healthz", {}, 200),
        ("GET", "/readyz", {}, 200),
    ],
)
async def test_answers_to_what_is_no_delivery(
    gateway: RunningGateway, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = await gateway.client.request(method, f"{gateway.url}{path}", headers=headers)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("query", [b"q=\xc3\xa9", b"q=\x85", b"q=\x7f"])
async def test_a_query_that_the_quarantine_could_not_keep_is_refused(
    gateway: RunningGateway, query: bytes
) -> None:
    """Whatever the delivery is, no later answer would be another one."""
    request = request_of(body_of({"unbookable": "ODD"})).replace(b"/plain ", b"/plain?%s " % query)
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def chunks(count: int, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    """A body without a length."""
    for _ in range(count):
        yield b"x" * size


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_above_the_limit_is_refused(gateway: RunningGateway, is_chunked: bool) -> None:
    """Whether it has a length or none; a client that reads late gets the answer all the same."""
    content = chunks(5) if is_chunked else b"x" * (BODY_BYTES_MAX + 1)
    answer = await gateway.client.post(
        f"{gateway.url}/hooks/plain", content=content, headers={"x-signature": "x"}
    )
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")


async def test_a_body_that_never_ends_is_given_up(gateway: RunningGateway) -> None:
    reader, writer = await raw(
        gateway, b"POST /hooks/plain HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    with suppress(ConnectionError):
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not reader.at_eof():
                writer.write(b"10000\r\n%s\r\n" % (b"x" * 0x10000))
                await writer.drain()
    writer.close()


async def test_no_body_is_taken_for_another_request(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """A connection that asks for an upgrade ends with its first answer, whatever follows."""
    event_id = unique("ch")
    body = body_of(charge(event_id))
    asked = b"POST /hooks/plain HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n"
    reader, writer = await raw(gateway, asked + b"content-length: 900\r\n\r\n")
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        with suppress(ConnectionError):
            writer.write(request_of(body))
            await writer.drain()
            assert await reader.read() == b""
    writer.close()
    assert await count_of(shared_ledger, event_id) == 0


async def test_a_body_of_the_limit_is_taken(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    event_id = unique("ch")
    body = body_of(charge(event_id, metadata={"filling": ""}))
    body = body.replace(
        b'"filling": ""', b'"filling": "%s"' % (b"x" * (BODY_BYTES_MAX - len(body)))
    )
    assert len(body) == BODY_BYTES_MAX
    assert (await gateway.post(body)).status_code == 200
    assert await count_of(shared_ledger, event_id) == 1


async def raw(gateway: RunningGateway, content: bytes) -> tuple[Any, asyncio.StreamWriter]:
    """A connection on which `content` was sent."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(content)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"POST /hooks/plain HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n123", b"408"),
        (b"POST /hooks/plain HTTP/1.1\r\nhost: x\r\nx-slow: ", b"408"),
        (b"", b"408"),
        (b"POST /hooks/plain HTTP/1.1\r\nx-large: " + b"x" * HEADER_BYTES_MAX, b"431"),
        (b"POST /hooks/plain HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n", b"431"),
        (b"no HTTP at all\r\n\r\n", b"400"),
    ],
    ids=["body", "headers", "nothing", "large", "many", "none"],
)
async def test_a_request_that_never_ends_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, status: bytes
) -> None:
    """The connection is closed, and nothing waits for the rest."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.05)
    path = gateway_file(tmp_path, http="body_seconds = 0.05", poll_seconds=600)
    async with (
        AsyncLedger("127.0.0.1:1") as client,
        gateway_on(path, RemoteBooks(client.service)) as gateway,
    ):
        reader, writer = await raw(gateway, content)
        async with asyncio.timeout(DEADLINE_SECONDS):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 %s " % status)
        assert b"connection: close" in answer.lower()
        writer.close()


async def test_a_client_that_leaves_stops_no_booking(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """A post that arrived whole is booked, whether or not anybody waits for the answer."""
    event_id = unique("ch")
    body = body_of(charge(event_id))
    _, writer = await raw(gateway, request_of(body))
    writer.transport.abort()

    async def is_booked() -> bool:
        return await count_of(shared_ledger, event_id) == 1

    await until(is_booked)


async def test_a_body_that_breaks_off_books_nothing(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    event_id = unique("ch")
    body = body_of(charge(event_id))
    reader, writer = await raw(gateway, request_of(body, length=len(body) + 1))
    writer.write_eof()
    await reader.read()
    writer.close()
    assert await count_of(shared_ledger, event_id) == 0


async def test_what_moves_no_money_is_answered_and_forgotten(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    before = len(await quarantined(shared_ledger))
    assert await gateway.deliver({"ignored": "charge.pending"}) == 200
    assert len(await quarantined(shared_ledger)) == before
    page = (await gateway.client.get(f"{gateway.url}/metrics")).text
    assert (
        'ledger_gateway_ignored_total{endpoint="plain",is_alert="false",kind="charge.pending"}'
        in page
    )


async def test_what_cannot_be_booked_is_kept_whole_and_answered(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """The rest of the delivery is booked all the same."""
    event_id = unique("ch")
    body = body_of({"unbookable": "ODD_KIND"}, charge(event_id))
    answer = await gateway.post(body, authorization="Basic eDp5", cookie="a=b")
    assert answer.status_code == 200
    assert await count_of(shared_ledger, event_id) == 1
    kept = (await quarantined(shared_ledger))[0]
    assert (kept.body, kept.reason, kept.kind, kept.processor) == (body, "ODD_KIND", "odd", "plain")
    assert kept.state == ledger_pb2.QUARANTINE_STATE_QUARANTINED
    assert dict(kept.headers).keys() == {"content-type", "user-agent", "x-signature"}
    assert (await gateway.post(body)).status_code == 200
    assert sum(one.body == body for one in await quarantined(shared_ledger)) == 1


@pytest.mark.parametrize(
    ("name", "fact", "reason"),
    [
        ("mapped", charge("x1", account="a2"), "UNKNOWN_RESTAURANT"),
        ("mapped", charge("x2", account=""), "UNKNOWN_RESTAURANT"),
        ("rated", charge("x3", amount_minor=20), "FEE_ABOVE_AMOUNT"),
        ("plain", charge("x4 of blanks"), "BAD_EVENT_ID"),
        ("plain", charge("x5", amount_minor=0), "INVALID_REQUEST"),
        ("plain", charge("x6", amount_minor=2**70), "INVALID_REQUEST"),
        ("plain", charge("x7", currency="XXX"), "INVALID_REQUEST"),
        ("plain", charge("x8", occurred_at="1999-01-01T00:00:00Z"), "INVALID_REQUEST"),
        ("plain", {"facts": 1}, "UNKNOWN_SHAPE"),
    ],
)
async def test_no_signed_delivery_stalls_the_queue(
    gateway: RunningGateway,
    shared_ledger: RunningLedger,
    name: str,
    fact: dict[str, Any],
    reason: str,
) -> None:
    body = body_of(fact)
    assert (await gateway.post(body, name=name)).status_code == 200
    kept = (await quarantined(shared_ledger, name))[0]
    assert (kept.body, kept.reason) == (body, reason)
    assert kept.detail


async def test_headers_that_the_quarantine_does_not_keep_stall_no_queue(
    gateway: RunningGateway, shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long ones, and the header of a signature that may also hold credentials."""
    monkeypatch.setattr(
        PlainEndpoint, "kept_headers", frozenset({"authorization", "user-agent", "x-signature"})
    )
    body = body_of({"unbookable": "ODD"}, {"ignored": unique("x")})
    odd = {"authorization": "HMAC abc", "user-agent": "x" * 9000}
    assert (await gateway.post(body, **odd)).status_code == 200
    kept = (await quarantined(shared_ledger))[0]
    assert (kept.body, set(kept.headers)) == (body, {"x-signature"})


async def test_a_body_that_is_no_json_is_kept_too(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    body = b"\xff no JSON"
    assert (await gateway.post(body)).status_code == 200
    assert (await quarantined(shared_ledger))[0].body == body


async def test_another_report_of_a_fact_is_a_conflict_that_is_kept(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    event_id = unique("ch")
    assert await gateway.deliver(charge(event_id)) == 200
    assert await gateway.deliver(charge(event_id, amount_minor=999)) == 200
    kept = (await quarantined(shared_ledger))[0]
    assert kept.reason == "EVENT_ID_REUSED"
    assert (await booked(shared_ledger, event_id)).amount_minor == 1000


async def test_a_rate_is_the_commission_and_a_changed_rate_no_conflict(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """The charge stands as it was booked first."""
    event_id = unique("ch")
    await shared_ledger.ingest(
        event_message(
            event_id=event_id,
            restaurant_id="res_1",
            amount_minor=1004,
            fee_minor=77,
            occurred_at=OCCURRED_AT,
        )
    )
    before = len(await quarantined(shared_ledger, "rated"))
    fact = charge(event_id, amount_minor=1004)
    assert (await gateway.post(body_of(fact), name="rated")).status_code == 200
    other = charge(unique("ch"), amount_minor=1004)
    assert (await gateway.post(body_of(other), name="rated")).status_code == 200
    assert (await booked(shared_ledger, event_id)).fee_minor == 77
    assert (await booked(shared_ledger, other["event_id"])).fee_minor == 156
    assert len(await quarantined(shared_ledger, "rated")) == before


async def test_a_changed_rate_excuses_no_other_fee(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """The fee of a dispute is the processor's: two reports of it that differ are a conflict."""
    dispute = charge(unique("du"), type="dispute_opened", dispute_fee_minor=1500)
    assert (await gateway.post(body_of(dispute), name="rated")).status_code == 200
    body = body_of({**dispute, "dispute_fee_minor": 2000})
    assert (await gateway.post(body, name="rated")).status_code == 200
    kept = (await quarantined(shared_ledger, "rated"))[0]
    assert (kept.body, kept.reason) == (body, "EVENT_ID_REUSED")


async def test_a_reversed_charge_gives_its_commission_back_in_proportion(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """In parts never more than was taken; where the charge was booked, whatever is mapped now."""
    event_id, restaurant = unique("ch"), unique("res")
    await gateway.post(body_of(charge(event_id, account=restaurant)), name="rated")
    parts = [unique("part") for _ in range(3)]
    for part, amount in zip(parts, (333, 333, 334), strict=True):
        fact = charge(part, type="charge_reversed", amount_minor=amount, reverses=event_id)
        assert (await gateway.post(body_of(fact), name="rated")).status_code == 200
        assert (await gateway.post(body_of(fact), name="rated")).status_code == 200
    reversals = [await booked(shared_ledger, part) for part in parts]
    assert [reversal.fee_minor for reversal in reversals] == [51, 51, 51]
    assert {reversal.restaurant_id for reversal in reversals} == {restaurant}
    balance = await shared_ledger.balance(restaurant)
    assert balance.pending_minor + balance.available_minor == -155 + 3 * 51


async def test_a_passed_on_fee_is_the_restaurants(
    gateway: RunningGateway, shared_ledger: RunningLedger
) -> None:
    """Of the charge at once, and the one that comes later by an event of its own."""
    restaurant, event_id, late = unique("res"), unique("ch"), unique("late")
    await gateway.post(
        body_of(charge(event_id, account=restaurant, processor_fee_minor=40)), name="passing"
    )
    fact = charge(late, type="processor_fee_assessed", amount_minor=7, account=restaurant)
    assert (await gateway.post(body_of(fact), name="passing")).status_code == 200
    assert (await gateway.post(body_of(fact), name="passing")).status_code == 200
    balance = await shared_ledger.balance(restaurant)
    assert balance.pending_minor + balance.available_minor == 1000 - 40 - 7
    assert await count_of(shared_ledger, late, f"{late}:passed-on") == 2


async def test_the_ledger_away_and_back(database: Database, tmp_path: Path) -> None:
    """Away: 503, and nothing is lost as the processor sends it again. Back: booked once."""
    event_id = unique("ch")
    body = body_of(charge(event_id))
    with held_port() as holder:
        address = f"127.0.0.1:{port_of(holder)}"
        async with (
            AsyncLedger(address) as client,
            gateway_on(gateway_file(tmp_path), RemoteBooks(client.service)) as gateway,
        ):
            away = await gateway.post(body)
            assert (away.status_code, away.headers["retry-after"]) == (503, "5")
            assert (await gateway.client.get(f"{gateway.url}/readyz")).status_code == 503
            assert (await gateway.client.get(f"{gateway.url}/healthz")).status_code == 200
            async with running_ledger(database, address=address) as ledger:

                async def is_taken() -> bool:
                    return (await gateway.post(body)).status_code == 200

                await until(is_taken)
                assert (await gateway.post(body)).status_code == 200
                assert await count_of(ledger, event_id) == 1


async def test_a_defect_keeps_the_delivery_and_not_the_queue(
    gateway: RunningGateway, shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(delivery: object) -> None:
        raise RuntimeError("a defect of the test")

    monkeypatch.setattr(gateway.gateway.routes["plain"].processor, "read", fail)
    body = body_of(charge(unique("ch")))
    assert (await gateway.post(body)).status_code == 200
    kept = (await quarantined(shared_ledger))[0]
    assert (kept.body, kept.reason) == (body, "GATEWAY_DEFECT")
    assert "a defect of the test" not in kept.detail


async def test_metrics_count_what_became_of_deliveries(gateway: RunningGateway) -> None:
    await gateway.deliver(charge(unique("ch")))
    page = (await gateway.client.get(f"{gateway.url}/metrics")).text
    for line in (
        'ledger_gateway_answers_total{endpoint="plain",status="200"}',
        'ledger_gateway_verified_total{endpoint="plain",secret="first"}',
        'ledger_gateway_deliveries_total{endpoint="plain",outcome="booked"}',
        'ledger_gateway_booked_total{endpoint="plain",type="charge_succeeded"}',
        'ledger_gateway_lag_seconds_count{endpoint="plain"}',
        'ledger_gateway_last_delivery_timestamp_seconds{endpoint="mapped"}',
        "ledger_gateway_file_is_current 1.0",
    ):
        assert line in page


async def test_the_request_id_reaches_the_ledger(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a proxy has given, and one of its own otherwise."""
    seen: list[str] = []
    ingest = gateway.gateway.books.ingest

    async def look(event: Any, allowance: Any) -> Any:
        seen.append(allowance.request_id)
        return await ingest(event, allowance)

    monkeypatch.setattr(gateway.gateway.books, "ingest", look)
    await gateway.post(body_of(charge(unique("ch"))), **{"x-request-id": "from-a-proxy"})
    await gateway.post(body_of(charge(unique("ch"))), **{"x-request-id": "with blanks"})
    assert seen[0] == "from-a-proxy"
    assert len(seen[1]) == 16
