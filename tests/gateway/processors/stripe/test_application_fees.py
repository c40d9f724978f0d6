"""Application fees that the platform gives back."""

import pytest
from support.stripe_messages import PAID_AT, Json, event, readings_of, text_of

from ledger.gateway.deliveries import Fact

PART = {"id": "fr_1", "object": "fee_refund", "amount": 100, "created": PAID_AT + 5}
REST = {"id": "fr_2", "object": "fee_refund", "amount": 350, "created": PAID_AT + 9}
PROCESSOR = {"commission": "processor"}


def fee(*refunds: Json, before: int = 0) -> Json:
    resource = {
        "id": "fee_1",
        "object": "application_fee",
        "account": "acct_1Osteria",
        "amount": 450,
        "amount_refunded": sum(one["amount"] for one in refunds),
        "charge": "ch_1Dinner",
        "currency": "eur",
        "refunds": {"object": "list", "data": list(refunds)},
    }
    previous = {"amount_refunded": before}
    return event("application_fee.refunded", resource, previous=previous)


@pytest.mark.parametrize(
    ("message", "commission", "expected"),
    [
        (fee(PART), "processor", "FEE_REFUNDED 100 EUR · stripe:fr_1 · ch_1Dinner"),
        (
            fee(REST, PART, before=100),
            "processor",
            "FEE_REFUNDED 350 EUR · stripe:fr_2 · ch_1Dinner",
        ),
        (fee(PART), "none", "IGNORED application_fee.refunded"),
        (fee(PART, before=50), "processor", "UNBOOKABLE application_fee.refunded REFUND_UNKNOWN"),
    ],
)
async def test_a_refunded_fee(message: Json, commission: str, expected: str) -> None:
    """The part that is new goes back to the restaurant, if the fee was its commission."""
    assert await text_of(message, fees={"commission": commission}) == expected


async def test_a_refunded_fee_is_the_connected_accounts() -> None:
    """The message is the platform's own: the fee names whose it was, and its charge."""
    (fact,) = await readings_of(fee(PART), fees=PROCESSOR)
    assert isinstance(fact, Fact)
    assert (fact.owner.account, fact.charge) == ("acct_1Osteria", "stripe:ch_1Dinner")
