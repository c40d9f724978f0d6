"""One line of a file of events."""

import json
from typing import Any

import pytest

from ledger.cli.ingest.fields import InvalidLine
from ledger.cli.ingest.lines import parse_event_line
from ledger.cli.instants import format_instant
from ledger.v1 import ledger_pb2

CHARGE = {
    "event_id": "evt_1",
    "event_type": "charge_succeeded",
    "occurred_at": "2025-12-01T10:00:00Z",
    "restaurant_id": "res_1",
    "currency": "PEN",
    "amount": 15000,
    "fee": 750,
}


def line_of(**fields: Any) -> str:
    """A valid charge with these fields replaced; a field that is `...` is left out."""
    return json.dumps(
        {name: value for name, value in (CHARGE | fields).items() if value is not ...}
    )


def violations_of(line: str) -> dict[str, str]:
    """The violations of a line, by field."""
    with pytest.raises(InvalidLine) as caught:
        parse_event_line(line)
    return {found.field: found.description for found in caught.value.violations}


def test_line_becomes_an_event() -> None:
    """Every field, under the names of the published example."""
    event = parse_event_line(line_of(reference="pay_1", metadata={"note": "Año nuevo"}))
    assert event == ledger_pb2.ProcessorEvent(
        event_id="evt_1",
        type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
        restaurant_id="res_1",
        currency="PEN",
        amount_minor=15000,
        fee_minor=750,
        occurred_at=event.occurred_at,
        reference="pay_1",
        metadata={"note": "Año nuevo"},
    )
    assert format_instant(event.occurred_at) == "2025-12-01T10:00:00Z"


def test_line_has_what_the_processor_says_of_time_and_cost() -> None:
    """When the money is available, and what the processor charged the platform."""
    event = parse_event_line(
        line_of(available_at="2025-12-08T10:00:00Z", processor_fee=420, metadata=None)
    )
    assert format_instant(event.available_at) == "2025-12-08T10:00:00Z"
    assert event.processor_fee_minor == 420
    assert not parse_event_line(line_of()).HasField("available_at")
    assert violations_of(line_of(available_at="soon", processor_fee=1.5)).keys() == {
        "available_at",
        "processor_fee",
    }


@pytest.mark.parametrize("event_type", ["processor_settled", "PROCESSOR_FEE_ASSESSED"])
def test_event_of_the_platform_needs_no_restaurant(event_type: str) -> None:
    line = line_of(event_type=event_type, restaurant_id=..., fee=...)
    assert parse_event_line(line).restaurant_id == ""


@pytest.mark.parametrize("number", [number for number in ledger_pb2.EventType.values() if number])
def test_each_type_has_three_spellings(number: ledger_pb2.EventType.ValueType) -> None:
    """As the database, as people and as the contract write it, under either name of the field."""
    name = ledger_pb2.EventType.Name(number)
    short = name.removeprefix("EVENT_TYPE_")
    for spelling in (name, short, short.lower()):
        assert parse_event_line(line_of(event_type=spelling)).type == number
        assert parse_event_line(line_of(event_type=..., type=spelling)).type == number


@pytest.mark.parametrize("name", ["amount", "amount_cents", "amount_minor"])
def test_amount_has_three_names(name: str) -> None:
    """They all mean minor units."""
    assert parse_event_line(line_of(**{"amount": ..., name: 1250})).amount_minor == 1250


@pytest.mark.parametrize("name", ["fee", "fee_cents", "fee_minor"])
def test_fee_has_three_names_and_may_be_absent(name: str) -> None:
    """No fee is a fee of 0."""
    assert parse_event_line(line_of(**{"fee": ..., name: 5})).fee_minor == 5
    assert parse_event_line(line_of(fee=...)).fee_minor == 0
    assert parse_event_line(line_of(fee=None)).fee_minor == 0


