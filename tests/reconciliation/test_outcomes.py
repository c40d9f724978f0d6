"""What is found: every kind of outcome with both sides, and totals that tie."""

import random
from datetime import timedelta

import pytest
from support.reports import (
    ADYEN_SETTLEMENT,
    MERCADO_PAGO,
    STRIPE_PAYOUT,
    at,
    booked,
    books_of_stripe_payout,
    found,
    outcomes_of,
    reconciled,
)


def test_a_payout_of_stripe_with_its_books() -> None:
    """The books lack the fee row and the reserve; the payout ties, and is not booked."""
    assert found(STRIPE_PAYOUT, books_of_stripe_payout()) == [
        (2, "matched"),
        (3, "matched"),
        (4, "matched"),
        (5, "matched"),
        (6, "matched"),
        (7, "missing_here"),
        (8, "missing_here"),
        (9, "settlement_not_booked"),
    ]


def test_a_report_that_agrees() -> None:
    events = [
        *books_of_stripe_payout(),
        booked(
            "stripe:txn_a6:fee",
            "processor_fee_assessed",
            330,
            occurred_at=at("2026-03-06T00:00:00"),
        ),
        booked("stripe:rsv_a7", "reserve_held", 900, occurred_at=at("2026-03-06T12:00:00")),
        booked("stripe:po_a", "processor_settled", 13_694, restaurant_id=""),
    ]
    with reconciled(STRIPE_PAYOUT, events) as result:
        assert result.agrees
        whole = result.totals.whole_report("EUR")
        assert (whole.count, whole.gross_minor, whole.cost_minor, whole.net_minor) == (
            7, 16_300, 2_606, 13_694,
        )  # fmt: skip
        assert result.totals.whole_books("EUR").net_minor == 13_694
        assert not list(result.postings())


@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ({"amount_minor": 12_001}, [("amount", "12000", "12001")]),
        ({"processor_fee_minor": 204}, [("fee", "205", "204")]),
        ({"currency": "USD"}, [("currency", "EUR", "USD")]),
        (
            {"occurred_at": at("2026-03-01T08:14:59")},
            [("date", "2026-03-02T08:15:00+00:00", "2026-03-01T08:14:59+00:00")],
        ),
        (
            {"amount_minor": 1, "processor_fee_minor": 1},
            [("amount", "12000", "1"), ("fee", "205", "1")],
        ),
        ({"occurred_at": at("2026-03-01T08:15:00")}, []),
    ],
)
def test_differences_show_both_sides(
    change: dict[str, object], differences: list[tuple[str, str, str]]
) -> None:
    first, *others = books_of_stripe_payout()
    values = {name: getattr(first, name) for name in type(first).__slots__} | change
    outcome = outcomes_of(STRIPE_PAYOUT, [booked(**values), *others])[0]
    assert [(d.field, d.report, d.books) for d in outcome.differences] == differences
    assert outcome.kind == ("differs" if differences else "matched")


def test_fees_that_the_books_have_none_of_are_not_booked() -> None:
    first, *others = books_of_stripe_payout()
    without = booked(
        "stripe:ch_a1",
        amount_minor=12_000,
        fee_minor=1_000,
        occurred_at=first.occurred_at,
    )
    outcome = outcomes_of(STRIPE_PAYOUT, [without, *others])[0]
    assert (outcome.kind, outcome.cost_not_booked_minor) == ("fee_not_booked", 205)


def test_a_restaurants_commission_is_not_the_processors_fee() -> None:
    """`fee_minor` of a charge is the platform's: it is not compared with the report's fee."""
    with reconciled(STRIPE_PAYOUT, books_of_stripe_payout()) as result:
        first = next(result.outcomes())
        assert (first.event and first.event.fee_minor, first.kind) == (1_000, "matched")


def test_events_of_the_period_without_a_line_are_missing_there() -> None:
    """In the report's currencies, of its processor, from its first line to its last."""
    events = [
        *books_of_stripe_payout(),
        booked("stripe:ch_lost", occurred_at=at("2026-03-03T00:00:00")),
        booked("stripe:first", occurred_at=at("2026-03-02T08:15:00")),
        booked("stripe:last", occurred_at=at("2026-03-06T12:00:00")),
        booked("stripe:before", occurred_at=at("2026-03-02T08:14:59")),
        booked("stripe:after", occurred_at=at("2026-03-06T12:00:01")),
        booked("stripe:usd", currency="USD", occurred_at=at("2026-03-03T00:00:00")),
        booked("adyen:other", occurred_at=at("2026-03-03T00:00:00")),
        booked("stripe:own", "fee_assessed", occurred_at=at("2026-03-03T00:00:00")),
    ]
    missing = [
        outcome.event.event_id
        for outcome in outcomes_of(STRIPE_PAYOUT, events)
        if outcome.kind == "missing_there" and outcome.event
    ]
    assert missing == ["stripe:first", "stripe:ch_lost", "stripe:last"]
    wider = outcomes_of(STRIPE_PAYOUT, events, start_at=at("2026-03-01T00:00:00"), event_prefix="")
    assert [o.event.event_id for o in wider if o.kind == "missing_there" and o.event] == [
        "stripe:before", "stripe:first", "adyen:other", "stripe:ch_lost", "stripe:last",
    ]  # fmt: skip


