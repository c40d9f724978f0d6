"""Refunds of Stripe: each once, by its own id, whichever message names it."""

import pytest
from support.stripe_messages import (
    PAID_AT,
    FakeApi,
    Json,
    charge,
    event,
    readings_of,
    refund,
    text_of,
    transaction,
)

from ledger.gateway.deliveries import Fact

REFUND = "REFUND_SUCCEEDED 1000 EUR · stripe:re_1Soup · pi_1Dinner"
WINE = REFUND.replace("1000", "700").replace("Soup", "Wine")
# With the refund: the two together are nothing, whichever messages came before.
FAILED = f"{REFUND}\nREFUND_FAILED 1000 EUR · stripe:re_1Soup:failed · pi_1Dinner"
NONE: Json = {}
SOUP = refund()
OTHER = refund(id="re_1Wine", amount=700, created=PAID_AT + 2400)
NO_TRANSACTION = refund(balance_transaction=None)


def listed(*refunds: Json, **changes: Json | bool) -> Json:
    return {"object": "list", "data": list(refunds), "has_more": False, **changes}


def refunded(before: int | None, *refunds: Json, **changes: object) -> Json:
    """charge.refunded, with its refunds if there are any."""
    amount = sum(one["amount"] for one in refunds if one["status"] != "failed")
    resource = charge(amount_refunded=amount, **changes)
    if "refunds" not in changes:
        resource["refunds"] = listed(*refunds)
    previous = None if before is None else {"amount_refunded": before}
    return event("charge.refunded", resource, previous=previous)


