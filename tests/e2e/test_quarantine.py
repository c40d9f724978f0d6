"""Deliveries that cannot be booked: kept once, tried again, and settled by one decision."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from support.events import event_message, unique
from support.locks import locked_tables, until_blocked
from support.quarantine import (
    DISCARDED,
    PARKED,
    QUARANTINED,
    RELEASED,
    RETRY_REQUESTED,
    delivery,
    discard,
    from_now,
    listed,
    payload_of,
    quarantined,
    resolve,
    retry,
)
from support.running import RunningLedger, query, running_ledger
from support.statuses import reason_of, refusal, response_or_error
from support.tokens import token_line

from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2

CREATED = ledger_pb2.QUARANTINE_STATUS_CREATED
DUPLICATE = ledger_pb2.QUARANTINE_STATUS_DUPLICATE
AT_ONCE = 64


def states(payload: ledger_pb2.QuarantinedPayload) -> list[int]:
    """The states of the payload's moves, in the order of their numbers."""
    assert [move.number for move in payload.moves] == list(range(1, len(payload.moves) + 1))
    assert payload.moves[-1].state == payload.state
    assert payload.moves[-1].recorded_at == payload.moved_at
    return [move.state for move in payload.moves]


@pytest.mark.both_servers
async def test_delivery_is_kept_as_it_came(shared_ledger: RunningLedger) -> None:
    """Also with a body of any bytes, none at all, or the largest one."""
    bodies = {
        b"\x00\xff\r\n{",
        unique("body").encode(),
        b"",
        bytes(range(256)) * 1024,
    }
    for body in bodies:
        request = delivery(endpoint=unique("shop"), body=body, headers={"x": "\u20ac\x07"})
        stored = (await shared_ledger.stub.QuarantinePayload(request)).payload
        shown = await payload_of(shared_ledger, stored.quarantine_id)
        assert shown.body == body
        assert (stored.body, stored.body_size_bytes) == (b"", len(body))
        for field in ("endpoint", "processor", "kind", "headers", "query", "reason", "detail"):
            assert getattr(shown, field) == getattr(request, field), field
        assert shown.received_at.ToMicroseconds() == request.received_at.ToMicroseconds()
        assert (shown.state, states(shown)) == (QUARANTINED, [QUARANTINED])
        assert not shown.HasField("retry_at")


@pytest.mark.both_servers
async def test_delivery_is_kept_once(shared_ledger: RunningLedger) -> None:
    """The same endpoint, body and query is the same delivery, whatever else is said of it."""
    request = delivery()
    first = await shared_ledger.stub.QuarantinePayload(request)
    repeated = ledger_pb2.QuarantinePayloadRequest()
    repeated.CopyFrom(request)
    repeated.reason, repeated.kind = "OTHER", "other"
    repeated.retry_at.CopyFrom(from_now(hours=1))
    again = await shared_ledger.stub.QuarantinePayload(repeated)
    assert (first.status, again.status) == (CREATED, DUPLICATE)
    assert again.payload == first.payload
    for field, value in (("endpoint", "other"), ("body", request.body + b" "), ("query", "a=2")):
        other = ledger_pb2.QuarantinePayloadRequest()
        other.CopyFrom(request)
        setattr(other, field, value)
        assert (await shared_ledger.stub.QuarantinePayload(other)).status == CREATED, field


async def test_same_delivery_at_once_is_kept_once(ledger: RunningLedger) -> None:
    request = delivery()
    responses = await asyncio.gather(
        *(ledger.stub.QuarantinePayload(request) for _ in range(AT_ONCE))
    )
    assert sorted(response.status for response in responses) == [CREATED] + [DUPLICATE] * 63
    assert len({response.payload.quarantine_id for response in responses}) == 1
    assert await ledger.query("SELECT count(*) FROM quarantined_payloads") == [(1,)]
    assert await ledger.query("SELECT count(*) FROM quarantine_moves") == [(1,)]


