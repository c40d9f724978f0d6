"""An event loop whose time jumps to the next timer as soon as no task can run.

A pause of an hour takes no real time.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_on_fake_time(main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` in a new event loop whose time begins at 0.

    For work without threads or network.
    """
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(main)


def now() -> float:
    """The time of the running loop, in seconds."""
    return asyncio.get_running_loop().time()


class _JumpingSelector(selectors.DefaultSelector):
    """Advances the time instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("every task waits for something that never comes")
        if not ready and timeout:
            self.now += timeout
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """The event loop of `run_on_fake_time`."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now
