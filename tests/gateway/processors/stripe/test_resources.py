"""Whose money it is, and what is asked of Stripe's API for it."""

from typing import Any

import pytest
from support.stripe_messages import (
    WITHDRAWN,
    FakeApi,
    Json,
    charge,
    dispute,
    event,
    readings_of,
    refund,
    stripe,
    transaction,
)

from ledger.gateway.deliveries import Fact, Owner
from ledger.gateway.processors.stripe import make_stripe
from ledger.gateway.processors.stripe.settings import StripeEndpoint

BY_ACCOUNT: Json = {"restaurant": {"by": "account"}}
TO_OSTERIA = {"transfer_data": {"destination": "acct_1Osteria"}}


async def owner(message: Json, api: FakeApi | None = None, **settings: Any) -> Owner:
    fact = (await readings_of(message, api, **settings))[0]
    assert isinstance(fact, Fact)
    return fact.owner


@pytest.mark.parametrize(
    ("changes", "account"),
    [
        ({}, ""),
        (TO_OSTERIA, "acct_1Osteria"),
        ({"transfer_data": {"destination": {"id": "acct_1Osteria"}}}, "acct_1Osteria"),
        ({"destination": "acct_1Osteria"}, "acct_1Osteria"),
        ({"on_behalf_of": "acct_1Osteria"}, "acct_1Osteria"),
        ({"destination": "ba_1Bank", "on_behalf_of": "acct_1Osteria"}, "acct_1Osteria"),
    ],
)
async def test_the_account_that_a_charge_is_for(changes: Json, account: str) -> None:
    """Charges of the platform's account name the restaurant's in several places."""
    found = await owner(event("charge.succeeded", charge(**changes)), None, **BY_ACCOUNT)
    assert found.account == account
    of_account = event("charge.succeeded", charge(**changes), account="acct_1Own")
    assert (await owner(of_account, None, **BY_ACCOUNT)).account == "acct_1Own"


async def test_a_refund_has_the_metadata_of_both() -> None:
    """A refund in its charge, or with it; its own words before the charge's."""
    one = refund(metadata={"restaurant": "osteria-8"}, charge=charge(metadata={"table": "4"}))
    found = await owner(event("refund.created", one))
    assert found.metadata == {"restaurant": "osteria-8", "table": "4"}


async def test_what_a_refund_does_not_say_is_fetched() -> None:
    """The charge is asked for once, with the account it is in; and not if nobody needs it."""
    api = FakeApi(
        {
            "/v1/charges/ch_1Dinner": charge(**TO_OSTERIA),
            "/v1/balance_transactions/txn_1Soup": transaction(-1000, id="txn_1Soup"),
        }
    )
    message = event("refund.created", refund())
    assert (await owner(message, api)).metadata == {"restaurant": "osteria-7"}
    assert (await owner(message, api, **BY_ACCOUNT)).account == "acct_1Osteria"
    asked = ["/v1/charges/ch_1Dinner", "/v1/balance_transactions/txn_1Soup"]
    assert api.asked == asked * 2
    api.asked.clear()
    of_account = event("refund.created", refund(), account="acct_1Own")
    assert (await owner(of_account, api, **BY_ACCOUNT)).account == "acct_1Own"
    assert api.asked == ["/v1/balance_transactions/txn_1Soup acct_1Own"]


FOR_AN_ANSWER = transaction(0, 1500, id="txn_1Answer")


async def test_without_an_api_the_booked_charge_names_the_restaurant() -> None:
    """Refunds and disputes name their charge, whose restaurant the ledger has."""
    for message in (
        event("refund.created", refund()),
        event("charge.dispute.created", dispute(WITHDRAWN)),
        event("charge.dispute.funds_withdrawn", dispute(WITHDRAWN, FOR_AN_ANSWER)),
    ):
        facts = await readings_of(message)
        assert facts
        for fact in facts:
            assert isinstance(fact, Fact)
            assert fact.charge == "stripe:ch_1Dinner"
            assert not fact.owner.metadata


async def test_metadata_tells_what_the_customer_saw() -> None:
    """A charge that settled in another currency keeps the one of the customer."""
    in_pen = transaction(18900, currency="pen", exchange_rate=4.2)
    message = event("charge.succeeded", charge(balance_transaction=in_pen))
    (fact,) = await readings_of(message)
    assert isinstance(fact, Fact)
    assert fact.metadata == {
        "stripe_charge": "ch_1Dinner",
        "stripe_event": "evt_1Table",
        "stripe_balance_transaction": "txn_1Dinner",
        "presentment_amount_minor": "4500",
        "presentment_currency": "EUR",
        "exchange_rate": "4.2",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"settlement_currencies": ["eur"]},
        {"api": {"url": "http://api.example", "key": {"name": "k", "value": "rk_1"}}},
        {"payouts": {"table": {"po_1": "not-a-payout-id"}}},
        {"tolerance_seconds": 0},
        {"unknown": 1},
    ],
)
def test_settings_that_cannot_work_are_refused(changes: Json) -> None:
    """The file is checked before anything of it is used."""
    with pytest.raises(ValueError, match="validation error"):
        stripe(**changes)


def test_an_api_needs_a_key_that_can_be_read() -> None:
    """An endpoint whose API key is missing does not start."""
    endpoint = StripeEndpoint.model_validate(
        {
            "name": "s",
            "processor": "stripe",
            "mode": "test",
            "secrets": [{"name": "k", "value": "whsec_1"}],
            "restaurant": {"by": "account"},
            "api": {"key": {"name": "api", "file": "/nowhere/key"}},
        }
    )
    with pytest.raises(ValueError, match="secret api"):
        make_stripe(endpoint, [])
