"""The rate limit of each caller."""

import time
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from support.events import event_message
from support.running import running_ledger
from support.tokens import token_line

from ledger.api.access.rate_limit import RateLimit
from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_burst_is_let_through_and_then_the_rate() -> None:
    """Ten calls at once, then one each half second; `take` returns the wait until the next."""
    clock = Clock()
    limit = RateLimit(2, 10, clock=clock)
    assert [limit.take("gateway") for _ in range(10)] == [0.0] * 10
    assert limit.take("gateway") == pytest.approx(0.5)
    assert limit.take("gateway") == pytest.approx(0.5), "a refusal costs nothing"
    clock.now += 0.3
    assert limit.take("gateway") == pytest.approx(0.2)
    clock.now += 0.2
    assert [limit.take("gateway") for _ in range(2)] == [0.0, pytest.approx(0.5)]
    clock.now += 1000
    assert [limit.take("gateway") for _ in range(11)] == [*[0.0] * 10, pytest.approx(0.5)], (
        "no more than a burst is saved up"
    )


def test_callers_have_a_bucket_each() -> None:
    """A caller that has used up its calls delays no other."""
    limit = RateLimit(1, 1, clock=Clock())
    assert [limit.take("a"), limit.take("b")] == [0.0, 0.0]
    assert limit.take("a") > 0
    assert limit.take("b") > 0


@pytest.mark.parametrize("calls_per_second", [0.1, 1, 3, 7, 1000, 1_000_000])
def test_whole_burst_is_let_through_at_any_rate(calls_per_second: float) -> None:
    """Rounding neither takes a call away nor adds one."""
    limit = RateLimit(calls_per_second, 50, clock=Clock())
    assert [limit.take("gateway") == 0 for _ in range(52)] == [*[True] * 50, False, False]


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full buckets are dropped first. A caller that must wait keeps its bucket if there is room."""
    monkeypatch.setattr("ledger.api.access.rate_limit.BUCKETS_MAX", 3)
    clock = Clock()
    limit = RateLimit(1, 1, clock=clock)
    limit.take("a")
    clock.now += 0.9
    limit.take("b")
    clock.now += 0.2
    limit.take("c")
    limit.take("d")
    assert limit.take("b") > 0, "a was full, and made room"
    limit.take("e")
    assert len(limit._full_at) == 3


async def test_refusal_says_when_to_call_again(shared_database: Database, tmp_path: Path) -> None:
    """The limit is for one identity over all its connections; other callers are not refused."""
    (tmp_path / "tokens").write_text(
        token_line("slow", "ingest,read", "one") + token_line("other", "read", "two")
    )
    request = ledger_pb2.ListRestaurantsRequest()
    async with running_ledger(
        shared_database,
        auth_tokens_file=tmp_path / "tokens",
        rate_limit_calls_per_second=0.001,
        rate_limit_burst_calls=2,
    ) as ledger:
        for _ in range(2):
            await ledger.stub.ListRestaurants(request, metadata=[("authorization", "Bearer one")])
        with pytest.raises(aio.AioRpcError) as caught:
            await ledger.stub.ListRestaurants(request, metadata=[("authorization", "Bearer one")])
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        # The function declares a narrower type than it takes.
        status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
        assert status is not None
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(retry)
        assert info.reason == "RATE_LIMITED"
        assert 900 < retry.retry_delay.ToTimedelta().total_seconds() <= 1000
        await ledger.stub.ListRestaurants(request, metadata=[("authorization", "Bearer two")])


async def test_stream_is_held_back_to_its_rate(shared_database: Database, tmp_path: Path) -> None:
    """Each request of a stream counts, and none is lost."""
    (tmp_path / "tokens").write_text(token_line("fast", "ingest", "one"))
    async with running_ledger(
        shared_database,
        auth_tokens_file=tmp_path / "tokens",
        rate_limit_calls_per_second=50,
        rate_limit_burst_calls=1,
    ) as ledger:
        started = time.monotonic()
        requests = [ledger_pb2.StreamEventsRequest(event=event_message()) for _ in range(6)]
        responses = [
            response
            async for response in ledger.stub.StreamEvents(
                iter(requests), metadata=[("authorization", "Bearer one")]
            )
        ]
        assert [response.result.status for response in responses] == [
            ledger_pb2.INGEST_STATUS_CREATED
        ] * 6
        # The opening call took the only token there was.
        assert time.monotonic() - started >= 6 / 50
