"""Tells what a restaurant has in one currency."""

from datetime import datetime

from ledger.application.ports import BalanceQuery, BalanceReader
from ledger.domain.balances import Balance
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.errors import AmountOutOfRange, FieldViolation, InvalidRequest, RestaurantNotFound

AMOUNT_FIELDS = ("available_minor", "pending_minor", "reserved_minor", "disputed_minor")


async def get_balance(balances: BalanceReader, restaurant_id: str, currency: str, as_of: datetime | None) -> Balance:
    """The balance now, or at the past instant `as_of`; zeros for a known restaurant without entries.

    Raises RestaurantNotFound; InvalidRequest when `as_of` is in the future by the database's clock; AmountOutOfRange when a sum
    does not fit the contract's int64; DatabaseUnavailable, DatabaseTimeout.
    """
    (balance,) = await balances.read([BalanceQuery(restaurant_id, currency, as_of)])
    if balance is None:
        raise RestaurantNotFound(restaurant_id)
    if as_of is not None and balance.as_of < as_of:
        raise InvalidRequest([FieldViolation("as_of", "must not be in the future")])
    for field in AMOUNT_FIELDS:
        if not INT64_MIN <= getattr(balance, field) <= INT64_MAX:
            raise AmountOutOfRange(field)
    return balance
