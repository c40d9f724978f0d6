"""What batches of events and of payments have in common: how much a request may have."""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor

from ledger.errors import FieldViolation, InvalidRequest
from ledger.limits import BATCH_EVENTS_MAX, BATCH_METADATA_ENTRIES_MAX, BATCH_PAYMENTS_MAX
from ledger.v1 import ledger_pb2, payment_pb2


@dataclass(frozen=True, slots=True)
class BatchItems:
    """The items of a batch: their field in the request, and their type."""

    field: str
    type: Descriptor
    items_max: int

    @property
    def metadata_number(self) -> int:
        """The number of an item's field `metadata`."""
        number: int = self.type.fields_by_name["metadata"].number
        return number

    def check_number(self, items: int) -> None:
        """Raises InvalidRequest for too few or too many items."""
        if not 1 <= items <= self.items_max:
            raise self.wrong_number()

    def wrong_number(self) -> InvalidRequest:
        """The error of a request with too few or too many items."""
        return self._violated(f"must be 1 to {self.items_max} {self.field}")

    def too_much_metadata(self) -> InvalidRequest:
        """The error of a request whose items have too many entries of metadata."""
        return self._violated(
            f"must have at most {BATCH_METADATA_ENTRIES_MAX} entries of metadata together"
        )

    def _violated(self, description: str) -> InvalidRequest:
        return InvalidRequest([FieldViolation(self.field, description)])


EVENTS = BatchItems("events", ledger_pb2.ProcessorEvent.DESCRIPTOR, BATCH_EVENTS_MAX)
PAYMENTS = BatchItems("payments", payment_pb2.PaymentOrder.DESCRIPTOR, BATCH_PAYMENTS_MAX)
TRANSFERS = BatchItems("transfers", payment_pb2.Transfer.DESCRIPTOR, BATCH_PAYMENTS_MAX)

# Of the methods whose requests may be large; other requests are too small for too many items.
ITEMS_BY_METHOD: Mapping[str, BatchItems] = {
    "BatchIngestEvents": EVENTS,
    "StreamEvents": EVENTS,
    "BatchAuthorizePayments": PAYMENTS,
    "BatchTransfers": TRANSFERS,
}
