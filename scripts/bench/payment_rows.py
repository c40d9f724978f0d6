"""The rows of payments between accounts: each measure and its limit."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from grpc import aio

from ledger.v1 import payment_pb2, payment_pb2_grpc
from scripts.bench import books
from scripts.bench.bench import Bench, Load, interleaved
from scripts.bench.report import Row, load_row, row, with_costs
from scripts.bench.rows import (
    RAW_CHANNELS,
    SHORT_ACCOUNT_ENTRIES,
    Rows,
    against_empty,
    long_against_short,
)
from scripts.bench.wire import account_ids

CURRENCY = "PEN"
ACCOUNTS = 1_000
# An account without a limit, which gives the others their funds.
SOURCE = "bench.source"
FUNDS_MINOR = 1_000_000_000_000
CALLERS = 64
BATCH_TRANSFERS = 1_000
BATCH_CALLERS = 4
TRANSFERS_WANTED = 15_000
TRANSFER = Load("AuthorizePayment", CALLERS, currency=CURRENCY, restaurants=ACCOUNTS)
BATCH = replace(
    TRANSFER,
    method="BatchTransfers",
    callers=BATCH_CALLERS,
    events=BATCH_TRANSFERS,
    field="transfers",
)


async def open_accounts(bench: Bench) -> None:
    """Opens the accounts that pay each other, with funds, once."""
    if SOURCE in bench.loaded:
        return
    bench.loaded.add(SOURCE)
    accounts = account_ids(CURRENCY, ACCOUNTS)
    await bench.connection.execute(books.OPEN_ACCOUNTS, [SOURCE], CURRENCY, None)
    await bench.connection.execute(books.OPEN_ACCOUNTS, accounts, CURRENCY, 0)
    async with aio.insecure_channel(bench.service.address) as channel:
        response = await payment_pb2_grpc.PaymentServiceStub(channel).BatchTransfers(
            payment_pb2.BatchTransfersRequest(
                transfers=[
                    payment_pb2.Transfer(
                        payment_id=f"funds.{account}",
                        payer_account_id=SOURCE,
                        payee_account_id=account,
                        currency=CURRENCY,
                        amount_minor=FUNDS_MINOR,
                    )
                    for account in accounts
                ]
            )
        )
    captured = payment_pb2.PAYMENT_STATUS_CAPTURED
    wrong = [result for result in response.results if result.status != captured]
    if wrong:
        raise books.WrongBooks(f"not all accounts got their funds: {wrong[0]}")
    await bench.connection.execute("ANALYZE")


async def transfer(bench: Bench, load: Load, callers: str) -> Row:
    await open_accounts(bench)
    limit, measured = await against_empty(bench, load)
    return load_row(
        f"AuthorizePayment at once, {callers}", measured, "calls/s", limit, wanted=">= 0.45"
    )


async def transfer_64(bench: Bench) -> Rows:
    yield await transfer(bench, TRANSFER, f"{CALLERS} callers")


async def transfer_64_raw(bench: Bench) -> Rows:
    load = replace(TRANSFER, raw=True, channels=RAW_CHANNELS)
    yield await transfer(bench, load, f"{CALLERS} raw callers")


async def transfer_one_payer(bench: Bench) -> Rows:
    """All callers pay from one account, against callers that pay from a thousand."""
    await open_accounts(bench)
    spread = replace(TRANSFER, raw=True, channels=RAW_CHANNELS)
    one = replace(spread, payer=account_ids(CURRENCY, 1)[0])
    (limit,), measured = await interleaved(
        bench.sizes.rounds,
        [partial(bench.run, spread, bench.service)],
        partial(bench.run, one, bench.service),
    )
    yield load_row(
        f"AuthorizePayment, one payer against {ACCOUNTS:,}, {CALLERS} raw callers",
        measured,
        "calls/s",
        limit,
        wanted=">= 0.7",
    )


async def authorize_capture(bench: Bench) -> Rows:
    """Payments that are held, and captured by a second call."""
    await open_accounts(bench)
    limit, measured = await against_empty(bench, replace(TRANSFER, captures=True))
    yield load_row(
        f"AuthorizePayment, then CapturePayment, {CALLERS} callers", measured, "payments/s", limit
    )


async def transfer_batch(bench: Bench) -> Rows:
    """Against the transfers a second that two cores should make."""
    await open_accounts(bench)
    await bench.run(BATCH, bench.service, bench.sizes.warm_up_seconds)
    measured = await bench.run(BATCH, bench.service, bench.sizes.seconds)
    figure = row(
        f"BatchTransfers of {BATCH_TRANSFERS:,}, {BATCH_CALLERS} callers",
        measured.rate,
        "transfers/s",
        TRANSFERS_WANTED,
        measured.latencies,
        wanted=">= 1",
    )
    yield with_costs(figure, measured)


async def account_balance_size(bench: Bench) -> Rows:
    """The p50 of one caller: an account with very many entries against one with few."""
    few = await long_account(bench, SHORT_ACCOUNT_ENTRIES)
    many = await long_account(bench, bench.sizes.long_account_entries)
    yield await long_against_short(bench, few, many)


async def long_account(bench: Bench, entries: int) -> Load:
    """One caller that reads the balance of an account with `entries` entries, which it makes."""
    account_id = f"long.{entries}"
    if account_id not in bench.loaded:
        bench.loaded.add(account_id)
        await books.load_long_funds(bench.connection, account_id, CURRENCY, entries)
        # As autovacuum would have done by the time of a read.
        await bench.connection.execute("VACUUM (ANALYZE) ledger_entries")
    return Load(
        "GetAccountBalance",
        1,
        account=account_id,
        available_minor=entries * books.LONG_ACCOUNT_ENTRY_MINOR,
    )


# By the names for --only.
PAYMENT_ROWS: dict[str, Callable[[Bench], Rows]] = {
    "transfer-64": transfer_64,
    "transfer-64-raw": transfer_64_raw,
    "transfer-one-payer": transfer_one_payer,
    "transfer-batch": transfer_batch,
    "authorize-capture": authorize_capture,
    "account-balance-size": account_balance_size,
}
