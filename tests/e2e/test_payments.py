"""Payments and operations, one after the other: answers, repeats, batches, chains and limits."""

import asyncio
import itertools
import random
from collections.abc import Callable
from datetime import UTC, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.events import unique
from support.paying import (
    BANK,
    IMMEDIATE,
    MANUAL,
    SELECT_UNBALANCED,
    account_balance,
    batch,
    details,
    entries_of,
    expire,
    expiries_by_hand,
    from_now,
    funds,
    in_batch,
    open_account,
    operation,
    order,
    pay_in,
    reason_name,
    set_state,
    state_name,
    status_name,
)
from support.running import COUNT_EVERYTHING, RunningLedger, running_ledger
from support.snapshots import take_snapshots
from support.statuses import details_of, fields_of, reason_of, response_or_error
from support.waiting import until

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.payment_books import PostgresPaymentBooks
from ledger.v1 import payment_pb2


def outcome_of(result: payment_pb2.PaymentResult) -> str:
    """The status of a result, the reason of a decline, or the reason of an error."""
    if result.HasField("error"):
        return reason_of(result.error)
    return reason_name(result) or status_name(result)


async def failure_of(call: Any) -> aio.AioRpcError:
    """The error that a call fails with."""
    error = await response_or_error(call)
    assert isinstance(error, aio.AioRpcError)
    return error


async def test_answers_stand_for_ever(ledger: RunningLedger) -> None:
    """Repeats get the first answer byte for byte but for the status, whatever came after it."""
    await open_account(ledger, "payer", 50, funds_minor=1000)
    await open_account(ledger, "payee")
    requests = [
        order("captured", "payer", "payee", 100, reference="a", metadata={"k": "v", "l": ""}),
        order("held", "payer", "payee", 100, capture=MANUAL, expires_at=from_now(3600)),
        order("partly", "payer", "payee", 100, capture=MANUAL),
        order("too.much", "payer", "payee", 10**12),
        order("sold", "payer", "", 100, payee_restaurant_id="eatery", fee_minor=9),
    ]
    firsts = [await ledger.payments.AuthorizePayment(request) for request in requests]
    operations: list[tuple[str, str, str, dict[str, Any]]] = [
        ("CAPTURE", "c1", "partly", {"amount_minor": 30}),
        ("REFUND", "r1", "partly", {"amount_minor": 31}),
        ("REFUND", "r2", "partly", {"amount_minor": 10}),
        ("CAPTURE", "c2", "partly", {"amount_minor": 71}),
        ("CAPTURE", "c3", "partly", {"amount_minor": 40, "is_final": True}),
        ("VOID", "v1", "partly", {}),
        ("REVERSE", "x1", "partly", {}),
        ("REVERSE", "x2", "held", {}),
        ("CAPTURE", "c4", "too.much", {}),
        ("REFUND", "r3", "captured", {}),
    ]
    decided = [
        await operation(ledger, kind, name, payment_id, **fields)
        for kind, name, payment_id, fields in operations
    ]
    assert [reason_name(each.operation) for each in decided] == [
        "",
        "AMOUNT_EXCEEDS_CAPTURED",
        "",
        "AMOUNT_EXCEEDS_AUTHORIZED",
        "",
        "PAYMENT_NOT_VOIDABLE",
        "",
        "",
        "PAYMENT_NOT_CAPTURABLE",
        "",
    ]
    # Whatever happens afterwards.
    await pay_in(ledger, "payer", 10**12)
    await set_state(ledger, "payee", "FROZEN")
    for _ in range(2):
        for request, first in zip(requests, firsts, strict=True):
            again = payment_pb2.AuthorizePaymentRequest()
            again.CopyFrom(request)
            again.metadata.clear()
            again.metadata["other"] = "not compared"
            response = await ledger.payments.AuthorizePayment(again)
            assert response.status == payment_pb2.PAYMENT_STATUS_DUPLICATE
            assert response.payment.SerializeToString(deterministic=True) == (
                first.payment.SerializeToString(deterministic=True)
            )
        for (kind, name, payment_id, fields), done in zip(operations, decided, strict=True):
            response = await operation(ledger, kind, name, payment_id, **fields)
            assert response.status == payment_pb2.OPERATION_STATUS_DUPLICATE
            for field in ("operation", "payment"):
                assert getattr(response, field).SerializeToString(deterministic=True) == (
                    getattr(done, field).SerializeToString(deterministic=True)
                )
    assert await ledger.query(SELECT_UNBALANCED) == []
    await assert_books_in_order(ledger.database)


