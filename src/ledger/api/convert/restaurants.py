"""Restaurants, between the contract's messages and the domain."""

from ledger.api.convert.identifiers import require_ids
from ledger.api.convert.instants import encode_instant
from ledger.api.convert.paging import ID_PLACE, PAGE_BYTES_MAX, Listing, Paging
from ledger.application.ports.pages import Page
from ledger.domain.restaurants import (
    CHANGEABLE_FIELDS,
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

UPDATE_PATHS_MAX = 1000
UPDATE_MASK_RULE = (
    f"must have at most {UPDATE_PATHS_MAX} paths: name, active, maturity_days, and either metadata"
    " or metadata.KEY"
)
# All restaurants: the list has no filters.
RESTAURANT_LISTING = Listing(("ListRestaurants",), ID_PLACE)
_METADATA_PREFIX = "metadata."


def decode_profile(request: ledger_pb2.PutRestaurantRequest) -> RestaurantProfile:
    """The profile to put. Raises InvalidRequest."""
    profile = RestaurantProfile(
        restaurant_id=request.restaurant_id,
        name=request.name,
        active=request.active if request.HasField("active") else True,
        maturity_days=request.maturity_days if request.HasField("maturity_days") else None,
        metadata=dict(request.metadata),
    )
    violations = profile_violations(profile)
    if violations:
        raise InvalidRequest(violations)
    return profile


def decode_restaurant_change(request: ledger_pb2.UpdateRestaurantRequest) -> RestaurantChange:
    """The change that the mask names. Raises InvalidRequest.

    Other fields are ignored, except `restaurant_id` and `etag`. A metadata key that the mask names
    and that has no value is removed.
    """
    message, paths = request.restaurant, request.update_mask.paths
    keys = frozenset(
        path.removeprefix(_METADATA_PREFIX) for path in paths if path.startswith(_METADATA_PREFIX)
    )
    fields = frozenset(path for path in paths if not path.startswith(_METADATA_PREFIX))
    metadata = dict(message.metadata)
    profile = RestaurantProfile(
        restaurant_id=message.restaurant_id,
        name=message.name if "name" in fields else "",
        active=message.active,
        maturity_days=message.maturity_days
        if "maturity_days" in fields and message.HasField("maturity_days")
        else None,
        metadata=metadata
        if "metadata" in fields
        else {key: metadata[key] for key in keys & metadata.keys()},
    )
    violations = [
        FieldViolation(f"restaurant.{found.field}", found.description)
        for found in profile_violations(profile)
    ]
    if (
        not fields <= CHANGEABLE_FIELDS
        or ("metadata" in fields and keys)
        or len(paths) > UPDATE_PATHS_MAX
    ):
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
    return RestaurantChange(profile, fields, keys, message.etag, request.allow_missing)


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
        created_at=encode_instant(restaurant.created_at),
        updated_at=encode_instant(restaurant.updated_at),
        etag=restaurant.etag,
    )


def encode_restaurant_page(
    paging: Paging[str], page: Page[Restaurant, str]
) -> ledger_pb2.ListRestaurantsResponse:
    """As many restaurants of the page as PAGE_BYTES_MAX allows, and at least one."""
    response = ledger_pb2.ListRestaurantsResponse()
    next_place = page.next_place
    size_bytes = 0
    for restaurant in page.items:
        message = encode_restaurant(restaurant)
        size_bytes += message.ByteSize()
        if size_bytes > PAGE_BYTES_MAX and response.restaurants:
            next_place = response.restaurants[-1].restaurant_id
            break
        response.restaurants.append(message)
    response.next_page_token = paging.next_page_token(next_place)
    return response