@pytest.mark.both_servers
async def test_retry_leads_to_release(shared_ledger: RunningLedger) -> None:
    """The release names events that are stored; a repeated delivery finds the released payload."""
    event_ids = [unique("evt"), unique("evt")]
    await shared_ledger.ingest(*(event_message(event_id=event_id) for event_id in event_ids))
    request = delivery()
    stored = (await shared_ledger.stub.QuarantinePayload(request)).payload
    requested = await retry(shared_ledger, quarantine_ids=[stored.quarantine_id])
    assert list(requested.quarantine_ids) == [stored.quarantine_id]
    again = await retry(shared_ledger, quarantine_ids=[stored.quarantine_id])
    assert (list(again.quarantine_ids), again.unchanged_count) == ([], 1)
    standing = await payload_of(shared_ledger, stored.quarantine_id)
    assert (standing.state, standing.reason) == (RETRY_REQUESTED, stored.reason)
    released = await resolve(shared_ledger, standing, RELEASED, event_ids=event_ids)
    assert (released.state, released.move_number) == (RELEASED, 3)
    # The response was lost: the call is repeated.
    assert await resolve(shared_ledger, standing, RELEASED, event_ids=event_ids) == released
    shown = await payload_of(shared_ledger, stored.quarantine_id)
    assert states(shown) == [QUARANTINED, RETRY_REQUESTED, RELEASED]
    assert list(shown.moves[-1].event_ids) == event_ids
    repeated = await shared_ledger.stub.QuarantinePayload(request)
    assert (repeated.status, repeated.payload) == (DUPLICATE, released)
    code, reason, metadata = await refusal(discard(shared_ledger, stored.quarantine_id))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINED_MOVED")
    assert metadata == {
        "quarantine_id": stored.quarantine_id,
        "state": "RELEASED",
        "move_number": "3",
    }


@pytest.mark.both_servers
async def test_release_of_unknown_events_is_refused(shared_ledger: RunningLedger) -> None:
    known, missing = unique("evt"), unique("evt")
    await shared_ledger.ingest(event_message(event_id=known))
    parked = await quarantined(shared_ledger, retry_at=from_now(hours=1))
    code, reason, metadata = await refusal(
        resolve(shared_ledger, parked, RELEASED, event_ids=[known, missing])
    )
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    assert metadata == {"event_id": missing}
    assert states(await payload_of(shared_ledger, parked.quarantine_id)) == [PARKED]


@pytest.mark.both_servers
async def test_parked_payload_is_tried_until_it_is_quarantined(
    shared_ledger: RunningLedger,
) -> None:
    """Each try names the move before, so a try that is late changes nothing."""
    parked = await quarantined(shared_ledger, retry_at=from_now(seconds=1))
    assert (parked.state, parked.move_number) == (PARKED, 1)
    again = await resolve(
        shared_ledger, parked, PARKED, reason="FETCH_FAILED", retry_at=from_now(hours=1)
    )
    assert (again.state, again.move_number, again.reason) == (PARKED, 2, "FETCH_FAILED")
    code, reason, metadata = await refusal(resolve(shared_ledger, parked, RELEASED))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINED_MOVED")
    assert (metadata["state"], metadata["move_number"]) == ("PARKED", "2")
    await resolve(shared_ledger, again, QUARANTINED, reason="GIVEN_UP", detail="after 3 days")
    shown = await payload_of(shared_ledger, parked.quarantine_id)
    assert states(shown) == [PARKED, PARKED, QUARANTINED]
    assert (shown.reason, shown.detail) == ("GIVEN_UP", "after 3 days")
    # Nothing was requested, so nothing may be resolved.
    code, reason, _ = await refusal(resolve(shared_ledger, shown, RELEASED))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINED_MOVED")


@pytest.mark.both_servers
@pytest.mark.parametrize("park", [True, False])
async def test_discarded_payload_stays_discarded(shared_ledger: RunningLedger, park: bool) -> None:
    fields = {"retry_at": from_now(hours=1)} if park else {}
    request = delivery(**fields)
    stored = (await shared_ledger.stub.QuarantinePayload(request)).payload
    discarded = await discard(shared_ledger, stored.quarantine_id, "sent by a test shop")
    assert discarded.state == DISCARDED
    assert await discard(shared_ledger, stored.quarantine_id, "once more") == discarded
    assert (await shared_ledger.stub.QuarantinePayload(request)).payload == discarded
    shown = await payload_of(shared_ledger, stored.quarantine_id)
    assert (shown.moves[-1].detail, shown.reason) == ("sent by a test shop", stored.reason)
    requested = await retry(shared_ledger, quarantine_ids=[stored.quarantine_id])
    assert (list(requested.quarantine_ids), requested.unchanged_count) == ([], 1)
    code, reason, _ = await refusal(resolve(shared_ledger, discarded, RELEASED))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINED_MOVED")


