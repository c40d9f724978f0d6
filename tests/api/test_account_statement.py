"""ListAccountEntries as a caller sees it: between balances that tie out, page by page."""

import asyncio
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from support.audit import assert_books_in_order
from support.events import unique
from support.paying import MANUAL, funded_account, opened_account, order
from support.running import RunningLedger
from support.snapshots import make_marks, take_snapshots
from support.transfers import post_payments

from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

FUNDS = ledger_pb2.LEDGER_ACCOUNT_ACCOUNT_FUNDS


@dataclass(frozen=True, slots=True)
class Statement:
    """All pages of a statement."""

    opening_minor: int
    closing_minor: int
    lines: list[account_pb2.AccountEntry]

    @property
    def entries(self) -> list[tuple[str, int, str]]:
        """Type, amount with its sign, and payment of each entry."""
        return [
            (
                ledger_pb2.EntryType.Name(line.entry.type).removeprefix("ENTRY_TYPE_"),
                line.entry.amount_minor * (1 if line.entry.credit_account == FUNDS else -1),
                line.entry.payment_id,
            )
            for line in self.lines
        ]

    @property
    def balances(self) -> list[int | None]:
        return [
            line.balance_minor if line.HasField("balance_minor") else None for line in self.lines
        ]


async def statement_of(ledger: RunningLedger, account_id: str, **fields: Any) -> Statement:
    """Reads every page. Asserts that each has the same balances."""
    lines: list[account_pb2.AccountEntry] = []
    token, balances = "", set()
    while True:
        page = await ledger.accounts.ListAccountEntries(
            account_pb2.ListAccountEntriesRequest(account_id=account_id, page_token=token, **fields)
        )
        lines += page.entries
        balances.add((page.opening_balance_minor, page.closing_balance_minor))
        token = page.next_page_token
        if not token:
            break
    ((opening_minor, closing_minor),) = balances
    return Statement(opening_minor, closing_minor, lines)


async def available(ledger: RunningLedger, account_id: str, as_of: Timestamp | None = None) -> int:
    request = account_pb2.GetAccountBalanceRequest(account_id=account_id, as_of=as_of)
    return (await ledger.accounts.GetAccountBalance(request)).available_minor


async def paid(ledger: RunningLedger, payer: str, payee: str, amount: int, **fields: Any) -> str:
    payment_id = unique("pay")
    await ledger.payments.AuthorizePayment(order(payment_id, payer, payee, amount, **fields))
    return payment_id


@pytest.mark.both_servers
async def test_statement_shows_what_moved_the_available_balance(
    shared_ledger: RunningLedger,
) -> None:
    """Holds and releases of the payer, what came and went; captures of a hold move nothing more."""
    payer = await funded_account(shared_ledger, 1_000)
    payee = await opened_account(shared_ledger)
    (funding,) = {
        line.entry.payment_id for line in (await statement_of(shared_ledger, payer)).lines
    }
    held = await paid(shared_ledger, payer, payee, 300, capture=MANUAL)
    await shared_ledger.payments.CapturePayment(
        payment_pb2.CapturePaymentRequest(
            payment_id=held, operation_id=unique("op"), amount_minor=120, is_final=True
        )
    )
    sent = await paid(shared_ledger, payer, payee, 50)
    await shared_ledger.payments.RefundPayment(
        payment_pb2.RefundPaymentRequest(
            payment_id=held, operation_id=unique("op"), amount_minor=20
        )
    )
    payer_statement = await statement_of(shared_ledger, payer, page_size=2)
    assert payer_statement.entries == [
        ("TRANSFER_IN", 1_000, funding),
        ("PAYMENT_HOLD", -300, held),
        ("PAYMENT_RELEASE", 180, held),
        ("TRANSFER_OUT", -50, sent),
        ("REFUND_IN", 20, held),
    ]
    assert payer_statement.balances == [1_000, 700, 880, 830, 850]
    assert (payer_statement.opening_minor, payer_statement.closing_minor) == (0, 850)
    assert await available(shared_ledger, payer) == 850
    payee_statement = await statement_of(shared_ledger, payee, page_size=1)
    assert payee_statement.entries == [
        ("PAYMENT", 120, held),
        ("TRANSFER_IN", 50, sent),
        ("REFUND_OUT", -20, held),
    ]
    assert payee_statement.balances == [120, 170, 150]
    for line in payee_statement.lines:
        entry = line.entry
        assert (entry.account_id, entry.restaurant_id, entry.currency) == (payee, "", "PEN")
        assert (entry.event_id, entry.payout_id) == ("", "")
        assert not entry.HasField("occurred_at")
        assert not entry.HasField("available_at")


