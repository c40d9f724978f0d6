"""Tokens that are read again when their file changes, and fetched again before they expire."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.tokens import Issuer

from ledger.client import AsyncLedger, Credentials, TooSlow, Unavailable
from ledger.client.tokens import (
    FAILED_RENEWAL_SECONDS,
    FILE_SECONDS,
    UNKNOWN_LIFE_SECONDS,
    CredentialsError,
    FetchedToken,
    FixedToken,
    Token,
    TokenFile,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


class Source:
    """Fetches token_1, token_2 and so on, each with a life of `life_seconds`; fails on demand."""

    def __init__(self, clock: Clock, life_seconds: float | None = 100.0) -> None:
        self.clock = clock
        self.life_seconds = life_seconds
        self.fetched = 0
        self.fails = False

    def __call__(self) -> Token:
        if self.fails:
            raise ConnectionError("the issuer is away")
        self.fetched += 1
        expires_at = None
        if self.life_seconds is not None:
            expires_at = datetime.fromtimestamp(self.clock.seconds + self.life_seconds, UTC)
        return Token(f"token_{self.fetched}", expires_at)

    async def awaited(self) -> Token:
        await asyncio.sleep(0)
        return self()


Get = Callable[[FetchedToken], Awaitable[str]]


async def get_sync(token: FetchedToken) -> str:
    return token.at_hand() or token.fetch()


async def get_async(token: FetchedToken) -> str:
    text = token.at_hand() or await token.fetch_async()
    # A renewal in the background has its turn.
    if token._renewal is not None:
        await asyncio.wait({token._renewal})
    return text


@pytest.fixture(params=["sync", "async", "awaited"])
def fetching(request: pytest.FixtureRequest) -> tuple[Source, FetchedToken, Get, Clock]:
    clock = Clock()
    source = Source(clock)
    function = source.awaited if request.param == "awaited" else source
    get = get_sync if request.param == "sync" else get_async
    return source, FetchedToken(function, clock), get, clock


Fetching = tuple[Source, FetchedToken, Get, Clock]


async def test_token_is_fetched_once_and_renewed_before_it_expires(fetching: Fetching) -> None:
    """When a fifth of its life is left: no call has to wait for it."""
    source, token, get, clock = fetching
    assert [await get(token), await get(token)] == ["token_1", "token_1"]
    clock.seconds += 79
    assert (await get(token), source.fetched) == ("token_1", 1)
    clock.seconds += 2
    await get(token)
    assert (await get(token), source.fetched) == ("token_2", 2)


async def test_token_is_used_until_it_expires_while_the_renewal_fails(fetching: Fetching) -> None:
    """The issuer is asked again after a while; then the caller sees its error."""
    source, token, get, clock = fetching
    await get(token)
    source.fails = True
    clock.seconds += 85
    assert await get(token) == "token_1"
    assert await get(token) == "token_1"
    clock.seconds += FAILED_RENEWAL_SECONDS + 1
    assert await get(token) == "token_1"
    clock.seconds += 100
    with pytest.raises(ConnectionError, match="the issuer is away"):
        await get(token)
    source.fails = False
    assert await get(token) == "token_2"


async def test_refused_token_is_fetched_anew(fetching: Fetching) -> None:
    """A server may know earlier than we that a token is no longer good."""
    _, token, get, _ = fetching
    assert token.refused(await get(token))
    assert await get(token) == "token_2"
    # The refusal of a token that was replaced since changes nothing.
    assert token.refused("token_1")
    assert await get(token) == "token_2"


def test_life_of_a_jwt_is_in_it() -> None:
    """The claim `exp` counts, without a look at the signature. Other texts live for a while."""
    clock = Clock(1_800_000_000.0)
    texts = iter([Issuer().sign(exp=1_800_000_100), "opaque", "a.b.c", "d"])
    token = FetchedToken(lambda: next(texts), clock)
    assert token.fetch().count(".") == 2
    clock.seconds += 81
    assert token.fetch() == "opaque"
    clock.seconds += UNKNOWN_LIFE_SECONDS + 1
    assert token.fetch() == "a.b.c"
    clock.seconds += UNKNOWN_LIFE_SECONDS - 1
    assert token.fetch() == "a.b.c"


def test_threads_fetch_once_together() -> None:
    """64 threads without a token wait for one fetch."""
    clock, started = Clock(), threading.Barrier(64)
    source = Source(clock)
    token = FetchedToken(source, clock)

    def fetch(_: int) -> str:
        started.wait(60)
        return token.fetch()

    with ThreadPoolExecutor(64) as threads:
        assert set(threads.map(fetch, range(64))) == {"token_1"}
    assert source.fetched == 1


async def test_tasks_fetch_once_together() -> None:
    """A task that is cancelled leaves the fetch to the others."""
    clock = Clock()
    source = Source(clock)
    token = FetchedToken(source.awaited, clock)
    tasks = [asyncio.create_task(token.fetch_async()) for _ in range(64)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert set(await asyncio.gather(*tasks[1:])) == {"token_1"}
    assert tasks[0].cancelled()
    assert source.fetched == 1


async def test_function_that_hangs_holds_no_call_beyond_its_timeout() -> None:
    """Nor does its task outlive the client."""
    begun = asyncio.Event()

    async def hang() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    others = asyncio.all_tasks()
    ledger = AsyncLedger("127.0.0.1:1", credentials=Credentials(token=hang))
    with pytest.raises(TooSlow, match=r"no token within 0\.01 s"):
        await ledger.get_balance("res_1", "PEN", timeout=0.01)
    waiting = asyncio.create_task(ledger.get_balance("res_1", "PEN"))
    await begun.wait()
    await asyncio.sleep(0)
    await ledger.close()
    with pytest.raises(Unavailable, match="closed"):
        await waiting
    assert asyncio.all_tasks() == others


def test_awaited_token_is_for_the_asynchronous_client() -> None:
    clock = Clock()
    with pytest.raises(CredentialsError, match="AsyncLedger"):
        FetchedToken(Source(clock).awaited, clock).fetch()


async def test_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """At most a second later; a file that is being replaced, or is empty, changes nothing."""
    clock, path = Clock(), tmp_path / "token"
    path.write_text(" first\n")
    token = TokenFile(path, clock)
    assert (token.at_hand(), token.fetch(), await token.fetch_async()) == ("first",) * 3
    path.write_text("second_one\n")
    assert token.at_hand() == "first"
    clock.seconds += FILE_SECONDS
    assert token.at_hand() == "second_one"
    for break_it in (path.unlink, lambda: path.write_text("")):
        break_it()
        clock.seconds += FILE_SECONDS
        assert token.at_hand() == "second_one"
    path.write_text("third")
    # A server that refuses the token is a reason to look at once.
    assert token.refused("second_one")
    assert token.at_hand() == "third"
    assert not token.refused("third")


@pytest.mark.parametrize("text", ["", " ", "tök", "two\nlines"])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CredentialsError, match="printable"):
        FixedToken(text.strip())
    (tmp_path / "token").write_text(text)
    with pytest.raises(CredentialsError, match="token holds no token"):
        TokenFile(tmp_path / "token")


def test_fixed_token_has_no_other() -> None:
    token = FixedToken("secret")
    assert (token.at_hand(), token.fetch(), token.refused("secret")) == ("secret", "secret", False)


def test_token_is_not_shown() -> None:
    assert "secret" not in repr(Token("secret"))
    with pytest.raises(CredentialsError, match="time zone"):
        Token("secret", datetime(2026, 1, 1))  # noqa: DTZ001
