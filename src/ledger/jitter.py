"""Jitter, so that servers or calls that began together do not try again together."""

import random


def jittered(seconds: float) -> float:
    """A random time between half of `seconds` and `seconds`."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311
