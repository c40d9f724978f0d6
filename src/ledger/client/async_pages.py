"""Lists of any length with asyncio: read page by page while they are looked at."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from ledger.limits import PAGE_SIZE_MAX


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


ItemT = TypeVar("ItemT")
PageT = TypeVar("PageT", bound=_Page)


async def pages_of(
    method: Callable[..., Awaitable[PageT]],
    first_request: Any,
    page_size: int | None = None,
    timeout: float | None = None,
) -> AsyncIterator[PageT]:
    """The responses of a list method of a stub, page by page; at least one, which may be empty."""
    request = type(first_request)()
    request.CopyFrom(first_request)
    request.page_size = PAGE_SIZE_MAX if page_size is None else page_size
    while True:
        page = await method(request, timeout=timeout)
        yield page
        request.page_token = page.next_page_token
        if not request.page_token:
            return


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
        self._page_size = page_size
        self._timeout = timeout

    def pages(self) -> AsyncIterator[PageT]:
        """The responses, at least one, which may be empty. Raises LedgerError."""
        return pages_of(self._method, self._request, self._page_size, self._timeout)

    async def __aiter__(self) -> AsyncIterator[ItemT]:
        async for page in self.pages():
            for item in self._items_of(page):
                yield item
