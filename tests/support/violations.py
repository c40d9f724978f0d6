"""The violations of a request that a converter refuses."""

from collections.abc import Callable
from typing import Any

import pytest

from ledger.errors import InvalidRequest


def violations_of(decode: Callable[..., object], *args: Any) -> list[tuple[str, str]]:
    """Field and description of each violation, in the order in which the response has them.

    Fails the test if `decode` accepts these arguments.
    """
    with pytest.raises(InvalidRequest) as refused:
        decode(*args)
    return [(found.field, found.description) for found in refused.value.violations]
