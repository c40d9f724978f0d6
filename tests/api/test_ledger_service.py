"""The service over gRPC, as a caller sees it."""

import pytest
from support.events import event_message, unique
from support.running import RunningLedger

from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers


async def test_event_is_created_once_and_then_a_duplicate(shared_ledger: RunningLedger) -> None:
    """The duplicate has the transaction id of the first call, and posts no entries."""
    request = ledger_pb2.IngestEventRequest(
        event=event_message(restaurant_id=unique("res"), fee_minor=500)
    )
    first = await shared_ledger.stub.IngestEvent(request)
    second = await shared_ledger.stub.IngestEvent(request)
    assert first.status == ledger_pb2.INGEST_STATUS_CREATED
    assert second.status == ledger_pb2.INGEST_STATUS_DUPLICATE
    assert first.transaction_id == second.transaction_id
    balance = await shared_ledger.balance(request.event.restaurant_id)
    assert balance.available_minor == 9_500
