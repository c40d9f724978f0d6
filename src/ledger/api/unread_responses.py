"""Limits the memory of responses that their clients have not read."""

from collections import Counter
from typing import Any, cast

from ledger.api.access.authentication import Context
from ledger.api.methods import Method, Responses
from ledger.errors import QueueFull
from ledger.observability import CALLER

# Of reads, and of batches.
UNREAD_BYTES_MAX, UNREAD_OF_BATCHES_BYTES_MAX = 24 * 1024 * 1024, 8 * 1024 * 1024


class UnreadResponses:
    """Counts the bytes of unread responses. One caller may have half of `bytes_max`.

    gRPC keeps a response until its client has read it or is gone, and one connection may ask for
    128 responses of up to 4 MiB. A caller without credentials is identified by its connection.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes_by_caller: Counter[str] = Counter()
        self.size_bytes = 0

    def check(self, context: Context) -> None:
        """Raises QueueFull if there is no room for any response to the caller."""
        if (
            self.size_bytes >= self._bytes_max
            or self._bytes_by_caller[_caller_of(context)] * 2 >= self._bytes_max
        ):
            raise QueueFull

    def keep(self, context: Context, size_bytes: int, *, is_refusable: bool) -> None:
        """Counts a response until its call ends. If `is_refusable`, raises QueueFull without room.

        A response larger than `bytes_max` has room while nothing else is counted, and one larger
        than half of it while nothing else of its caller is.
        """
        caller = _caller_of(context)
        of_caller = self._bytes_by_caller[caller]
        is_over = self.size_bytes and self.size_bytes + size_bytes > self._bytes_max
        is_over_share = of_caller and (of_caller + size_bytes) * 2 > self._bytes_max
        if is_refusable and (is_over or is_over_share):
            raise QueueFull
        self._add(caller, size_bytes)

        def forget(_: Context) -> None:
            self._add(caller, -size_bytes)

        context.add_done_callback(cast(Any, forget))

    def _add(self, caller: str, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        self._bytes_by_caller[caller] += size_bytes
        if not self._bytes_by_caller[caller]:
            del self._bytes_by_caller[caller]


def _caller_of(context: Context) -> str:
    return CALLER.get() or context.peer()


class UnreadLimits:
    """The limit on unread responses of each method."""

    def __init__(self) -> None:
        self._by_kind = {
            Responses.READS: UnreadResponses(UNREAD_BYTES_MAX),
            Responses.BATCHES: UnreadResponses(UNREAD_OF_BATCHES_BYTES_MAX),
            Responses.NOT_COUNTED: None,
        }

    def of(self, method: Method) -> UnreadResponses | None:
        """The limit, which other methods share; None if the method's responses are small."""
        return self._by_kind[method.responses]
