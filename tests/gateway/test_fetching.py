"""Resources are fetched from one host alone, in bounded time and size, or FetchFailed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.http_hosts import HANG, CannedHost, host
from support.waiting import until

from ledger.gateway.deliveries import FetchFailed
from ledger.gateway.fetching import (
    BREAKER_FAILURES,
    BREAKER_SECONDS,
    RESOURCE_BYTES_MAX,
    HttpFetcher,
    checked_origin,
)

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + b'{"id": "ch_7"}'
AWAY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class Clock:
    """A monotonic clock that tests move."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def fetcher(
    canned: CannedHost, clock: Clock | None = None, timeout_seconds: float = 60
) -> AsyncIterator[HttpFetcher]:
    made = HttpFetcher(
        canned.origin,
        "rk_17",
        timeout_seconds=timeout_seconds,
        headers={"x-version": "2"},
        monotonic=clock or Clock(),
    )
    try:
        yield made
    finally:
        await made.aclose()


async def test_a_resource_comes_with_the_key_and_the_query() -> None:
    """The request has the key, the endpoint's headers and the query; the resource is exact JSON."""
    async with host(OK) as canned, fetcher(canned) as fetching:
        resource = await fetching.get(
            "/v1/charges/ch_7", [("expand[]", "balance_transaction")], {"stripe-account": "acct_1"}
        )
    assert resource.text("id") == "ch_7"
    (request,) = canned.requests
    lines = request.lower().splitlines()
    assert lines[0] == "get /v1/charges/ch_7?expand%5b%5d=balance_transaction http/1.1"
    assert {"authorization: bearer rk_17", "stripe-account: acct_1", "x-version: 2"} <= set(lines)


BAD = {
    "a redirect is not followed": b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n"
    b"content-length: 0\r\n\r\n",
    "a key that is refused": b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n",
    "an unknown resource": b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
    "no JSON": b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
    "no object": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
    "compressed": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    "no HTTP": b"hello\r\n\r\n",
    "no answer": HANG,
    "too large": b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (RESOURCE_BYTES_MAX + 1),
    "away": AWAY,
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_no_resource_is_a_failure(case: str) -> None:
    """Whatever the host answers, nothing but FetchFailed is raised."""
    # Only a response that never comes is waited for as long as that.
    seconds = 0.3 if BAD[case] == HANG else 60
    async with host(BAD[case]) as canned, fetcher(canned, None, seconds) as fetching:
        with pytest.raises(FetchFailed):
            await fetching.get("/v1/charges/ch_7")
    assert len(canned.requests) <= 1


@pytest.mark.parametrize(
    "path", ["", "v1", "/../admin", "/v1//x", "/v1/a?b=c", "/v1/a#b", "//evil.example/x", "/v1/a b"]
)
async def test_a_path_cannot_lead_elsewhere(path: str) -> None:
    """An id from a payload cannot change the host, the query or the resource: nothing is sent."""
    async with host(OK) as canned, fetcher(canned) as fetching:
        with pytest.raises(FetchFailed):
            await fetching.get(path)
    assert not canned.requests


async def test_a_header_that_cannot_be_sent_is_a_failure() -> None:
    """A value from a payload never becomes another header, or an error."""
    async with host(OK) as canned, fetcher(canned) as fetching:
        for value in ("a\r\nx: y", "\u00e9\u4e00"):
            with pytest.raises(FetchFailed):
                await fetching.get("/v1/charges/ch_7", (), {"stripe-account": value})
    assert not canned.requests


async def test_a_host_that_is_away_is_left_alone_for_a_while() -> None:
    """After some failures in a row nothing is sent; then one request tries, and all is well."""
    clock = Clock()
    async with host(*[AWAY] * BREAKER_FAILURES, OK) as canned, fetcher(canned, clock) as fetching:
        for _ in range(BREAKER_FAILURES + 3):
            with pytest.raises(FetchFailed) as failure:
                await fetching.get("/v1/charges/ch_7")
        assert len(canned.requests) == BREAKER_FAILURES
        assert failure.value.retry_after_seconds == pytest.approx(BREAKER_SECONDS)
        clock.seconds += BREAKER_SECONDS + 1
        tries = await asyncio.gather(
            *(fetching.get("/v1/charges/ch_7") for _ in range(3)), return_exceptions=True
        )
        assert len(canned.requests) == BREAKER_FAILURES + 1
        assert sum(isinstance(tried, FetchFailed) for tried in tries) == 2
        await fetching.get("/v1/charges/ch_7")


async def test_more_requests_at_once_do_not_wait_for_long() -> None:
    """Their deliveries are parked; the host is no worse for it."""
    async with host(HANG) as canned:
        fetching = HttpFetcher(
            canned.origin, "rk_17", timeout_seconds=60, requests_max=1, queue_seconds=0.01
        )
        first = asyncio.create_task(fetching.get("/v1/charges/ch_7"))
        await until(lambda: len(canned.requests) == 1)
        for _ in range(BREAKER_FAILURES + 1):
            with pytest.raises(FetchFailed, match="too much is asked at once"):
                await fetching.get("/v1/charges/ch_7")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        canned.answer_to = lambda _: OK
        assert (await fetching.get("/v1/charges/ch_7")).text("id") == "ch_7"
        await fetching.aclose()


async def test_the_host_says_how_long_to_wait() -> None:
    """Retry-After of a 429 is kept to: nothing is sent before, and the failure tells it."""
    clock = Clock()
    limited = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"
    async with host(limited, OK) as canned, fetcher(canned, clock) as fetching:
        for waited in (7, 4):
            with pytest.raises(FetchFailed) as failure:
                await fetching.get("/v1/charges/ch_7")
            assert failure.value.retry_after_seconds == pytest.approx(waited)
            clock.seconds += 3
        assert len(canned.requests) == 1
        clock.seconds = 108.0
        await fetching.get("/v1/charges/ch_7")
    assert len(canned.requests) == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example",
        "ftp://api.example",
        "https://",
        "https://user@api.example",
        "https://api.example/v1",
        "https://api.example?x=1",
        "api.example",
    ],
)
def test_an_origin_is_a_host_and_nothing_else(url: str) -> None:
    """An address that would show the key to others, or has more than a host, is refused."""
    with pytest.raises(ValueError, match="url of an API"):
        checked_origin(url)


def test_a_host_of_this_machine_needs_no_tls() -> None:
    """Tests and proxies beside the gateway may be plain HTTP."""
    assert checked_origin("http://127.0.0.1:12111/") == "http://127.0.0.1:12111"
    assert checked_origin("https://api.example") == "https://api.example"
