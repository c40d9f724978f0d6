"""Everything that a server in memory knows: the tables, and transactions that can be undone.

One event loop serves all calls, and no port in memory waits for anything. So a use case that begins
a unit of work ends it before anything else runs: a transaction is alone, and locks nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from ledger.application.ports.events import StoredEntry, StoredEvent
from ledger.application.ports.payouts import StoredSubmission
from ledger.domain.accounts import Account
from ledger.domain.balances import BalanceAccount
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import microseconds
from ledger.domain.payments import Payment, PaymentOperation
from ledger.domain.payouts import Payout, PayoutItem, PayoutRun, PayoutRunItem
from ledger.domain.posting_rules import EntryType, PostingRule
from ledger.domain.quarantine import QuarantinedPayload, QuarantineMove
from ledger.domain.restaurants import Restaurant

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Any = object()
_MICROSECOND = timedelta(microseconds=1)


class Table(dict[K, V]):
    """Rows by their key. What a transaction sets is undone if it is not committed."""

    def __init__(self, undo: list[Callable[[], object]]) -> None:
        super().__init__()
        self._undo = undo

    def __setitem__(self, key: K, row: V) -> None:
        self._undo.append(partial(self._restore, key, self.get(key, _ABSENT)))
        super().__setitem__(key, row)

    def _restore(self, key: K, row: V) -> None:
        if row is _ABSENT:
            del self[key]
        else:
            super().__setitem__(key, row)


class BookedEvent(NamedTuple):
    """An event, and the number of the transaction that booked it."""

    stored: StoredEvent
    txid: int


class BookedEntry(NamedTuple):
    """An entry, and the number of the transaction that posted it."""

    entry: StoredEntry
    txid: int

    def minor_on(self, ledger_account: LedgerAccount) -> int:
        """What the entry adds to a ledger account, in minor units; below 0 for a debit."""
        if self.entry.credit is ledger_account:
            return self.entry.amount_minor
        return -self.entry.amount_minor if self.entry.debit is ledger_account else 0

    def is_on(self, ledger_account: LedgerAccount) -> bool:
        """Whether it debits or credits the ledger account."""
        return ledger_account in (self.entry.debit, self.entry.credit)

    def has_matured(self, at_microseconds: int) -> bool:
        """Whether it is available at the instant."""
        available_at = self.entry.available_at_microseconds
        return available_at is None or available_at <= at_microseconds


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose books a balance account is: a restaurant's, an account's or, of neither, the
    platform's.
    """

    balance_account_id: int
    restaurant_id: str | None
    account_id: str | None
    currency: str


@dataclass(frozen=True, slots=True)
class BookedPayout:
    """A payout, as it is read to be moved, and what it counted by type of entry.

    It counted what transactions below `txid` posted. `sequence` is its number in its balance
    account, from 1.
    """

    payout: Payout
    balance_account_id: int
    sequence: int
    txid: int
    counted_minor: dict[EntryType, int]
    items: tuple[PayoutItem, ...]


@dataclass(frozen=True, slots=True)
class BookedRun:
    """A run without progress, and its items by balance account."""

    run: PayoutRun
    items: dict[int, PayoutRunItem]


class BookedPayment(NamedTuple):
    """A payment as it stands, with the balance accounts of both sides."""

    payment: Payment
    batch_id: UUID
    payer_id: int
    payee_id: int
    operations: tuple[PaymentOperation, ...] = ()


class BookedOperation(NamedTuple):
    """An operation that a caller asked for."""

    operation: PaymentOperation
    batch_id: UUID


class KeptPayload(NamedTuple):
    """A payload of the quarantine as it stands, with all its moves."""

    payload: QuarantinedPayload
    moves: tuple[QuarantineMove, ...]


