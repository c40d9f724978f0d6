"""Accounts are opened once under their id, lose no update, and close empty."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status
from support.audit import assert_books_in_order
from support.events import unique
from support.locks import until_blocked
from support.paying import (
    MANUAL,
    account_balance,
    open_accounts,
    opened_account,
    order,
    update_account,
)
from support.running import RunningLedger
from support.transfers import hold, post_payments, transfer, void
from support.waiting import DEADLINE_SECONDS

from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.v1 import account_pb2, payment_pb2

CREATED = account_pb2.CREATE_ACCOUNT_STATUS_CREATED
DUPLICATE = account_pb2.CREATE_ACCOUNT_STATUS_DUPLICATE
OPEN = account_pb2.ACCOUNT_STATE_OPEN
FROZEN = account_pb2.ACCOUNT_STATE_FROZEN
CLOSED = account_pb2.ACCOUNT_STATE_CLOSED
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


async def create(
    ledger: RunningLedger, account_id: str, currency: str = "PEN", **fields: Any
) -> account_pb2.CreateAccountResponse:
    return await ledger.accounts.CreateAccount(
        account_pb2.CreateAccountRequest(account_id=account_id, currency=currency, **fields)
    )


async def get(ledger: RunningLedger, account_id: str) -> account_pb2.Account:
    request = account_pb2.GetAccountRequest(account_id=account_id)
    return (await ledger.accounts.GetAccount(request)).account


async def balance(ledger: RunningLedger, account_id: str) -> tuple[int, int, int]:
    """What is available, held, and both."""
    found = await account_balance(ledger, account_id)
    return found.available_minor, found.held_minor, found.posted_minor


async def refusal_of(call: Awaitable[object]) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return caught.value.code(), info.reason, dict(info.metadata)


@pytest.mark.both_servers
async def test_account_is_opened_once(shared_ledger: RunningLedger) -> None:
    """A repeat gets the account as it is now, whatever its metadata, and changes nothing."""
    account_id = unique("acc")
    overdraft = account_pb2.Overdraft(limit_minor=900)
    first = await create(
        shared_ledger, account_id, name="Caja", overdraft=overdraft, metadata={"a": "1"}
    )
    assert (first.status, first.account.state) == (CREATED, OPEN)
    assert (first.account.name, first.account.overdraft) == ("Caja", overdraft)
    assert first.account.updated_at == first.account.created_at
    changed = await update_account(shared_ledger, account_id, "name", "overdraft", name="Otra")
    repeat = await create(shared_ledger, account_id, name="Caja", overdraft=overdraft)
    assert (repeat.status, repeat.account) == (DUPLICATE, changed)
    assert await get(shared_ledger, account_id) == changed
    assert await balance(shared_ledger, account_id) == (0, 0, 0)


@pytest.mark.both_servers
async def test_same_id_with_other_contents_is_refused(shared_ledger: RunningLedger) -> None:
    """The fields that differ from the opening are named, also if the account has changed since."""
    account_id = unique("acc")
    await create(shared_ledger, account_id, name="Caja")
    await update_account(shared_ledger, account_id, "name", name="Otra")

    async def differing(currency: str = "PEN", **fields: Any) -> str:
        code, reason, metadata = await refusal_of(
            create(shared_ledger, account_id, currency, **fields)
        )
        assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "ACCOUNT_ID_REUSED")
        assert metadata["account_id"] == account_id
        return metadata["differing_fields"]

    assert await differing("USD", name="Caja") == "currency"
    assert await differing(name="Otra") == "name"
    assert await differing(name="", overdraft=account_pb2.Overdraft(unlimited=True)) == (
        "name,overdraft"
    )


async def test_callers_at_once_open_one_account(shared_ledger: RunningLedger) -> None:
    """Of 64, one opens it; the others get the same account."""
    account_id = unique("acc")
    responses = await asyncio.gather(
        *(create(shared_ledger, account_id, name="Caja") for _ in range(64))
    )
    assert Counter(response.status for response in responses) == {CREATED: 1, DUPLICATE: 63}
    assert all(response.account == responses[0].account for response in responses)
    rows = await shared_ledger.query(
        "SELECT currency FROM balance_accounts WHERE account_id = :id", id=account_id
    )
    assert rows == [("PEN",)]


@pytest.mark.both_servers
async def test_fields_that_are_not_named_stay(shared_ledger: RunningLedger) -> None:
    """Each field by itself; other values in the request are ignored."""
    account_id = unique("acc")
    await create(
        shared_ledger,
        account_id,
        name="Caja",
        overdraft=account_pb2.Overdraft(limit_minor=5),
        metadata={"a": "1", "b": "2"},
    )

    async def after(*paths: str, **fields: Any) -> tuple[object, ...]:
        returned = await update_account(shared_ledger, account_id, *paths, **fields)
        assert returned == await get(shared_ledger, account_id)
        limit = returned.overdraft
        return (
            returned.name,
            "unlimited" if limit.unlimited else limit.limit_minor,
            returned.state,
            dict(returned.metadata),
        )

    metadata = {"a": "1", "b": "2"}
    assert await after("name", name="Otra", currency="x") == ("Otra", 5, OPEN, metadata)
    assert await after("overdraft", overdraft=account_pb2.Overdraft(unlimited=True)) == (
        "Otra",
        "unlimited",
        OPEN,
        metadata,
    )
    assert await after("state", state=FROZEN, name="\0") == ("Otra", "unlimited", FROZEN, metadata)
    assert await after("state", "overdraft", state=OPEN) == ("Otra", 0, OPEN, metadata)
    assert await after("metadata.a", "metadata.c", metadata={"c": "3"}) == (
        "Otra",
        0,
        OPEN,
        {"b": "2", "c": "3"},
    )
    assert await after("metadata", "name") == ("", 0, OPEN, {})


@pytest.mark.both_servers
async def test_lost_update_is_refused(shared_ledger: RunningLedger) -> None:
    """Who has read an older state changes nothing; a repeat of what was done succeeds."""
    account_id = unique("acc")
    read = (await create(shared_ledger, account_id)).account
    newer = await update_account(shared_ledger, account_id, "name", name="First", etag=read.etag)
    assert newer.etag != read.etag
    assert await refusal_of(
        update_account(shared_ledger, account_id, "name", name="Second", etag=read.etag)
    ) == (FAILED_PRECONDITION, "ACCOUNT_CHANGED", {"account_id": account_id})
    assert (
        await update_account(shared_ledger, account_id, "name", name="First", etag=read.etag)
        == newer
    )


@pytest.mark.both_servers
async def test_updates_at_once_are_all_kept(shared_ledger: RunningLedger) -> None:
    """Twenty callers with a different metadata key each; of ten with one etag exactly one wins."""
    account_id = unique("acc")
    await create(shared_ledger, account_id)
    keys = [f"key_{number}" for number in range(20)]
    states = await asyncio.gather(
        *(
            update_account(shared_ledger, account_id, f"metadata.{key}", metadata={key: "x"})
            for key in keys
        )
    )
    read = await get(shared_ledger, account_id)
    assert dict(read.metadata) == dict.fromkeys(keys, "x")
    assert len({state.etag for state in states}) == 20
    assert len({state.updated_at.ToNanoseconds() for state in states}) == 20
    outcomes = await asyncio.gather(
        *(
            update_account(shared_ledger, account_id, "name", name=key, etag=read.etag)
            for key in keys[:10]
        ),
        return_exceptions=True,
    )
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, account_pb2.Account)]
    refused = [outcome.code() for outcome in outcomes if isinstance(outcome, aio.AioRpcError)]
    assert refused == [FAILED_PRECONDITION] * 9
    assert await get(shared_ledger, account_id) == winner


@pytest.mark.both_servers
async def test_unknown_account_is_not_found(shared_ledger: RunningLedger) -> None:
    account_id = unique("acc")
    request = account_pb2.GetAccountBalanceRequest(account_id=account_id)
    for call in (
        get(shared_ledger, account_id),
        update_account(shared_ledger, account_id, "name", name="x"),
        shared_ledger.accounts.GetAccountBalance(request),
    ):
        assert await refusal_of(call) == (
            grpc.StatusCode.NOT_FOUND,
            "ACCOUNT_NOT_FOUND",
            {"account_id": account_id},
        )


@pytest.mark.both_servers
async def test_metadata_that_grows_too_large_is_refused(shared_ledger: RunningLedger) -> None:
    """The keys that stay count as well."""
    account_id = unique("acc")
    await create(shared_ledger, account_id, metadata={"a": "x" * 5000})
    assert await refusal_of(
        update_account(shared_ledger, account_id, "metadata.b", metadata={"b": "x" * 5000})
    ) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        {"field": "account.metadata"},
    )


@pytest.mark.both_servers
async def test_closed_account_stays_as_it_is(shared_ledger: RunningLedger) -> None:
    """Only what changes nothing succeeds, such as closing it again, by whatever etag."""
    account_id = unique("acc")
    etag = (await create(shared_ledger, account_id, name="Caja")).account.etag
    closed = await update_account(shared_ledger, account_id, "state", state=CLOSED, etag=etag)
    assert closed.state == CLOSED
    assert (
        await update_account(shared_ledger, account_id, "state", state=CLOSED, etag=etag) == closed
    )
    refused = (FAILED_PRECONDITION, "ACCOUNT_CLOSED", {"account_id": account_id})
    for path, fields in (
        ("state", {"state": OPEN}),
        ("state", {"state": FROZEN}),
        ("name", {"name": "Otra"}),
        ("overdraft", {"overdraft": account_pb2.Overdraft(limit_minor=1)}),
        ("metadata.a", {"metadata": {"a": "1"}}),
    ):
        assert (
            await refusal_of(update_account(shared_ledger, account_id, path, **fields)) == refused
        ), path
    assert (await create(shared_ledger, account_id, name="Caja")).account == closed


async def test_account_closes_only_when_it_is_empty(shared_ledger: RunningLedger) -> None:
    """Neither with money, nor with a hold, nor with a debt; a frozen one may close."""
    account_id, other = unique("acc"), unique("acc")
    await open_accounts(shared_ledger.engine, account_id, other)
    not_empty = (FAILED_PRECONDITION, "ACCOUNT_NOT_EMPTY", {"account_id": account_id})

    async def close() -> account_pb2.Account:
        return await update_account(
            shared_ledger, account_id, "state", "name", state=CLOSED, name="x"
        )

    await transfer(shared_ledger.engine, other, account_id, 70)
    assert await refusal_of(close()) == not_empty
    payment_id = await hold(shared_ledger.engine, account_id, other, 70)
    assert await balance(shared_ledger, account_id) == (0, 70, 70)
    assert await refusal_of(close()) == not_empty
    await void(shared_ledger.engine, payment_id)
    await transfer(shared_ledger.engine, account_id, other, 71)
    assert await balance(shared_ledger, account_id) == (-1, 0, -1)
    assert await refusal_of(close()) == not_empty
    assert (await get(shared_ledger, account_id)).name == ""
    await transfer(shared_ledger.engine, other, account_id, 1)
    await update_account(shared_ledger, account_id, "state", state=FROZEN)
    assert (await close()).state == CLOSED


@pytest.mark.parametrize("lock", ["FOR NO KEY UPDATE", "FOR KEY SHARE"])
async def test_closing_waits_for_payments_and_counts_them(
    shared_ledger: RunningLedger, lock: str
) -> None:
    """Two calls close an account while a payment to it is posted: both find its money."""
    account_id, other = unique("acc"), unique("acc")
    await open_accounts(shared_ledger.engine, account_id, other)

    async def close() -> account_pb2.Account:
        return await update_account(shared_ledger, account_id, "state", state=CLOSED)

    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        autocommit(shared_ledger.engine) as connection,
    ):
        async with connection.transaction():
            await connection.execute(
                f"SELECT FROM balance_accounts WHERE account_id = $1 {lock}", account_id
            )
            closes = [asyncio.create_task(refusal_of(close())) for _ in range(2)]
            await until_blocked(shared_ledger, 2)
            await post_payments(connection, other, account_id, 5)
        for refused in closes:
            assert (await refused)[1] == "ACCOUNT_NOT_EMPTY"
    await transfer(shared_ledger.engine, account_id, other, 5)
    first, second = await asyncio.gather(close(), close())
    assert first == second


@pytest.mark.both_servers
async def test_closed_account_has_nothing_however_calls_race(
    shared_ledger: RunningLedger, seed: int
) -> None:
    """Payments, holds and closings of the same accounts at once: money is in open accounts only."""
    chance = random.Random(seed)
    bank = await opened_account(shared_ledger, limit_minor=None)
    accounts = [await opened_account(shared_ledger) for _ in range(12)]

    async def act(account_id: str, kind: str) -> None:
        if kind == "close":
            with suppress(aio.AioRpcError):
                await update_account(shared_ledger, account_id, "state", state=CLOSED)
            return
        payer, payee = (bank, account_id) if kind == "in" else (account_id, bank)
        capture = {"capture": MANUAL} if kind == "hold" else {}
        await shared_ledger.payments.AuthorizePayment(
            order(unique("pay"), payer, payee, 5, **capture)
        )

    # Half of the accounts have money at the beginning. The others get none, so they are closed.
    with_money = accounts[::2]
    for account_id in with_money:
        await act(account_id, "in")
    for _ in range(4):
        calls = [
            act(account_id, kind)
            for account_id in accounts
            for kind in (
                "close",
                "out",
                chance.choice(("close", "in" if account_id in with_money else "close")),
                chance.choice(("out", "hold")),
            )
        ]
        chance.shuffle(calls)
        await asyncio.gather(*calls)
    closed = 0
    for account_id in accounts:
        if (await get(shared_ledger, account_id)).state == CLOSED:
            closed += 1
            assert await balance(shared_ledger, account_id) == (0, 0, 0), f"seed {seed}"
            refused = await shared_ledger.payments.AuthorizePayment(
                order(unique("pay"), bank, account_id, 5)
            )
            assert refused.payment.decline_reason == payment_pb2.DECLINE_REASON_ACCOUNT_CLOSED
    assert closed >= len(accounts) / 2, f"seed {seed}"
    await assert_books_in_order(shared_ledger.database)


@pytest.mark.both_servers
async def test_accounts_are_listed_in_the_order_of_their_ids(ledger: RunningLedger) -> None:
    """By bytes, page by page; an account that comes in between is there if its id is later."""
    ids = ["B", "a", "a.b", "a:1", "a_1", "b"]
    await asyncio.gather(*(create(ledger, account_id) for account_id in reversed(ids)))

    async def page(size: int, token: str = "") -> tuple[list[str], str]:
        response = await ledger.accounts.ListAccounts(
            account_pb2.ListAccountsRequest(page_size=size, page_token=token)
        )
        return [account.account_id for account in response.accounts], response.next_page_token

    assert await page(6) == (ids, "")
    assert await page(0) == (ids, "")
    first, token = await page(2)
    assert first == ["B", "a"]
    await create(ledger, "A")
    await create(ledger, "az")
    second, token = await page(3, token)
    assert second == ["a.b", "a:1", "a_1"]
    assert await page(1000, token) == (["az", "b"], "")
    listed = (await ledger.accounts.ListAccounts(account_pb2.ListAccountsRequest())).accounts
    assert listed[1] == await get(ledger, "B")


async def test_page_of_large_accounts_ends_early(ledger: RunningLedger) -> None:
    """Rather than be larger than the 4 MiB that clients take; the next page goes on after it."""
    count = 500
    await open_accounts(ledger.engine, *(f"acc_{number:03}" for number in range(count)))
    await ledger.query("UPDATE accounts SET metadata = jsonb_build_object('a', repeat('x', 8000))")
    seen: list[str] = []
    token = ""
    pages = 0
    while True:
        response = await ledger.accounts.ListAccounts(
            account_pb2.ListAccountsRequest(page_size=1000, page_token=token)
        )
        seen += [account.account_id for account in response.accounts]
        pages, token = pages + 1, response.next_page_token
        if not token:
            break
    assert seen == [f"acc_{number:03}" for number in range(count)]
    assert pages == 2


async def test_balance_has_all_that_was_committed_before(shared_ledger: RunningLedger) -> None:
    """Also of calls at once, which share a query."""
    payer, payee = unique("acc"), unique("acc")
    await open_accounts(shared_ledger.engine, payer, payee)
    for number in range(1, 4):
        await transfer(shared_ledger.engine, payer, payee, 10)
        await hold(shared_ledger.engine, payee, payer, 1)
        found = await asyncio.gather(
            *(balance(shared_ledger, account) for account in (payer, payee) * 10)
        )
        assert (
            found
            == [
                (-10 * number, 0, -10 * number),
                (9 * number, number, 10 * number),
            ]
            * 10
        )
    await assert_books_in_order(shared_ledger.database)