async def test_of_moves_at_once_one_wins(shared_ledger: RunningLedger) -> None:
    """Two gateways and a person decide about a payload: it makes one move, and both others see it.

    All wait for the same lock, so none has seen another's move when it began.
    """
    parked = await quarantined(shared_ledger, retry_at=from_now(seconds=1))
    async with locked_tables(shared_ledger, "quarantined_payloads") as unlock:
        decisions = [
            asyncio.ensure_future(response_or_error(call))
            for call in (
                resolve(shared_ledger, parked, RELEASED),
                resolve(shared_ledger, parked, QUARANTINED, reason="GIVEN_UP"),
                resolve(shared_ledger, parked, PARKED, reason="R", retry_at=from_now(hours=1)),
                discard(shared_ledger, parked.quarantine_id),
            )
        ]
        await until_blocked(shared_ledger, len(decisions))
        await unlock()
        outcomes = await asyncio.gather(*decisions)
    shown = await payload_of(shared_ledger, parked.quarantine_id)
    won = [outcome for outcome in outcomes if not isinstance(outcome, aio.AioRpcError)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, aio.AioRpcError)]
    assert {reason_of(error) for error in lost} == {"QUARANTINED_MOVED"}
    # A person may discard what a gateway has quarantined or parked a moment ago.
    assert len(won) == len(shown.moves) - 1
    assert len(won) == 1 or shown.state == DISCARDED
    assert len(won) <= 2


@pytest.mark.both_servers
async def test_same_try_at_once_is_recorded_once(shared_ledger: RunningLedger) -> None:
    """Two gateways that found the same are both told so."""
    parked = await quarantined(shared_ledger, retry_at=from_now(seconds=1))
    found = await asyncio.gather(*(resolve(shared_ledger, parked, RELEASED) for _ in range(8)))
    assert {payload.move_number for payload in found} == {2}
    assert states(await payload_of(shared_ledger, parked.quarantine_id)) == [PARKED, RELEASED]


@pytest.mark.both_servers
async def test_list_filters_and_orders(ledger: RunningLedger) -> None:
    first = await quarantined(ledger, endpoint="a", reason="X")
    parked = await quarantined(ledger, endpoint="a", processor="adyen", retry_at=from_now(hours=1))
    due = await quarantined(ledger, endpoint="b", retry_at=from_now(hours=-1))
    asked = await quarantined(ledger, endpoint="b", reason="X")
    await retry(ledger, quarantine_ids=[asked.quarantine_id])
    gone = await quarantined(ledger, endpoint="a")
    await discard(ledger, gone.quarantine_id)
    every = [first, parked, due, asked, gone]

    async def ids(**fields: Any) -> list[str]:
        return [payload.quarantine_id for payload in await listed(ledger, **fields)]

    def ids_of(*payloads: ledger_pb2.QuarantinedPayload) -> list[str]:
        return [payload.quarantine_id for payload in payloads]

    for page_size in (0, 1, 2):
        assert await ids(page_size=page_size) == ids_of(*reversed(every))
        assert await ids(page_size=page_size, oldest_first=True) == ids_of(*every)
        # As they fell due: `due` an hour ago, `asked` a moment ago.
        assert await ids(page_size=page_size, due_at=from_now(minutes=1)) == ids_of(due, asked)
        assert await ids(page_size=page_size, endpoint="a") == ids_of(gone, parked, first)
    assert await ids(processor="adyen") == ids_of(parked)
    assert await ids(reason="X") == ids_of(asked, first)
    assert await ids(states=[DISCARDED, QUARANTINED]) == ids_of(gone, first)
    assert await ids(states=[PARKED], endpoint="b") == ids_of(due)
    assert await ids(due_at=from_now(hours=2), endpoint="a") == ids_of(parked)
    assert await ids(end_at=due.created_at) == ids_of(parked, first)
    shown = await listed(ledger, with_bodies=True)
    assert [len(payload.body) for payload in shown] == [
        payload.body_size_bytes for payload in shown
    ]
    assert all(not payload.body for payload in await listed(ledger))


