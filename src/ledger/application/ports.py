"""What the use cases need of the outside, as protocols. `ledger.infrastructure.postgres` implements them."""

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import NamedTuple, Protocol, Self
from uuid import UUID

from ledger.domain.balances import Balance
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import ProcessorEvent
from ledger.domain.payouts import (
    Payout,
    PayoutAnswer,
    PayoutDetails,
    PayoutRun,
    PayoutRunItem,
    PayoutRunItemOutcome,
    PayoutRunKey,
    PayoutRunState,
    PayoutState,
)
from ledger.domain.posting_rules import Entry, EntryType
from ledger.domain.restaurants import Restaurant, RestaurantProfile
from ledger.domain.seals import PackedTransaction, Seal, SealedTransaction


@dataclass(frozen=True, slots=True)
class Posting:
    """An event ready to be booked, with its fingerprint and the entries it posts under `transaction_id`."""

    event: ProcessorEvent
    fingerprint: bytes
    transaction_id: UUID
    entries: Sequence[Entry]

    @property
    def account(self) -> tuple[str, str]:
        """The restaurant and the currency of its balance account."""
        return self.event.restaurant_id, self.event.currency


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A booked event. `batch_id` names the attempt that booked it: an attempt that is repeated knows its own events by it."""

    event: ProcessorEvent
    fingerprint: bytes
    transaction_id: UUID
    batch_id: UUID
    recorded_at: datetime


class StoredEntry(NamedTuple):
    """A ledger entry as it stands in the books. Amount in minor units, instants in microseconds since 1970; the absent is None.

    A tuple of numbers, since a statement has millions of them: a frozen dataclass takes four times as
    long to make, and a datetime as long to read from the database as all the rest.
    """

    transaction_id: UUID
    position: int
    entry_type: EntryType
    debit: LedgerAccount
    credit: LedgerAccount
    amount_minor: int
    restaurant_id: str
    currency: str
    available_at_microseconds: int | None
    occurred_at_microseconds: int | None
    recorded_at_microseconds: int
    event_id: str | None
    payout_id: UUID | None


@dataclass(frozen=True, slots=True)
class BalanceQuery:
    """Which balance: now if `as_of` is None, or at that instant."""

    restaurant_id: str
    currency: str
    as_of: datetime | None


@dataclass(frozen=True, slots=True)
class PayoutQuery:
    """Which payouts to list; None is any."""

    restaurant_id: str | None
    state: PayoutState | None
    payout_run_id: UUID | None


@dataclass(frozen=True, slots=True)
class PayoutRunQuery:
    """Which payout runs to list; None is any."""

    currency: str | None
    state: PayoutRunState | None


@dataclass(frozen=True, slots=True)
class StatementQuery:
    """Which statement: the entries recorded in [start_at, end_at), None being the first entry and now; only some of them, by the
    filters that are given (no types: all, None: any).
    """

    restaurant_id: str
    currency: str
    start_at: datetime | None
    end_at: datetime | None
    entry_types: frozenset[EntryType]
    event_id: str | None
    payout_id: UUID | None


@dataclass(frozen=True, slots=True)
class StatementMoment:
    """The moment that all pages of a statement show, with the balances, in minor units, before its period and at its end.

    It saw the transactions with numbers below `transactions_end`, but for those in `transactions_open`, which were under way.
    """

    read_at: datetime
    transactions_end: int
    transactions_open: tuple[int, ...]
    opening_minor: int
    closing_minor: int


@dataclass(frozen=True, slots=True)
class StatementPlace:
    """An entry of a statement, after which its next page begins."""

    moment: StatementMoment
    recorded_at: datetime
    recorded_txid: int
    transaction_id: UUID
    position: int


@dataclass(frozen=True, slots=True)
class StatementPage:
    """Some entries of a statement, oldest first; `next_place` is None on the last page."""

    moment: StatementMoment
    entries: Sequence[StoredEntry]
    next_place: StatementPlace | None


class PageRejected(Exception):
    """The database refused a page of payouts; nothing of it was written. The accounts are in the order of their ids.

    With `is_data` a rule of the books refuses one of them; else nobody foresaw the reason.
    """

    def __init__(self, balance_account_ids: Sequence[int], *, is_data: bool) -> None:
        super().__init__(f"{len(balance_account_ids)} balance accounts")
        self.balance_account_ids = tuple(balance_account_ids)
        self.is_data = is_data


@dataclass(frozen=True, slots=True)
class PayoutPage:
    """A page of a run: the balance accounts claimed, those of them that somebody else has locked, with
    their restaurants, and the payouts created with the sum of their amounts.
    """

    balance_account_ids: Sequence[int]
    locked: Mapping[int, str]
    payouts_created: int
    amount_minor: int

    def __len__(self) -> int:
        """How many accounts were claimed."""
        return len(self.balance_account_ids)


class EventLedger(Protocol):
    """The append-only books. Every method is a transaction of its own; there is no way to change or remove anything.

    All methods raise DatabaseUnavailable, DatabaseContention, DatabaseTimeout and StatementRefused.
    """

    async def insert(self, postings: Sequence[Posting], batch_id: UUID, *, lock_wait_seconds: float | None = None) -> set[str]:
        """Stores those of `postings` whose event id is new and whose balance account exists, with their entries, durably.

        `postings` are sorted by event id, byte by byte, and no id occurs twice. Returns the ids stored by this very call.
        All of them or none: raises DataRejected, with nothing stored, when the database refuses one as data; StatementRefused
        when it refuses for another reason; DatabaseContention after waiting for a lock, if `lock_wait_seconds` is given for so
        long, which takes more round trips.
        """
        ...

    async def stored(self, event_ids: Collection[str], *, once_safe: bool = False) -> dict[str, StoredEvent]:
        """The stored ones among `event_ids`, by id. Sees every event whose `insert` ended before this call.

        `once_safe` is for whoever acknowledges them: returns once they are as durable as the database makes any commit.
        """
        ...

    async def entries(self, event: StoredEvent) -> list[StoredEntry]:
        """The entries that `event` posted, by position."""
        ...

    async def open_accounts(
        self, accounts: Collection[tuple[str, str]], *, register: bool, lock_wait_seconds: float | None = None
    ) -> set[str]:
        """Opens the (restaurant id, currency) balance accounts that do not exist yet.

        Unknown restaurants are registered first if `register`; else they are left alone and returned.
        Waits for locks as `insert` does.
        """
        ...


class PayoutRuns(Protocol):
    """Payout runs. Every method is a transaction of its own.

    `start`, `get` and `items` return once what they tell is as durable as the database makes any commit: somebody pays by it.
    All methods raise DatabaseUnavailable, DatabaseContention and DatabaseTimeout.
    """

    async def start(self, key: PayoutRunKey, payout_run_id: UUID) -> PayoutRun:
        """The run of `key`: created under the id that is given, with an open item for each balance account of the currency, or
        the one that is there. Its cut-off is the end of `as_of` in the settlement time zone, or now if that is today.

        Raises InvalidRequest, with nothing written, when `as_of` is in the future; TooManyPayoutRuns when
        as many runs are under way as may be, and this one is not among them.
        """
        ...

    async def plan(self, key: PayoutRunKey) -> PayoutRun:
        """What a run of `key` started now would do; writes nothing. Raises InvalidRequest as `start` does."""
        ...

    async def get(self, payout_run_id: UUID) -> PayoutRun | None:
        """A run with its progress, or None."""
        ...

    async def items(
        self, payout_run_id: UUID, outcome: PayoutRunItemOutcome | None, after: str, limit: int
    ) -> list[PayoutRunItem]:
        """At most `limit` items whose restaurant id is greater than `after`, in that order; of one outcome if one is given."""
        ...

    async def page(self, query: PayoutRunQuery, before: tuple[datetime, UUID] | None, limit: int) -> list[PayoutRun]:
        """At most `limit` runs without progress, latest first, created before the one at `before` if it is given."""
        ...

    async def cancel(self, payout_run_id: UUID) -> bool:
        """Ends a run that is under way; whether it was this call that did. Returns once the run creates no
        further payout.
        """
        ...

    async def unanswered(self) -> dict[str, tuple[int, float]]:
        """How many payouts the bank has not answered, and the age in seconds of the oldest, by currency."""
        ...

    async def running(self) -> list[UUID]:
        """The runs that are not finished, oldest first."""
        ...

    async def pay(self, payout_run_id: UUID, limit: int, after: int = 0) -> PayoutPage:
        """Claims at most `limit` open items that nobody else has claimed, of balance accounts with ids
        above `after`, and creates their payouts, or notes why not.

        What somebody else has locked is not waited for, and stays open. All of the rest or nothing:
        raises PageRejected, with the accounts claimed, when the database refuses what is to be written.
        A run that has ended, even while the page was under way, has an empty page.
        """
        ...

    async def give_up(self, payout_run_id: UUID, balance_account_id: int) -> None:
        """Marks an open item as skipped because its payout cannot be created."""
        ...

    async def finish(self, payout_run_id: UUID) -> bool:
        """Marks the run as finished if no item is open; whether it was this call that did."""
        ...


class Payouts(Protocol):
    """Payouts, for reading: what is returned is as durable as the database makes any commit, since somebody pays by it.

    All methods raise DatabaseUnavailable and DatabaseTimeout.
    """

    async def get(self, payout_id: UUID) -> PayoutDetails | None:
        """A payout with its items and its history, or None."""
        ...

    async def page(self, query: PayoutQuery, before: tuple[datetime, UUID] | None, limit: int) -> list[Payout]:
        """At most `limit` payouts, latest first, created before the one at `before` if it is given."""
        ...


class PayoutSettlement(Protocol):
    """What the bank did with payouts, inside a unit of work."""

    async def record(self, event: ProcessorEvent, fingerprint: bytes, transaction_id: UUID, batch_id: UUID) -> bool:
        """Stores a payout event unless its id is stored; whether it was. Waits for another one of the same id."""
        ...

    async def lock(self, payout_id: str) -> Payout | None:
        """The payout, which nobody else can move until the unit of work ends; None if there is none."""
        ...

    async def answers(self, event: ProcessorEvent) -> list[PayoutAnswer]:
        """The bank's other answers for the payout of `event`, which is locked."""
        ...

    async def move(
        self, payout: Payout, state: PayoutState, entry: Entry | None, event: ProcessorEvent, transaction_id: UUID
    ) -> None:
        """Moves the payout to `state` and posts `entry`, if there is one, in its balance account."""
        ...


