"""Profiles, masks and lists of restaurants that are refused."""

import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from support.bad_requests import (
    INVALID,
    Case,
    Cases,
    assert_refused,
    bad_metadata,
    bad_page_tokens,
    field,
    groups,
    refusal,
)
from support.events import unique
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2


def bad_holds() -> Iterator[tuple[str, str, ledger_pb2.PayoutHold]]:
    """Name, the field of it that is wrong, and the hold."""
    for name, reason in {
        "empty": "",
        "201": "a" * 201,
        "line-feed": "a\n",
        "nul": "\0",
        "delete": "\x7f",
    }.items():
        yield f"reason-{name}", "reason", ledger_pb2.PayoutHold(reason=reason)
    for name, until in {
        "year-10000": Timestamp(seconds=253_402_300_800),
        "year-0": Timestamp(seconds=-62_135_596_801),
        "negative-nanos": Timestamp(nanos=-1),
        "a-second-of-nanos": Timestamp(nanos=10**9),
    }.items():
        yield f"until-{name}", "until", ledger_pb2.PayoutHold(reason="review", until=until)


# What no minimum may be.
BAD_MINIMUMS: dict[str, dict[str, int]] = {
    "0": {"PEN": 0},
    "-1": {"PEN": -1},
    "10^12+1": {"PEN": 10**12 + 1},
    "int64-max": {"PEN": 2**63 - 1},
    "int64-min": {"PEN": -(2**63)},
    "no-currency": {"": 1},
    "lower-case": {"pen": 1},
    "gold": {"XAU": 1},
    "nul": {"\0": 1},
    "one-of-two": {"PEN": 1, "USDX": 1},
}


def bad_restaurant_changes() -> Iterator[tuple[str, Case]]:
    """Masks that name nothing or what cannot be changed, and bad values that the mask names."""

    def change(path: str, *paths: str, allow_missing: bool = False, **fields: Any) -> Case:
        request = ledger_pb2.UpdateRestaurantRequest(
            restaurant=ledger_pb2.Restaurant(restaurant_id="res_bad", **fields),
            update_mask=field_mask_pb2.FieldMask(paths=paths),
            allow_missing=allow_missing,
        )
        return Case("UpdateRestaurant", request.SerializeToString(), fields=(path,))

    yield "mask-of-nothing", change("update_mask")
    for path in (
        "*",
        "",
        "restaurant_id",
        "created_at",
        "updated_at",
        "etag",
        "Name",
        "name.x",
        "restaurant.name",
        "payout_hold.reason",
        "payout_hold.until",
        "min_balance_minor.pen",
        "min_balance_minor.",
        "min_balance_minor.PEN.x",
        "\0",
    ):
        yield f"mask-{path!r}", change("update_mask", "name", path)
    yield "mask-of-a-map-and-its-key", change("update_mask", "metadata", "metadata.a")
    yield (
        "mask-of-all-minimums-and-one",
        change("update_mask", "min_balance_minor", "min_balance_minor.PEN"),
    )
    for name, wrong, hold in bad_holds():
        yield (
            f"changed-hold-{name}",
            change(f"restaurant.payout_hold.{wrong}", "payout_hold", payout_hold=hold),
        )
    for name, minimums in BAD_MINIMUMS.items():
        yield (
            f"changed-min_balance_minor-{name}",
            change("restaurant.min_balance_minor", "min_balance_minor", min_balance_minor=minimums),
        )
    yield (
        "changed-min_balance_minor-of-a-currency",
        change(
            "restaurant.min_balance_minor",
            "min_balance_minor.PEN",
            min_balance_minor={"PEN": -1},
        ),
    )
    yield "mask-of-1001-paths", change("update_mask", *["name"] * 1001)
    yield (
        "mask-of-a-bad-path-and-an-unknown-restaurant",
        change("update_mask", "*", allow_missing=True),
    )
    yield (
        "etag-of-what-may-be-missing",
        change("allow_missing", "name", allow_missing=True, etag="x"),
    )
    for name, text in {"201": "a" * 201, "line-feed": "a\n", "nul": "\0"}.items():
        yield f"changed-name-{name}", change("restaurant.name", "name", name=text)
    for days in (-1, 366, 2**31 - 1, -(2**31)):
        yield (
            f"changed-maturity_days-{days}",
            change("restaurant.maturity_days", "maturity_days", maturity_days=days),
        )
    for name, metadata in bad_metadata():
        yield (
            f"changed-metadata-{name}",
            change("restaurant.metadata", "metadata", metadata=metadata),
        )
        keys = [f"metadata.{key}" for key in metadata][:1000]
        yield (
            f"changed-metadata-keys-{name}",
            change("restaurant.metadata", *keys, metadata=metadata),
        )


