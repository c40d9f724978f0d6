"""Payments for readers: what one read of them takes is bounded."""

import pytest
from support.deciding import Deciding, deciding_on, payment_order, void_of

from ledger.application.ports.payments import PaymentPlace, PaymentQuery
from ledger.bootstrap.database import Database
from ledger.domain.payments import CaptureMode, OperationKind, OperationOrder, PaymentState
from ledger.infrastructure.postgres import payments as module
from ledger.infrastructure.postgres.payments import PostgresPayments
from ledger.infrastructure.postgres.sessions.fence import Fence

OF_PAYER = PaymentQuery("payer", None, None, PaymentState.AUTHORIZED)


def reader_of(deciding: Deciding, scanned_max: int) -> PostgresPayments:
    return PostgresPayments(deciding.engine, Fence(deciding.engine), scanned_max=scanned_max)


@pytest.mark.parametrize("scanned_max", [1, 3, 7, 100])
async def test_pages_of_a_rare_state_find_each_payment_once(
    database: Database, scanned_max: int
) -> None:
    """A page reads so many payments of an account at most, and goes on where it has stopped."""
    async with deciding_on(database) as deciding:
        await deciding.open_account("payer", limit_minor=None)
        await deciding.open_account("payee")
        for number in range(20):
            capture = CaptureMode.MANUAL if number in (2, 3, 11) else CaptureMode.IMMEDIATE
            await deciding.pay(payment_order(f"p.{number:02}", capture=capture))
        reader = reader_of(deciding, scanned_max)
        found: list[str] = []
        place: PaymentPlace | None = None
        pages = 0
        while pages == 0 or place is not None:
            page = await reader.page(OF_PAYER, place, 2)
            assert page is not None
            found += [payment.order.payment_id for payment in page.items]
            place = page.next_place
            pages += 1
        assert found == ["p.11", "p.03", "p.02"]
        # The first page has two payments, the last may be empty.
        assert pages <= 20 // scanned_max + 2


async def test_unknown_payer_has_no_page(database: Database) -> None:
    """An account without payments has an empty one."""
    async with deciding_on(database) as deciding:
        reader = reader_of(deciding, 10)
        assert await reader.page(OF_PAYER, None, 2) is None
        await deciding.open_account("payer")
        page = await reader.page(OF_PAYER, None, 2)
        assert page is not None
        assert (page.items, page.next_place) == ([], None)


async def test_payment_comes_with_its_latest_operations(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may ask a payment for as many operations as they like: each declined one is kept."""
    monkeypatch.setattr(module, "OPERATIONS_MAX", 3)
    async with deciding_on(database) as deciding:
        await deciding.open_account("payer", funds_minor=1000)
        await deciding.open_account("payee")
        await deciding.pay(payment_order("p", capture=CaptureMode.MANUAL))
        for number in range(4):
            capture = OperationOrder(f"c.{number}", OperationKind.CAPTURE, "p", 10)
            await deciding.operate(capture)
        await deciding.operate(void_of("v", "p"), void_of("w", "p"))
        details = await reader_of(deciding, 10).get("p")
        assert details is not None
        assert details.operations_count == 6
        assert [operation.sequence for operation in details.operations] == [4, 5, 6]
        steps = [entry.entry_type for entry in details.entries]
        assert steps == ["PAYMENT_HOLD", "PAYMENT_CAPTURE", "PAYMENT", "PAYMENT_RELEASE"]
