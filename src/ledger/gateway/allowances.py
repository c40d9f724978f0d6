"""What the calls for one delivery have in common."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowance:
    """What the calls for one delivery have in common: its id in logs, and when it must be answered.

    `ends_at` is on the clock of `time.monotonic`.
    """

    request_id: str
    ends_at: float

    @classmethod
    def of(cls, request_id: str, seconds: float) -> "Allowance":
        return cls(request_id, time.monotonic() + seconds)

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.ends_at - time.monotonic())
