"""The states of a payout, and which event moves a payout from one to another."""

from enum import StrEnum

from ledger.domain.events import EventType


class PayoutState(StrEnum):
    """Where a payout stands. The value is the name in the database."""

    CREATED = "CREATED"
    PAID = "PAID"
    FAILED = "FAILED"
    RETURNED = "RETURNED"
    SUBMITTED = "SUBMITTED"
    CANCELED = "CANCELED"


# The states of payouts that the bank has not answered.
UNANSWERED_STATES = (PayoutState.CREATED, PayoutState.SUBMITTED)

# The state that an event of a type moves a payout to, by the payout's state. No other move exists.
# The bank's two answers may come in either order. A payout of callers that do not submit stays
# CREATED until the bank's answer.
MOVES: dict[tuple[PayoutState, EventType], PayoutState] = {
    (PayoutState.CREATED, EventType.PAYOUT_PAID): PayoutState.PAID,
    (PayoutState.CREATED, EventType.PAYOUT_FAILED): PayoutState.FAILED,
    (PayoutState.CREATED, EventType.PAYOUT_SUBMITTED): PayoutState.SUBMITTED,
    (PayoutState.CREATED, EventType.PAYOUT_CANCELED): PayoutState.CANCELED,
    (PayoutState.SUBMITTED, EventType.PAYOUT_PAID): PayoutState.PAID,
    (PayoutState.SUBMITTED, EventType.PAYOUT_FAILED): PayoutState.FAILED,
    (PayoutState.PAID, EventType.PAYOUT_FAILED): PayoutState.RETURNED,
    (PayoutState.FAILED, EventType.PAYOUT_PAID): PayoutState.RETURNED,
}
