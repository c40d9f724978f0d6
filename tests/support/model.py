"""An independent model of the books: plain sums over distinct events.

It shares no code with the service that it judges.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ledger.v1 import ledger_pb2


@dataclass(slots=True)
class ModelBalance:
    """What a restaurant has in one currency, in minor units."""

    available_minor: int = 0
    pending_minor: int = 0
    disputed_minor: int = 0
    last_event_at: datetime | None = None


def model_balances(
    events: Iterable[ledger_pb2.ProcessorEvent], now: datetime, maturity: timedelta
) -> dict[tuple[str, str], ModelBalance]:
    """The balances by restaurant and currency after `events`; only the first of each id counts."""
    balances: dict[tuple[str, str], ModelBalance] = {}
    seen: set[str] = set()
    for event in events:
        if event.event_id in seen:
            continue
        seen.add(event.event_id)
        balance = balances.setdefault((event.restaurant_id, event.currency), ModelBalance())
        occurred_at = event.occurred_at.ToDatetime(tzinfo=now.tzinfo)
        if balance.last_event_at is None or occurred_at > balance.last_event_at:
            balance.last_event_at = occurred_at
        match ledger_pb2.EventType.Name(event.type):
            case "EVENT_TYPE_CHARGE_SUCCEEDED" if occurred_at + maturity > now:
                balance.pending_minor += event.amount_minor - event.fee_minor
            case "EVENT_TYPE_CHARGE_SUCCEEDED":
                balance.available_minor += event.amount_minor - event.fee_minor
            case "EVENT_TYPE_ADJUSTMENT_CREDITED":
                balance.available_minor += event.amount_minor
            case (
                "EVENT_TYPE_REFUND_SUCCEEDED"
                | "EVENT_TYPE_FEE_ASSESSED"
                | "EVENT_TYPE_ADJUSTMENT_DEBITED"
            ):
                balance.available_minor -= event.amount_minor
            case "EVENT_TYPE_DISPUTE_OPENED":
                balance.available_minor -= event.amount_minor + event.fee_minor
                balance.disputed_minor += event.amount_minor
            case "EVENT_TYPE_DISPUTE_WON":
                balance.available_minor += event.amount_minor
                balance.disputed_minor -= event.amount_minor
            case "EVENT_TYPE_DISPUTE_LOST":
                balance.disputed_minor -= event.amount_minor
            case other:
                raise ValueError(other)
    return balances
