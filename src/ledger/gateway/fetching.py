"""Fetches from a processor's API what its webhooks leave out: from one host, named in settings."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import urlsplit

import httpx
from pydantic import Field, field_validator

from ledger.gateway.deliveries import FetchFailed
from ledger.gateway.endpoints import Secret, Table
from ledger.gateway.payloads import Malformed, Payload, parse

# What a resource may have: the largest charge with all of its refunds takes a tenth of it.
RESOURCE_BYTES_MAX = 1024 * 1024
# A host that asks for more is asked again after this time all the same.
RETRY_AFTER_SECONDS_MAX = 3600.0
# Requests at once. More wait for a moment; then their deliveries are parked, which says nothing
# about the host. Stripe takes 100 a second.
REQUESTS_MAX = 20
QUEUE_SECONDS = 1.0
# So many failures in a row, and nothing is sent for a while: parked deliveries wait, and posts do
# not wait for time-outs.
BREAKER_FAILURES = 5
BREAKER_SECONDS = 30.0

_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
# A segment of a path that comes from a payload cannot lead anywhere else.
_PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._:-]{0,255})+")


class Api(Table):
    """Where an endpoint fetches what its deliveries leave out, and the key it shows there."""

    url: str = Field(
        "", description="The beginning of all addresses; empty: the processor's own host."
    )
    key: Secret = Field(description="The key of the processor's API. It only needs to read.")
    timeout_seconds: float = Field(
        3.0,
        gt=0,
        le=20,
        description="How long a response may take, from the first byte sent. A post is answered"
        " within 8 seconds: a slower API needs the gateway's retries.",
    )

    @field_validator("url")
    @classmethod
    def _is_origin(cls, url: str) -> str:
        if url:
            checked_origin(url)
        return url


def checked_origin(url: str) -> str:
    """The URL without a slash at its end. Raises ValueError unless it is https://host[:port].

    A host of this machine may be http, for tests and proxies.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("the url of an API is https://host, with a port if need be")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK_HOSTS:
        raise ValueError("the url of an API must be https: the key would be readable")
    if parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/"):
        raise ValueError("the url of an API has neither user, path, query nor fragment")
    return url.rstrip("/")


class Fetcher(Protocol):
    """Gets resources of one processor's API."""

    async def get(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Payload:
        """The JSON object at `path`, for example `/v1/payments/17`. Raises FetchFailed."""
        ...


class HttpFetcher:
    """A Fetcher over HTTP: one origin, no redirects, bounded in time and size, with a breaker.

    Every failure is FetchFailed, a key that is refused too: what is parked is tried again once the
    key is mended. After BREAKER_FAILURES in a row it fails at once for BREAKER_SECONDS; then one
    request tries whether the host is back.
    """

    def __init__(
        self,
        origin: str,
        key: str,
        *,
        timeout_seconds: float = 3.0,
        requests_max: int = REQUESTS_MAX,
        queue_seconds: float = QUEUE_SECONDS,
        headers: Mapping[str, str] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._origin = checked_origin(origin)
        self._timeout_seconds = timeout_seconds
        self._headers = {
            **(headers or {}),
            "accept": "application/json",
            "authorization": f"Bearer {key}",
            # Compressed, a small response could unfold to any size.
            "accept-encoding": "identity",
        }
        self._free = asyncio.Semaphore(requests_max)
        self._queue_seconds = queue_seconds
        self._client: httpx.AsyncClient | None = None
        self._monotonic = monotonic
        self._failures = 0
        self._silent_until = 0.0
        self._is_trying = False

    async def get(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Payload:
        """See Fetcher."""
        if _PATH.fullmatch(path) is None:
            raise FetchFailed(f"{path[:64]!r} is no path of the API")
        try:
            async with asyncio.timeout(self._queue_seconds):
                await self._free.acquire()
        except TimeoutError as error:
            raise FetchFailed("too much is asked at once", retry_after_seconds=1.0) from error
        try:
            return await self._get(path, query, headers or {})
        finally:
            self._free.release()

    async def aclose(self) -> None:
        """Closes its connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _get(
        self, path: str, query: Sequence[tuple[str, str]], headers: Mapping[str, str]
    ) -> Payload:
        is_trial = self._enter()
        try:
            status, retry_after, body = await self._send(path, query, headers)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise FetchFailed(f"GET {path}: a header or the query cannot be sent") from error
        except (httpx.HTTPError, TimeoutError) as error:
            self._failed(None)
            raise FetchFailed(f"GET {path}: {type(error).__name__}") from error
        finally:
            if is_trial:
                self._is_trying = False
        if status == 429 or status >= 500:
            self._failed(retry_after)
            raise FetchFailed(f"GET {path}: status {status}", retry_after_seconds=retry_after)
        self._failures = 0
        if status != 200:
            raise FetchFailed(f"GET {path}: status {status}")
        try:
            return parse(body)
        except Malformed as error:
            raise FetchFailed(f"GET {path}: {error}") from error

    async def _send(
        self, path: str, query: Sequence[tuple[str, str]], headers: Mapping[str, str]
    ) -> tuple[int, float | None, bytes]:
        async with (
            asyncio.timeout(self._timeout_seconds),
            self._open().stream(
                "GET",
                self._origin + path,
                params=list(query),
                headers={**self._headers, **headers},
            ) as response,
        ):
            if response.headers.get("content-encoding", "identity") != "identity":
                raise httpx.DecodingError("the response is compressed")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > RESOURCE_BYTES_MAX:
                    raise httpx.DecodingError("the response is too large")
            return response.status_code, _retry_after(response), bytes(body)

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                follow_redirects=False,
                timeout=self._timeout_seconds,
                limits=httpx.Limits(max_connections=REQUESTS_MAX),
                # No proxy and no .netrc of the environment: the key goes to the host alone.
                trust_env=False,
            )
        return self._client

    def _enter(self) -> bool:
        """Whether this request is the one that tries if the host is back. Raises FetchFailed."""
        wait = self._silent_until - self._monotonic()
        if wait > 0 or self._is_trying:
            raise FetchFailed("the API did not answer before", retry_after_seconds=max(wait, 1.0))
        self._is_trying = self._failures >= BREAKER_FAILURES
        return self._is_trying

    def _failed(self, retry_after_seconds: float | None) -> None:
        self._failures += 1
        wait = BREAKER_SECONDS if self._failures >= BREAKER_FAILURES else 0.0
        wait = max(wait, retry_after_seconds or 0.0)
        self._silent_until = max(self._silent_until, self._monotonic() + wait)


def _retry_after(response: httpx.Response) -> float | None:
    """The seconds of Retry-After; a date, as rate limits never give one, is not read."""
    text = response.headers.get("retry-after", "")
    if re.fullmatch("[0-9]{1,9}", text) is None:
        return None
    return min(float(text), RETRY_AFTER_SECONDS_MAX)
