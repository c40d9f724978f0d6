"""What a payment of Mercado Pago becomes as it stands: charge, fee, taxes and refunds."""

import contextlib
import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mercado_pago import Json, endpoint, given_back, line, payment, refund
from support.readings import ANY_JSON, compared_fields, lines_of

from ledger.gateway.deliveries import Fact, Owner, Reading
from ledger.gateway.payloads import Malformed, parse
from ledger.gateway.processors.mercado_pago.payments import read_payment

CHARGE = (
    "CHARGE_SUCCEEDED 8050 PEN · mp:77000000017:approved · order-42 · processor_fee_minor=357"
    " · available_at=2026-06-10T17:00:00Z"
)
TAX = line(
    2,
    2.42,
    type="tax",
    name="tax_withholding-peru",
    metadata={"source": "taxes"},
)
TAXED: Json = {
    "charges_details": [line(1, 3.57), TAX],
    "transaction_details": {"net_received_amount": 74.51},
}
TAX_LINE = (
    "TAX_WITHHELD 242 PEN · mp:tax:77000000017-002 · order-42 · available_at=2026-06-10T17:00:00Z"
)
COMMISSION = line(
    3, 5, name="third_payment", accounts={"from": "collector", "to": "marketplace_owner"}
)
SPLIT: Json = {
    "charges_details": [line(1, 3.57), COMMISSION],
    "transaction_details": {"net_received_amount": 71.93},
}
SPLIT_CHARGE = CHARGE.replace(" · processor_fee", " · commission_minor=500 · processor_fee")
WHOLE: Json = {
    "status": "refunded",
    "transaction_amount_refunded": 80.5,
    "refunds": [refund(80.5)],
    "charges_details": [line(1, 3.57, **given_back(3.57, 3.57))],
}
REFUND = "REFUND_SUCCEEDED 8050 PEN · mp:refund:9001 · order-42"
FEE_BACK = "PROCESSOR_FEE_REFUNDED 357 PEN · mp:fee:77000000017-001:refunded:9001 · order-42"
FEES_BY_PROCESSOR = {"fees": {"commission": "processor"}}


def read(resource: Json, **changes: object) -> Sequence[Reading]:
    body = parse(json.dumps(resource).encode())
    return read_payment(body, "77000000017", endpoint(**changes))


