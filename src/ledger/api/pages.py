"""The page that a request asks for, by the keys with which servers authenticate page tokens."""

from typing import Protocol

from ledger.api.convert.page_tokens import PageTokens
from ledger.api.convert.paging import Listing, Paging, decode_page_size
from ledger.application.ports.page_tokens import PageTokenKeys
from ledger.application.ports.pages import Place


class PageRequest(Protocol):
    """The request of a list."""

    @property
    def page_size(self) -> int: ...

    @property
    def page_token(self) -> str: ...


class Pages:
    """The paging of all lists of a server."""

    def __init__(self, keys: PageTokenKeys) -> None:
        self._keys = keys
        self._tokens: PageTokens | None = None

    async def paging(self, request: PageRequest, listing: Listing[Place]) -> Paging[Place]:
        """Raises InvalidRequest, DatabaseUnavailable, DatabaseTimeout.

        The keys of page tokens are read once: a new key takes effect with the next server.
        """
        page_size = decode_page_size(request.page_size)
        if self._tokens is None:
            self._tokens = PageTokens(await self._keys.newest_first())
        return Paging(self._tokens, listing, page_size, request.page_token)
