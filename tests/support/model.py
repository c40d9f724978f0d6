"""An independent model of the books: plain sums over distinct events.

It shares no code with the service that it judges.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ledger.v1 import ledger_pb2


@dataclass(slots=True)
class ModelBalance:
    """What a restaurant has in one currency, in minor units. Without a restaurant it is the
    platform's, which has none of it.
    """

    available_minor: int = 0
    pending_minor: int = 0
    disputed_minor: int = 0
    reserve_held_minor: int = 0
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
        # The processor's instant wins; of all others only charges wait.
        available_at = occurred_at
        if event.HasField("available_at"):
            available_at = event.available_at.ToDatetime(tzinfo=now.tzinfo)
        elif event.type == ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED:
            available_at += maturity
        is_pending = available_at > now
        match ledger_pb2.EventType.Name(event.type):
            case "EVENT_TYPE_CHARGE_SUCCEEDED":
                _add(balance, event.amount_minor - event.fee_minor, is_pending=is_pending)
            case "EVENT_TYPE_CHARGE_REVERSED":
                _add(balance, event.fee_minor - event.amount_minor, is_pending=is_pending)
            case "EVENT_TYPE_REFUND_SUCCEEDED" | "EVENT_TYPE_TAX_WITHHELD":
                _add(balance, -event.amount_minor, is_pending=is_pending)
            case (
                "EVENT_TYPE_ADJUSTMENT_CREDITED"
                | "EVENT_TYPE_REFUND_FAILED"
                | "EVENT_TYPE_FEE_REFUNDED"
                | "EVENT_TYPE_DISPUTE_FEE_REFUNDED"
                | "EVENT_TYPE_TAX_WITHHOLDING_REVERSED"
                | "EVENT_TYPE_TOP_UP_RECEIVED"
                | "EVENT_TYPE_DEBT_WRITTEN_OFF"
            ):
                balance.available_minor += event.amount_minor
            case "EVENT_TYPE_FEE_ASSESSED" | "EVENT_TYPE_ADJUSTMENT_DEBITED":
                balance.available_minor -= event.amount_minor
            case "EVENT_TYPE_RESERVE_HELD":
                balance.available_minor -= event.amount_minor
                balance.reserve_held_minor += event.amount_minor
            case "EVENT_TYPE_RESERVE_RELEASED":
                balance.available_minor += event.amount_minor
                balance.reserve_held_minor -= event.amount_minor
            case (
                "EVENT_TYPE_PROCESSOR_FEE_ASSESSED"
                | "EVENT_TYPE_PROCESSOR_FEE_REFUNDED"
                | "EVENT_TYPE_PROCESSOR_SETTLED"
                | "EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED"
            ):
                # Between the processor and the platform: no restaurant has more or less.
                pass
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


def _add(balance: ModelBalance, amount_minor: int, *, is_pending: bool) -> None:
    if is_pending:
        balance.pending_minor += amount_minor
    else:
        balance.available_minor += amount_minor
