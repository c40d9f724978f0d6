"""What a restaurant has in one currency, at one instant."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Balance:
    """The balances of one balance account, in minor units; negative when the restaurant owes the platform.

    `last_event_at` is the latest `occurred_at` of the events counted, None without any. `as_of` is the instant it holds for.
    """

    restaurant_id: str
    currency: str
    available_minor: int
    pending_minor: int
    reserved_minor: int
    disputed_minor: int
    last_event_at: datetime | None
    as_of: datetime
