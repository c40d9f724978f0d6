"""Whose money a fact is about, by the endpoint's mapping."""

from ledger.domain.fields import is_id
from ledger.gateway.deliveries import Fact
from ledger.gateway.endpoints import RestaurantMapping
from ledger.gateway.reasons import UNKNOWN_RESTAURANT, CannotBook


def restaurant_of(fact: Fact, mapping: RestaurantMapping) -> str:
    """The restaurant's id. Empty if the delivery does not say whose money it is.

    Raises CannotBook if it names somebody whom the mapping does not know.
    """
    match mapping.by:
        case "fixed":
            return mapping.key
        case "metadata":
            found = fact.owner.metadata.get(mapping.key, "")
        case "account":
            found = fact.owner.account
        case "store":
            found = fact.owner.store
        case "reference":
            found = fact.owner.reference
    if not found:
        return ""
    restaurant_id = mapping.table.get(found, "") if mapping.table else found
    if not is_id(restaurant_id):
        wrong = "is not in the table" if mapping.table else "is no restaurant id"
        raise CannotBook(UNKNOWN_RESTAURANT, f"the {named_by(mapping)} {found[:128]!r} {wrong}")
    return restaurant_id


def named_by(mapping: RestaurantMapping) -> str:
    """What names the restaurant, in words: "account", "metadata `restaurant`"."""
    return f"metadata `{mapping.key}`" if mapping.by == "metadata" else mapping.by
