"""The application's ports in memory.

The tests of the ports run on these and on PostgreSQL alike, so that they do the same.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Self
from uuid import UUID

from ledger.application.ports.accounts import Accounts
from ledger.application.ports.events import Posting, StoredEntry, StoredEvent
from ledger.application.ports.payments import PaymentBooks
from ledger.application.ports.payouts import PayoutSubmissions
from ledger.application.ports.quarantine import QuarantineMoves
from ledger.application.ports.unit_of_work import Restaurants
from ledger.domain.balances import BalanceAccount
from ledger.domain.events import ProcessorEvent, microseconds
from ledger.domain.money import AMOUNT_MINOR_MAX
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import Payout, PayoutAnswer
from ledger.domain.posting_rules import Amount, PostingRule, rules_of
from ledger.errors import DataRejected, LedgerError


class FakeUnitOfWork:
    """Implements `UnitOfWork` on a fake ledger without payouts and payments.

    What it recorded is removed again unless it is committed.
    """

    restaurants: Restaurants
    accounts: Accounts
    payments: PaymentBooks
    submissions: PayoutSubmissions
    quarantine: QuarantineMoves

    def __init__(self, ledger: "FakeEventLedger") -> None:
        self._ledger = ledger
        self._uncommitted: list[str] = []
        self.settlement = self

    async def record(self, posting: Posting, batch_id: UUID) -> bool:
        event = posting.event
        if event.event_id in self._ledger.events:
            return False
        stored = StoredEvent(
            event, posting.fingerprint, posting.transaction_id, batch_id, datetime.now(UTC)
        )
        self._ledger.events[event.event_id] = stored
        self._uncommitted.append(event.event_id)
        return True

    async def lock(self, payout_id: str) -> Payout | None:
        return None

    async def answers(self, event: ProcessorEvent) -> list[PayoutAnswer]:
        return []

    async def move(
        self,
        payout: Payout,
        state: PayoutState,
        rule: PostingRule | None,
        posting: Posting,
    ) -> None:
        raise AssertionError("there are no payouts to move")

    async def commit(self) -> None:
        self._uncommitted.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for event_id in self._uncommitted:
            del self._ledger.events[event_id]


class FakeEventLedger:
    """Implements `EventLedger`.

    `failures` are raised by the next inserts, one each, after the insert took effect or before.
    """

    def __init__(self, maturity_days: int = 7) -> None:
        self.maturity_days = maturity_days
        self.restaurants: set[str] = set()
        self.accounts: set[BalanceAccount] = set()
        self.events: dict[str, StoredEvent] = {}
        self.failures: list[LedgerError] = []
        self.fail_after_storing = False
        self.insert_sizes: list[int] = []

    async def insert(
        self, postings: Sequence[Posting], batch_id: UUID, *, lock_wait_seconds: float | None = None
    ) -> set[str]:
        self.insert_sizes.append(len(postings))
        if self.failures and not self.fail_after_storing:
            raise self.failures.pop(0)
        # Stands for every rule of the database that the domain does not have.
        if any(posting.event.amount_minor > AMOUNT_MINOR_MAX for posting in postings):
            raise DataRejected
        now = datetime.now(UTC)
        new: set[str] = set()
        for posting in postings:
            event = posting.event
            if event.event_id not in self.events and event.account in self.accounts:
                new.add(event.event_id)
                self.events[event.event_id] = StoredEvent(
                    event, posting.fingerprint, posting.transaction_id, batch_id, now
                )
        if self.failures:
            raise self.failures.pop(0)
        return new

    async def stored(
        self, event_ids: Collection[str], *, once_safe: bool = False
    ) -> dict[str, StoredEvent]:
        return {
            event_id: self.events[event_id] for event_id in event_ids if event_id in self.events
        }

    async def entries(self, event: StoredEvent) -> list[StoredEntry]:
        processor_event: ProcessorEvent = event.event
        maturity = timedelta(hours=24 * self.maturity_days)
        amounts = {
            Amount.AMOUNT: processor_event.amount_minor,
            Amount.FEE: processor_event.fee_minor,
            Amount.PROCESSOR_FEE: processor_event.processor_fee_minor,
        }

        def available_at(rule: PostingRule) -> datetime | None:
            if processor_event.available_at is not None and rule.takes_available_at:
                return processor_event.available_at
            return processor_event.occurred_at + maturity if rule.matures and maturity else None

        return [
            StoredEntry(
                transaction_id=UUID(event.transaction_id),
                position=position,
                entry_type=rule.entry_type,
                debit=rule.debit,
                credit=rule.credit,
                amount_minor=amounts[rule.amount],
                restaurant_id=processor_event.restaurant_id or None,
                currency=processor_event.currency,
                available_at_microseconds=None
                if (instant := available_at(rule)) is None
                else microseconds(instant),
                occurred_at_microseconds=microseconds(processor_event.occurred_at),
                recorded_at_microseconds=microseconds(event.recorded_at),
                event_id=processor_event.event_id,
                payout_id=None,
            )
            for position, rule in enumerate(
                rules_of(
                    processor_event.type,
                    has_fee=processor_event.fee_minor > 0,
                    has_processor_fee=processor_event.processor_fee_minor > 0,
                ),
                start=1,
            )
        ]

    async def open_accounts(
        self,
        accounts: Collection[BalanceAccount],
        *,
        register: bool,
        lock_wait_seconds: float | None = None,
    ) -> set[str]:
        wanted = {account.holder_id for account in accounts if account.holder_id}
        if register:
            self.restaurants |= wanted
        self.accounts |= {
            account
            for account in accounts
            if account.holder_id in self.restaurants or not account.holder_id
        }
        return wanted - self.restaurants
