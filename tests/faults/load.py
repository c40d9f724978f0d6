"""A load: callers that send events until the outcome is known, read balances, and pay."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

import grpc
from grpc import aio
from support.events import OCCURRED_AT, event_message
from support.waiting import until

from faults.callers import Caller
from faults.journal import Call, DigitAccounts, Journal
from faults.payers import Payer
from ledger.v1 import ledger_pb2

SETTLE_SECONDS = 120.0
PAUSE_SECONDS = (0.02, 0.3)
_OTHER_TYPES = [
    number
    for name, number in ledger_pb2.EventType.items()
    if "PAYOUT" not in name and "UNSPECIFIED" not in name and name != "EVENT_TYPE_CHARGE_SUCCEEDED"
]
# They belong to no restaurant, and the others may.
_PLATFORM_TYPES = (
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLED,
    ledger_pb2.EVENT_TYPE_PROCESSOR_SETTLEMENT_DEBITED,
)
_TIMED_TYPES = (
    ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_CHARGE_REVERSED,
    ledger_pb2.EVENT_TYPE_TAX_WITHHELD,
)
_COSTING_TYPES = (
    ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
    ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
)


@dataclass(frozen=True, slots=True)
class Mix:
    """The composition of a load."""

    callers: int = 16
    timeout_seconds: float | None = 5.0
    # If set, the timeout of each first attempt is drawn from this range instead.
    timeout_range_seconds: tuple[float, float] | None = None
    # If set, each first attempt is cancelled after a time drawn from this range.
    cancel_range_seconds: tuple[float, float] | None = None
    # The share of events that repeat an event of any caller; of those, the share with other
    # contents.
    repeat_share: float = 0.15
    altered_share: float = 0.1
    # The share of acknowledged events after which the caller reads a balance.
    read_share: float = 0.2
    restaurants: int = 8
    # Callers that pay between accounts and to restaurants.
    payers: int = 2


class Load:
    """Callers that send events until the outcome is known, and read balances in between."""

    def __init__(
        self,
        addresses: Sequence[str],
        journal: Journal,
        digits: DigitAccounts,
        *,
        seed: str,
        mix: Mix,
        token: str = "",
    ) -> None:
        self.mix = mix
        self.journal = journal
        # The most attempts that any event needed.
        self.attempts_max = 0
        self._digits = digits
        self._addresses = addresses
        self._seed = seed
        self._token = token
        self._numbers = count(1)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._began = 0.0

    def start(self) -> None:
        self._began = time.monotonic()
        for number in range(self.mix.callers):
            self._tasks.append(asyncio.create_task(self._send_on(number)))
        for number in range(self.mix.payers):
            payer = Payer(
                self._addresses,
                self.journal,
                seed=f"{self._seed}.{number}",
                token=self._token,
                is_stopping=self._stopping.is_set,
            )
            self._tasks.append(asyncio.create_task(payer.run()))

    async def stop(self) -> None:
        """Waits until every caller knows the outcome. Raises TimeoutError if one does not."""
        self.journal.load_spans.append((self._began, time.monotonic()))
        self._stopping.set()
        done, pending = await asyncio.wait(self._tasks, timeout=SETTLE_SECONDS)
        await self.abandon()
        for task in done:
            task.result()
        if pending:
            raise TimeoutError(
                f"{len(pending)} callers did not learn the outcome in {SETTLE_SECONDS:.0f} s"
            )

    async def abandon(self) -> None:
        """Ends the callers at once, without waiting for outcomes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def acknowledged(self, events: int, *, timeout_seconds: float = 60.0) -> None:
        """Waits until `events` further events have been acknowledged."""
        wanted = len(self.journal.ack_instants) + events

        def enough() -> bool:
            for task in self._tasks:
                if task.done() and not self._stopping.is_set():
                    task.result()
            return len(self.journal.ack_instants) >= wanted

        await until(enough, timeout_seconds)

    async def _send_on(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        callers = [Caller(address, self.journal, token=self._token) for address in self._addresses]
        chance.shuffle(callers)
        try:
            while not self._stopping.is_set():
                caller = await self._send_until_known(callers, self._event(chance), chance)
                if chance.random() < self.mix.read_share:
                    await self.read(caller, chance)
        finally:
            for caller in callers:
                await caller.close()

    async def _send_until_known(
        self, callers: list[Caller], event: ledger_pb2.ProcessorEvent, chance: random.Random
    ) -> Caller:
        """Sends to one server after the other until the outcome is known; returns the caller."""
        first = chance.randrange(len(callers))
        for attempt in count():
            self.attempts_max = max(self.attempts_max, attempt + 1)
            caller = callers[(first + attempt) % len(callers)]
            call = await (
                self._first_attempt(caller, event, chance)
                if attempt == 0
                else self._attempt(caller, event)
            )
            if call is not None and call.reply.is_definite:
                return caller
            await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))
        raise RuntimeError("unreachable")

    def _attempt(
        self, caller: Caller, event: ledger_pb2.ProcessorEvent
    ) -> "asyncio.Future[Call | None]":
        return asyncio.ensure_future(caller.send(event, timeout_seconds=self.mix.timeout_seconds))

    async def _first_attempt(
        self, caller: Caller, event: ledger_pb2.ProcessorEvent, chance: random.Random
    ) -> Call | None:
        if self.mix.timeout_range_seconds is not None:
            return await caller.send(
                event, timeout_seconds=chance.uniform(*self.mix.timeout_range_seconds)
            )
        attempt = self._attempt(caller, event)
        if self.mix.cancel_range_seconds is not None:
            await asyncio.wait({attempt}, timeout=chance.uniform(*self.mix.cancel_range_seconds))
            if not attempt.done():
                attempt.cancel()
                await asyncio.wait({attempt})
                return None
        return await attempt

    def _event(self, chance: random.Random) -> ledger_pb2.ProcessorEvent:
        if self.journal.events and chance.random() < self.mix.repeat_share:
            event = ledger_pb2.ProcessorEvent()
            event.CopyFrom(chance.choice(self.journal.events))
            if chance.random() < self.mix.altered_share:
                # The amount of a charge that is a digit must stay what it is.
                event.reference = f"altered_{chance.randrange(3)}"
            return event
        event_id = f"evt_{self._seed}_{next(self._numbers):07d}"
        if chance.random() < 0.6:
            restaurant_id, amount_minor, fee_minor = self._digits.next_charge(event_id)
            return event_message(
                event_id=event_id,
                restaurant_id=restaurant_id,
                amount_minor=amount_minor,
                fee_minor=fee_minor,
            )
        amount_minor = chance.randrange(1, 100_000)
        kind = chance.choice([*_OTHER_TYPES, ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED])
        has_fee = kind in (
            ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
            ledger_pb2.EVENT_TYPE_CHARGE_REVERSED,
            ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
        )
        # Some of the charges have not matured.
        occurred_at = chance.choice(
            [OCCURRED_AT, datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)]
        )
        available_at = None
        if kind in _TIMED_TYPES and chance.random() < 0.5:
            available_at = occurred_at + timedelta(days=chance.choice([0, 30]))
        return event_message(
            kind,
            event_id=event_id,
            restaurant_id=""
            if kind in _PLATFORM_TYPES
            else f"res_{chance.randrange(self.mix.restaurants)}",
            processor_fee_minor=chance.choice([0, 7]) if kind in _COSTING_TYPES else 0,
            currency=chance.choice(["PEN", "USD"]),
            amount_minor=amount_minor,
            fee_minor=chance.randrange(amount_minor) if has_fee else 0,
            occurred_at=occurred_at,
            available_at=available_at,
            reference=chance.choice(["", "pay_1", "pay_2"]),
        )

    async def read(self, caller: Caller, chance: random.Random) -> None:
        """Reads a balance by its digits: whole charges, all acknowledged ones, no unsent one."""
        if not self._digits.event_ids:
            return
        # The newest accounts are being written.
        restaurant_id = chance.choice(list(self._digits.event_ids)[-3:])
        acknowledged = (
            set(self._digits.event_ids[restaurant_id]) & self.journal.acknowledged_at.keys()
        )
        request = ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency="PEN")
        try:
            balance = await caller.stub.GetBalance(
                request, timeout=self.mix.timeout_seconds, metadata=caller.metadata
            )
            balance_minor = balance.available_minor
        except aio.AioRpcError as error:
            if error.code() in self.journal.forbidden_codes:
                self.journal.violations.append(f"a read ended with {error.code().name}")
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                return
            balance_minor = 0
        self.journal.reads += 1
        try:
            counted = self._digits.counted(restaurant_id, balance_minor)
        except ValueError as error:
            self.journal.violations.append(f"H8: {error}")
            return
        for event_id in acknowledged - counted:
            self.journal.violations.append(
                f"H5: {event_id} was acknowledged before a read by {caller.address} that lacks it"
            )
        for event_id in counted - self.journal.intents.keys():
            self.journal.violations.append(f"H2: {event_id} is in a balance and was never sent")


@asynccontextmanager
async def load_on(load: Load) -> AsyncIterator[Load]:
    """Runs a load for the time of the block, then until every outcome is known."""
    load.start()
    try:
        yield load
    except BaseException:
        await load.abandon()
        raise
    await load.stop()
