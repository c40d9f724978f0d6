"""Disputes of Stripe: money by balance transactions alone, and fees above amounts."""

import pytest
from support.stripe_messages import (
    PAID_AT,
    REINSTATED,
    WITHDRAWN,
    FakeApi,
    Json,
    dispute,
    event,
    text_of,
    transaction,
)

OPENED = "DISPUTE_OPENED 4500 EUR · stripe:du_1Cold:opened · du_1Cold · dispute_fee_minor=2000"
WON = "DISPUTE_WON 4500 EUR · stripe:du_1Cold:won · du_1Cold"
LOST = "DISPUTE_LOST 4500 EUR · stripe:du_1Cold:lost · du_1Cold"
FEE_BACK = "DISPUTE_FEE_REFUNDED 2000 EUR · stripe:du_1Cold:fee_refunded · du_1Cold"
# What came back was withdrawn before, whichever messages came.
BOTH = f"{OPENED}\n{WON}"
ANSWERED = transaction(
    0,
    1500,
    id="txn_1Answer",
    created=PAID_AT + 900,
)
SMALL = transaction(-300, 2000, id="txn_1Out")
IN_PEN = {"currency": "pen", "exchange_rate": 4.2, "fee_details": None}


def opened(*moved: Json, **changes: object) -> Json:
    return event("charge.dispute.created", dispute(*moved, **changes))


def withdrawn(*moved: Json, **changes: object) -> Json:
    return event("charge.dispute.funds_withdrawn", dispute(*moved, **changes))


def reinstated(*moved: Json, **changes: object) -> Json:
    return event("charge.dispute.funds_reinstated", dispute(*moved, **changes))


def closed(status: str, *moved: Json, **changes: object) -> Json:
    return event(
        "charge.dispute.closed",
        dispute(*moved, status=status, **changes),
        previous={"status": "under_review"},
    )


