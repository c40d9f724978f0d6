"""Reads long lists from the server page by page, so that only one page is held at a time."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from ledger.limits import PAGE_SIZE_MAX


class _Request(Protocol):
    page_size: int
    page_token: str


class _Response(Protocol):
    @property
    def next_page_token(self) -> str: ...


RequestT = TypeVar("RequestT", bound=_Request)
ResponseT = TypeVar("ResponseT", bound=_Response)


def pages_of(method: Callable[[RequestT], ResponseT], request: RequestT) -> Iterator[ResponseT]:
    """The responses of a list method, page by page; at least one, which may be empty.

    Sets the page size and the page token of `request`. Raises grpc.RpcError.
    """
    request.page_size = PAGE_SIZE_MAX
    while True:
        page = method(request)
        yield page
        request.page_token = page.next_page_token
        if not request.page_token:
            return
