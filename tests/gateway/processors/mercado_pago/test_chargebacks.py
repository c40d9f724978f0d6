"""What a chargeback of Mercado Pago becomes as it stands."""

import contextlib
import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mercado_pago import Json, chargeback, endpoint
from support.readings import ANY_JSON, lines_of

from ledger.gateway.deliveries import Fact, Owner, Reading
from ledger.gateway.payloads import Malformed, parse
from ledger.gateway.processors.mercado_pago.chargebacks import read_chargeback

ID = "217000061307271001"
OWNER = Owner(account="555001")


def read(resource: Json, chargeback_id: str = ID) -> Sequence[Reading]:
    return read_chargeback(parse(json.dumps(resource).encode()), chargeback_id, endpoint(), OWNER)


def step(kind: str, name: str, chargeback_id: str = ID) -> str:
    return f"DISPUTE_{kind} 8050 PEN · mp:chargeback:{chargeback_id}:{name} · 77000000017"


OPENED = step("OPENED", "opened")
# As the API's client libraries know it.
OTHER_SHAPE: Json = {
    "id": "CB-077",
    "payments": None,
    "payment_id": 77000000017,
    "currency": None,
    "currency_id": "PEN",
    "date_last_updated": None,
    "last_modified": "2026-05-28T09:00:00.000-05:00",
    "live_mode": None,
    "documentation_status": None,
}
OTHER_OPENED = step("OPENED", "opened", "CB-077")

EACH: dict[str, tuple[Json, list[str]]] = {
    "opened": ({}, [OPENED]),
    "an id that is a number": ({"id": int(ID)}, [OPENED]),
    "documents are looked at": ({"documentation_status": "review_pending"}, [OPENED]),
    "the flag has its default": (
        {"coverage_applied": False, "documentation_status": "review_pending"},
        [OPENED],
    ),
    "covered": (
        {"coverage_applied": True, "documentation_status": "valid"},
        [OPENED, step("WON", "won")],
    ),
    "not covered": (
        {"coverage_applied": False, "documentation_status": "invalid"},
        [OPENED, step("LOST", "lost")],
    ),
    "no documents came": (
        {"coverage_applied": False, "documentation_status": "not_supplied"},
        [OPENED, step("LOST", "lost")],
    ),
    "texts for flags and amounts": (
        {"coverage_applied": "true", "amount": "80.50", "live_mode": "true"},
        [OPENED, step("WON", "won")],
    ),
    "without the day of its creation": ({"date_created": None}, [OPENED]),
    "of the other mode": ({"live_mode": "false"}, ["UNBOOKABLE chargeback WRONG_MODE"]),
    "another one": ({"id": "217000061307271002"}, ["UNBOOKABLE chargeback OTHER_RESOURCE"]),
    "no payment": (
        {"payments": []},
        [f"DISPUTE_OPENED 8050 PEN · mp:chargeback:{ID}:opened · {ID}"],
    ),
    "in review": (OTHER_SHAPE | {"status": "in_review"}, [OTHER_OPENED]),
    "won": (OTHER_SHAPE | {"status": "won"}, [OTHER_OPENED, step("WON", "won", "CB-077")]),
    "lost": (OTHER_SHAPE | {"status": "lost"}, [OTHER_OPENED, step("LOST", "lost", "CB-077")]),
    "a status of tomorrow": (
        OTHER_SHAPE | {"status": "adjourned"},
        [OTHER_OPENED, "UNBOOKABLE chargeback UNKNOWN_STATUS"],
    ),
}


@pytest.mark.parametrize("case", EACH)
def test_what_each_chargeback_becomes(case: str) -> None:
    """A table of cases."""
    changes, expected = EACH[case]
    resource = chargeback(**changes)
    asked_for = "cb-077" if resource["id"] == "CB-077" else ID
    assert lines_of(read(resource, asked_for)) == expected


def test_opening_and_end_have_one_reference_and_one_owner() -> None:
    """Those of the payment, and its charge, in whose books the money is if nothing says whose."""
    opened, won = read(chargeback(coverage_applied=True))
    assert isinstance(opened, Fact)
    assert isinstance(won, Fact)
    assert opened.reference == won.reference == "77000000017"
    assert opened.charge == won.charge == "mp:77000000017:approved"
    assert opened.owner == won.owner == OWNER
    assert (opened.occurred_at, won.occurred_at) == (
        parse(json.dumps(chargeback()).encode()).instant("date_created"),
        parse(json.dumps(chargeback()).encode()).instant("date_last_updated"),
    )


def test_an_end_that_is_updated_is_the_same_end() -> None:
    """Its instant may change, and the first one stands; nothing else differs."""
    ends = [
        read(chargeback(coverage_applied=True, date_last_updated=f"2026-05-{day}T00:00:00Z"))[1]
        for day in (28, 29)
    ]
    assert lines_of([ends[0]]) == lines_of([ends[1]])
    assert all(isinstance(end, Fact) and "occurred_at" in end.may_change for end in ends)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": None},
        {"amount": 0},
        {"amount": "much"},
        {"amount": 80.505},
        {"currency": "ZZZ"},
        {"date_created": None, "date_last_updated": None},
        {"date_created": "0001-01-01T00:00:00"},
    ],
)
def test_what_cannot_be_read_is_malformed(changes: Json) -> None:
    """The processor makes a reading of it."""
    with pytest.raises(Malformed):
        read(chargeback(**changes))


@settings(max_examples=40, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(sorted({*chargeback(), *OTHER_SHAPE})), ANY_JSON))
def test_reading_raises_nothing_but_malformed(changes: Json) -> None:
    """Whatever the API returns."""
    with contextlib.suppress(Malformed):
        assert read(chargeback(**changes))
