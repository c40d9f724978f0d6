"""Messages of Stripe for tests: Events about charges, refunds, disputes and payouts, and an API."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ledger.gateway.deliveries import FetchFailed, Reading
from ledger.gateway.payloads import Payload, parse
from ledger.gateway.processors.stripe import StripeEndpoint, StripeWebhooks
from ledger.gateway.signatures import read_secrets
from support.readings import delivery_of, lines_of

SECRET = "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cw"
OLD_SECRET = "whsec_b2xkIHNlY3JldA"
# 2026-05-30 12:00:00 UTC, when the customer paid; all else follows within a day.
PAID_AT = 1_780_142_400
PAYOUT_ID = "018f6e0a-1b2c-7d3e-8f40-5a6b7c8d9e0f"
Json = dict[str, Any]


def event(kind: str, resource: Json, *, previous: Json | None = None, **changes: Any) -> Json:
    """An Event of test mode, an hour after the payment."""
    contents = {"object": resource} | ({"previous_attributes": previous} if previous else {})
    return {
        "id": "evt_1Table",
        "object": "event",
        "api_version": "2026-04-22.dahlia",
        "created": PAID_AT + 3600,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
        "data": contents,
        **changes,
    }


def charge(**changes: Any) -> Json:
    """A captured charge of 45.00 EUR, of the payment pi_1Dinner."""
    return {
        "id": "ch_1Dinner",
        "object": "charge",
        "amount": 4500,
        "amount_captured": 4500,
        "amount_refunded": 0,
        "application_fee_amount": None,
        "balance_transaction": "txn_1Dinner",
        "captured": True,
        "created": PAID_AT,
        "currency": "eur",
        "failure_balance_transaction": None,
        "livemode": False,
        "metadata": {"restaurant": "osteria-7"},
        "on_behalf_of": None,
        "paid": True,
        "payment_intent": "pi_1Dinner",
        "refunded": False,
        "status": "succeeded",
        "transfer_data": None,
        **changes,
    }


def refund(**changes: Any) -> Json:
    """A refund of 10.00 EUR of that charge."""
    return {
        "id": "re_1Soup",
        "object": "refund",
        "amount": 1000,
        "balance_transaction": "txn_1Soup",
        "charge": "ch_1Dinner",
        "created": PAID_AT + 1800,
        "currency": "eur",
        "metadata": {},
        "payment_intent": "pi_1Dinner",
        "reason": None,
        "status": "succeeded",
        **changes,
    }


def transaction(amount: int, fee: int = 0, **changes: Any) -> Json:
    """A balance transaction with Stripe's fee."""
    return {
        "id": "txn_1Dinner",
        "object": "balance_transaction",
        "amount": amount,
        "created": PAID_AT + 1,
        "currency": "eur",
        "exchange_rate": None,
        "fee": fee,
        "fee_details": (
            [{"amount": fee, "currency": "eur", "type": "stripe_fee", "application": None}]
            if fee
            else []
        ),
        "net": amount - fee,
        **changes,
    }


WITHDRAWN = transaction(-4500, 2000, id="txn_1Out", created=PAID_AT + 600)
REINSTATED = transaction(4500, 0, id="txn_1Back", created=PAID_AT + 1200)


def dispute(*moved: Json, **changes: Any) -> Json:
    """A dispute of the whole charge; `moved` are its balance transactions."""
    return {
        "id": "du_1Cold",
        "object": "dispute",
        "amount": 4500,
        "balance_transactions": list(moved),
        "charge": "ch_1Dinner",
        "created": PAID_AT + 500,
        "currency": "eur",
        "livemode": False,
        "metadata": {},
        "payment_intent": "pi_1Dinner",
        "reason": "product_unacceptable",
        "status": "needs_response",
        **changes,
    }


def payout(**changes: Any) -> Json:
    """A payout of 80.00 EUR to a bank, which is one of the ledger's."""
    return {
        "id": "po_1Friday",
        "object": "payout",
        "amount": 8000,
        "arrival_date": PAID_AT + 7200,
        "automatic": False,
        "created": PAID_AT + 60,
        "currency": "eur",
        "destination": "ba_1Bank",
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": {"payout_id": PAYOUT_ID},
        "status": "paid",
        **changes,
    }


class FakeApi:
    """Stripe's API: resources by path, what was asked, and paths that fail."""

    def __init__(self, resources: Mapping[str, Json] | None = None) -> None:
        self.resources = dict(resources or {})
        self.asked: list[str] = []

    async def get(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Payload:
        self.asked.append(f"{path} {(headers or {}).get('stripe-account', '')}".strip())
        if path not in self.resources:
            raise FetchFailed(f"GET {path}: status 404")
        return parse(json.dumps(self.resources[path]).encode())


def stripe(fetcher: FakeApi | None = None, /, **changes: Any) -> StripeWebhooks:
    """An endpoint of test mode with a secret and an old one."""
    endpoint = StripeEndpoint.model_validate(
        {
            "name": "stripe-eu",
            "processor": "stripe",
            "mode": "test",
            "secrets": [{"name": "new", "value": SECRET}, {"name": "old", "value": OLD_SECRET}],
            "restaurant": {"by": "metadata", "key": "restaurant"},
            **changes,
        }
    )
    return StripeWebhooks(endpoint, read_secrets(endpoint.secrets), fetcher)


async def readings_of(message: Json, api: FakeApi | None = None, **changes: Any) -> list[Reading]:
    """What a message becomes, its signature aside."""
    body = json.dumps(message).encode()
    return list(await stripe(api, **changes).read(delivery_of(body)))


async def text_of(message: Json, api: FakeApi | None = None, **changes: Any) -> str:
    """The same as lines of text; what can be known while the API fails, and that it did."""
    try:
        return "\n".join(lines_of(await readings_of(message, api, **changes)))
    except FetchFailed as failure:
        return "\n".join([*lines_of(failure.readings), "PARKED"])