# What a payment under a stored id has otherwise, and the fields that the error names.
OTHER_PAYMENTS: list[tuple[dict[str, Any], str]] = [
    ({"amount_minor": 101}, "amount_minor"),
    ({"payee_account_id": "third"}, "payee_account_id"),
    ({"payee_restaurant_id": "eatery"}, "payee_account_id,payee_restaurant_id"),
    ({"payer_account_id": "third"}, "payer_account_id"),
    # Accounts that do not exist: the id decides first.
    ({"payer_account_id": "nobody"}, "payer_account_id"),
    ({"currency": "USD", "amount_minor": 1}, "currency,amount_minor"),
    ({"reference": "other"}, "reference"),
    ({"capture": IMMEDIATE, "expires_at": None}, "capture,expires_at"),
    ({"expires_at": None}, "expires_at"),
    ({"expires_at": from_now(7200)}, "expires_at"),
]


@pytest.mark.both_servers
async def test_payment_with_other_contents_is_refused(ledger: RunningLedger) -> None:
    """ALREADY_EXISTS names the differing fields and nothing of what is stored."""
    for name in ("payer", "payee", "third"):
        await open_account(ledger, name, None)
    values = {"capture": MANUAL, "expires_at": from_now(3600)}
    await ledger.payments.AuthorizePayment(order("p", "payer", "payee", 100, **values))
    before = await ledger.query(COUNT_EVERYTHING)
    for fields, expected in OTHER_PAYMENTS:
        other = order("p", "payer", "payee", 100, **values)
        for name, value in fields.items():
            if value is None:
                other.ClearField(name)  # type: ignore[arg-type]
            elif name == "expires_at":
                other.expires_at.CopyFrom(value)
            else:
                setattr(other, name, value)
        error = await failure_of(ledger.payments.AuthorizePayment(other))
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        info = details_of(error)["ErrorInfo"]
        assert dict(info.metadata) == {"payment_id": "p", "differing_fields": expected}
        (result,) = await batch(ledger, [in_batch(other)])
        assert details_of(result.error)["ErrorInfo"] == info
    assert await ledger.query(COUNT_EVERYTHING) == before


@pytest.mark.both_servers
async def test_operation_with_other_contents_is_refused(ledger: RunningLedger) -> None:
    """Whatever payment it names; ids of operations are shared by all payments."""
    await open_account(ledger, "payer", None)
    await open_account(ledger, "payee")
    for payment_id in ("p", "q"):
        await ledger.payments.AuthorizePayment(
            order(payment_id, "payer", "payee", 100, capture=MANUAL)
        )
    await operation(ledger, "CAPTURE", "o", "p", amount_minor=10)
    before = await ledger.query(COUNT_EVERYTHING)
    for kind, payment_id, fields, expected in [
        ("CAPTURE", "p", {"amount_minor": 11}, "amount_minor"),
        ("CAPTURE", "p", {}, "amount_minor"),
        ("CAPTURE", "p", {"amount_minor": 10, "is_final": True}, "is_final"),
        ("CAPTURE", "q", {"amount_minor": 10}, "payment_id"),
        ("CAPTURE", "nothing", {"amount_minor": 10}, "payment_id"),
        ("REFUND", "p", {"amount_minor": 10}, "kind"),
        ("VOID", "q", {}, "kind,payment_id,amount_minor"),
    ]:
        error = await failure_of(operation(ledger, kind, "o", payment_id, **fields))
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        metadata = dict(details_of(error)["ErrorInfo"].metadata)
        assert metadata == {"operation_id": "o", "differing_fields": expected}
    error = await failure_of(operation(ledger, "VOID", "new", "nothing"))
    assert reason_of(error) == "PAYMENT_NOT_FOUND"
    assert await ledger.query(COUNT_EVERYTHING) == before


