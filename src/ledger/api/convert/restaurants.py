"""Restaurants, between the contract's messages and the domain."""

from ledger.api.convert.identifiers import require_ids
from ledger.api.convert.instants import (
    decode_instant_of,
    encode_instant,
    encode_optional_instant,
)
from ledger.api.convert.paging import ID_PLACE, Listing, Paging, fitting
from ledger.api.convert.update_masks import decode_update_mask, update_mask_rule
from ledger.application.ports.pages import Page
from ledger.domain.money import is_currency
from ledger.domain.profiles import within
from ledger.domain.restaurants import (
    CHANGEABLE_FIELDS,
    PayoutHold,
    Restaurant,
    RestaurantChange,
    RestaurantProfile,
    profile_violations,
)
from ledger.errors import (
    FieldViolation,
    InvalidRequest,
)
from ledger.v1 import ledger_pb2

UPDATE_MASK_RULE = (
    update_mask_rule("name", "active", "maturity_days", "payout_hold")
    + ", and either min_balance_minor or min_balance_minor.CURRENCY"
)
_MAPS = ("metadata", "min_balance_minor")
# All restaurants: the list has no filters.
RESTAURANT_LISTING = Listing(("ListRestaurants",), ID_PLACE)


def decode_profile(request: ledger_pb2.PutRestaurantRequest) -> RestaurantProfile:
    """The profile to put. Raises InvalidRequest."""
    violations: list[FieldViolation] = []
    profile = RestaurantProfile(
        restaurant_id=request.restaurant_id,
        name=request.name,
        active=request.active if request.HasField("active") else True,
        maturity_days=request.maturity_days if request.HasField("maturity_days") else None,
        metadata=dict(request.metadata),
        payout_hold=_decode_hold(request, violations),
        min_balance_minor=dict(request.min_balance_minor),
    )
    violations = profile_violations(profile) + violations
    if violations:
        raise InvalidRequest(violations)
    return profile


def decode_restaurant_change(request: ledger_pb2.UpdateRestaurantRequest) -> RestaurantChange:
    """The change that the mask names. Raises InvalidRequest.

    Other fields are ignored, except `restaurant_id` and `etag`. A metadata key or a currency that
    the mask names and that has no value is removed.
    """
    message, paths = request.restaurant, request.update_mask.paths
    mask = decode_update_mask(paths, CHANGEABLE_FIELDS, _MAPS)
    currencies = mask.keys["min_balance_minor"]
    found: list[FieldViolation] = []
    profile = RestaurantProfile(
        restaurant_id=message.restaurant_id,
        name=message.name if "name" in mask.fields else "",
        active=message.active,
        maturity_days=message.maturity_days
        if "maturity_days" in mask.fields and message.HasField("maturity_days")
        else None,
        metadata=mask.named("metadata", message.metadata),
        payout_hold=_decode_hold(message, found) if "payout_hold" in mask.fields else None,
        min_balance_minor=mask.named("min_balance_minor", message.min_balance_minor),
    )
    violations = within("restaurant", profile_violations(profile) + found)
    if not mask.is_valid or not all(map(is_currency, currencies)):
        violations.append(FieldViolation("update_mask", UPDATE_MASK_RULE))
    elif not paths and not request.allow_missing:
        violations.append(
            FieldViolation(
                "update_mask", "must name at least one field, unless allow_missing is set"
            )
        )
    if request.allow_missing and message.etag:
        violations.append(
            FieldViolation("allow_missing", "must not be set together with restaurant.etag")
        )
    if violations:
        raise InvalidRequest(violations)
    return RestaurantChange(
        profile,
        mask.fields,
        mask.keys["metadata"],
        message.etag,
        request.allow_missing,
        currencies,
    )


def _decode_hold(
    message: ledger_pb2.PutRestaurantRequest | ledger_pb2.Restaurant,
    violations: list[FieldViolation],
) -> PayoutHold | None:
    """The hold, None for none. Adds a violation if its end is not a valid instant."""
    if not message.HasField("payout_hold"):
        return None
    found: list[FieldViolation] = []
    until = decode_instant_of(message.payout_hold, "until", found)
    violations += within("payout_hold", found)
    return PayoutHold(message.payout_hold.reason, until)


def decode_restaurant_id(request: ledger_pb2.GetRestaurantRequest) -> str:
    """Returns the requested id. Raises InvalidRequest."""
    require_ids({"restaurant_id": request.restaurant_id})
    return request.restaurant_id


def encode_restaurant(restaurant: Restaurant) -> ledger_pb2.Restaurant:
    profile = restaurant.profile
    return ledger_pb2.Restaurant(
        restaurant_id=profile.restaurant_id,
        name=profile.name,
        active=profile.active,
        maturity_days=profile.maturity_days,
        metadata=profile.metadata,
        payout_hold=None
        if profile.payout_hold is None
        else ledger_pb2.PayoutHold(
            reason=profile.payout_hold.reason,
            until=encode_optional_instant(profile.payout_hold.until),
        ),
        min_balance_minor=profile.min_balance_minor,
        created_at=encode_instant(restaurant.created_at),
        updated_at=encode_instant(restaurant.updated_at),
        etag=restaurant.etag,
    )


def encode_restaurant_page(
    paging: Paging[str], page: Page[Restaurant, str]
) -> ledger_pb2.ListRestaurantsResponse:
    """As many restaurants of the page as PAGE_BYTES_MAX allows, and at least one."""
    restaurants, next_place = fitting(
        map(encode_restaurant, page.items), page.next_place, lambda message: message.restaurant_id
    )
    return ledger_pb2.ListRestaurantsResponse(
        restaurants=restaurants, next_page_token=paging.next_page_token(next_place)
    )
