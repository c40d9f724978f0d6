"""Settings and payloads of a processor that is known by its mapping alone."""

import json
from typing import Any

Json = dict[str, Any]

FIELDS: Json = {
    "event_id": ["data.payment.id", "event"],
    "type": "event",
    "types": {
        "payment.paid": "charge_succeeded",
        "payment.reversed": "charge_reversed",
        "refund.done": "refund_succeeded",
        "chargeback": "dispute_opened",
        "payout.sent": "payout_paid",
        "payout.bounced": "payout_failed",
        "settlement": "processor_settled",
    },
    "amount": "data.amount",
    "currency": "data.currency",
    "occurred_at": "data.at",
    "restaurant": "data.merchant",
    "metadata": "data.metadata",
    "reference": "data.order",
}


def mapped(changes: Json | None = None, **settings: Any) -> Json:
    """An endpoint's settings but its processor, signature and secrets; `changes` are of fields."""
    fields = {
        name: path for name, path in {**FIELDS, **(changes or {})}.items() if path is not None
    }
    return {
        "name": "acme",
        "mode": "live",
        "restaurant": {"by": "account"},
        "fields": fields,
        **settings,
    }


def payment(event: str = "payment.paid", **changes: Any) -> Json:
    """A payment of 12.50 PEN, written in minor units."""
    return {
        "event": event,
        "data": {
            "payment": {"id": "pay_17"},
            "amount": 1250,
            "currency": "PEN",
            "at": "2026-05-30T12:00:00Z",
            "merchant": "cevicheria-3",
            "metadata": {"table": "4"},
            "order": "order-9",
            **changes,
        },
    }


BODY = json.dumps(payment()).encode()