def test_two_names_of_a_field_must_agree() -> None:
    """A contradiction is an error; the same value twice is none."""
    event = parse_event_line(
        line_of(amount_cents=15000, fee_minor=750, type="EVENT_TYPE_CHARGE_SUCCEEDED")
    )
    assert (event.amount_minor, event.fee_minor) == (15000, 750)
    assert violations_of(line_of(amount_minor=15001)) == {
        "amount_minor": "contradicts amount, which is the same field"
    }
    assert violations_of(line_of(fee_cents=0)) == {
        "fee_cents": "contradicts fee, which is the same field"
    }
    assert "type" in violations_of(line_of(type="refund_succeeded"))
    # null counts as absent, so it contradicts nothing.
    assert parse_event_line(line_of(amount=None, amount_cents=7)).amount_minor == 7
    assert violations_of(line_of(amount="x", amount_cents=1, amount_minor=2)).keys() == {
        "amount",
        "amount_minor",
    }


@pytest.mark.parametrize(
    "written", ["12.0", "12.5", "1e3", "1E3", "-0.0", '"1250"', "true", "[1]", "{}", '""']
)
@pytest.mark.parametrize("name", ["amount", "fee"])
def test_only_whole_numbers_are_money(name: str, written: str) -> None:
    """No point, no exponent, no quotes: nothing is rounded or guessed."""
    line = line_of(**{name: 987654321}).replace("987654321", written)
    assert "must be a whole number of minor units" in violations_of(line)[name]


@pytest.mark.parametrize("name", ["amount_minor", "fee_minor", "processor_fee_minor"])
def test_numbers_of_the_contract_may_be_in_quotes(name: str) -> None:
    """As the JSON of the contract has them. Other texts are no numbers, under any name."""
    other = {"amount": ...} if name == "amount_minor" else {"fee": ...}
    for written, number in (("1250", 1250), ("-5", -5), ("0", 0), (str(2**63 - 1), 2**63 - 1)):
        assert getattr(parse_event_line(line_of(**other, **{name: written})), name) == number
    for written in ("", "12.0", "1e3", "+1", " 1", "1 ", "1_0", "0x1", "\u0661", "--1", "1" * 20):
        rule = violations_of(line_of(**other, **{name: written}))[name]
        assert "must be a whole number of minor units" in rule
    assert violations_of(line_of(**other, **{name: str(2**63)})) == {name: "must fit 64 bits"}


@pytest.mark.parametrize("written", ["NaN", "Infinity", "-Infinity"])
def test_nan_and_infinity_are_no_numbers(written: str) -> None:
    """Python's parser of JSON would accept them."""
    assert (
        "is not a number"
        in violations_of(line_of(amount=987654321).replace("987654321", written))[""]
    )


def test_amount_must_fit_its_field() -> None:
    """64 bits. The server checks the limits of the ledger."""
    assert parse_event_line(line_of(amount=2**63 - 1)).amount_minor == 2**63 - 1
    assert parse_event_line(line_of(amount=-5)).amount_minor == -5
    assert violations_of(line_of(amount=2**63)) == {"amount": "must fit 64 bits"}
    assert "" in violations_of(line_of(amount=987654321).replace("987654321", "9" * 5000))


@pytest.mark.parametrize(
    "name", ["event_id", "event_type", "occurred_at", "restaurant_id", "currency", "amount"]
)
def test_missing_required_field_is_reported(name: str) -> None:
    """Absent or null."""
    assert violations_of(line_of(**{name: ...})) == {name: "is missing"}
    assert violations_of(line_of(**{name: None})) == {name: "is missing"}


@pytest.mark.parametrize("value", [1, 1.5, True, [], {}])
@pytest.mark.parametrize(
    "name",
    [
        "event_id",
        "restaurant_id",
        "currency",
        "event_type",
        "occurred_at",
        "reference",
        "payout_id",
    ],
)
def test_text_must_be_a_string(name: str, value: object) -> None:
    """An id that is a number in the file is not turned into one that is a string."""
    assert violations_of(line_of(**{name: value})).keys() == {name}


def test_all_violations_are_reported_at_once() -> None:
    """Together with the event's id, if that is right."""
    with pytest.raises(InvalidLine) as caught:
        parse_event_line(
            line_of(event_type="charge", amount=1.5, occurred_at="yesterday", metadata=[])
        )
    assert caught.value.line_id == "evt_1"
    assert [found.field for found in caught.value.violations] == [
        "event_type",
        "amount",
        "occurred_at",
        "metadata",
    ]


