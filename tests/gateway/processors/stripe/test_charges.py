"""Charges of Stripe: what is money, in which currency, and Stripe's fee."""

import pytest
from support.stripe_messages import PAID_AT, FakeApi, Json, charge, event, text_of, transaction

CHARGE = "CHARGE_SUCCEEDED 4500 EUR · stripe:ch_1Dinner · pi_1Dinner"
FEE = "PROCESSOR_FEE_ASSESSED 93 EUR · stripe:ch_1Dinner:fee · pi_1Dinner"
IN_EUR = transaction(4500, 93)
# The customer paid 45.00 EUR; the account settles in PEN.
IN_PEN = transaction(
    18900,
    412,
    currency="pen",
    exchange_rate=4.2,
    fee_details=[
        {"amount": 350, "currency": "pen", "type": "stripe_fee"},
        {"amount": 62, "currency": "pen", "type": "tax"},
    ],
)
DIRECT = transaction(
    4500,
    543,
    fee_details=[
        {"amount": 450, "currency": "eur", "type": "application_fee"},
        {"amount": 93, "currency": "eur", "type": "stripe_fee"},
    ],
)
API = FakeApi({"/v1/balance_transactions/txn_1Dinner": IN_EUR})
PEN_API = FakeApi({"/v1/balance_transactions/txn_1Dinner": IN_PEN})
AWAY = FakeApi()
NONE: Json = {}
ALIKE: Json = {"settlement_currencies": ["EUR"]}
OTHERS: Json = {"settlement_currencies": ["PEN"]}
NEW = {"balance_transaction": None}

