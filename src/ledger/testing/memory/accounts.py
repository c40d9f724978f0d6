"""Accounts in memory."""

from dataclasses import replace
from datetime import timedelta

from ledger.domain.accounts import Account, AccountProfile
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.testing.memory.balances import sum_on
from ledger.testing.memory.books import Books

_MICROSECOND = timedelta(microseconds=1)


class MemoryAccountReader:
    """Implements `ledger.application.ports.accounts.AccountReader`."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def get(self, account_id: str) -> Account | None:
        return self._books.accounts.get(account_id)

    async def page(self, after: str, limit: int) -> list[Account]:
        ids = sorted(each for each in self._books.accounts if each > after)
        return [self._books.accounts[each] for each in ids[:limit]]


class MemoryAccounts:
    """Implements `ledger.application.ports.accounts.Accounts` in a unit of work."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def open(self, profile: AccountProfile) -> Account | None:
        account_id = profile.account_id
        if account_id in self._books.accounts:
            return None
        now = self._books.recorded_at
        account = Account(profile, profile, now, now)
        self._books.accounts[account_id] = account
        self._books.open_books(profile.currency, account_id=account_id)
        return account

    async def lock(self, account_id: str) -> Account | None:
        return self._books.accounts.get(account_id)

    async def is_empty(self, account_id: str) -> bool:
        entries = self._books.entries_of(self._books.account_ids[account_id])
        return not any(
            sum_on(entries, ledger_account)
            for ledger_account in (LedgerAccount.ACCOUNT_FUNDS, LedgerAccount.ACCOUNT_HELD)
        )

    async def change(self, profile: AccountProfile) -> Account:
        account = self._books.accounts[profile.account_id]
        # No two states have one etag.
        updated_at = max(self._books.recorded_at, account.updated_at + _MICROSECOND)
        changed = replace(account, profile=profile, updated_at=updated_at)
        self._books.accounts[profile.account_id] = changed
        return changed
