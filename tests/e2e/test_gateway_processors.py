"""Adyen's and Mercado Pago's webhooks over HTTP, through the gateway, into the books."""

import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from Adyen.util import generate_payload_sig
from support import adyen, mercado_pago
from support.audit import assert_books_in_order
from support.events import event_message, unique
from support.gateway import RunningGateway, gateway_file, gateway_on
from support.json_host import JsonHost, json_host
from support.payout_runs import finished_run, payouts_of
from support.running import RunningLedger

from ledger.client import AsyncLedger
from ledger.gateway.books import RemoteBooks
from ledger.v1 import ledger_pb2

ENDPOINTS = """
[[endpoints]]
name = "adyen"
processor = "adyen"
mode = "live"
secrets = [{{ name = "k1", value = "{key}" }}]
restaurant = {{ by = "reference", table = {{ "order-17" = "{restaurant}" }} }}
fees = {{ commission = "rate", percent = 10 }}

[[endpoints]]
name = "adyen-payouts"
processor = "adyen_platform"
mode = "live"
secrets = [{{ name = "k1", value = "{key}" }}]
restaurant = {{ by = "account" }}

[[endpoints]]
name = "mercado-pago"
processor = "mercado_pago"
mode = "live"
secrets = [{{ name = "w1", value = "{secret}" }}]
restaurant = {{ by = "account", table = {{ 555001 = "{restaurant}" }} }}
fees = {{ commission = "processor" }}
api = {{ url = "{origin}", key = {{ name = "token", value = "APP-1" }}, timeout_seconds = 20 }}
"""


@pytest.fixture
def restaurant() -> str:
    return unique("res")


@pytest.fixture
async def api() -> AsyncIterator[JsonHost]:
    async with json_host() as host:
        yield host


@pytest.fixture
async def gateway(
    ledger: RunningLedger, restaurant: str, api: JsonHost, tmp_path: Path
) -> AsyncIterator[RunningGateway]:
    table = ENDPOINTS.format(
        key=adyen.KEY, secret=mercado_pago.SECRET, restaurant=restaurant, origin=api.origin
    )
    async with (
        AsyncLedger(ledger.address) as client,
        gateway_on(gateway_file(tmp_path, table), RemoteBooks(client.service)) as running,
    ):
        yield running


async def deliver(
    gateway: RunningGateway, name: str, body: bytes, headers: dict[str, str], query: str = ""
) -> str:
    """Posts it. Returns the body of the answer, which is 200."""
    answer = await gateway.client.post(
        f"{gateway.url}/hooks/{name}{'?' if query else ''}{query}",
        content=body,
        headers={"content-type": "application/json", **headers},
    )
    assert answer.status_code == 200, answer.text
    return answer.text


async def booked(ledger: RunningLedger) -> list[tuple[Any, ...]]:
    return await ledger.query(
        "SELECT event_id, type, amount_minor, fee_minor, currency, reference"
        ' FROM processor_events ORDER BY event_id COLLATE "C"'
    )


async def quarantined(ledger: RunningLedger) -> list[tuple[str, str]]:
    response = await ledger.stub.ListQuarantined(ledger_pb2.ListQuarantinedRequest())
    return [(one.endpoint, one.reason) for one in response.payloads]


LIFE = [
    adyen.item("AUTHORISATION", originalReference="", pspReference="PAY1"),
    adyen.item("CAPTURE"),
    adyen.item("CAPTURE", pspReference="MOD2", amount={"currency": "EUR", "value": 250}),
    adyen.item("CAPTURE_FAILED", pspReference="MOD2", amount={"currency": "EUR", "value": 250}),
    adyen.item("REFUND", pspReference="MOD3", amount={"currency": "EUR", "value": 400}),
    adyen.item("REFUND_FAILED", pspReference="MOD3", amount={"currency": "EUR", "value": 400}),
    adyen.item("CHARGEBACK", pspReference="DIS1", amount={"currency": "EUR", "value": 300}),
    adyen.item(
        "CHARGEBACK_REVERSED", pspReference="DIS1", amount={"currency": "EUR", "value": 300}
    ),
    adyen.item("SECOND_CHARGEBACK", pspReference="DIS1", amount={"currency": "EUR", "value": 300}),
    adyen.item("REPORT_AVAILABLE", pspReference="report.csv"),
]


