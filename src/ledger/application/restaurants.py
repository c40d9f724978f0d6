"""Registers, changes and returns restaurants."""

from ledger.application.ports.pages import Page
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.profiles import within
from ledger.domain.restaurants import (
    Restaurant,
    RestaurantChange,
    RestaurantProfile,
    profile_violations,
)
from ledger.errors import InvalidRequest, RestaurantChanged, RestaurantNotFound


async def put_restaurant(begin: UnitOfWorkFactory, profile: RestaurantProfile) -> Restaurant:
    """Registers a restaurant, or replaces its whole profile.

    Raises DatabaseUnavailable, DatabaseTimeout.
    """
    async with begin() as uow:
        restaurant = await uow.restaurants.put(profile)
        await uow.commit()
    return restaurant


async def update_restaurant(begin: UnitOfWorkFactory, change: RestaurantChange) -> Restaurant:
    """Changes the fields that `change` names; nothing if the restaurant has the values already.

    Raises RestaurantNotFound; RestaurantChanged when the etag of the change is not the present one;
    InvalidRequest when the metadata would be too large; DatabaseUnavailable, DatabaseTimeout. Then
    nothing has changed.
    """
    restaurant_id = change.profile.restaurant_id
    async with begin() as uow:
        if change.register:
            await uow.restaurants.register(restaurant_id)
        restaurant = await uow.restaurants.lock(restaurant_id)
        if restaurant is None:
            raise RestaurantNotFound(restaurant_id)
        changed = change.applied_to(restaurant.profile)
        if changed != restaurant.profile:
            # Only now: a repeated call finds its own change, which has made its etag stale.
            if change.etag and change.etag != restaurant.etag:
                raise RestaurantChanged(restaurant_id)
            if violations := profile_violations(changed):
                raise InvalidRequest(within("restaurant", violations))
            restaurant = await uow.restaurants.put(changed)
        await uow.commit()
    return restaurant


async def get_restaurant(begin: UnitOfWorkFactory, restaurant_id: str) -> Restaurant:
    """Raises RestaurantNotFound, DatabaseUnavailable, DatabaseTimeout."""
    async with begin() as uow:
        restaurant = await uow.restaurants.get(restaurant_id)
    if restaurant is None:
        raise RestaurantNotFound(restaurant_id)
    return restaurant


async def list_restaurants(
    begin: UnitOfWorkFactory, after: str | None, page_size: int
) -> Page[Restaurant, str]:
    """Returns a page of restaurants, in the byte order of their ids."""
    async with begin() as uow:
        restaurants = await uow.restaurants.page(after or "", page_size + 1)
    return Page.cut(restaurants, page_size, lambda found: found.profile.restaurant_id)
