"""One database transaction, and the restaurants and accounts in it."""

from types import TracebackType
from typing import Protocol, Self

from ledger.application.ports.accounts import Accounts
from ledger.application.ports.payments import PaymentBooks
from ledger.application.ports.payouts import PayoutSettlement, PayoutSubmissions
from ledger.application.ports.quarantine import QuarantineMoves
from ledger.domain.restaurants import Restaurant, RestaurantProfile


class Restaurants(Protocol):
    """The restaurants, inside a unit of work."""

    async def put(self, profile: RestaurantProfile) -> Restaurant:
        """Registers a restaurant or replaces its profile."""
        ...

    async def register(self, restaurant_id: str) -> None:
        """Registers a restaurant with a profile of defaults, unless it is registered."""
        ...

    async def get(self, restaurant_id: str) -> Restaurant | None:
        """The restaurant, or None."""
        ...

    async def lock(self, restaurant_id: str) -> Restaurant | None:
        """The restaurant, or None. Its profile cannot change until the unit of work ends."""
        ...

    async def page(self, after: str, limit: int) -> list[Restaurant]:
        """At most `limit` restaurants whose id is after `after`, in the byte order of ids."""
        ...


class UnitOfWork(Protocol):
    """One database transaction. Leaving the block rolls back what was not committed."""

    @property
    def restaurants(self) -> Restaurants: ...

    @property
    def accounts(self) -> Accounts: ...

    @property
    def settlement(self) -> PayoutSettlement: ...

    @property
    def submissions(self) -> PayoutSubmissions: ...

    @property
    def quarantine(self) -> QuarantineMoves: ...

    @property
    def payments(self) -> PaymentBooks: ...

    async def commit(self) -> None:
        """Makes all changes since the block was entered durable, all or none."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class UnitOfWorkFactory(Protocol):
    """Begins a unit of work: `async with begin() as uow:`."""

    def __call__(self) -> UnitOfWork: ...
