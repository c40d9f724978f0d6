"""The unit of work: all or nothing, and nothing unless it was committed."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.books import SMALL_POOL
from support.events import unique
from support.running import query

from ledger.bootstrap.database import Database
from ledger.domain.restaurants import Restaurant, RestaurantProfile
from ledger.errors import DatabaseUnavailable, DataRejected
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import create_engine
from ledger.infrastructure.postgres.unit_of_work import PostgresUnitOfWork


async def read(engine: AsyncEngine, restaurant_id: str) -> Restaurant | None:
    async with PostgresUnitOfWork(engine) as uow:
        return await uow.restaurants.get(restaurant_id)


def session_of(uow: PostgresUnitOfWork) -> Connection:
    """The connection that the unit of work uses."""
    return uow.restaurants._connection


async def test_what_was_committed_is_seen_by_another_session(engine: AsyncEngine) -> None:
    """After `commit` another session reads every field as it was put."""
    profile = RestaurantProfile(
        unique("res"), "Chifa Ñandú", active=False, maturity_days=3, metadata={"k": "v"}
    )
    async with PostgresUnitOfWork(engine) as uow:
        put = await uow.restaurants.put(profile)
        await uow.commit()
    assert put.profile == profile
    assert await read(engine, profile.restaurant_id) == put


async def test_after_the_commit_nothing_more_is_written(engine: AsyncEngine) -> None:
    """Without a transaction an SQL statement would commit at once: the unit of work refuses it."""
    async with PostgresUnitOfWork(engine) as uow:
        await uow.commit()
        with pytest.raises(RuntimeError):
            await uow.restaurants.register(unique("res"))
        with pytest.raises(RuntimeError):
            await uow.commit()


async def test_without_commit_nothing_is_left(engine: AsyncEngine) -> None:
    """Leaving the block without `commit` rolls back."""
    restaurant_id = unique("res")
    async with PostgresUnitOfWork(engine) as uow:
        await uow.restaurants.put(RestaurantProfile(restaurant_id))
    assert await read(engine, restaurant_id) is None


async def test_exception_leaves_nothing(engine: AsyncEngine) -> None:
    """An exception rolls back, and the caller gets it unchanged."""
    restaurant_id = unique("res")
    with pytest.raises(ZeroDivisionError):
        async with PostgresUnitOfWork(engine) as uow:
            await uow.restaurants.put(RestaurantProfile(restaurant_id))
            raise ZeroDivisionError
    assert await read(engine, restaurant_id) is None


async def test_rejected_row_is_data_rejected(engine: AsyncEngine) -> None:
    """The connection can be used again."""
    with pytest.raises(DataRejected):
        async with PostgresUnitOfWork(engine) as uow:
            await uow.restaurants.put(RestaurantProfile(unique("res"), maturity_days=366))
    assert await read(engine, "res_absent") is None


async def test_lost_session_leaves_nothing_and_is_replaced(
    engine: AsyncEngine, shared_database: Database
) -> None:
    """The block raises DatabaseUnavailable, and the next unit of work has another session."""
    for _ in range(2 * SMALL_POOL):
        restaurant_id = unique("res")
        with pytest.raises(DatabaseUnavailable):
            async with PostgresUnitOfWork(engine) as uow:
                await uow.restaurants.put(RestaurantProfile(restaurant_id))
                pid = await session_of(uow).fetchval("SELECT pg_backend_pid()")
                await query(shared_database.migration_url, f"SELECT pg_terminate_backend({pid})")
                await uow.commit()
        assert await read(engine, restaurant_id) is None


async def test_cancellation_leaves_nothing_and_the_pool_whole(engine: AsyncEngine) -> None:
    """Its transaction ends, and the pool keeps its size.

    Cancelled in a statement, or between two.
    """
    for waits_in_statement in (True, False) * SMALL_POOL:
        restaurant_id = unique("res")
        begun = asyncio.Event()

        async def work(
            restaurant_id: str = restaurant_id,
            begun: asyncio.Event = begun,
            waits_in_statement: bool = waits_in_statement,
        ) -> None:
            async with PostgresUnitOfWork(engine) as uow:
                await uow.restaurants.put(RestaurantProfile(restaurant_id))
                begun.set()
                if waits_in_statement:
                    await session_of(uow).execute("SELECT pg_sleep(60)")
                await asyncio.Event().wait()

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await read(engine, restaurant_id) is None


async def test_unreachable_database_is_unavailable(shared_database: Database) -> None:
    """No server at the address: DatabaseUnavailable, at once."""
    engine = create_engine("postgresql+asyncpg://ledger_app@127.0.0.1:1/ledger", pool_size=1)
    with pytest.raises(DatabaseUnavailable):
        await read(engine, "res_001")
    await engine.dispose()


async def test_pages_go_through_all_in_byte_order(engine: AsyncEngine) -> None:
    """Pages neither miss nor repeat a restaurant; upper case comes before lower case."""
    prefix = unique("res")
    ids = [f"{prefix}{suffix}" for suffix in ("Z", "a", "B", "b", "-", ".", "_")]
    async with PostgresUnitOfWork(engine) as uow:
        for restaurant_id in ids:
            await uow.restaurants.put(RestaurantProfile(restaurant_id))
        await uow.commit()
    seen: list[str] = []
    async with PostgresUnitOfWork(engine) as uow:
        while page := await uow.restaurants.page(seen[-1] if seen else prefix, 3):
            seen += [
                restaurant.profile.restaurant_id
                for restaurant in page
                if restaurant.profile.restaurant_id.startswith(prefix)
            ]
            if len(seen) >= len(ids):
                break
    assert seen == sorted(ids, key=str.encode)
