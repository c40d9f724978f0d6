"""Cuts any number of events or payments into requests that the server accepts."""

import random
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TypeVar

from google.protobuf.message import Message

from ledger.limits import BATCH_METADATA_ENTRIES_MAX, MESSAGE_BYTES_MAX

# Inside a request a message takes up to five bytes more than alone, for its tag and its length.
_OVERHEAD_BYTES = 5
# Leaves room for the other bytes of the request.
_REQUEST_BYTES_MAX = MESSAGE_BYTES_MAX - 1024

# Of one call, after the attempts that gRPC makes by itself.
ATTEMPTS_MAX = 5
PAUSE_SECONDS = 0.5
PAUSE_SECONDS_MAX = 5.0
# The longest wait before one attempt, whatever the server asks for.
RETRY_AFTER_SECONDS_MAX = 30.0


MessageT = TypeVar("MessageT", bound=Message)


def batches_of(messages: Iterable[MessageT], count_max: int) -> Iterator[list[MessageT]]:
    """The messages in their order, in batches that fit a request; reads ahead one message.

    What is `linked` stays together with what follows it, as far as `count_max` allows. Raises
    ValueError for a `count_max` below 1.
    """
    if count_max < 1:
        raise ValueError(f"a batch has at least 1 item, not {count_max}")
    batch: list[MessageT] = []
    # The end of the last chain in the batch, where it may be cut.
    cut_at = 0
    size = _Size()
    for message in messages:
        if batch and (len(batch) == count_max or not size.has_room(message)):
            end = cut_at or len(batch)
            yield batch[:end]
            batch, cut_at = batch[end:], 0
            size = _Size()
            for kept in batch:
                size.add(kept)
        batch.append(message)
        size.add(message)
        if not getattr(message, "linked", False):
            cut_at = len(batch)
    if batch:
        yield batch


class _Size:
    def __init__(self) -> None:
        self._bytes = 0
        self._entries = 0

    def has_room(self, message: Message) -> bool:
        return (
            self._bytes + message.ByteSize() + _OVERHEAD_BYTES <= _REQUEST_BYTES_MAX
            and self._entries + _metadata_entries(message) <= BATCH_METADATA_ENTRIES_MAX
        )

    def add(self, message: Message) -> None:
        self._bytes += message.ByteSize() + _OVERHEAD_BYTES
        self._entries += _metadata_entries(message)


def _metadata_entries(message: Message) -> int:
    return len(getattr(message, "metadata", ()))


def pause_seconds(attempt: int, retry_after: float | None) -> float:
    """How long to wait after the attempt of this number, from 1, at a random place of the range."""
    longest = min(PAUSE_SECONDS * 2.0 ** (attempt - 1), PAUSE_SECONDS_MAX)
    return max(
        longest * random.uniform(0.5, 1.0),  # noqa: S311
        min(retry_after or 0.0, RETRY_AFTER_SECONDS_MAX),
    )


class TimeLeft:
    """What is left of a caller's `timeout`, in seconds, for a batch with all its repeats."""

    def __init__(self, timeout: float | None) -> None:
        self._ends_at = None if timeout is None else monotonic() + timeout

    @property
    def seconds(self) -> float | None:
        """None: the caller has set no limit."""
        return None if self._ends_at is None else max(self._ends_at - monotonic(), 0.0)

    def allows(self, pause: float) -> bool:
        """Whether there is time for another call after a pause of so many seconds."""
        return self._ends_at is None or monotonic() + pause < self._ends_at
