"""Payouts, transfers and top-ups of Stripe: the ledger's, the platform's, and all others."""

import pytest
from support.stripe_messages import PAYOUT_ID, Json, event, payout, text_of

PAID = f"PAYOUT_PAID 8000 EUR · stripe:po_1Friday:paid · po_1Friday · payout_id={PAYOUT_ID}"
FAILED = (
    f"PAYOUT_FAILED 8000 EUR · stripe:po_1Friday:failed · po_1Friday · payout_id={PAYOUT_ID}"
    " · failure_code=account_closed · failure_text=The account was closed."
)
TRACE = {"status": "supported", "value": "091000019876543"}
TRACED = (
    f"PAYOUT_REFERENCED 8000 EUR · stripe:po_1Friday:referenced · po_1Friday"
    f" · payout_id={PAYOUT_ID} · bank_reference=091000019876543"
)
OTHERS = payout(metadata={})
BROKEN = payout(
    status="failed", failure_code="account_closed", failure_message="The account was closed."
)
NONE: Json = {}
TABLE = {"payouts": {"table": {"po_1Friday": PAYOUT_ID}}}
SETTLES = {"payouts": {"settlements": True}}


def transfer(**changes: object) -> Json:
    return {
        **payout(id="tr_1Friday", object="transfer", destination="acct_1Osteria"),
        "reversed": False,
        **changes,
    }


def top_up(**changes: object) -> Json:
    return {**payout(id="tu_1", object="topup", metadata={}), **changes}


CASES: dict[str, tuple[Json, Json, str]] = {
    "paid": (event("payout.paid", payout()), NONE, PAID),
    "failed": (event("payout.failed", BROKEN), NONE, FAILED),
    "failed, without a reason": (
        event("payout.failed", payout(status="failed")),
        NONE,
        FAILED.partition(" · failure_code")[0],
    ),
    "canceled": (
        event("payout.canceled", payout(status="canceled")),
        NONE,
        PAID.replace("PAID", "FAILED").replace(":paid", ":canceled") + " · failure_code=canceled",
    ),
    "named in the table, of a connected account": (
        event("payout.failed", {**BROKEN, "metadata": {}}, account="acct_1Osteria"),
        TABLE,
        FAILED,
    ),
    "of a connected account, which names it itself": (
        event("payout.failed", BROKEN, account="acct_1Osteria"),
        NONE,
        FAILED.replace(" · failure_code", " · said_by_owner=True · failure_code"),
    ),
    "by another key": (
        event("payout.paid", payout(metadata={"run": PAYOUT_ID})),
        {"payouts": {"metadata_key": "run"}},
        PAID,
    ),
    "a reference that is of something else": (
        event("payout.paid", payout(metadata={"payout_id": "wages-12"})),
        NONE,
        "IGNORED payout.paid",
    ),
    "with the bank's reference": (
        event("payout.paid", payout(trace_id=TRACE)),
        NONE,
        f"{PAID}\n{TRACED}",
    ),
    "the bank's reference comes later": (
        event("payout.updated", payout(trace_id=TRACE)),
        NONE,
        TRACED,
    ),
    "the bank's reference is on its way": (
        event("payout.updated", payout(trace_id={"status": "pending", "value": None})),
        NONE,
        "IGNORED payout.updated",
    ),
    "created": (event("payout.created", payout(status="pending")), NONE, "IGNORED payout.created"),
    "a connected account's own": (
        event("payout.paid", OTHERS, account="acct_1Osteria"),
        SETTLES,
        "IGNORED payout.paid",
    ),
    "the platform's own": (event("payout.paid", OTHERS), NONE, "IGNORED payout.paid"),
    "the platform's own, as settlement": (
        event("payout.paid", OTHERS),
        SETTLES,
        "PROCESSOR_SETTLED 8000 EUR · stripe:po_1Friday:paid · po_1Friday",
    ),
    "the platform's own, which failed": (
        event("payout.failed", {**BROKEN, "metadata": {}}),
        SETTLES,
        "PROCESSOR_SETTLED 8000 EUR · stripe:po_1Friday:paid · po_1Friday\n"
        "PROCESSOR_SETTLEMENT_DEBITED 8000 EUR · stripe:po_1Friday:failed · po_1Friday",
    ),
    "the platform's own, updated": (
        event("payout.updated", OTHERS),
        SETTLES,
        "IGNORED payout.updated",
    ),
    "a transfer to a restaurant's account": (
        event("transfer.created", transfer()),
        NONE,
        PAID.replace("po_1", "tr_1"),
    ),
    "a transfer of a charge": (
        event("transfer.created", transfer(metadata={})),
        NONE,
        "IGNORED transfer.created",
    ),
    "a transfer that was reversed": (
        event("transfer.reversed", transfer(reversed=True)),
        NONE,
        PAID.replace("po_1", "tr_1").replace("PAID", "FAILED").replace(":paid", ":reversed")
        + " · failure_code=reversed",
    ),
    "a transfer of which a part was reversed": (
        event("transfer.reversed", transfer()),
        NONE,
        "UNBOOKABLE transfer.reversed PARTIAL_REVERSAL",
    ),
    "a top-up": (event("topup.succeeded", top_up()), NONE, "IGNORED topup.succeeded"),
    "a top-up, as settlement": (
        event("topup.succeeded", top_up()),
        SETTLES,
        "PROCESSOR_SETTLEMENT_DEBITED 8000 EUR · stripe:tu_1:succeeded · tu_1",
    ),
    "a top-up that went back": (
        event("topup.reversed", top_up()),
        SETTLES,
        "PROCESSOR_SETTLED 8000 EUR · stripe:tu_1:reversed · tu_1",
    ),
    "forints are paid in whole ones": (
        event("payout.paid", payout(amount=104500, currency="huf")),
        NONE,
        PAID.replace("8000 EUR", "104500 HUF"),
    ),
    "krónur": (
        event("payout.paid", payout(amount=104500, currency="isk")),
        NONE,
        PAID.replace("8000 EUR", "1045 ISK"),
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_payout(case: str) -> None:
    """What each message about a payout, a transfer or a top-up becomes."""
    message, settings, expected = CASES[case]
    assert await text_of(message, **settings) == expected
