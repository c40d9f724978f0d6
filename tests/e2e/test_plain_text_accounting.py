"""Software of others proves the books: what it makes of the journal is what the service says."""

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.audit import assert_books_in_order
from support.audited_books import book_everything
from support.books_reports import journal_file
from support.commands import run_command
from support.dates import days_ago
from support.events import event_message, unique
from support.model import model_balances
from support.paying import IMMEDIATE, MANUAL, account_balance, open_account, operation, order
from support.payout_runs import answer, finished_run
from support.plain_text import (
    HLEDGER,
    AccountAndCurrency,
    beancount_balances,
    beancount_transactions,
    hledger_balances,
    id_of,
)
from support.running import RunningLedger

from ledger.cli.demo_file import DEMO_FILE
from ledger.v1 import ledger_pb2, payment_pb2

RESTAURANTS = ("res:a", "Res-a", "res_a", "9.lives")
CURRENCIES = ("PEN", "JPY", "KWD", "CLF")
# Events of no payout: those follow runs.
TYPES = [
    number
    for name, number in ledger_pb2.EventType.items()
    if not name.endswith("_UNSPECIFIED") and not name.startswith("EVENT_TYPE_PAYOUT_")
]
# Those that are of no restaurant, and those that need not be of one.
OF_THE_PLATFORM = {
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED,
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED,
}
OF_EITHER = {
    ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_ASSESSED,
    ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_REFUNDED,
}
WITH_FEES = {
    ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
}
MATURITY = timedelta(days=7)

SELECT_BALANCES = """
SELECT a.restaurant_id, a.account_id, a.currency, m.ledger_account, -sum(m.signed_minor)
FROM ledger_movements AS m JOIN balance_accounts AS a USING (balance_account_id)
GROUP BY a.restaurant_id, a.account_id, a.currency, m.ledger_account
"""
# A holder, a currency, and a ledger account as names end.
Place = tuple[str, str, str]


async def settle_a_day(ledger: RunningLedger) -> None:
    """A payout day of the demonstration set: the bank pays some, refuses one and returns one."""
    paid, failed = ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
    run = await finished_run(ledger, currency="PEN", as_of=days_ago(1), request_id=unique("run"))
    assert run.payouts_created > 2
    request = ledger_pb2.ListPayoutsRequest(payout_run_id=run.payout_run_id)
    payouts = (await ledger.stub.ListPayouts(request)).payouts
    answers = ((paid,), (failed,), (paid, failed), ())
    for number, payout in enumerate(payouts):
        await answer(ledger, payout.restaurant_id, *answers[number % len(answers)])


async def book_random_events(
    ledger: RunningLedger, chance: random.Random
) -> list[ledger_pb2.ProcessorEvent]:
    """Events of every type in every currency, in batches, some of them repeated."""
    events = []
    for number in range(300):
        amount_minor = chance.choice((1, chance.randint(1, 10**5), chance.randint(1, 10**12)))
        type_ = chance.choice(TYPES)
        has_fees = type_ in WITH_FEES and chance.random() < 0.7
        restaurants = ("",) if type_ in OF_THE_PLATFORM else RESTAURANTS
        events.append(
            event_message(
                type_,
                event_id=f"random:{number}",
                restaurant_id=chance.choice(
                    (*restaurants, "") if type_ in OF_EITHER else restaurants
                ),
                currency=chance.choice(CURRENCIES),
                amount_minor=amount_minor,
                fee_minor=chance.randint(0, amount_minor) if has_fees else 0,
                processor_fee_minor=chance.randint(0, amount_minor) if has_fees else 0,
                occurred_at=datetime.now(UTC) - timedelta(days=chance.randint(0, 20), hours=1),
                reference=f"pay_{chance.randint(1, 50)}",
            )
        )
    for start in range(0, len(events), 60):
        batch = events[start : start + 60]
        batch.append(chance.choice(events[: start + 60]))
        statuses = [result.status for result in await ledger.ingest(*batch)]
        assert statuses[:-1] == [ledger_pb2.INGEST_STATUS_CREATED] * (len(batch) - 1)
    return events


