"""The events of the row `size`: they are of all kinds, and the audit accepts them."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from support.audit import audit_of
from support.running import RunningLedger

from ledger.api.convert.events import decode_batch
from ledger.domain.events import EventType, ProcessorEvent
from ledger.domain.posting_rules import rules_of
from ledger.v1 import ledger_pb2
from scripts.bench.mixed_events import BATCH_EVENTS, MIX, MixedEvents, entries_of


def made(number: int) -> list[ledger_pb2.BatchIngestEventsRequest]:
    batches = list(MixedEvents(number).batches())
    requests = [ledger_pb2.BatchIngestEventsRequest.FromString(request) for request, _ in batches]
    assert [len(request.events) for request in requests] == [events for _, events in batches]
    return requests


def decoded(number: int) -> list[ProcessorEvent]:
    found = []
    for request in made(number):
        for event in decode_batch(request, datetime.now(UTC)):
            assert isinstance(event, ProcessorEvent), event
            found.append(event)
    return found


@pytest.mark.parametrize("number", [1, 99, 100, 1_000, 2_345])
def test_as_many_events_as_asked_for_and_their_entries(number: int) -> None:
    events = decoded(number)
    posted = sum(len(rules_of(event.type, has_fee=event.fee_minor > 0)) for event in events)
    assert (len(events), posted) == (number, entries_of(number))
    assert len({event.event_id for event in events}) == number


def test_batches_are_full_until_the_last() -> None:
    assert [len(request.events) for request in made(2_345)] == [BATCH_EVENTS, BATCH_EVENTS, 345]


def test_mix_is_as_described() -> None:
    counts = Counter(event.type for event in decoded(100))
    described = (
        f"{counts[EventType.CHARGE_SUCCEEDED]} charges with a fee,"
        f" {counts[EventType.REFUND_SUCCEEDED]} refunds,"
        f" {counts[EventType.DISPUTE_OPENED]} disputes opened with a fee,"
        f" {counts[EventType.DISPUTE_WON]} won, {counts[EventType.DISPUTE_LOST]} lost,"
        f" {counts[EventType.ADJUSTMENT_CREDITED]} adjustment"
    )
    assert described == MIX


def test_refunds_and_disputes_are_about_earlier_events() -> None:
    earlier: dict[str, ProcessorEvent] = {}
    for event in decoded(1_000):
        about = earlier.setdefault(event.reference, event)
        assert event.restaurant_id == about.restaurant_id
        if event.type is EventType.REFUND_SUCCEEDED:
            assert about.type is EventType.CHARGE_SUCCEEDED
            assert event.amount_minor < about.amount_minor
        if event.type in (EventType.DISPUTE_WON, EventType.DISPUTE_LOST):
            assert about.type is EventType.DISPUTE_OPENED
            assert event.amount_minor == about.amount_minor


def test_restaurants_have_unequal_shares() -> None:
    counts = Counter(event.restaurant_id for event in decoded(5_000))
    (most_id, most), *_ = counts.most_common()
    assert most_id == "res_lima_00000"
    assert most > 10 * 5_000 / 2_000


async def test_audit_finds_nothing(ledger: RunningLedger) -> None:
    for request in made(1_500):
        results = (await ledger.stub.BatchIngestEvents(request)).results
        assert {result.status for result in results} == {ledger_pb2.INGEST_STATUS_CREATED}
    findings = (await audit_of(ledger.database)).findings
    # So few events leave some restaurants in the red.
    assert {finding.check for finding in findings} <= {"payable_is_not_negative"}
