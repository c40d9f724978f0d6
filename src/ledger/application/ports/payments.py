"""Payments and their operations, inside a unit of work and for readers."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

from ledger.application.ports.events import StoredEntry
from ledger.application.ports.pages import Page
from ledger.domain.balances import BalanceAccount
from ledger.domain.payments import (
    AccountStanding,
    DeclineReason,
    OperationDecision,
    OperationOrder,
    Payment,
    PaymentOperation,
    PaymentOrder,
    PaymentState,
)


class RestaurantStanding(NamedTuple):
    """A restaurant that is paid: its balance account, and the days of 24 hours it waits."""

    balance_account_id: int
    maturity_days: int


Payee = AccountStanding | RestaurantStanding


class Standings(NamedTuple):
    """Accounts by id, the time of the books, and the ids that are stored of the payments that were
    asked for.
    """

    accounts: dict[str, AccountStanding]
    now: datetime
    stored_ids: Sequence[str]


class StoredPayment(NamedTuple):
    """A stored payment. `batch_id` names the attempt that stored it: a repeated attempt recognizes
    its payments by it.

    `operations_count` is how many operations were decided about it.
    """

    payment: Payment
    batch_id: UUID
    operations_count: int = 0


class StoredOperation(NamedTuple):
    """A stored operation with its payment; `batch_id` is as for a payment."""

    operation: PaymentOperation
    payment: Payment
    batch_id: UUID


class DecidedPayment(NamedTuple):
    """A payment to store, with its entries unless it was declined."""

    order: PaymentOrder
    decline_reason: DeclineReason | None
    transaction_id: str
    payer: AccountStanding
    payee: Payee


class DecidedOperation(NamedTuple):
    """An operation to store, with its entries unless it was declined."""

    order: OperationOrder
    sequence: int
    decision: OperationDecision
    transaction_id: str
    payer: AccountStanding
    payee: Payee


class IdsTaken(Exception):
    """Another transaction has meanwhile stored one of the ids. Nothing was stored."""


class PaymentBooks(Protocol):
    """Payments inside a unit of work. All methods raise DatabaseUnavailable, DatabaseContention,
    DatabaseTimeout, DataRejected and QueryRefused.
    """

    async def lock_accounts(
        self, deciding: Collection[str], others: Collection[str]
    ) -> tuple[list[str], list[str]]:
        """Locks the accounts that exist, until the unit of work ends. Returns the locked ones of
        each kind: no other may be decided on, though it may exist by now.

        Those in `deciding` by themselves: no other unit of work that they decide goes on. Those in
        `others` only against changes of the accounts, such as closing.
        """
        ...

    async def lock_payments(self, payment_ids: Collection[str]) -> list[str]:
        """Locks the payments that exist, until the unit of work ends. Returns the locked ones: no
        other may be decided on, though it may exist by now.
        """
        ...

    async def locked_accounts(
        self, deciding: Collection[str], others: Collection[str]
    ) -> tuple[Collection[str], Collection[str]]:
        """Of each kind the accounts for which `lock_accounts` would wait. Waits for none; locks the
        others, so roll back soon.
        """
        ...

    async def locked_payments(self, payment_ids: Collection[str]) -> Collection[str]:
        """The payments for which `lock_payments` would wait; as for `locked_accounts`."""
        ...

    async def slow_accounts(self, account_ids: Collection[str]) -> Collection[str]:
        """The accounts whose balances take long to add up. Reports them, so that it is soon done
        faster.
        """
        ...

    async def limit_lock_wait(self, seconds: float) -> None:
        """From here on each wait for a lock ends after `seconds`, with DatabaseContention."""
        ...

    async def standings(
        self,
        deciding: Collection[str],
        others: Collection[str],
        payment_ids: Collection[str] = (),
    ) -> Standings:
        """The accounts that exist. Those in `deciding` have their available balance.

        Call it after the locks: it sees everything that they waited for.
        """
        ...

    async def restaurants(
        self, accounts: Collection[BalanceAccount]
    ) -> dict[BalanceAccount, RestaurantStanding]:
        """The restaurants' balance accounts that exist."""
        ...

    async def stored(self, payment_ids: Collection[str]) -> dict[str, StoredPayment]:
        """The stored payments among `payment_ids`, as they stand."""
        ...

    async def stored_operations(self, operation_ids: Collection[str]) -> dict[str, StoredOperation]:
        """The stored operations among `operation_ids`, with their payments as they stand."""
        ...

    async def store(self, decided: Sequence[DecidedPayment], batch_id: UUID) -> datetime:
        """Stores payments, of which no id occurs twice, and posts their entries. Returns
        `recorded_at`. Raises IdsTaken.
        """
        ...

    async def store_operations(
        self, decided: Sequence[DecidedOperation], batch_id: UUID
    ) -> datetime:
        """Stores operations, moves their payments and posts their entries. Returns `recorded_at`.
        Raises IdsTaken.
        """
        ...


@dataclass(frozen=True, slots=True)
class PaymentDetails:
    """A payment with its latest operations, in their order, and the entries of these and of the
    authorisation. `operations_count` is how many operations there are in all.
    """

    payment: Payment
    operations_count: int
    operations: Sequence[PaymentOperation]
    entries: Sequence[StoredEntry]


@dataclass(frozen=True, slots=True)
class PaymentQuery:
    """Which payments to list: those of one payer or one payee, of which two are None."""

    payer_account_id: str | None
    payee_account_id: str | None
    payee_restaurant_id: str | None
    state: PaymentState | None


class PaymentPlace(NamedTuple):
    """A place in a list of payments, latest first."""

    recorded_at: datetime
    payment_id: str


class ExpiryPlace(NamedTuple):
    """A payment that has expired, in the order of expiries."""

    expires_at: datetime
    payment_id: str


class Payments(Protocol):
    """Reads payments. All methods raise DatabaseUnavailable and DatabaseTimeout."""

    async def get(self, payment_id: str) -> PaymentDetails | None:
        """A payment as it stands, or None."""
        ...

    async def page(
        self, query: PaymentQuery, before: PaymentPlace | None, page_size: int
    ) -> Page[Payment, PaymentPlace] | None:
        """At most `page_size` payments before a place, latest first. None if the account or the
        restaurant does not exist. Where few payments are in the state, a page may have fewer, or
        none, and go on.
        """
        ...

    async def expired(self, after: ExpiryPlace | None, limit: int) -> list[ExpiryPlace]:
        """At most `limit` payments that hold money and have expired, after a place, the first to
        expire first.
        """
        ...
