"""Returns the balance of a restaurant in one currency."""

from ledger.application.grouped_balances import GroupedBalances
from ledger.application.ports.balances import BalanceQuery
from ledger.domain.balances import Balance
from ledger.errors import RestaurantNotFound


class GetBalance(GroupedBalances[BalanceQuery, Balance]):
    """The use case of GetBalance: zeros for a known restaurant without entries."""

    amount_fields = (
        "available_minor",
        "pending_minor",
        "reserved_minor",
        "disputed_minor",
        "reserve_held_minor",
    )

    def _not_found(self, query: BalanceQuery) -> RestaurantNotFound:
        return RestaurantNotFound(query.account.holder_id)
