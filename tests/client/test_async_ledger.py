"""The asynchronous client against the real server: every kind of call, and how calls fail."""

import asyncio
import socket
import threading
from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.dates import today
from support.events import OCCURRED_AT, event_message, unique
from support.running import RunningLedger
from support.scripted import scripted_server

from ledger.client import (
    AsyncLedger,
    ClosedError,
    Conflict,
    InvalidRequest,
    Money,
    NotFound,
    TooSlow,
    Unavailable,
    new_event,
    new_payment_order,
    new_transfer,
)
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2


async def test_event_is_booked_once_and_counts(shared_ledger: RunningLedger) -> None:
    """The arguments are the fields of the event. A repeat is a duplicate, a change a conflict."""
    event_id, restaurant_id = unique("evt"), unique("res")

    async with AsyncLedger(shared_ledger.address) as ledger:

        async def book(amount: str) -> ledger_pb2.IngestEventResponse:
            return await ledger.ingest_event(
                event_id=event_id,
                type="charge_succeeded",
                restaurant_id=restaurant_id,
                amount=Money(amount, "PEN"),
                fee=Money("0.50", "PEN"),
                processor_fee=Money("0.30", "PEN"),
                occurred_at=OCCURRED_AT,
                available_at=OCCURRED_AT,
                reference="pay_1",
                metadata={"table": "4"},
            )

        first, again = await book("12.50"), await book("12.50")
        assert (first.status, again.status) == (
            ledger_pb2.INGEST_STATUS_CREATED,
            ledger_pb2.INGEST_STATUS_DUPLICATE,
        )
        assert first.transaction_id == again.transaction_id
        with pytest.raises(Conflict) as conflict:
            await book("12.51")
        assert conflict.value.reason == "EVENT_ID_REUSED"
        assert conflict.value.metadata == {
            "event_id": event_id,
            "differing_fields": "amount_minor",
        }
        stored = await ledger.get_event(event_id)
        assert stored.event == ledger_pb2.ProcessorEvent(
            event_id=event_id,
            type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
            restaurant_id=restaurant_id,
            currency="PEN",
            amount_minor=1250,
            fee_minor=50,
            processor_fee_minor=30,
            occurred_at=Timestamp(seconds=int(OCCURRED_AT.timestamp())),
            available_at=Timestamp(seconds=int(OCCURRED_AT.timestamp())),
            reference="pay_1",
            metadata={"table": "4"},
        )
        balance = await ledger.get_balance(restaurant_id, "PEN")
    assert (balance.available, balance.pending) == (Money("12.00", "PEN"), Money(0, "PEN"))
    assert (balance.restaurant_id, balance.last_event_at) == (restaurant_id, OCCURRED_AT)
    assert balance.reserved == balance.disputed == balance.reserve_held == Money(0, "PEN")
    assert abs((datetime.now(UTC) - balance.as_of).total_seconds()) < 60


async def test_invalid_request_names_every_field(shared_ledger: RunningLedger) -> None:
    async with AsyncLedger(shared_ledger.address) as ledger:
        with pytest.raises(InvalidRequest) as invalid:
            await ledger.ingest(event_message(event_id="not an id", currency="pen"))
    assert [violation.field for violation in invalid.value.violations] == [
        "event.event_id",
        "event.currency",
    ]
    assert invalid.value.request_id


async def test_stubs_raise_the_same_errors(shared_ledger: RunningLedger) -> None:
    """Also those of the other services, and with a deadline and a request id of the caller."""
    async with AsyncLedger(shared_ledger.address) as ledger:
        with pytest.raises(NotFound) as missing:
            await ledger.service.GetPayout(
                ledger_pb2.GetPayoutRequest(payout_id="019a0000-0000-7000-8000-000000000000"),
                timeout=10,
                metadata=(("x-request-id", "mine"),),
            )
        assert (missing.value.reason, missing.value.request_id) == ("PAYOUT_NOT_FOUND", "mine")
        with pytest.raises(NotFound):
            await ledger.accounts.GetAccount(account_pb2.GetAccountRequest(account_id="none"))
        with pytest.raises(NotFound):
            await ledger.payments.GetPayment(payment_pb2.GetPaymentRequest(payment_id="none"))


