"""Who may do what: the one table of what each method needs."""

from collections.abc import Mapping
from contextvars import ContextVar
from enum import StrEnum
from functools import cache

from ledger.v1 import ledger_pb2

SERVICE_NAME = ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"].full_name


class Scope(StrEnum):
    """What a caller may be allowed to do. None includes another, but `ingest` the three of its kind."""

    INGEST = "ingest"
    INGEST_PROCESSOR = "ingest:processor"
    INGEST_BANK = "ingest:bank"
    INGEST_ADJUSTMENT = "ingest:adjustment"
    READ = "read"
    PAYOUT = "payout"
    ADMIN = "admin"


# Which events a caller may send is judged for each event, by the table below.
SCOPE_BY_METHOD: Mapping[str, Scope] = {
    "IngestEvent": Scope.INGEST,
    "BatchIngestEvents": Scope.INGEST,
    "StreamEvents": Scope.INGEST,
    "GetEvent": Scope.READ,
    "GetBalance": Scope.READ,
    "ListEntries": Scope.READ,
    "RunPayouts": Scope.PAYOUT,
    "GetPayoutRun": Scope.READ,
    "ListPayoutRuns": Scope.READ,
    "CancelPayoutRun": Scope.PAYOUT,
    "ListPayoutRunItems": Scope.READ,
    "GetPayout": Scope.READ,
    "ListPayouts": Scope.READ,
    "PutRestaurant": Scope.ADMIN,
    "UpdateRestaurant": Scope.ADMIN,
    "GetRestaurant": Scope.READ,
    "ListRestaurants": Scope.READ,
}


# Who may send which event. What the bank answers moves no money and names the payout's own amount; an
# adjustment moves any amount, by somebody's decision.
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
}

# The event types that the caller of the call under way may not send, each with the scope that it
# needs. Set by the gate, for the methods that book events; without a gate anybody may send all.
REFUSED_EVENT_TYPES: ContextVar[Mapping[int, Scope]] = ContextVar("refused_event_types", default={})  # noqa: B039  # nobody changes it


def scopes_for(method: str) -> frozenset[Scope]:
    """The scopes any of which opens the method. Each part of `ingest` opens what `ingest` does."""
    needed = SCOPE_BY_METHOD[method]
    return frozenset(
        scope for scope in Scope if scope is needed or scope.partition(":")[0] == needed
    )


@cache
def refused_event_types(scopes: frozenset[Scope]) -> Mapping[int, Scope]:
    """The event types that a caller with these scopes may not send, each with the scope that it needs."""
    if Scope.INGEST in scopes:
        return {}
    return {
        event_type: scope
        for event_type, scope in SCOPE_BY_EVENT_TYPE.items()
        if scope not in scopes
    }


def parse_scopes(text: str) -> frozenset[Scope]:
    """The scopes of a list with commas. Raises ValueError for any other word, and for none at all."""
    try:
        return frozenset(Scope(word) for word in text.split(","))
    except ValueError:
        raise ValueError(
            f"scopes must be some of {','.join(Scope)}, with commas between them"
        ) from None