class BalanceReader(Protocol):
    """Balances, any number of them read in one statement."""

    async def read(self, queries: Sequence[BalanceQuery]) -> list[Balance | None]:
        """The balances, in the order of the queries: None for an unknown restaurant, zeros for an unknown balance account.

        All are of one moment. When an `as_of` is not past, by the database's clock, the balance of now is returned; its `as_of`
        tells. All or none: raises DatabaseUnavailable, DatabaseTimeout, DataRejected, StatementRefused.
        """
        ...


class BalanceSnapshots(Protocol):
    """Sums of final entries, from which balances go on. No answer depends on whether one was made."""

    async def take(self, balance_account_id: int, entries_min: int) -> bool:
        """Makes a snapshot of an account if it would spare reads at least `entries_min` entries more than the one before; whether
        it did. A transaction of its own. Raises DatabaseUnavailable, DatabaseContention, DatabaseTimeout.
        """
        ...


class LongTails(Protocol):
    """Where whoever adds up entries tells how many it had to read beyond the snapshot of their account."""

    @property
    def entries_max(self) -> int:
        """More entries than these are worth telling."""
        ...

    def report(self, tails: Iterable[tuple[int | None, int]]) -> None:
        """Takes (balance account, entries read) as they come; no account is no tail. Never waits."""
        ...

    async def shortened(self, balance_account_id: int) -> None:
        """Returns when a snapshot of the account was taken, or could not be, or after some seconds. Raises nothing."""
        ...


