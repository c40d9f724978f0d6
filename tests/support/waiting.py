"""Waits for what another task or process does: polls, with a deadline."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable

# Between two looks at another process, and at a task of this process.
POLL_SECONDS = 0.02
LOCAL_POLL_SECONDS = 0.005
# Only a test that fails waits this long: a machine that halts, or runs much else, needs minutes for
# what takes a second.
DEADLINE_SECONDS = 180.0


async def until(
    condition: Callable[[], bool] | Callable[[], Awaitable[bool]],
    timeout_seconds: float = DEADLINE_SECONDS,
    *,
    what: str = "the condition holds",
) -> None:
    """Returns once the condition holds. Raises TimeoutError, with the text of `what`.

    A condition that asks another process is a coroutine function, and is polled less often.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            while True:
                holds = condition()
                is_remote = inspect.isawaitable(holds)
                if await holds if inspect.isawaitable(holds) else holds:
                    return
                await asyncio.sleep(POLL_SECONDS if is_remote else LOCAL_POLL_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"not within {timeout_seconds:.0f} s: {what}") from error


async def run_ready_tasks() -> None:
    """Lets every task run until it waits for a timer or for another process."""
    for _ in range(50):
        await asyncio.sleep(0)


class TimeLimit:
    """A time limit that is over once a test sets `is_over`, on any machine."""

    is_over = False
