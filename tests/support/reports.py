"""Reports of processors for tests, and books to compare them with."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ledger.reconciliation.books import BookEvent
from ledger.reconciliation.layouts import Layout
from ledger.reconciliation.outcomes import Outcome
from ledger.reconciliation.reconcile import Reconciliation, Terms, reconcile

# A payout of a week: two sales, a refund, a dispute with its fee, one that was won, a fee and a
# reserve; the payout is what they come to.
STRIPE_PAYOUT = """\
reporting_category,balance_transaction_id,created_utc,currency,gross,fee,net,source_id,charge_id,\
payment_intent_id,automatic_payout_id,automatic_payout_effective_at_utc
charge,txn_a1,2026-03-02 08:15:00,eur,120.00,2.05,117.95,ch_a1,ch_a1,pi_a1,po_a,2026-03-09 00:00:00
charge,txn_a2,2026-03-02 19:40:12,eur,31.40,0.71,30.69,ch_a2,ch_a2,pi_a2,po_a,2026-03-09 00:00:00
refund,txn_a3,2026-03-03 10:00:00,eur,-12.00,0.00,-12.00,re_a3,ch_a1,pi_a1,po_a,2026-03-09 00:00:00
dispute,txn_a4,2026-03-04 07:30:00,eur,-31.40,20.00,-51.40,dp_a4,ch_a2,pi_a2,po_a,\
2026-03-09 00:00:00
dispute_reversal,txn_a5,2026-03-05 09:00:00,eur,64.00,0.00,64.00,dp_z9,ch_z9,pi_z9,po_a,\
2026-03-09 00:00:00
fee,txn_a6,2026-03-06 00:00:00,eur,-3.30,0.00,-3.30,fee_a6,,,po_a,2026-03-09 00:00:00
reserve_transaction,txn_a7,2026-03-06 12:00:00,eur,-9.00,0.00,-9.00,rsv_a7,,,po_a,\
2026-03-09 00:00:00
payout,txn_a8,2026-03-09 00:00:00,eur,-136.94,0.00,-136.94,po_a,,,po_a,2026-03-09 00:00:00
"""

# A sale in GBP that is settled in EUR, a refund, a chargeback, a fee and the payout of the batch.
ADYEN_SETTLEMENT = """\
Company Account,Merchant Account,Psp Reference,Merchant Reference,Payment Method,Creation Date,\
TimeZone,Type,Modification Reference,Gross Currency,Gross Debit (GC),Gross Credit (GC),\
Exchange Rate,Net Currency,Net Debit (NC),Net Credit (NC),Commission (NC),Markup (NC),\
Scheme Fees (NC),Interchange (NC),Batch Number,Reserved4,Reserved5
Comedor,ComedorEU,8816178952380553,order-71,visa,2026-05-04 23:10:00,CEST,Settled,\
8816178952380561,GBP,,20.00,1.1652,EUR,,22.78,0.52,,,,14,,
Comedor,ComedorEU,8816178952380600,order-72,mc,2026-05-05 09:00:00,CEST,Settled,8816178952380612,\
EUR,,48.00,1,EUR,,47.21,,0.20,0.11,0.48,14,,
Comedor,ComedorEU,8816178952380600,order-72,mc,2026-05-06 09:00:00,CEST,Refunded,8816178952380677,\
EUR,8.00,,1,EUR,8.00,,,,,,14,,
Comedor,ComedorEU,8816178952380101,order-55,visa,2026-05-06 11:30:00,CEST,Chargeback,\
8816178952380702,EUR,5.00,,1,EUR,20.00,,15.00,,,,14,,
Comedor,ComedorEU,,,,2026-05-07 04:00:00,CEST,Fee,"Transaction fees, May",EUR,,,,EUR,3.10,,,,,,14,,
Comedor,ComedorEU,,,,2026-05-07 04:00:00,CEST,MerchantPayout,"TX88 batch 14, ComedorEU",EUR,,,,EUR,\
38.89,,,,,,14,,
"""

# With semicolons, negative fees and offsets, as Mercado Pago writes them.
MERCADO_PAGO = """\
EXTERNAL_REFERENCE;SOURCE_ID;TRANSACTION_TYPE;TRANSACTION_AMOUNT;TRANSACTION_CURRENCY;\
TRANSACTION_DATE;FEE_AMOUNT;SETTLEMENT_NET_AMOUNT;SETTLEMENT_CURRENCY;SETTLEMENT_DATE;\
REAL_AMOUNT;TAXES_AMOUNT;ORDER_ID;PACK_ID
mesa-9;91000000001;SETTLEMENT;250.00;ARS;2026-02-10T21:30:00.000-03:00;-12.50;237.50;ARS;\
2026-02-11T00:00:00.000-03:00;237.50;0.00;70001;
mesa-10;91000000002;SETTLEMENT;1000.00;ARS;2026-02-10T23:59:59.000-03:00;-50.00;944.00;ARS;\
2026-02-11T00:00:00.000-03:00;944.00;-6.00;70002;2.0E+15
mesa-9;91000000001;REFUND;-100.00;ARS;2026-02-12T10:00:00.000-03:00;0.00;-100.00;ARS;\
2026-02-12T10:00:00.000-03:00;-100.00;0.00;70001;
"""


def booked(
    event_id: str,
    type: str = "charge_succeeded",
    amount_minor: int = 1000,
    currency: str = "EUR",
    **fields: Any,
) -> BookEvent:
    """An event of the books."""
    values: dict[str, Any] = {
        "restaurant_id": "res_lima",
        "fee_minor": 0,
        "processor_fee_minor": 0,
        "occurred_at": datetime(2026, 3, 2, 12, tzinfo=UTC),
        "reference": "",
    }
    return BookEvent(
        event_id=event_id,
        type=type,
        amount_minor=amount_minor,
        currency=currency,
        **(values | fields),
    )


def at(text: str) -> datetime:
    """An instant in UTC: 2026-03-02T08:15:00."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def books_of_stripe_payout() -> list[BookEvent]:
    """What webhooks have booked of STRIPE_PAYOUT: not the fee row, nor the reserve."""
    return [
        booked(
            "stripe:ch_a1",
            amount_minor=12_000,
            fee_minor=1_000,
            processor_fee_minor=205,
            occurred_at=at("2026-03-02T08:15:00"),
            reference="pi_a1",
        ),
        booked(
            "stripe:ch_a2",
            amount_minor=3_140,
            processor_fee_minor=71,
            occurred_at=at("2026-03-02T19:40:12"),
            reference="pi_a2",
        ),
        booked(
            "stripe:re_a3",
            "refund_succeeded",
            1_200,
            occurred_at=at("2026-03-03T10:00:00"),
            reference="pi_a1",
        ),
        booked(
            "stripe:dp_a4:opened",
            "dispute_opened",
            3_140,
            fee_minor=2_000,
            occurred_at=at("2026-03-04T07:30:00"),
            reference="dp_a4",
        ),
        booked(
            "stripe:dp_z9:won",
            "dispute_won",
            6_400,
            occurred_at=at("2026-03-05T09:00:00"),
            reference="dp_z9",
        ),
    ]


