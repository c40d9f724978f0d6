"""Lines find their events: by id, by reference and amount, several for one event."""

from datetime import timedelta

from support.reports import (
    ADYEN_SETTLEMENT,
    MERCADO_PAGO,
    STRIPE_PAYOUT,
    FakeBooks,
    at,
    booked,
    books_of_stripe_payout,
    found,
    outcomes_of,
)

HEADER = (
    "balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id,"
    "charge_id,payment_intent_id\n"
)
AT = at("2026-03-02T08:15:00")


def charge(number: int, gross: str = "10.00", fee: str = "0.00", net: str = "10.00") -> str:
    return (
        f"txn_{number},2026-03-02 08:15:00,eur,{gross},{fee},{net},charge,ch_{number},"
        f"ch_{number},pi_{number}\n"
    )


def test_lines_are_matched_by_the_first_candidate_that_is_booked() -> None:
    """Adyen's capture is booked by the reference of the capture, or by that of the payment."""
    for event_id in ("adyen:8816178952380612:CAPTURE", "adyen:8816178952380600:AUTHORISATION"):
        event = booked(
            event_id,
            amount_minor=4800,
            processor_fee_minor=79,
            occurred_at=at("2026-05-05T07:00:00"),
        )
        outcome = outcomes_of(ADYEN_SETTLEMENT, [event])[1]
        assert (outcome.kind, outcome.matched_by) == ("matched", "id")


def test_an_event_of_another_type_is_not_matched() -> None:
    """An id that names another fact is no match: the line is missing here."""
    event = booked("stripe:ch_1", "refund_succeeded", occurred_at=AT)
    assert found(HEADER + charge(1), [event]) == [(2, "missing_here"), (0, "missing_there")]


def test_lines_are_matched_by_reference_and_amount() -> None:
    """Where the books have other ids: of two events with a reference, the one with the amount."""
    events = [
        booked("evt-7", amount_minor=900, occurred_at=AT, reference="pi_1"),
        booked("evt-8", amount_minor=1000, occurred_at=AT, reference="pi_1"),
    ]
    outcome, missing = outcomes_of(HEADER + charge(1), events, event_prefix="")
    assert (outcome.kind, outcome.matched_by) == ("matched", "reference")
    assert outcome.event == events[1]
    assert missing.event == events[0]


def test_of_two_equal_events_the_nearest_in_time_is_matched() -> None:
    events = [
        booked(f"evt-{days}", occurred_at=AT + timedelta(days=days), reference="pi_1")
        for days in (-3, 0, 3)
    ]
    outcome = outcomes_of(HEADER + charge(1), events)[0]
    assert outcome.event == events[1]


def test_each_event_is_matched_once() -> None:
    """Two lines of one payment and one event: the second line is missing here."""
    report = HEADER + charge(1) + charge(2).replace("pi_2", "pi_1")
    event = booked("evt-1", occurred_at=AT, reference="pi_1")
    assert found(report, [event]) == [(2, "matched"), (3, "missing_here")]


def test_a_lone_event_with_the_reference_and_another_amount_differs() -> None:
    event = booked("evt-1", amount_minor=1100, occurred_at=AT, reference="pi_1")
    (outcome,) = outcomes_of(HEADER + charge(1), [event])
    assert outcome.kind == "differs"
    assert [(d.field, d.report, d.books) for d in outcome.differences] == [
        ("amount", "1000", "1100")
    ]


def test_ids_come_before_references() -> None:
    """A line with its id takes no event that another line has by reference."""
    events = [
        booked("stripe:ch_1", occurred_at=AT, reference="pi_2"),
        booked("evt-2", occurred_at=AT, reference="pi_2"),
    ]
    report = HEADER + charge(2) + charge(1)
    assert [o.event and o.event.event_id for o in outcomes_of(report, events)] == [
        "evt-2",
        "stripe:ch_1",
    ]


def test_a_fee_row_is_a_part_of_its_charge() -> None:
    """If the charge's fee lacks exactly that."""
    report = (
        HEADER
        + charge(1, fee="0.20", net="9.80")
        + "txn_2,2026-03-02 08:15:00,eur,-0.15,0.00,-0.15,fee,fee_1,ch_1,\n"
    )
    event = booked("stripe:ch_1", processor_fee_minor=35, occurred_at=AT)
    (outcome,) = outcomes_of(report, [event])
    assert outcome.kind == "matched"
    assert [line.row for line in outcome.lines] == [2, 3]
    lacking = booked("stripe:ch_1", processor_fee_minor=20, occurred_at=AT)
    assert found(report, [lacking]) == [(2, "matched"), (3, "missing_here")]


def test_fees_that_are_events_are_counted_with_their_charge() -> None:
    events = [
        booked("stripe:ch_1", occurred_at=AT),
        booked("stripe:txn_1:fee", "processor_fee_assessed", 20, occurred_at=AT),
    ]
    (outcome,) = outcomes_of(HEADER + charge(1, fee="0.20", net="9.80"), events)
    assert outcome.kind == "matched"
    assert outcome.fee_events == (events[1],)


def test_a_refund_is_found_by_its_payment() -> None:
    """Mercado Pago names the payment, where the books have the refund's id."""
    event = booked(
        "mp:refund:555",
        "refund_succeeded",
        10_000,
        "ARS",
        occurred_at=at("2026-02-12T13:00:00"),
        reference="91000000001",
    )
    assert (4, "matched") in found(MERCADO_PAGO, [event])


def test_books_without_periods_are_asked_by_id() -> None:
    """The same is matched; what is missing there is not looked for."""
    books = FakeBooks(books_of_stripe_payout(), has_periods=False)
    assert found(STRIPE_PAYOUT, books) == found(STRIPE_PAYOUT, books_of_stripe_payout())
    books.add(booked("stripe:ch_other"))
    assert (0, "missing_there") not in found(STRIPE_PAYOUT, books)