# The message, the endpoint's settings, its API, and what becomes of it.
CASES: dict[str, tuple[Json, Json, FakeApi | None, str]] = {
    "a charge": (event("charge.succeeded", charge()), NONE, None, CHARGE),
    "captured later": (event("charge.captured", charge()), NONE, None, CHARGE),
    "only authorised": (
        event("charge.succeeded", charge(captured=False, amount_captured=0)),
        NONE,
        None,
        "IGNORED charge.succeeded",
    ),
    "a part was captured": (
        event("charge.captured", charge(amount_captured=4000, amount_refunded=500)),
        NONE,
        None,
        CHARGE.replace("4500", "4000"),
    ),
    "a part was captured, in versions before 2020": (
        event("charge.captured", charge(amount_captured=None, amount_refunded=500)),
        NONE,
        None,
        CHARGE.replace("4500", "4000"),
    ),
    "what was refunded since is no part of it": (
        event("charge.succeeded", charge(amount_refunded=500)),
        NONE,
        None,
        CHARGE,
    ),
    "a refund or a part, before 2020": (
        event("charge.succeeded", charge(amount_captured=None, amount_refunded=500)),
        NONE,
        None,
        "UNBOOKABLE charge.succeeded CAPTURE_UNKNOWN",
    ),
    "a card that was looked at": (
        event("charge.succeeded", charge(amount=0, amount_captured=0)),
        NONE,
        None,
        "IGNORED charge.succeeded",
    ),
    "not yet paid": (
        event("charge.succeeded", charge(status="pending")),
        NONE,
        None,
        "IGNORED charge.succeeded",
    ),
    "without intents": (
        event("charge.succeeded", charge(payment_intent=None)),
        NONE,
        None,
        CHARGE.replace("pi_1", "ch_1"),
    ),
    "an expanded intent": (
        event("charge.succeeded", charge(payment_intent={"id": "pi_1Dinner"})),
        NONE,
        None,
        CHARGE,
    ),
    "of 2014": (
        event(
            "charge.succeeded",
            {"id": "ch_1Dinner", "object": "charge", "amount": 4500, "currency": "eur"}
            | {"created": PAID_AT, "paid": True, "captured": True, "status": "paid"},
            api_version="2014-01-31",
        ),
        NONE,
        None,
        CHARGE.replace("pi_1", "ch_1"),
    ),
    "the charge alone, as GET returns it": (charge(), NONE, None, CHARGE),
    "with its fee": (
        event("charge.succeeded", charge(balance_transaction=IN_EUR)),
        NONE,
        None,
        f"{CHARGE}\n{FEE}",
    ),
    "the fee comes later": (
        event("charge.updated", charge(balance_transaction=IN_EUR), previous=NEW),
        NONE,
        None,
        f"{CHARGE}\n{FEE}",
    ),
    "the fee is fetched": (event("charge.succeeded", charge()), NONE, API, f"{CHARGE}\n{FEE}"),
    "the fee is fetched later": (
        event("charge.updated", charge(), previous=NEW),
        NONE,
        API,
        f"{CHARGE}\n{FEE}",
    ),
    "a fee that cannot be known": (
        event("charge.updated", charge(), previous=NEW),
        NONE,
        None,
        "IGNORED charge.updated",
    ),
    "another text": (
        event("charge.updated", charge(), previous={"description": "Dinner"}),
        NONE,
        API,
        "IGNORED charge.updated",
    ),
    "an authorisation that was updated": (
        event("charge.updated", charge(captured=False), previous=NEW),
        NONE,
        API,
        "IGNORED charge.updated",
    ),
    "a fee given back": (
        event("charge.succeeded", charge(balance_transaction=transaction(4500, -12))),
        NONE,
        None,
        f"{CHARGE}\nPROCESSOR_FEE_REFUNDED 12 EUR · stripe:ch_1Dinner:fee · pi_1Dinner",
    ),
    "no fee": (
        event("charge.succeeded", charge(balance_transaction=transaction(4500))),
        NONE,
        None,
        CHARGE,
    ),
    "fees that do not add up": (
        event("charge.succeeded", charge(balance_transaction=IN_EUR | {"fee": 94})),
        NONE,
        None,
        f"{CHARGE}\nUNBOOKABLE charge.succeeded FEE_UNKNOWN",
    ),
    "a fee of parts of a króna": (
        event(
            "charge.succeeded",
            charge(
                amount_captured=50000,
                currency="isk",
                balance_transaction={**transaction(50000, 1450), "currency": "isk"}
                | {"fee_details": None},
            ),
        ),
        NONE,
        None,
        CHARGE.replace("4500 EUR", "500 ISK") + "\nUNBOOKABLE charge.succeeded UNKNOWN_AMOUNT",
    ),
    "what a transfer brought to the restaurant's account": (
        event("charge.succeeded", charge(source_transfer="tr_1"), account="acct_1Osteria"),
        NONE,
        None,
        "IGNORED charge.succeeded",
    ),
    "settled in another currency": (
        event("charge.succeeded", charge(balance_transaction=IN_PEN)),
        NONE,
        None,
        "CHARGE_SUCCEEDED 18900 PEN · stripe:ch_1Dinner · pi_1Dinner\n"
        "PROCESSOR_FEE_ASSESSED 412 PEN · stripe:ch_1Dinner:fee · pi_1Dinner",
    ),
    "settled in another currency, which is fetched": (
        event("charge.succeeded", charge()),
        OTHERS,
        PEN_API,
        "CHARGE_SUCCEEDED 18900 PEN · stripe:ch_1Dinner · pi_1Dinner\n"
        "PROCESSOR_FEE_ASSESSED 412 PEN · stripe:ch_1Dinner:fee · pi_1Dinner",
    ),
    "settled in another currency, which nobody can know": (
        event("charge.succeeded", charge()),
        OTHERS,
        None,
        "UNBOOKABLE charge.succeeded SETTLEMENT_UNKNOWN",
    ),
    "the API is away, and the currency not known": (
        event("charge.succeeded", charge()),
        NONE,
        AWAY,
        "PARKED",
    ),
    "the API is away, and only the fee waits": (
        event("charge.succeeded", charge()),
        ALIKE,
        AWAY,
        f"{CHARGE}\nPARKED",
    ),
    "captured a moment later, in its own currency": (
        event("charge.succeeded", charge(balance_transaction=None)),
        ALIKE,
        API,
        CHARGE,
    ),
    "captured a moment later, in an unknown one": (
        event("charge.succeeded", charge(balance_transaction=None)),
        NONE,
        FakeApi({"/v1/charges/ch_1Dinner": charge(balance_transaction=None)}),
        "PARKED",
    ),
    "captured a moment later, and looked at again": (
        event("charge.succeeded", charge(balance_transaction=None)),
        NONE,
        FakeApi({"/v1/charges/ch_1Dinner": charge(balance_transaction=IN_PEN)}),
        "CHARGE_SUCCEEDED 18900 PEN · stripe:ch_1Dinner · pi_1Dinner\n"
        "PROCESSOR_FEE_ASSESSED 412 PEN · stripe:ch_1Dinner:fee · pi_1Dinner",
    ),
    "an application fee": (
        event("charge.succeeded", charge(application_fee_amount=450)),
        NONE,
        None,
        f"{CHARGE} · commission_minor=450",
    ),
    "an application fee of nothing": (
        event("charge.succeeded", charge(application_fee_amount=0)),
        NONE,
        None,
        f"{CHARGE} · commission_minor=0",
    ),
    "a direct charge: its fee holds the platform's": (
        event(
            "charge.succeeded",
            charge(application_fee_amount=450, balance_transaction=DIRECT),
            account="acct_1Osteria",
        ),
        NONE,
        None,
        f"{CHARGE} · commission_minor=450\n{FEE}",
    ),
    "a fee that may hold the platform's": (
        event(
            "charge.succeeded",
            charge(
                application_fee_amount=450,
                balance_transaction={**DIRECT, "fee_details": None},
            ),
        ),
        NONE,
        None,
        f"{CHARGE} · commission_minor=450\nUNBOOKABLE charge.succeeded FEE_UNKNOWN",
    ),
    "a part is transferred to the restaurant": (
        event(
            "charge.succeeded",
            charge(transfer_data={"destination": "acct_1Osteria", "amount": 4000}),
        ),
        NONE,
        None,
        f"{CHARGE} · commission_minor=500",
    ),
    "an application fee in another currency": (
        event(
            "charge.succeeded",
            charge(
                application_fee_amount=450,
                balance_transaction={
                    **IN_PEN,
                    "fee": 2302,
                    "fee_details": [
                        *IN_PEN["fee_details"],
                        {"amount": 1890, "currency": "pen", "type": "application_fee"},
                    ],
                },
            ),
        ),
        {"fees": {"commission": "processor"}},
        None,
        "CHARGE_SUCCEEDED 18900 PEN · stripe:ch_1Dinner · pi_1Dinner · commission_minor=1890\n"
        "PROCESSOR_FEE_ASSESSED 412 PEN · stripe:ch_1Dinner:fee · pi_1Dinner",
    ),
    "an application fee of which nobody knows the other currency": (
        event("charge.succeeded", charge(application_fee_amount=450, balance_transaction=IN_PEN)),
        {"fees": {"commission": "processor"}},
        None,
        "UNBOOKABLE charge.succeeded COMMISSION_UNKNOWN",
    ),
    "an application fee that somebody shortened": (
        event("charge.succeeded", charge(application_fee="fee_1")),
        {"fees": {"commission": "processor"}},
        None,
        "UNBOOKABLE charge.succeeded COMMISSION_UNKNOWN",
    ),
    "a payment that was declined": (
        event("charge.failed", charge(status="failed", paid=False, balance_transaction=None)),
        NONE,
        None,
        "IGNORED charge.failed",
    ),
    "a payment that failed after it was booked": (
        event(
            "charge.failed",
            charge(status="failed", failure_balance_transaction="txn_1Gone", failure_code="r03"),
        ),
        NONE,
        None,
        f"{CHARGE}\nCHARGE_REVERSED 4500 EUR · stripe:ch_1Dinner:failed · pi_1Dinner"
        " · reverses=stripe:ch_1Dinner",
    ),
    "a payment that failed after its balance moved, without capture": (
        event(
            "charge.failed",
            charge(status="failed", failure_balance_transaction="txn_1Gone", amount_captured=0),
        ),
        NONE,
        None,
        "IGNORED charge.failed alert",
    ),
    "a payment that failed after it succeeded": (
        event("charge.failed", charge(status="failed"), previous={"status": "succeeded"}),
        NONE,
        None,
        f"{CHARGE}\nCHARGE_REVERSED 4500 EUR · stripe:ch_1Dinner:failed · pi_1Dinner"
        " · reverses=stripe:ch_1Dinner",
    ),
    "a payment that failed, settled in another currency": (
        event(
            "charge.failed",
            charge(
                status="failed",
                failure_balance_transaction="txn_1Gone",
                application_fee_amount=0,
            ),
        ),
        OTHERS,
        PEN_API,
        "CHARGE_SUCCEEDED 18900 PEN · stripe:ch_1Dinner · pi_1Dinner · commission_minor=0\n"
        "CHARGE_REVERSED 18900 PEN · stripe:ch_1Dinner:failed · pi_1Dinner · commission_minor=0"
        " · reverses=stripe:ch_1Dinner",
    ),
    "yen have no decimals": (
        event("charge.succeeded", charge(amount_captured=500, currency="jpy")),
        NONE,
        None,
        CHARGE.replace("4500 EUR", "500 JPY"),
    ),
    "krónur and Ugandan shillings are written with two, and have none": (
        event("charge.succeeded", charge(amount_captured=50000, currency="isk")),
        NONE,
        None,
        CHARGE.replace("4500 EUR", "500 ISK"),
    ),
    "half of a króna": (
        event("charge.succeeded", charge(amount_captured=50050, currency="isk")),
        NONE,
        None,
        "UNBOOKABLE charge.succeeded UNKNOWN_AMOUNT",
    ),
    "Ugandan shillings": (
        event("charge.succeeded", charge(amount_captured=700000, currency="ugx")),
        NONE,
        None,
        CHARGE.replace("4500 EUR", "7000 UGX"),
    ),
    "ariary are written without decimals, and have two": (
        event("charge.succeeded", charge(amount_captured=20000, currency="mga")),
        NONE,
        None,
        CHARGE.replace("4500 EUR", "2000000 MGA"),
    ),
    "dinars have three": (
        event("charge.succeeded", charge(amount_captured=5120, currency="kwd")),
        NONE,
        None,
        CHARGE.replace("4500 EUR", "5120 KWD"),
    ),
    "forints and Taiwan dollars have two": (
        event("charge.succeeded", charge(amount_captured=1045, currency="huf")),
        NONE,
        None,
        CHARGE.replace("4500 EUR", "1045 HUF"),
    ),
    "a currency that the endpoint counts otherwise": (
        event("charge.succeeded", charge(amount_captured=104500, currency="huf")),
        {"exponents": {"HUF": 4}},
        None,
        CHARGE.replace("4500 EUR", "1045 HUF"),
    ),
    "coins of a chain": (
        event("charge.succeeded", charge(currency="usdc")),
        NONE,
        None,
        "UNBOOKABLE charge.succeeded UNKNOWN_AMOUNT",
    ),
    "an amount as a text": (
        event("charge.succeeded", charge(amount_captured="4500")),
        NONE,
        None,
        "UNBOOKABLE charge.succeeded UNKNOWN_SHAPE",
    ),
    "an amount with a point": (
        event("charge.succeeded", charge(amount_captured=4500.0)),
        NONE,
        None,
        "UNBOOKABLE charge.succeeded UNKNOWN_SHAPE",
    ),
    "an id that cannot be one of the ledger": (
        event("charge.succeeded", charge(id="ch 1")),
        NONE,
        None,
        "UNBOOKABLE charge.succeeded UNKNOWN_SHAPE",
    ),
    "no instant": (
        event("charge.succeeded", charge(created=10**12)),
        NONE,
        None,
        "UNBOOKABLE charge.succeeded UNKNOWN_SHAPE",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_charge(case: str) -> None:
    """What each message about a charge becomes."""
    message, settings, api, expected = CASES[case]
    assert await text_of(message, api, **settings) == expected
