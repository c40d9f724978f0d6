"""Facts by a mapping: what the paths find, in every form that processors write it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.mapped_messages import FIELDS, Json, mapped, payment
from support.readings import lines_of

from ledger.gateway.deliveries import Fact, Ignored, Unbookable
from ledger.gateway.processors.field_mapping import MappedEndpoint, read_mapped, steps_of


def endpoint(changes: Json | None = None, **more: Any) -> MappedEndpoint:
    secrets = [{"name": "k1", "value": "s"}]
    return MappedEndpoint.model_validate({**mapped(changes, **more), "secrets": secrets})


def text(message: object, changes: Json | None = None, **more: Any) -> str:
    readings = read_mapped(json.dumps(message).encode(), endpoint(changes, **more))
    return "\n".join(lines_of(readings))


PAID = "CHARGE_SUCCEEDED 1250 PEN · acme:pay_17:payment.paid · order-9"
SHAPE = "UNBOOKABLE payment.paid UNKNOWN_SHAPE"
# What the message is, what the mapping says otherwise, and what becomes of it.
CASES: dict[str, tuple[object, Json, str]] = {
    "a payment": (payment(), {}, PAID),
    "its number as a text": (payment(amount="1250"), {}, PAID),
    "a whole number with a point": (payment(amount=1250.0), {}, PAID),
    "half of a minor unit": (payment(amount=1250.5), {}, SHAPE),
    "a text that is no number": (payment(amount="1,250"), {}, SHAPE),
    "true": (payment(amount=True), {}, SHAPE),
    "no amount": (payment(amount=None), {}, SHAPE),
    "nothing": (payment(amount=0), {}, "IGNORED payment.paid"),
    "below zero": (payment(amount=-1250), {}, SHAPE),
    "below zero, of which the sign says nothing": (payment(amount=-1250), {"absolute": True}, PAID),
    "in whole units": (payment(amount=12.5), {"amount_unit": "major"}, PAID),
    "in whole units as a text": (payment(amount="12.50"), {"amount_unit": "major"}, PAID),
    "in whole units, too exact": (payment(amount="12.505"), {"amount_unit": "major"}, SHAPE),
    "in whole units of a currency without decimals": (
        payment(amount=1250, currency="JPY"),
        {"amount_unit": "major"},
        PAID.replace("PEN", "JPY"),
    ),
    "a number that no float can be": (
        payment(amount=9007199254740993),
        {},
        PAID.replace("1250", "9007199254740993"),
    ),
    "a currency in lower case": (payment(currency="pen"), {}, PAID),
    "an unknown currency": (payment(currency="XXX"), {}, SHAPE),
    "one currency for all": (
        payment(currency="ignored"),
        {"currency": None, "fixed_currency": "PEN"},
        PAID,
    ),
    "an id of its own": (
        payment(),
        {"event_id": "data.payment.id", "event_id_prefix": ""},
        "CHARGE_SUCCEEDED 1250 PEN · pay_17 · order-9",
    ),
    "an id that is a number": (
        payment(payment={"id": 9007199254740993}),
        {},
        PAID.replace("pay_17", "9007199254740993"),
    ),
    "an empty id": (payment(payment={"id": ""}), {}, SHAPE),
    "no id": (payment(payment={}), {}, SHAPE),
    "another type": (payment("payment.seen"), {}, "IGNORED payment.seen"),
    "no type": ({"data": {}}, {}, "UNBOOKABLE ? UNKNOWN_SHAPE"),
    "a status that counts": (
        payment(status="done"),
        {"only": {"data.status": ["done", "settled"]}},
        PAID,
    ),
    "a status that does not": (
        payment(status="waiting"),
        {"only": {"data.status": "done"}},
        "IGNORED payment.paid",
    ),
    "live": (payment(live=True), {"live": "data.live"}, PAID),
    "a test": (payment(live=False), {"live": "data.live"}, "UNBOOKABLE payment.paid WRONG_MODE"),
    "live in other words": (
        payment(environment="production"),
        {"live": "data.environment", "live_value": "production"},
        PAID,
    ),
    "no offset": (payment(at="2026-05-30T12:00:00"), {}, SHAPE),
    "no instant": (payment(at="yesterday"), {}, SHAPE),
    "fees": (
        payment(fee=100, cost="31", tariff=0),
        {"commission": "data.fee", "processor_fee": "data.cost", "dispute_fee": "data.tariff"},
        f"{PAID} · commission_minor=100 · processor_fee_minor=31",
    ),
    "a fee that is no number": (payment(fee="x"), {"commission": "data.fee"}, SHAPE),
    "a fee that is not there": (payment(), {"commission": "data.fee"}, PAID),
    "available later": (
        payment(later="2026-06-02T00:00:00-05:00"),
        {"available_at": "data.later"},
        f"{PAID} · available_at=2026-06-02T05:00:00Z",
    ),
    "a refund of a charge": (
        payment("refund.done", charge="pay_16"),
        {"charge": ["data.charge"]},
        "REFUND_SUCCEEDED 1250 PEN · acme:pay_17:refund.done · order-9",
    ),
    "a payment, where refunds name their charge": (
        payment(),
        {"charge": ["data.charge", "data.before"]},
        PAID,
    ),
    "a refund that names half of its charge": (
        payment("refund.done", charge="pay_16"),
        {"charge": ["data.charge", "data.before"]},
        SHAPE.replace("payment.paid", "refund.done"),
    ),
    "a charge that is taken back, of which nothing is named": (
        payment("payment.reversed"),
        {"charge": "data.charge"},
        SHAPE.replace("payment.paid", "payment.reversed"),
    ),
    "a charge that is taken back": (
        payment("payment.reversed", charge="pay_16"),
        {"charge": "data.charge"},
        "CHARGE_REVERSED 1250 PEN · acme:pay_17:payment.reversed · order-9 · reverses=acme:pay_16",
    ),
    "a payout": (
        payment("payout.bounced", payout="P1", code="R03", why="No account"),
        {
            "payout_id": "data.payout",
            "failure_code": "data.code",
            "failure_text": "data.why",
        },
        "PAYOUT_FAILED 1250 PEN · acme:pay_17:payout.bounced · order-9 · payout_id=P1"
        " · failure_code=R03 · failure_text=No account",
    ),
    "several facts": (
        {"rows": [payment(), payment("refund.done"), payment("other")]},
        {"facts": "rows"},
        f"{PAID}\nREFUND_SUCCEEDED 1250 PEN · acme:pay_17:refund.done · order-9\nIGNORED other",
    ),
    "no facts": ({"rows": []}, {"facts": "rows"}, "IGNORED ?"),
    "no array of facts": ({"rows": 7}, {"facts": "rows"}, "UNBOOKABLE ? UNKNOWN_SHAPE"),
    "a fact that is no object": ({"rows": [7]}, {"facts": "rows"}, "UNBOOKABLE ? UNKNOWN_SHAPE"),
    "a name with a point, and an array": (
        payment(items=[{"a.b": {"c/d": "pay_9"}}]),
        {"event_id": "/data/items/0/a.b/c~1d"},
        "CHARGE_SUCCEEDED 1250 PEN · acme:pay_9 · order-9",
    ),
    "a place beyond the array": (payment(items=[]), {"event_id": "data.items.0"}, SHAPE),
    "half of a character": (payment(order="\ud800"), {}, SHAPE),
}


@pytest.mark.parametrize("unit", ["minor", "major"])
def test_no_amount_is_rounded(unit: str) -> None:
    """Arithmetic on decimals rounds after 28 digits."""
    number = f"-1249.{'9' * 40}"
    body = json.dumps(payment(amount=0)).replace('"amount": 0', f'"amount": {number}').encode()
    found = read_mapped(body, endpoint({"absolute": True, "amount_unit": unit}))
    assert lines_of(found) == [SHAPE]


@pytest.mark.parametrize("case", CASES)
def test_a_mapping(case: str) -> None:
    """What is mapped is exact or unbookable: no amount is rounded, no instant guessed."""
    message, changes, expected = CASES[case]
    assert text(message, changes) == expected


@pytest.mark.parametrize(
    ("form", "at"),
    [
        ("iso8601", "2026-05-30T07:00:00.25-05:00"),
        ("unix_seconds", 1780142400.25),
        ("unix_seconds", "1780142400.25"),
        ("unix_milliseconds", 1780142400250),
    ],
)
def test_instants(form: str, at: object) -> None:
    """An instant in any form is the same one, to the microsecond."""
    body = json.dumps(payment(at=at)).encode()
    (fact,) = read_mapped(body, endpoint({"occurred_at_format": form}))
    assert isinstance(fact, Fact)
    assert fact.occurred_at.isoformat() == "2026-05-30T12:00:00.250000+00:00"


def test_an_instant_of_mail() -> None:
    """RFC 2822, as mail and some processors write it."""
    body = json.dumps(payment(at="Sat, 30 May 2026 14:00:00 +0200")).encode()
    (fact,) = read_mapped(body, endpoint({"occurred_at_format": "rfc2822"}))
    assert isinstance(fact, Fact)
    assert fact.occurred_at.isoformat() == "2026-05-30T12:00:00+00:00"


def test_decimals_that_a_processor_counts_otherwise() -> None:
    """1250 of a currency that the processor writes with two decimals and has none is 12."""
    assert "1200 JPY" in text(payment(amount=120000, currency="JPY"), exponents={"JPY": 2})
    assert text(payment(amount=120050, currency="JPY"), exponents={"JPY": 2}) == SHAPE


def test_settlements_are_of_the_platform() -> None:
    """Money between the processor and the platform belongs to no restaurant."""
    (fact,) = read_mapped(json.dumps(payment("settlement")).encode(), endpoint())
    assert isinstance(fact, Fact)
    assert fact.of_platform


def test_a_fact_names_its_charge() -> None:
    """By the event id of the charge, so that a refund's restaurant is the charge's."""
    message = payment("refund.done", charge="pay_16", before="payment.paid")
    mapping = endpoint({"charge": ["data.charge", "data.before"]})
    (fact,) = read_mapped(json.dumps(message).encode(), mapping)
    assert isinstance(fact, Fact)
    assert fact.charge == "acme:pay_16:payment.paid"
    assert not fact.reverses


def test_owner_and_metadata_are_found() -> None:
    """The restaurant's mapping has what the path found, whatever it looks by."""
    (fact,) = read_mapped(json.dumps(payment()).encode(), endpoint())
    assert isinstance(fact, Fact)
    assert fact.owner.account == fact.owner.store == fact.owner.reference == "cevicheria-3"
    assert fact.owner.metadata == {"table": "4"}


