"""Ids, as every request has them."""

from uuid import UUID

from support.violations import violations_of

from ledger.api.convert.identifiers import (
    decode_uuid,
    id_violations,
    require_ids,
)
from ledger.domain.fields import ID_RULE
from ledger.errors import FieldViolation

UUID_TEXT = "0190a1b2-0000-7000-8000-00000000000a"


def test_uuid_has_one_spelling() -> None:
    assert decode_uuid("payout_id", UUID_TEXT) == UUID(UUID_TEXT)
    for wrong in (
        "",
        " ",
        UUID_TEXT.upper(),
        UUID_TEXT.replace("-", ""),
        f"{{{UUID_TEXT}}}",
        f"urn:uuid:{UUID_TEXT}",
        UUID_TEXT + "\n",
        UUID_TEXT[:-1],
        "\u0661" * 32,
        "x" * 100_000,
    ):
        assert violations_of(decode_uuid, "payout_id", wrong) == [
            ("payout_id", "must be an id that this service made")
        ], wrong


def test_every_wrong_id_is_reported_in_the_order_given() -> None:
    ids = {"event_id": "", "restaurant_id": "res_1", "payout_id": "a" * 129}
    assert id_violations(ids) == [
        FieldViolation("event_id", ID_RULE),
        FieldViolation("payout_id", ID_RULE),
    ]
    assert violations_of(require_ids, ids) == [("event_id", ID_RULE), ("payout_id", ID_RULE)]


def test_longest_id_and_every_sign_of_an_id_are_allowed() -> None:
    require_ids({"event_id": "a" * 128, "restaurant_id": "Az09._:-"})
