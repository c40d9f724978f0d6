"""Limits how often each caller may call, with a token bucket for each."""

import time
from collections.abc import Callable, Hashable

# Callers are authenticated by then, and usually few. An issuer of JWTs may have many.
BUCKETS_MAX = 10_000


class RateLimit:
    """Buckets that hold `burst_calls` calls and fill up by `calls_per_second`.

    A bucket is one number: when it will be full again. A full bucket is not stored, because a new
    one is full, too. This is the generic cell rate algorithm (ITU-T I.371).
    """

    def __init__(
        self,
        calls_per_second: float,
        burst_calls: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call_seconds = 1 / calls_per_second
        self._burst_seconds = max(burst_calls, 1) * self._call_seconds
        self._clock = clock
        self._full_at: dict[Hashable, float] = {}

    def take(self, caller: Hashable) -> float:
        """Takes a call from the caller's bucket and returns 0.

        If the bucket is empty, takes nothing and returns the seconds until it has a call.
        """
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + self._call_seconds
        missing_seconds = full_at - now - self._burst_seconds
        # Rounding must not cost the last call of a burst.
        if missing_seconds > self._call_seconds / 1000:
            return missing_seconds
        if caller not in self._full_at and len(self._full_at) >= BUCKETS_MAX:
            self._make_room(now)
        self._full_at[caller] = full_at
        return 0.0

    def _make_room(self, now: float) -> None:
        """Removes the full buckets; without any, the oldest, whose caller then has a full one."""
        self._full_at = {
            caller: full_at for caller, full_at in self._full_at.items() if full_at > now
        }
        if len(self._full_at) >= BUCKETS_MAX:
            del self._full_at[next(iter(self._full_at))]
