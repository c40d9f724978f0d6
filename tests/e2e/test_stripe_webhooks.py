"""Stripe's webhooks over HTTP, signed by Stripe's own library, on a real ledger."""

import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from stripe import WebhookSignature
from support.audit import assert_books_in_order
from support.events import unique
from support.gateway import RunningGateway, gateway_file, gateway_on
from support.http_hosts import running_host
from support.running import RunningLedger
from support.stripe_messages import (
    OLD_SECRET,
    PAID_AT,
    REINSTATED,
    SECRET,
    WITHDRAWN,
    Json,
    charge,
    dispute,
    event,
    refund,
    transaction,
)
from support.waiting import until

from ledger.client import AsyncLedger
from ledger.gateway.books import RemoteBooks
from ledger.v1 import ledger_pb2

ENDPOINT = """
[[endpoints]]
name = "stripe"
processor = "stripe"
mode = "test"
secrets = [{{ name = "new", value = "{new}" }}, {{ name = "old", value = "{old}" }}]
restaurant = {{ by = "metadata", key = "restaurant" }}
fees = {{ commission = "processor" }}
{lines}
"""
API = """
settlement_currencies = ["EUR"]
api = {{ url = "{origin}", timeout_seconds = 20, key = {{ name = "api", value = "rk_test_1" }} }}
"""


@asynccontextmanager
async def gateway(
    ledger: RunningLedger, folder: Path, lines: str = ""
) -> AsyncIterator[RunningGateway]:
    endpoint = ENDPOINT.format(new=SECRET, old=OLD_SECRET, lines=lines)
    async with (
        AsyncLedger(ledger.address) as client,
        gateway_on(gateway_file(folder, endpoint), RemoteBooks(client.service)) as running,
    ):
        yield running


async def post(running: RunningGateway, message: Json, secret: str = SECRET) -> httpx.Response:
    body = json.dumps(message).encode()
    at = int(time.time())
    signature = WebhookSignature._compute_signature(f"{at}.{body.decode()}", secret)
    return await running.client.post(
        f"{running.url}/hooks/stripe",
        content=body,
        headers={"content-type": "application/json", "stripe-signature": f"t={at},v1={signature}"},
    )


def life(name: str) -> list[Json]:
    """A charge with a commission of 4.50, a refund that came back, and a dispute that was won."""
    whose: Json = {"restaurant": f"res_{name}"}
    paid: Json = {"id": f"ch_{name}", "metadata": whose, "application_fee_amount": 450}
    soup: Json = {"id": f"re_{name}", "charge": f"ch_{name}"}
    cold: Json = {"id": f"du_{name}", "charge": f"ch_{name}"}
    failed: Json = {"status": "failed", "failure_balance_transaction": "txn_1Back"}
    fee: Json = {"balance_transaction": transaction(4500, 93)}
    refunds: Json = {"data": [refund(**soup)]}
    return [
        event("charge.succeeded", charge(**paid)),
        event("charge.captured", charge(**paid), created=PAID_AT + 9),
        event("charge.updated", charge(**paid, **fee)),
        event("charge.refunded", charge(**paid, amount_refunded=1000, refunds=refunds)),
        event("refund.created", refund(**soup, metadata=whose)),
        event("refund.failed", refund(**soup, **failed, metadata=whose)),
        event("charge.dispute.created", dispute(WITHDRAWN, **cold, metadata=whose)),
        event("charge.dispute.funds_withdrawn", dispute(WITHDRAWN, **cold, metadata=whose)),
        event(
            "charge.dispute.closed",
            dispute(WITHDRAWN, REINSTATED, **cold, metadata=whose, status="won"),
        ),
        event("customer.created", {"id": "cus_1", "object": "customer"}),
    ]


async def test_a_payment_is_booked_once_in_any_order(
    ledger: RunningLedger, tmp_path: Path, seed: int
) -> None:
    """Twice each, in any order, by both secrets: the same balance, and books that are whole."""
    shuffler = random.Random(seed)
    async with gateway(ledger, tmp_path) as running:
        for number in range(3):
            messages = life(f"{number}Dinner") * 2
            shuffler.shuffle(messages)
            for message in messages:
                answer = await post(running, message, shuffler.choice([SECRET, OLD_SECRET]))
                assert (answer.status_code, answer.text) == (200, "ok"), message["type"]
        assert (await post(running, life("9Dinner")[0], "whsec_other")).status_code == 400
    for number in range(3):
        balance = await ledger.balance(f"res_{number}Dinner", "EUR")
        owed = balance.available_minor + balance.pending_minor
        # The charge less the commission; the dispute was won, and cost a fee of 20.00.
        assert (owed, balance.disputed_minor) == (4500 - 450 - 2000, 0)
    booked = await ledger.query("SELECT count(*) FROM processor_events")
    assert booked[0][0] == 3 * len(("charge", "fee", "refund", "its failure", "opened", "won"))
    await assert_books_in_order(ledger.database)


async def test_a_fee_comes_when_the_api_is_back(ledger: RunningLedger, tmp_path: Path) -> None:
    """The charge does not wait; its delivery is parked until Stripe's API tells the fee."""
    resources: dict[str, Json] = {}
    name = unique("1Late")
    message = event("charge.succeeded", charge(id=f"ch_{name}", balance_transaction="txn_1"))
    async with (
        running_host(lambda line: response(resources, line)) as stripe,
        gateway(ledger, tmp_path, API.format(origin=stripe.origin)) as running,
    ):
        assert (await post(running, message)).status_code == 200
        assert await event_types(ledger) == ["charge_succeeded"]
        resources["/v1/balance_transactions/txn_1"] = transaction(4500, 93, id="txn_1")
        (parked,) = (
            await ledger.stub.ListQuarantined(ledger_pb2.ListQuarantinedRequest())
        ).payloads
        assert parked.state == ledger_pb2.QUARANTINE_STATE_PARKED
        await ledger.stub.RetryQuarantined(
            ledger_pb2.RetryQuarantinedRequest(quarantine_ids=[parked.quarantine_id])
        )

        async def has_fee() -> bool:
            return "processor_fee_assessed" in await event_types(ledger)

        await until(has_fee)
    assert "authorization: bearer rk_test_1" in stripe.requests[-1].lower()
    await assert_books_in_order(ledger.database)


async def event_types(ledger: RunningLedger) -> list[str]:
    rows = await ledger.query("SELECT type FROM processor_events ORDER BY type")
    return [row[0] for row in rows]


def response(resources: Mapping[str, Any], line: str) -> bytes:
    """What Stripe's API answers to a request line: a resource, or that it is away."""
    resource = resources.get(line.split()[1].partition("?")[0])
    if resource is None:
        return b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n"
    body = json.dumps(resource).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
