"""The figures that use cases and background work report, for metrics."""

from collections.abc import Mapping
from typing import Literal, Protocol

from ledger.domain.payout_states import PayoutState
from ledger.domain.quarantine import QuarantineState

GroupKind = Literal["ingest", "balance", "past_balance", "payment"]
PaymentCommand = Literal["authorize", "capture", "void", "refund", "reverse"]


class LedgerMetrics(Protocol):
    """Receives figures. The methods run in every call: they are fast and never raise."""

    def group(self, kind: GroupKind, size: int, seconds: float) -> None:
        """`size` calls shared a group, which took so many seconds."""

    def queue(self, events: int, size_bytes: int) -> None:
        """Events and bytes of memory that wait to be booked or are being booked."""

    def snapshots_made(self, count: int) -> None:
        """Balance snapshots were stored."""

    def payouts_made(self, count: int) -> None:
        """Payouts were created."""

    def payouts_unanswered(
        self, found: Mapping[tuple[str, PayoutState], tuple[int, float]]
    ) -> None:
        """By currency and state, how many payouts the bank has not answered, and the age in seconds
        of the oldest one.
        """

    def quarantined(self, found: Mapping[QuarantineState, tuple[int, float]]) -> None:
        """By state, how many payloads are open in the quarantine, and the age in seconds of the
        oldest one.
        """

    def facts_repeated(self, count: int) -> None:
        """So many booked events report a fact that another recent event has reported."""

    def payment_decided(self, command: PaymentCommand, outcome: str) -> None:
        """A command about a payment was decided: accepted, duplicate, or why it was declined."""

    def payments_expired(self, count: int) -> None:
        """So many payments expired, and the background worker released what they held."""

    def payout_accounts_waiting(self, count: int) -> None:
        """The payout runs wait for so many balance accounts, which are locked or cannot be paid."""

    def seal_lag(self, rows: int, seconds: float) -> None:
        """About how many rows are not sealed, and the age of the oldest in seconds."""

    def clocks(self, skew_seconds: float, behind_seconds: float) -> None:
        """How far the host's clock is ahead of the database's, and that is behind the books."""

    def database_clock_jumped(self, seconds: float) -> None:
        """The database's clock was set ahead by so many seconds, or back if negative."""


class NoWorkMetrics:
    """Discards everything."""

    def group(self, kind: GroupKind, size: int, seconds: float) -> None:
        pass

    def queue(self, events: int, size_bytes: int) -> None:
        pass

    def snapshots_made(self, count: int) -> None:
        pass

    def payouts_made(self, count: int) -> None:
        pass

    def payouts_unanswered(
        self, found: Mapping[tuple[str, PayoutState], tuple[int, float]]
    ) -> None:
        pass

    def quarantined(self, found: Mapping[QuarantineState, tuple[int, float]]) -> None:
        pass

    def facts_repeated(self, count: int) -> None:
        pass

    def payment_decided(self, command: PaymentCommand, outcome: str) -> None:
        pass

    def payments_expired(self, count: int) -> None:
        pass

    def payout_accounts_waiting(self, count: int) -> None:
        pass

    def seal_lag(self, rows: int, seconds: float) -> None:
        pass

    def clocks(self, skew_seconds: float, behind_seconds: float) -> None:
        pass

    def database_clock_jumped(self, seconds: float) -> None:
        pass
