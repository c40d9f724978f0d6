"""Where the token of a call comes from: a text, a file, or a function that fetches the next one."""

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from ledger.client.errors import broken_off, too_slow

# How often a file is looked at.
FILE_SECONDS = 1.0
# A token is renewed when a fifth of its life is left, at most this much.
RENEWAL_SECONDS_MAX = 300.0
RENEWAL_SHARE = 0.2
# How long a token is used that does not say when it expires.
UNKNOWN_LIFE_SECONDS = 300.0
# How long a task waits for a function that returns the first token, or the next after an expiry.
FETCH_SECONDS_MAX = 30.0
# After a renewal that failed while the token before it is still good.
FAILED_RENEWAL_SECONDS = 5.0

_log = logging.getLogger("ledger.client")


class CredentialsError(ValueError):
    """Credentials that cannot be used: the text says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token, and when it expires if that is known."""

    text: str = field(repr=False)
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not self.text or not self.text.isascii() or not self.text.isprintable():
            raise CredentialsError("a token is printable ASCII, and not empty")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise CredentialsError("expires_at of a token needs a time zone")


Fetched = Token | str
# A function without arguments that returns the next token, or an awaitable of it.
TokenFunction = Callable[[], Fetched | Awaitable[Fetched]]


class TokenSource(Protocol):
    """The token to send with a call. Safe for threads and tasks."""

    def at_hand(self) -> str | None:
        """The token if no fetch is needed before the call."""
        ...

    def fetch(self) -> str:
        """The token; may wait for a fetch. Raises what the fetch raises."""
        ...

    async def fetch_async(self, wait_seconds: float | None = None, /) -> str:
        """The same for tasks. Raises TooSlow after so many seconds, half a minute at most."""
        ...

    def refused(self, token: str) -> bool:
        """Notes that a server does not accept `token`. Returns whether there may be another one."""
        ...

    def close(self) -> None:
        """Ends a fetch that a task has begun."""
        ...


class FixedToken:
    """One token for good."""

    def __init__(self, text: str) -> None:
        self._text = Token(text).text

    def at_hand(self) -> str | None:
        return self._text

    def fetch(self) -> str:
        return self._text

    async def fetch_async(self, _wait_seconds: float | None = None, /) -> str:
        return self._text

    def refused(self, token: str) -> bool:
        return token != self._text

    def close(self) -> None:
        pass


class TokenFile:
    """The token in a file, which is read again when it changes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the file. Raises OSError, CredentialsError."""
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._text = ""
        self._look_again_at = 0.0
        self._read()

    def at_hand(self) -> str | None:
        if self._clock() >= self._look_again_at:
            try:
                self._read()
            except (OSError, CredentialsError) as error:
                # The file is being replaced: the next look finds it.
                _log.warning("cannot read the token in %s: %s", self._path, error)
        return self._text

    def fetch(self) -> str:
        self.at_hand()
        return self._text

    async def fetch_async(self, _wait_seconds: float | None = None, /) -> str:
        return self.fetch()

    def refused(self, token: str) -> bool:
        self._look_again_at = 0.0
        return self.fetch() != token

    def close(self) -> None:
        pass

    def _read(self) -> None:
        with self._lock:
            self._look_again_at = self._clock() + FILE_SECONDS
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp == self._stamp:
                return
            text = self._path.read_bytes().decode("ascii", errors="replace").strip()
            try:
                self._text = Token(text).text
            except CredentialsError:
                raise CredentialsError(f"{self._path} holds no token") from None
            self._stamp = stamp


class FetchedToken:
    """A token that a function fetches, and fetches again before it expires.

    One fetch at a time. While the token is still good, calls use it and do not wait; if the renewal
    fails, they use it until it expires.
    """

    def __init__(self, function: TokenFunction, clock: Callable[[], float] = time.time) -> None:
        self._function = function
        self._clock = clock
        self._lock = threading.Lock()
        self._renewal: asyncio.Task[str] | None = None
        self._text = ""
        self._renews_at = self._expires_at = 0.0

    def at_hand(self) -> str | None:
        return self._text if self._clock() < self._renews_at else None

    def fetch(self) -> str:
        if (text := self.at_hand()) is not None:
            return text
        is_good = self._clock() < self._expires_at
        if not self._lock.acquire(blocking=not is_good):
            return self._text
        try:
            if (text := self.at_hand()) is not None:
                return text
            fetched = self._function()
            if inspect.isawaitable(fetched):
                if inspect.iscoroutine(fetched):
                    fetched.close()
                raise CredentialsError("a token that is awaited is for AsyncLedger")
            return self._keep(fetched)
        except CredentialsError:
            raise
        except Exception as error:  # the caller's function may raise anything
            if not is_good:
                raise
            self._postpone(error)
            return self._text
        finally:
            self._lock.release()

    async def fetch_async(self, wait_seconds: float | None = None, /) -> str:
        if (text := self.at_hand()) is not None:
            return text
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())
        if self._clock() < self._expires_at:
            return self._text
        renewal = self._renewal
        seconds = (
            FETCH_SECONDS_MAX if wait_seconds is None else min(wait_seconds, FETCH_SECONDS_MAX)
        )
        # A call that is cancelled, or has waited for too long, leaves the fetch to the others.
        done, _ = await asyncio.wait({renewal}, timeout=seconds)
        if not done:
            raise too_slow(f"the token function has returned no token within {seconds:g} s")
        if renewal.cancelled():
            raise broken_off("the client was closed while the call waited for a token")
        return renewal.result()

    def refused(self, token: str) -> bool:
        if token == self._text:
            self._renews_at = self._expires_at = 0.0
        return True

    def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()

    async def _renew(self) -> str:
        is_good = self._clock() < self._expires_at
        try:
            fetched: Fetched | Awaitable[Fetched]
            if inspect.iscoroutinefunction(self._function):
                fetched = self._function()
            else:
                # It may wait for a network.
                function: Callable[[], Fetched | Awaitable[Fetched]] = self._function
                fetched = await asyncio.to_thread(function)
            return self._keep(await fetched if inspect.isawaitable(fetched) else fetched)
        except Exception as error:
            if not is_good:
                raise
            self._postpone(error)
            return self._text

    def _keep(self, fetched: Fetched) -> str:
        token = fetched if isinstance(fetched, Token) else Token(fetched)
        now = self._clock()
        expires_at = _expiry_of(token)
        if expires_at is None:
            self._renews_at = self._expires_at = now + UNKNOWN_LIFE_SECONDS
        else:
            margin_seconds = min((expires_at - now) * RENEWAL_SHARE, RENEWAL_SECONDS_MAX)
            self._renews_at, self._expires_at = expires_at - margin_seconds, expires_at
        self._text = token.text
        return token.text

    def _postpone(self, error: Exception) -> None:
        self._renews_at = min(self._clock() + FAILED_RENEWAL_SECONDS, self._expires_at)
        _log.warning("the token could not be renewed and is used until it expires: %r", error)


def _expiry_of(token: Token) -> float | None:
    """When it expires, in seconds of Unix time, by its word or by the claim of a JWT."""
    if token.expires_at is not None:
        return token.expires_at.timestamp()
    parts = token.text.split(".")
    if len(parts) != 3:
        return None
    # Imported when needed: commands start faster.
    import base64
    import json

    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    expires_at = claims.get("exp") if isinstance(claims, dict) else None
    return float(expires_at) if isinstance(expires_at, int | float) else None
