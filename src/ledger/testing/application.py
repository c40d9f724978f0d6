"""Assembles the service on books in memory; `ledger.bootstrap.application` does on a database."""

import secrets
from collections.abc import Callable
from datetime import datetime
from functools import partial

import uuid_utils.compat

from ledger.api.account_service import AccountService
from ledger.api.ledger_service import LedgerService
from ledger.api.pages import Pages
from ledger.api.payment_service import PaymentService
from ledger.application.get_account_balance import GetAccountBalance
from ledger.application.get_balance import GetBalance
from ledger.application.ingest.ingest_events import IngestEvents
from ledger.application.ingest.queue import IngestLimits
from ledger.application.payments.decide_operations import DecideOperations
from ledger.application.payments.decide_payments import DecidePayments
from ledger.application.payments.pay import Pay
from ledger.application.preview_event import PreviewEvent
from ledger.domain.payments import OperationKind, OperationOrder
from ledger.domain.payouts import PayoutRunState
from ledger.domain.restaurants import UnknownRestaurants
from ledger.limits import PAYOUT_RUNS_OPEN_DEFAULT
from ledger.testing.memory.accounts import MemoryAccountReader
from ledger.testing.memory.balances import (
    MemoryAccountBalanceReader,
    MemoryBalanceLists,
    MemoryBalanceReader,
)
from ledger.testing.memory.books import Books
from ledger.testing.memory.event_ledger import MemoryEventLedger
from ledger.testing.memory.event_lists import MemoryEventLists
from ledger.testing.memory.payments import MemoryPayments
from ledger.testing.memory.payout_runs import MemoryPayoutRuns
from ledger.testing.memory.payouts import MemoryPayoutEntries, MemoryPayouts
from ledger.testing.memory.quarantine import MemoryQuarantine
from ledger.testing.memory.statements import MemoryAccountStatements, MemoryStatements
from ledger.testing.memory.unit_of_work import MemoryUnitOfWork

# As a server has them by default.
_LIMITS = IngestLimits(
    queue_calls_max=500,
    queue_events_max=20_000,
    queue_bytes_max=32 * 1024 * 1024,
    group_events_max=500,
    batches_at_once_max=3,
)


class _PageTokenKeys:
    """Implements `ledger.application.ports.page_tokens.PageTokenKeys` with a key of its own."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    async def newest_first(self) -> list[bytes]:
        return [self._key]


class MemoryApplication:
    """The services on empty books in memory. One event loop must serve all calls."""

    def __init__(
        self,
        clock: Callable[[], datetime],
        *,
        maturity_days: int,
        settlement_timezone: str,
        unknown_restaurants: UnknownRestaurants,
    ) -> None:
        books = Books(clock, maturity_days)
        self._runs = MemoryPayoutRuns(
            books,
            settlement_timezone=settlement_timezone,
            open_runs_max=PAYOUT_RUNS_OPEN_DEFAULT,
        )
        self.books = books
        self._holds_runs = False
        begin = partial(MemoryUnitOfWork, books)
        ledger = MemoryEventLedger(books)
        payments = MemoryPayments(books)
        payouts = MemoryPayouts(books)
        pages = Pages(_PageTokenKeys())
        operations = DecideOperations(begin)
        self._operations = operations
        self._payments = payments
        self._ingest_events = IngestEvents(
            ledger, begin, unknown_restaurants=unknown_restaurants, limits=_LIMITS
        )
        self._pay = Pay(
            DecidePayments(
                ledger, begin, register=unknown_restaurants is UnknownRestaurants.REGISTER
            ),
            operations,
        )
        self._get_balance = GetBalance(MemoryBalanceReader(books), MemoryBalanceReader(books))
        self._get_account_balance = GetAccountBalance(
            MemoryAccountBalanceReader(books), MemoryAccountBalanceReader(books)
        )
        self.service = LedgerService(
            ingest_events=self._ingest_events,
            ledger=ledger,
            event_lists=MemoryEventLists(books),
            preview_event=PreviewEvent(
                ledger,
                payouts,
                begin,
                unknown_restaurants=unknown_restaurants,
                maturity_days=maturity_days,
            ),
            balance_lists=MemoryBalanceLists(books, settlement_timezone=settlement_timezone),
            get_balance=self._get_balance,
            statements=MemoryStatements(books),
            payout_runs=self._runs,
            payouts=payouts,
            payout_entries=MemoryPayoutEntries(books),
            quarantine=MemoryQuarantine(books),
            wake_payout_worker=self._pay_runs,
            pages=pages,
            begin=begin,
            clock=clock,
        )
        self.accounts = AccountService(
            accounts=MemoryAccountReader(books),
            get_account_balance=self._get_account_balance,
            statements=MemoryAccountStatements(books),
            pages=pages,
            begin=begin,
        )
        self.payments = PaymentService(pay=self._pay, payments=payments, pages=pages)

    async def release_expired(self) -> None:
        """Releases what is held for payments that have expired, each at the instant of its expiry.

        Called before every call: so nothing was recorded between that instant and now.
        """
        while page := await self._payments.expired(None, 1):
            (place,) = page
            with self.books.at(place.expires_at):
                await self._operations(
                    [OperationOrder(None, OperationKind.EXPIRE, place.payment_id)],
                    uuid_utils.compat.uuid7(),
                )

    def hold_runs(self) -> None:
        """Leaves payout runs that start from now on under way."""
        self._holds_runs = True

    def release_runs(self) -> None:
        """Pays the runs that are under way, and from now on every run at its start."""
        self._holds_runs = False
        self._pay_runs()

    async def close(self) -> None:
        """Ends the work under way, and refuses further calls."""
        await self._ingest_events.close()
        await self._pay.close()
        await self._get_balance.close()
        await self._get_account_balance.close()

    def _pay_runs(self) -> None:
        """Pays every run that is under way, before anything else is answered."""
        if self._holds_runs:
            return
        for payout_run_id, booked in list(self.books.payout_runs.items()):
            if booked.run.state is PayoutRunState.RUNNING:
                self._runs.pay_all(payout_run_id)
                self._runs.end(payout_run_id, PayoutRunState.SUCCEEDED)
