"""Payments in memory, in a unit of work: standings, and what is stored and posted."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import count
from uuid import UUID

from ledger.application.ports.payments import (
    DecidedOperation,
    DecidedPayment,
    IdsTaken,
    Payee,
    RestaurantStanding,
    Standings,
    StoredOperation,
    StoredPayment,
)
from ledger.domain.balances import BalanceAccount
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.payments import (
    AccountStanding,
    Move,
    PaymentOperation,
    after,
    first_payment,
    first_step,
)
from ledger.domain.posting_rules import PAYMENT_POSTING_RULES, Amount
from ledger.testing.memory.balances import sum_on
from ledger.testing.memory.books import BookedOperation, BookedPayment, Books
from ledger.testing.memory.event_ledger import maturity_days_of

_DAY = timedelta(hours=24)


class MemoryPaymentBooks:
    """Implements `ledger.application.ports.payments.PaymentBooks` in a unit of work."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def limit_lock_wait(self, seconds: float) -> None:
        pass

    async def lock_accounts(
        self, deciding: Collection[str], others: Collection[str]
    ) -> tuple[list[str], list[str]]:
        known = self._books.accounts
        return [each for each in deciding if each in known], [
            each for each in others if each in known
        ]

    async def lock_payments(self, payment_ids: Collection[str]) -> list[str]:
        return [each for each in payment_ids if each in self._books.payments]

    async def locked_accounts(
        self, deciding: Collection[str], others: Collection[str]
    ) -> tuple[Collection[str], Collection[str]]:
        return (), ()

    async def locked_payments(self, payment_ids: Collection[str]) -> Collection[str]:
        return ()

    async def slow_accounts(self, account_ids: Collection[str]) -> Collection[str]:
        return ()

    async def standings(
        self,
        deciding: Collection[str],
        others: Collection[str],
        payment_ids: Collection[str] = (),
    ) -> Standings:
        accounts: dict[str, AccountStanding] = {}
        for account_id in (*others, *deciding):
            account = self._books.accounts.get(account_id)
            if account is not None:
                number, profile = self._books.account_ids[account_id], account.profile
                available_minor = None
                if account_id in deciding and profile.overdraft.limit_minor is not None:
                    entries = self._books.entries_of(number)
                    available_minor = sum_on(entries, LedgerAccount.ACCOUNT_FUNDS)
                accounts[account_id] = AccountStanding(
                    number,
                    profile.currency,
                    profile.state,
                    profile.overdraft.limit_minor,
                    available_minor,
                )
        stored_ids = [each for each in payment_ids if each in self._books.payments]
        return Standings(accounts, self._books.recorded_at, stored_ids)

    async def restaurants(
        self, accounts: Collection[BalanceAccount]
    ) -> dict[BalanceAccount, RestaurantStanding]:
        return {
            account: RestaurantStanding(
                self._books.balance_accounts[account],
                maturity_days_of(self._books, account.holder_id),
            )
            for account in accounts
            if account in self._books.balance_accounts
        }

    async def stored(self, payment_ids: Collection[str]) -> dict[str, StoredPayment]:
        return {
            payment_id: StoredPayment(booked.payment, booked.batch_id, len(booked.operations))
            for payment_id in payment_ids
            if (booked := self._books.payments.get(payment_id))
        }

    async def stored_operations(self, operation_ids: Collection[str]) -> dict[str, StoredOperation]:
        found: dict[str, StoredOperation] = {}
        for operation_id in operation_ids:
            booked = self._books.operations.get(operation_id)
            if booked is not None:
                operation, batch_id = booked
                payment = self._books.payments[operation.order.payment_id].payment
                found[operation_id] = StoredOperation(operation, payment, batch_id)
        return found

    async def store(self, decided: Sequence[DecidedPayment], batch_id: UUID) -> datetime:
        now = self._books.recorded_at
        for order, reason, transaction_id, payer, payee in decided:
            if order.payment_id in self._books.payments:
                raise IdsTaken
            self._books.payments[order.payment_id] = BookedPayment(
                first_payment(order, reason, transaction_id, now),
                batch_id,
                payer.balance_account_id,
                payee.balance_account_id,
            )
            if reason is None:
                move = Move(first_step(order), order.amount_minor, order.fee_minor)
                self._post(order.payment_id, transaction_id, [move], payer, payee)
        return now

    async def store_operations(
        self, decided: Sequence[DecidedOperation], batch_id: UUID
    ) -> datetime:
        now = self._books.recorded_at
        for order, sequence, decision, transaction_id, payer, payee in decided:
            operation = PaymentOperation(
                order,
                sequence,
                decision.amount_minor,
                decision.released_minor,
                decision.decline_reason,
                transaction_id,
                decision.state,
                decision.captured_minor,
                decision.refunded_minor,
                now,
            )
            if order.operation_id is not None:
                if order.operation_id in self._books.operations:
                    raise IdsTaken
                self._books.operations[order.operation_id] = BookedOperation(operation, batch_id)
            booked = self._books.payments[order.payment_id]
            self._books.payments[order.payment_id] = booked._replace(
                payment=after(booked.payment, operation),
                operations=(*booked.operations, operation),
            )
            self._post(order.payment_id, transaction_id, decision.moves, payer, payee)
        return now

    def _post(
        self,
        payment_id: str,
        transaction_id: str,
        moves: Iterable[Move],
        payer: AccountStanding,
        payee: Payee,
    ) -> None:
        """Posts the entries of a transaction id: of each move the payer's, then the payee's."""
        positions = count(1)
        for move in moves:
            rules = PAYMENT_POSTING_RULES[move.step]
            of_payee = rules.payee_account
            available_at = None
            if isinstance(payee, RestaurantStanding):
                of_payee = rules.payee_restaurant
                if payee.maturity_days:
                    available_at = self._books.recorded_at + payee.maturity_days * _DAY
            books_and_rules = [
                (payer.balance_account_id, rules.payer),
                *((payee.balance_account_id, rule) for rule in of_payee),
            ]
            for balance_account_id, rule in books_and_rules:
                amount_minor = move.fee_minor if rule.amount is Amount.FEE else move.amount_minor
                if amount_minor:
                    self._books.post(
                        balance_account_id,
                        transaction_id,
                        next(positions),
                        rule,
                        amount_minor,
                        available_at=available_at if rule.matures else None,
                        payment_id=payment_id,
                    )
