"""What is told of every call, for whoever counts them."""

from typing import Protocol

import grpc


class CallMetrics(Protocol):
    """Is told what becomes of calls. `method` is the whole path of one that exists, "/package.Service/Method".

    The methods are called on the path of every call, so they have to be fast, and must not raise.
    """

    def started(self, method: str) -> None:
        """A call begins."""

    def answered(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """A call that began has ended."""

    def turned_away(self, method: str, reason: str) -> None:
        """A call is being refused, whatever it asks, as there is more to do than can be held or than its caller may ask for.

        `reason` is the contract's, without its prefix. The answer is told besides.
        """


class UncountedCalls:
    """Nobody wants to know."""

    def started(self, method: str) -> None:
        pass

    def answered(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        pass

    def turned_away(self, method: str, reason: str) -> None:
        pass