async def test_lists_are_read_page_by_page(shared_ledger: RunningLedger) -> None:
    """Lazily: a loop that stops asks for no further page. A list may be read again."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(
        *(event_message(restaurant_id=restaurant_id, amount_minor=number) for number in range(1, 8))
    )
    async with AsyncLedger(shared_ledger.address) as ledger:
        entries = ledger.list_entries(restaurant_id, "PEN", page_size=3)
        assert [entry.amount_minor async for entry in entries] == [1, 2, 3, 4, 5, 6, 7]
        assert [len(page.entries) async for page in entries.pages()] == [3, 3, 1]
        async for page in entries.pages():
            assert page.closing_balance_minor == 28
            break
        events = ledger.list_events(
            restaurant_id=restaurant_id, types=["charge_succeeded"], page_size=2
        )
        assert len({listed.event.event_id async for listed in events}) == 7
        nothing = ledger.list_entries(restaurant_id, "PEN", entry_types=["refund"])
        assert [entry async for entry in nothing] == []


async def test_batches_of_any_size(shared_ledger: RunningLedger) -> None:
    """Each event has its outcome, in order; one event's error affects no other."""
    restaurant_id = unique("res")
    events = [
        new_event(
            event_id=unique("evt"),
            type="charge_succeeded",
            restaurant_id=restaurant_id if number != 7 else "no id",
            amount=Money.of_minor(number + 1, "PEN"),
            occurred_at=OCCURRED_AT,
        )
        for number in range(25)
    ]
    async with AsyncLedger(shared_ledger.address) as ledger:
        outcomes = await ledger.ingest_events(iter(events), batch_size=10)
        again = await ledger.ingest_events(events)
    assert [outcome.event_id for outcome in outcomes] == [event.event_id for event in events]
    assert [number for number, outcome in enumerate(outcomes) if not outcome.is_booked] == [7]
    assert isinstance(outcomes[7].error, InvalidRequest)
    assert not any(outcome.is_duplicate for outcome in outcomes)
    assert [number for number, outcome in enumerate(again) if not outcome.is_duplicate] == [7]
    assert [outcome.transaction_id for outcome in again] == [
        outcome.transaction_id for outcome in outcomes
    ]


