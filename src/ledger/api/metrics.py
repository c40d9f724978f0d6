"""What is told of every call, for whoever counts them."""

from typing import Protocol

import grpc


class CallMetrics(Protocol):
    """Is told when a call begins and when it has been answered. `method` is its whole path, "/package.Service/Method".

    Both are called for every call of a method that exists, in pairs; so they have to be fast, and must not raise.
    """

    def started(self, method: str) -> None: ...

    def answered(self, method: str, code: grpc.StatusCode, seconds: float) -> None: ...


class UncountedCalls:
    """Nobody wants to know."""

    def started(self, method: str) -> None:
        pass

    def answered(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        pass
