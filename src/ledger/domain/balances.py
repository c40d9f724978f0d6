"""Balance accounts, and what one holds at an instant."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class BalanceAccount(NamedTuple):
    """Whose money, in which currency: every ledger entry belongs to one balance account.

    The holder is a restaurant, which has one for each currency. An account has one, which its id
    alone names. The platform has one for each currency, and its id is empty.
    """

    holder_id: str
    currency: str


@dataclass(frozen=True, slots=True)
class Balance:
    """The balances of one account, in minor units; negative if the restaurant owes the platform.

    `last_event_at` is the latest `occurred_at` of the events counted, None without any. `as_of` is
    the instant of the balance.
    """

    account: BalanceAccount
    available_minor: int
    pending_minor: int
    reserved_minor: int
    disputed_minor: int
    reserve_held_minor: int
    last_event_at: datetime | None
    as_of: datetime