@pytest.mark.parametrize(
    "value",
    [
        "Charge_Succeeded",
        "charge.succeeded",
        "EVENT_TYPE_UNSPECIFIED",
        "unspecified",
        "",
        " CHARGE_SUCCEEDED",
    ],
)
def test_error_of_an_unknown_type_names_the_known_ones(value: str) -> None:
    """Nothing is trimmed or folded."""
    assert (
        "charge_succeeded, refund_succeeded"
        in violations_of(line_of(event_type=value))["event_type"]
    )


def test_unknown_field_is_an_error_unless_allowed() -> None:
    """A fee under a misspelt name would be lost."""
    line = line_of(fee=..., fee_amount=750)
    assert violations_of(line) == {"fee_amount": "is not a field of an event"}
    assert parse_event_line(line, ignore_unknown_fields=True).fee_minor == 0


@pytest.mark.parametrize(
    ("line", "description"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ('{"event_id": "evt_1"} {}', "is not JSON"),
        ("{'event_id': 'evt_1'}", "is not JSON"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ('"evt_1"', "must be a JSON object"),
        ("12", "must be a JSON object"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"amount": 1, "amount": 2}', "is there twice"),
        ('{"metadata": {"a": "1", "a": "2"}}', "is there twice"),
    ],
)
def test_line_that_is_no_object_is_an_error(line: str, description: str) -> None:
    """The violation is one of the whole line."""
    assert description in violations_of(line)[""]


def test_metadata_is_text() -> None:
    """Numbers as they are written, true and false as JSON has them; null is left out."""
    line = line_of(
        metadata={
            "text": "x",
            "whole": 12,
            "big": 10**30,
            "yes": True,
            "no": False,
            "none": None,
            "empty": "",
        }
    )
    line = line.replace('"text"', '"price": 12.50, "tiny": 1e-7, "text"')
    assert dict(parse_event_line(line).metadata) == {
        "price": "12.50",
        "tiny": "1e-7",
        "text": "x",
        "whole": "12",
        "big": str(10**30),
        "yes": "true",
        "no": "false",
        "empty": "",
    }
    assert dict(parse_event_line(line_of(metadata=None)).metadata) == {}


@pytest.mark.parametrize("value", [{"a": {}}, {"a": []}, {"a": ["b"]}, [], "text", 1, True])
def test_nested_metadata_is_an_error(value: object) -> None:
    """It has no unique form as text."""
    assert "must be an object of strings" in violations_of(line_of(metadata=value))["metadata"]


def test_lone_surrogate_is_an_error() -> None:
    """JSON can contain one, and a message cannot."""
    assert "lone surrogate" in violations_of(line_of(event_id="evt_\ud800"))["event_id"]
    assert "lone surrogate" in violations_of(line_of(metadata={"a": "\udfff"}))["metadata"]
    assert "lone surrogate" in violations_of(line_of(metadata={"\udfff": "a"}))["metadata"]


def test_payment_id_is_the_reference_of_an_event_without_one() -> None:
    """It also stays in the metadata."""
    metadata = {"payment_id": "pay_1"}
    assert parse_event_line(line_of(metadata=metadata)).reference == "pay_1"
    assert parse_event_line(line_of(metadata=metadata, reference=None)).reference == "pay_1"
    assert parse_event_line(line_of(metadata=metadata, reference="ref_1")).reference == "ref_1"
    assert dict(parse_event_line(line_of(metadata=metadata)).metadata) == metadata
    assert parse_event_line(line_of(metadata={"payment_id": 17})).reference == "17"


def test_payout_id_of_the_metadata_counts_on_payout_events_only() -> None:
    """On others it would be refused."""
    metadata = {"payout_id": "pyt_1"}
    assert (
        parse_event_line(line_of(event_type="payout_paid", metadata=metadata)).payout_id == "pyt_1"
    )
    assert (
        parse_event_line(
            line_of(event_type="payout_failed", metadata=metadata, payout_id="pyt_2")
        ).payout_id
        == "pyt_2"
    )
    assert parse_event_line(line_of(metadata=metadata)).payout_id == ""