Orders = list[tuple[str, str, str, int, bool]]

# Of accounts a with 100, b and c with nothing: payments of a batch with id, payer, payee, amount
# and whether each is linked; their outcomes; what a, b and c have afterwards.
BATCHES: dict[str, tuple[Orders, list[str], tuple[int, int, int]]] = {
    "in their order": (
        [("p1", "b", "c", 1, False), ("p2", "a", "b", 100, False), ("p3", "b", "c", 1, False)],
        ["INSUFFICIENT_FUNDS", "CAPTURED", "CAPTURED"],
        (0, 99, 1),
    ),
    "a chain that carries money on": (
        [("p1", "a", "b", 100, True), ("p2", "b", "c", 100, True), ("p3", "c", "a", 40, False)],
        ["CAPTURED", "CAPTURED", "CAPTURED"],
        (40, 0, 60),
    ),
    "a chain that is declined at its end": (
        [
            ("p1", "a", "b", 100, True),
            ("p2", "b", "c", 100, True),
            ("p3", "b", "a", 1, False),
            ("p4", "a", "c", 100, False),
        ],
        [
            "LINKED_PAYMENT_DECLINED",
            "LINKED_PAYMENT_DECLINED",
            "INSUFFICIENT_FUNDS",
            "CAPTURED",
        ],
        (0, 0, 100),
    ),
    "two chains": (
        [
            ("p1", "a", "b", 60, True),
            ("p2", "a", "c", 60, False),
            ("p3", "a", "b", 60, True),
            ("p4", "a", "c", 40, False),
        ],
        ["LINKED_PAYMENT_DECLINED", "INSUFFICIENT_FUNDS", "CAPTURED", "CAPTURED"],
        (0, 60, 40),
    ),
    "a chain with an unknown account": (
        [("p1", "a", "b", 1, True), ("p2", "a", "nobody", 1, False), ("p3", "a", "c", 1, False)],
        ["LINKED_PAYMENT_REFUSED", "ACCOUNT_NOT_FOUND", "CAPTURED"],
        (99, 0, 1),
    ),
    "a chain with a malformed member": (
        [("p1", "a", "b", 1, True), ("p2", "a", "b", 0, True), ("p3", "a", "c", 1, False)],
        ["LINKED_PAYMENT_REFUSED", "INVALID_REQUEST", "LINKED_PAYMENT_REFUSED"],
        (100, 0, 0),
    ),
    "a chain with a stored member": (
        [("stored", "a", "b", 10, True), ("p2", "a", "c", 1, False)],
        ["DUPLICATE", "LINKED_PAYMENT_REFUSED"],
        (90, 10, 0),
    ),
    "a chain with a member that is stored otherwise": (
        [("p1", "a", "c", 1, True), ("stored", "a", "b", 11, False)],
        ["LINKED_PAYMENT_REFUSED", "PAYMENT_ID_REUSED"],
        (90, 10, 0),
    ),
    "one id again and again": (
        [
            ("p1", "a", "b", 60, False),
            ("p1", "a", "b", 60, False),
            ("p1", "a", "b", 61, False),
            ("p1", "a", "b", 60, False),
        ],
        ["CAPTURED", "DUPLICATE", "PAYMENT_ID_REUSED", "DUPLICATE"],
        (40, 60, 0),
    ),
    "one id twice in a chain": (
        [("p1", "a", "b", 1, True), ("p1", "a", "b", 1, False), ("p1", "a", "b", 2, False)],
        ["LINKED_PAYMENT_REFUSED", "INVALID_REQUEST", "CAPTURED"],
        (98, 2, 0),
    ),
    "an id of a chain again outside": (
        [
            ("p1", "a", "b", 60, True),
            ("p2", "b", "c", 60, False),
            ("p1", "a", "b", 60, False),
            ("p2", "b", "c", 60, True),
            ("p3", "a", "c", 1, False),
        ],
        ["CAPTURED", "CAPTURED", "DUPLICATE", "DUPLICATE", "LINKED_PAYMENT_REFUSED"],
        (40, 0, 60),
    ),
    "an id of a declined chain again": (
        [
            ("p1", "a", "b", 60, True),
            ("p2", "a", "c", 60, False),
            ("p1", "a", "b", 60, False),
        ],
        ["LINKED_PAYMENT_DECLINED", "INSUFFICIENT_FUNDS", "LINKED_PAYMENT_DECLINED"],
        (100, 0, 0),
    ),
    "an id that was refused is decided where it comes next": (
        [
            ("p1", "a", "nobody", 100, False),
            ("p1", "a", "b", 100, False),
            ("p2", "a", "c", 100, False),
        ],
        ["ACCOUNT_NOT_FOUND", "CAPTURED", "INSUFFICIENT_FUNDS"],
        (0, 100, 0),
    ),
}


