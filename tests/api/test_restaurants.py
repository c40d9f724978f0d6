"""UpdateRestaurant changes the named fields and no others, and loses no update."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from support.events import unique
from support.running import RunningLedger

from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers

METADATA = {"city": "Lima", "tier": "1"}


async def put(ledger: RunningLedger, restaurant_id: str) -> ledger_pb2.Restaurant:
    """An inactive restaurant with a value in every field."""
    request = ledger_pb2.PutRestaurantRequest(
        restaurant_id=restaurant_id, name="Chifa", active=False, maturity_days=3, metadata=METADATA
    )
    return (await ledger.stub.PutRestaurant(request)).restaurant


async def get(ledger: RunningLedger, restaurant_id: str) -> ledger_pb2.Restaurant:
    return (
        await ledger.stub.GetRestaurant(
            ledger_pb2.GetRestaurantRequest(restaurant_id=restaurant_id)
        )
    ).restaurant


async def update(
    ledger: RunningLedger,
    restaurant_id: str,
    *paths: str,
    allow_missing: bool = False,
    **fields: Any,
) -> ledger_pb2.Restaurant:
    request = ledger_pb2.UpdateRestaurantRequest(
        restaurant=ledger_pb2.Restaurant(restaurant_id=restaurant_id, **fields),
        update_mask=FieldMask(paths=paths),
        allow_missing=allow_missing,
    )
    return (await ledger.stub.UpdateRestaurant(request)).restaurant


async def refusal_of(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    got: Any = caught.value
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(got)
    assert status is not None
    assert status.details[0].Unpack(info)
    return caught.value.code(), info.reason, dict(info.metadata)


def profile_of(restaurant: ledger_pb2.Restaurant) -> tuple[object, ...]:
    days = restaurant.maturity_days if restaurant.HasField("maturity_days") else None
    return restaurant.name, restaurant.active, days, dict(restaurant.metadata)


async def test_fields_that_are_not_named_stay(shared_ledger: RunningLedger) -> None:
    """Each field by itself; other values in the request are ignored."""
    restaurant_id = unique("res")
    await put(shared_ledger, restaurant_id)

    async def after(*paths: str, **fields: Any) -> tuple[object, ...]:
        returned = await update(shared_ledger, restaurant_id, *paths, **fields)
        assert returned == await get(shared_ledger, restaurant_id)
        return profile_of(returned)

    assert await after("name", name="Otra") == ("Otra", False, 3, METADATA)
    assert await after("active", active=True, name="\0", maturity_days=-1) == (
        "Otra",
        True,
        3,
        METADATA,
    )
    assert await after("maturity_days", maturity_days=0) == ("Otra", True, 0, METADATA)
    assert await after("maturity_days") == ("Otra", True, None, METADATA)
    assert await after("metadata.tier", "metadata.city", metadata={"tier": "2", "more": "x"}) == (
        "Otra",
        True,
        None,
        {"tier": "2"},
    )
    assert await after("metadata.a,b.c", metadata={"a,b.c": "odd"}) == (
        "Otra",
        True,
        None,
        {"tier": "2", "a,b.c": "odd"},
    )
    assert await after("metadata", metadata={"only": "this"}) == (
        "Otra",
        True,
        None,
        {"only": "this"},
    )
    assert await after("name", "name", "active") == ("", False, None, {"only": "this"})


async def test_hold_and_minimums_are_kept_and_changed_one_by_one(
    shared_ledger: RunningLedger,
) -> None:
    """Other changes leave them; a mask may name the hold, all minimums, or one of them."""
    restaurant_id = unique("res")
    hold = ledger_pb2.PayoutHold(reason="Überprüfung", until=Timestamp(seconds=2**32, nanos=1000))
    minimums = {"PEN": 5000, "USD": 10**12}

    def found(restaurant: ledger_pb2.Restaurant) -> tuple[object, ...]:
        has_hold = restaurant.HasField("payout_hold")
        return restaurant.payout_hold if has_hold else None, dict(restaurant.min_balance_minor)

    put = await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(
            restaurant_id=restaurant_id, payout_hold=hold, min_balance_minor=minimums
        )
    )
    assert found(put.restaurant) == (hold, minimums)

    async def after(*paths: str, **fields: Any) -> tuple[object, ...]:
        returned = await update(shared_ledger, restaurant_id, *paths, **fields)
        assert returned == await get(shared_ledger, restaurant_id)
        return found(returned)

    assert await after("name", name="Otra") == (hold, minimums)
    assert await after("min_balance_minor.PEN") == (hold, {"USD": 10**12})
    assert await after("min_balance_minor.JPY", min_balance_minor={"JPY": 1, "PEN": 2}) == (
        hold,
        {"USD": 10**12, "JPY": 1},
    )
    other = ledger_pb2.PayoutHold(reason="court")
    assert await after("payout_hold", payout_hold=other) == (other, {"USD": 10**12, "JPY": 1})
    assert await after("payout_hold", "min_balance_minor") == (None, {})
    put = await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(
            restaurant_id=restaurant_id, payout_hold=hold, min_balance_minor=minimums
        )
    )
    replaced = await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id)
    )
    assert found(replaced.restaurant) == (None, {})


async def test_put_replaces_and_so_reactivates(shared_ledger: RunningLedger) -> None:
    """As the contract of PutRestaurant says; UpdateRestaurant keeps the other fields."""
    restaurant_id = unique("res")
    await put(shared_ledger, restaurant_id)
    request = ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id, name="Chifa")
    assert profile_of((await shared_ledger.stub.PutRestaurant(request)).restaurant) == (
        "Chifa",
        True,
        None,
        {},
    )


async def test_lost_update_is_refused(shared_ledger: RunningLedger) -> None:
    """A write with the etag of an earlier state is refused and changes nothing."""
    restaurant_id = unique("res")
    read = await put(shared_ledger, restaurant_id)
    newer = await update(shared_ledger, restaurant_id, "name", name="First", etag=read.etag)
    assert newer.etag not in ("", read.etag)
    stale = update(shared_ledger, restaurant_id, "name", name="Second", etag=read.etag)
    expected = (
        grpc.StatusCode.FAILED_PRECONDITION,
        "RESTAURANT_CHANGED",
        {"restaurant_id": restaurant_id},
    )
    assert await refusal_of(stale) == expected
    assert (
        await refusal_of(update(shared_ledger, restaurant_id, "name", name="Second", etag="none"))
        == expected
    )
    assert await get(shared_ledger, restaurant_id) == newer
    request = ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id, name="Put")
    await shared_ledger.stub.PutRestaurant(request)
    assert (
        await refusal_of(
            update(shared_ledger, restaurant_id, "name", name="Second", etag=newer.etag)
        )
        == expected
    )


async def test_repeat_after_a_lost_response_succeeds(shared_ledger: RunningLedger) -> None:
    """The first try made the etag stale. The repeat finds its values stored and changes nothing."""
    restaurant_id = unique("res")
    read = await put(shared_ledger, restaurant_id)
    first = await update(shared_ledger, restaurant_id, "active", active=True, etag=read.etag)
    assert (
        await update(shared_ledger, restaurant_id, "active", active=True, etag=read.etag) == first
    )


async def test_updates_at_once_are_all_kept(shared_ledger: RunningLedger) -> None:
    """Ten callers with a different metadata key each; of ten with one etag exactly one wins."""
    restaurant_id = unique("res")
    await put(shared_ledger, restaurant_id)
    keys = [f"key_{number}" for number in range(10)]
    await asyncio.gather(
        *(
            update(shared_ledger, restaurant_id, f"metadata.{key}", metadata={key: "x"})
            for key in keys
        )
    )
    read = await get(shared_ledger, restaurant_id)
    assert dict(read.metadata) == METADATA | dict.fromkeys(keys, "x")
    outcomes = await asyncio.gather(
        *(update(shared_ledger, restaurant_id, "name", name=key, etag=read.etag) for key in keys),
        return_exceptions=True,
    )
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, ledger_pb2.Restaurant)]
    refused = [outcome.code() for outcome in outcomes if isinstance(outcome, aio.AioRpcError)]
    assert refused == [grpc.StatusCode.FAILED_PRECONDITION] * 9
    assert await get(shared_ledger, restaurant_id) == winner


async def test_unknown_restaurant_is_registered_with_allow_missing(
    shared_ledger: RunningLedger,
) -> None:
    """Without it: NOT_FOUND, and no restaurant is registered."""
    restaurant_id = unique("res")
    not_found = (
        grpc.StatusCode.NOT_FOUND,
        "RESTAURANT_NOT_FOUND",
        {"restaurant_id": restaurant_id},
    )
    assert (
        await refusal_of(update(shared_ledger, restaurant_id, "active", active=True)) == not_found
    )
    assert await refusal_of(get(shared_ledger, restaurant_id)) == not_found
    made = await update(
        shared_ledger, restaurant_id, "name", allow_missing=True, name="New", maturity_days=9
    )
    assert profile_of(made) == ("New", True, None, {})
    assert await update(shared_ledger, restaurant_id, allow_missing=True) == made
    other = unique("res")
    assert profile_of(await update(shared_ledger, other, allow_missing=True)) == (
        "",
        True,
        None,
        {},
    )


async def test_metadata_that_grows_too_large_is_refused(shared_ledger: RunningLedger) -> None:
    """The keys that stay count as well; a new restaurant is not registered."""
    restaurant_id = unique("res")
    await update(
        shared_ledger, restaurant_id, "metadata.a", allow_missing=True, metadata={"a": "x" * 5000}
    )
    code, reason, metadata = await refusal_of(
        update(shared_ledger, restaurant_id, "metadata.b", metadata={"b": "x" * 5000})
    )
    assert (code, reason, metadata) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        {"field": "restaurant.metadata"},
    )
    assert set((await get(shared_ledger, restaurant_id)).metadata) == {"a"}
