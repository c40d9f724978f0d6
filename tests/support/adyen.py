"""Adyen's webhooks with invented ids and names, signed by Adyen's own library."""

import json
from typing import Any

from Adyen.util import generate_notification_sig

# A payout id as the ledger has them.
PAYOUT = "018f6e0a-1b2c-7d3e-8f40-5a6b7c8d9e0f"
KEY = "4F2C9A1E77D05B3388E6AB10C4D29F5566127A0B9C8D7E6F5A4B3C2D1E0F9A8B"
Json = dict[str, Any]


def item(code: str, **changes: Any) -> Json:
    """An item of 12.50 EUR about the payment PAY1, with its own reference MOD1."""
    return {
        "additionalData": {},
        "amount": {"currency": "EUR", "value": 1250},
        "eventCode": code,
        "eventDate": "2026-05-31T20:15:00+02:00",
        "merchantAccountCode": "TrattoriaEU",
        "merchantReference": "order-17",
        "originalReference": "PAY1",
        "paymentMethod": "visa",
        "pspReference": "MOD1",
        "reason": "",
        "success": "true",
        **changes,
    }


def signed(unsigned: Json, key: str = KEY) -> Json:
    """The item with the signature of Adyen's own library."""
    covered = {name: value for name, value in unsigned.items() if name != "additionalData"}
    signature = generate_notification_sig(covered, key).decode()
    additional = {**unsigned.get("additionalData", {}), "hmacSignature": signature}
    return {**unsigned, "additionalData": additional}


def envelope(*items: Json, live: object = "true") -> bytes:
    """A post of items."""
    wrapped = [{"NotificationRequestItem": one} for one in items]
    return json.dumps({"live": live, "notificationItems": wrapped}).encode()


def transfer(status: str, *events: Json, **changes: Any) -> Json:
    """An update of the transfer TR1, a payout of 79.54 GBP, with its history."""
    return {
        "type": "balancePlatform.transfer.updated",
        "environment": "live",
        "timestamp": "2026-06-01T11:00:00.123Z",
        "data": {
            "id": "TR1",
            "status": status,
            "reason": "approved",
            "direction": "outgoing",
            "category": "bank",
            "amount": {"currency": "GBP", "value": 7954},
            "balanceAccountId": "BA1",
            "reference": PAYOUT,
            "sequenceNumber": len(events),
            "events": list(events),
            "updatedAt": "2026-06-01T12:59:00+02:00",
            **changes,
        },
    }
