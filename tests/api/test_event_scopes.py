"""The scope that each kind of event needs: in single calls, in batches and in streams."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status
from support.events import event_message, unique
from support.running import RunningLedger, running_ledger
from support.tokens import AUDIENCE, ISSUER, Issuer, token_line

from ledger.api.access.authorization import SCOPE_BY_EVENT_TYPE
from ledger.api.methods import Scope
from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2

PARTS = (Scope.INGEST_PROCESSOR, Scope.INGEST_BANK, Scope.INGEST_ADJUSTMENT)
PAYOUT_ID = "0190a1b2-0000-7000-8000-000000000000"
BOOKED = "BOOKED"
# The bank's word on the platform's own money: no payout, and no restaurant.
OF_PLATFORM = (
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED,
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED,
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Path:
    path = tmp_path_factory.mktemp("scopes") / "tokens"
    lines = [token_line(scope, scope, f"token of {scope}") for scope in (Scope.INGEST, *PARTS)]
    path.write_text(
        "".join(lines) + token_line("two", "ingest:processor,ingest:bank", "token of two")
    )
    issuer.write(path.with_name("jwks.json"))
    return path


@pytest.fixture(scope="module")
async def guarded(shared_database: Database, tokens: Path) -> AsyncIterator[RunningLedger]:
    async with running_ledger(
        shared_database,
        auth_tokens_file=tokens,
        jwt_jwks_file=tokens.with_name("jwks.json"),
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
    ) as ledger:
        yield ledger


def by(token: str) -> Any:
    return [("authorization", f"Bearer {token}")]


def event_of(number: int) -> ledger_pb2.ProcessorEvent:
    """An event of a type; an event about a payout names one that does not exist."""
    fields: dict[str, Any] = {"type": number, "restaurant_id": unique("res")}
    if number in OF_PLATFORM:
        fields["restaurant_id"] = ""
    elif SCOPE_BY_EVENT_TYPE[number] is Scope.INGEST_BANK:
        fields["payout_id"] = PAYOUT_ID
    if number == ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED:
        fields["bank_reference"] = "TRACE-1"
    return event_message(**fields)


def refusal_of(status: status_pb2.Status) -> str:
    """The reason, and the scope if one is missing."""
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return (
        f"{info.reason} {info.metadata['scope']}" if info.reason == "SCOPE_MISSING" else info.reason
    )


async def outcome_of(ledger: RunningLedger, token: str, event: ledger_pb2.ProcessorEvent) -> str:
    try:
        await ledger.stub.IngestEvent(
            ledger_pb2.IngestEventRequest(event=event), metadata=by(token)
        )
    except aio.AioRpcError as error:
        call: Any = error
        status = rpc_status.from_call(call)
        assert status is not None
        if error.code() == grpc.StatusCode.PERMISSION_DENIED:
            assert status.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
        return refusal_of(status)
    return BOOKED


def expected(scopes: set[Scope], number: int) -> str:
    needed = SCOPE_BY_EVENT_TYPE[number]
    if scopes.isdisjoint({Scope.INGEST, needed}):
        return f"SCOPE_MISSING {needed}"
    names_a_payout = needed is Scope.INGEST_BANK and number not in OF_PLATFORM
    return "PAYOUT_NOT_FOUND" if names_a_payout else BOOKED


def test_every_event_type_needs_one_of_the_three_scopes() -> None:
    """A new type fails here until the table of scopes has it."""
    assert set(SCOPE_BY_EVENT_TYPE) == set(ledger_pb2.EventType.values()) - {0}
    assert set(SCOPE_BY_EVENT_TYPE.values()) == set(PARTS)


@pytest.mark.parametrize(
    ("token", "scopes"),
    [
        *((f"token of {scope}", {scope}) for scope in (Scope.INGEST, *PARTS)),
        ("token of two", set(PARTS[:2])),
    ],
)
async def test_each_event_needs_its_scope(
    guarded: RunningLedger, token: str, scopes: set[Scope]
) -> None:
    """In single calls, batches and streams: only the events without their scope are refused."""
    numbers = sorted(SCOPE_BY_EVENT_TYPE)
    wanted = [expected(scopes, number) for number in numbers]
    assert [await outcome_of(guarded, token, event_of(number)) for number in numbers] == wanted

    def outcomes(results: Any) -> list[str]:
        return [
            refusal_of(result.error) if result.HasField("error") else BOOKED for result in results
        ]

    batch = ledger_pb2.BatchIngestEventsRequest(events=[event_of(number) for number in numbers])
    response = await guarded.stub.BatchIngestEvents(batch, metadata=by(token))
    assert outcomes(response.results) == wanted
    events = [event_of(number) for number in numbers]
    requests = [
        ledger_pb2.StreamEventsRequest(events=events),
        *(ledger_pb2.StreamEventsRequest(event=event) for event in events),
    ]
    responses = [
        response async for response in guarded.stub.StreamEvents(iter(requests), metadata=by(token))
    ]
    # The second time the events are duplicates, or refused as before.
    assert (
        outcomes(responses[0].results)
        == outcomes([response.result for response in responses[1:]])
        == wanted
    )


async def test_refused_event_leaves_nothing(guarded: RunningLedger) -> None:
    """Neither it nor its restaurant is stored; the refusal comes before fields are checked."""
    event = event_message(
        type=ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED, restaurant_id=unique("res")
    )
    token = f"token of {Scope.INGEST_BANK}"
    assert await outcome_of(guarded, token, event) == "SCOPE_MISSING ingest:adjustment"
    assert (
        await guarded.query(
            "SELECT FROM restaurants WHERE restaurant_id = :id", id=event.restaurant_id
        )
        == []
    )
    event.amount_minor = -1
    assert await outcome_of(guarded, token, event) == "SCOPE_MISSING ingest:adjustment"


async def test_scopes_of_a_jwt_count_as_well(guarded: RunningLedger, issuer: Issuer) -> None:
    """They are read anew in each call."""
    adjustment = ledger_pb2.EVENT_TYPE_ADJUSTMENT_DEBITED
    for _ in range(2):
        assert (
            await outcome_of(guarded, issuer.sign(scope="ingest:bank"), event_of(adjustment))
            == "SCOPE_MISSING ingest:adjustment"
        )
        assert (
            await outcome_of(
                guarded, issuer.sign(scope="openid ingest:adjustment"), event_of(adjustment)
            )
            == BOOKED
        )
        assert (
            await outcome_of(guarded, issuer.sign(scope="ingest"), event_of(adjustment)) == BOOKED
        )


async def test_open_stream_follows_the_scopes_of_its_caller(
    database: Database, tmp_path: Path
) -> None:
    """A removed scope refuses events from the next one on; the stream continues."""
    tokens = tmp_path / "tokens"
    tokens.write_text(token_line("clerk", "ingest:adjustment,ingest:processor", "one"))
    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        stream = ledger.stub.StreamEvents(metadata=by("one"))

        async def sent(number: int) -> str:
            await stream.write(ledger_pb2.StreamEventsRequest(event=event_of(number)))
            response: Any = await stream.read()
            return (
                refusal_of(response.result.error) if response.result.HasField("error") else BOOKED
            )

        assert await sent(ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED) == BOOKED
        tokens.write_text(token_line("clerk", "ingest:processor", "one"))
        ledger.security.reloader.reload()
        assert (
            await sent(ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED)
            == "SCOPE_MISSING ingest:adjustment"
        )
        assert await sent(ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED) == BOOKED
        await stream.done_writing()


async def test_unknown_event_type_is_refused_as_unknown(guarded: RunningLedger) -> None:
    """It is not refused for a missing scope, whatever the caller's scopes.

    The other events of the batch are booked.
    """
    good, unknown = event_message(), event_message(type=77)
    for token in ("token of ingest", f"token of {Scope.INGEST_PROCESSOR}"):
        assert await outcome_of(guarded, token, unknown) == "EVENT_TYPE_UNKNOWN"
        request = ledger_pb2.BatchIngestEventsRequest(events=[unknown, good])
        results = (await guarded.stub.BatchIngestEvents(request, metadata=by(token))).results
        info = error_details_pb2.ErrorInfo()
        assert results[0].error.details[0].Unpack(info)
        assert (info.reason, dict(info.metadata)) == (
            "EVENT_TYPE_UNKNOWN",
            {"field": "events[0].type", "event_type": "77"},
        )
        assert not results[1].HasField("error")
