"""Resources of Mercado Pago's API, with invented ids, amounts and names."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

from ledger.gateway.deliveries import Delivery
from ledger.gateway.processors.mercado_pago import MercadoPagoEndpoint
from support.readings import delivery_of

Json = dict[str, Any]
SECRET = "whs_71c0"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOW = str(int(NOON.timestamp()))
# A notification about a payment. No signature covers it.
BODY = json.dumps(
    {
        "action": "payment.updated",
        "data": {"id": "77000000017"},
        "id": 130,
        "live_mode": True,
        "type": "payment",
        "user_id": "555001",
    }
).encode()


def endpoint(**changes: Any) -> MercadoPagoEndpoint:
    """An endpoint in live mode whose restaurants are named by collector."""
    return MercadoPagoEndpoint.model_validate(
        {
            "name": "mercado-pago-peru",
            "processor": "mercado_pago",
            "mode": "live",
            "secrets": [{"name": "w1", "value": SECRET}],
            "restaurant": {"by": "account"},
            "api": {"key": {"name": "token", "value": "APP-1"}},
            **changes,
        }
    )


def line(number: int, original: float, **changes: Any) -> Json:
    """A line of charges_details: a fee that the collector pays to Mercado Pago."""
    return {
        "id": f"77000000017-{number:03}",
        "name": "mercadopago_fee",
        "type": "fee",
        "accounts": {"from": "collector", "to": "mp"},
        "amounts": {"original": original, "refunded": 0},
        "refund_charges": [],
        **changes,
    }


def given_back(original: float, amount: float, operation: int = 9001) -> Json:
    """What of a line's amount one refund gave back."""
    return {
        "amounts": {"original": original, "refunded": amount},
        "refund_charges": [
            {
                "amount": amount,
                "date_created": "2026-05-22T10:00:00.000-05:00",
                "operation": {"id": operation, "type": "refund_payment"},
            }
        ],
    }


def refund(amount: float, status: str = "approved", number: int = 9001, **changes: Any) -> Json:
    """An entry of a payment's refunds."""
    return {
        "id": number,
        "payment_id": 77000000017,
        "amount": amount,
        "status": status,
        "date_created": "2026-05-22T10:00:00.000-05:00",
        **changes,
    }


def payment(**changes: Any) -> Json:
    """An approved payment of 80.50 PEN, of which the collector gets 76.93."""
    return {
        "id": 77000000017,
        "status": "approved",
        "operation_type": "regular_payment",
        "payment_type_id": "credit_card",
        "currency_id": "PEN",
        "date_approved": "2026-05-20T12:00:00.000-05:00",
        "date_created": "2026-05-20T11:59:59.000-05:00",
        "money_release_date": "2026-06-10T12:00:00.000-05:00",
        "live_mode": True,
        "captured": True,
        "collector_id": 555001,
        "store_id": "S-9",
        "external_reference": "order-42",
        "metadata": {"restaurant": "rest_7", "commission": 250, "nested": {}},
        "order": {"id": "3141", "type": "mercadopago"},
        "transaction_amount": 80.5,
        "transaction_amount_refunded": 0,
        "transaction_details": {"net_received_amount": 76.93},
        "fee_details": [{"amount": 3.57, "fee_payer": "collector", "type": "mercadopago_fee"}],
        "charges_details": [line(1, 3.57)],
        "refunds": [],
        **changes,
    }


def chargeback(**changes: Any) -> Json:
    """A chargeback of the payment, of which nothing is decided."""
    return {
        "id": "217000061307271001",
        "payments": [77000000017],
        "currency": "PEN",
        "amount": 80.5,
        "reason": "general",
        "coverage_applied": None,
        "coverage_elegible": True,
        "documentation_required": True,
        "documentation_status": "pending",
        "date_created": "2026-05-25T09:00:00.000-05:00",
        "date_last_updated": "2026-05-28T09:00:00.000-05:00",
        "live_mode": True,
        **changes,
    }


def x_signature(manifest: str, ts: str = NOW, secret: str = SECRET) -> str:
    signature = hmac.new(secret.encode(), manifest.encode(), hashlib.sha256).hexdigest()
    return f"ts={ts},v1={signature}"


def post(
    resource_id: str = "77000000017",
    topic: str = "payment",
    *,
    body: bytes = BODY,
    request_id: str = "req-1",
    ts: str = NOW,
    secret: str = SECRET,
    at: datetime = NOON,
) -> Delivery:
    """A notification as Mercado Pago signs it: absent parts are left out."""
    manifest = (
        (f"id:{resource_id};" if resource_id else "")
        + (f"request-id:{request_id};" if request_id else "")
        + f"ts:{ts};"
    )
    headers = {"x-signature": x_signature(manifest, ts, secret)}
    if request_id:
        headers["x-request-id"] = request_id
    query = "&".join(
        [
            *([f"data.id={resource_id}"] if resource_id else []),
            *([f"type={topic}"] if topic else []),
        ]
    )
    return delivery_of(body, headers=headers, query=query, received_at=at)
