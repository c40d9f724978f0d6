"""Whose money a fact is about, by each kind of mapping."""

import pytest
from support.gateway import OCCURRED_AT

from ledger.gateway.deliveries import Fact, Owner
from ledger.gateway.endpoints import RestaurantMapping
from ledger.gateway.reasons import CannotBook
from ledger.gateway.restaurants import restaurant_of
from ledger.v1 import ledger_pb2

OWNER = Owner(account="acct_1", store="st_1", reference="ref-1", metadata={"restaurant": "res_1"})


def of(owner: Owner, mapping: RestaurantMapping) -> str:
    """The restaurant of a fact with this owner."""
    fact = Fact(
        event_id="x:1",
        type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
        amount_minor=1,
        currency="PEN",
        occurred_at=OCCURRED_AT,
        owner=owner,
    )
    return restaurant_of(fact, mapping)


@pytest.mark.parametrize(
    ("mapping", "restaurant_id"),
    [
        (RestaurantMapping(by="account"), "acct_1"),
        (RestaurantMapping(by="store"), "st_1"),
        (RestaurantMapping(by="reference"), "ref-1"),
        (RestaurantMapping(by="metadata", key="restaurant"), "res_1"),
        (RestaurantMapping(by="fixed", key="res_9"), "res_9"),
        (RestaurantMapping(by="account", table={"acct_1": "burger"}), "burger"),
    ],
)
def test_the_restaurant_by_the_mapping(mapping: RestaurantMapping, restaurant_id: str) -> None:
    assert of(OWNER, mapping) == restaurant_id


@pytest.mark.parametrize("by", ["account", "store", "reference"])
def test_a_delivery_may_not_say(by: str) -> None:
    """Then the charge that it is about may."""
    mapping = RestaurantMapping.model_validate({"by": by, "table": {"": "burger"}})
    assert of(Owner(), mapping) == ""


@pytest.mark.parametrize(
    ("owner", "mapping"),
    [
        (Owner(account="acct_2"), RestaurantMapping(by="account", table={"acct_1": "burger"})),
        (Owner(account="with blanks"), RestaurantMapping(by="account")),
        (Owner(account="x" * 129), RestaurantMapping(by="account")),
        (Owner(account="res_1\n"), RestaurantMapping(by="account")),
    ],
)
def test_somebody_unknown_is_for_people(owner: Owner, mapping: RestaurantMapping) -> None:
    with pytest.raises(CannotBook) as refusal:
        of(owner, mapping)
    assert refusal.value.reason == "UNKNOWN_RESTAURANT"
