"""Decides payments that come together, in one database transaction."""

from collections.abc import Sequence
from datetime import datetime
from itertools import chain as chained
from uuid import UUID

import structlog
import uuid_utils

from ledger.application.payments.outcomes import (
    AnsweredPayment,
    PaymentOutcome,
    PaymentStatus,
    in_parts,
    status_of,
)
from ledger.application.ports.events import EventLedger
from ledger.application.ports.payments import (
    DecidedPayment,
    IdsTaken,
    Payee,
    PaymentBooks,
    RestaurantStanding,
    StoredPayment,
)
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.balances import BalanceAccount
from ledger.domain.payments import (
    AccountStanding,
    CaptureMode,
    Payment,
    PaymentOrder,
    as_first_answered,
    decide_chain,
    differing_order_fields,
    first_state,
)
from ledger.errors import (
    AccountNotFound,
    DatabaseContention,
    DataRejected,
    LedgerError,
    LinkedPaymentRefused,
    PaymentIdReused,
    PaymentRejected,
    RestaurantNotFound,
)

_log = structlog.get_logger("ledger.payments")

# How often a transaction begins again because another one has stored an id, or opened a balance
# account. Each time one of them has got further.
ATTEMPTS_MAX = 10

# Orders that are accepted together or not at all; mostly one.
Chain = Sequence[PaymentOrder]
Outcomes = dict[str, PaymentOutcome]


class DecidePayments:
    """Decides chains of orders in their order, and stores the decisions with their entries.

    The accounts whose balances decide are locked first, each once, in the order of their ids. So
    two groups never wait for each other in a circle, and what is read after the locks holds until
    the commit.
    """

    def __init__(self, ledger: EventLedger, begin: UnitOfWorkFactory, *, register: bool) -> None:
        """`register`: whether unknown restaurants are registered; else payments to them are
        refused.
        """
        self._ledger = ledger
        self._begin = begin
        self._register = register

    async def __call__(self, chains: Sequence[Chain], batch_id: UUID) -> Outcomes:
        """Returns the outcome of each order, by payment id. No id occurs twice.

        Raises DatabaseUnavailable and DatabaseTimeout, when the outcome is not known: the same
        orders may be decided again, by the same `batch_id`.
        """

        async def decide(part: Sequence[Chain], lock_wait_seconds: float | None) -> Outcomes:
            return await self._decide(part, batch_id, lock_wait_seconds)

        outcomes: Outcomes = {}
        for part, result in await in_parts(decide, chains):
            if isinstance(result, LedgerError):
                outcomes |= {order.payment_id: _refused(order, result) for order in part[0]}
            else:
                outcomes |= result
        return outcomes

    async def _decide(
        self, chains: Sequence[Chain], batch_id: UUID, lock_wait_seconds: float | None
    ) -> Outcomes:
        refused: Outcomes = {}
        for _ in range(ATTEMPTS_MAX):
            left = [chain for chain in chains if chain[0].payment_id not in refused]
            try:
                async with self._begin() as uow:
                    if lock_wait_seconds is not None:
                        await uow.payments.limit_lock_wait(lock_wait_seconds)
                    outcomes, unopened = await self._in_transaction(uow.payments, left, batch_id)
                    if not unopened:
                        await uow.commit()
                        return refused | outcomes
            except IdsTaken:
                continue
            unknown = await self._ledger.open_accounts(
                sorted(unopened), register=self._register, lock_wait_seconds=lock_wait_seconds
            )
            for chain in left:
                refused |= _refused_chain(
                    chain,
                    {
                        order.payment_id: RestaurantNotFound(order.payee_restaurant_id)
                        for order in chain
                        if order.payee_restaurant_id in unknown
                    },
                )
        raise DatabaseContention

    async def _in_transaction(
        self, books: PaymentBooks, chains: Sequence[Chain], batch_id: UUID
    ) -> tuple[Outcomes, set[BalanceAccount]]:
        """Returns the outcomes; or, if there are any, the balance accounts to open first."""
        orders = list(chained.from_iterable(chains))
        accounts = _accounts_of(orders)
        await books.lock_accounts(*accounts)
        standings, now, stored_ids = await books.standings(
            *accounts, [order.payment_id for order in orders]
        )
        outcomes: Outcomes = {}
        undecided = chains
        if stored_ids:
            stored = await books.stored(stored_ids)
            undecided = []
            for chain in chains:
                if found := _outcomes_of_stored(chain, stored, batch_id):
                    outcomes |= found
                else:
                    undecided.append(chain)
        accepted: list[Chain] = []
        for chain in undecided:
            if refused := _refused_chain(chain, _not_found(chain, standings)):
                outcomes |= refused
            else:
                accepted.append(chain)
        restaurants = {
            BalanceAccount(order.payee_restaurant_id, order.currency)
            for order in chained.from_iterable(accepted)
            if order.payee_restaurant_id
        }
        opened = await books.restaurants(restaurants) if restaurants else {}
        if unopened := restaurants - opened.keys():
            return {}, unopened
        decided: list[DecidedPayment] = []
        for chain in accepted:
            parties = [
                (order, standings[order.payer_account_id], _payee(order, standings, opened))
                for order in chain
            ]
            reasons = decide_chain(
                [
                    (order, payer, payee if isinstance(payee, AccountStanding) else None)
                    for order, payer, payee in parties
                ],
                now,
            )
            decided += [
                DecidedPayment(order, reason, str(uuid_utils.uuid7()), payer, payee)
                for (order, payer, payee), reason in zip(parties, reasons, strict=True)
            ]
        if decided:
            recorded_at = await books.store(decided, batch_id)
            for each in decided:
                payment = _payment(each, recorded_at)
                outcomes[each.order.payment_id] = AnsweredPayment(status_of(payment), payment)
        return outcomes, set()