class Statements(Protocol):
    """Statements, for reading. All methods raise DatabaseUnavailable and DatabaseTimeout."""

    async def first_page(self, query: StatementQuery, limit: int) -> StatementPage | None:
        """The first entries of a statement, at most `limit`; None for an unknown restaurant, nothing for an unknown account.

        A period that is not past, by the database's clock, is taken as it is; the page's moment tells.
        """
        ...

    async def page(self, query: StatementQuery, after: StatementPlace, limit: int) -> StatementPage:
        """The entries that follow, at most `limit`, as they were at the moment of the first page."""
        ...


class PageTokenKeys(Protocol):
    """The secrets by which servers know the page tokens that they made."""

    async def newest_first(self) -> list[bytes]:
        """The keys; the first one makes tokens. Raises DatabaseUnavailable, DatabaseTimeout."""
        ...


class Restaurants(Protocol):
    """The restaurants, inside a unit of work."""

    async def put(self, profile: RestaurantProfile) -> Restaurant:
        """Registers a restaurant or replaces its profile."""
        ...

    async def register(self, restaurant_id: str) -> None:
        """Registers a restaurant with a profile of defaults, unless it is registered."""
        ...

    async def get(self, restaurant_id: str) -> Restaurant | None:
        """The restaurant, or None."""
        ...

    async def lock(self, restaurant_id: str) -> Restaurant | None:
        """The same; nobody else can change its profile until the unit of work ends."""
        ...

    async def page(self, after: str, limit: int) -> list[Restaurant]:
        """At most `limit` restaurants whose id is greater than `after`, byte by byte, in that order."""
        ...


