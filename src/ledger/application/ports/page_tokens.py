"""The keys of page tokens."""

from typing import Protocol


class PageTokenKeys(Protocol):
    """The secrets by which servers know the page tokens that they made."""

    async def newest_first(self) -> list[bytes]:
        """The keys; the first one makes tokens. Raises DatabaseUnavailable, DatabaseTimeout."""
        ...
