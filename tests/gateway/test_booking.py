"""What a fact becomes beside the books: whose it is."""

from typing import Any

import pytest
from support.gateway import OCCURRED_AT, PlainEndpoint

from ledger.gateway.allowances import Allowance
from ledger.gateway.booking import events_of
from ledger.gateway.deliveries import Fact, Owner
from ledger.gateway.reasons import CannotBook
from ledger.v1 import ledger_pb2


class OnePayout:
    """Books that have nothing but a payout of the restaurant `res_1`."""

    async def event(self, event_id: str, allowance: Allowance) -> None:
        return None

    async def restaurant_of_payout(self, payout_id: str, allowance: Allowance) -> str:
        return "res_1"


BY_TABLE = {"by": "account", "table": {"acct_1": "res_1", "acct_9": "res_9"}}


@pytest.mark.parametrize(
    ("mapping", "account", "said_by_owner", "reason"),
    [
        (BY_TABLE, "acct_1", True, ""),
        (BY_TABLE, "acct_9", True, "PAYOUT_OF_ANOTHER"),
        (BY_TABLE, "", True, "PAYOUT_OF_ANOTHER"),
        (BY_TABLE, "acct_7", True, "UNKNOWN_RESTAURANT"),
        ({"by": "account"}, "res_1", True, ""),
        ({"by": "account"}, "res_9", True, "PAYOUT_OF_ANOTHER"),
        (BY_TABLE, "acct_9", False, ""),
        ({"by": "fixed", "key": "res_9"}, "acct_9", True, ""),
    ],
)
async def test_an_account_settles_no_payout_of_another_restaurant(
    mapping: dict[str, Any], account: str, said_by_owner: bool, reason: str
) -> None:
    """It may name any payout as its own; what the platform names needs no account."""
    endpoint = PlainEndpoint.model_validate(
        {
            "name": "plain",
            "processor": "plain",
            "mode": "test",
            "secrets": [{"name": "first", "value": "s"}],
            "restaurant": mapping,
        }
    )
    fact = Fact(
        event_id="po_1:failed",
        type=ledger_pb2.EVENT_TYPE_PAYOUT_FAILED,
        amount_minor=1000,
        currency="PEN",
        occurred_at=OCCURRED_AT,
        owner=Owner(account=account),
        payout_id="p1",
        said_by_owner=said_by_owner,
    )
    found = ""
    try:
        (event,) = await events_of(endpoint, fact, OnePayout(), Allowance.of("test", 10))
        assert event.restaurant_id == "res_1"
    except CannotBook as refusal:
        found = refusal.reason
    assert found == reason
