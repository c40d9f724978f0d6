"""The server in memory, as tests of the contract take a running ledger."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from grpc import aio

from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.payout_states import UNANSWERED_STATES
from ledger.testing import LedgerServer
from ledger.testing.memory.books import Books
from ledger.v1 import account_pb2_grpc, ledger_pb2, ledger_pb2_grpc, payment_pb2_grpc
from support.running import COUNT_EVERYTHING


@dataclass(frozen=True, slots=True)
class MemoryLedger:
    """As `RunningLedger`, as far as tests that both servers pass use it."""

    address: str
    channel: aio.Channel
    stub: "ledger_pb2_grpc.LedgerServiceAsyncStub"
    accounts: "account_pb2_grpc.AccountServiceAsyncStub"
    payments: "payment_pb2_grpc.PaymentServiceAsyncStub"
    in_memory: LedgerServer

    @property
    def database(self) -> "MemoryLedger":
        """Stands for the database where helpers take one."""
        return self

    @property
    def engine(self) -> "MemoryLedger":
        """Stands for the sessions where helpers take some."""
        return self

    @property
    def books(self) -> Books:
        """What the server has booked."""
        return self.in_memory.books

    async def ingest(self, *events: ledger_pb2.ProcessorEvent) -> list[ledger_pb2.IngestResult]:
        """Sends events as one batch. Returns the results in the order of the events."""
        response = await self.stub.BatchIngestEvents(
            ledger_pb2.BatchIngestEventsRequest(events=events)
        )
        return list(response.results)

    async def balance(
        self, restaurant_id: str, currency: str = "PEN"
    ) -> ledger_pb2.GetBalanceResponse:
        """The balance of now."""
        return await self.stub.GetBalance(
            ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency=currency)
        )

    async def query(self, statement: str) -> list[tuple[int, ...]]:
        """How many rows there are, as COUNT_EVERYTHING counts them; books in memory have no SQL."""
        return [await self.fetchrow(statement)]

    async def fetchrow(self, statement: str) -> tuple[int, ...]:
        """The only row of COUNT_EVERYTHING."""
        assert statement == COUNT_EVERYTHING, "books in memory have no SQL"
        return rows_of(self.books)


def rows_of(books: Books) -> tuple[int, ...]:
    """What COUNT_EVERYTHING counts."""
    return (
        len(books.events),
        sum(len(books.entries_of(number)) for number in books.holders),
        len(books.restaurants),
        len(books.holders),
        len(books.payout_runs),
        sum(len(booked.items) for booked in books.payout_runs.values()),
        len(books.payouts),
        sum(len(booked.items) for booked in books.payouts.values()),
        len(books.accounts),
        len(books.payments),
        sum(len(booked.operations) for booked in books.payments.values()),
    )


def faults_of(books: Books) -> list[str]:
    """What the audit of a database would find that books in memory can get wrong."""
    faults: list[str] = []
    inter_minor: Counter[object] = Counter()
    for number, holder in books.holders.items():
        entries = books.entries_of(number)
        for booked in entries:
            entry = booked.entry
            inter_minor[entry.transaction_id] += booked.minor_on(LedgerAccount.INTERACCOUNT)
            if entry.amount_minor < 1 or entry.debit is entry.credit:
                faults.append(f"{holder}: {entry} moves nothing")
        reserved = sum(booked.minor_on(LedgerAccount.PAYOUT_RESERVED) for booked in entries)
        unanswered = sum(
            booked.payout.amount_minor
            for booked in books.payouts.values()
            if booked.balance_account_id == number and booked.payout.state in UNANSWERED_STATES
        )
        if reserved != unanswered:
            faults.append(f"{holder}: {reserved} reserved, {unanswered} unanswered")
        if sum(booked.minor_on(LedgerAccount.ACCOUNT_HELD) for booked in entries) != sum(
            booked.payment.held_minor
            for booked in books.payments.values()
            if booked.payer_id == number
        ):
            faults.append(f"{holder}: what is held is not what payments hold")
    for booked_payout in books.payouts.values():
        payout = booked_payout.payout
        left_minor = payout.retained_minor - payout.retained_before_minor
        items_minor = sum(item.amount_minor for item in booked_payout.items)
        if items_minor != payout.amount_minor + left_minor:
            faults.append(f"{payout}: its items are {items_minor}")
    faults += [
        f"{name} leaves {rest} on interaccount" for name, rest in inter_minor.items() if rest
    ]
    return faults


@asynccontextmanager
async def memory_ledger(**settings: Any) -> AsyncIterator[MemoryLedger]:
    """A server in memory, and clients of it."""
    async with (
        LedgerServer(**settings) as server,
        aio.insecure_channel(server.address) as channel,
    ):
        yield MemoryLedger(
            server.address,
            channel,
            ledger_pb2_grpc.LedgerServiceStub(channel),
            account_pb2_grpc.AccountServiceStub(channel),
            payment_pb2_grpc.PaymentServiceStub(channel),
            server,
        )