async def pay_at_random(ledger: RunningLedger, chance: random.Random) -> list[str]:
    """Payments between accounts and to restaurants, and operations on them; some are declined."""
    accounts = ["acc:x", "Acc-x", "acc_x"]
    for account_id in accounts:
        await open_account(ledger, account_id, None if account_id == "acc:x" else 500)
    for number in range(60):
        payer, payee = chance.sample(accounts, 2)
        restaurant = {"payee_restaurant_id": chance.choice(RESTAURANTS)}
        fields: dict[str, Any] = restaurant if chance.random() < 0.4 else {}
        request = order(
            f"pay:{number}",
            payer,
            payee,
            chance.randint(1, 2_000),
            capture=chance.choice((IMMEDIATE, MANUAL)),
            **fields,
        )
        response = await ledger.payments.AuthorizePayment(request)
        for step in range(chance.randint(0, 2)):
            kind = chance.choice(("CAPTURE", "VOID", "REFUND", "REVERSE"))
            await operation(ledger, kind, f"op:{number}.{step}", request.payment_id)
        assert response.status != payment_pb2.PAYMENT_STATUS_UNSPECIFIED
    return accounts


def by_place(balances: Counter[AccountAndCurrency]) -> dict[Place, int]:
    found = {}
    for (name, currency), minor in balances.items():
        *_, component, ledger_account = name.split(":")
        holder = id_of(component) if name.count(":") == 3 else "platform"
        found[f"{name.split(':')[1]} {holder}", currency, ledger_account] = minor
    return {place: minor for place, minor in found.items() if minor}


async def balances_in_the_database(ledger: RunningLedger) -> dict[Place, int]:
    """The debits less the credits of every ledger account of every holder."""
    found = {}
    for restaurant_id, account_id, currency, account, minor in await ledger.query(SELECT_BALANCES):
        holder = (
            f"Restaurants {restaurant_id}"
            if restaurant_id
            else f"Accounts {account_id}"
            if account_id
            else "Platform platform"
        )
        found[holder, currency, account.replace("_", "-").capitalize()] = int(minor)
    return {place: minor for place, minor in found.items() if minor}


async def test_beancount_and_hledger_agree_with_every_balance(
    ledger: RunningLedger, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demonstration set, a payout day, books with everything, and a random history.

    Each balance that the programs calculate is that of the database, of GetBalance and of
    GetAccountBalance, and those of the random events are those of the model.
    """
    chance = random.Random(seed)
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    await book_everything(ledger)
    booked = await run_command("ingest", str(DEMO_FILE), "--address", ledger.address)
    assert booked.status == 0, booked.stderr
    await settle_a_day(ledger)
    accounts = await pay_at_random(ledger, chance)
    events = await book_random_events(ledger, chance)
    await assert_books_in_order(ledger.database)

    path = await journal_file(tmp_path, "beancount")
    found = by_place(beancount_balances(path))
    assert found == await balances_in_the_database(ledger)
    if HLEDGER is not None:
        assert by_place(hledger_balances(await journal_file(tmp_path, "hledger"))) == found

    ids = [each.meta["transaction-id"] for each in beancount_transactions(path)]
    rows = await ledger.query("SELECT DISTINCT transaction_id::text FROM ledger_entries")
    assert sorted(ids) == sorted(row[0] for row in rows)

    for restaurant_id, currency in await ledger.query(
        "SELECT restaurant_id, currency FROM balance_accounts WHERE restaurant_id IS NOT NULL"
    ):
        balance = await ledger.balance(restaurant_id, currency)
        holder = f"Restaurants {restaurant_id}"
        for ledger_account, minor in (
            ("Restaurant-payable", balance.available_minor + balance.pending_minor),
            ("Payout-reserved", balance.reserved_minor),
            ("Dispute-hold", balance.disputed_minor),
            ("Reserve-hold", balance.reserve_held_minor),
        ):
            assert found.get((holder, currency, ledger_account), 0) == -minor, holder
    for account_id in accounts:
        of_account = await account_balance(ledger, account_id)
        holder = f"Accounts {account_id}"
        assert found.get((holder, "PEN", "Account-funds"), 0) == -of_account.available_minor
        assert found.get((holder, "PEN", "Account-held"), 0) == -of_account.held_minor
    await _compare_with_the_model(ledger, found, events)


async def _compare_with_the_model(
    ledger: RunningLedger, found: dict[Place, int], events: list[ledger_pb2.ProcessorEvent]
) -> None:
    """Except in PEN, in which accounts pay restaurants as well."""
    for (restaurant_id, currency), model in model_balances(
        events, datetime.now(UTC), MATURITY
    ).items():
        if restaurant_id and currency != "PEN":
            place = (f"Restaurants {restaurant_id}", currency, "Restaurant-payable")
            assert found.get(place, 0) == -(model.available_minor + model.pending_minor)