EACH: dict[str, tuple[Json, list[str]]] = {
    "approved": ({}, [CHARGE]),
    "without a merchant's reference": (
        {"external_reference": None},
        [CHARGE.replace("order-42", "77000000017")],
    ),
    "with a reference that the ledger would not take": (
        {"external_reference": "pedido número 42"},
        [CHARGE.replace("order-42", "77000000017")],
    ),
    "without a day of release": (
        {"money_release_date": None},
        [CHARGE.removesuffix(" · available_at=2026-06-10T17:00:00Z")],
    ),
    "released before it was approved": (
        {"money_release_date": "2026-05-20T00:00:00Z"},
        [CHARGE.replace("2026-06-10", "2026-05-20")],
    ),
    "a fee that the payer pays is none of the collector's": (
        {"charges_details": [line(1, 3.57), line(2, 9.99, accounts={"from": "payer", "to": "mp"})]},
        [CHARGE],
    ),
    "only fee_details": (
        {
            "charges_details": None,
            "fee_details": [
                {"amount": 3.57, "fee_payer": "collector", "type": "mercadopago_fee"},
                {"amount": 9.99, "fee_payer": "payer", "type": "financing_fee"},
            ],
        },
        [CHARGE],
    ),
    "only fee_details, with the marketplace's": (
        {
            "charges_details": [],
            "fee_details": [
                {"amount": 3.57, "fee_payer": "collector", "type": "mercadopago_fee"},
                {"amount": 5, "fee_payer": "collector", "type": "application_fee"},
            ],
            "transaction_details": {"net_received_amount": 71.93},
        },
        [SPLIT_CHARGE],
    ),
    "no fee": (
        {
            "charges_details": [],
            "fee_details": [],
            "transaction_details": {"net_received_amount": 80.50},
        },
        [CHARGE.replace(" · processor_fee_minor=357", "")],
    ),
    "a tax withheld": (TAXED, [CHARGE, TAX_LINE]),
    "two taxes withheld": (
        {
            "charges_details": [line(1, 3.57), TAX, {**TAX, "id": "77000000017-003"}],
            "transaction_details": {"net_received_amount": 72.09},
        },
        [CHARGE, TAX_LINE, TAX_LINE.replace("-002", "-003")],
    ),
    "a tax that nobody names": (
        {"transaction_details": {"net_received_amount": 74.51}},
        ["UNBOOKABLE payment.approved NET_DOES_NOT_TIE"],
    ),
    "a commission of the marketplace's": (SPLIT, [SPLIT_CHARGE]),
    "something else that the collector pays": (
        {"charges_details": [line(1, 3.57, type="coupon")]},
        ["UNBOOKABLE payment.approved UNKNOWN_SHAPE"],
    ),
    "refunded": (WHOLE, [CHARGE, REFUND, FEE_BACK]),
    "refunded with its tax and the commission": (
        WHOLE
        | {
            "charges_details": [
                line(1, 3.57),
                {**TAX, **given_back(2.42, 2.42)},
                {**COMMISSION, **given_back(5, 5)},
            ],
            "transaction_details": {"net_received_amount": 69.51},
        },
        [
            SPLIT_CHARGE,
            TAX_LINE,
            REFUND,
            "TAX_WITHHOLDING_REVERSED 242 PEN · mp:tax:77000000017-002:reversed:9001 · order-42",
        ],
    ),
    "refunded in parts": (
        {
            "transaction_amount_refunded": 30.25,
            "refunds": [refund(10), refund(20.25, number=9002)],
        },
        [
            CHARGE,
            "REFUND_SUCCEEDED 1000 PEN · mp:refund:9001 · order-42",
            "REFUND_SUCCEEDED 2025 PEN · mp:refund:9002 · order-42",
        ],
    ),
    "a refund under way": (
        {"refunds": [refund(10, "in_process")]},
        [CHARGE, "IGNORED payment.approved.refund"],
    ),
    "a refund that failed": (
        {"refunds": [refund(10, "rejected")]},
        [
            CHARGE,
            "REFUND_SUCCEEDED 1000 PEN · mp:refund:9001 · order-42",
            "REFUND_FAILED 1000 PEN · mp:refund:9001:failed · order-42",
        ],
    ),
    "a refund of a status of tomorrow": (
        {"refunds": [refund(10, "bounced")]},
        [CHARGE, "UNBOOKABLE payment.approved UNKNOWN_REFUND_STATUS"],
    ),
    "a refund that is not listed": (
        {"transaction_amount_refunded": 30.25, "refunds": [refund(10)]},
        [
            CHARGE,
            "REFUND_SUCCEEDED 1000 PEN · mp:refund:9001 · order-42",
            "UNBOOKABLE payment.approved REFUNDS_DO_NOT_TIE",
        ],
    ),
    "a refund that cannot be read does not hide the charge": (
        {"refunds": [refund(10, date_created=None)]},
        [CHARGE, "UNBOOKABLE payment.approved UNKNOWN_SHAPE"],
    ),
    "a fee given back, and nobody says when": (
        {"charges_details": [line(1, 3.57, amounts={"original": 3.57, "refunded": 1})]},
        [CHARGE, "UNBOOKABLE payment.approved RETURNS_DO_NOT_TIE"],
    ),
    "charged back": ({"status": "charged_back"}, [CHARGE, "IGNORED payment.charged_back alert"]),
    "in mediation": ({"status": "in_mediation"}, [CHARGE]),
    "authorised": ({"status": "authorized", "captured": False}, ["IGNORED payment.authorized"]),
    "approved but not captured": ({"captured": False}, ["IGNORED payment.approved"]),
    "under way": (
        {"status": "in_process", "date_approved": None},
        ["IGNORED payment.in_process"],
    ),
    "not paid yet": ({"status": "pending", "date_approved": None}, ["IGNORED payment.pending"]),
    "rejected": ({"status": "rejected", "date_approved": None}, ["IGNORED payment.rejected"]),
    "canceled": ({"status": "cancelled", "date_approved": None}, ["IGNORED payment.cancelled"]),
    "canceled after it was approved": (
        {"status": "cancelled"},
        ["UNBOOKABLE payment.cancelled ENDED_AFTER_APPROVAL"],
    ),
    "a status of tomorrow": ({"status": "held"}, ["UNBOOKABLE payment.held UNKNOWN_STATUS"]),
    "the collector's own money": (
        {"operation_type": "account_fund"},
        ["UNBOOKABLE payment.approved NO_SALE"],
    ),
    "a card was checked": ({"transaction_amount": 0}, ["IGNORED payment.approved"]),
    "another payment": ({"id": 77000000018}, ["UNBOOKABLE payment.approved OTHER_RESOURCE"]),
    "of the other mode": ({"live_mode": False}, ["UNBOOKABLE payment.approved WRONG_MODE"]),
    "it does not say its mode": ({"live_mode": None}, [CHARGE]),
    "pesos without decimals": (
        {
            "currency_id": "CLP",
            "transaction_amount": 12_000.0,
            "charges_details": [line(1, 500)],
            "transaction_details": {"net_received_amount": 11_500},
        },
        [CHARGE.replace("8050 PEN", "12000 CLP").replace("=357", "=500")],
    ),
    "a part of a peso": (
        {"currency_id": "CLP"},
        ["UNBOOKABLE payment.approved UNKNOWN_SHAPE"],
    ),
    "pesos with two decimals": (
        {
            "currency_id": "COP",
            "transaction_amount": 12_000,
            "charges_details": [line(1, 500)],
            "transaction_details": {"net_received_amount": 11_500},
        },
        [CHARGE.replace("8050 PEN", "1200000 COP").replace("=357", "=50000")],
    ),
    "amounts in digits": (
        {"transaction_amount": "80.50", "transaction_details": {"net_received_amount": "76.93"}},
        [CHARGE],
    ),
}


