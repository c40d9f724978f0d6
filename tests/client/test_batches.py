"""Any number of events or payments is cut into requests that the server accepts."""

from typing import Any

import pytest
from google.protobuf.message import Message
from support.events import event_message

from ledger.client.batches import (
    PAUSE_SECONDS,
    PAUSE_SECONDS_MAX,
    RETRY_AFTER_SECONDS_MAX,
    TimeLeft,
    batches_of,
    pause_seconds,
)
from ledger.limits import BATCH_METADATA_ENTRIES_MAX, MESSAGE_BYTES_MAX
from ledger.v1 import ledger_pb2, payment_pb2


def transfers(links: str) -> list[payment_pb2.Transfer]:
    """A transfer for each letter; one in upper case is linked to the next."""
    return [payment_pb2.Transfer(payment_id=name, linked=name.isupper()) for name in links]


def names(batches: Any) -> list[str]:
    return ["".join(transfer.payment_id for transfer in batch) for batch in batches]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ("", []),
        ("abc", ["abc"]),
        ("abcdefg", ["abcd", "efg"]),
        ("abcDe", ["abc", "De"]),
        ("aBCdEfgh", ["aBCd", "Efgh"]),
        ("abCDe", ["ab", "CDe"]),
        ("ABCd", ["ABCd"]),
        # A chain that is longer than a request: the server refuses it.
        ("ABCDEf", ["ABCD", "Ef"]),
        # Its end joins nothing.
        ("abC", ["abC"]),
    ],
)
def test_chains_stay_together(links: str, expected: list[str]) -> None:
    """As far as a request of four holds them."""
    assert names(batches_of(transfers(links), 4)) == expected


def test_requests_fit_a_message() -> None:
    """However large the events are."""
    events = [event_message(metadata={"note": "x" * 8000}) for _ in range(1000)]
    batches = list(batches_of(events, 1000))
    assert [event for batch in batches for event in batch] == events
    requests = [ledger_pb2.BatchIngestEventsRequest(events=batch) for batch in batches]
    assert len(requests) == 2
    assert max(request.ByteSize() for request in requests) <= MESSAGE_BYTES_MAX


def test_requests_have_bounded_metadata() -> None:
    metadata = {str(number): "" for number in range(100)}
    batches = list(batches_of([event_message(metadata=metadata) for _ in range(1000)], 1000))
    entries = [sum(len(event.metadata) for event in batch) for batch in batches]
    assert (max(entries), sum(entries)) == (BATCH_METADATA_ENTRIES_MAX, 100_000)


def test_source_is_read_as_far_as_needed() -> None:
    """One message ahead of the batches that were taken."""
    pulled = 0

    def source() -> Any:
        nonlocal pulled
        for transfer in transfers("a" * 100):
            pulled += 1
            yield transfer

    batches = batches_of(source(), 10)
    message: list[Message] = list(next(batches))
    assert (len(message), pulled) == (10, 11)


def test_pauses_grow_and_are_bounded() -> None:
    for attempt in range(1, 20):
        longest = min(PAUSE_SECONDS * 2 ** (attempt - 1), PAUSE_SECONDS_MAX)
        assert longest / 2 <= pause_seconds(attempt, None) <= longest
    assert pause_seconds(1, 7.0) == 7.0
    assert pause_seconds(1, 7000.0) == RETRY_AFTER_SECONDS_MAX


@pytest.mark.parametrize("count_max", [0, -1])
def test_batch_of_nothing_is_refused(count_max: int) -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        list(batches_of(transfers("ab"), count_max))


def test_repeats_end_with_the_timeout_of_the_caller() -> None:
    left = TimeLeft(60)
    assert left.seconds is not None
    assert 0 < left.seconds <= 60
    assert left.allows(1)
    assert not left.allows(61)
    assert TimeLeft(0).seconds == 0
    assert not TimeLeft(0).allows(0)
    assert TimeLeft(None).seconds is None
    assert TimeLeft(None).allows(3600)
