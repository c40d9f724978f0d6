"""The figures of a load in an interval, and its costs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

Cpu = Mapping[str, float | None]
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """The responses within an interval. `cpu_s` by server, database and load; None where unknown.

    A response counts as `each` events or calls: a batch as its events. Latencies in seconds.
    """

    seconds: float
    latencies: Sequence[float]
    each: int
    cpu_s: Cpu
    resident_before_bytes: int | None
    resident_after_bytes: int | None
    # When each response came.
    ends: Sequence[float]

    @property
    def counted(self) -> int:
        """Calls or events."""
        return len(self.latencies) * self.each

    @property
    def rate(self) -> float:
        """Calls or events a second."""
        return self.counted / self.seconds

    @property
    def p50_ms(self) -> float:
        return statistics.median(self.latencies) * 1000

    def cpu_per_thousand(self, whose: str) -> float | None:
        """CPU seconds per thousand calls or events."""
        spent = self.cpu_s[whose]
        return None if spent is None or not self.counted else round(spent * 1000 / self.counted, 4)

    @property
    def resident_before_mib(self) -> float | None:
        return (
            None
            if self.resident_before_bytes is None
            else round(self.resident_before_bytes / MIB, 1)
        )

    @property
    def resident_after_mib(self) -> float | None:
        return (
            None if self.resident_after_bytes is None else round(self.resident_after_bytes / MIB, 1)
        )

    @classmethod
    def together(cls, slices: Sequence[Self]) -> Self:
        """Several slices of the same measure as one."""
        return cls(
            sum(part.seconds for part in slices),
            [latency for part in slices for latency in part.latencies],
            slices[0].each,
            {whose: _total([part.cpu_s[whose] for part in slices]) for whose in slices[0].cpu_s},
            slices[0].resident_before_bytes,
            slices[-1].resident_after_bytes,
            [at for part in slices for at in part.ends],
        )


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