WRONG: dict[str, Json] = {
    "an unknown event type": {"fields": {**FIELDS, "types": {"x": "charge"}}},
    "no types": {"fields": {**FIELDS, "types": {}}},
    "an empty path": {"fields": {**FIELDS, "amount": ""}},
    "a path with a gap": {"fields": {**FIELDS, "amount": "data..amount"}},
    "an unknown field": {"fields": {**FIELDS, "amont": "data.amount"}},
    "two currencies": {"fields": {**FIELDS, "fixed_currency": "PEN"}},
    "no currency": {"fields": {**FIELDS, "currency": None}},
    "a currency that is none": {"fields": {**FIELDS, "currency": None, "fixed_currency": "pen"}},
    "no path for restaurants": {"fields": {**FIELDS, "restaurant": None}},
    "no path for metadata": {
        "fields": {**FIELDS, "metadata": None},
        "restaurant": {"by": "metadata", "key": "r"},
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mapping_that_cannot_work_is_refused(case: str) -> None:
    """The file is checked before anything of it is used."""
    with pytest.raises(ValidationError):
        endpoint(**WRONG[case])


def test_a_path_may_be_a_json_pointer() -> None:
    """For names that have a point."""
    assert steps_of("/a.b/c~1d/e~0f") == ["a.b", "c/d", "e~f"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(
    changes=st.dictionaries(st.sampled_from(sorted(payment()["data"])), anything),
    unit=st.sampled_from(["minor", "major"]),
    form=st.sampled_from(["iso8601", "unix_seconds", "unix_milliseconds", "rfc2822"]),
)
@settings(max_examples=150, deadline=None)
def test_no_payload_is_an_error(changes: Json, unit: str, form: str) -> None:
    """Whatever the paths find, it is a fact, nothing, or unbookable."""
    body = json.dumps(payment(**changes)).encode()
    found = read_mapped(body, endpoint({"amount_unit": unit, "occurred_at_format": form}))
    assert found
    assert all(isinstance(reading, Fact | Ignored | Unbookable) for reading in found)
