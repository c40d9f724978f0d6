"""Lists of any length, with asyncio: read page by page while they are looked at."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ledger.limits import PAGE_SIZE_MAX


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


ItemT = TypeVar("ItemT")
PageT = TypeVar("PageT", bound=_Page)


class AsyncPages(Generic[ItemT, PageT]):
    """The items of a list, in its order. Each iteration reads the list anew.

    Only one page is held at a time. `pages` iterates over the responses, which may have more than
    the items, such as the balances before and after a statement.
    """

    def __init__(
        self,
        method: Callable[..., Awaitable[PageT]],
        request: Any,
        items_of: Callable[[PageT], Sequence[ItemT]],
        *,
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> None:
        self._method = method
        self._request = request
        self._items_of = items_of
        self._page_size = PAGE_SIZE_MAX if page_size is None else page_size
        self._timeout = timeout

    async def pages(self) -> AsyncIterator[PageT]:
        """The responses, at least one, which may be empty. Raises LedgerError."""
        request = type(self._request)()
        request.CopyFrom(self._request)
        request.page_size = self._page_size
        while True:
            page = await self._method(request, timeout=self._timeout)
            yield page
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def __aiter__(self) -> AsyncIterator[ItemT]:
        async for page in self.pages():
            for item in self._items_of(page):
                yield item
