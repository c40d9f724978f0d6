"""How payments and operations are decided: tables of standings, orders and decisions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.domain.accounts import OVERDRAFT_LIMIT_MAX_MINOR, AccountState
from ledger.domain.money import AMOUNT_MINOR_MAX
from ledger.domain.payments import (
    EXPIRES_AT_END,
    EXPIRES_AT_MIN,
    HOLDING_STATES,
    AccountStanding,
    CaptureMode,
    OperationKind,
    OperationOrder,
    Payment,
    PaymentOperation,
    PaymentOrder,
    PaymentState,
    after,
    as_first_answered,
    decide_chain,
    decide_operation,
    decide_payment,
    differing_operation_fields,
    differing_order_fields,
    fee_share,
    operation_violations,
    order_violations,
)

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
INT64_MAX = 2**63 - 1
OPEN, FROZEN, CLOSED = AccountState.OPEN, AccountState.FROZEN, AccountState.CLOSED
IMMEDIATE, MANUAL = CaptureMode.IMMEDIATE, CaptureMode.MANUAL


def order(amount_minor: int = 100, **fields: Any) -> PaymentOrder:
    """A transfer of 100 PEN from one account to another, unless `fields` say otherwise."""
    values: dict[str, Any] = {
        "payment_id": "p",
        "payer_account_id": "payer",
        "payee_account_id": "payee",
        "payee_restaurant_id": "",
        "currency": "PEN",
        "fee_minor": 0,
        "capture": IMMEDIATE,
        "expires_at": None,
        "reference": "",
        "metadata": {},
    }
    return PaymentOrder(amount_minor=amount_minor, **(values | fields))


def standing(
    available_minor: int | None = 0,
    limit_minor: int | None = 0,
    state: AccountState = OPEN,
    currency: str = "PEN",
) -> AccountStanding:
    """An account with so much available."""
    return AccountStanding(1, currency, state, limit_minor, available_minor)


def payment(
    state: PaymentState,
    captured_minor: int = 0,
    refunded_minor: int = 0,
    amount_minor: int = 100,
    **fields: Any,
) -> Payment:
    """A stored payment that was held, as it stands."""
    return Payment(
        order(amount_minor, **({"capture": MANUAL} | fields)),
        state,
        None,
        captured_minor,
        refunded_minor,
        "t",
        NOW,
    )


@pytest.mark.parametrize(
    ("available_minor", "limit_minor", "amount_minor", "expected"),
    [
        (100, 0, 100, None),
        (99, 0, 100, "INSUFFICIENT_FUNDS"),
        (0, 0, 1, "INSUFFICIENT_FUNDS"),
        (0, 100, 100, None),
        (0, 99, 100, "INSUFFICIENT_FUNDS"),
        (-50, 100, 50, None),
        (-50, 100, 51, "INSUFFICIENT_FUNDS"),
        # The limit was lowered below what is used.
        (-50, 10, 1, "INSUFFICIENT_FUNDS"),
        # Without a limit nothing is added up.
        (None, None, AMOUNT_MINOR_MAX, None),
        (-INT64_MAX, None, AMOUNT_MINOR_MAX, None),
        (AMOUNT_MINOR_MAX, 0, AMOUNT_MINOR_MAX, None),
        (AMOUNT_MINOR_MAX - 1, 0, AMOUNT_MINOR_MAX, "INSUFFICIENT_FUNDS"),
        (INT64_MAX + 1, 0, AMOUNT_MINOR_MAX, None),
        (-OVERDRAFT_LIMIT_MAX_MINOR + 1, OVERDRAFT_LIMIT_MAX_MINOR, 1, None),
        (-OVERDRAFT_LIMIT_MAX_MINOR, OVERDRAFT_LIMIT_MAX_MINOR, 1, "INSUFFICIENT_FUNDS"),
    ],
)
@pytest.mark.parametrize("capture", CaptureMode)
def test_payment_takes_what_the_limit_allows(
    available_minor: int | None,
    limit_minor: int | None,
    amount_minor: int,
    expected: str | None,
    capture: CaptureMode,
) -> None:
    """Down to the limit and not a minor unit below it."""
    payer, payee = standing(available_minor, limit_minor), standing(0)
    reason = decide_payment(order(amount_minor, capture=capture), payer, payee, NOW)
    assert reason == expected
    paid_minor = 0 if reason else amount_minor
    if available_minor is not None:
        assert payer.available_minor == available_minor - paid_minor
    assert payee.available_minor == (paid_minor if capture is IMMEDIATE else 0)


STATES = [
    # Payer, payee, what a payment and a capture get, and what a refund gets.
    (OPEN, OPEN, None, None),
    (FROZEN, OPEN, "ACCOUNT_FROZEN", None),
    (OPEN, FROZEN, "ACCOUNT_FROZEN", "ACCOUNT_FROZEN"),
    (FROZEN, FROZEN, "ACCOUNT_FROZEN", "ACCOUNT_FROZEN"),
    (CLOSED, OPEN, "ACCOUNT_CLOSED", "ACCOUNT_CLOSED"),
    (OPEN, CLOSED, "ACCOUNT_CLOSED", "ACCOUNT_CLOSED"),
    (CLOSED, FROZEN, "ACCOUNT_CLOSED", "ACCOUNT_CLOSED"),
    (FROZEN, CLOSED, "ACCOUNT_CLOSED", "ACCOUNT_CLOSED"),
    # Restaurants take part in whatever their accounts do.
    (OPEN, None, None, None),
    (FROZEN, None, "ACCOUNT_FROZEN", None),
    (CLOSED, None, "ACCOUNT_CLOSED", "ACCOUNT_CLOSED"),
]


@pytest.mark.parametrize(("payer_state", "payee_state", "forward", "back"), STATES)
def test_accounts_that_take_no_part(
    payer_state: AccountState,
    payee_state: AccountState | None,
    forward: str | None,
    back: str | None,
) -> None:
    """Frozen ones get their own money back, by voids, expiries and refunds, and no other."""

    def parties() -> tuple[AccountStanding, AccountStanding | None]:
        payee = None if payee_state is None else standing(1000, state=payee_state)
        return standing(1000, state=payer_state), payee

    for capture in CaptureMode:
        assert decide_payment(order(capture=capture), *parties(), NOW) == forward
    held, captured = payment(PaymentState.AUTHORIZED), payment(PaymentState.CAPTURED, 100)
    partly = payment(PaymentState.PARTIALLY_CAPTURED, 40)
    for stored, kind, reason in [
        (held, OperationKind.CAPTURE, forward),
        (held, OperationKind.VOID, None),
        (held, OperationKind.EXPIRE, None),
        (held, OperationKind.REVERSE, None),
        (captured, OperationKind.REFUND, back),
        (captured, OperationKind.REVERSE, back),
        # Both or neither: what is held is not released if what was captured cannot come back.
        (partly, OperationKind.REVERSE, back),
    ]:
        decision = decide_operation(stored, OperationOrder("o", kind, "p"), *parties())
        assert decision.decline_reason == reason, (stored.state, kind)
        assert bool(decision.moves) is (reason is None)


@pytest.mark.parametrize(
    ("payer", "payee", "currency", "expected"),
    [
        ("PEN", "PEN", "PEN", None),
        ("PEN", "PEN", "USD", "CURRENCY_MISMATCH"),
        ("PEN", "USD", "PEN", "CURRENCY_MISMATCH"),
        ("USD", "PEN", "PEN", "CURRENCY_MISMATCH"),
        ("PEN", None, "PEN", None),
        ("PEN", None, "USD", "CURRENCY_MISMATCH"),
    ],
)
def test_payment_has_the_currency_of_its_accounts(
    payer: str, payee: str | None, currency: str, expected: str | None
) -> None:
    """A restaurant has a balance account in each currency."""
    account = None if payee is None else standing(currency=payee)
    reason = decide_payment(order(currency=currency), standing(100, currency=payer), account, NOW)
    assert reason == expected


@pytest.mark.parametrize(
    ("expires_at", "is_over"),
    [(None, False), (NOW - TICK, True), (NOW, True), (NOW + TICK, False)],
)
def test_payment_expires_at_its_instant(expires_at: datetime | None, *, is_over: bool) -> None:
    """At `expires_at` itself it has expired; a microsecond before it has not."""
    placed = order(capture=MANUAL, expires_at=expires_at)
    payer = standing(100)
    reason = decide_payment(placed, payer, standing(), NOW)
    assert reason == ("EXPIRED" if is_over else None)
    assert payer.available_minor == (100 if is_over else 0)
    for state in PaymentState:
        stored = payment(state, 1, expires_at=expires_at)
        assert stored.is_expired(NOW) is (is_over and state in HOLDING_STATES)


A, P, C = PaymentState.AUTHORIZED, PaymentState.PARTIALLY_CAPTURED, PaymentState.CAPTURED
V, E, D = PaymentState.VOIDED, PaymentState.EXPIRED, PaymentState.DECLINED
CAPTURE, VOID, REFUND = OperationKind.CAPTURE, OperationKind.VOID, OperationKind.REFUND
REVERSE, EXPIRE = OperationKind.REVERSE, OperationKind.EXPIRE

# Of a payment of 100: where it stands, captured and refunded; the operation; why it is declined, or
# what it moves and releases, and where it leaves the payment, captured and refunded.
OPERATIONS: list[tuple[Any, ...]] = [
    (A, 0, 0, CAPTURE, 0, False, (None, 100, 0, C, 100, 0)),
    (A, 0, 0, CAPTURE, 0, True, (None, 100, 0, C, 100, 0)),
    (A, 0, 0, CAPTURE, 100, False, (None, 100, 0, C, 100, 0)),
    (A, 0, 0, CAPTURE, 30, False, (None, 30, 0, P, 30, 0)),
    (A, 0, 0, CAPTURE, 30, True, (None, 30, 70, C, 30, 0)),
    (A, 0, 0, CAPTURE, 101, False, ("AMOUNT_EXCEEDS_AUTHORIZED", 0, 0, A, 0, 0)),
    (P, 30, 0, CAPTURE, 0, False, (None, 70, 0, C, 100, 0)),
    (P, 30, 10, CAPTURE, 71, False, ("AMOUNT_EXCEEDS_AUTHORIZED", 0, 0, P, 30, 10)),
    (P, 30, 10, CAPTURE, 69, False, (None, 69, 0, P, 99, 10)),
    (P, 99, 0, CAPTURE, 1, False, (None, 1, 0, C, 100, 0)),
    *((s, 0, 0, CAPTURE, 0, False, ("PAYMENT_NOT_CAPTURABLE", 0, 0, s, 0, 0)) for s in (V, E, D)),
    (C, 100, 0, CAPTURE, 1, False, ("PAYMENT_NOT_CAPTURABLE", 0, 0, C, 100, 0)),
    # The rest of a final capture is gone.
    (C, 30, 0, CAPTURE, 1, False, ("PAYMENT_NOT_CAPTURABLE", 0, 0, C, 30, 0)),
    (A, 0, 0, VOID, 0, False, (None, 0, 100, V, 0, 0)),
    (P, 30, 10, VOID, 0, False, (None, 0, 70, C, 30, 10)),
    *((s, 0, 0, VOID, 0, False, ("PAYMENT_NOT_VOIDABLE", 0, 0, s, 0, 0)) for s in (V, E, D)),
    (C, 30, 0, VOID, 0, False, ("PAYMENT_NOT_VOIDABLE", 0, 0, C, 30, 0)),
    (A, 0, 0, EXPIRE, 0, False, (None, 0, 100, E, 0, 0)),
    (P, 30, 10, EXPIRE, 0, False, (None, 0, 70, C, 30, 10)),
    (C, 100, 0, REFUND, 0, False, (None, 100, 0, C, 100, 100)),
    (C, 100, 40, REFUND, 0, False, (None, 60, 0, C, 100, 100)),
    (C, 100, 40, REFUND, 60, False, (None, 60, 0, C, 100, 100)),
    (C, 100, 40, REFUND, 61, False, ("AMOUNT_EXCEEDS_CAPTURED", 0, 0, C, 100, 40)),
    (C, 100, 100, REFUND, 0, False, ("PAYMENT_NOT_REFUNDABLE", 0, 0, C, 100, 100)),
    (P, 30, 0, REFUND, 10, False, (None, 10, 0, P, 30, 10)),
    (P, 30, 0, REFUND, 31, False, ("AMOUNT_EXCEEDS_CAPTURED", 0, 0, P, 30, 0)),
    *((s, 0, 0, REFUND, 0, False, ("PAYMENT_NOT_REFUNDABLE", 0, 0, s, 0, 0)) for s in (A, V, E, D)),
    (A, 0, 0, REVERSE, 0, False, (None, 0, 100, V, 0, 0)),
    (P, 30, 0, REVERSE, 0, False, (None, 30, 70, C, 30, 30)),
    (P, 30, 30, REVERSE, 0, False, (None, 0, 70, C, 30, 30)),
    (C, 100, 20, REVERSE, 0, False, (None, 80, 0, C, 100, 100)),
    (C, 100, 100, REVERSE, 0, False, ("PAYMENT_NOT_REVERSIBLE", 0, 0, C, 100, 100)),
    *((s, 0, 0, REVERSE, 0, False, ("PAYMENT_NOT_REVERSIBLE", 0, 0, s, 0, 0)) for s in (V, E, D)),
]


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: " ".join(map(str, row[:6])))
@pytest.mark.parametrize("is_restaurant", [False, True])
def test_operation_leaves_a_payment_where_the_table_says(
    row: tuple[Any, ...], *, is_restaurant: bool
) -> None:
    """And what it moves leaves one side and reaches the other."""
    state, captured_minor, refunded_minor, kind, requested_minor, is_final, expected = row
    stored = payment(state, captured_minor, refunded_minor)
    payer, payee = standing(1000), None if is_restaurant else standing(1000)
    asked = OperationOrder("o", kind, "p", requested_minor, is_final)
    decision = decide_operation(stored, asked, payer, payee)
    assert tuple(decision[:6]) == expected
    reason, moved_minor, released_minor = expected[:3]
    back_minor = moved_minor if kind in (REFUND, REVERSE) else 0
    assert payer.available_minor == 1000 + released_minor + back_minor
    if payee is not None:
        assert payee.available_minor == 1000 + (-back_minor or (moved_minor if not reason else 0))
    assert sum(move.amount_minor for move in decision.moves) == moved_minor + released_minor


@pytest.mark.parametrize(
    ("available_minor", "limit_minor", "expected"),
    [
        (100, 0, None),
        (99, 0, "INSUFFICIENT_FUNDS"),
        (99, 1, None),
        (-100, 100, "INSUFFICIENT_FUNDS"),
        (-100, None, None),
    ],
)
@pytest.mark.parametrize("kind", [REFUND, REVERSE])
def test_payee_pays_a_refund_as_far_as_its_limit_allows(
    available_minor: int, limit_minor: int | None, expected: str | None, kind: OperationKind
) -> None:
    """A restaurant pays every refund."""
    stored = payment(C, 100)
    asked = OperationOrder("o", kind, "p")
    payee = standing(available_minor, limit_minor)
    assert decide_operation(stored, asked, standing(), payee).decline_reason == expected
    assert decide_operation(stored, asked, standing(), None).decline_reason is None


@pytest.mark.parametrize("amount_minor", [1, 2, 3, 7, 100, 999, AMOUNT_MINOR_MAX])
@pytest.mark.parametrize("fee_of", [0, 1, 3, 10, "all"])
def test_shares_of_the_fee_add_up_to_it(amount_minor: int, fee_of: int | str) -> None:
    """However a payment is captured; no share is above what its capture moves."""
    fee_minor = amount_minor if fee_of == "all" else min(int(fee_of), amount_minor)
    placed = order(amount_minor, fee_minor=fee_minor)
    parts = min(amount_minor, 7)
    for sizes in ([amount_minor], [1] * (parts - 1) + [amount_minor - parts + 1]):
        captured_minor = shares_minor = 0
        for size_minor in sizes:
            share_minor = fee_share(placed, captured_minor, captured_minor + size_minor)
            assert 0 <= share_minor <= size_minor
            captured_minor += size_minor
            shares_minor += share_minor
        assert shares_minor == fee_minor


def test_chain_is_accepted_as_a_whole_or_not_at_all() -> None:
    """Each payment is decided after those before it; a declined chain moves nothing."""
    first, second, third = standing(100), standing(0), standing(0)
    onward = [(order(100), first, second), (order(100), second, third)]
    assert decide_chain(onward, NOW) == [None, None]
    assert [each.available_minor for each in (first, second, third)] == [0, 0, 100]
    back = [(order(60), third, second), (order(60), second, first), (order(50), third, first)]
    assert decide_chain(back, NOW) == [
        "LINKED_PAYMENT_DECLINED",
        "LINKED_PAYMENT_DECLINED",
        "INSUFFICIENT_FUNDS",
    ]
    assert [each.available_minor for each in (first, second, third)] == [0, 0, 100]


def test_repeats_get_the_payment_as_it_was() -> None:
    """Whatever has happened to it since."""
    for stored, expected in [
        (payment(C, 100, 100), (A, 0, 0, 100)),
        (payment(C, 100, 30, capture=IMMEDIATE), (C, 100, 0, 0)),
        (payment(E), (A, 0, 0, 100)),
    ]:
        first = as_first_answered(stored)
        assert (first.state, first.captured_minor, first.refunded_minor, first.held_minor) == (
            expected
        )
    stored = payment(C, 100, 100)
    done = PaymentOperation(
        OperationOrder("o", CAPTURE, "p", 30), 1, 30, 0, None, "t", P, 30, 0, NOW
    )
    answered = after(stored, done)
    assert (
        answered.state,
        answered.captured_minor,
        answered.refunded_minor,
        answered.held_minor,
    ) == (
        P,
        30,
        0,
        70,
    )


DIFFERENCES: list[dict[str, Any]] = [
    {"payer_account_id": "x"},
    {"payee_account_id": "x"},
    {"payee_account_id": "", "payee_restaurant_id": "payee"},
    {"currency": "USD"},
    {"amount_minor": 101},
    {"fee_minor": 1},
    {"capture": MANUAL},
    {"capture": MANUAL, "expires_at": NOW},
    {"reference": "x"},
    {"currency": "USD", "amount_minor": 1, "reference": "x"},
]


@pytest.mark.parametrize("fields", DIFFERENCES, ids=str)
def test_orders_differ_in_exactly_these_fields(fields: dict[str, Any]) -> None:
    """Metadata is not compared."""
    other = order(**({"metadata": {"a": "b"}} | fields))
    assert set(differing_order_fields(order(), other)) == set(fields)


def test_operations_differ_in_exactly_these_fields() -> None:
    """By their names in the contract."""
    stored = OperationOrder("o", CAPTURE, "p", 10, is_final=False)
    for other, expected in [
        (stored, []),
        (stored._replace(requested_minor=0), ["amount_minor"]),
        (stored._replace(is_final=True), ["is_final"]),
        (stored._replace(kind=REFUND, payment_id="q"), ["kind", "payment_id"]),
    ]:
        assert differing_operation_fields(stored, other) == expected


RESTAURANT = {"payee_account_id": "", "payee_restaurant_id": "r"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"payment_id": ""}, ["payment_id"]),
        ({"payment_id": "a" * 129}, ["payment_id"]),
        ({"payer_account_id": "no spaces"}, ["payer_account_id"]),
        ({"payee_account_id": ""}, ["payee_account_id"]),
        ({"payee_account_id": "payer"}, ["payee_account_id"]),
        # A restaurant may be called like the account that pays it.
        (RESTAURANT | {"payee_restaurant_id": "payer"}, []),
        (RESTAURANT | {"payee_restaurant_id": "é"}, ["payee_restaurant_id"]),
        ({"amount_minor": 0}, ["amount_minor"]),
        ({"amount_minor": -1}, ["amount_minor"]),
        ({"amount_minor": AMOUNT_MINOR_MAX}, []),
        ({"amount_minor": AMOUNT_MINOR_MAX + 1}, ["amount_minor"]),
        ({"amount_minor": INT64_MAX}, ["amount_minor"]),
        ({"currency": "pen"}, ["currency"]),
        ({"currency": "XXX"}, ["currency"]),
        ({"fee_minor": 1}, ["fee_minor"]),
        ({"fee_minor": -1}, ["fee_minor"]),
        (RESTAURANT | {"fee_minor": 100}, []),
        (RESTAURANT | {"fee_minor": 101}, ["fee_minor"]),
        # Without a valid amount there is nothing that the fee could exceed.
        (RESTAURANT | {"fee_minor": 101, "amount_minor": 0}, ["amount_minor"]),
        ({"expires_at": NOW}, ["expires_at"]),
        ({"expires_at": NOW, "capture": MANUAL}, []),
        ({"expires_at": EXPIRES_AT_MIN, "capture": MANUAL}, []),
        ({"expires_at": EXPIRES_AT_MIN - TICK, "capture": MANUAL}, ["expires_at"]),
        ({"expires_at": EXPIRES_AT_END - TICK, "capture": MANUAL}, []),
        ({"expires_at": EXPIRES_AT_END, "capture": MANUAL}, ["expires_at"]),
        ({"reference": "x" * 255}, []),
        ({"reference": "x" * 256}, ["reference"]),
        ({"reference": "tab\t"}, ["reference"]),
        ({"metadata": {"k": "v" * 8191}}, []),
        ({"metadata": {"k": "v" * 8192}}, ["metadata"]),
        ({"metadata": {"k": "\0"}}, ["metadata"]),
    ],
    ids=str,
)
def test_order_is_valid_or_names_its_fields(fields: dict[str, Any], expected: list[str]) -> None:
    placed = order(**fields)
    found = order_violations(placed, capture=placed.capture)
    assert [violation.field for violation in found] == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"operation_id": ""}, ["operation_id"]),
        ({"operation_id": "a" * 129}, ["operation_id"]),
        ({"payment_id": "no spaces"}, ["payment_id"]),
        ({"requested_minor": -1}, ["amount_minor"]),
        ({"requested_minor": AMOUNT_MINOR_MAX}, []),
        ({"requested_minor": AMOUNT_MINOR_MAX + 1}, ["amount_minor"]),
    ],
    ids=str,
)
def test_operation_is_valid_or_names_its_fields(
    fields: dict[str, Any], expected: list[str]
) -> None:
    asked = OperationOrder("o", CAPTURE, "p")._replace(**fields)
    assert [violation.field for violation in operation_violations(asked)] == expected