class FakeBooks:
    """Books in memory."""

    def __init__(self, events: Iterable[BookEvent] = (), *, has_periods: bool = True) -> None:
        self._events = {event.event_id: event for event in events}
        self._has_periods = has_periods

    def add(self, event: BookEvent) -> None:
        """Books an event."""
        self._events[event.event_id] = event

    def find(self, event_ids: Sequence[str]) -> Iterable[BookEvent]:
        return [self._events[event_id] for event_id in event_ids if event_id in self._events]

    def find_by_reference(self, reference: str) -> Iterable[BookEvent]:
        return [event for event in self._events.values() if event.reference == reference]

    def in_period(
        self, start_at: datetime, end_at: datetime, currencies: Sequence[str], prefix: str
    ) -> Iterator[BookEvent] | None:
        if not self._has_periods:
            return None
        return (
            event
            for event in self._events.values()
            if start_at <= event.occurred_at < end_at
            and event.currency in currencies
            and event.event_id.startswith(prefix)
        )


@contextmanager
def reconciled(
    report: str | bytes, events: Iterable[BookEvent] | FakeBooks = (), **terms: Any
) -> Iterator[Reconciliation]:
    """The report, compared with books that have these events."""
    raw = report.encode() if isinstance(report, str) else report
    books = events if isinstance(events, FakeBooks) else FakeBooks(events)
    with reconcile(io.BytesIO(raw), books, Terms(**terms)) as result:
        yield result


def outcomes_of(
    report: str | bytes, events: Iterable[BookEvent] | FakeBooks = (), **terms: Any
) -> list[Outcome]:
    """All outcomes of a comparison."""
    with reconciled(report, events, **terms) as result:
        return list(result.outcomes())


def found(
    report: str | bytes, events: Iterable[BookEvent] | FakeBooks = (), **terms: Any
) -> list[tuple[int, str]]:
    """The outcomes as the lines of the report, 0 if there is none, and what was found."""
    return [
        (outcome.lines[0].row if outcome.lines else 0, outcome.kind.value)
        for outcome in outcomes_of(report, events, **terms)
    ]


def only(layout: Layout) -> dict[str, Any]:
    """Terms with one layout."""
    return {"layouts": (layout,)}