@pytest.mark.parametrize("case", EACH)
def test_what_each_payment_becomes(case: str) -> None:
    """A table of cases."""
    changes, expected = EACH[case]
    try:
        found = lines_of(read(payment(**changes)))
    except Malformed:
        found = ["UNBOOKABLE payment.approved UNKNOWN_SHAPE"]
    assert found == expected


def test_a_commission_goes_back_where_the_charge_carried_it() -> None:
    """By the fee policy `processor`; by others the charge had another commission, or none."""
    resource = payment(
        **WHOLE
        | SPLIT
        | {"charges_details": [line(1, 3.57), {**COMMISSION, **given_back(5, 2.5, 9002)}]}
    )
    back = "FEE_REFUNDED 250 PEN · mp:commission:77000000017-003:refunded:9002 · order-42"
    assert lines_of(read(resource)) == [SPLIT_CHARGE, REFUND]
    assert lines_of(read(resource, **FEES_BY_PROCESSOR)) == [SPLIT_CHARGE, REFUND, back]


def test_whose_money_it_is() -> None:
    """The collector, the store, the merchant's reference, and metadata of texts and integers."""
    (fact,) = read(payment())
    assert isinstance(fact, Fact)
    assert fact.owner == Owner(
        account="555001",
        store="S-9",
        reference="order-42",
        metadata={"restaurant": "rest_7", "commission": "250"},
    )
    assert fact.metadata["mp_payment"] == "77000000017"
    (fact,) = read(payment(collector_id=None, collector={"id": 555001}))
    assert isinstance(fact, Fact)
    assert fact.owner.account == "555001"


TAXED_LINES = [line(1, 3.57), TAX, COMMISSION]
TAXED_BACK = [
    line(1, 3.57, **given_back(3.57, 3.57)),
    {**TAX, **given_back(2.42, 2.42)},
    {**COMMISSION, **given_back(5, 5)},
]
NET: Json = {"transaction_details": {"net_received_amount": 69.51}}
# What the gateway may see of one payment, whenever it looks.
LIFE = [
    payment(status="pending", date_approved=None, charges_details=[], **NET),
    payment(charges_details=TAXED_LINES, **NET),
    payment(charges_details=TAXED_LINES, refunds=[refund(80.5, "in_process")], **NET),
    payment(charges_details=TAXED_LINES, status="in_mediation", **NET),
    payment(**WHOLE | NET | {"charges_details": TAXED_BACK}),
    payment(**WHOLE | NET | {"charges_details": TAXED_BACK, "status": "charged_back"}),
]


@settings(max_examples=30, deadline=None)
@given(order=st.lists(st.integers(0, 5), max_size=8), last=st.permutations(range(6)))
def test_any_order_and_repetition_reports_the_same_facts(order: list[int], last: list[int]) -> None:
    """Every look at a payment reports a fact with the fields of every other look."""
    found: dict[str, set[str]] = {}
    for step in [*order, *last]:
        for reading in read(LIFE[step], **FEES_BY_PROCESSOR):
            if isinstance(reading, Fact):
                found.setdefault(reading.event_id, set()).add(str(compared_fields(reading)))
    assert sorted(found) == [
        "mp:77000000017:approved",
        "mp:commission:77000000017-003:refunded:9001",
        "mp:fee:77000000017-001:refunded:9001",
        "mp:refund:9001",
        "mp:tax:77000000017-002",
        "mp:tax:77000000017-002:reversed:9001",
    ]
    assert all(len(reported) == 1 for reported in found.values())


def test_the_last_look_alone_reports_what_earlier_ones_did() -> None:
    """A notification that never came is no loss: the next one reports its facts."""
    last = {
        reading.event_id
        for reading in read(LIFE[-1], **FEES_BY_PROCESSOR)
        if isinstance(reading, Fact)
    }
    assert len(last) == 6


def test_a_later_day_of_release_changes_nothing_else() -> None:
    """The first report stands: the ledger is told that only this field may differ."""
    facts = [
        reading
        for resource in (payment(), payment(money_release_date="2026-07-01T00:00:00Z"))
        for reading in read(resource)
        if isinstance(reading, Fact)
    ]
    assert len({fact.event_id for fact in facts}) == 1
    assert facts[0].available_at != facts[1].available_at
    assert "available_at" in facts[0].may_change & facts[1].may_change


@settings(max_examples=40, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from(sorted({*payment(), "collector"})), ANY_JSON),
    detail=st.dictionaries(st.sampled_from(sorted(line(1, 1))), ANY_JSON),
    refunded=st.dictionaries(st.sampled_from(sorted(refund(1))), ANY_JSON),
)
def test_reading_raises_nothing_but_malformed(changes: Json, detail: Json, refunded: Json) -> None:
    """Whatever the API returns; the processor makes a reading of Malformed."""
    resource = payment(
        charges_details=[{**line(1, 3.57), **detail}], refunds=[{**refund(10), **refunded}]
    )
    for one in (resource, {**resource, **changes}):
        with contextlib.suppress(Malformed):
            assert read(one)
