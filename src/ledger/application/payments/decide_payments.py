"""Decides payments that come together, in one database transaction."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from itertools import chain as chained
from typing import NamedTuple
from uuid import UUID

import structlog
import uuid_utils

from ledger.application.payments.outcomes import (
    AnsweredPayment,
    PaymentOutcome,
    PaymentStatus,
    status_of,
)
from ledger.application.payments.parts import RESTARTS_MAX, in_parts
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
    Payment,
    PaymentOrder,
    as_first_answered,
    decide_chain,
    differing_order_fields,
    first_payment,
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

    async def __call__(self, chains: Sequence[Chain], batch_id: UUID) -> list[Outcomes]:
        """Returns the outcomes of each chain, by payment id. No id occurs twice in a chain.

        In several chains it may: all but the first repeat it. Raises DatabaseUnavailable and
        DatabaseTimeout, when the outcome is not known: the same orders may be decided again, by the
        same `batch_id`.
        """
        outcomes: dict[int, Outcomes] = {}
        commands = _Chains(chains, _Attempt(batch_id, set()), self._decide, self._begin)
        for places, result in await in_parts(commands, len(chains)):
            if isinstance(result, LedgerError):
                (place,) = places
                outcomes[place] = {
                    order.payment_id: _refused(order, result) for order in chains[place]
                }
            else:
                outcomes |= zip(places, result, strict=True)
        return [outcomes[place] for place in range(len(chains))]

    async def _decide(
        self, chains: Sequence[Chain], attempt: "_Attempt", lock_wait_seconds: float | None
    ) -> list[Outcomes]:
        unknown: set[str] = set()
        for _ in range(RESTARTS_MAX):
            try:
                async with self._begin() as uow:
                    if lock_wait_seconds is not None:
                        await uow.payments.limit_lock_wait(lock_wait_seconds)
                    found = await _in_transaction(uow.payments, chains, attempt, unknown)
                    if not isinstance(found, _Unopened):
                        await uow.commit()
                        # Only now: others wait for the locks until the commit.
                        return _outcomes_of(chains, found)
            except IdsTaken:
                continue
            unknown |= await self._ledger.open_accounts(
                sorted(found.accounts),
                register=self._register,
                lock_wait_seconds=lock_wait_seconds,
            )
        raise DatabaseContention


class _Attempt(NamedTuple):
    """An attempt, and the payments that are answered in earlier parts of it: those are not new."""

    batch_id: UUID
    answered: set[str]


class _Chains(NamedTuple):
    """Implements `ledger.application.payments.parts.Commands`."""

    chains: Sequence[Chain]
    attempt: _Attempt
    decide_together: Callable[[Sequence[Chain], _Attempt, float | None], Awaitable[list[Outcomes]]]
    begin: UnitOfWorkFactory

    async def decide(
        self, places: Sequence[int], lock_wait_seconds: float | None
    ) -> list[Outcomes]:
        part = [self.chains[place] for place in places]
        found = await self.decide_together(part, self.attempt, lock_wait_seconds)
        self.attempt.answered.update(order.payment_id for chain in part for order in chain)
        return found

    async def locked(self, places: Sequence[int]) -> Collection[int]:
        orders = self._orders(places)
        payers = {order.payer_account_id for order in orders}
        payees = {order.payee_account_id for order in orders if order.payee_account_id}
        async with self.begin() as uow:
            locked_payers, locked_payees = await uow.payments.locked_accounts(payers, payees)
        return [
            place
            for place in places
            if any(
                order.payer_account_id in locked_payers or order.payee_account_id in locked_payees
                for order in self.chains[place]
            )
        ]

    async def slow(self, places: Sequence[int]) -> Collection[int]:
        payers = {order.payer_account_id for order in self._orders(places)}
        async with self.begin() as uow:
            slow = await uow.payments.slow_accounts(payers)
        return [
            place
            for place in places
            if any(order.payer_account_id in slow for order in self.chains[place])
        ]

    def behind(self, stopped: Collection[int], places: Sequence[int]) -> set[int]:
        """Also what repeats an id of those, and what pays out of an account that takes part."""
        found: set[int] = set()
        ids: set[str] = set()
        accounts: set[str] = set()
        for place in places:
            chain = self.chains[place]
            if place in stopped or any(
                order.payment_id in ids or order.payer_account_id in accounts for order in chain
            ):
                found.add(place)
                for order in chain:
                    ids.add(order.payment_id)
                    accounts.update((order.payer_account_id, order.payee_account_id))
        return found

    def _orders(self, places: Sequence[int]) -> list[PaymentOrder]:
        return [order for place in places for order in self.chains[place]]


class _Unopened(NamedTuple):
    """Restaurants' balance accounts that are to be opened before anything is decided."""

    accounts: set[BalanceAccount]


