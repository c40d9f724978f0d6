"""The refusals and failures of the ledger.

Each class means one thing that a caller can act on, and carries what the caller may know about it.
`ledger.api.errors` turns them into gRPC statuses, in one table; nothing else does.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of a request that breaks the contract: its path, and a sentence for people."""

    field: str
    description: str


class LedgerError(Exception):
    """A refusal or failure whose meaning the ledger knows."""


class InvalidRequest(LedgerError):
    """One or more fields are missing, malformed or out of range."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__(
            "; ".join(f"{violation.field} {violation.description}" for violation in violations)
        )
        self.violations = tuple(violations)


class EventTypeUnknown(LedgerError):
    """This server does not know the type of the event; a server of a later version may."""

    def __init__(self, field: str, number: int) -> None:
        super().__init__(
            f"this server does not know the event type {number}; "
            "send the event again after an upgrade"
        )
        self.field = field
        self.number = number


class MalformedMessage(LedgerError):
    """The bytes of a request are not a message of the type that its method takes."""


class EventIdReused(LedgerError):
    """An event with this id and other contents is stored.

    Names the fields that differ, never what is stored in them.
    """

    def __init__(self, event_id: str, differing_fields: Sequence[str]) -> None:
        super().__init__(
            f"event {event_id} is stored with other contents; "
            f"differing: {', '.join(differing_fields)}"
        )
        self.event_id = event_id
        self.differing_fields = tuple(differing_fields)


class EventRejected(LedgerError):
    """A rule of the database refused an event that had passed validation."""

    def __init__(self, event_id: str) -> None:
        super().__init__(f"event {event_id} was refused by the database's rules")
        self.event_id = event_id


class EventFailed(LedgerError):
    """The database refuses this event for an unknown reason, which the log has under `error_id`."""

    def __init__(self, event_id: str, error_id: str) -> None:
        super().__init__(f"event {event_id} failed unexpectedly; error id {error_id}")
        self.event_id = event_id
        self.error_id = error_id


class EventNotFound(LedgerError):
    """No event with this id is stored."""

    def __init__(self, event_id: str) -> None:
        super().__init__(f"event {event_id} is not stored")
        self.event_id = event_id


class RestaurantNotFound(LedgerError):
    """No restaurant with this id is registered, nor with one of `others`."""

    # How many of several restaurants are named.
    NAMED_MAX = 10

    def __init__(self, restaurant_id: str, *others: str) -> None:
        named = (restaurant_id, *others)[: self.NAMED_MAX]
        more = 1 + len(others) - len(named)
        super().__init__(
            f"restaurants {', '.join(named)}{f' and {more} more' if more else ''}"
            " are not registered"
            if others
            else f"restaurant {restaurant_id} is not registered"
        )
        self.restaurant_id = restaurant_id
        self.restaurant_ids = named


class RestaurantChanged(LedgerError):
    """The restaurant has changed since the caller read it."""

    def __init__(self, restaurant_id: str) -> None:
        super().__init__(f"restaurant {restaurant_id} was changed since the etag was read")
        self.restaurant_id = restaurant_id


class PayoutNotFound(LedgerError):
    """No payout with this id exists."""

    def __init__(self, payout_id: str) -> None:
        super().__init__(f"payout {payout_id} does not exist")
        self.payout_id = payout_id


class PayoutRunNotFound(LedgerError):
    """No payout run with this id exists."""

    def __init__(self, payout_run_id: str) -> None:
        super().__init__(f"payout run {payout_run_id} does not exist")
        self.payout_run_id = payout_run_id


class PayoutRunEnded(LedgerError):
    """The payout run has succeeded, so there is nothing left to cancel."""

    def __init__(self, payout_run_id: str) -> None:
        super().__init__(f"payout run {payout_run_id} has succeeded and cannot be canceled")
        self.payout_run_id = payout_run_id


class PayoutEntriesUnknown(LedgerError):
    """The payout was created before the ledger kept which entries payouts count."""

    def __init__(self, payout_id: str) -> None:
        super().__init__(
            f"what payout {payout_id} counted is not known: it was created before that was kept;"
            " its items are, and the statement shows the entries by time"
        )
        self.payout_id = payout_id


class PayoutRunArchived(LedgerError):
    """The items of the payout run are in an archive, and no longer in the database.

    Names the archive's file.
    """

    def __init__(self, payout_run_id: str, file_name: str) -> None:
        super().__init__(
            f"the items of payout run {payout_run_id} are archived, in the file {file_name}"
        )
        self.payout_run_id = payout_run_id
        self.file_name = file_name


class PayoutRunUnderWay(LedgerError):
    """The payout run has not ended, so the list of its payouts is not complete."""

    def __init__(self, payout_run_id: str) -> None:
        super().__init__(f"payout run {payout_run_id} has not ended: it may create more payouts")
        self.payout_run_id = payout_run_id


class SubmissionNotFound(LedgerError):
    """No submission of payouts with this id exists."""

    def __init__(self, submission_id: str) -> None:
        super().__init__(f"submission {submission_id} does not exist")
        self.submission_id = submission_id


class QuarantinedNotFound(LedgerError):
    """No payload with this id is in the quarantine."""

    def __init__(self, quarantine_id: str) -> None:
        super().__init__(f"payload {quarantine_id} is not in the quarantine")
        self.quarantine_id = quarantine_id


class QuarantinedMoved(LedgerError):
    """The payload stands where the requested move is not possible; nothing was changed."""

    def __init__(self, quarantine_id: str, state: str, move_number: int) -> None:
        super().__init__(
            f"payload {quarantine_id} is {state} by its move {move_number}; read it again"
        )
        self.quarantine_id = quarantine_id
        self.state = state
        self.move_number = move_number


class SubmissionIdReused(LedgerError):
    """A submission with this id and other contents is stored.

    Names the fields that differ, never what is stored in them.
    """

    def __init__(self, submission_id: str, differing_fields: Sequence[str]) -> None:
        super().__init__(
            f"submission {submission_id} is stored with other contents; "
            f"differing: {', '.join(differing_fields)}"
        )
        self.submission_id = submission_id
        self.differing_fields = tuple(differing_fields)


class PayoutsNotSubmittable(LedgerError):
    """Some of the named payouts are not CREATED. Names the first of them."""

    NAMED_MAX = 20

    def __init__(self, payout_ids: Sequence[str]) -> None:
        named = payout_ids[: self.NAMED_MAX]
        more = f" and {len(payout_ids) - len(named)} more" if len(payout_ids) > len(named) else ""
        super().__init__(f"not in state CREATED: payouts {', '.join(named)}{more}")
        self.payout_ids = tuple(named)
        self.count = len(payout_ids)


class TooManyPayoutRuns(LedgerError):
    """The maximum number of payout runs is under way; none was started."""


class PayoutMoveNotAllowed(LedgerError):
    """The event cannot move the payout from its state. Names the events that brought it there."""

    def __init__(
        self, payout_id: str, state: str, event_id: str, booked_event_ids: Sequence[str]
    ) -> None:
        by = f" by {' and '.join(booked_event_ids)}" if booked_event_ids else ""
        super().__init__(
            f"payout {payout_id} is {state}{by} and cannot make the move of {event_id}"
        )
        self.payout_id = payout_id
        self.state = state
        self.event_id = event_id
        self.booked_event_ids = tuple(booked_event_ids)


class PayoutAnswersContradict(LedgerError):
    """By their `occurred_at`, the bank paid a payout after it had refused or returned it.

    Names the two events.
    """

    def __init__(self, payout_id: str, state: str, event_id: str, booked_event_id: str) -> None:
        super().__init__(
            f"events {event_id} and {booked_event_id} contradict each other: "
            f"by their occurred_at payout {payout_id} was paid after it had failed"
        )
        self.payout_id = payout_id
        self.state = state
        self.event_id = event_id
        self.booked_event_id = booked_event_id


class PayoutMismatch(LedgerError):
    """The event's restaurant, currency or amount is not the payout's.

    Names the fields, never what is stored in them.
    """

    def __init__(self, payout_id: str, differing_fields: Sequence[str]) -> None:
        super().__init__(
            f"the event is not about payout {payout_id}; differing: {', '.join(differing_fields)}"
        )
        self.payout_id = payout_id
        self.differing_fields = tuple(differing_fields)


class AccountNotFound(LedgerError):
    """No account with this id exists."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"account {account_id} does not exist")
        self.account_id = account_id


