"""Payments on PostgreSQL: what decides them, whatever snapshots there are."""

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from support.events import unique
from support.paying import funds, open_account, order
from support.running import RunningLedger
from support.snapshots import take_snapshots

from ledger.v1 import payment_pb2

CAPTURED = payment_pb2.PAYMENT_STATUS_CAPTURED
DECLINED = payment_pb2.PAYMENT_STATUS_DECLINED


@pytest.mark.parametrize("with_snapshots", ["", "rich", "poor", "rich poor", "poor rich"])
async def test_each_account_pays_from_its_own_entries(
    shared_ledger: RunningLedger, engine: AsyncEngine, with_snapshots: str
) -> None:
    """An account's balance starts from its own snapshot, not from the latest one of any account."""
    ledger = shared_ledger
    bank, rich, poor = unique("bank"), unique("rich"), unique("poor")
    await open_account(ledger, bank, None)
    await open_account(ledger, rich)
    await open_account(ledger, poor)
    await ledger.payments.AuthorizePayment(order(unique("p"), bank, rich, 1000))
    await ledger.payments.AuthorizePayment(order(unique("p"), bank, poor, 10))
    accounts = {"rich": rich, "poor": poor}
    for name in with_snapshots.split():
        assert await take_snapshots(engine, accounts[name]) == 1

    refused = await ledger.payments.AuthorizePayment(order(unique("p"), poor, rich, 11))
    all_of_it = await ledger.payments.AuthorizePayment(order(unique("p"), rich, poor, 1000))
    more = await ledger.payments.AuthorizePayment(order(unique("p"), rich, poor, 1))

    assert refused.status == DECLINED
    assert refused.payment.decline_reason == payment_pb2.DECLINE_REASON_INSUFFICIENT_FUNDS
    assert (all_of_it.status, more.status) == (CAPTURED, DECLINED)
    assert (await funds(ledger, rich), await funds(ledger, poor)) == ((0, 0), (1010, 0))