@pytest.mark.parametrize("name", BATCHES)
async def test_batch_is_decided_as_the_table_says(shared_ledger: RunningLedger, name: str) -> None:
    """And a repeat of it gets the same decisions, as duplicates."""
    ledger, own = shared_ledger, unique("batch")
    orders, expected, after = BATCHES[name]
    await open_account(ledger, f"{own}.a", funds_minor=100)
    await open_account(ledger, f"{own}.b")
    await open_account(ledger, f"{own}.c")
    if "stored" in {payment_id for payment_id, *_ in orders}:
        stored = order(f"{own}.stored", f"{own}.a", f"{own}.b", 10)
        await ledger.payments.AuthorizePayment(stored)
    messages = [
        in_batch(
            order(f"{own}.{payment_id}", f"{own}.{payer}", f"{own}.{payee}", amount_minor),
            linked=linked,
        )
        for payment_id, payer, payee, amount_minor, linked in orders
    ]

    async def available() -> tuple[int, ...]:
        return tuple([(await funds(ledger, f"{own}.{name}"))[0] for name in "abc"])

    results = await batch(ledger, messages)
    assert [outcome_of(result) for result in results] == expected
    assert await available() == after
    for result, (payment_id, *_) in zip(results, orders, strict=True):
        is_stored = await ledger.query(
            "SELECT transaction_id::text FROM payments WHERE payment_id = :payment_id",
            payment_id=f"{own}.{payment_id}",
        )
        if result.transaction_id:
            assert is_stored == [(result.transaction_id,)]
    again = await batch(ledger, messages)
    for first, second in zip(results, again, strict=True):
        if first.status:
            assert status_name(second) == "DUPLICATE"
            assert (second.transaction_id, second.decline_reason) == (
                first.transaction_id,
                first.decline_reason,
            )
    assert await available() == after
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_transfers_are_payments_that_are_captured_at_once(ledger: RunningLedger) -> None:
    """The same payments, by either method: the one repeats the other."""
    await open_account(ledger, "payer", funds_minor=100)
    await open_account(ledger, "payee")
    transfers = [
        payment_pb2.Transfer(
            payment_id=f"t{place}",
            payer_account_id="payer",
            payee_account_id="payee",
            amount_minor=30,
            currency="PEN",
            reference="r",
            linked=place == 0,
        )
        for place in range(4)
    ]
    request = payment_pb2.BatchTransfersRequest(transfers=transfers)
    results = (await ledger.payments.BatchTransfers(request)).results
    assert [outcome_of(result) for result in results] == [
        "CAPTURED",
        "CAPTURED",
        "CAPTURED",
        "INSUFFICIENT_FUNDS",
    ]
    single = order("t0", "payer", "payee", 30, reference="r")
    response = await ledger.payments.AuthorizePayment(single)
    assert status_name(response) == "DUPLICATE"
    assert response.payment.transaction_id == results[0].transaction_id
    assert await funds(ledger, "payee") == (90, 0)
    for orders, fields in [
        ([], ["transfers"]),
        ([payment_pb2.Transfer(linked=True)], ["transfers[0].linked"]),
        (transfers * 251, ["transfers"]),
    ]:
        error = await failure_of(
            ledger.payments.BatchTransfers(payment_pb2.BatchTransfersRequest(transfers=orders))
        )
        assert fields_of(error) == fields
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_thousand_payments_of_one_chain(ledger: RunningLedger) -> None:
    """Money that goes from hand to hand: all or none."""
    names = [f"a{place}" for place in range(10)]
    for name in names:
        await open_account(ledger, name)
    await open_account(ledger, BANK, None)
    await pay_in(ledger, "a0", 7)
    for number, last_minor in enumerate((8, 7)):
        chain = [
            in_batch(
                order(
                    f"p{number}.{place}",
                    names[place % 10],
                    names[(place + 1) % 10],
                    last_minor if place == 999 else 7,
                ),
                linked=place < 999,
            )
            for place in range(1000)
        ]
        results = await batch(ledger, chain)
        outcomes = [outcome_of(result) for result in results]
        if number == 0:
            assert outcomes == ["LINKED_PAYMENT_DECLINED"] * 999 + ["INSUFFICIENT_FUNDS"]
        else:
            assert outcomes == ["CAPTURED"] * 1000
    assert await funds(ledger, "a0") == (7, 0)
    await assert_books_in_order(ledger.database)