class AccountIdReused(LedgerError):
    """An account with this id was opened with other contents.

    Names the fields that differ, never what is stored in them.
    """

    def __init__(self, account_id: str, differing_fields: Sequence[str]) -> None:
        super().__init__(
            f"account {account_id} was opened with other contents; "
            f"differing: {', '.join(differing_fields)}"
        )
        self.account_id = account_id
        self.differing_fields = tuple(differing_fields)


class AccountChanged(LedgerError):
    """The account has changed since the caller read it."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"account {account_id} was changed since the etag was read")
        self.account_id = account_id


class AccountNotEmpty(LedgerError):
    """The account has money available or held, or owes some, so it cannot be closed."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"account {account_id} is not at zero, or holds are open on it")
        self.account_id = account_id


class AccountClosed(LedgerError):
    """The account is closed, so it cannot be changed."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"account {account_id} is closed and cannot be changed")
        self.account_id = account_id


class PaymentNotFound(LedgerError):
    """No payment with this id exists."""

    def __init__(self, payment_id: str) -> None:
        super().__init__(f"payment {payment_id} does not exist")
        self.payment_id = payment_id


class PaymentIdReused(LedgerError):
    """A payment with this id and other contents is stored.

    Names the fields that differ, never what is stored in them.
    """

    def __init__(self, payment_id: str, differing_fields: Sequence[str]) -> None:
        super().__init__(
            f"payment {payment_id} is stored with other contents; "
            f"differing: {', '.join(differing_fields)}"
        )
        self.payment_id = payment_id
        self.differing_fields = tuple(differing_fields)


class OperationIdReused(LedgerError):
    """An operation with this id and other contents is stored.

    Names the fields that differ, never what is stored in them.
    """

    def __init__(self, operation_id: str, differing_fields: Sequence[str]) -> None:
        super().__init__(
            f"operation {operation_id} is stored with other contents; "
            f"differing: {', '.join(differing_fields)}"
        )
        self.operation_id = operation_id
        self.differing_fields = tuple(differing_fields)


class LinkedPaymentRefused(LedgerError):
    """Another payment of the chain was refused, or decided before without this one.

    This call stored nothing of the chain.
    """

    def __init__(self, payment_id: str) -> None:
        super().__init__(
            f"payment {payment_id} is linked to one that was refused or decided before"
        )
        self.payment_id = payment_id


class PaymentRejected(LedgerError):
    """A rule of the database refused a payment or an operation that had passed validation."""

    def __init__(self, payment_id: str) -> None:
        super().__init__(f"payment {payment_id} was refused by the database's rules")
        self.payment_id = payment_id


class AmountOutOfRange(LedgerError):
    """A sum does not fit the int64 of its field in the response."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} does not fit 64 bits")
        self.field = field


