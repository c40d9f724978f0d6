"""Restaurants on PostgreSQL."""

import json

from ledger.domain.restaurants import PayoutHold, Restaurant, RestaurantProfile
from ledger.infrastructure.postgres.sessions.driver import Connection, Row

_COLUMNS = """restaurant_id, name, active, maturity_days, metadata, payout_hold_reason,
  payout_hold_until, min_balance_minor, created_at, updated_at"""

PUT_RESTAURANT = f"""
INSERT INTO restaurants (restaurant_id, name, active, maturity_days, metadata,
  payout_hold_reason, payout_hold_until, min_balance_minor)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8::text::jsonb)
ON CONFLICT (restaurant_id) DO UPDATE
SET name = EXCLUDED.name, active = EXCLUDED.active, maturity_days = EXCLUDED.maturity_days,
    metadata = EXCLUDED.metadata, payout_hold_reason = EXCLUDED.payout_hold_reason,
    payout_hold_until = EXCLUDED.payout_hold_until,
    min_balance_minor = EXCLUDED.min_balance_minor, updated_at = now()
RETURNING {_COLUMNS}
"""

REGISTER_RESTAURANT = """
INSERT INTO restaurants (restaurant_id) VALUES ($1) ON CONFLICT (restaurant_id) DO NOTHING
"""

SELECT_RESTAURANT = f"SELECT {_COLUMNS} FROM restaurants WHERE restaurant_id = $1"

# NO KEY: the opening of a balance account of the restaurant does not wait for this lock.
LOCK_RESTAURANT = f"{SELECT_RESTAURANT} FOR NO KEY UPDATE"

SELECT_PAGE = f"""
SELECT {_COLUMNS} FROM restaurants WHERE restaurant_id > $1 ORDER BY restaurant_id LIMIT $2
"""


class PostgresRestaurants:
    """Implements `ledger.application.ports.unit_of_work.Restaurants` in a unit of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def put(self, profile: RestaurantProfile) -> Restaurant:
        hold = profile.payout_hold
        (row,) = await self._connection.fetch(
            PUT_RESTAURANT,
            profile.restaurant_id,
            profile.name,
            profile.active,
            profile.maturity_days,
            json.dumps(dict(profile.metadata)),
            hold and hold.reason,
            hold and hold.until,
            json.dumps(dict(profile.min_balance_minor)),
        )
        return _restaurant(row)

    async def register(self, restaurant_id: str) -> None:
        await self._connection.execute(REGISTER_RESTAURANT, restaurant_id)

    async def get(self, restaurant_id: str) -> Restaurant | None:
        row = await self._connection.fetchrow(SELECT_RESTAURANT, restaurant_id)
        return None if row is None else _restaurant(row)

    async def lock(self, restaurant_id: str) -> Restaurant | None:
        row = await self._connection.fetchrow(LOCK_RESTAURANT, restaurant_id)
        return None if row is None else _restaurant(row)

    async def page(self, after: str, limit: int) -> list[Restaurant]:
        return [_restaurant(row) for row in await self._connection.fetch(SELECT_PAGE, after, limit)]


def _restaurant(row: Row) -> Restaurant:
    reason = row["payout_hold_reason"]
    return Restaurant(
        profile=RestaurantProfile(
            row["restaurant_id"],
            row["name"],
            row["active"],
            row["maturity_days"],
            row["metadata"],
            None if reason is None else PayoutHold(reason, row["payout_hold_until"]),
            row["min_balance_minor"],
        ),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