def _accounts_of(orders: Sequence[PaymentOrder]) -> tuple[set[str], set[str]]:
    """The accounts whose balances decide, and the others that take part."""
    deciding = {order.payer_account_id for order in orders}
    others = {order.payee_account_id for order in orders if order.payee_account_id}
    return deciding, others - deciding


def _payee(
    order: PaymentOrder,
    standings: dict[str, AccountStanding],
    restaurants: dict[BalanceAccount, RestaurantStanding],
) -> Payee:
    if order.payee_account_id:
        return standings[order.payee_account_id]
    return restaurants[BalanceAccount(order.payee_restaurant_id, order.currency)]


def _not_found(chain: Chain, standings: dict[str, AccountStanding]) -> Outcomes:
    """The orders with an account that does not exist, each with its error."""
    outcomes: Outcomes = {}
    for order in chain:
        for account_id in (order.payee_account_id, order.payer_account_id):
            if account_id and account_id not in standings:
                outcomes[order.payment_id] = AccountNotFound(account_id)
    return outcomes


def _refused_chain(chain: Chain, errors: Outcomes) -> Outcomes:
    """The errors of a chain: with one all others are refused as well. Empty without an error."""
    if not errors:
        return {}
    return {
        order.payment_id: errors.get(order.payment_id, LinkedPaymentRefused(order.payment_id))
        for order in chain
    }


def _outcomes_of_stored(chain: Chain, stored: dict[str, StoredPayment], batch_id: UUID) -> Outcomes:
    """The outcomes of a chain that was stored before; empty if nothing of it was.

    If a part of it was stored, by another request, the rest cannot be decided together with it.
    """
    outcomes: Outcomes = {}
    for order in chain:
        found = stored.get(order.payment_id)
        if found is None:
            continue
        if differing := differing_order_fields(found.payment.order, order):
            outcomes[order.payment_id] = PaymentIdReused(order.payment_id, differing)
        else:
            payment = as_first_answered(found.payment)
            is_new = found.batch_id == batch_id
            status = status_of(payment) if is_new else PaymentStatus.DUPLICATE
            outcomes[order.payment_id] = AnsweredPayment(status, payment)
    return _refused_chain(chain, outcomes)


def _payment(decided: DecidedPayment, recorded_at: datetime) -> Payment:
    order, reason = decided.order, decided.decline_reason
    state = first_state(order, reason)
    is_captured = reason is None and order.capture is CaptureMode.IMMEDIATE
    return Payment(
        order,
        state,
        reason,
        order.amount_minor if is_captured else 0,
        0,
        decided.transaction_id,
        recorded_at,
    )


def _refused(order: PaymentOrder, error: LedgerError) -> LedgerError:
    """The error for the caller; the log has what the database said."""
    if not isinstance(error, DataRejected):
        return error
    cause = repr(error.__cause__ or error)
    _log.error("the database refused a payment as data", payment_id=order.payment_id, cause=cause)
    return PaymentRejected(order.payment_id)
