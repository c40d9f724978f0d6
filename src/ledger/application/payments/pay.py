"""Takes payments and operations, and decides concurrent ones in groups.

A group shares a database transaction, so its commit is shared, too. Within a group commands are
decided one after the other, so a busy account does not cost a commit for each payment.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog
import uuid_utils.compat

from ledger.application import attempts
from ledger.application.grouping import Grouping
from ledger.application.metrics import PaymentCommand
from ledger.application.payments.decide_operations import DecideOperations
from ledger.application.payments.decide_payments import Chain, DecidePayments
from ledger.application.payments.outcomes import (
    AnsweredOperation,
    AnsweredPayment,
    OperationOutcome,
    OperationStatus,
    PaymentOutcome,
    PaymentStatus,
)
from ledger.application.payments.parts import rounds
from ledger.domain.payments import DeclineReason, OperationKind, OperationOrder, PaymentOrder
from ledger.errors import (
    DatabaseUnavailable,
    FieldViolation,
    InvalidRequest,
    LinkedPaymentRefused,
    QueueFull,
    ShuttingDown,
)

_log = structlog.get_logger("ledger.payments")

GROUP_ORDERS_MAX = 200
# Groups of each kind, and batches, that are decided at once. Each takes a database session.
GROUPS_AT_ONCE_MAX = 2
BATCHES_AT_ONCE_MAX = 2
# How many database sessions all of them take.
SESSIONS_MAX = 2 * GROUPS_AT_ONCE_MAX + BATCHES_AT_ONCE_MAX
# How many commands may wait or be under way.
COMMANDS_MAX = 20_000

_COMMANDS: dict[OperationKind, PaymentCommand] = {
    OperationKind.CAPTURE: "capture",
    OperationKind.VOID: "void",
    OperationKind.REFUND: "refund",
    OperationKind.REVERSE: "reverse",
}
if _COMMANDS.keys() != set(OperationKind) - {OperationKind.EXPIRE}:
    raise TypeError(f"add the new kind of operation to _COMMANDS in {__file__}")

Outcome = TypeVar("Outcome")


class Pay:
    """The use case of the commands of PaymentService."""

    def __init__(
        self,
        decide_payments: DecidePayments,
        decide_operations: DecideOperations,
        *,
        bytes_max: int = sys.maxsize,
        other_bytes: Callable[[], int] = lambda: 0,
        on_group: Callable[[int, float], None] = lambda _commands, _seconds: None,
        on_decided: Callable[[PaymentCommand, str], None] = lambda _command, _outcome: None,
    ) -> None:
        """`bytes_max` bounds the memory of the commands that wait or are under way, together with
        what `other_bytes` returns, which others have taken of it.

        `on_group` gets the commands and seconds of each group and batch.

        `on_decided` gets each command that was decided, with its outcome as for
        `LedgerMetrics.payment_decided`.
        """
        self._decide_payments = decide_payments
        self._decide_operations = decide_operations
        self._bytes_max = bytes_max
        self._other_bytes = other_bytes
        self._on_group = on_group
        self._on_decided = on_decided
        self._payments: Grouping[PaymentOrder, PaymentOutcome] = Grouping(
            self._pay_group,
            group_items_max=GROUP_ORDERS_MAX,
            groups_at_once_max=GROUPS_AT_ONCE_MAX,
            what="payments",
        )
        self._operations: Grouping[OperationOrder, OperationOutcome] = Grouping(
            self._operate_group,
            group_items_max=GROUP_ORDERS_MAX,
            groups_at_once_max=GROUPS_AT_ONCE_MAX,
            what="operations on payments",
        )
        self._batches = asyncio.Semaphore(BATCHES_AT_ONCE_MAX)
        self._running: set[asyncio.Task[list[PaymentOutcome]]] = set()
        self._commands = 0
        self.size_bytes = 0
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether commands wait or are being decided."""
        return self._commands > 0

    async def authorize(self, order: PaymentOrder, *, size_bytes: int) -> PaymentOutcome:
        """Decides a valid order; returns its outcome once it is durable.

        `size_bytes` is what the order takes in memory. When the call is cancelled, a decision that
        has begun goes on. Raises QueueFull and ShuttingDown, with nothing stored;
        DatabaseUnavailable, DatabaseContention or DatabaseTimeout when the outcome is not known:
        then the same order may be sent again.
        """
        self._enter(1, size_bytes)
        try:
            return await self._payments.add(order)
        finally:
            self._leave(1, size_bytes)

    async def operate(self, order: OperationOrder, *, size_bytes: int) -> OperationOutcome:
        """Decides a valid operation; the rest is as for `authorize`."""
        self._enter(1, size_bytes)
        try:
            return await self._operations.add(order)
        finally:
            self._leave(1, size_bytes)

    async def authorize_batch(
        self, chains: Sequence[Chain], *, size_bytes: int
    ) -> list[PaymentOutcome]:
        """Decides valid orders in their order, and returns their outcomes in it.

        As a rule in one database transaction, a chain always in one. Only a chain is all or
        nothing. The rest is as for `authorize`.
        """
        commands = sum(map(len, chains))
        self._enter(commands, size_bytes)
        try:
            await self._batches.acquire()
            # Whether a cancelled COMMIT took effect is unknown. So a task decides the batch, which
            # goes on when the call is cancelled, and keeps its place until it ends.
            task = asyncio.create_task(self._pay_timed(chains))
            self._running.add(task)
            task.add_done_callback(self._batch_ended)
            return await asyncio.shield(task)
        finally:
            self._leave(commands, size_bytes)

    async def close(self) -> None:
        """Refuses further commands, and returns when the admitted ones are decided."""
        self._closed = True
        await asyncio.gather(self._payments.close(), self._operations.close())
        while self._running:
            # Batches that wait for their turn begin when these end.
            await asyncio.wait(self._running)
            await asyncio.sleep(0)

    def _enter(self, commands: int, size_bytes: int) -> None:
        if self._closed:
            raise ShuttingDown
        is_full = (
            self._commands + commands > COMMANDS_MAX
            or self.size_bytes + self._other_bytes() + size_bytes > self._bytes_max
        )
        if is_full and self._commands:
            raise QueueFull
        self._commands += commands
        self.size_bytes += size_bytes

    def _leave(self, commands: int, size_bytes: int) -> None:
        self._commands -= commands
        self.size_bytes -= size_bytes

    def _batch_ended(self, task: asyncio.Task[list[PaymentOutcome]]) -> None:
        self._batches.release()
        self._running.discard(task)
        if not task.cancelled():
            # The call may be gone. Reading the exception keeps asyncio from logging it again.
            task.exception()

    async def _pay_group(self, orders: Sequence[PaymentOrder]) -> list[PaymentOutcome]:
        return await self._pay_timed([(order,) for order in orders])

    async def _pay_timed(self, chains: Sequence[Chain]) -> list[PaymentOutcome]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            outcomes = await self._pay(chains)
        finally:
            self._on_group(sum(map(len, chains)), loop.time() - began)
        for outcome in outcomes:
            if isinstance(outcome, AnsweredPayment):
                is_duplicate = outcome.status is PaymentStatus.DUPLICATE
                self._report("authorize", outcome.payment.decline_reason, is_duplicate=is_duplicate)
        return outcomes

    async def _pay(self, chains: Sequence[Chain]) -> list[PaymentOutcome]:
        repeats = [_repeats_in_chain(chain) for chain in chains]
        valid = [chain for chain, found in zip(chains, repeats, strict=True) if not found]
        decide = partial(self._decide_payments, valid)
        decided = iter(await _decided(decide) if valid else ())
        outcomes: list[PaymentOutcome] = []
        for chain, found in zip(chains, repeats, strict=True):
            if found:
                outcomes += found
            else:
                outcomes_by_id = next(decided)
                outcomes += [outcomes_by_id[order.payment_id] for order in chain]
        return outcomes

    async def _operate_group(self, orders: Sequence[OperationOrder]) -> list[OperationOutcome]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        found: dict[int, OperationOutcome] = {}
        ids = [order.operation_id or "" for order in orders]
        try:
            for places in rounds(ids):
                decide = partial(self._decide_operations, [orders[place] for place in places])
                outcomes = await _decided(decide)
                found |= {place: outcomes[ids[place]] for place in places}
        finally:
            self._on_group(len(orders), loop.time() - began)
        for outcome in found.values():
            if isinstance(outcome, AnsweredOperation):
                operation = outcome.operation
                command = _COMMANDS[operation.order.kind]
                is_duplicate = outcome.status is OperationStatus.DUPLICATE
                self._report(command, operation.decline_reason, is_duplicate=is_duplicate)
        return [found[place] for place in range(len(orders))]

    def _report(
        self, command: PaymentCommand, reason: DeclineReason | None, *, is_duplicate: bool
    ) -> None:
        outcome = "accepted" if reason is None else reason.lower()
        self._on_decided(command, "duplicate" if is_duplicate else outcome)


async def _decided(decide: Callable[[UUID], Awaitable[Outcome]]) -> Outcome:
    """Decides, and repeats that when the database was lost: by then it may have been stored."""
    batch_id = uuid_utils.compat.uuid7()
    attempt = 1
    while True:
        try:
            return await decide(batch_id)
        except DatabaseUnavailable as error:
            attempts.log_broken_off(_log, "an attempt to decide", attempt, error)
            if attempt == attempts.ATTEMPTS_MAX:
                raise
        await attempts.back_off(attempt)
        attempt += 1


def _repeats_in_chain(chain: Chain) -> list[PaymentOutcome]:
    """The outcomes of a chain that holds an id twice; empty for any other."""
    if len({order.payment_id for order in chain}) == len(chain):
        return []
    seen: set[str] = set()
    outcomes: list[PaymentOutcome] = []
    for order in chain:
        outcomes.append(
            InvalidRequest([FieldViolation("payment_id", "must not occur twice in a chain")])
            if order.payment_id in seen
            else LinkedPaymentRefused(order.payment_id)
        )
        seen.add(order.payment_id)
    return outcomes