class _Decided(NamedTuple):
    """What was decided about chains: by their places, the orders that were stored, at
    `recorded_at`; and what was found of the others.
    """

    stored: dict[str, StoredPayment]
    sorted_out: "_SortedOut"
    decided: dict[int, list[DecidedPayment]]
    recorded_at: datetime


async def _in_transaction(
    books: PaymentBooks, chains: Sequence[Chain], attempt: _Attempt, unknown: set[str]
) -> _Decided | _Unopened:
    """Decides chains and stores the decisions. Payments to the restaurants in `unknown` are
    refused.
    """
    orders = list(chained.from_iterable(chains))
    locked = await books.lock_accounts(*_accounts_of(orders))
    standings, now, stored_ids = await books.standings(
        *locked, {order.payment_id for order in orders}
    )
    stored = await books.stored(stored_ids) if stored_ids else {}
    sorted_out = _sort_out(chains, stored, attempt, standings, unknown)
    restaurants = {
        BalanceAccount(order.payee_restaurant_id, order.currency)
        for place in sorted_out.undecided
        for order in chains[place]
        if order.payee_restaurant_id
    }
    opened = await books.restaurants(restaurants) if restaurants else {}
    if unopened := restaurants - opened.keys():
        return _Unopened(unopened)
    decided = {
        place: _decide_chain(chains[place], standings, opened, now)
        for place in sorted_out.undecided
    }
    if not decided:
        return _Decided(stored, sorted_out, decided, now)
    recorded_at = await books.store(list(chained.from_iterable(decided.values())), attempt.batch_id)
    return _Decided(stored, sorted_out, decided, recorded_at)


def _outcomes_of(chains: Sequence[Chain], found: _Decided) -> list[Outcomes]:
    """The outcomes of each chain."""
    outcomes = found.sorted_out.outcomes
    payments = {payment_id: each.payment for payment_id, each in found.stored.items()}
    for place, all_of_chain in found.decided.items():
        outcomes[place] = {}
        for order, reason, transaction_id, _, _ in all_of_chain:
            payment = first_payment(order, reason, transaction_id, found.recorded_at)
            payments[order.payment_id] = payment
            outcomes[place][order.payment_id] = AnsweredPayment(status_of(payment), payment)
    for place in found.sorted_out.repeating:
        outcomes[place] = _outcomes_of_stored(chains[place], payments, new=frozenset())
    return [outcomes[place] for place in range(len(chains))]


class _SortedOut(NamedTuple):
    """Chains by their places: with outcomes, to decide, and to answer as repeats of those."""

    outcomes: dict[int, Outcomes]
    undecided: list[int]
    repeating: list[int]


