"""Decides operations on payments that come together, in one database transaction."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple
from uuid import UUID

import structlog
import uuid_utils

from ledger.application.payments.outcomes import (
    AnsweredOperation,
    OperationOutcome,
    OperationStatus,
)
from ledger.application.payments.parts import RESTARTS_MAX, in_parts
from ledger.application.ports.payments import (
    DecidedOperation,
    IdsTaken,
    Payee,
    PaymentBooks,
    RestaurantStanding,
    StoredOperation,
    StoredPayment,
)
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.balances import BalanceAccount
from ledger.domain.payments import (
    AccountStanding,
    OperationKind,
    OperationOrder,
    PaymentOperation,
    PaymentOrder,
    after,
    decide_operation,
    differing_operation_fields,
)
from ledger.errors import (
    DatabaseContention,
    DataRejected,
    LedgerError,
    OperationIdReused,
    PaymentNotFound,
    PaymentRejected,
)

_log = structlog.get_logger("ledger.payments")

# Operations of which the payee's balance decides.
_DECIDED_BY_PAYEE = (OperationKind.REFUND, OperationKind.REVERSE)

# By operation id. Of expiries, which have none, by payment id.
Outcomes = dict[str, OperationOutcome]


class _Parties(NamedTuple):
    payer: AccountStanding
    payee: Payee


class DecideOperations:
    """Decides operations in their order, and stores the decisions with their entries.

    Locks the payments first and then the accounts, each sorted, so that two groups never wait for
    each other in a circle. What is read after the locks holds until the commit. An operation that
    finds a payment expired releases it first.
    """

    def __init__(self, begin: UnitOfWorkFactory) -> None:
        self._begin = begin

    async def __call__(self, orders: Sequence[OperationOrder], batch_id: UUID) -> Outcomes:
        """Returns the outcome of each order. No id occurs twice. An expiry of a payment that has
        nothing to expire has none.

        Raises DatabaseUnavailable and DatabaseTimeout, when the outcome is not known: the same
        orders may be decided again, by the same `batch_id`.
        """
        outcomes: Outcomes = {}
        commands = _Operations(orders, partial(self._decide, batch_id), self._begin)
        for places, result in await in_parts(commands, len(orders)):
            if isinstance(result, LedgerError):
                (place,) = places
                outcomes[_key(orders[place])] = _refused(orders[place], result)
            else:
                outcomes |= result
        return outcomes

    async def _decide(
        self, batch_id: UUID, orders: Sequence[OperationOrder], lock_wait_seconds: float | None
    ) -> Outcomes:
        for _ in range(RESTARTS_MAX):
            try:
                async with self._begin() as uow:
                    if lock_wait_seconds is not None:
                        await uow.payments.limit_lock_wait(lock_wait_seconds)
                    outcomes = await _in_transaction(uow.payments, orders, batch_id)
                    await uow.commit()
                    return outcomes
            except IdsTaken:
                continue
        raise DatabaseContention


class _Operations(NamedTuple):
    """Implements `ledger.application.payments.parts.Commands`."""

    orders: Sequence[OperationOrder]
    decide_together: Callable[[Sequence[OperationOrder], float | None], Awaitable[Outcomes]]
    begin: UnitOfWorkFactory

    async def decide(self, places: Sequence[int], lock_wait_seconds: float | None) -> Outcomes:
        return await self.decide_together(
            [self.orders[place] for place in places], lock_wait_seconds
        )

    async def locked(self, places: Sequence[int]) -> Collection[int]:
        payment_ids = {self.orders[place].payment_id for place in places}
        async with self.begin() as uow:
            locked = await uow.payments.locked_payments(payment_ids)
            accounts = self._accounts(places, await uow.payments.stored(payment_ids))
            deciding, others = await uow.payments.locked_accounts(*_united(accounts.values()))
        return [
            place
            for place in places
            if self.orders[place].payment_id in locked
            or (place in accounts and not accounts[place][0].isdisjoint(deciding))
            or (place in accounts and not accounts[place][1].isdisjoint(others))
        ]

    async def slow(self, places: Sequence[int]) -> Collection[int]:
        payment_ids = {self.orders[place].payment_id for place in places}
        async with self.begin() as uow:
            accounts = self._accounts(places, await uow.payments.stored(payment_ids))
            deciding, _ = _united(accounts.values())
            slow = await uow.payments.slow_accounts(deciding)
        return [place for place, found in accounts.items() if not found[0].isdisjoint(slow)]

    def behind(self, stopped: Collection[int], places: Sequence[int]) -> set[int]:
        """No others: each operation comes from a separate call."""
        return set(stopped).intersection(places)

    def _accounts(
        self, places: Sequence[int], payments: Mapping[str, StoredPayment]
    ) -> dict[int, tuple[set[str], set[str]]]:
        """By place, as `_accounts_of`; without those whose payments do not exist."""
        return {
            place: _accounts_of(self.orders[place], found.payment.order)
            for place in places
            if (found := payments.get(self.orders[place].payment_id))
        }


async def _in_transaction(
    books: PaymentBooks, orders: Sequence[OperationOrder], batch_id: UUID
) -> Outcomes:
    locked = await books.lock_payments({order.payment_id for order in orders})
    known = await books.stored_operations(
        [order.operation_id for order in orders if order.operation_id is not None]
    )
    payments = await books.stored(locked)
    outcomes: Outcomes = {}
    undecided: list[OperationOrder] = []
    for order in orders:
        if order.operation_id is not None and (found := known.get(order.operation_id)):
            outcomes[order.operation_id] = _outcome_of_stored(order, found, batch_id)
        elif order.payment_id not in payments:
            outcomes[_key(order)] = PaymentNotFound(order.payment_id)
        else:
            undecided.append(order)
    if undecided:
        parties, now = await _parties(books, undecided, payments)
        decided = _decide_all(undecided, payments, parties, now)
        if decided:
            recorded_at = await books.store_operations(decided, batch_id)
            outcomes |= _answers(orders, decided, payments, recorded_at)
    return outcomes


async def _parties(
    books: PaymentBooks,
    orders: Sequence[OperationOrder],
    payments: Mapping[str, StoredPayment],
) -> tuple[dict[str, _Parties], datetime]:
    """Locks the accounts that take part. Returns the payer and the payee of each payment, and the
    time of the books.
    """
    deciding, others = _united(
        _accounts_of(order, payments[order.payment_id].payment.order) for order in orders
    )
    others -= deciding
    restaurants = {
        BalanceAccount(payment.payee_restaurant_id, payment.currency)
        for order in orders
        if (payment := payments[order.payment_id].payment.order).payee_restaurant_id
    }
    locked = await books.lock_accounts(deciding, others)
    standings, now, _ = await books.standings(*locked)
    opened = await books.restaurants(restaurants) if restaurants else {}
    found: dict[str, _Parties] = {}
    for order in orders:
        payment = payments[order.payment_id].payment.order
        payee: Payee
        if payment.payee_restaurant_id:
            payee = opened[BalanceAccount(payment.payee_restaurant_id, payment.currency)]
        else:
            payee = standings[payment.payee_account_id]
        found[order.payment_id] = _Parties(standings[payment.payer_account_id], payee)
    return found, now


def _accounts_of(order: OperationOrder, payment: PaymentOrder) -> tuple[set[str], set[str]]:
    """The account whose balance decides, if there is one, and the others that take part."""
    deciding: set[str] = set()
    others = {payment.payer_account_id}
    if payment.payee_account_id:
        (deciding if order.kind in _DECIDED_BY_PAYEE else others).add(payment.payee_account_id)
    return deciding, others


def _united(pairs: Iterable[tuple[set[str], set[str]]]) -> tuple[set[str], set[str]]:
    deciding: set[str] = set()
    others: set[str] = set()
    for of_one, others_of_one in pairs:
        deciding |= of_one
        others |= others_of_one
    return deciding, others


def _decide_all(
    orders: Sequence[OperationOrder],
    payments: Mapping[str, StoredPayment],
    parties: Mapping[str, _Parties],
    now: datetime,
) -> list[DecidedOperation]:
    """Decides the orders one after the other; each finds what those before it have left."""
    states = {payment_id: stored.payment for payment_id, stored in payments.items()}
    counts = {payment_id: stored.operations_count for payment_id, stored in payments.items()}
    decided: list[DecidedOperation] = []

    def decide(order: OperationOrder) -> None:
        payment_id = order.payment_id
        payer, payee = parties[payment_id]
        account = None if isinstance(payee, RestaurantStanding) else payee
        decision = decide_operation(states[payment_id], order, payer, account)
        states[payment_id] = after(states[payment_id], decision)
        counts[payment_id] += 1
        transaction_id = str(uuid_utils.uuid7())
        decided.append(
            DecidedOperation(order, counts[payment_id], decision, transaction_id, payer, payee)
        )

    for order in orders:
        is_expired = states[order.payment_id].is_expired(now)
        if is_expired:
            decide(OperationOrder(None, OperationKind.EXPIRE, order.payment_id))
        if order.kind is not OperationKind.EXPIRE:
            decide(order)
    return decided


def _answers(
    orders: Sequence[OperationOrder],
    decided: Sequence[DecidedOperation],
    payments: Mapping[str, StoredPayment],
    recorded_at: datetime,
) -> Outcomes:
    asked = set(orders)
    outcomes: Outcomes = {}
    for order, sequence, decision, transaction_id, _, _ in decided:
        # An expiry that an operation has found, of a payment whose id another operation may have.
        if order not in asked:
            continue
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
            recorded_at,
        )
        payment = after(payments[order.payment_id].payment, operation)
        outcomes[_key(order)] = AnsweredOperation(_status_of(operation), operation, payment)
    return outcomes


def _outcome_of_stored(
    order: OperationOrder, stored: StoredOperation, batch_id: UUID
) -> OperationOutcome:
    operation = stored.operation
    if differing := differing_operation_fields(operation.order, order):
        return OperationIdReused(order.operation_id or "", differing)
    is_new = stored.batch_id == batch_id
    status = _status_of(operation) if is_new else OperationStatus.DUPLICATE
    return AnsweredOperation(status, operation, after(stored.payment, operation))


def _status_of(operation: PaymentOperation) -> OperationStatus:
    if operation.decline_reason is None:
        return OperationStatus.APPLIED
    return OperationStatus.DECLINED


def _key(order: OperationOrder) -> str:
    return order.payment_id if order.operation_id is None else order.operation_id


def _refused(order: OperationOrder, error: LedgerError) -> LedgerError:
    """The error for the caller; the log has what the database said."""
    if not isinstance(error, DataRejected):
        return error
    cause = repr(error.__cause__ or error)
    _log.error(
        "the database refused an operation as data",
        payment_id=order.payment_id,
        operation_id=order.operation_id,
        cause=cause,
    )
    return PaymentRejected(order.payment_id)
