"""Restaurants on PostgreSQL."""

from typing import Any

from sqlalchemy import Row, Select, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.domain.restaurants import Restaurant, RestaurantProfile
from ledger.infrastructure.postgres.schema.tables import restaurants

_COLUMNS = (
    restaurants.c.restaurant_id,
    restaurants.c.name,
    restaurants.c.active,
    restaurants.c.maturity_days,
    restaurants.c.metadata,
    restaurants.c.created_at,
    restaurants.c.updated_at,
)


class PostgresRestaurants:
    """Implements `ledger.application.ports.unit_of_work.Restaurants` on the connection of a unit of work."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, profile: RestaurantProfile) -> Restaurant:
        settings = {
            "name": profile.name,
            "active": profile.active,
            "maturity_days": profile.maturity_days,
            "metadata": dict(profile.metadata),
        }
        statement = (
            insert(restaurants)
            .values(restaurant_id=profile.restaurant_id, **settings)
            .on_conflict_do_update(
                index_elements=["restaurant_id"], set_={**settings, "updated_at": func.now()}
            )
            .returning(*_COLUMNS)
        )
        return _restaurant((await self._connection.execute(statement)).one())

    async def register(self, restaurant_id: str) -> None:
        statement = insert(restaurants).values(restaurant_id=restaurant_id)
        await self._connection.execute(
            statement.on_conflict_do_nothing(index_elements=["restaurant_id"])
        )

    async def get(self, restaurant_id: str) -> Restaurant | None:
        return await self._one(
            select(*_COLUMNS).where(restaurants.c.restaurant_id == restaurant_id)
        )

    async def lock(self, restaurant_id: str) -> Restaurant | None:
        # The key stays as it is: opening a balance account of the restaurant does not wait.
        statement = select(*_COLUMNS).where(restaurants.c.restaurant_id == restaurant_id)
        return await self._one(statement.with_for_update(key_share=True))

    async def _one(self, statement: Select[Any]) -> Restaurant | None:
        row = (await self._connection.execute(statement)).one_or_none()
        return None if row is None else _restaurant(row)

    async def page(self, after: str, limit: int) -> list[Restaurant]:
        statement = (
            select(*_COLUMNS)
            .where(restaurants.c.restaurant_id > after)
            .order_by(restaurants.c.restaurant_id)
            .limit(limit)
        )
        return [_restaurant(row) for row in await self._connection.execute(statement)]


def _restaurant(row: Row[*tuple[Any, ...]]) -> Restaurant:
    return Restaurant(
        profile=RestaurantProfile(
            row.restaurant_id, row.name, row.active, row.maturity_days, row.metadata
        ),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