async def test_amounts_reach_the_ends_of_their_ranges(ledger: RunningLedger) -> None:
    """The largest payments, overdrafts and sums; a balance beyond int64 is added up exactly."""
    largest_minor = 10**12
    await open_account(ledger, BANK, None)
    await open_account(ledger, "deep", 10**15)
    await open_account(ledger, "payee")
    results = await batch(
        ledger,
        [in_batch(order(f"p{place}", "deep", "payee", largest_minor)) for place in range(1000)],
    )
    assert {outcome_of(result) for result in results} == {"CAPTURED"}
    assert await funds(ledger, "deep") == (-(10**15), 0)
    response = await ledger.payments.AuthorizePayment(order("more", "deep", "payee", 1))
    assert reason_name(response.payment) == "INSUFFICIENT_FUNDS"
    # Many more of the same, as if they had been paid in over the years.
    await ledger.query(
        """
        INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
          debit_account, credit_account, amount_minor, payment_id)
        SELECT e.balance_account_id, gen_random_uuid(), e.position, e.entry_type,
               e.debit_account, e.credit_account, e.amount_minor, e.payment_id
        FROM ledger_entries AS e JOIN balance_accounts USING (balance_account_id),
             generate_series(1, 9223)
        WHERE account_id = 'payee' AND payment_id < 'p1'
        """
    )
    await ledger.query(
        """
        INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type,
          debit_account, credit_account, amount_minor, payment_id)
        SELECT e.balance_account_id, gen_random_uuid(), e.position, e.entry_type,
               e.debit_account, e.credit_account, 900000000000 + n % 2, e.payment_id
        FROM ledger_entries AS e JOIN balance_accounts USING (balance_account_id),
             generate_series(1, 9) AS n
        WHERE account_id = 'payee' AND payment_id = 'p1'
        """
    )
    response = await ledger.payments.AuthorizePayment(
        order("of.much", "payee", "deep", largest_minor)
    )
    assert status_name(response) == "CAPTURED"


@pytest.mark.parametrize(
    ("ahead_microseconds", "is_over"), [(-1, True), (0, True), (1, False)], ids=str
)
async def test_hold_expires_at_its_instant(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    ahead_microseconds: int,
    *,
    is_over: bool,
) -> None:
    """When an operation is decided at `expires_at` or later, the hold is released first."""
    expiries_by_hand(monkeypatch)
    standings = PostgresPaymentBooks.standings
    async with running_ledger(database) as ledger:
        await open_account(ledger, "payer", funds_minor=100)
        await open_account(ledger, "payee")
        expires_at = from_now(3600)
        request = order("p", "payer", "payee", 100, capture=MANUAL, expires_at=expires_at)
        await ledger.payments.AuthorizePayment(request)

        async def at_the_instant(books: PostgresPaymentBooks, *arguments: Any) -> Any:
            found = await standings(books, *arguments)
            instant = expires_at.ToDatetime(tzinfo=UTC)
            return found._replace(now=instant - timedelta(microseconds=ahead_microseconds))

        monkeypatch.setattr(PostgresPaymentBooks, "standings", at_the_instant)
        response = await operation(ledger, "CAPTURE", "c", "p", amount_minor=60)
        got = await details(ledger, "p")
        if is_over:
            assert reason_name(response.operation) == "PAYMENT_NOT_CAPTURABLE"
            assert state_name(got.payment) == "EXPIRED"
            assert [each.kind for each in got.operations] == [
                payment_pb2.OPERATION_KIND_EXPIRE,
                payment_pb2.OPERATION_KIND_CAPTURE,
            ]
            assert await funds(ledger, "payer") == (100, 0)
        else:
            assert status_name(response) == "APPLIED"
            assert await funds(ledger, "payer") == (0, 40)
        late = order("late", "payer", "payee", 1, capture=MANUAL, expires_at=expires_at)
        answer = await ledger.payments.AuthorizePayment(late)
        reasons = {"EXPIRED"} if is_over else {"INSUFFICIENT_FUNDS"}
        assert {reason_name(answer.payment)} == reasons