def test_copies_of_rows_are_found_and_not_added() -> None:
    """A copy counts neither for its event nor for its payout."""
    rows = STRIPE_PAYOUT.splitlines(keepends=True)
    twice = "".join((*rows[:4], rows[2], *rows[4:]))
    kinds = found(twice, books_of_stripe_payout())
    assert kinds[3] == (5, "duplicate_row")
    assert "sum_differs" not in [kind for _, kind in kinds]
    copied = MERCADO_PAGO + MERCADO_PAGO.splitlines()[1] + "\n"
    assert (5, "duplicate_row") in found(copied)


def test_a_payout_that_is_not_the_sum_of_its_lines_is_found() -> None:
    wrong = STRIPE_PAYOUT.replace("-136.94", "-136.93")
    outcomes = [o for o in outcomes_of(wrong, books_of_stripe_payout()) if o.lines[0].row == 9]
    assert [outcome.kind for outcome in outcomes] == ["sum_differs", "settlement_not_booked"]
    (difference,) = outcomes[0].differences
    assert (difference.report, difference.books) == ("-13693", "-13694")
    with reconciled(wrong, books_of_stripe_payout()) as result:
        # A person looks at it before it is booked.
        assert [posting.type for posting in result.postings()] == ["processor_fee_assessed"]


def test_payouts_tie_by_batch_and_currency() -> None:
    """A batch of Adyen adds up to its payout; that of another currency does not."""
    kinds = [kind for _, kind in found(ADYEN_SETTLEMENT)]
    assert "sum_differs" not in kinds
    in_dollars = ADYEN_SETTLEMENT.replace(
        '"TX88 batch 14, ComedorEU",EUR,,,,EUR', '"TX88 batch 14, ComedorEU",EUR,,,,USD'
    )
    outcomes = [o for o in outcomes_of(in_dollars) if o.kind == "sum_differs"]
    assert [(o.lines[0].currency, o.differences[0].books) for o in outcomes] == [("USD", "0")]


def test_a_settlement_of_another_amount_differs() -> None:
    events = [*books_of_stripe_payout(), booked("stripe:po_a", "processor_settled", 13_000)]
    outcome = outcomes_of(STRIPE_PAYOUT, events)[-1]
    assert outcome.kind == "differs"
    assert [(d.field, d.report, d.books) for d in outcome.differences] == [
        ("amount", "-13694", "-13000")
    ]


def test_a_row_that_does_not_add_up_differs() -> None:
    report = STRIPE_PAYOUT.replace("120.00,2.05,117.95", "120.00,2.05,117.85")
    outcome = outcomes_of(report, books_of_stripe_payout())[0]
    assert [d.field for d in outcome.differences] == ["row"]


def test_totals_tie_whatever_is_missing(seed: int) -> None:
    """Random parts of books and report: every line and event is in exactly one sum."""
    random_numbers = random.Random(seed)
    rows = STRIPE_PAYOUT.splitlines(keepends=True)
    events = books_of_stripe_payout()
    for _ in range(50):
        kept = [row for row in rows[1:] if random_numbers.random() < 0.7]
        random_numbers.shuffle(kept)
        here = [
            booked(
                event.event_id,
                event.type,
                event.amount_minor + random_numbers.choice((0, 0, 1)),
                random_numbers.choice(("EUR", "EUR", "USD")),
                fee_minor=event.fee_minor,
                processor_fee_minor=random_numbers.choice((0, event.processor_fee_minor)),
                occurred_at=event.occurred_at + timedelta(hours=random_numbers.randint(-30, 30)),
                reference=event.reference,
            )
            for event in events
            if random_numbers.random() < 0.7
        ]
        with reconciled(rows[0] + "".join(kept), here) as result:
            lines = [line for o in result.outcomes() for line in o.lines if line.kind != "payout"]
            whole = result.totals.whole_report("EUR")
            assert whole.count == len(lines)
            assert whole.net_minor == sum(line.net_minor for line in lines)
            for currency in result.totals.currencies:
                seen = [
                    event
                    for o in result.outcomes()
                    for event in o.events
                    if event.currency == currency
                ]
                assert result.totals.whole_books(currency).count == len(seen)
                assert result.totals.whole_books(currency).net_minor == sum(
                    event.net_minor for event in seen
                )
