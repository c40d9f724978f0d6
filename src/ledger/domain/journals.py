"""The journal and the trial balance: what accountants read of the books in a period."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import Enum
from uuid import UUID

from ledger.domain.events import OCCURRED_AT_MIN
from ledger.domain.payouts import day_bounds
from ledger.errors import FieldViolation, InvalidRequest

# A transaction that began before the end of a period may commit after it, but not much later: those
# of servers end within half of this time.
FINAL_AFTER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose books: those of a restaurant, an account or the platform; all books without any."""

    restaurant_id: str | None = None
    account_id: str | None = None
    platform: bool = False
    currency: str | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """The party that books belong to. Neither id: the platform."""

    restaurant_id: str | None = None
    account_id: str | None = None


class Finality(Enum):
    """Whether entries may still be added to a period."""

    OPEN = "open"
    JUST_ENDED = "just ended"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Period:
    """Dates of the settlement time zone: the first one in the period, and the first one after it.

    An entry belongs to the date on which it was recorded. `first_day` None: from the first entry.
    """

    first_day: date | None
    end_day: date
    zone: tzinfo

    @property
    def start_at(self) -> datetime:
        """The instant at which the period begins."""
        return day_bounds(self.first_day or OCCURRED_AT_MIN.date(), self.zone)[0]

    @property
    def end_at(self) -> datetime:
        """The instant at which the period has ended."""
        return day_bounds(self.end_day, self.zone)[0]

    def finality(self, now_at: datetime) -> Finality:
        """Whether a reading of `now_at` has all that the period will have."""
        if now_at < self.end_at:
            return Finality.OPEN
        return Finality.JUST_ENDED if now_at < self.end_at + FINAL_AFTER else Finality.FINAL


def period_of(
    first_day: date | None, end_day: date | None, zone: tzinfo, now_at: datetime
) -> Period:
    """The period from `first_day` to before `end_day`; without it, to the end of today.

    Raises InvalidRequest for a period that ends before it begins or begins in the future, and for
    dates before 2000.
    """
    today = now_at.astimezone(zone).date()
    end = today + timedelta(days=1) if end_day is None else end_day
    least = OCCURRED_AT_MIN.date()
    for name, day in (("since", first_day), ("before", end_day)):
        if day is not None and day < least:
            raise InvalidRequest([FieldViolation(name, f"must not be before {least}")])
    if first_day is not None and first_day > today:
        raise InvalidRequest(
            [FieldViolation("since", f"must not be in the future; today is {today}")]
        )
    if first_day is not None and first_day >= end:
        raise InvalidRequest([FieldViolation("since", "must be earlier than --before")])
    if end == date.max:
        raise InvalidRequest([FieldViolation("before", "is too far in the future")])
    return Period(first_day, end, zone)


class Days:
    """The dates of instants in a zone. Fast for instants in their order."""

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._day = date.min
        self._begins_at = self._ends_at = datetime.min.replace(tzinfo=UTC)

    def of(self, instant: datetime) -> date:
        """The date of the instant."""
        if not self._begins_at <= instant < self._ends_at:
            self._day = instant.astimezone(self._zone).date()
            self._begins_at, self._ends_at = day_bounds(self._day, self._zone)
        return self._day


@dataclass(frozen=True, slots=True)
class TrialBalanceLine:
    """A ledger account in one currency: of one holder, or of the whole scope (`holder` None).

    In minor units. The balances are above zero on the debit side, below zero on the credit side.
    `first_at` is when its first entry was recorded.
    """

    holder: Holder | None
    currency: str
    ledger_account: str
    opening_minor: int
    debits_minor: int
    credits_minor: int
    first_at: datetime

    @property
    def closing_minor(self) -> int:
        """The balance at the end of the period."""
        return self.opening_minor + self.debits_minor - self.credits_minor


@dataclass(frozen=True, slots=True)
class HolderLines:
    """The lines of one holder. `name` is empty if it has none."""

    holder: Holder
    name: str
    lines: list[TrialBalanceLine]


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A ledger entry with what the journal shows of it. `day` is that of `recorded_at`.

    `reference` is that of its event or of its payment.
    """

    day: date
    recorded_at: datetime
    transaction_id: UUID
    position: int
    holder: Holder
    currency: str
    entry_type: str
    debit_account: str
    credit_account: str
    amount_minor: int
    event_id: str | None
    payout_id: UUID | None
    payment_id: str | None
    reference: str
    occurred_at: datetime | None
    available_at: datetime | None