async def test_expired_holds_are_released_by_themselves(ledger: RunningLedger) -> None:
    """By the worker of any server, within seconds, though nobody touches them."""
    await open_account(ledger, "payer", funds_minor=1000)
    await open_account(ledger, "payee")
    ids = [f"p{place}" for place in range(700)]
    results = await batch(
        ledger, [in_batch(order(each, "payer", "payee", 1, capture=MANUAL)) for each in ids]
    )
    assert {outcome_of(result) for result in results} == {"AUTHORIZED"}
    assert await funds(ledger, "payer") == (300, 700)
    await expire(ledger.database, *ids)

    async def are_released() -> bool:
        return await funds(ledger, "payer") == (1000, 0)

    await until(are_released)
    got = await details(ledger, ids[0])
    assert state_name(got.payment) == "EXPIRED"
    (released,) = got.operations
    assert (released.operation_id, released.kind) == ("", payment_pb2.OPERATION_KIND_EXPIRE)
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_refused_payments_store_nothing(ledger: RunningLedger) -> None:
    """Of any kind: malformed, without an account, between an account and itself."""
    await open_account(ledger, "payer", funds_minor=100)
    await open_account(ledger, "payee")
    before = await ledger.query(COUNT_EVERYTHING)
    for request, reason in [
        (order("", "payer", "payee", 1), "INVALID_REQUEST"),
        (order("p", "payer", "payer", 1), "INVALID_REQUEST"),
        (order("p", "payer", "payee", -1), "INVALID_REQUEST"),
        (order("p", "payer", "payee", 1, capture=0), "INVALID_REQUEST"),
        (order("p", "payer", "payee", 1, fee_minor=1), "INVALID_REQUEST"),
        (order("p", "payer", "payee", 1, expires_at=from_now(9)), "INVALID_REQUEST"),
        (order("p", "nobody", "payee", 1), "ACCOUNT_NOT_FOUND"),
        (order("p", "payer", "nobody", 1), "ACCOUNT_NOT_FOUND"),
        (order("p", "nobody", "", 1, payee_restaurant_id="new"), "ACCOUNT_NOT_FOUND"),
    ]:
        error = await failure_of(ledger.payments.AuthorizePayment(request))
        assert reason_of(error) == reason
    assert await ledger.query(COUNT_EVERYTHING) == before
    # Nothing holds the id: it is decided when it comes right.
    response = await ledger.payments.AuthorizePayment(order("p", "payer", "payee", 1))
    assert status_name(response) == "CAPTURED"