class DatabaseUnavailable(LedgerError):
    """The database cannot be reached, or refuses work for now.

    Whether the SQL statement took effect is not known.
    """


class DatabaseContention(LedgerError):
    """The database gave up an SQL statement because of another session; it took no effect.

    A deadlock, a serialization failure or a lock timeout.
    """


class DatabaseTimeout(LedgerError):
    """The database gave up an SQL statement because it took too long; it took no effect."""


class DataRejected(LedgerError):
    """The database refused data of an SQL statement; none of it took effect."""


class QueryRefused(LedgerError):
    """The database refused an SQL statement for an unknown reason; it took no effect.

    One row of several may be the reason, so use cases try smaller parts.
    """


class QueueFull(LedgerError):
    """As much work waits as the server can hold; nothing was stored."""


class RequestTooLarge(LedgerError):
    """The request has more bytes than its method accepts; nothing was stored."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"a request of this method has at most {bytes_max} bytes")


class RequestTooSlow(LedgerError):
    """The request did not arrive in time; nothing was stored."""


class DeadlineTooShort(LedgerError):
    """The work ahead of the call takes longer than its deadline allows; nothing was stored."""


class NotAuthenticated(LedgerError):
    """The call has no credentials, or none that are accepted.

    The reason `why` and its `particulars` are for the log, never for the caller.
    """

    def __init__(self, why: str = "", **particulars: str) -> None:
        super().__init__(why)
        self.why = why
        self.particulars = particulars


class ScopeMissing(LedgerError):
    """The caller is known and lacks the scope that the method or the event needs. Names it."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"the call needs the scope {scope}, which the caller does not have")
        self.scope = scope


class RateLimited(LedgerError):
    """The caller calls more often than it may; nothing was stored.

    Says in how many seconds it may call again.
    """

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"the caller may call again in {retry_after_seconds:.3f} s")
        self.retry_after_seconds = retry_after_seconds


class ShuttingDown(LedgerError):
    """The server is stopping and takes no new work."""