@pytest.mark.both_servers
async def test_pages_with_bodies_stay_small(ledger: RunningLedger) -> None:
    """Whatever page size is asked for, and however large the bodies are."""
    for number in range(12):
        await quarantined(ledger, body=bytes([number]) * 256 * 1024)
    page = await ledger.stub.ListQuarantined(
        ledger_pb2.ListQuarantinedRequest(with_bodies=True, page_size=1000)
    )
    assert (len(page.payloads), bool(page.next_page_token)) == (10, True)
    found = await listed(ledger, with_bodies=True, page_size=1000)
    assert [payload.body[0] for payload in found] == list(reversed(range(12)))


@pytest.mark.both_servers
async def test_retries_are_requested_by_filter(ledger: RunningLedger) -> None:
    """A dry run changes nothing; a filter takes what is QUARANTINED or PARKED."""
    first = await quarantined(ledger, endpoint="a", reason="X")
    parked = await quarantined(ledger, endpoint="a", reason="Y", retry_at=from_now(hours=1))
    other = await quarantined(ledger, endpoint="b", reason="X")
    gone = await quarantined(ledger, endpoint="a", reason="X")
    await discard(ledger, gone.quarantine_id)
    for fields, expected in (
        ({"endpoint": "a"}, [first, parked]),
        ({"reason": "X"}, [first, other]),
        ({"endpoint": "b", "reason": "X"}, [other]),
        ({"endpoint": "c"}, []),
        ({"all": True}, [first, parked, other]),
        ({"quarantine_ids": [other.quarantine_id, gone.quarantine_id]}, [other]),
    ):
        plan = await retry(ledger, dry_run=True, **fields)
        assert list(plan.quarantine_ids) == [payload.quarantine_id for payload in expected]
        assert plan.left_count == 0
    assert {payload.move_number for payload in await listed(ledger)} == {1, 2}
    requested = await retry(ledger, all=True)
    assert len(requested.quarantine_ids) == 3
    due = await listed(ledger, due_at=from_now(minutes=1))
    assert {payload.state for payload in due} == {RETRY_REQUESTED}
    assert len(due) == 3
    assert not (await retry(ledger, all=True)).quarantine_ids


@pytest.mark.both_servers
async def test_retry_of_an_unknown_payload_changes_nothing(shared_ledger: RunningLedger) -> None:
    known = await quarantined(shared_ledger)
    missing = "01976f6e-0000-7000-8000-000000000000"
    code, reason, metadata = await refusal(
        retry(shared_ledger, quarantine_ids=[known.quarantine_id, missing])
    )
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "QUARANTINED_NOT_FOUND")
    assert metadata == {"quarantine_id": missing}
    assert states(await payload_of(shared_ledger, known.quarantine_id)) == [QUARANTINED]
    for call in (
        payload_of(shared_ledger, missing),
        discard(shared_ledger, missing),
        resolve(
            shared_ledger,
            ledger_pb2.QuarantinedPayload(quarantine_id=missing, move_number=1),
            RELEASED,
        ),
    ):
        assert (await refusal(call))[1] == "QUARANTINED_NOT_FOUND"


