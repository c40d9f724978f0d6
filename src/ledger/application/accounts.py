"""Opens, changes and returns accounts."""

from typing import NamedTuple

import structlog

from ledger.application import attempts
from ledger.application.ports.accounts import AccountReader
from ledger.application.ports.pages import Page
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.accounts import (
    Account,
    AccountChange,
    AccountProfile,
    AccountState,
    profile_violations,
)
from ledger.domain.profiles import within
from ledger.errors import (
    AccountChanged,
    AccountClosed,
    AccountIdReused,
    AccountNotEmpty,
    AccountNotFound,
    DatabaseContention,
    DatabaseUnavailable,
    InvalidRequest,
)

_log = structlog.get_logger("ledger.accounts")


class OpenedAccount(NamedTuple):
    """An account as it is now. `is_duplicate`: it had been opened before."""

    account: Account
    is_duplicate: bool


async def create_account(
    begin: UnitOfWorkFactory, accounts: AccountReader, profile: AccountProfile
) -> OpenedAccount:
    """Opens an account, unless one was opened with the same id and contents.

    Raises AccountIdReused when it was opened with other contents; DatabaseUnavailable,
    DatabaseContention, DatabaseTimeout, ShuttingDown.
    """
    async with begin() as uow:
        opened = await uow.accounts.open(profile)
        if opened is not None:
            await uow.commit()
            return OpenedAccount(opened, is_duplicate=False)
    # The reader waits until the account is durable: it may have been opened a moment ago.
    account = await accounts.get(profile.account_id)
    if account is None:
        # It was lost with the primary that had it. A repeat opens it.
        raise DatabaseUnavailable(f"account {profile.account_id} is gone")
    if differing_fields := account.differing_fields(profile):
        raise AccountIdReused(profile.account_id, differing_fields)
    return OpenedAccount(account, is_duplicate=True)


async def update_account(
    begin: UnitOfWorkFactory, accounts: AccountReader, change: AccountChange
) -> Account:
    """Changes the fields that `change` names; nothing if the account has the values already.

    Raises AccountNotFound; AccountClosed; AccountChanged when the etag of the change is not the
    present one; InvalidRequest when the metadata would be too large; AccountNotEmpty when the
    account is to be closed and is not empty; DatabaseUnavailable, DatabaseContention,
    DatabaseTimeout, ShuttingDown. Then nothing has changed.
    """
    attempt = 1
    while True:
        try:
            changed = await _change(begin, change)
            break
        except DatabaseContention as error:
            # Payments lock a busy account in turns, between which this one may find no gap.
            attempts.log_broken_off(_log, "an attempt to change an account", attempt, error)
            if attempt == attempts.ATTEMPTS_MAX:
                raise
            attempt += 1
    return changed or await get_account(accounts, change.profile.account_id)


async def _change(begin: UnitOfWorkFactory, change: AccountChange) -> Account | None:
    """The changed account, or None if it has the values already. Raises as update_account."""
    account_id = change.profile.account_id
    async with begin() as uow:
        account = await uow.accounts.lock(account_id)
        if account is None:
            raise AccountNotFound(account_id)
        changed = change.applied_to(account.profile)
        if changed != account.profile:
            if account.profile.state is AccountState.CLOSED:
                raise AccountClosed(account_id)
            # Only now: a repeated call finds its own change, which has made its etag stale.
            if change.etag and change.etag != account.etag:
                raise AccountChanged(account_id)
            if violations := profile_violations(changed):
                raise InvalidRequest(within("account", violations))
            if change.closes and not await uow.accounts.is_empty(account_id):
                raise AccountNotEmpty(account_id)
            account = await uow.accounts.change(changed)
            await uow.commit()
            return account
    return None


async def get_account(accounts: AccountReader, account_id: str) -> Account:
    """Raises AccountNotFound, DatabaseUnavailable, DatabaseTimeout, ShuttingDown."""
    account = await accounts.get(account_id)
    if account is None:
        raise AccountNotFound(account_id)
    return account


async def list_accounts(
    accounts: AccountReader, after: str | None, page_size: int
) -> Page[Account, str]:
    """Returns a page of accounts, in the byte order of their ids."""
    found = await accounts.page(after or "", page_size + 1)
    return Page.cut(found, page_size, lambda account: account.profile.account_id)
