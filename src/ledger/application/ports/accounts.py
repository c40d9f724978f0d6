"""Accounts: opened, changed and read."""

from typing import Protocol

from ledger.domain.accounts import Account, AccountProfile


class Accounts(Protocol):
    """The accounts, inside a unit of work."""

    async def open(self, profile: AccountProfile) -> Account | None:
        """Opens an account with its balance account; None if its id is taken.

        Waits for a transaction that opens an account with the same id.
        """
        ...

    async def lock(self, account_id: str) -> Account | None:
        """The account, or None. Until the unit of work ends it cannot change, and no payment can
        move its money.
        """
        ...

    async def is_empty(self, account_id: str) -> bool:
        """Whether a locked account has nothing available and nothing held, and owes nothing."""
        ...

    async def change(self, profile: AccountProfile) -> Account:
        """Gives a locked account this profile."""
        ...


class AccountReader(Protocol):
    """Reads accounts, outside any unit of work.

    Both methods wait until what they read is as durable as the database makes any commit, and raise
    DatabaseUnavailable, DatabaseTimeout and ShuttingDown.
    """

    async def get(self, account_id: str) -> Account | None:
        """The account, or None."""
        ...

    async def page(self, after: str, limit: int) -> list[Account]:
        """At most `limit` accounts whose id is after `after`, in the byte order of ids."""
        ...