async def test_payouts(shared_ledger: RunningLedger) -> None:
    """Plan, run and wait, look, submit, and take back."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id, currency="CLP"))
    async with AsyncLedger(shared_ledger.address) as ledger:
        plan = await ledger.plan_payouts(
            "CLP", as_of=today(), restaurant_ids=[restaurant_id], min_amount=Money(1, "CLP")
        )
        assert [item.amount_minor for item in plan.items] == [10_000]
        run = await ledger.run_payouts("CLP", as_of=today(), wait=True)
        assert run.state == ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED
        assert run.payouts_created == 1
        (item,) = [item async for item in ledger.list_payout_run_items(run.payout_run_id)]
        payout = await ledger.get_payout(item.payout_id)
        assert payout.amount_minor == 10_000
        counted = [entry async for entry in ledger.list_payout_entries(payout.payout_id)]
        assert [entry.amount_minor for entry in counted] == [10_000]
        listed = ledger.list_payouts(payout_run_id=run.payout_run_id, states=["created"])
        assert [found.payout_id async for found in listed] == [payout.payout_id]
        runs = ledger.list_payout_runs(currency="CLP", state="succeeded")
        assert [found.payout_run_id async for found in runs] == [run.payout_run_id]
        submitted = await ledger.submit_payouts(unique("sub"), payout_run_id=run.payout_run_id)
        assert submitted.submission.payouts_count == 1
        assert (await ledger.wait_for_run(run.payout_run_id)).payouts_created == 1
        with pytest.raises(NotFound):
            await ledger.wait_for_run("019a0000-0000-7000-8000-000000000000")


async def test_restaurants(shared_ledger: RunningLedger) -> None:
    restaurant_id = unique("res")
    async with AsyncLedger(shared_ledger.address) as ledger:
        restaurant = await ledger.put_restaurant(
            restaurant_id, name="Chez us", maturity_days=2, min_balances=[Money(5, "PEN")]
        )
        assert (restaurant.maturity_days, dict(restaurant.min_balance_minor)) == (2, {"PEN": 500})
        restaurant.active = False
        changed = await ledger.update_restaurant(restaurant, ["active"])
        assert (changed.active, changed.name) == (False, "Chez us")
        assert await ledger.get_restaurant(restaurant_id) == changed
        assert restaurant_id in {
            found.restaurant_id async for found in ledger.list_restaurants(page_size=2)
        }


async def test_accounts_and_payments(shared_ledger: RunningLedger) -> None:
    """From an account to a restaurant and back; a decline is an answer, not an error."""
    bank, customer, restaurant_id = unique("bank"), unique("customer"), unique("res")
    async with AsyncLedger(shared_ledger.address) as ledger:
        await ledger.create_account(bank, "PEN", overdraft="unlimited")
        created = await ledger.create_account(customer, "PEN", overdraft=Money(1, "PEN"))
        assert created.account.overdraft.limit_minor == 100
        created.account.name = "Ana"
        assert (await ledger.update_account(created.account, ["name"])).name == "Ana"
        assert (await ledger.get_account(customer)).name == "Ana"
        await ledger.transfer(
            unique("pay"),
            payer_account_id=bank,
            payee_account_id=customer,
            amount=Money("50.00", "PEN"),
        )
        order = unique("pay")
        answer = await ledger.authorize_payment(
            order,
            payer_account_id=customer,
            payee_restaurant_id=restaurant_id,
            amount=Money("30.00", "PEN"),
            fee=Money("1.50", "PEN"),
        )
        assert answer.status == payment_pb2.PAYMENT_STATUS_AUTHORIZED
        captured = await ledger.capture_payment(unique("op"), order, amount_minor=2500)
        assert captured.payment.held_minor == 500
        assert (await ledger.void_payment(unique("op"), order)).operation.released_minor == 500
        refund = await ledger.refund_payment(unique("op"), order, amount_minor=100)
        assert refund.payment.refunded_minor == 100
        assert (await ledger.reverse_payment(unique("op"), order)).payment.refunded_minor == 2500
        balance = await ledger.get_account_balance(customer)
        assert (balance.available, balance.held, balance.posted, balance.account_id) == (
            Money(50, "PEN"),
            Money(0, "PEN"),
            Money(50, "PEN"),
            customer,
        )
        assert [op.kind for op in (await ledger.get_payment(order)).operations][:2] == [
            payment_pb2.OPERATION_KIND_CAPTURE,
            payment_pb2.OPERATION_KIND_VOID,
        ]
        declined = await ledger.transfer(
            unique("pay"),
            payer_account_id=customer,
            payee_account_id=bank,
            amount=Money("999.00", "PEN"),
        )
        assert declined.payment.decline_reason == payment_pb2.DECLINE_REASON_INSUFFICIENT_FUNDS
        payments = ledger.list_payments(payer_account_id=customer, state="declined", page_size=1)
        assert [payment.payment_id async for payment in payments] == [declined.payment.payment_id]
        entries = ledger.list_account_entries(customer, entry_types=["transfer_in"])
        assert [item.entry.amount_minor async for item in entries] == [5000]
        assert customer in {account.account_id async for account in ledger.list_accounts()}


async def test_batches_of_payments(shared_ledger: RunningLedger) -> None:
    """In their order, over several requests; a chain is not cut."""
    bank, customer = unique("bank"), unique("customer")
    async with AsyncLedger(shared_ledger.address) as ledger:
        await ledger.create_account(bank, "PEN", overdraft="unlimited")
        await ledger.create_account(customer, "PEN")
        transfers = [
            new_transfer(
                payment_id=unique("pay"),
                payer_account_id=payer,
                payee_account_id=payee,
                amount=Money.of_minor(amount, "PEN"),
                linked=linked,
            )
            for payer, payee, amount, linked in [
                (bank, customer, 10, False),
                (bank, customer, 20, False),
                (bank, customer, 1, True),
                (customer, bank, 99, False),
                (customer, bank, 30, False),
                (customer, "missing", 1, False),
            ]
        ]
        outcomes = await ledger.batch_transfers(transfers, batch_size=3)
        assert [outcome.is_declined for outcome in outcomes] == [
            False,
            False,
            True,
            True,
            False,
            False,
        ]
        assert isinstance(outcomes[5].error, NotFound)
        assert [outcome.payment_id for outcome in outcomes] == [
            transfer.payment_id for transfer in transfers
        ]
        order = new_payment_order(
            payment_id=unique("pay"),
            payer_account_id=bank,
            payee_account_id=customer,
            amount=Money("1.00", "PEN"),
        )
        (held,) = await ledger.batch_authorize_payments([order])
        assert held.status == payment_pb2.PAYMENT_STATUS_AUTHORIZED


async def test_quarantine(shared_ledger: RunningLedger) -> None:
    """Payloads that could not be booked: kept, listed, tried again, and given up."""
    endpoint = unique("shop")
    async with AsyncLedger(shared_ledger.address) as ledger:
        kept = await ledger.quarantine_payload(
            endpoint=endpoint,
            processor="stripe",
            kind="charge.succeeded",
            body=b"{}",
            received_at=datetime.now(UTC),
            reason="UNKNOWN_RESTAURANT",
        )
        quarantine_id = kept.payload.quarantine_id
        listed = ledger.list_quarantined(endpoint=endpoint, states=["quarantined"])
        assert [payload.quarantine_id async for payload in listed] == [quarantine_id]
        assert (await ledger.get_quarantine_summary(endpoint=endpoint)).open_count == 1
        retried = await ledger.retry_quarantined(quarantine_ids=[quarantine_id])
        assert list(retried.quarantine_ids) == [quarantine_id]
        payload = await ledger.get_quarantined(quarantine_id)
        assert payload.body == b"{}"
        resolved = await ledger.resolve_quarantined(
            quarantine_id,
            move_number=payload.move_number,
            outcome="quarantined",
            reason="UNKNOWN_RESTAURANT",
        )
        assert resolved.state == ledger_pb2.QUARANTINE_STATE_QUARANTINED
        discarded = await ledger.discard_quarantined(quarantine_id, reason="a test of theirs")
        assert discarded.state == ledger_pb2.QUARANTINE_STATE_DISCARDED


async def test_cancelled_task_ends_its_call(shared_ledger: RunningLedger) -> None:
    """The client can be used as before, by other tasks too."""
    with scripted_server(unary={"GetEvent": answer_late}) as address:
        async with AsyncLedger(address) as ledger:
            task = asyncio.create_task(ledger.get_event("evt_1"))
            await asyncio.to_thread(ASKED.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            ANSWER.set()
            assert (await ledger.get_event("evt_1")).transaction_id == "late"


ASKED, ANSWER = threading.Event(), threading.Event()


def answer_late(_: object, __: object) -> ledger_pb2.GetEventResponse:
    ASKED.set()
    ANSWER.wait(60)
    return ledger_pb2.GetEventResponse(transaction_id="late")


async def test_many_tasks_share_a_client(shared_ledger: RunningLedger) -> None:
    """1,000 calls at once, on one connection: each event is booked once."""
    restaurant_id = unique("res")
    events = [event_message(restaurant_id=restaurant_id, amount_minor=1) for _ in range(500)]
    async with AsyncLedger(shared_ledger.address) as ledger:
        await asyncio.gather(*(ledger.ingest(event) for event in events * 2))
        assert (await ledger.get_balance(restaurant_id, "PEN")).available.minor == 500


async def test_deadline() -> None:
    """A call without an answer within its `timeout` raises TooSlow, which may be repeated."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with AsyncLedger(address) as ledger:
            with pytest.raises(TooSlow) as slow:
                await ledger.get_balance("res_1", "PEN", timeout=0.1)
    assert slow.value.is_retryable


async def test_client_without_a_server() -> None:
    """It is made without one: the first call finds out."""
    async with AsyncLedger("127.0.0.1:1") as ledger:
        with pytest.raises(Unavailable) as missing:
            await ledger.get_balance("res_1", "PEN", timeout=2)
    assert missing.value.reached_no_server


async def test_closed_client_says_so(shared_ledger: RunningLedger) -> None:
    ledger = AsyncLedger(shared_ledger.address)
    with pytest.raises(NotFound):
        await ledger.get_account("none")
    await ledger.close()
    await ledger.close()
    for call in (ledger.get_balance("res_1", "PEN"), ledger.get_account("acc_1")):
        with pytest.raises(ClosedError, match="closed"):
            await call


@pytest.mark.parametrize("address", ["", "ledger", "http://ledger:50051", "ledger:99999"])
def test_address_is_checked_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        AsyncLedger(address)
