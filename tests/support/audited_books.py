"""Books with every type of event, payouts in every state, and payments of every kind."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from ledger.v1 import ledger_pb2
from support.audited_payments import pay_between_accounts
from support.dates import days_ago
from support.events import OCCURRED_AT, event_message, unique
from support.payout_runs import answer, finished_run, put_restaurant
from support.quarantine import (
    PARKED,
    QUARANTINED,
    RELEASED,
    discard,
    from_now,
    payload_of,
    quarantined,
    resolve,
    retry,
)
from support.running import RunningLedger
from support.snapshots import make_marks, take_snapshots

# Every type of event that posts, with what makes it special: fees and none, a refund's fee, a
# dispute that ends in two parts, another restaurant and currency, and a charge that is available at
# once.
EVENTS = (
    event_message(
        event_id="evt_charge",
        restaurant_id="res_a",
        amount_minor=10_000,
        fee_minor=300,
        reference="pay_1",
    ),
    event_message(
        event_id="evt_no_fee",
        restaurant_id="res_a",
        amount_minor=5_000,
        reference="pay_2",
        metadata={"k": "v"},
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
        event_id="evt_refund",
        restaurant_id="res_a",
        amount_minor=1_000,
        fee_minor=10,
        reference="pay_1",
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_FEE_ASSESSED,
        event_id="evt_fee",
        restaurant_id="res_a",
        amount_minor=100,
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED,
        event_id="evt_credit",
        restaurant_id="res_a",
        amount_minor=700,
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_ADJUSTMENT_DEBITED,
        event_id="evt_debit",
        restaurant_id="res_a",
        amount_minor=200,
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
        event_id="evt_opened",
        restaurant_id="res_a",
        amount_minor=2_000,
        fee_minor=150,
        reference="dp_1",
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_DISPUTE_WON,
        event_id="evt_won",
        restaurant_id="res_a",
        amount_minor=500,
        reference="dp_1",
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_DISPUTE_LOST,
        event_id="evt_lost",
        restaurant_id="res_a",
        amount_minor=1_500,
        reference="dp_1",
    ),
    event_message(
        event_id="evt_other",
        restaurant_id="res_b",
        currency="USD",
        amount_minor=900,
        reference=" odd ~ reference: pay_3",
    ),
    event_message(event_id="evt_at_once", restaurant_id="res_c", amount_minor=800, fee_minor=800),
    # A charge, a refund and a dispute that the processor took its costs of, with the instants that
    # it named; the fee of the dispute is more than its amount.
    event_message(
        event_id="evt_given",
        restaurant_id="res_t",
        currency="MXN",
        amount_minor=20_000,
        fee_minor=900,
        reference="pay_t1",
        available_at=OCCURRED_AT + timedelta(days=2, seconds=1),
        processor_fee_minor=300,
    ),
    event_message(
        event_id="evt_cost_no_fee",
        restaurant_id="res_t",
        currency="MXN",
        amount_minor=3_000,
        reference="pay_t2",
        processor_fee_minor=40,
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
        event_id="evt_refund_given",
        restaurant_id="res_t",
        currency="MXN",
        amount_minor=2_000,
        fee_minor=7,
        reference="pay_t1",
        available_at=OCCURRED_AT + timedelta(days=1),
        processor_fee_minor=5,
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_REFUND_FAILED,
        event_id="evt_refund_failed",
        restaurant_id="res_t",
        currency="MXN",
        amount_minor=500,
        reference="pay_t1",
    ),
    event_message(
        event_id="evt_late",
        restaurant_id="res_t",
        currency="MXN",
        amount_minor=4_000,
        fee_minor=200,
        reference="pay_t3",
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_CHARGE_REVERSED,
        event_id="evt_reversed",
        restaurant_id="res_t",
        currency="MXN",
        amount_minor=4_000,
        fee_minor=200,
        reference="pay_t3",
        available_at=OCCURRED_AT + timedelta(days=3),
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
        event_id="evt_opened_small",
        restaurant_id="res_t",
        currency="MXN",
        amount_minor=100,
        fee_minor=1_500,
        reference="dp_t",
        processor_fee_minor=20,
    ),
    event_message(
        ledger_pb2.EVENT_TYPE_DISPUTE_WON,
        restaurant_id="res_t",
        currency="MXN",
        amount_minor=100,
        reference="dp_t",
    ),
    *(
        event_message(
            type, event_id=event_id, restaurant_id=restaurant_id, currency="MXN", amount_minor=minor
        )
        for event_id, type, restaurant_id, minor in (
            ("evt_fee_back", ledger_pb2.EVENT_TYPE_FEE_REFUNDED, "res_t", 50),
            ("evt_dispute_fee_back", ledger_pb2.EVENT_TYPE_DISPUTE_FEE_REFUNDED, "res_t", 1_500),
            ("evt_cost", ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_ASSESSED, "res_t", 60),
            ("evt_cost_back", ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_REFUNDED, "res_t", 10),
            ("evt_tax", ledger_pb2.EVENT_TYPE_TAX_WITHHELD, "res_t", 800),
            ("evt_tax_back", ledger_pb2.EVENT_TYPE_TAX_WITHHOLDING_REVERSED, "res_t", 300),
            ("evt_reserve", ledger_pb2.EVENT_TYPE_RESERVE_HELD, "res_t", 1_000),
            ("evt_reserve_back", ledger_pb2.EVENT_TYPE_RESERVE_RELEASED, "res_t", 400),
            ("evt_top_up", ledger_pb2.EVENT_TYPE_TOP_UP_RECEIVED, "res_t", 250),
            ("evt_write_off", ledger_pb2.EVENT_TYPE_DEBT_WRITTEN_OFF, "res_t", 150),
            # In the platform's books. What the processor settled is what it owed over all books.
            ("evt_own_cost", ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_ASSESSED, "", 70),
            ("evt_own_cost_back", ledger_pb2.EVENT_TYPE_PROCESSOR_FEE_REFUNDED, "", 20),
            ("evt_settled", ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED, "", 22_035),
            ("evt_debited", ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED, "", 1_000),
        )
    ),
)
# Those of types, fields and books that revision 0026 has.
EARLIER_EVENTS = tuple(event for event in EVENTS if event.currency != "MXN")
# What the bank says of a payout that it refuses, which revision 0026 has no place for.
SAID = {
    "bank_reference": "trace 1",
    "failure_code": "AC04",
    "failure_text": "Cuenta cerrada: ñ",
}
# As if all snapshots had been taken before any charge had matured: the next ones have to make up
# for that.
EARLIER_SNAPSHOTS = """
WITH taken AS (DELETE FROM balance_snapshots RETURNING *)
INSERT INTO balance_snapshots
SELECT t.balance_account_id, t.system_identifier, t.horizon, '2025-12-01', t.entries_count,
  t.last_recorded_at, t.last_event_at,
       t.ledger_accounts, t.entry_types, t.total_minors, ARRAY(
         SELECT COALESCE(sum(CASE l.ledger_account WHEN e.credit_account THEN e.amount_minor ELSE
           -e.amount_minor END), 0)
         FROM unnest(t.ledger_accounts, t.entry_types) WITH ORDINALITY AS l (ledger_account,
           entry_type, place)
         LEFT JOIN ledger_entries AS e ON e.balance_account_id = t.balance_account_id
           AND e.entry_type = l.entry_type
           AND l.ledger_account IN (e.debit_account, e.credit_account) AND e.available_at IS NULL
         GROUP BY l.place
         ORDER BY l.place),
       t.stay_id