@pytest.mark.both_servers
async def test_filtered_statement_keeps_its_balances(shared_ledger: RunningLedger) -> None:
    """By types and by payment; the lines then have no balance after them."""
    payer = await funded_account(shared_ledger, 100)
    payee = await opened_account(shared_ledger)
    sent = [await paid(shared_ledger, payer, payee, amount) for amount in (1, 2, 3)]
    by_payment = await statement_of(shared_ledger, payer, payment_id=sent[1])
    assert by_payment.entries == [("TRANSFER_OUT", -2, sent[1])]
    by_type = await statement_of(
        shared_ledger,
        payer,
        page_size=1,
        entry_types=[ledger_pb2.ENTRY_TYPE_TRANSFER_OUT, ledger_pb2.ENTRY_TYPE_PAYMENT_CAPTURE],
    )
    assert by_type.entries == [
        ("TRANSFER_OUT", -amount, payment_id)
        for amount, payment_id in zip((1, 2, 3), sent, strict=True)
    ]
    for statement in (by_payment, by_type):
        assert statement.balances == [None] * len(statement.lines)
        assert (statement.opening_minor, statement.closing_minor) == (0, 94)
    nothing = await statement_of(shared_ledger, payer, entry_types=[ledger_pb2.ENTRY_TYPE_CHARGE])
    assert (nothing.lines, nothing.closing_minor) == ([], 94)


async def test_statement_ties_out_over_pages_while_payments_go_on(
    shared_ledger: RunningLedger,
) -> None:
    """All pages show the moment of the first one, and marks made in between change nothing.

    The balances of any period are those of GetAccountBalance as of its ends.
    """
    payer = await funded_account(shared_ledger, 10**6)
    payee = await opened_account(shared_ledger)
    await paid(shared_ledger, payer, payee, 7)
    is_over = asyncio.Event()

    async def pay() -> None:
        while not is_over.is_set():
            await paid(shared_ledger, payer, payee, 7)
            await paid(shared_ledger, payee, payer, 5, capture=MANUAL)

    async def shorten() -> None:
        while not is_over.is_set():
            await make_marks(shared_ledger.engine, payer, mark_entries=3)
            await take_snapshots(shared_ledger.engine, payer)

    workers = [asyncio.create_task(work()) for work in (pay, pay, pay, shorten)]
    ends: list[Timestamp] = []
    try:
        for _ in range(6):
            for account_id in (payer, payee):
                statement = await statement_of(shared_ledger, account_id, page_size=4)
                balances = [statement.opening_minor, *statement.balances]
                assert balances[-1] == statement.closing_minor
                moved = [amount for _, amount, _ in statement.entries]
                assert (
                    [
                        balance + amount  # type: ignore[operator]
                        for balance, amount in zip(balances, moved, strict=False)
                    ]
                    == balances[1:]
                )
                instants = [line.entry.recorded_at.ToNanoseconds() for line in statement.lines]
                assert instants == sorted(instants)
            ends.append(statement.lines[len(statement.lines) // 2].entry.recorded_at)
    finally:
        is_over.set()
        await asyncio.gather(*workers)
    whole = await statement_of(shared_ledger, payee, page_size=1000)
    for start_at, end_at in pairwise(ends):
        period = await statement_of(
            shared_ledger, payee, start_at=start_at, end_at=end_at, page_size=3
        )
        assert period.opening_minor == await available(shared_ledger, payee, start_at)
        assert period.closing_minor == await available(shared_ledger, payee, end_at)
        assert period.lines == [
            line
            for line in whole.lines
            if start_at.ToNanoseconds()
            <= line.entry.recorded_at.ToNanoseconds()
            < end_at.ToNanoseconds()
        ]


async def test_largest_page_of_a_long_account_is_answered(shared_ledger: RunningLedger) -> None:
    """A thousand entries of one transaction, and the rest on the next page."""
    payer, payee = (
        await opened_account(shared_ledger, limit_minor=None),
        await opened_account(shared_ledger),
    )
    async with autocommit(shared_ledger.engine) as connection:
        await post_payments(connection, payer, payee, 3, count=1_500)
    first = await shared_ledger.accounts.ListAccountEntries(
        account_pb2.ListAccountEntriesRequest(account_id=payee, page_size=5_000)
    )
    assert len(first.entries) == 1_000
    statement = await statement_of(shared_ledger, payee, page_size=1_000)
    assert statement.balances == [3 * number for number in range(1, 1_501)]
    await assert_books_in_order(shared_ledger.database)


@pytest.mark.both_servers
async def test_payment_to_a_restaurant_is_in_its_statement_too(
    shared_ledger: RunningLedger,
) -> None:
    """Its entries, the fee included, name the payment and no event."""
    payer = await funded_account(shared_ledger, 1_000)
    restaurant_id = unique("res")
    payment_id = await paid(
        shared_ledger, payer, "", 400, payee_restaurant_id=restaurant_id, fee_minor=30
    )
    entries = (
        await shared_ledger.stub.ListEntries(
            ledger_pb2.ListEntriesRequest(restaurant_id=restaurant_id, currency="PEN")
        )
    ).entries
    assert [(entry.type, entry.amount_minor) for entry in entries] == [
        (ledger_pb2.ENTRY_TYPE_TRANSFER_IN, 400),
        (ledger_pb2.ENTRY_TYPE_FEE, 30),
    ]
    for entry in entries:
        assert (entry.payment_id, entry.event_id) == (payment_id, "")
        assert (entry.restaurant_id, entry.account_id) == (restaurant_id, "")


@pytest.mark.both_servers
async def test_unknown_account_has_no_statement(shared_ledger: RunningLedger) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await statement_of(shared_ledger, unique("acc"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
