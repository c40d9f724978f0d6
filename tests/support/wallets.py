"""Accounts with money in them, for tests of commands."""

from ledger.v1 import account_pb2
from support.events import unique
from support.paying import order
from support.running import RunningLedger


async def open_account(
    ledger: RunningLedger, *, limit_minor: int | None = 0, currency: str = "PEN"
) -> str:
    """Opens an account that may owe `limit_minor`, or any amount if it is None. Returns its id."""
    account_id = unique("acc")
    overdraft = account_pb2.Overdraft(limit_minor=limit_minor or 0)
    if limit_minor is None:
        overdraft.unlimited = True
    await ledger.accounts.CreateAccount(
        account_pb2.CreateAccountRequest(
            account_id=account_id, currency=currency, overdraft=overdraft
        )
    )
    return account_id


async def funded_account(ledger: RunningLedger, amount_minor: int, currency: str = "PEN") -> str:
    """Opens an account that has this amount, from a bank without a limit. Returns its id."""
    bank = await open_account(ledger, limit_minor=None, currency=currency)
    account_id = await open_account(ledger, currency=currency)
    await ledger.payments.AuthorizePayment(
        order(unique("fund"), bank, account_id, amount_minor, currency=currency)
    )
    return account_id
