"""The unit of work in memory."""

from types import TracebackType
from typing import Self

from ledger.testing.memory.accounts import MemoryAccounts
from ledger.testing.memory.books import Books
from ledger.testing.memory.payment_books import MemoryPaymentBooks
from ledger.testing.memory.payouts import MemoryPayoutSettlement
from ledger.testing.memory.quarantine import MemoryQuarantineMoves
from ledger.testing.memory.restaurants import MemoryRestaurants
from ledger.testing.memory.submissions import MemoryPayoutSubmissions


class MemoryUnitOfWork:
    """Implements `ledger.application.ports.unit_of_work.UnitOfWork`."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self.restaurants = MemoryRestaurants(books)
        self.accounts = MemoryAccounts(books)
        self.settlement = MemoryPayoutSettlement(books)
        self.submissions = MemoryPayoutSubmissions(books)
        self.quarantine = MemoryQuarantineMoves(books)
        self.payments = MemoryPaymentBooks(books)

    async def commit(self) -> None:
        self._books.commit()

    async def __aenter__(self) -> Self:
        self._books.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._books.roll_back()