async def test_adyens_items_are_booked_once_in_any_order(
    gateway: RunningGateway, ledger: RunningLedger, restaurant: str, seed: int
) -> None:
    """Batched, repeated and shuffled; only a reversal whose charge is to come waits for it."""
    chance = random.Random(seed)
    # The reversal after its charge: before it, it is parked and tried again.
    order = sorted(range(len(LIFE)), key=lambda _: chance.random())
    failed, captured = order.index(3), order.index(2)
    if failed < captured:
        order[failed], order[captured] = order[captured], order[failed]
    posts = [[i] for i in order] + [[chance.choice(order) for _ in range(4)] for _ in range(5)]
    for post in posts:
        body = adyen.envelope(*(adyen.signed(LIFE[i]) for i in post))
        assert await deliver(gateway, "adyen", body, {}) == "[accepted]"
    assert await booked(ledger) == [
        ("adyen:DIS1:CHARGEBACK", "dispute_opened", 300, 0, "EUR", "PAY1"),
        ("adyen:DIS1:CHARGEBACK_REVERSED", "dispute_won", 300, 0, "EUR", "PAY1"),
        ("adyen:DIS1:SECOND_CHARGEBACK", "dispute_opened", 300, 0, "EUR", "PAY1"),
        ("adyen:DIS1:SECOND_CHARGEBACK:lost", "dispute_lost", 300, 0, "EUR", "PAY1"),
        ("adyen:MOD1:CAPTURE", "charge_succeeded", 1250, 125, "EUR", "PAY1"),
        ("adyen:MOD2:CAPTURE", "charge_succeeded", 250, 25, "EUR", "PAY1"),
        ("adyen:MOD2:CAPTURE_FAILED", "charge_reversed", 250, 25, "EUR", "PAY1"),
        ("adyen:MOD3:REFUND", "refund_succeeded", 400, 0, "EUR", "PAY1"),
        ("adyen:MOD3:REFUND_FAILED", "refund_failed", 400, 0, "EUR", "PAY1"),
    ]
    assert await quarantined(ledger) == []
    balance = await ledger.balance(restaurant, "EUR")
    assert balance.available_minor + balance.pending_minor == 1250 - 125 - 300
    assert balance.disputed_minor == 0
    await assert_books_in_order(ledger.database)


async def test_a_fresher_date_is_a_duplicate_but_a_second_reversal_is_not(
    gateway: RunningGateway, ledger: RunningLedger
) -> None:
    """The one is the same fact; the other is money that has the id of the first reversal."""
    for code in ("CAPTURE", "CHARGEBACK_REVERSED"):
        for day in ("2026-05-30", "2026-05-31"):
            one = adyen.item(code, eventDate=f"{day}T10:00:00+02:00")
            await deliver(gateway, "adyen", adyen.envelope(adyen.signed(one)), {})
    assert [row[0] for row in await booked(ledger)] == [
        "adyen:MOD1:CAPTURE",
        "adyen:MOD1:CHARGEBACK_REVERSED",
    ]
    assert await quarantined(ledger) == [("adyen", "EVENT_ID_REUSED")]


