"""What batches have in common."""

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from support.violations import violations_of

from ledger.api.convert.batches import EVENTS, ITEMS_BY_METHOD, PAYMENTS, TRANSFERS, BatchItems
from ledger.api.methods import METHODS
from ledger.v1 import ledger_pb2, payment_pb2

REQUESTS: dict[str, Any] = {
    "BatchIngestEvents": ledger_pb2.BatchIngestEventsRequest,
    "StreamEvents": ledger_pb2.StreamEventsRequest,
    "BatchAuthorizePayments": payment_pb2.BatchAuthorizePaymentsRequest,
    "BatchTransfers": payment_pb2.BatchTransfersRequest,
}


def test_exactly_the_methods_with_large_requests_have_items() -> None:
    """The request of each has them, and each of them has metadata.

    A payload of the quarantine is one item, whose body is large.
    """
    large = {method.name for method in METHODS.values() if method.is_large}
    assert set(ITEMS_BY_METHOD) == large - {"QuarantinePayload"}
    for method, items in ITEMS_BY_METHOD.items():
        field: FieldDescriptor = REQUESTS[method].DESCRIPTOR.fields_by_name[items.field]
        assert field.is_repeated
        assert field.message_type == items.type
        assert items.type.fields_by_number[items.metadata_number].name == "metadata"


@pytest.mark.parametrize("items", [EVENTS, PAYMENTS, TRANSFERS], ids=lambda items: items.field)
def test_batch_has_1_to_1000_items(items: BatchItems) -> None:
    """Any other number is a violation of their field."""
    for number in (1, 1000):
        items.check_number(number)
    for number in (0, 1001):
        assert violations_of(items.check_number, number) == [
            (items.field, f"must be 1 to 1000 {items.field}")
        ]
