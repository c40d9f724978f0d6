"""Which events a caller may send. `api/methods.py` has the scope of each method."""

from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache

from ledger.api.methods import Scope
from ledger.v1 import ledger_pb2

# Separate scopes limit what a stolen credential can do: an answer of the bank must have the amount
# of its payout, while an adjustment moves any amount, because a person decided so.
SCOPE_BY_EVENT_TYPE: Mapping[int, Scope] = {
    ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_FEE_ASSESSED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED: Scope.INGEST_ADJUSTMENT,
    ledger_pb2.EVENT_TYPE_ADJUSTMENT_DEBITED: Scope.INGEST_ADJUSTMENT,
    ledger_pb2.EVENT_TYPE_DISPUTE_OPENED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_DISPUTE_WON: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_DISPUTE_LOST: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_PAYOUT_PAID: Scope.INGEST_BANK,
    ledger_pb2.EVENT_TYPE_PAYOUT_FAILED: Scope.INGEST_BANK,
    ledger_pb2.EVENT_TYPE_REFUND_FAILED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_CHARGE_REVERSED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_FEE_REFUNDED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_DISPUTE_FEE_REFUNDED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_ASSESSED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_REFUNDED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_TAX_WITHHELD: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_TAX_WITHHOLDING_REVERSED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_RESERVE_HELD: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_RESERVE_RELEASED: Scope.INGEST_PROCESSOR,
    ledger_pb2.EVENT_TYPE_TOP_UP_RECEIVED: Scope.INGEST_ADJUSTMENT,
    ledger_pb2.EVENT_TYPE_DEBT_WRITTEN_OFF: Scope.INGEST_ADJUSTMENT,
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED: Scope.INGEST_BANK,
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED: Scope.INGEST_BANK,
    ledger_pb2.EVENT_TYPE_PAYOUT_SUBMITTED: Scope.INGEST_BANK,
    ledger_pb2.EVENT_TYPE_PAYOUT_CANCELED: Scope.INGEST_BANK,
    ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED: Scope.INGEST_BANK,
}

for _name, _number in ledger_pb2.EventType.items():
    if _number and _number not in SCOPE_BY_EVENT_TYPE:
        # Without a scope every caller could send it.
        raise TypeError(f"{_name} has no scope: add it to SCOPE_BY_EVENT_TYPE in {__file__}")

# The event types that the current call's caller may not send, each with the scope that it needs.
# The gate sets it for methods that book events. Without a gate every caller may send every type.
REFUSED_EVENT_TYPES: ContextVar[Mapping[int, Scope]] = ContextVar(
    "refused_event_types",
    default={},  # noqa: B039  # never changed
)


@cache
def refused_event_types(scopes: frozenset[Scope]) -> Mapping[int, Scope]:
    """The event types that a caller with `scopes` may not send, each with the scope it needs."""
    if Scope.INGEST in scopes:
        return {}
    return {
        event_type: scope
        for event_type, scope in SCOPE_BY_EVENT_TYPE.items()
        if scope not in scopes
    }


def parse_scopes(text: str) -> frozenset[Scope]:
    """Reads scopes separated by commas. Raises ValueError for another word or an empty text."""
    try:
        return frozenset(Scope(word) for word in text.split(","))
    except ValueError:
        raise ValueError(
            f"scopes must be some of {','.join(Scope)}, with commas between them"
        ) from None
