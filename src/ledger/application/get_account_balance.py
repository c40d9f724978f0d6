"""Returns the balance of an account."""

from ledger.application.grouped_balances import GroupedBalances
from ledger.application.ports.balances import AccountBalanceQuery
from ledger.domain.accounts import AccountBalance
from ledger.errors import AccountNotFound


class GetAccountBalance(GroupedBalances[AccountBalanceQuery, AccountBalance]):
    """The use case of GetAccountBalance."""

    amount_fields = ("available_minor", "held_minor", "posted_minor")

    def _not_found(self, query: AccountBalanceQuery) -> AccountNotFound:
        return AccountNotFound(query.account_id)