async def test_a_batch_with_an_unsigned_item_books_nothing(
    gateway: RunningGateway, ledger: RunningLedger
) -> None:
    """The whole post is refused, and nothing of it is kept."""
    body = adyen.envelope(adyen.signed(adyen.item("CAPTURE")), adyen.item("REFUND"))
    answer = await gateway.client.post(
        f"{gateway.url}/hooks/adyen", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert await booked(ledger) == []
    assert await quarantined(ledger) == []


async def test_a_transfer_pays_a_payout_and_gives_it_back(
    gateway: RunningGateway, ledger: RunningLedger, restaurant: str
) -> None:
    """By the ledger's payout id; later updates of the transfer change nothing."""
    await ledger.ingest(
        event_message(
            restaurant_id=restaurant,
            amount_minor=7954,
            currency="GBP",
            fee_minor=0,
            occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        )
    )
    await finished_run(ledger, currency="GBP")
    (payout,) = await payouts_of(ledger)
    steps = {
        "booked": {"status": "booked", "bookingDate": "2026-06-01T09:00:02+02:00"},
        "returned": {"status": "returned", "bookingDate": "2026-06-03T08:00:00+02:00"},
    }
    states = []
    for status, events in (
        ("booked", ["booked"]),
        ("booked", ["booked"]),
        ("returned", ["booked", "returned"]),
        ("booked", ["booked"]),
    ):
        update = adyen.transfer(
            status, *(steps[name] for name in events), reference=payout.payout_id
        )
        body = json.dumps(update).encode()
        headers = {"hmacsignature": generate_payload_sig(body, adyen.KEY).decode()}
        assert await deliver(gateway, "adyen-payouts", body, headers) == "[accepted]"
        (now,) = await payouts_of(ledger)
        states.append(ledger_pb2.PayoutState.Name(now.state).removeprefix("PAYOUT_STATE_"))
    assert states == ["PAID", "PAID", "RETURNED", "RETURNED"]
    assert await quarantined(ledger) == []
    await assert_books_in_order(ledger.database)


async def test_a_payment_is_booked_as_the_api_has_it(
    gateway: RunningGateway, ledger: RunningLedger, restaurant: str, api: JsonHost
) -> None:
    """Whenever the gateway looks: approved, put off, refunded, charged back; each fact once."""
    taxed = mercado_pago.line(2, 2.42, type="tax")
    net = {"transaction_details": {"net_received_amount": 74.51}}
    lines = {"charges_details": [mercado_pago.line(1, 3.57), taxed]}
    back = {
        "charges_details": [
            mercado_pago.line(1, 3.57, **mercado_pago.given_back(3.57, 3.57)),
            taxed,
        ]
    }
    refunded = {
        "status": "refunded",
        "transaction_amount_refunded": 80.5,
        "refunds": [mercado_pago.refund(80.5)],
    }
    looks = [
        mercado_pago.payment(**net | lines),
        mercado_pago.payment(**net | lines | {"money_release_date": "2026-07-01T00:00:00Z"}),
        mercado_pago.payment(**net | back | refunded),
    ]
    for look in (*looks, looks[0]):
        api.resources["/v1/payments/77000000017"] = look
        await notify(gateway)
    api.resources["/v1/chargebacks/CB-077"] = mercado_pago.chargeback(id="CB-077")
    await notify(gateway, "CB-077", "topic_chargebacks_wh")
    assert await booked(ledger) == [
        ("mp:77000000017:approved", "charge_succeeded", 8050, 0, "PEN", "order-42"),
        ("mp:chargeback:CB-077:opened", "dispute_opened", 8050, 0, "PEN", "77000000017"),
        (
            "mp:fee:77000000017-001:refunded:9001",
            "processor_fee_refunded",
            357,
            0,
            "PEN",
            "order-42",
        ),
        ("mp:refund:9001", "refund_succeeded", 8050, 0, "PEN", "order-42"),
        ("mp:tax:77000000017-002", "tax_withheld", 242, 0, "PEN", "order-42"),
    ]
    assert await quarantined(ledger) == []
    balance = await ledger.balance(restaurant)
    assert balance.available_minor + balance.pending_minor == 8050 - 242 - 8050 - 8050
    await assert_books_in_order(ledger.database)


async def notify(
    gateway: RunningGateway, resource_id: str = "77000000017", topic: str = "payment"
) -> None:
    now = datetime.now(UTC)
    post = mercado_pago.post(resource_id, topic, ts=str(int(now.timestamp())), at=now)
    await deliver(gateway, "mercado-pago", post.body, dict(post.headers), post.query)


async def test_what_the_api_does_not_tell_yet_waits(
    gateway: RunningGateway, ledger: RunningLedger, api: JsonHost
) -> None:
    """It is answered with 200, parked, and holds nothing up."""
    await notify(gateway)
    assert await booked(ledger) == []
    assert await quarantined(ledger) == [("mercado-pago", "FETCH_FAILED")]
    api.resources["/v1/payments/77000000017"] = mercado_pago.payment()
    await notify(gateway)
    assert [row[0] for row in await booked(ledger)] == ["mp:77000000017:approved"]