async def test_retries_of_many_payloads_are_bounded(ledger: RunningLedger) -> None:
    """A call takes the 1,000 oldest, and says how many are left."""
    await ledger.query(
        "WITH p AS (INSERT INTO quarantined_payloads (quarantine_id, endpoint, processor, kind,"
        " body, headers, query, received_at, state, move_number, reason, detail)"
        " SELECT gen_random_uuid(), 'a', 'p', '', n::text::bytea, '{}', '', now(), 'QUARANTINED',"
        " 1, 'X', '' FROM generate_series(1, 1003) AS n RETURNING quarantine_id)"
        " INSERT INTO quarantine_moves (quarantine_id, number, state, reason, detail, event_ids,"
        " actor) SELECT quarantine_id, 1, 'QUARANTINED', 'X', '', '{}', '' FROM p"
    )
    for dry_run, expected in ((True, 1000), (False, 1000), (True, 3), (False, 3), (False, 0)):
        requested = await retry(ledger, endpoint="a", dry_run=dry_run)
        assert len(requested.quarantine_ids) == expected
        assert requested.left_count == (3 if expected == 1000 else 0)
    assert len(await listed(ledger, due_at=from_now(minutes=1))) == 1003


@pytest.mark.both_servers
async def test_summary_counts_what_is_open(ledger: RunningLedger) -> None:
    async def summary(endpoint: str = "") -> ledger_pb2.GetQuarantineSummaryResponse:
        return await ledger.stub.GetQuarantineSummary(
            ledger_pb2.GetQuarantineSummaryRequest(endpoint=endpoint)
        )

    empty = await summary()
    assert (empty.open_count, len(empty.counts)) == (0, 0)
    assert not empty.HasField("oldest_created_at")
    first = await quarantined(ledger, endpoint="b", reason="X")
    await quarantined(ledger, endpoint="b", reason="X")
    parked = await quarantined(ledger, endpoint="a", reason="X", retry_at=from_now(hours=1))
    gone = await quarantined(ledger, endpoint="a", reason="X")
    await discard(ledger, gone.quarantine_id)
    found = await summary()
    assert (found.open_count, found.oldest_created_at) == (3, first.created_at)
    assert [
        (count.endpoint, count.state, count.reason, count.count, count.oldest_created_at)
        for count in found.counts
    ] == [
        ("a", PARKED, "X", 1, parked.created_at),
        ("b", QUARANTINED, "X", 2, first.created_at),
    ]
    assert (await summary("a")).open_count == 1
    assert (await summary("c")).open_count == 0


async def test_moves_name_who_made_them(database: Database, tmp_path: Path) -> None:
    """The scope is `quarantine`, also for reads; the call log has the reads, and no body."""
    tokens = tmp_path / "tokens"
    tokens.write_text(
        token_line("gateway", "ingest,quarantine,read", "gateway_token")
        + token_line("ana", "quarantine,read", "ana_token")
        + token_line("console", "ingest,read,payout,pay,admin", "console_token")
    )

    def by(caller: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {caller}_token"),)

    async with running_ledger(database, auth_tokens_file=tokens) as ledger:
        stub = ledger.stub
        stored = await stub.QuarantinePayload(delivery(), metadata=by("gateway"))
        about = {"quarantine_id": stored.payload.quarantine_id}
        get = ledger_pb2.GetQuarantinedRequest(**about)
        await stub.DiscardQuarantined(
            ledger_pb2.DiscardQuarantinedRequest(reason="a test", **about), metadata=by("ana")
        )
        shown = (await stub.GetQuarantined(get, metadata=by("ana"))).payload
        assert [move.actor for move in shown.moves] == ["gateway", "ana"]
        for call in (
            stub.GetQuarantined(get, metadata=by("console")),
            stub.ListQuarantined(ledger_pb2.ListQuarantinedRequest(), metadata=by("console")),
            stub.QuarantinePayload(delivery(), metadata=by("console")),
        ):
            code, reason, metadata = await refusal(call)
            assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
            assert metadata == {"scope": "quarantine"}
        summary = ledger_pb2.GetQuarantineSummaryRequest()
        assert (await stub.GetQuarantineSummary(summary, metadata=by("console"))).open_count == 0
    rows = await query(
        database.migration_url,
        "SELECT identity, substring(method FROM '[^/]+$'), outcome FROM audit_log"
        " WHERE outcome = 'OK' ORDER BY audit_id",
    )
    assert sorted(rows) == [
        ("ana", "DiscardQuarantined", "OK"),
        ("ana", "GetQuarantined", "OK"),
        ("gateway", "QuarantinePayload", "OK"),
    ]