CASES: dict[str, tuple[Json, FakeApi | None, str]] = {
    "created, with the money": (opened(WITHDRAWN), None, OPENED),
    "created, and the money comes later": (opened(), None, "IGNORED charge.dispute.created"),
    "the money comes later": (withdrawn(WITHDRAWN), None, OPENED),
    "an inquiry": (
        opened(status="warning_needs_response"),
        None,
        "IGNORED charge.dispute.created",
    ),
    "an inquiry that came to nothing": (
        closed("warning_closed"),
        None,
        "IGNORED charge.dispute.closed",
    ),
    "a fee above the amount": (
        opened(SMALL, amount=300),
        None,
        OPENED.replace("4500", "300"),
    ),
    "a part of the charge": (
        opened(transaction(-1500, 2000, id="txn_1Out"), amount=1500),
        None,
        OPENED.replace("4500", "1500"),
    ),
    "without a fee": (
        opened(transaction(-4500, id="txn_1Out")),
        None,
        OPENED.partition(" · dispute_fee")[0],
    ),
    "in the currency of the balance": (
        opened({**WITHDRAWN, **IN_PEN, "amount": -18900, "fee": 8400}),
        None,
        OPENED.replace("4500 EUR", "18900 PEN").replace("2000", "8400"),
    ),
    "the fee for an answer": (
        withdrawn(WITHDRAWN, ANSWERED),
        None,
        f"{OPENED}\nPROCESSOR_FEE_ASSESSED 1500 EUR · stripe:txn_1Answer:fee · du_1Cold",
    ),
    "withdrawn a second time, after it was reinstated": (
        withdrawn(
            WITHDRAWN,
            REINSTATED,
            transaction(-4500, id="txn_1Again", created=PAID_AT + 9000),
        ),
        None,
        f"{OPENED}\nDISPUTE_OPENED 4500 EUR · stripe:du_1Cold:opened:txn_1Again · du_1Cold",
    ),
    "withdrawn, and nothing was": (
        withdrawn(),
        None,
        "UNBOOKABLE charge.dispute.funds_withdrawn UNKNOWN_SHAPE",
    ),
    "without its balance transactions": (
        opened(balance_transactions=None),
        None,
        "UNBOOKABLE charge.dispute.created UNKNOWN_SHAPE",
    ),
    "with their ids alone": (
        opened(balance_transactions=["txn_1Out"]),
        None,
        "UNBOOKABLE charge.dispute.created UNKNOWN_SHAPE",
    ),
    "without them, which are fetched": (
        opened(balance_transactions=None),
        FakeApi({"/v1/disputes/du_1Cold": dispute(WITHDRAWN)}),
        OPENED,
    ),
    "without them, and the API is away": (opened(balance_transactions=None), FakeApi(), "PARKED"),
    "reinstated": (reinstated(WITHDRAWN, REINSTATED), None, BOTH),
    "reinstated with its fee": (
        reinstated(WITHDRAWN, transaction(4500, -2000, id="txn_1Back")),
        None,
        f"{BOTH}\n{FEE_BACK}",
    ),
    "reinstated, and a fee for it": (
        reinstated(WITHDRAWN, transaction(4500, 500, id="txn_1Back")),
        None,
        f"{BOTH}\nPROCESSOR_FEE_ASSESSED 500 EUR · stripe:txn_1Back:fee · du_1Cold",
    ),
    "a fee that comes back alone": (
        reinstated(WITHDRAWN, REINSTATED, transaction(0, -1500, id="txn_1Grace")),
        None,
        f"{BOTH}\nDISPUTE_FEE_REFUNDED 1500 EUR · stripe:du_1Cold:fee_refunded:txn_1Grace"
        " · du_1Cold",
    ),
    "reinstated, and nothing was": (
        reinstated(WITHDRAWN),
        None,
        "UNBOOKABLE charge.dispute.funds_reinstated UNKNOWN_SHAPE",
    ),
    "lost": (closed("lost", WITHDRAWN), None, LOST),
    "lost but for a part": (
        closed("lost", WITHDRAWN, transaction(120, id="txn_1Rate")),
        None,
        f"{BOTH}\n{LOST}".replace("WON 4500", "WON 120").replace("LOST 4500", "LOST 4380"),
    ),
    "lost, and all of it came back": (closed("lost", WITHDRAWN, REINSTATED), None, BOTH),
    "lost, without money": (closed("lost"), None, "IGNORED charge.dispute.closed"),
    "won": (closed("won", WITHDRAWN, REINSTATED), None, BOTH),
    "won with its fee": (
        closed("won", WITHDRAWN, transaction(4500, -2000, id="txn_1Back")),
        None,
        f"{BOTH}\n{FEE_BACK}",
    ),
    "won, and the money comes in a moment": (closed("won", WITHDRAWN), None, WON),
    "won, and the money is there by now": (
        closed("won", WITHDRAWN),
        FakeApi({"/v1/disputes/du_1Cold": dispute(WITHDRAWN, REINSTATED)}),
        BOTH,
    ),
    "won, and the money is not there yet": (
        closed("won", WITHDRAWN),
        FakeApi({"/v1/disputes/du_1Cold": dispute(WITHDRAWN)}),
        "PARKED",
    ),
    "won, without money": (closed("won"), None, "IGNORED charge.dispute.closed"),
    "refunded by the merchant in time": (
        closed("charge_refunded"),
        None,
        "IGNORED charge.dispute.closed",
    ),
    "refunded by a rule of the card's network": (closed("prevented", WITHDRAWN), None, LOST),
    "closed, and nobody knows how": (
        closed("warning_closed", WITHDRAWN),
        None,
        "UNBOOKABLE charge.dispute.closed DISPUTE_UNCLEAR",
    ),
    "closed, and its money is back": (closed("warning_closed", WITHDRAWN, REINSTATED), None, BOTH),
    "balance transactions of two currencies": (
        closed("lost", WITHDRAWN, {**REINSTATED, **IN_PEN}),
        None,
        "UNBOOKABLE charge.dispute.closed UNKNOWN_SHAPE",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_dispute(case: str) -> None:
    """What each message about a dispute becomes."""
    message, api, expected = CASES[case]
    assert await text_of(message, api, restaurant={"by": "fixed", "key": "osteria-7"}) == expected
