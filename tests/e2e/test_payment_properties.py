"""Random commands on accounts and payments, compared with a model that shares no code with the
service.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from grpc import aio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.audit import assert_books_in_order
from support.events import unique
from support.paying import (
    IMMEDIATE,
    MANUAL,
    SELECT_UNBALANCED,
    bank_of,
    batch,
    details,
    expiries_by_hand,
    from_now,
    in_batch,
    open_account,
    operation,
    order,
    reason_name,
    set_state,
    state_name,
    status_name,
    until_past,
)
from support.payment_model import ModelAccount, ModelPayment, PaymentModel
from support.running import RunningLedger, running_ledger
from support.statuses import details_of

from ledger.application.payments.expire_payments import ExpiryWorker
from ledger.bootstrap.database import Database
from ledger.v1 import payment_pb2

T = TypeVar("T")

# LEDGER_FUZZ_EXAMPLES asks for more. Each example leaves out some kinds of commands at random, so
# only of many is it sure that all kinds come.
EXAMPLES = int(os.environ.get("LEDGER_FUZZ_EXAMPLES", "5"))
EXAMPLES_OF_ALL_KINDS = 15
# Name, limit, currency and first funds of the accounts of each example.
ACCOUNTS: list[tuple[str, int | None, str, int]] = [
    ("drawn", 500, "PEN", 50),
    ("poor", 0, "PEN", 100),
    ("rich", 0, "PEN", 10_000),
    ("empty", 0, "PEN", 0),
    ("world", None, "PEN", 0),
    ("dollars", 100, "USD", 1000),
]
RESTAURANTS = ["eatery", "bakery"]
# What a later command may change of a payment, and to what.
ALTERED: dict[str, Any] = {
    "amount_minor": None,
    "reference": "another",
    "currency": "EUR",
    "fee_minor": None,
    "capture": None,
    "payer_account_id": "someone.else",
}

SELECT_BALANCES = """
SELECT COALESCE(b.account_id, b.restaurant_id), b.currency,
       COALESCE(sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'account_funds'), 0)::bigint,
       COALESCE(sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'account_held'), 0)::bigint,
       COALESCE(sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'restaurant_payable'), 0)
         ::bigint,
       COALESCE(sum(m.signed_minor) FILTER (WHERE m.ledger_account = 'platform_fees'), 0)::bigint
