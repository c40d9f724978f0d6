"""Waits for what another party does: polls, with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable

POLL_SECONDS = 0.02


async def until(happened: Callable[[], bool], timeout_seconds: float) -> None:
    """Returns once `happened` says so. Raises TimeoutError."""

    async def asked() -> bool:
        return happened()

    await until_told(asked, timeout_seconds)


async def until_told(happened: Callable[[], Awaitable[bool]], timeout_seconds: float) -> None:
    """As `until`, for what has to be asked of somebody."""
    async with asyncio.timeout(timeout_seconds):
        while True:
            if await happened():
                return
            await asyncio.sleep(POLL_SECONDS)


class WhenSaid(float):
    """An instant of the event loop that has come as soon as a test says so; asked as `time >= instant`."""

    has_come = False

    # Asked before the clock's own comparison, as this is a kind of float.
    def __le__(self, _now: float) -> bool:
        return self.has_come