@dataclass(frozen=True, slots=True)
class SealPosition:
    """How far the books are sealed, at one moment.

    `head` is the latest seal, without its row digests, and `is_of_this_stay` whether the books have been in
    one place since it was made; `stay_id` names their stay there. Every database transaction below `horizon_txid` has ended, and
    `next_txid` is above every one that has begun, in the cluster that `system_identifier` names.
    """

    head: Seal | None
    is_of_this_stay: bool
    stay_id: UUID
    system_identifier: int
    horizon_txid: int
    next_txid: int
    now: datetime


@dataclass(frozen=True, slots=True)
class SealLag:
    """How far sealing is behind: about how many rows are not sealed, and for how many seconds the
    oldest of them has been there."""

    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SealPart:
    """The rows of a database transaction with after_id < transaction id <= last_id; no last_id: all the rest."""

    after_id: bytes
    last_id: bytes | None


WHOLE = SealPart(b"", None)


@dataclass(frozen=True, slots=True)
class PartedTransaction:
    """A database transaction that is sealed in parts: its number, the last id of the latest part, and the epoch
    of the seals before its first part."""

    txid: int
    last_id: bytes
    epoch_before: int


class SealedBooks(Protocol):
    """The books as the sealer sees them. Methods raise DatabaseUnavailable, DatabaseContention, DatabaseTimeout."""

    async def index_new_rows(self) -> None:
        """Has the rows that were recorded since the last time found fast by their numbers; without it they are found slowly."""
        ...

    async def position(self) -> SealPosition:
        """How far the books are sealed."""
        ...

    async def transactions(
        self, first_txid: int, end_txid: int, rows_max: int, *, is_restored: bool
    ) -> Sequence[PackedTransaction] | None:
        """What database transactions first_txid <= number < end_txid recorded, in order; None if it is more than `rows_max` rows.

        With `is_restored` only what has a number that this cluster has yet to give out.
        """
        ...

    def slices(
        self, first_txid: int, end_txid: int, part: SealPart = WHOLE, *, is_restored: bool
    ) -> AsyncGenerator[Sequence[SealedTransaction]]:
        """The same by transaction id, however much it is, some thousand rows at a time; those of an id may be in several."""
        ...

    async def next_part(self, txid: int, after_id: bytes, rows: int) -> SealPart:
        """The part of a database transaction that comes after a transaction id and has about so many rows."""
        ...

    async def parted(self, position: SealPosition) -> PartedTransaction | None:
        """The transaction of which the head is a part; None if it is none."""
        ...

    async def is_sealed_in_parts(self, txid: int) -> bool:
        """Whether all rows of a database transaction are in seals of parts of it, made in the present stay."""
        ...

    async def sealed_before(self, epoch: int, first_txid: int, end_txid: int) -> set[bytes]:
        """The transaction ids in seals of earlier epochs whose range overlaps this one."""
        ...

    async def append(self, seals: Sequence[Seal], stay_id: UUID) -> bool:
        """Adds seals of a stay to the chain, all or none.

        False if somebody else has added one in the place of the first.
        """
        ...


class UnitOfWork(Protocol):
    """One database transaction: what was not committed when the block is left is rolled back."""

    @property
    def restaurants(self) -> Restaurants: ...

    @property
    def settlement(self) -> PayoutSettlement: ...

    async def commit(self) -> None:
        """Makes all that was done since the block was entered durable, at once."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class UnitOfWorkFactory(Protocol):
    """Begins a unit of work: `async with begin() as uow:`."""

    def __call__(self) -> UnitOfWork: ...
