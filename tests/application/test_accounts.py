"""What opening an account does when the account that was there is gone."""

import pytest
from support.fakes import FakeEventLedger, FakeUnitOfWork

from ledger.application.accounts import create_account
from ledger.domain.accounts import Account, AccountProfile
from ledger.errors import DatabaseUnavailable


class TakenAccounts:
    """Implements `Accounts`: every id is taken."""

    async def open(self, profile: AccountProfile) -> Account | None:
        return None

    async def lock(self, account_id: str) -> Account | None:
        raise AssertionError("nothing is locked")

    async def is_empty(self, account_id: str) -> bool:
        raise AssertionError("nothing is locked")

    async def change(self, profile: AccountProfile) -> Account:
        raise AssertionError("nothing is changed")


class NoAccounts:
    """Implements `AccountReader` without accounts."""

    async def get(self, account_id: str) -> Account | None:
        return None

    async def page(self, after: str, limit: int) -> list[Account]:
        return []


async def test_opening_that_meets_an_account_that_is_then_lost_may_be_repeated() -> None:
    """The primary that had it was lost: the caller gets UNAVAILABLE, not NOT_FOUND."""

    def begin() -> FakeUnitOfWork:
        unit_of_work = FakeUnitOfWork(FakeEventLedger())
        unit_of_work.accounts = TakenAccounts()
        return unit_of_work

    with pytest.raises(DatabaseUnavailable):
        await create_account(begin, NoAccounts(), AccountProfile("acc_1", "PEN"))