@pytest.mark.both_servers
async def test_payment_shows_all_that_was_done_with_it(ledger: RunningLedger) -> None:
    """GetPayment has the operations and the entries in their order, the payer's first."""
    await open_account(ledger, "payer", funds_minor=100)
    await open_account(ledger, "payee")
    await ledger.payments.AuthorizePayment(order("p", "payer", "payee", 100, capture=MANUAL))
    steps: list[tuple[str, dict[str, Any]]] = [
        ("CAPTURE", {"amount_minor": 60}),
        ("CAPTURE", {"amount_minor": 61}),
        ("REFUND", {"amount_minor": 20}),
        ("REVERSE", {}),
        ("REVERSE", {}),
    ]
    answers = [
        await operation(ledger, kind, f"o{place}", "p", **fields)
        for place, (kind, fields) in enumerate(steps)
    ]
    got = await details(ledger, "p")
    assert list(got.operations) == [answer.operation for answer in answers]
    assert got.payment == answers[-1].payment
    posted = await entries_of(ledger, "p")
    assert posted == [
        ("PAYMENT_HOLD", "payer", 100),
        ("PAYMENT_CAPTURE", "payer", 60),
        ("PAYMENT", "payee", 60),
        ("REFUND_IN", "payer", 20),
        ("REFUND_OUT", "payee", 20),
        ("PAYMENT_RELEASE", "payer", 40),
        ("REFUND_IN", "payer", 40),
        ("REFUND_OUT", "payee", 40),
    ]
    assert [(entry.account_id, entry.amount_minor) for entry in got.entries] == [
        (holder, amount_minor) for _, holder, amount_minor in posted
    ]
    assert {entry.payment_id for entry in got.entries} == {"p"}
    ids = [got.payment.transaction_id, *(each.transaction_id for each in got.operations)]
    assert [
        key for key, _ in itertools.groupby(got.entries, lambda entry: entry.transaction_id)
    ] == ([name for name in ids if name])
    assert await funds(ledger, "payer") == (100, 0)


@pytest.mark.both_servers
async def test_lists_are_complete_page_by_page(ledger: RunningLedger) -> None:
    """By payer, by payee and by state, latest first."""
    for name in ("payer", "payee"):
        await open_account(ledger, name, None)
    for place in range(9):
        await ledger.payments.AuthorizePayment(
            order(f"p{place}", "payer", "payee", 1, capture=(IMMEDIATE, MANUAL)[place % 2])
        )

    async def listed(**fields: Any) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            page = await ledger.payments.ListPayments(
                payment_pb2.ListPaymentsRequest(**fields, page_size=4, page_token=token)
            )
            found += [payment.payment_id for payment in page.payments]
            token = page.next_page_token
            if not token:
                return found

    latest_first = [f"p{place}" for place in reversed(range(9))]
    assert await listed(payer_account_id="payer") == latest_first
    assert await listed(payee_account_id="payee") == latest_first
    assert await listed(payer_account_id="payee") == []
    held = payment_pb2.PAYMENT_STATE_AUTHORIZED
    assert await listed(payee_account_id="payee", state=held) == latest_first[1::2]
    # Of one batch all are recorded at one instant: their ids put them in order.
    await batch(
        ledger, [in_batch(order(f"b{place:02}", "payee", "payer", 1)) for place in range(25)]
    )
    together = [f"b{place:02}" for place in reversed(range(25))]
    assert await listed(payer_account_id="payee") == together
    error = await failure_of(listed(payer_account_id="nobody"))
    assert reason_of(error) == "ACCOUNT_NOT_FOUND"
    error = await failure_of(listed(payee_restaurant_id="payee"))
    assert reason_of(error) == "RESTAURANT_NOT_FOUND"


@pytest.mark.both_servers
async def test_balance_read_after_an_answer_includes_it(ledger: RunningLedger) -> None:
    """GetAccountBalance has what was held, captured and refunded by the calls before it."""
    await open_account(ledger, "payer", funds_minor=100)
    await open_account(ledger, "payee")

    async def balances() -> list[tuple[int, int, int]]:
        found = []
        for account_id in ("payer", "payee"):
            got = await account_balance(ledger, account_id)
            found.append((got.available_minor, got.held_minor, got.posted_minor))
        return found

    steps: list[tuple[Callable[[], Any], list[tuple[int, int, int]]]] = [
        (
            lambda: ledger.payments.AuthorizePayment(
                order("p", "payer", "payee", 70, capture=MANUAL)
            ),
            [(30, 70, 100), (0, 0, 0)],
        ),
        (
            lambda: operation(ledger, "CAPTURE", "c", "p", amount_minor=50),
            [(30, 20, 50), (50, 0, 50)],
        ),
        (lambda: operation(ledger, "VOID", "v", "p"), [(50, 0, 50), (50, 0, 50)]),
        (
            lambda: operation(ledger, "REFUND", "r", "p", amount_minor=5),
            [(55, 0, 55), (45, 0, 45)],
        ),
    ]
    for step, expected in steps:
        await step()
        assert await balances() == expected