FROM balance_accounts AS b LEFT JOIN ledger_movements AS m USING (balance_account_id)
WHERE COALESCE(b.account_id, b.restaurant_id) LIKE :prefix || '.%'
GROUP BY b.balance_account_id
"""
SELECT_PAYMENTS = """
SELECT payment_id, state, captured_minor, refunded_minor, COALESCE(decline_reason, '')
FROM payments WHERE payment_id LIKE :prefix || '.p%'
"""

amounts = st.integers(1, 120) | st.sampled_from([50, 100, 500, 550, 1200, 10**12])
asked_amounts = st.just(0) | st.integers(1, 60) | st.integers(1, 600)
payers = st.integers(0, len(ACCOUNTS) - 1)
payees = st.integers(0, len(ACCOUNTS) + len(RESTAURANTS) - 1)
expiries = st.sampled_from([None, None, None, 3600.0, 0.03, -1.0])


class Commands(RuleBasedStateMachine):
    """One example: its own accounts, and any commands about them, one after the other."""

    # Set by the test: the server, the loop that it runs in, and the worker that releases.
    ledger: RunningLedger
    loop: asyncio.AbstractEventLoop
    workers: list[ExpiryWorker]

    def __init__(self) -> None:
        super().__init__()
        self.prefix = unique("x")
        self.model = PaymentModel()
        # Every payment and operation that was decided: its request and its first response.
        self.sent: list[tuple[str, dict[str, Any], Any]] = []
        self.paid: list[tuple[payment_pb2.AuthorizePaymentRequest, Any]] = []
        self.soonest: Any = None
        self.count = 0

    def run(self, call: Callable[..., Awaitable[T]], *arguments: Any, **fields: Any) -> T:
        """The result of a call, made in the loop of the server."""

        async def made() -> T:
            return await call(*arguments, **fields)

        return asyncio.run_coroutine_threadsafe(made(), self.loop).result(120)

    def name(self, place: int) -> str:
        """The account, or after the accounts the restaurant, at a place."""
        names = [account[0] for account in ACCOUNTS] + RESTAURANTS
        return f"{self.prefix}.{names[place]}"

    def next_id(self, letter: str) -> str:
        self.count += 1
        return f"{self.prefix}.{letter}{self.count}"

    @initialize()
    def open_accounts(self) -> None:
        self.run(self.open_all)

    async def open_all(self) -> None:
        transfers = []
        for name, limit_minor, currency, funds_minor in ACCOUNTS:
            account_id = f"{self.prefix}.{name}"
            await open_account(self.ledger, account_id, limit_minor, currency)
            self.model.accounts[account_id] = ModelAccount(
                currency, limit_minor, available_minor=funds_minor
            )
            if funds_minor:
                paid_in = order(
                    f"in.{account_id}",
                    bank_of(currency),
                    account_id,
                    funds_minor,
                    currency=currency,
                )
                transfers.append(in_batch(paid_in))
        assert {status_name(result) for result in await batch(self.ledger, transfers)} == (
            {"CAPTURED"}
        )

    def drawn_order(
        self,
        payer: int,
        payee: int,
        amount_minor: int,
        *,
        is_transfer: bool,
        fee_share: int = 0,
        expires_seconds: float | None = None,
        currency: str | None = None,
    ) -> payment_pb2.AuthorizePaymentRequest | None:
        """A valid order; None if the payer is the payee."""
        if payer == payee:
            return None
        fields: dict[str, Any] = {"capture": IMMEDIATE if is_transfer else MANUAL}
        if payee >= len(ACCOUNTS):
            fields |= {
                "payee_restaurant_id": self.name(payee),
                "fee_minor": amount_minor * fee_share // 100,
            }
        if not is_transfer and expires_seconds is not None:
            fields["expires_at"] = from_now(expires_seconds)
        fields["currency"] = currency or ACCOUNTS[payer][2]
        return order(self.next_id("p"), self.name(payer), self.name(payee), amount_minor, **fields)

    @staticmethod
    def modelled(request: payment_pb2.AuthorizePaymentRequest) -> ModelPayment:
        """The payment of a request, as the model has it."""
        return ModelPayment(
            request.payer_account_id,
            request.payee_account_id or request.payee_restaurant_id,
            request.amount_minor,
            request.currency,
            request.fee_minor,
            request.capture == IMMEDIATE,
            request.expires_at.ToDatetime(tzinfo=UTC) if request.HasField("expires_at") else None,
        )

    def remember(self, request: payment_pb2.AuthorizePaymentRequest, response: Any) -> None:
        self.paid.append((request, response))
        if request.HasField("expires_at"):
            ahead = request.expires_at.ToDatetime() - datetime.now(UTC).replace(tzinfo=None)
            if ahead.total_seconds() < 60:
                self.soonest = request.expires_at

    @rule(
        payer=payers,
        payee=payees,
        amount_minor=amounts,
        is_transfer=st.booleans(),
        fee_share=st.sampled_from([0, 0, 7, 100]),
        expires_seconds=expiries,
        currency=st.sampled_from([None, None, None, None, "USD", "PEN"]),
    )
    def authorize(self, payer: int, payee: int, amount_minor: int, **fields: Any) -> None:
        """One payment."""
        request = self.drawn_order(payer, payee, amount_minor, **fields)
        if request is None:
            return
        response = self.run(self.ledger.payments.AuthorizePayment, request)
        now = response.payment.created_at.ToDatetime(tzinfo=UTC)
        reason = reason_name(response.payment)
        payment = self.modelled(request)
        self.model.authorize(request.payment_id, payment, reason, now)
        expected = "CAPTURED" if payment.is_transfer else "AUTHORIZED"
        assert status_name(response) == ("DECLINED" if reason else expected)
        self.agrees(response.payment, payment)
        assert (response.payment.transaction_id == "") is bool(reason)
        self.remember(request, response)

    @staticmethod
    def agrees(message: payment_pb2.Payment, payment: ModelPayment) -> None:
        """Asserts that the payment of a response stands where the model has it."""
        standing = (
            state_name(message),
            message.captured_minor,
            message.refunded_minor,
            message.held_minor,
        )
        assert standing == payment.standing()

    @rule(
        orders=st.lists(
            st.tuples(payers, payees, amounts, st.booleans(), st.booleans()),
            min_size=2,
            max_size=6,
        )
    )
    def authorize_batch(self, orders: Sequence[tuple[int, int, int, bool, bool]]) -> None:
        """A batch, some of it in chains."""
        requests: list[tuple[payment_pb2.AuthorizePaymentRequest, bool]] = []
        for payer, payee, amount_minor, is_transfer, linked in orders:
            request = self.drawn_order(payer, payee, amount_minor, is_transfer=is_transfer)
            if request is not None:
                requests.append((request, linked))
        if not requests:
            return
        requests[-1] = (requests[-1][0], False)
        results = self.run(
            batch,
            self.ledger,
            [in_batch(request, linked=linked) for request, linked in requests],
        )
        chain: list[tuple[str, ModelPayment]] = []
        reasons: list[str] = []
        for (request, linked), result in zip(requests, results, strict=True):
            chain.append((request.payment_id, self.modelled(request)))
            reasons.append(reason_name(result))
            assert not result.HasField("error")
            if not linked:
                self.model.authorize_chain(chain, reasons)
                chain, reasons = [], []
        for (request, _), result in zip(requests, results, strict=True):
            payment = self.model.payments[request.payment_id]
            assert status_name(result) == payment.state
            again = self.run(self.ledger.payments.AuthorizePayment, request)
            assert status_name(again) == "DUPLICATE"
            assert again.payment.transaction_id == result.transaction_id
            self.agrees(again.payment, payment)
            self.remember(request, again)

    def expire_if_due(self, payment_id: str, now: datetime) -> None:
        """What touches an expired payment releases it first."""
        if self.model.has_expired(payment_id, now):
            self.model.operate("EXPIRE", payment_id, "")

    @precondition(lambda self: self.paid)
    @rule(
        orders=st.lists(
            st.tuples(
                st.sampled_from(["CAPTURE", "REFUND", "CAPTURE", "VOID", "REVERSE"]),
                asked_amounts,
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        ),
        place=st.integers(0, 1000),
        is_any=st.sampled_from([False, False, False, True]),
    )
    def operate(self, orders: Sequence[tuple[str, int, bool]], *, place: int, is_any: bool) -> None:
        """Operations on one payment, mostly on one that has moved money."""
        accepted = [
            request.payment_id
            for request, _ in self.paid
            if is_any or not self.model.payments[request.payment_id].reason
        ]
        if accepted:
            payment_id = accepted[place % len(accepted)]
            for kind, amount_minor, is_final in orders:
                self.operate_once(payment_id, kind, amount_minor, is_final=is_final)

    def operate_once(
        self, payment_id: str, kind: str, amount_minor: int, *, is_final: bool
    ) -> None:
        fields: dict[str, Any] = {}
        if kind in ("CAPTURE", "REFUND"):
            fields["amount_minor"] = amount_minor
        if kind == "CAPTURE":
            fields["is_final"] = is_final
        operation_id = self.next_id("o")
        response = self.run(operation, self.ledger, kind, operation_id, payment_id, **fields)
        done = response.operation
        self.expire_if_due(payment_id, done.created_at.ToDatetime(tzinfo=UTC))
        moved = self.model.operate(kind, payment_id, reason_name(done), **fields)
        payment = self.model.payments[payment_id]
        assert status_name(response) == ("DECLINED" if reason_name(done) else "APPLIED")
        assert (done.operation_id, done.amount_minor, done.released_minor) == (operation_id, *moved)
        assert (done.transaction_id == "") is bool(reason_name(done))
        self.agrees(response.payment, payment)
        names = {"operation_id": operation_id, "payment_id": payment_id}
        self.sent.append((kind, names | fields, response))

    @precondition(lambda self: self.paid)
    @rule(place=st.integers(0, 1000), altered=st.sampled_from([None, None, *ALTERED]))
    def repeat_payment(self, place: int, altered: str | None) -> None:
        """The same payment again, or another one under its id."""
        request, first = self.paid[place % len(self.paid)]
        again = payment_pb2.AuthorizePaymentRequest()
        again.CopyFrom(request)
        again.metadata["note"] = "is not compared"
        if altered is None:
            response = self.run(self.ledger.payments.AuthorizePayment, again)
            assert status_name(response) == "DUPLICATE"
            assert response.payment == first.payment
            return
        value = ALTERED[altered]
        if altered == "amount_minor":
            if request.amount_minor == 10**12:
                return
            value = request.amount_minor + 1
        if altered == "fee_minor":
            if not request.payee_restaurant_id:
                return
            value = request.fee_minor + (1 if request.fee_minor < request.amount_minor else -1)
        if altered == "capture":
            if request.HasField("expires_at"):
                return
            value = MANUAL if request.capture == IMMEDIATE else IMMEDIATE
        setattr(again, altered, value)
        with pytest.raises(aio.AioRpcError) as failure:
            self.run(self.ledger.payments.AuthorizePayment, again)
        info = details_of(failure.value)["ErrorInfo"]
        assert info.reason == "PAYMENT_ID_REUSED"
        assert info.metadata["differing_fields"] == altered

    @precondition(lambda self: self.sent)
    @rule(place=st.integers(0, 1000), is_altered=st.booleans())
    def repeat_operation(self, place: int, is_altered: bool) -> None:
        """The same operation again, or another one under its id."""
        kind, fields, first = self.sent[place % len(self.sent)]
        if not is_altered:
            response = self.run(operation, self.ledger, kind, **fields)
            assert status_name(response) == "DUPLICATE"
            assert (response.operation, response.payment) == (first.operation, first.payment)
            return
        other = {"VOID": "REVERSE", "REVERSE": "VOID"}.get(kind)
        altered = dict(fields)
        if other is None:
            altered["amount_minor"] = fields["amount_minor"] + 1
        with pytest.raises(aio.AioRpcError) as failure:
            self.run(operation, self.ledger, other or kind, **altered)
        info = details_of(failure.value)["ErrorInfo"]
        assert info.reason == "OPERATION_ID_REUSED"
        assert info.metadata["differing_fields"] == ("amount_minor" if other is None else "kind")

    @rule(place=payers, state=st.sampled_from(["OPEN", "FROZEN", "OPEN", "CLOSED"]))
    def change_state(self, place: int, state: str) -> None:
        """Freezes an account, opens it again, or closes an empty one for ever."""
        account = self.model.accounts[self.name(place)]
        holds_money = account.available_minor or account.held_minor
        if account.state == "CLOSED" or (state == "CLOSED" and holds_money):
            return
        self.run(set_state, self.ledger, self.name(place), state)
        account.state = state

    @precondition(lambda self: self.soonest is not None)
    @rule(by_worker=st.booleans())
    def let_expire(self, by_worker: bool) -> None:
        """Waits until what expires soon has; then the worker releases it, or nobody yet."""
        self.run(until_past, self.ledger, self.soonest)
        self.soonest = None
        if by_worker:
            self.release()

    def release(self) -> None:
        self.run(self.workers[-1].release)
        for payment_id, payment in self.model.payments.items():
            if payment.held_minor and payment.expires_at is not None:
                got = self.run(details, self.ledger, payment_id)
                if got.operations and got.operations[-1].kind == (
                    payment_pb2.OPERATION_KIND_EXPIRE
                ):
                    at = got.operations[-1].created_at.ToDatetime(tzinfo=UTC)
                    assert self.model.has_expired(payment_id, at)
                    self.model.operate("EXPIRE", payment_id, "")
                    self.agrees(got.payment, payment)

    @invariant()
    def balances_agree(self) -> None:
        """Every balance and every payment is where the model has it."""
        rows = self.run(self.ledger.query, SELECT_BALANCES, prefix=self.prefix)
        for name, currency, available_minor, held_minor, payable_minor, fees_minor in rows:
            account = self.model.accounts.get(name)
            if account is None:
                expected = (
                    self.model.payable_minor[name, currency],
                    self.model.fees_minor[name, currency],
                )
                assert (payable_minor, fees_minor) == expected, name
            else:
                expected = (account.available_minor, account.held_minor)
                assert (available_minor, held_minor) == expected, name
        stored = self.run(self.ledger.query, SELECT_PAYMENTS, prefix=self.prefix)
        assert {row[0]: row[1:] for row in stored} == {
            payment_id: (*payment.standing()[:3], payment.reason)
            for payment_id, payment in self.model.payments.items()
        }


async def test_payments_agree_with_the_model(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any commands: balances, states, answers, repeats. At the end the audit is clean."""
    workers = expiries_by_hand(monkeypatch)
    async with running_ledger(database) as ledger:
        for currency in ("PEN", "USD"):
            await open_account(ledger, bank_of(currency), None, currency)

        class OnLedger(Commands):
            pass

        OnLedger.ledger, OnLedger.loop, OnLedger.workers = (
            ledger,
            asyncio.get_running_loop(),
            workers,
        )
        await asyncio.to_thread(
            run_state_machine_as_test,
            OnLedger,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
                # To shrink an example takes minutes.
                phases=[Phase.generate],
            ),
        )
        assert await ledger.query(SELECT_UNBALANCED) == []
        ((kinds,),) = await ledger.query(
            "SELECT count(DISTINCT (kind, decline_reason)) FROM payment_operations"
        )
        assert kinds > 8 or EXAMPLES < EXAMPLES_OF_ALL_KINDS
    await assert_books_in_order(database)