FROM taken AS t
"""


async def book_everything(ledger: RunningLedger) -> None:
    """Everything, with snapshots and marks."""
    await book_events(ledger)
    await pay_and_answer(ledger)
    await pay_less_than_is_available(ledger)
    await submit_to_the_bank(ledger)
    await pay_between_accounts(ledger)
    await quarantine_and_settle(ledger)
    await take_snapshots(ledger.engine)
    await make_marks(ledger.engine)


async def book_events(
    ledger: RunningLedger, events: Sequence[ledger_pb2.ProcessorEvent] = EVENTS
) -> None:
    """The events, every type that posts unless others are given, and snapshots."""
    await ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id="res_c", maturity_days=0)
    )
    results = await ledger.ingest(*events)
    assert {result.status for result in results} == {ledger_pb2.INGEST_STATUS_CREATED}
    books = {(event.restaurant_id, event.currency) for event in events}
    assert await take_snapshots(ledger.engine) == len(books)
    await ledger.query(EARLIER_SNAPSHOTS)


async def pay_and_answer(ledger: RunningLedger, said: Mapping[str, str] = SAID) -> None:
    """Payouts in every state that revision 0026 has, and restaurants that are skipped.

    The bank says something of one that it refuses, and later names another; unless `said` is empty.
    """
    paid, failed = ledger_pb2.EVENT_TYPE_PAYOUT_PAID, ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
    await ledger.ingest(
        event_message(
            event_id="evt_p",
            restaurant_id="res_p",
            currency="EUR",
            amount_minor=10_000,
            fee_minor=400,
        ),
        event_message(
            ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
            restaurant_id="res_q",
            currency="EUR",
            amount_minor=1,
        ),
    )
    for answers in ((failed,), (paid, failed), (paid,)):
        run = await finished_run(
            ledger, currency="EUR", as_of=days_ago(2), request_id=unique("run")
        )
        assert run.payouts_created == 1
        await answer(ledger, "res_p", *answers, **(said if answers == (failed,) else {}))
    if said:
        await answer(
            ledger, "res_p", ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED, bank_reference="trace 2"
        )
    await take_snapshots(ledger.engine)
    await make_marks(ledger.engine)
    await ledger.ingest(
        event_message(restaurant_id="res_p", currency="EUR", amount_minor=5_000),
        event_message(
            event_id="evt_q",
            restaurant_id="res_q",
            currency="EUR",
            amount_minor=7_000,
            fee_minor=100,
        ),
    )
    assert (await finished_run(ledger, currency="EUR")).payouts_created == 2
    await take_snapshots(ledger.engine)
    # The bank's answers in the wrong order, and another payout.
    await ledger.ingest(event_message(restaurant_id="res_l", currency="GBP"))
    await finished_run(ledger, currency="GBP", request_id=unique("run"))
    await answer(ledger, "res_l", failed, paid)
    assert (
        await finished_run(ledger, currency="GBP", request_id=unique("run"))
    ).payouts_created == 1
    await make_marks(ledger.engine)


async def submit_to_the_bank(ledger: RunningLedger) -> None:
    """A payout that was canceled, and one of the same restaurant that was submitted."""
    await ledger.ingest(event_message(restaurant_id="res_s", currency="BRL"))
    for request_id in (unique("run"), unique("run")):
        run = await finished_run(ledger, currency="BRL", request_id=request_id)
        assert run.payouts_created == 1
        listed = await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest(currency="BRL"))
        if len(listed.payouts) == 1:
            await ledger.stub.CancelPayout(
                ledger_pb2.CancelPayoutRequest(payout_id=listed.payouts[0].payout_id)
            )
    await ledger.stub.SubmitPayouts(
        ledger_pb2.SubmitPayoutsRequest(submission_id="sub_s", payout_run_id=run.payout_run_id)
    )


async def quarantine_and_settle(ledger: RunningLedger) -> None:
    """Payloads in every state, by every way there."""
    hour = from_now(hours=1)
    await quarantined(ledger)
    parked = await quarantined(ledger, retry_at=hour)
    await resolve(ledger, parked, PARKED, reason="FETCH_FAILED", retry_at=hour)
    given_up = await quarantined(ledger, retry_at=hour)
    await resolve(ledger, given_up, QUARANTINED, reason="GIVEN_UP", detail="after 3 days")
    await discard(ledger, given_up.quarantine_id)
    await discard(ledger, (await quarantined(ledger, retry_at=hour)).quarantine_id)
    for outcome, fields in (
        (RELEASED, {"event_ids": ["evt_charge", "evt_refund"]}),
        (RELEASED, {}),
        (QUARANTINED, {"reason": "UNKNOWN_RESTAURANT"}),
        (PARKED, {"reason": "FETCH_FAILED", "retry_at": hour}),
    ):
        payload = await quarantined(ledger)
        await retry(ledger, quarantine_ids=[payload.quarantine_id])
        asked = await payload_of(ledger, payload.quarantine_id)
        await resolve(ledger, asked, outcome, **fields)
    await retry(ledger, quarantine_ids=[(await quarantined(ledger)).quarantine_id])
    await resolve(ledger, await quarantined(ledger, retry_at=hour), RELEASED)


async def pay_less_than_is_available(ledger: RunningLedger) -> None:
    """Payouts that leave a minimum in the account, a hold, and runs of named restaurants."""
    names = ["res_d", "res_h", "res_k", "res_m"]
    await ledger.ingest(
        *(
            event_message(restaurant_id=name, currency="NOK", amount_minor=9_000)
            for name in names[1:]
        ),
        # Not matured yet.
        event_message(restaurant_id="res_d", currency="NOK", occurred_at=datetime.now(UTC)),
    )
    for name, minimum in (("res_k", 4_000), ("res_m", 9_000)):
        await put_restaurant(ledger, name, min_balance_minor={"NOK": minimum})
    await put_restaurant(ledger, "res_h", payout_hold=ledger_pb2.PayoutHold(reason="review"))
    for days, charged, minimum in ((1, 0, 0), (0, 100, 50)):
        if charged:
            await ledger.ingest(
                event_message(restaurant_id="res_k", currency="NOK", amount_minor=charged)
            )
        run = await finished_run(
            ledger,
            currency="NOK",
            as_of=days_ago(days),
            restaurant_ids=names,
            min_amount_minor=minimum,
        )
        assert run.payouts_created == 1
        await answer(ledger, "res_k", ledger_pb2.EVENT_TYPE_PAYOUT_PAID)