def bad_restaurants() -> Iterator[tuple[str, Case]]:
    """Profiles, restaurants and pages that are refused."""

    def put(path: str, **fields: Any) -> Case:
        return Case(
            "PutRestaurant",
            ledger_pb2.PutRestaurantRequest(restaurant_id="res_bad", **fields).SerializeToString(),
            fields=(path,),
        )

    for name, text in {
        "201": "a" * 201,
        "line-feed": "a\n",
        "nul": "\0",
        "delete": "\x7f",
        "next-line": "\x85",
    }.items():
        yield f"name-{name}", put("name", name=text)
    for days in (-1, 366, 2**31 - 1, -(2**31)):
        yield f"maturity_days-{days}", put("maturity_days", maturity_days=days)
    for name, metadata in bad_metadata():
        yield f"profile-metadata-{name}", put("metadata", metadata=metadata)
    for name, wrong, hold in bad_holds():
        yield f"hold-{name}", put(f"payout_hold.{wrong}", payout_hold=hold)
    for name, minimums in BAD_MINIMUMS.items():
        yield f"min_balance_minor-{name}", put("min_balance_minor", min_balance_minor=minimums)
    yield from bad_restaurant_changes()
    for size in (-1, -(2**31)):
        yield (
            f"page_size-{size}",
            Case(
                "ListRestaurants",
                ledger_pb2.ListRestaurantsRequest(page_size=size).SerializeToString(),
                fields=("page_size",),
            ),
        )
    for name, token in bad_page_tokens(["ListRestaurants"]):
        request = ledger_pb2.ListRestaurantsRequest(page_token=token).SerializeToString()
        yield f"page_token-{name}", Case("ListRestaurants", request, fields=("page_token",))
    not_found = grpc.StatusCode.NOT_FOUND
    yield (
        "GetRestaurant-unknown",
        Case("GetRestaurant", field(1, b"unknown"), not_found, "RESTAURANT_NOT_FOUND"),
    )
    yield (
        "GetEvent-unknown",
        Case("GetEvent", field(1, b"nothing"), not_found, "EVENT_NOT_FOUND"),
    )


async def test_page_has_at_most_a_thousand_restaurants(ledger: RunningLedger) -> None:
    """The page size 0 means 100, and a larger one than 1,000 means 1,000."""
    await ledger.query(
        "INSERT INTO restaurants (restaurant_id)"
        " SELECT 'res_' || lpad(n::text, 5, '0') FROM generate_series(1, 1001) AS n"
    )
    for page_size, restaurants in (
        (0, 100),
        (1, 1),
        (1000, 1000),
        (1001, 1000),
        (10**9, 1000),
        (2**31 - 1, 1000),
    ):
        page = await ledger.stub.ListRestaurants(
            ledger_pb2.ListRestaurantsRequest(page_size=page_size)
        )
        assert len(page.restaurants) == restaurants
        assert page.next_page_token


async def test_page_of_large_profiles_fits_a_response(ledger: RunningLedger) -> None:
    """Even a page of a thousand can be read by a caller with gRPC's default limits."""
    await ledger.query(
        "INSERT INTO restaurants (restaurant_id, metadata)"
        " SELECT 'res_' || lpad(n::text, 5, '0'), jsonb_build_object('note', repeat('x', 8000))"
        " FROM generate_series(1, 1000) AS n"
    )
    seen: list[str] = []
    token = ""
    while True:
        page = await ledger.stub.ListRestaurants(
            ledger_pb2.ListRestaurantsRequest(page_size=1000, page_token=token)
        )
        seen += [restaurant.restaurant_id for restaurant in page.restaurants]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"res_{number:05d}" for number in range(1, 1001)]


@pytest.mark.both_servers
async def test_damaged_page_token_is_refused(shared_ledger: RunningLedger) -> None:
    """INVALID_ARGUMENT, whichever character is changed, cut off or added.

    The undamaged token still returns the next page.
    """
    for _ in range(3):
        await shared_ledger.stub.PutRestaurant(
            ledger_pb2.PutRestaurantRequest(restaurant_id=unique("res"))
        )
    token = (
        await shared_ledger.stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest(page_size=1))
    ).next_page_token
    damaged = [
        token[:-1],
        token[1:],
        token + "A",
        token + "=",
        token * 2,
        token.swapcase(),
        f" {token}",
        f"{token}\n",
    ]
    seed = 20261120
    chosen = random.Random(seed)
    for place in chosen.sample(range(len(token)), 12):
        damaged.append(token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :])
    for wrong in damaged:
        with pytest.raises(aio.AioRpcError) as caught:
            await shared_ledger.stub.ListRestaurants(
                ledger_pb2.ListRestaurantsRequest(page_size=1, page_token=wrong)
            )
        got = refusal(caught.value)
        assert (got.code, got.fields) == (INVALID, ("page_token",)), f"{wrong!r} (seed {seed})"
    page = await shared_ledger.stub.ListRestaurants(
        ledger_pb2.ListRestaurantsRequest(page_size=1, page_token=token)
    )
    assert page.restaurants


@pytest.mark.both_servers
@pytest.mark.parametrize("cases", groups(bad_restaurants()))
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)