@dataclass
class Books:
    """The tables. `clock` gives the instants at which transactions record."""

    clock: Callable[[], datetime]
    # For restaurants that set none.
    maturity_days: int
    _undo: list[Callable[[], object]] = field(default_factory=list)
    _is_open: bool = False
    _at: datetime | None = None
    # Of the transaction under way, or else the latest.
    txid: int = 0
    recorded_at: datetime = field(init=False)

    def __post_init__(self) -> None:
        self.recorded_at = self.clock()
        self.restaurants: Table[str, Restaurant] = Table(self._undo)
        self.accounts: Table[str, Account] = Table(self._undo)
        self.holders: Table[int, Holder] = Table(self._undo)
        # The ids of balance accounts: of restaurants and, with an empty id, of the platform.
        self.balance_accounts: Table[BalanceAccount, int] = Table(self._undo)
        self.account_ids: Table[str, int] = Table(self._undo)
        self.events: Table[str, BookedEvent] = Table(self._undo)
        self.payout_runs: Table[UUID, BookedRun] = Table(self._undo)
        self.payout_run_ids: Table[tuple[object, ...], UUID] = Table(self._undo)
        self.payouts: Table[UUID, BookedPayout] = Table(self._undo)
        self.submissions: Table[str, StoredSubmission] = Table(self._undo)
        self.submission_ids: Table[UUID, str] = Table(self._undo)
        self.payments: Table[str, BookedPayment] = Table(self._undo)
        self.operations: Table[str, BookedOperation] = Table(self._undo)
        self.quarantine: Table[UUID, KeptPayload] = Table(self._undo)
        # By endpoint, body and query.
        self.deliveries: Table[tuple[str, bytes, str], UUID] = Table(self._undo)
        # By balance account, in the order in which they were posted.
        self._entries: defaultdict[int, list[BookedEntry]] = defaultdict(list)

    def begin(self) -> None:
        """Begins a transaction, which has a number and an instant. Raises RuntimeError within
        another one: then a port has waited.
        """
        if self._is_open:
            raise RuntimeError("a transaction is open: no port in memory may wait within one")
        self._is_open = True
        self._undo.clear()
        self.txid += 1
        now = self.clock() if self._at is None else self._at
        self.recorded_at = max(now, self.recorded_at + _MICROSECOND)

    @contextmanager
    def at(self, instant: datetime) -> Iterator[None]:
        """Transactions of the block are recorded at a past instant, or as soon after it as no other
        was.
        """
        self._at = instant
        try:
            yield
        finally:
            self._at = None

    def commit(self) -> None:
        """Keeps what the transaction under way has changed."""
        self._is_open = False
        self._undo.clear()

    def roll_back(self) -> None:
        """Undoes what the transaction under way has changed; nothing if none is."""
        while self._is_open and self._undo:
            self._undo.pop()()
        self._is_open = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction for the block, undone if it raises."""
        self.begin()
        try:
            yield
            self.commit()
        finally:
            self.roll_back()

    def open_books(
        self, currency: str, *, restaurant_id: str | None = None, account_id: str | None = None
    ) -> None:
        """Opens the balance account of a restaurant, an account or, of neither, the platform,
        unless it is open.
        """
        number = len(self.holders) + 1
        if account_id is not None:
            self.account_ids[account_id] = number
        elif (key := BalanceAccount(restaurant_id or "", currency)) in self.balance_accounts:
            return
        else:
            self.balance_accounts[key] = number
        self.holders[number] = Holder(number, restaurant_id, account_id, currency)

    def entries_of(self, balance_account_id: int | None) -> list[BookedEntry]:
        """The entries of a balance account, in the order in which they were posted."""
        return [] if balance_account_id is None else self._entries.get(balance_account_id, [])

    def post(
        self,
        balance_account_id: int,
        transaction_id: str,
        position: int,
        rule: PostingRule,
        amount_minor: int,
        *,
        available_at: datetime | None = None,
        occurred_at: datetime | None = None,
        event_id: str | None = None,
        payout_id: UUID | None = None,
        payment_id: str | None = None,
    ) -> None:
        """Posts an entry in the transaction under way."""
        holder = self.holders[balance_account_id]
        entry = StoredEntry(
            transaction_id=UUID(transaction_id),
            position=position,
            entry_type=rule.entry_type,
            debit=rule.debit,
            credit=rule.credit,
            amount_minor=amount_minor,
            restaurant_id=holder.restaurant_id,
            currency=holder.currency,
            available_at_microseconds=None if available_at is None else microseconds(available_at),
            occurred_at_microseconds=None if occurred_at is None else microseconds(occurred_at),
            recorded_at_microseconds=microseconds(self.recorded_at),
            event_id=event_id,
            payout_id=payout_id,
            payment_id=payment_id,
            account_id=holder.account_id,
        )
        entries = self._entries[balance_account_id]
        entries.append(BookedEntry(entry, self.txid))
        self._undo.append(entries.pop)
