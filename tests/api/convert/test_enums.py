"""An import names a value that the contract or the domain lacks, and the file to change."""

from enum import Enum
from typing import Any

import pytest

from ledger.api.convert.enums import by_number
from ledger.domain.events import EventType
from ledger.v1 import ledger_pb2


class Fruit(Enum):
    APPLE = "apple"
    PEAR = "pear"


def test_each_number_has_its_member() -> None:
    """But for 0, which is unspecified."""
    contract: Any = {"FRUIT_UNSPECIFIED": 0, "FRUIT_PEAR": 1, "FRUIT_APPLE": 2}
    assert by_number(contract, "FRUIT_", Fruit, "fruit.py") == {1: Fruit.PEAR, 2: Fruit.APPLE}


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        (
            {"FRUIT_PEAR": 1, "FRUIT_APPLE": 2, "FRUIT_FIG": 3},
            "FRUIT_FIG is in the contract: add FIG to fruit.py",
        ),
        (
            {"FRUIT_PEAR": 1},
            "APPLE is in fruit.py: add FRUIT_APPLE to proto/ledger/v1/ledger.proto,"
            " then run make proto",
        ),
    ],
)
def test_missing_value_is_named_with_its_file(contract: Any, message: str) -> None:
    """In either direction."""
    with pytest.raises(TypeError) as raised:
        by_number(contract, "FRUIT_", Fruit, "fruit.py")
    assert str(raised.value) == message


def test_event_types_are_those_of_the_contract() -> None:
    """By name."""
    types = by_number(ledger_pb2.EventType, "EVENT_TYPE_", EventType, "events.py")
    assert types[ledger_pb2.EVENT_TYPE_PAYOUT_PAID] is EventType.PAYOUT_PAID
