"""Restaurants in memory."""

from ledger.domain.restaurants import Restaurant, RestaurantProfile
from ledger.testing.memory.books import Books
from ledger.testing.memory.event_ledger import register_restaurant


class MemoryRestaurants:
    """Implements `ledger.application.ports.unit_of_work.Restaurants` in a unit of work."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def put(self, profile: RestaurantProfile) -> Restaurant:
        now = self._books.recorded_at
        known = self._books.restaurants.get(profile.restaurant_id)
        restaurant = Restaurant(profile, now if known is None else known.created_at, now)
        self._books.restaurants[profile.restaurant_id] = restaurant
        return restaurant

    async def register(self, restaurant_id: str) -> None:
        if restaurant_id not in self._books.restaurants:
            register_restaurant(self._books, restaurant_id)

    async def get(self, restaurant_id: str) -> Restaurant | None:
        return self._books.restaurants.get(restaurant_id)

    async def lock(self, restaurant_id: str) -> Restaurant | None:
        return await self.get(restaurant_id)

    async def page(self, after: str, limit: int) -> list[Restaurant]:
        ids = sorted(each for each in self._books.restaurants if each > after)
        return [self._books.restaurants[each] for each in ids[:limit]]
