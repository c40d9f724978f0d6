"""Restaurants, as requests and responses have them."""

from datetime import timedelta

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from support.violations import violations_of

from ledger.api.convert.restaurants import (
    UPDATE_MASK_RULE,
    decode_profile,
    decode_restaurant_change,
    decode_restaurant_id,
    encode_restaurant,
)
from ledger.api.convert.update_masks import UPDATE_PATHS_MAX
from ledger.domain.events import UNIX_EPOCH
from ledger.domain.fields import ID_RULE, METADATA_RULE, NAME_RULE
from ledger.domain.restaurants import Restaurant, RestaurantChange, RestaurantProfile
from ledger.v1 import ledger_pb2

PROFILE = RestaurantProfile("res_1", "La Mar \U0001f41f", False, 0, {"city": "Lima"})


def change_of(*paths: str, **fields: object) -> ledger_pb2.UpdateRestaurantRequest:
    """A request that changes `paths` of res_1 to what `fields` have."""
    restaurant = ledger_pb2.Restaurant(restaurant_id="res_1", **fields)  # type: ignore[arg-type]
    return ledger_pb2.UpdateRestaurantRequest(
        restaurant=restaurant, update_mask=FieldMask(paths=paths)
    )


def test_profile_of_a_request_is_in_the_response() -> None:
    request = ledger_pb2.PutRestaurantRequest(
        restaurant_id="res_1",
        name=PROFILE.name,
        active=False,
        maturity_days=0,
        metadata={"city": "Lima"},
    )
    profile = decode_profile(request)
    assert profile == PROFILE
    restaurant = Restaurant(profile, UNIX_EPOCH, UNIX_EPOCH + timedelta(microseconds=1))
    assert encode_restaurant(restaurant) == ledger_pb2.Restaurant(
        restaurant_id="res_1",
        name=PROFILE.name,
        active=False,
        maturity_days=0,
        metadata={"city": "Lima"},
        created_at=Timestamp(),
        updated_at=Timestamp(nanos=1000),
        etag=restaurant.etag,
    )


def test_missing_fields_of_a_profile_have_defaults() -> None:
    """Active, and with the maturity of the service's setting."""
    profile = decode_profile(ledger_pb2.PutRestaurantRequest(restaurant_id="res_1"))
    assert profile == RestaurantProfile("res_1")
    message = encode_restaurant(Restaurant(profile, UNIX_EPOCH, UNIX_EPOCH))
    assert message.active
    assert not message.HasField("maturity_days")


def test_every_wrong_field_of_a_profile_is_reported() -> None:
    wrong = ledger_pb2.PutRestaurantRequest(
        restaurant_id="", name="\n", maturity_days=366, metadata={"a": "\0"}
    )
    assert violations_of(decode_profile, wrong) == [
        ("restaurant_id", ID_RULE),
        ("name", NAME_RULE),
        ("maturity_days", "must be 0 to 365"),
        ("metadata", METADATA_RULE),
    ]


def test_change_has_only_what_the_mask_names() -> None:
    """The rest of the message is ignored, even if it is invalid."""
    request = change_of("active", name="\n", maturity_days=999, metadata={"a": "\0"})
    assert decode_restaurant_change(request) == RestaurantChange(
        RestaurantProfile("res_1", "", False, None, {}), frozenset({"active"})
    )


def test_change_of_single_keys_of_the_metadata() -> None:
    """A key that the message lacks is to be removed; a key may contain a point."""
    request = change_of(
        "metadata.kept", "metadata.gone", "metadata.a.b", metadata={"kept": "1", "a.b": "2"}
    )
    change = decode_restaurant_change(request)
    assert change.metadata_keys == {"kept", "gone", "a.b"}
    assert change.profile.metadata == {"kept": "1", "a.b": "2"}
    assert change.fields == frozenset()


@pytest.mark.parametrize(
    "paths",
    [
        ("restaurant_id",),
        ("etag",),
        ("Name",),
        ("*",),
        ("",),
        ("metadata", "metadata.key"),
        tuple(f"metadata.{number}" for number in range(UPDATE_PATHS_MAX + 1)),
    ],
)
def test_mask_that_names_no_changeable_field_is_refused(paths: tuple[str, ...]) -> None:
    assert violations_of(decode_restaurant_change, change_of(*paths)) == [
        ("update_mask", UPDATE_MASK_RULE)
    ]


def test_as_many_paths_as_a_mask_may_have_are_taken() -> None:
    paths = [f"metadata.{number}" for number in range(UPDATE_PATHS_MAX)]
    assert len(decode_restaurant_change(change_of(*paths)).metadata_keys) == UPDATE_PATHS_MAX


def test_empty_mask_needs_allow_missing() -> None:
    """With it the call registers the restaurant and changes nothing else."""
    request = change_of()
    assert violations_of(decode_restaurant_change, request) == [
        ("update_mask", "must name at least one field, unless allow_missing is set")
    ]
    request.allow_missing = True
    assert decode_restaurant_change(request).register


def test_every_wrong_field_of_a_change_is_reported() -> None:
    request = change_of("name", "maturity_days", name="\n", maturity_days=-1, etag="e")
    request.restaurant.restaurant_id = " "
    request.allow_missing = True
    assert violations_of(decode_restaurant_change, request) == [
        ("restaurant.restaurant_id", ID_RULE),
        ("restaurant.name", NAME_RULE),
        ("restaurant.maturity_days", "must be 0 to 365"),
        ("allow_missing", "must not be set together with restaurant.etag"),
    ]


def test_restaurant_id_is_decoded() -> None:
    request = ledger_pb2.GetRestaurantRequest(restaurant_id="res_1")
    assert decode_restaurant_id(request) == "res_1"
    assert violations_of(decode_restaurant_id, ledger_pb2.GetRestaurantRequest()) == [
        ("restaurant_id", ID_RULE)
    ]
