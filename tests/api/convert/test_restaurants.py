"""Restaurants, as requests and responses have them."""

from datetime import UTC, datetime, timedelta

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
from ledger.domain.fields import HOLD_REASON_RULE, ID_RULE, METADATA_RULE, NAME_RULE
from ledger.domain.restaurants import (
    MIN_BALANCE_RULE,
    PayoutHold,
    Restaurant,
    RestaurantChange,
    RestaurantProfile,
)
from ledger.v1 import ledger_pb2

UNTIL = datetime(2031, 1, 1, 12, 30, 0, 1, tzinfo=UTC)
PROFILE = RestaurantProfile(
    "res_1",
    "La Mar \U0001f41f",
    False,
    0,
    {"city": "Lima"},
    PayoutHold("under review", UNTIL),
    {"PEN": 10**12, "JPY": 1},
)


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
        payout_hold=ledger_pb2.PayoutHold(reason="under review"),
        min_balance_minor={"PEN": 10**12, "JPY": 1},
    )
    request.payout_hold.until.FromDatetime(UNTIL)
    profile = decode_profile(request)
    assert profile == PROFILE
    restaurant = Restaurant(profile, UNIX_EPOCH, UNIX_EPOCH + timedelta(microseconds=1))
    assert encode_restaurant(restaurant) == ledger_pb2.Restaurant(
        restaurant_id="res_1",
        name=PROFILE.name,
        active=False,
        maturity_days=0,
        metadata={"city": "Lima"},
        payout_hold=request.payout_hold,
        min_balance_minor={"PEN": 10**12, "JPY": 1},
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
    assert not message.HasField("payout_hold")
    assert not message.min_balance_minor


def test_hold_without_an_end_lasts_until_it_is_removed() -> None:
    request = ledger_pb2.PutRestaurantRequest(
        restaurant_id="res_1", payout_hold=ledger_pb2.PayoutHold(reason="x")
    )
    profile = decode_profile(request)
    assert profile.payout_hold == PayoutHold("x", None)
    message = encode_restaurant(Restaurant(profile, UNIX_EPOCH, UNIX_EPOCH))
    assert message.payout_hold == request.payout_hold


def test_etag_names_hold_and_minimums() -> None:
    """Two states that differ in these alone have different etags."""
    profiles = [
        RestaurantProfile("res_1"),
        RestaurantProfile("res_1", payout_hold=PayoutHold("a")),
        RestaurantProfile("res_1", payout_hold=PayoutHold("b")),
        RestaurantProfile("res_1", payout_hold=PayoutHold("b", UNTIL)),
        RestaurantProfile("res_1", min_balance_minor={"PEN": 1}),
        RestaurantProfile("res_1", min_balance_minor={"PEN": 2}),
        RestaurantProfile("res_1", min_balance_minor={"USD": 2}),
    ]
    etags = {Restaurant(profile, UNIX_EPOCH, UNIX_EPOCH).etag for profile in profiles}
    assert len(etags) == len(profiles)


def test_every_wrong_field_of_a_profile_is_reported() -> None:
    wrong = ledger_pb2.PutRestaurantRequest(
        restaurant_id="",
        name="\n",
        maturity_days=366,
        metadata={"a": "\0"},
        payout_hold=ledger_pb2.PayoutHold(until=Timestamp(nanos=-1)),
        min_balance_minor={"PEN": 0},
    )
    assert violations_of(decode_profile, wrong) == [
        ("restaurant_id", ID_RULE),
        ("name", NAME_RULE),
        ("maturity_days", "must be 0 to 365"),
        ("metadata", METADATA_RULE),
        ("payout_hold.reason", HOLD_REASON_RULE),
        ("min_balance_minor", MIN_BALANCE_RULE),
        ("payout_hold.until", "must be a valid timestamp"),
    ]


def test_change_has_only_what_the_mask_names() -> None:
    """The rest of the message is ignored, even if it is invalid."""
    request = change_of(
        "active",
        name="\n",
        maturity_days=999,
        metadata={"a": "\0"},
        payout_hold=ledger_pb2.PayoutHold(until=Timestamp(nanos=-1)),
        min_balance_minor={"": -1},
    )
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


def test_change_of_the_hold_and_of_single_minimums() -> None:
    """A currency that the message lacks is to be removed, as is a hold that it lacks."""
    request = change_of(
        "payout_hold",
        "min_balance_minor.PEN",
        "min_balance_minor.JPY",
        min_balance_minor={"PEN": 5},
    )
    change = decode_restaurant_change(request)
    assert change.fields == {"payout_hold"}
    assert change.currencies == {"PEN", "JPY"}
    before = RestaurantProfile(
        "res_1", payout_hold=PayoutHold("x"), min_balance_minor={"JPY": 1, "USD": 2}
    )
    assert change.applied_to(before) == RestaurantProfile(
        "res_1", min_balance_minor={"USD": 2, "PEN": 5}
    )


@pytest.mark.parametrize(
    "paths",
    [
        ("restaurant_id",),
        ("etag",),
        ("Name",),
        ("*",),
        ("",),
        ("metadata", "metadata.key"),
        ("min_balance_minor", "min_balance_minor.PEN"),
        ("min_balance_minor.pen",),
        ("min_balance_minor.",),
        ("payout_hold.reason",),
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
    request = change_of(
        *("name", "maturity_days", "payout_hold", "min_balance_minor.PEN"),
        name="\n",
        maturity_days=-1,
        etag="e",
        payout_hold=ledger_pb2.PayoutHold(reason="\n"),
        min_balance_minor={"PEN": -1},
    )
    request.restaurant.restaurant_id = " "
    request.allow_missing = True
    assert violations_of(decode_restaurant_change, request) == [
        ("restaurant.restaurant_id", ID_RULE),
        ("restaurant.name", NAME_RULE),
        ("restaurant.maturity_days", "must be 0 to 365"),
        ("restaurant.payout_hold.reason", HOLD_REASON_RULE),
        ("restaurant.min_balance_minor", MIN_BALANCE_RULE),
        ("allow_missing", "must not be set together with restaurant.etag"),
    ]


def test_restaurant_id_is_decoded() -> None:
    request = ledger_pb2.GetRestaurantRequest(restaurant_id="res_1")
    assert decode_restaurant_id(request) == "res_1"
    assert violations_of(decode_restaurant_id, ledger_pb2.GetRestaurantRequest()) == [
        ("restaurant_id", ID_RULE)
    ]
