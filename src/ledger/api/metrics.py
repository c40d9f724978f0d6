"""What the api reports of every call, for metrics."""

from typing import Protocol

import grpc


class CallMetrics(Protocol):
    """Counts calls. `method` is the path of a method that exists: "/package.Service/Method".

    Every call runs these methods, so they must be fast, and must not raise.
    """

    def started(self, method: str) -> None:
        """A call begins."""

    def answered(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        """A call that began has ended."""

    def refused_under_load(self, method: str, reason: str) -> None:
        """A call is refused because the server has too much work or the caller calls too often.

        `reason` is the contract's, without its prefix. `answered` follows.
        """


class NoCallMetrics:
    """Discards everything."""

    def started(self, method: str) -> None:
        pass

    def answered(self, method: str, code: grpc.StatusCode, seconds: float) -> None:
        pass

    def refused_under_load(self, method: str, reason: str) -> None:
        pass
