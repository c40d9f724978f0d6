"""What waits to be decided, and how it is bounded. There is no database here."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import cast
from uuid import UUID

import pytest

from ledger.application.payments.decide_operations import DecideOperations
from ledger.application.payments.decide_payments import Chain, DecidePayments
from ledger.application.payments.pay import COMMANDS_MAX, Pay
from ledger.domain.payments import CaptureMode, OperationKind, OperationOrder, PaymentOrder
from ledger.errors import AccountNotFound, LedgerError, QueueFull, ShuttingDown


def some_order(payment_id: str) -> PaymentOrder:
    return PaymentOrder(
        payment_id, "payer", "payee", "", "PEN", 1, 0, CaptureMode.IMMEDIATE, None, "", {}
    )


class Held:
    """Stands for the decisions: holds them until `released`, then refuses every order."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def payments(self, chains: Sequence[Chain], _: UUID) -> list[Mapping[str, LedgerError]]:
        await self.released.wait()
        return [{order.payment_id: AccountNotFound("payer") for order in chain} for chain in chains]

    async def operations(
        self, orders: Sequence[OperationOrder], _: UUID
    ) -> Mapping[str, LedgerError]:
        await self.released.wait()
        return {order.operation_id or "": AccountNotFound("payer") for order in orders}

    def pay(self, *, bytes_max: int, other_bytes: int = 0) -> Pay:
        return Pay(
            cast(DecidePayments, self.payments),
            cast(DecideOperations, self.operations),
            bytes_max=bytes_max,
            other_bytes=lambda: other_bytes,
        )


async def test_memory_is_shared_with_what_others_have_taken() -> None:
    """An empty queue takes any command: it would otherwise never be decided."""
    held = Held()
    pay = held.pay(bytes_max=100, other_bytes=60)
    first = asyncio.create_task(pay.authorize(some_order("a"), size_bytes=1000))
    await asyncio.sleep(0)
    assert pay.size_bytes == 1000
    with pytest.raises(QueueFull):
        await pay.authorize(some_order("b"), size_bytes=1)
    held.released.set()
    assert isinstance(await first, AccountNotFound)
    assert pay.size_bytes == 0
    held.released.clear()
    waiting = [
        asyncio.create_task(pay.authorize(some_order(payment_id), size_bytes=20))
        for payment_id in "cd"
    ]
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await pay.operate(OperationOrder("e", OperationKind.VOID, "c"), size_bytes=1)
    held.released.set()
    await asyncio.gather(*waiting)


async def test_commands_are_bounded_by_number() -> None:
    """Those of a batch count each."""
    held = Held()
    pay = held.pay(bytes_max=COMMANDS_MAX)
    chains = [[some_order(f"p{number}")] for number in range(COMMANDS_MAX)]
    batch = asyncio.create_task(pay.authorize_batch(chains, size_bytes=1))
    await asyncio.sleep(0)
    with pytest.raises(QueueFull):
        await pay.authorize(some_order("more"), size_bytes=1)
    held.released.set()
    assert len(await batch) == COMMANDS_MAX


async def test_close_decides_what_was_admitted_and_refuses_the_rest() -> None:
    """Groups, and batches that wait for their turn."""
    held = Held()
    pay = held.pay(bytes_max=100)
    single = asyncio.create_task(pay.authorize(some_order("a"), size_bytes=1))
    batches = [
        asyncio.create_task(pay.authorize_batch([[some_order(f"b{number}")]], size_bytes=1))
        for number in range(5)
    ]
    await asyncio.sleep(0)
    closing = asyncio.create_task(pay.close())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        await pay.authorize(some_order("late"), size_bytes=1)
    assert not closing.done()
    held.released.set()
    await closing
    assert isinstance(await single, AccountNotFound)
    assert [len(await batch) for batch in batches] == [1] * 5
