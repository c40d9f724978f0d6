"""Registers restaurants and shows them."""

from ledger.application.ports import UnitOfWorkFactory
from ledger.domain.restaurants import Restaurant, RestaurantProfile
from ledger.errors import RestaurantNotFound


async def put_restaurant(begin: UnitOfWorkFactory, profile: RestaurantProfile) -> Restaurant:
    """Registers a restaurant or replaces its profile as a whole. Raises DatabaseUnavailable, DatabaseTimeout."""
    async with begin() as uow:
        restaurant = await uow.restaurants.put(profile)
        await uow.commit()
    return restaurant


async def get_restaurant(begin: UnitOfWorkFactory, restaurant_id: str) -> Restaurant:
    """The restaurant. Raises RestaurantNotFound, DatabaseUnavailable, DatabaseTimeout."""
    async with begin() as uow:
        restaurant = await uow.restaurants.get(restaurant_id)
    if restaurant is None:
        raise RestaurantNotFound(restaurant_id)
    return restaurant


async def list_restaurants(begin: UnitOfWorkFactory, after: str, page_size: int) -> tuple[list[Restaurant], bool]:
    """A page of restaurants in the byte order of their ids, those after the id `after`, and whether more follow."""
    async with begin() as uow:
        # One more than asked for tells whether more follow.
        restaurants = await uow.restaurants.page(after, page_size + 1)
    return restaurants[:page_size], len(restaurants) > page_size