CASES: dict[str, tuple[Json, FakeApi | None, str]] = {
    "created": (event("refund.created", SOUP), None, REFUND),
    "updated": (event("refund.updated", SOUP), None, REFUND),
    "updated, by its old name": (event("charge.refund.updated", SOUP), None, REFUND),
    "alone, as GET returns it": (refund(), None, "UNBOOKABLE ? UNKNOWN_SHAPE"),
    "of a transfer, in the restaurant's account": (
        event("refund.created", refund(source_transfer_reversal="trr_1")),
        None,
        "IGNORED refund.created",
    ),
    "of a charge without an intent": (
        event("refund.created", refund(payment_intent=None)),
        None,
        REFUND.replace("pi_1", "ch_1"),
    ),
    "the charge, which has the sum": (refunded(0, SOUP), None, REFUND),
    "the charge, of which nothing was refunded before": (refunded(None, SOUP), None, REFUND),
    "the second of two": (refunded(1000, OTHER, SOUP), None, WINE),
    "the first of two, in any order": (refunded(0, SOUP, OTHER), None, f"{WINE}\n{REFUND}"),
    "a list as it was before 2014": (
        event(
            "charge.refunded",
            charge(amount_refunded=1000, refunds=[SOUP]),
            previous={"amount_refunded": 0},
        ),
        None,
        REFUND,
    ),
    "a refund in a charge, which names no charge": (
        refunded(0, {**SOUP, "charge": None, "payment_intent": None}),
        None,
        REFUND.replace("pi_1", "ch_1"),
    ),
    "one that failed is not in the sum": (
        refunded(0, refund(id="re_1Bad", status="failed", created=PAID_AT + 3000), SOUP),
        None,
        REFUND,
    ),
    "refunds that do not make up the difference": (
        refunded(400, SOUP),
        None,
        "UNBOOKABLE charge.refunded REFUND_UNKNOWN",
    ),
    "the refunds are left out": (
        refunded(0, refunds=None),
        None,
        "UNBOOKABLE charge.refunded REFUND_UNKNOWN",
    ),
    "the refunds are left out, and fetched": (
        refunded(0, refunds=None),
        FakeApi(
            {
                "/v1/refunds": listed(
                    refund(balance_transaction=transaction(-1000, id="txn_1Soup")),
                    refund(id="re_1Bad", status="failed"),
                )
            }
        ),
        REFUND,
    ),
    "too many to fetch": (
        refunded(0, refunds=None),
        FakeApi({"/v1/refunds": listed(SOUP, has_more=True)}),
        "UNBOOKABLE charge.refunded TOO_MANY_REFUNDS",
    ),
    "the refunds are left out, and the API is away": (
        refunded(0, refunds=None),
        FakeApi(),
        "PARKED",
    ),
    "an authorisation that was released": (
        refunded(0, refunds=None, captured=False),
        None,
        "IGNORED charge.refunded",
    ),
    "the part that was not captured": (
        refunded(0, NO_TRANSACTION, amount_captured=3500),
        None,
        "IGNORED charge.refunded",
    ),
    "an authorisation that expired": (
        event("refund.created", refund(reason="expired_uncaptured_charge")),
        None,
        "IGNORED refund.created",
    ),
    "pending, and its money has moved": (
        event("refund.created", refund(status="pending")),
        None,
        REFUND,
    ),
    "pending, and nothing has moved": (
        event("refund.created", refund(status="pending", balance_transaction=None)),
        None,
        "IGNORED refund.created",
    ),
    "waiting for the customer": (
        event("refund.created", refund(status="requires_action", balance_transaction=None)),
        None,
        "IGNORED refund.created",
    ),
    "succeeded without money": (
        event("refund.created", NO_TRANSACTION),
        None,
        "UNBOOKABLE refund.created REFUND_UNCLEAR",
    ),
    "succeeded without money: the API knows an authorisation": (
        event("refund.created", NO_TRANSACTION),
        FakeApi({"/v1/refunds/re_1Soup": {**NO_TRANSACTION, "charge": charge(captured=False)}}),
        "IGNORED refund.created",
    ),
    "succeeded without money: the API has it by now": (
        event("refund.created", NO_TRANSACTION),
        FakeApi(
            {
                "/v1/refunds/re_1Soup": refund(
                    charge=charge(), balance_transaction=transaction(-1000, 25, id="txn_1Soup")
                )
            }
        ),
        f"{REFUND}\nPROCESSOR_FEE_ASSESSED 25 EUR · stripe:re_1Soup:fee · pi_1Dinner",
    ),
    "a record that was shortened": (
        event("refund.created", {k: v for k, v in SOUP.items() if k != "balance_transaction"}),
        None,
        REFUND,
    ),
    "failed": (
        event("refund.failed", refund(status="failed", failure_balance_transaction="txn_1Back")),
        None,
        FAILED,
    ),
    "failed, by refund.updated": (
        event(
            "refund.updated",
            refund(status="failed", failure_balance_transaction="txn_1Back"),
            previous={"status": "succeeded"},
        ),
        None,
        FAILED,
    ),
    "failed, by the old name": (
        event("charge.refund.updated", refund(status="failed")),
        None,
        FAILED,
    ),
    "canceled after its money had moved": (
        event("refund.updated", refund(status="canceled")),
        None,
        FAILED,
    ),
    "failed before any money moved": (
        event("refund.failed", refund(status="failed", balance_transaction=None)),
        None,
        "IGNORED refund.failed",
    ),
    "canceled while it waited for the customer": (
        event(
            "refund.updated",
            refund(status="canceled", balance_transaction=None),
            previous={"status": "requires_action"},
        ),
        None,
        "IGNORED refund.updated",
    ),
    "an amount as a text": (
        event("refund.created", refund(amount="1000")),
        None,
        "UNBOOKABLE refund.created UNKNOWN_SHAPE",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_refund(case: str) -> None:
    """What each message about a refund becomes."""
    message, api, expected = CASES[case]
    assert await text_of(message, api) == expected


IN_PEN = transaction(-4200, 0, id="txn_1Soup", currency="pen", exchange_rate=4.2)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            event("refund.created", SOUP),
            "REFUND_SUCCEEDED 4200 PEN · stripe:re_1Soup · pi_1Dinner",
        ),
        (
            event("refund.failed", refund(status="failed", failure_balance_transaction="txn_2")),
            "REFUND_SUCCEEDED 4200 PEN · stripe:re_1Soup · pi_1Dinner\n"
            "REFUND_FAILED 4150 PEN · stripe:re_1Soup:failed · pi_1Dinner",
        ),
    ],
)
async def test_a_refund_in_the_currency_of_the_balance(message: Json, expected: str) -> None:
    """What left the balance, and what came back to it, which the rate of another day made less."""
    api = FakeApi(
        {
            "/v1/balance_transactions/txn_1Soup": IN_PEN,
            "/v1/balance_transactions/txn_2": {**IN_PEN, "id": "txn_2", "amount": 4150},
            "/v1/charges/ch_1Dinner": charge(),
        }
    )
    assert await text_of(message, api) == expected
    without = "UNBOOKABLE {} SETTLEMENT_UNKNOWN".format(message["type"])
    assert await text_of(message, settlement_currencies=["PEN"]) == without


async def test_refunds_that_are_known_are_booked_while_a_fee_waits() -> None:
    """The API is away: refunds in the balance's own currency do not wait for it."""
    message = refunded(0, SOUP, OTHER)
    found = await text_of(message, FakeApi(), settlement_currencies=["EUR"])
    assert found == f"{WINE}\n{REFUND}\nPARKED"


async def test_a_refund_that_failed_before_anybody_looked_is_nothing() -> None:
    """charge.refunded names no refund, and the API has it as failed by the time it is asked."""
    failed = refund(
        status="failed",
        balance_transaction=transaction(-1000, id="txn_1Soup"),
        failure_balance_transaction="txn_1Back",
        charge=charge(),
    )
    api = FakeApi({"/v1/refunds": listed(failed)})
    assert await text_of(refunded(0, refunds=None), api) == "IGNORED charge.refunded"
    message = event("refund.failed", failed)
    assert await text_of(message, api, settlement_currencies=["EUR"]) == FAILED


async def test_a_fee_that_came_with_a_refund_is_of_its_charges_restaurant() -> None:
    """The refund names none."""
    moved = transaction(-1000, 25, id="txn_1Soup")
    facts = await readings_of(event("refund.created", refund(balance_transaction=moved)))
    assert [fact.charge for fact in facts if isinstance(fact, Fact)] == ["stripe:ch_1Dinner"] * 2