async def test_decisions_are_the_same_with_snapshots(ledger: RunningLedger, seed: int) -> None:
    """Snapshots of balances, taken at any time or deleted, change no decision."""
    chance = random.Random(seed)
    await open_account(ledger, "payer", 50, funds_minor=500)
    await open_account(ledger, "payee")
    left_minor = 500
    numbers = itertools.count()
    for _ in range(6):
        for amount_minor in [chance.randint(1, 90) for _ in range(3)]:
            request = order(f"p{next(numbers)}", "payer", "payee", amount_minor)
            response = await ledger.payments.AuthorizePayment(request)
            accepted = amount_minor <= left_minor + 50
            assert status_name(response) == ("CAPTURED" if accepted else "DECLINED")
            left_minor -= amount_minor if accepted else 0
            if accepted and chance.random() < 0.5:
                refund = f"o{next(numbers)}"
                await operation(ledger, "REFUND", refund, request.payment_id, amount_minor=1)
                left_minor += 1
        await take_snapshots(ledger.engine)
        if chance.random() < 0.3:
            await ledger.query("DELETE FROM balance_snapshots")
        exactly = order(f"p{next(numbers)}", "payer", "payee", left_minor + 51)
        response = await ledger.payments.AuthorizePayment(exactly)
        assert reason_name(response.payment) == "INSUFFICIENT_FUNDS"
        assert await funds(ledger, "payer") == (left_minor, 0)
    await pay_in(ledger, "payer", 10)
    exactly = order("last", "payer", "payee", left_minor + 60)
    assert status_name(await ledger.payments.AuthorizePayment(exactly)) == "CAPTURED"
    assert await funds(ledger, "payer") == (-50, 0)
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
async def test_cancelled_calls_are_decided_once(ledger: RunningLedger, seed: int) -> None:
    """A call that its client gives up at any moment is decided or not; a repeat gets the answer."""
    chance = random.Random(seed)
    await open_account(ledger, "payer", funds_minor=500)
    await open_account(ledger, "payee")
    requests = [order(f"p{place}", "payer", "payee", 10) for place in range(60)]

    async def give_up(request: payment_pb2.AuthorizePaymentRequest) -> None:
        call = ledger.payments.AuthorizePayment(request)
        for _ in range(chance.randint(0, 40)):
            await asyncio.sleep(0)
        call.cancel()

    await asyncio.gather(*map(give_up, requests))
    firsts = await asyncio.gather(*map(ledger.payments.AuthorizePayment, requests))
    again = await asyncio.gather(*map(ledger.payments.AuthorizePayment, requests))
    assert [each.payment for each in again] == [each.payment for each in firsts]
    captured = [each for each in again if not reason_name(each.payment)]
    assert len(captured) == 50
    assert await funds(ledger, "payer") == (0, 0)
    await assert_books_in_order(ledger.database)


@pytest.mark.both_servers
@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (
            "CAPTURE",
            {"amount_minor": 20, "is_final": True},
            [
                ("PAYMENT_CAPTURE", "payer", 20),
                ("PAYMENT", "eatery", 20),
                ("FEE", "eatery", 2),
                ("PAYMENT_RELEASE", "payer", 40),
            ],
        ),
        (
            "REVERSE",
            {},
            [
                ("PAYMENT_RELEASE", "payer", 60),
                ("REFUND_IN", "payer", 40),
                ("REFUND_OUT", "eatery", 40),
            ],
        ),
    ],
)
async def test_entries_of_an_operation_are_in_the_order_of_its_steps(
    ledger: RunningLedger, kind: str, fields: dict[str, Any], expected: list[tuple[str, str, int]]
) -> None:
    """Of each step first the payer's, then the payee's; positions count through all."""
    await open_account(ledger, "payer", funds_minor=100)
    held = order("p", "payer", "", 100, payee_restaurant_id="eatery", fee_minor=10, capture=MANUAL)
    await ledger.payments.AuthorizePayment(held)
    await operation(ledger, "CAPTURE", "first", "p", amount_minor=40)
    await operation(ledger, kind, "o", "p", **fields)
    assert (await entries_of(ledger, "p"))[4:] == expected
    await assert_books_in_order(ledger.database)
