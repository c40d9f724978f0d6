"""Payers: callers that pay between accounts and to restaurants until each outcome is known."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc import aio
from support.paying import MANUAL, order, timestamp

from faults.callers import Caller, meaning
from faults.journal import Journal, PaymentCall, Reply
from ledger.v1 import account_pb2, payment_pb2

BANK = "wallet_bank"
ACCOUNTS = tuple(f"wallet_{number}" for number in range(6))
SHOPS = ("wallet_shop_0", "wallet_shop_1")
FUNDS_MINOR = 5_000
PAUSE_SECONDS = (0.02, 0.3)
# A payer makes this many payments a second at the most: the events are the load.
PACE_SECONDS = 0.01
TIMEOUT_SECONDS = 5.0

Order = payment_pb2.AuthorizePaymentRequest
Send = Callable[[Caller], Awaitable[PaymentCall]]


class Payer:
    """Opens and funds the accounts, which all payers share, and pays until it is stopped."""

    def __init__(
        self,
        addresses: Sequence[str],
        journal: Journal,
        *,
        seed: str,
        token: str,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._journal = journal
        self._chance = random.Random(seed)
        self._seed = seed
        self._numbers = count(1)
        self._is_stopping = is_stopping
        self._callers = [Caller(address, journal, token=token) for address in addresses]

    async def run(self) -> None:
        try:
            await self._open_accounts()
            while not self._is_stopping():
                await self._pay()
                await asyncio.sleep(PACE_SECONDS)
        finally:
            for caller in self._callers:
                await caller.close()

    async def _open_accounts(self) -> None:
        for account_id in (BANK, *ACCOUNTS):
            request = account_pb2.CreateAccountRequest(account_id=account_id, currency="PEN")
            request.overdraft.unlimited = account_id == BANK
            if account_id != BANK:
                request.ClearField("overdraft")
            while not await self._is_open(request):
                if self._is_stopping():
                    return
                await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
        for account_id in ACCOUNTS:
            await self._authorize(order(f"fund_{account_id}", BANK, account_id, FUNDS_MINOR))

    async def _is_open(self, request: account_pb2.CreateAccountRequest) -> bool:
        caller = self._chance.choice(self._callers)
        try:
            await caller.accounts.CreateAccount(
                request, timeout=TIMEOUT_SECONDS, metadata=caller.metadata
            )
        except aio.AioRpcError as error:
            if error.code() in self._journal.forbidden_codes:
                self._journal.violations.append(f"CreateAccount ended with {error.code().name}")
            return False
        return True

    async def _pay(self) -> None:
        """One payment and what follows it, or a repeat of an earlier one."""
        chance, orders = self._chance, self._journal.payments.orders
        if chance.random() < 0.15:
            again = Order()
            again.CopyFrom(chance.choice(list(orders.values()))[0])
            if chance.random() < 0.2:
                again.amount_minor += 1 + chance.randrange(3)
            await self._authorize(again)
            return
        request = self._order()
        call = await self._authorize(request)
        decided = call.reply in (Reply.CREATED, Reply.DUPLICATE) and not call.is_declined
        if decided and (request.capture == MANUAL or chance.random() < 0.1):
            for _ in range(chance.randrange(4)):
                await self._operate(request)

    def _order(self) -> Order:
        chance = self._chance
        payment_id = f"pay_{self._seed}_{next(self._numbers):06d}".replace(" ", "_")
        payer, payee = chance.sample(ACCOUNTS, 2)
        amount_minor = chance.randrange(1, 400)
        fields: dict[str, Any] = {"reference": chance.choice(["", "order 7"])}
        if chance.random() < 0.25:
            fields["payee_restaurant_id"] = chance.choice(SHOPS)
            fields["fee_minor"] = chance.randrange(amount_minor)
        if chance.random() < 0.4:
            fields["capture"] = MANUAL
            if chance.random() < 0.3:
                fields["expires_at"] = timestamp(time.time() + chance.uniform(0.5, 3))
        return order(payment_id, payer, payee, amount_minor, **fields)

    async def _authorize(self, request: Order) -> PaymentCall:
        orders = self._journal.payments.orders.setdefault(request.payment_id, [])
        if request not in orders:
            orders.append(request)

        async def send(caller: Caller) -> PaymentCall:
            return await self._send(
                request.payment_id, request, caller.payments.AuthorizePayment, caller
            )

        return await self._until_known(send)

    async def _operate(self, paid: Order) -> PaymentCall:
        chance = self._chance
        kind = chance.choice(["Capture", "Capture", "Void", "Refund", "Reverse"])
        fields: dict[str, Any] = {
            "payment_id": paid.payment_id,
            "operation_id": f"op_{self._seed}_{next(self._numbers):06d}".replace(" ", "_"),
        }
        if kind in ("Capture", "Refund"):
            fields["amount_minor"] = chance.choice([0, chance.randrange(1, paid.amount_minor + 1)])
        if kind == "Capture":
            fields["is_final"] = chance.random() < 0.3
        request = getattr(payment_pb2, f"{kind}PaymentRequest")(**fields)
        self._journal.payments.operations[request.operation_id] = request

        async def send(caller: Caller) -> PaymentCall:
            method = getattr(caller.payments, f"{kind}Payment")
            return await self._send(request.operation_id, request, method, caller)

        call = await self._until_known(send)
        if chance.random() < 0.15:
            call = await self._until_known(send)
        return call

    async def _send(
        self, command_id: str, request: Message, method: Any, caller: Caller
    ) -> PaymentCall:
        """Makes one call. A cancelled caller records that the outcome is unknown."""
        reply, code, answer, is_declined = Reply.UNKNOWN, grpc.StatusCode.CANCELLED, b"", False
        try:
            response = await method(request, timeout=TIMEOUT_SECONDS, metadata=caller.metadata)
            code = grpc.StatusCode.OK
            is_repeat = "DUPLICATE" in _status_name(response)
            reply = Reply.DUPLICATE if is_repeat else Reply.CREATED
            answer, is_declined = answer_of(response), is_decline(response)
        except aio.AioRpcError as error:
            code = error.code()
            reply = meaning(code)
        finally:
            contents = request.SerializeToString(deterministic=True)
            call = PaymentCall(command_id, contents, reply, code, answer, is_declined)
            self._journal.payments.calls.append(call)
        return call

    async def _until_known(self, send: Send) -> PaymentCall:
        """Sends to one server after the other until the outcome is known."""
        first = self._chance.randrange(len(self._callers))
        for attempt in count():
            call = await send(self._callers[(first + attempt) % len(self._callers)])
            if call.reply.is_definite:
                return call
            await asyncio.sleep(self._chance.uniform(*PAUSE_SECONDS))
        raise RuntimeError("unreachable")


def _status_name(response: Any) -> str:
    field_of_status = response.DESCRIPTOR.fields_by_name["status"]
    name: str = field_of_status.enum_type.values_by_number[response.status].name
    return name


def answer_of(response: Any) -> bytes:
    """What a response says was decided, whether now or before."""
    same = type(response)()
    same.CopyFrom(response)
    same.ClearField("status")
    content: bytes = same.SerializeToString(deterministic=True)
    return content


def is_decline(response: Any) -> bool:
    """Whether the command was declined."""
    decided = getattr(response, "operation", None) or response.payment
    return bool(decided.decline_reason)
