"""Failures that a test asks for, with the statuses that a real server gives them."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ledger.errors import DatabaseUnavailable, LedgerError, QueueFull


class Fault(Enum):
    """What happens to a call."""

    AWAY = "the books cannot be reached: UNAVAILABLE, and nothing is done"
    ANSWER_LOST = "the call is carried out, and its caller gets UNAVAILABLE"
    OVERLOADED = "too many calls wait: RESOURCE_EXHAUSTED, and nothing is done"


@dataclass(slots=True, eq=False)
class AskedFault:
    """A fault of calls of some methods or, without any, of all; of so many calls, or None: all."""

    fault: Fault
    methods: frozenset[str]
    calls_left: int | None


class Faults:
    """The faults of a server, the latest first."""

    def __init__(self) -> None:
        self.asked: list[AskedFault] = []

    def take(self, method: str) -> Fault | None:
        """The fault of a call that comes now, if it has one."""
        for asked in reversed(self.asked):
            if (not asked.methods or method in asked.methods) and asked.calls_left != 0:
                if asked.calls_left is not None:
                    asked.calls_left -= 1
                return asked.fault
        return None


class FaultyService:
    """A service whose calls have the faults that a test asks for, and begin after some work."""

    def __init__(
        self, service: object, faults: Faults, before: Callable[[], Awaitable[None]]
    ) -> None:
        self._service = service
        self._faults = faults
        self._before = before

    def __getattr__(self, name: str) -> Callable[[Any, Any], Any]:
        method = getattr(self._service, name)
        if inspect.isasyncgenfunction(method):
            return self._stream(name, method)
        return self._single(name, method)

    def _single(
        self, name: str, method: Callable[[Any, Any], Awaitable[Any]]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            fault = self._faults.take(name)
            _raise_before(fault)
            await self._before()
            response = await method(request, context)
            if fault is Fault.ANSWER_LOST:
                raise _lost()
            return response

        return call

    def _stream(
        self, name: str, method: Callable[[Any, Any], AsyncGenerator[Any]]
    ) -> Callable[[Any, Any], AsyncGenerator[Any]]:
        async def call(requests: Any, context: Any) -> AsyncGenerator[Any]:
            fault = self._faults.take(name)
            _raise_before(fault)
            async with aclosing(method(requests, context)) as responses:
                async for response in responses:
                    if fault is Fault.ANSWER_LOST:
                        raise _lost()
                    yield response

        return call


def _raise_before(fault: Fault | None) -> None:
    if fault is Fault.AWAY:
        raise _lost()
    if fault is Fault.OVERLOADED:
        raise QueueFull


def _lost() -> LedgerError:
    return DatabaseUnavailable("a test asked for it")