def _sort_out(
    chains: Sequence[Chain],
    stored: dict[str, StoredPayment],
    attempt: _Attempt,
    standings: dict[str, AccountStanding],
    unknown: set[str],
) -> _SortedOut:
    """What an earlier attempt of this batch has stored is new, once."""
    found = _SortedOut({}, [], [])
    payments = {payment_id: each.payment for payment_id, each in stored.items()}
    new = {name for name, each in stored.items() if each.batch_id == attempt.batch_id}
    new.difference_update(attempt.answered)
    taken: set[str] = set()
    for place, chain in enumerate(chains):
        ids = {order.payment_id for order in chain}
        if not taken.isdisjoint(ids):
            found.repeating.append(place)
            continue
        outcomes = (_outcomes_of_stored(chain, payments, new) if payments else {}) or (
            _with_others_refused(chain, _not_found(chain, standings, unknown))
        )
        if outcomes:
            found.outcomes[place] = outcomes
            new -= ids
        else:
            found.undecided.append(place)
            taken |= ids
    return found


def _decide_chain(
    chain: Chain,
    standings: dict[str, AccountStanding],
    opened: dict[BalanceAccount, RestaurantStanding],
    now: datetime,
) -> list[DecidedPayment]:
    # The account that is paid, as the domain takes it, and whoever is paid, as the books do.
    parties = []
    payees: list[Payee] = []
    for order in chain:
        account = standings[order.payee_account_id] if order.payee_account_id else None
        parties.append((order, standings[order.payer_account_id], account))
        payees.append(account or opened[BalanceAccount(order.payee_restaurant_id, order.currency)])
    return [
        DecidedPayment(order, reason, str(uuid_utils.uuid7()), payer, payee)
        for (order, payer, _), payee, reason in zip(
            parties, payees, decide_chain(parties, now), strict=True
        )
    ]


def _accounts_of(orders: Sequence[PaymentOrder]) -> tuple[set[str], set[str]]:
    """The accounts whose balances decide, and the others that take part."""
    deciding = {order.payer_account_id for order in orders}
    others = {order.payee_account_id for order in orders if order.payee_account_id}
    return deciding, others - deciding


def _not_found(chain: Chain, standings: dict[str, AccountStanding], unknown: set[str]) -> Outcomes:
    """The orders with an account or a restaurant that does not exist, each with its error."""
    outcomes: Outcomes = {}
    for order in chain:
        if order.payee_restaurant_id in unknown:
            outcomes[order.payment_id] = RestaurantNotFound(order.payee_restaurant_id)
        for account_id in (order.payee_account_id, order.payer_account_id):
            if account_id and account_id not in standings:
                outcomes[order.payment_id] = AccountNotFound(account_id)
    return outcomes


def _with_others_refused(chain: Chain, found: Outcomes) -> Outcomes:
    """The outcomes of a chain of which some are known: the others are refused. Empty if none is."""
    if not found:
        return {}
    return {
        order.payment_id: found.get(order.payment_id, LinkedPaymentRefused(order.payment_id))
        for order in chain
    }


def _outcomes_of_stored(chain: Chain, stored: dict[str, Payment], new: Collection[str]) -> Outcomes:
    """The outcomes of a chain that was stored before; empty if nothing of it was.

    If a part of it was stored, by another request, the rest cannot be decided together with it.
    """
    outcomes: Outcomes = {}
    for order in chain:
        found = stored.get(order.payment_id)
        if found is None:
            continue
        if differing := differing_order_fields(found.order, order):
            outcomes[order.payment_id] = PaymentIdReused(order.payment_id, differing)
        else:
            payment = as_first_answered(found)
            is_new = order.payment_id in new
            status = status_of(payment) if is_new else PaymentStatus.DUPLICATE
            outcomes[order.payment_id] = AnsweredPayment(status, payment)
    return _with_others_refused(chain, outcomes)


def _refused(order: PaymentOrder, error: LedgerError) -> LedgerError:
    """The error for the caller; the log has what the database said."""
    if not isinstance(error, DataRejected):
        return error
    cause = repr(error.__cause__ or error)
    _log.error("the database refused a payment as data", payment_id=order.payment_id, cause=cause)
    return PaymentRejected(order.payment_id)
