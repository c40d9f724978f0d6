"""Fixtures of the bad requests."""

from collections.abc import AsyncIterator

import pytest
from support.books import superuser
from support.fuzzing import KNOWN_ACCOUNTS, KNOWN_PAYMENT
from support.in_memory import MemoryLedger
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2


@pytest.fixture(scope="module")
async def connection(
    shared_ledger: RunningLedger | MemoryLedger,
) -> AsyncIterator[Connection | MemoryLedger]:
    """Counts the rows for all cases of a module. The books have the restaurant `known`."""
    await shared_ledger.stub.PutRestaurant(ledger_pb2.PutRestaurantRequest(restaurant_id="known"))
    if isinstance(shared_ledger, MemoryLedger):
        yield shared_ledger
        return
    async with superuser(shared_ledger.database) as connection:
        yield connection


@pytest.fixture(scope="module")
async def _known_accounts(shared_ledger: RunningLedger) -> None:
    """The accounts `known` and `known_2`, which may owe anything, and the payment `known`."""
    for account in KNOWN_ACCOUNTS:
        await shared_ledger.accounts.CreateAccount(account)
    await shared_ledger.payments.AuthorizePayment(KNOWN_PAYMENT)
