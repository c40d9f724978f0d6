"""The commission of a charge by each policy, its rounding, and what of it goes back."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gateway import OCCURRED_AT

from ledger.gateway.deliveries import Fact, Owner
from ledger.gateway.endpoints import FeePolicy
from ledger.gateway.fees import commission_minor, returned_commission_minor
from ledger.gateway.reasons import CannotBook
from ledger.v1 import ledger_pb2

AMOUNTS = st.integers(1, 10**12)


def fact(amount_minor: int = 1000, **fields: object) -> Fact:
    """A charge."""
    return Fact(
        event_id="x:1",
        type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
        amount_minor=amount_minor,
        currency="PEN",
        occurred_at=OCCURRED_AT,
        **fields,  # type: ignore[arg-type]
    )


def rate(percent: str, fixed_minor: int = 0) -> FeePolicy:
    return FeePolicy(commission="rate", percent=Decimal(percent), fixed_minor=fixed_minor)


IN_METADATA = FeePolicy(commission="metadata", key="fee")


@pytest.mark.parametrize(
    ("policy", "charge", "fee_minor"),
    [
        (FeePolicy(), fact(commission_minor=5, processor_fee_minor=6), 0),
        (FeePolicy(commission="processor"), fact(commission_minor=5), 5),
        (FeePolicy(commission="processor"), fact(), 0),
        (FeePolicy(commission="pass_through"), fact(processor_fee_minor=41), 41),
        (IN_METADATA, fact(owner=Owner(metadata={"fee": "120"})), 120),
        (IN_METADATA, fact(owner=Owner(metadata={"fee": "0"})), 0),
        (rate("12.5", 30), fact(1001), 155),
        (rate("12.5", 30), fact(1004), 156),
        (rate("12.5"), fact(4), 1),
        (rate("12.5"), fact(3), 0),
        (rate("0.000000001"), fact(10**12), 10),
        (rate("100"), fact(999), 999),
        (rate("33.333333333"), fact(3), 1),
    ],
)
def test_the_commission_of_a_charge(policy: FeePolicy, charge: Fact, fee_minor: int) -> None:
    assert commission_minor(policy, charge) == fee_minor


@pytest.mark.parametrize(
    ("policy", "charge", "reason"),
    [
        (IN_METADATA, fact(), "FEE_MISSING"),
        (IN_METADATA, fact(owner=Owner(metadata={"fee": "1.20"})), "FEE_MALFORMED"),
        (IN_METADATA, fact(owner=Owner(metadata={"fee": "-1"})), "FEE_MALFORMED"),
        (IN_METADATA, fact(owner=Owner(metadata={"fee": "٣"})), "FEE_MALFORMED"),
        (IN_METADATA, fact(owner=Owner(metadata={"fee": "9" * 5000})), "FEE_MALFORMED"),
        (IN_METADATA, fact(owner=Owner(metadata={"fee": "1001"})), "FEE_ABOVE_AMOUNT"),
        (rate("1", 30), fact(20), "FEE_ABOVE_AMOUNT"),
        (FeePolicy(commission="pass_through"), fact(processor_fee_minor=2000), "FEE_ABOVE_AMOUNT"),
        (FeePolicy(commission="processor"), fact(commission_minor=-1), "FEE_MALFORMED"),
    ],
)
def test_a_commission_that_cannot_be_is_for_people(
    policy: FeePolicy, charge: Fact, reason: str
) -> None:
    with pytest.raises(CannotBook) as refusal:
        commission_minor(policy, charge)
    assert refusal.value.reason == reason
    assert not refusal.value.may_come


@given(
    amount=AMOUNTS,
    percent=st.decimals(min_value="0.000000001", max_value=100, places=9),
)
def test_a_rate_is_exact_and_rounds_halves_up(amount: int, percent: Decimal) -> None:
    fee_minor = commission_minor(FeePolicy(commission="rate", percent=percent), fact(amount))
    # In units of 10^-11 of a minor unit.
    exact = amount * int(percent.scaleb(9))
    assert -(10**11) < 2 * (fee_minor * 10**11 - exact) <= 10**11


@given(st.data())
def test_parts_never_give_back_more_than_was_taken(data: st.DataObject) -> None:
    """And keep back less than a minor unit each; all at once gives back all."""
    amount = data.draw(AMOUNTS)
    fee_minor = data.draw(st.integers(0, amount))
    cuts = sorted(data.draw(st.sets(st.integers(1, amount), max_size=6)) | {amount})
    parts = [cut - before for before, cut in zip([0, *cuts], cuts, strict=False)]
    returned = [returned_commission_minor(part, amount, fee_minor) for part in parts]
    assert fee_minor - len(parts) < sum(returned) <= fee_minor
    assert returned_commission_minor(amount, amount, fee_minor) == fee_minor
