"""What the server reports about every call, for metrics."""

from typing import Protocol

import grpc


class CallMetrics(Protocol):
    """Counts calls. `method` is the path of a method that exists: "/package.Service/Method".

    Every call runs these methods, so they must be fast, and must not raise.
    """

    def started(self, method: str) -> None:
        """A call begins."""

    def ended(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """A call that began has ended, after so many seconds."""

    def refused_under_load(self, method: str, reason: str) -> None:
        """A call is refused because the server has too much work or the caller calls too often.

        `reason` is the contract's, without its prefix. `ended` follows.
        """


class NoCallMetrics:
    """Discards everything."""

    def started(self, method: str) -> None:
        pass

    def ended(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        pass

    def refused_under_load(self, method: str, reason: str) -> None:
        pass
