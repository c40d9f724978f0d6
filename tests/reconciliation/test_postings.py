"""What `--post` books: only what the report alone knows, under ids that it gives."""

from support.reports import (
    ADYEN_SETTLEMENT,
    STRIPE_PAYOUT,
    FakeBooks,
    at,
    booked,
    books_of_stripe_payout,
    found,
    reconciled,
)

from ledger.domain.fields import is_id, is_reference
from ledger.reconciliation.postings import Posting


def postings(report: str, books: FakeBooks) -> list[Posting]:
    with reconciled(report, books) as result:
        return list(result.postings())


def book(books: FakeBooks, posted: list[Posting]) -> None:
    for posting in posted:
        books.add(
            booked(
                posting.event_id,
                posting.type,
                posting.amount_minor,
                posting.currency,
                restaurant_id=posting.restaurant_id,
                occurred_at=posting.occurred_at,
                reference=posting.reference,
            )
        )


def test_fees_and_settlements_are_posted_once() -> None:
    """The second time nothing is left to post, and only what has no event is missing."""
    books = FakeBooks(books_of_stripe_payout())
    posted = postings(STRIPE_PAYOUT, books)
    assert [(p.event_id, p.type, p.amount_minor, p.restaurant_id) for p in posted] == [
        ("stripe:txn_a6:fee", "processor_fee_assessed", 330, ""),
        ("stripe:txn_a8:settled", "processor_settled", 13_694, ""),
    ]
    book(books, posted)
    assert postings(STRIPE_PAYOUT, books) == []
    assert [row for row in found(STRIPE_PAYOUT, books) if row[1] != "matched"] == [
        (8, "missing_here")
    ]


def test_the_fee_of_a_charge_is_posted_for_its_restaurant() -> None:
    books = FakeBooks(
        [booked("stripe:ch_a1", amount_minor=12_000, occurred_at=at("2026-03-02T08:15:00"))]
    )
    first, *_ = postings(STRIPE_PAYOUT, books)
    assert first == Posting(
        event_id="stripe:txn_a1:fee",
        type="processor_fee_assessed",
        restaurant_id="res_lima",
        currency="EUR",
        amount_minor=205,
        occurred_at=at("2026-03-02T08:15:00"),
        reference="ch_a1",
        row=2,
    )
    book(books, [first])
    assert (2, "matched") in found(STRIPE_PAYOUT, books)


def test_fees_that_differ_and_fees_of_disputes_are_not_posted() -> None:
    """Books with another fee contradict the report: a person decides."""
    events = [
        booked(
            "stripe:ch_a1",
            amount_minor=12_000,
            processor_fee_minor=100,
            occurred_at=at("2026-03-02T08:15:00"),
        ),
        booked(
            "stripe:dp_a4:opened", "dispute_opened", 3_140, occurred_at=at("2026-03-04T07:30:00")
        ),
    ]
    assert {posting.row for posting in postings(STRIPE_PAYOUT, FakeBooks(events))} == {7, 9}


def test_money_that_comes_back_is_posted_the_other_way() -> None:
    report = (
        STRIPE_PAYOUT.splitlines(keepends=True)[0]
        + "fee,txn_b1,2026-03-06 00:00:00,eur,3.30,0.00,3.30,fee_b1,,,po_b,\n"
        + "payout,txn_b2,2026-03-09 00:00:00,eur,-3.30,0.00,-3.30,po_b,,,po_b,\n"
        + "payout_reversal,txn_b3,2026-03-10 00:00:00,eur,3.30,0.00,3.30,po_b,,,,\n"
    )
    assert [(p.event_id, p.type) for p in postings(report, FakeBooks())] == [
        ("stripe:txn_b1:fee", "processor_fee_refunded"),
        ("stripe:txn_b2:settled", "processor_settled"),
        ("stripe:txn_b3:settled", "processor_settlement_debited"),
    ]


def test_ids_and_references_of_postings_are_valid() -> None:
    posted = postings(ADYEN_SETTLEMENT, FakeBooks())
    assert len(posted) == 2
    assert all(is_id(p.event_id) and is_reference(p.reference) for p in posted)
    assert posted[0].event_id.startswith("adyen:ComedorEU.14:")
