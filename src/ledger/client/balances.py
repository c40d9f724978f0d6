"""Balances, with their amounts as money."""

from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from ledger.client.money import Money
from ledger.v1 import account_pb2, ledger_pb2


@dataclass(frozen=True, slots=True)
class Balance:
    """What a restaurant has in a currency. `message` is the response itself.

    Amounts are below zero if the restaurant owes the platform.
    """

    message: ledger_pb2.GetBalanceResponse

    @property
    def restaurant_id(self) -> str:
        """The restaurant."""
        return self.message.restaurant_id

    @property
    def available(self) -> Money:
        """What it may be paid."""
        return self._money(self.message.available_minor)

    @property
    def pending(self) -> Money:
        """What it was credited and has not matured."""
        return self._money(self.message.pending_minor)

    @property
    def reserved(self) -> Money:
        """What is inside payouts under way."""
        return self._money(self.message.reserved_minor)

    @property
    def disputed(self) -> Money:
        """What is held back for open disputes."""
        return self._money(self.message.disputed_minor)

    @property
    def reserve_held(self) -> Money:
        """What is held back as a reserve."""
        return self._money(self.message.reserve_held_minor)

    @property
    def last_event_at(self) -> datetime | None:
        """The latest `occurred_at` of the events counted; None if there are none."""
        has_one = self.message.HasField("last_event_at")
        return _instant(self.message.last_event_at) if has_one else None

    @property
    def as_of(self) -> datetime:
        """The instant of the balance."""
        return _instant(self.message.as_of)

    def _money(self, minor: int) -> Money:
        return Money.of_minor(minor, self.message.currency)


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """What an account has. `message` is the response itself."""

    message: account_pb2.GetAccountBalanceResponse

    @property
    def account_id(self) -> str:
        """The account."""
        return self.message.account_id

    @property
    def available(self) -> Money:
        """What it may spend, without its overdraft; below zero if it has used that."""
        return self._money(self.message.available_minor)

    @property
    def held(self) -> Money:
        """What is held for payments that were authorised and not captured."""
        return self._money(self.message.held_minor)

    @property
    def posted(self) -> Money:
        """Available and held together."""
        return self._money(self.message.posted_minor)

    @property
    def as_of(self) -> datetime:
        """The instant of the balance."""
        return _instant(self.message.as_of)

    def _money(self, minor: int) -> Money:
        return Money.of_minor(minor, self.message.currency)


def _instant(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)
