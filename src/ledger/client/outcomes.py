"""What became of each item of a batch or a stream."""

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.client.errors import LedgerError, error_of_status, unexpected
from ledger.v1 import ledger_pb2, payment_pb2


@dataclass(frozen=True, slots=True)
class EventOutcome:
    """What became of one event. Without an `error` it is booked, now or before."""

    event: ledger_pb2.ProcessorEvent
    status: ledger_pb2.IngestStatus.ValueType
    transaction_id: str
    error: LedgerError | None

    @property
    def event_id(self) -> str:
        """The event's id."""
        return self.event.event_id

    @property
    def is_booked(self) -> bool:
        """Whether the event is in the books."""
        return self.error is None

    @property
    def is_duplicate(self) -> bool:
        """Whether it was in the books before."""
        return self.status == ledger_pb2.INGEST_STATUS_DUPLICATE

    @classmethod
    def of_all(
        cls,
        events: Sequence[ledger_pb2.ProcessorEvent],
        results: Sequence[ledger_pb2.IngestResult],
    ) -> "list[EventOutcome]":
        """The outcomes of events by their results. Raises ServerFailed if some are missing."""
        _check_count(len(events), len(results), "events")
        return [
            cls(event, result.status, result.transaction_id, _error_of(result))
            for event, result in zip(events, results, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class PaymentOutcome:
    """What became of one payment. With an `error` nothing of it is stored; else it is decided."""

    payment_id: str
    status: payment_pb2.PaymentStatus.ValueType
    decline_reason: payment_pb2.DeclineReason.ValueType
    transaction_id: str
    error: LedgerError | None

    @property
    def is_declined(self) -> bool:
        """Whether it was declined, now or before."""
        return self.decline_reason != payment_pb2.DECLINE_REASON_UNSPECIFIED

    @classmethod
    def of_all(
        cls,
        payments: Sequence[payment_pb2.Transfer | payment_pb2.PaymentOrder],
        results: Sequence[payment_pb2.PaymentResult],
    ) -> "list[PaymentOutcome]":
        """The outcomes of payments by their results. Raises ServerFailed if some are missing."""
        _check_count(len(payments), len(results), "payments")
        return [
            cls(
                payment.payment_id,
                result.status,
                result.decline_reason,
                result.transaction_id,
                _error_of(result),
            )
            for payment, result in zip(payments, results, strict=True)
        ]


def _error_of(result: ledger_pb2.IngestResult | payment_pb2.PaymentResult) -> LedgerError | None:
    return error_of_status(result.error) if result.HasField("error") else None


def _check_count(items: int, results: int, name: str) -> None:
    if items != results:
        raise unexpected(f"the server returned {results} results for {items} {name}")
