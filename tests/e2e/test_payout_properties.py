"""Random walks over events, runs and the bank's answers, compared with a model.

The model shares no code with the service.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.audit import assert_books_in_order
from support.books import MATURITY
from support.dates import days_ago, end_of, today
from support.events import event_message, unique
from support.payout_runs import (
    finished_run,
    items_of,
    outcome_of,
    payout_event,
    payouts_of,
    plan_run,
    run_items_of,
)
from support.reconciliation import assert_reconciled
from support.running import RunningLedger, running_ledger
from support.statuses import reason_of, response_or_error

from ledger.bootstrap.database import Database
from ledger.v1 import ledger_pb2

CURRENCIES = ("PEN", "USD", "EUR", "JPY", "CLP", "MXN", "BRL", "COP", "GBP", "CHF")
STEPS = 80
BUDGET_SECONDS = 15.0
WANTED_STATES = {"PAID", "FAILED", "RETURNED", "SUBMITTED", "CANCELED"}
STATES = {"CREATED": 1, "PAID": 2, "FAILED": 3, "RETURNED": 4, "SUBMITTED": 5, "CANCELED": 6}
IN_FLIGHT = ("CREATED", "SUBMITTED")
# Events with one entry on restaurant_payable: its type and its sign.
ONE_ENTRY = {
    "refund_failed": ("REFUND_REVERSAL", 1),
    "fee_refunded": ("FEE_REVERSAL", 1),
    "dispute_fee_refunded": ("DISPUTE_FEE_REVERSAL", 1),
    "tax_withheld": ("TAX_WITHHELD", -1),
    "tax_withholding_reversed": ("TAX_WITHHELD_REVERSAL", 1),
    "reserve_held": ("RESERVE_HOLD", -1),
    "reserve_released": ("RESERVE_RELEASE", 1),
    "top_up_received": ("TOP_UP", 1),
    "debt_written_off": ("WRITE_OFF", 1),
}


@dataclass(slots=True)
class ModelPayout:
    """The expected state of a payout."""

    as_of: date
    cutoff_at: datetime
    amount_minor: int
    retained_minor: int
    items: dict[str, int]
    state: str = "CREATED"
    is_submitted: bool = False
    bank_reference: str = ""
    failure: tuple[str, str] = ("", "")
    got: ledger_pb2.Payout | None = None
    events: list[ledger_pb2.ProcessorEvent] = field(default_factory=list)


@dataclass(slots=True)
class ModelRestaurant:
    """A restaurant. `moves` change the amount owed to it: type, signed amount, and maturity."""

    active: bool = True
    is_on_hold: bool = False
    kept_minor: int = 0
    moves: list[tuple[str, int, datetime | None]] = field(default_factory=list)
    disputed_minor: int = 0
    reserve_held_minor: int = 0
    payouts: list[ModelPayout] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)

    def sums(self, cutoff_at: datetime) -> Counter[str]:
        """The sums that had matured by the cut-off, by entry type."""
        sums: Counter[str] = Counter()
        for entry_type, signed_minor, available_at in self.moves:
            if available_at is None or available_at <= cutoff_at:
                sums[entry_type] += signed_minor
        return sums

    def verdict(self, day: date, cutoff_at: datetime, minimum: int) -> str:
        """The reason why a run does not pay it, or the amount it pays."""
        amount = self.payable(cutoff_at)
        if not self.active:
            return "INACTIVE"
        if self.is_on_hold:
            return "ON_HOLD"
        if any(payout.state in IN_FLIGHT for payout in self.payouts):
            return "PAYOUT_IN_FLIGHT"
        if any(payout.state == "PAID" and payout.as_of == day for payout in self.payouts):
            return "ALREADY_PAID"
        if self.payouts and self.payouts[-1].cutoff_at > cutoff_at:
            return "CUTOFF_BEFORE_LATEST_PAYOUT"
        if amount <= 0:
            return "NOTHING_AVAILABLE"
        if amount < minimum:
            return "BELOW_MINIMUM"
        amount -= self.kept_minor
        return "MIN_BALANCE" if amount < max(minimum, 1) else str(amount)

    def payable(self, cutoff_at: datetime) -> int:
        """What may be paid by the cut-off, before anything is kept.

        No more than there is now, which is less where a debit has matured since.
        """
        now = datetime.now(UTC)
        return min(sum(self.sums(at).values()) for at in (cutoff_at, now)) - self.out()

    def out(self) -> int:
        """The sum of all payouts. Money that comes back is a separate move, so none is left out."""
        return sum(payout.amount_minor for payout in self.payouts)

    def pay(self, day: date, cutoff_at: datetime, amount_minor: int) -> ModelPayout:
        """Creates a payout with its items."""
        sums = self.sums(cutoff_at)
        retained_minor = sum(sums.values()) - self.out() - amount_minor
        items = {entry_type: sums[entry_type] - self.counted[entry_type] for entry_type in sums}
        self.counted = sums
        items = {name: minor for name, minor in items.items() if minor}
        payout = ModelPayout(day, cutoff_at, amount_minor, retained_minor, items)
        self.payouts.append(payout)
        return payout


def assert_told(shown: ledger_pb2.Payout, payout: ModelPayout) -> None:
    """Asserts that the payout shows what the bank said last."""
    assert shown.bank_reference == payout.bank_reference
    assert (shown.failure_code, shown.failure_text) == payout.failure


class Walk:
    """One walk, in a separate currency."""

    def __init__(self, ledger: RunningLedger, currency: str, chance: random.Random) -> None:
        self.ledger, self.currency, self.chance = ledger, currency, chance
        self.restaurants: dict[str, ModelRestaurant] = {}
        self.sent: list[ledger_pb2.ProcessorEvent] = []
        self.runs: dict[tuple[date, int, str, tuple[str, ...]], str] = {}

    async def step(self) -> None:
        """Takes one action at random."""
        actions = (
            [self.ingest] * 6
            + [self.run] * 4
            + [self.answer] * 4
            + [self.refer]
            + [self.hand_over] * 2
            + [self.repeat, self.toggle, self.hold, self.keep]
        )
        await self.chance.choice(actions)()

    async def ingest(self) -> None:
        """Sends a few events as a batch."""
        events = [self._event() for _ in range(self.chance.randint(1, 4))]
        assert [result.status for result in await self.ledger.ingest(*events)] == [1] * len(events)
        self.sent.extend(events)

    def _event(self) -> ledger_pb2.ProcessorEvent:
        name = f"{self.currency}_{self.chance.randint(1, 5)}"
        restaurant = self.restaurants.setdefault(name, ModelRestaurant())
        kind = self.chance.choices(
            [
                *("charge", "refund", "fee_assessed", "credited", "debited", "opened", "won"),
                *("lost", "reversed", *ONE_ENTRY),
            ],
            [10, 3, 1, 1, 1, 2, 1, 1, 1, *(0.5 for _ in ONE_ENTRY)],
        )[0]
        processor_available_at = None
        amount = self.chance.randint(1, 3_000)
        fee = self.chance.choice([0, 0, 1, amount // 10, amount])
        occurred_at, moves = (
            datetime.now(UTC) - timedelta(days=self.chance.randint(0, 9), hours=1),
            restaurant.moves,
        )
        match kind:
            case "charge":
                # Just before or after the end of a day, or not before tomorrow.
                age = self.chance.randint(1, 4)
                available_at = end_of(days_ago(age)) + timedelta(
                    microseconds=self.chance.choice([0, 1, -1])
                )
                if self.chance.random() < 0.2:
                    available_at = end_of(today()) + timedelta(days=1)
                occurred_at = available_at - MATURITY
                if self.chance.random() < 0.3:
                    # As the processor says, whatever the maturity days.
                    occurred_at = min(available_at, datetime.now(UTC)) - timedelta(
                        days=self.chance.randint(0, 30), hours=1
                    )
                    processor_available_at = available_at
                moves.append(("CHARGE", amount, available_at))
                moves.extend([("FEE", -fee, available_at)] if fee else [])
                type_ = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED
            case "refund":
                if self.chance.random() < 0.3:
                    # After all cut-offs.
                    processor_available_at = occurred_at + timedelta(days=30)
                moves.append(("REFUND", -amount, processor_available_at))
                type_ = ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED
            case "fee_assessed":
                fee = 0
                moves.append(("FEE", -amount, None))
                type_ = ledger_pb2.EVENT_TYPE_FEE_ASSESSED
            case "credited":
                fee = 0
                moves.append(("ADJUSTMENT_CREDIT", amount, None))
                type_ = ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED
            case "debited":
                fee = 0
                moves.append(("ADJUSTMENT_DEBIT", -amount, None))
                type_ = ledger_pb2.EVENT_TYPE_ADJUSTMENT_DEBITED
            case "opened":
                moves.append(("DISPUTE_HOLD", -amount, None))
                moves.extend([("DISPUTE_FEE", -fee, None)] if fee else [])
                restaurant.disputed_minor += amount
                type_ = ledger_pb2.EVENT_TYPE_DISPUTE_OPENED
            case "won":
                fee = 0
                moves.append(("DISPUTE_RELEASE", amount, None))
                restaurant.disputed_minor -= amount
                type_ = ledger_pb2.EVENT_TYPE_DISPUTE_WON
            case "reversed":
                moves.append(("CHARGE_REVERSAL", -amount, None))
                moves.extend([("FEE_REVERSAL", fee, None)] if fee else [])
                type_ = ledger_pb2.EVENT_TYPE_CHARGE_REVERSED
            case other if other in ONE_ENTRY:
                fee = 0
                entry_type, sign = ONE_ENTRY[other]
                moves.append((entry_type, sign * amount, None))
                if other.startswith("reserve"):
                    restaurant.reserve_held_minor -= sign * amount
                type_ = ledger_pb2.EventType.Value(f"EVENT_TYPE_{other.upper()}")
            case _:
                fee = 0
                restaurant.disputed_minor -= amount
                type_ = ledger_pb2.EVENT_TYPE_DISPUTE_LOST
        return event_message(
            type_,
            restaurant_id=name,
            currency=self.currency,
            amount_minor=amount,
            fee_minor=fee,
            occurred_at=occurred_at,
            available_at=processor_available_at,
            processor_fee_minor=self.chance.choice([0, 3])
            if kind in ("charge", "refund", "opened")
            else 0,
        )

    async def repeat(self) -> None:
        """Sends an earlier event again, unchanged and with another amount."""
        if not self.sent:
            return
        event = self.chance.choice(self.sent)
        assert [result.status for result in await self.ledger.ingest(event)] == [
            ledger_pb2.INGEST_STATUS_DUPLICATE
        ]
        altered = ledger_pb2.ProcessorEvent()
        altered.CopyFrom(event)
        altered.amount_minor += 1
        (result,) = await self.ledger.ingest(altered)
        assert reason_of(result.error) == "EVENT_ID_REUSED"

    async def toggle(self) -> None:
        """Sets a restaurant to inactive, or to active again."""
        if self.restaurants:
            name, restaurant = self.chance.choice(sorted(self.restaurants.items()))
            restaurant.active = not restaurant.active
            await self._update(name, "active", active=restaurant.active)

    async def hold(self) -> None:
        """Puts payouts on hold, without an end or with one, or ends a hold."""
        if self.restaurants:
            name, restaurant = self.chance.choice(sorted(self.restaurants.items()))
            hold = None
            if self.chance.random() < 0.5:
                hold = ledger_pb2.PayoutHold(reason="walk")
                days = self.chance.choice([None, -1, 1])
                restaurant.is_on_hold = days != -1
                if days is not None:
                    hold.until.FromDatetime(datetime.now(UTC) + timedelta(days=days))
            else:
                restaurant.is_on_hold = False
            await self._update(name, "payout_hold", payout_hold=hold)

    async def keep(self) -> None:
        """Sets what runs leave in a restaurant's account, or removes it."""
        if self.restaurants:
            name, restaurant = self.chance.choice(sorted(self.restaurants.items()))
            restaurant.kept_minor = self.chance.choice([0, 0, 1, 100, 1_000])
            minimums = {self.currency: restaurant.kept_minor} if restaurant.kept_minor else {}
            await self._update(
                name, f"min_balance_minor.{self.currency}", min_balance_minor=minimums
            )

    async def _update(self, name: str, path: str, **fields: Any) -> None:
        request = ledger_pb2.UpdateRestaurantRequest(
            restaurant=ledger_pb2.Restaurant(restaurant_id=name, **fields)
        )
        request.update_mask.paths.append(path)
        await self.ledger.stub.UpdateRestaurant(request)

    def _named(self) -> tuple[str, ...]:
        """Mostly all restaurants, which no name stands for; else some, and one of them twice."""
        if not self.restaurants or self.chance.random() < 0.7:
            return ()
        names = self.chance.sample(
            sorted(self.restaurants), self.chance.randint(1, len(self.restaurants))
        )
        return (*names, names[0])

    async def run(self) -> None:
        """Starts a run of a date up to today, or calls an earlier run again."""
        day = today() - timedelta(days=self.chance.choice([0, 0, 1, 1, 2, 3, 4]))
        minimum, request_id = (
            self.chance.choice([0, 0, 1, 500, 2_000]),
            f"r{self.chance.randint(1, 12)}",
        )
        named = self._named()
        fields: dict[str, Any] = {
            "currency": self.currency,
            "as_of": day,
            "min_amount_minor": minimum,
            "request_id": request_id,
            "restaurant_ids": named,
        }
        identity = (day, minimum, request_id, tuple(sorted(set(named))))
        known = self.runs.get(identity)
        if known is not None:
            before = len(await payouts_of(self.ledger, payout_run_id=known))
            assert (await finished_run(self.ledger, **fields)).payout_run_id == known
            assert len(await payouts_of(self.ledger, payout_run_id=known)) == before
            return
        planned = await plan_run(self.ledger, **fields)
        plan = planned.payout_run
        run = await finished_run(self.ledger, **fields)
        self.runs[identity] = run.payout_run_id
        cutoff_at = run.cutoff_at.ToDatetime(tzinfo=UTC)
        assert cutoff_at == end_of(day) or (
            day == today() and abs(datetime.now(UTC) - cutoff_at) < timedelta(minutes=1)
        )
        expected = {
            name: restaurant.verdict(day, cutoff_at, minimum)
            for name, restaurant in self.restaurants.items()
            if name in named or not named
        }
        found = await run_items_of(self.ledger, run)
        assert {item.restaurant_id: outcome_of(item) for item in found} == expected
        for item in found:
            restaurant = self.restaurants[item.restaurant_id]
            payable_minor = restaurant.payable(cutoff_at)
            assert item.available_minor == payable_minor
            assert item.retained_minor == min(restaurant.kept_minor, max(payable_minor, 0))
        if named and day < today():
            for item in found:
                item.payout_id = ""
            assert list(planned.items) == found
        else:
            assert bool(planned.items) == bool(named)
        amounts = {name: int(verdict) for name, verdict in expected.items() if verdict.isdecimal()}
        for got in (plan, run):
            assert (got.payouts_created, got.total_amount_minor) == (
                len(amounts),
                sum(amounts.values()),
            )
            skipped = Counter(verdict for verdict in expected.values() if not verdict.isdecimal())
            assert {
                ledger_pb2.SkipReason.Name(part.reason).removeprefix("SKIP_REASON_"): part.count
                for part in got.skipped
            } == skipped
        created = {
            payout.restaurant_id: payout
            for payout in await payouts_of(self.ledger, payout_run_id=run.payout_run_id)
        }
        assert {name: payout.amount_minor for name, payout in created.items()} == amounts
        for name, amount_minor in amounts.items():
            restaurant = self.restaurants[name]
            payout = restaurant.pay(day, cutoff_at, amount_minor)
            request = ledger_pb2.GetPayoutRequest(payout_id=created[name].payout_id)
            payout.got = (await self.ledger.stub.GetPayout(request)).payout
            assert items_of(payout.got) == payout.items
            before = restaurant.payouts[-2].retained_minor if len(restaurant.payouts) > 1 else 0
            assert (payout.got.retained_minor, payout.got.retained_before_minor) == (
                payout.retained_minor,
                before,
            )
            assert sum(payout.items.values()) + before - payout.retained_minor == amount_minor

    async def answer(self) -> None:
        """Books an answer of the bank, right or contradictory, or repeats an earlier one."""
        candidates = [
            (restaurant, payout)
            for restaurant in self.restaurants.values()
            for payout in restaurant.payouts
        ]
        if not candidates:
            return
        # Mostly for a payout in flight.
        open_ = [
            (restaurant, payout) for restaurant, payout in candidates if payout.state in IN_FLIGHT
        ]
        restaurant, payout = self.chance.choice(
            open_ if open_ and self.chance.random() < 0.7 else candidates
        )
        assert payout.got is not None
        if payout.events and self.chance.random() < 0.3:
            (result,) = await self.ledger.ingest(self.chance.choice(payout.events))
            assert result.status == ledger_pb2.INGEST_STATUS_DUPLICATE
            return
        paid = self.chance.random() < 0.5
        kind = ledger_pb2.EVENT_TYPE_PAYOUT_PAID if paid else ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
        event = payout_event(payout.got, kind, **self.said(kind))
        event.occurred_at.FromSeconds(event.occurred_at.seconds + self.chance.randint(0, 2))
        (result,) = await self.ledger.ingest(event)
        moves = {
            ("CREATED", True): "PAID",
            ("CREATED", False): "FAILED",
            ("SUBMITTED", True): "PAID",
            ("SUBMITTED", False): "FAILED",
            ("PAID", False): "RETURNED",
            ("FAILED", True): "RETURNED",
        }
        to = moves.get((payout.state, paid))
        if to is None:
            assert reason_of(result.error) == "PAYOUT_MOVE_NOT_ALLOWED"
            return
        if payout.events:
            paid_event, failed_event = (
                (event, payout.events[0]) if paid else (payout.events[0], event)
            )
            if paid_event.occurred_at.seconds > failed_event.occurred_at.seconds:
                assert reason_of(result.error) == "PAYOUT_ANSWERS_CONTRADICT"
                return
        assert result.status == ledger_pb2.INGEST_STATUS_CREATED
        payout.state = to
        payout.events.append(event)
        payout.bank_reference = event.bank_reference or payout.bank_reference
        if not paid:  # a payment that comes after the failure moves no money
            payout.failure = (event.failure_code, event.failure_text)
            back = "PAYOUT_REVERSAL" if to == "FAILED" else "PAYOUT_RETURN"
            restaurant.moves.append((back, payout.amount_minor, None))
        details = (
            await self.ledger.stub.GetPayout(
                ledger_pb2.GetPayoutRequest(payout_id=payout.got.payout_id)
            )
        ).payout
        assert details.state == STATES[to]
        assert [move.event_id for move in details.history] == [
            "",
            *([f"payout:{details.payout_id}:submitted"] if payout.is_submitted else []),
            *(event.event_id for event in payout.events),
        ]
        assert_told(details, payout)

    def said(self, kind: int) -> dict[str, str]:
        """What the bank says in an event, at random."""
        said = {"bank_reference": unique("trace")}
        if kind == ledger_pb2.EVENT_TYPE_PAYOUT_FAILED:
            said |= {"failure_code": unique("code"), "failure_text": f"devuelto ñ {unique('text')}"}
        return {name: text for name, text in said.items() if self.chance.random() < 0.6}

    async def refer(self) -> None:
        """Books a reference of the bank, in whatever state the payout is."""
        payouts = [payout for each in self.restaurants.values() for payout in each.payouts]
        if not payouts:
            return
        payout = self.chance.choice(payouts)
        assert payout.got is not None
        kind = ledger_pb2.EVENT_TYPE_PAYOUT_REFERENCED
        event = payout_event(payout.got, kind, bank_reference=unique("trace"))
        results = await self.ledger.ingest(event, event)
        if payout.state == "CANCELED":
            assert {reason_of(result.error) for result in results} == {"PAYOUT_MOVE_NOT_ALLOWED"}
            return
        assert [result.status for result in results] == [
            ledger_pb2.INGEST_STATUS_CREATED,
            ledger_pb2.INGEST_STATUS_DUPLICATE,
        ]
        payout.bank_reference = event.bank_reference
        request = ledger_pb2.GetPayoutRequest(payout_id=payout.got.payout_id)
        details = (await self.ledger.stub.GetPayout(request)).payout
        assert details.state == STATES[payout.state]
        assert_told(details, payout)

    async def hand_over(self) -> None:
        """Submits a payout to the bank or cancels it, mostly one that is in flight."""
        candidates = [
            (restaurant, payout)
            for restaurant in self.restaurants.values()
            for payout in restaurant.payouts
        ]
        if not candidates:
            return
        created = [pair for pair in candidates if pair[1].state == "CREATED"]
        restaurant, payout = self.chance.choice(
            created if created and self.chance.random() < 0.7 else candidates
        )
        assert payout.got is not None
        payout_id = payout.got.payout_id
        if self.chance.random() < 0.7:
            state, reason = "SUBMITTED", "PAYOUTS_NOT_SUBMITTABLE"
            call: Awaitable[Any] = self.ledger.stub.SubmitPayouts(
                ledger_pb2.SubmitPayoutsRequest(submission_id=unique("sub"), payout_ids=[payout_id])
            )
        else:
            state, reason = "CANCELED", "PAYOUT_MOVE_NOT_ALLOWED"
            call = self.ledger.stub.CancelPayout(
                ledger_pb2.CancelPayoutRequest(payout_id=payout_id)
            )
        response = await response_or_error(call)
        if payout.state == "CREATED":
            assert isinstance(
                response, ledger_pb2.SubmitPayoutsResponse | ledger_pb2.CancelPayoutResponse
            )
            payout.state = state
            payout.is_submitted = state == "SUBMITTED"
            if state == "CANCELED":
                restaurant.moves.append(("PAYOUT_REVERSAL", payout.amount_minor, None))
        elif (payout.state, state) == ("CANCELED", "CANCELED"):
            assert response.payout.state == STATES["CANCELED"]
        else:
            assert reason_of(response) == reason
        request = ledger_pb2.GetPayoutRequest(payout_id=payout_id)
        details = (await self.ledger.stub.GetPayout(request)).payout
        assert details.state == STATES[payout.state]

    async def compare_balances(self) -> None:
        """Asserts that the server returns the balances of the model."""
        now = datetime.now(UTC)
        for name, restaurant in self.restaurants.items():
            got = await self.ledger.balance(name, self.currency)
            available_minor = sum(restaurant.sums(now).values()) - restaurant.out()
            assert (
                got.available_minor,
                got.pending_minor,
                got.reserved_minor,
                got.disputed_minor,
                got.reserve_held_minor,
            ) == (
                available_minor,
                sum(minor for _, minor, _ in restaurant.moves) - restaurant.out() - available_minor,
                sum(
                    payout.amount_minor
                    for payout in restaurant.payouts
                    if payout.state in IN_FLIGHT
                ),
                restaurant.disputed_minor,
                restaurant.reserve_held_minor,
            )


async def test_random_walks_agree_with_the_model(database: Database, seed: int) -> None:
    """Payouts, items, reasons and balances equal the model's, and the books add up."""
    began = time.monotonic()
    done: Counter[str] = Counter()
    met: set[str] = set()
    async with running_ledger(database) as ledger:

        async def walk(place: int) -> None:
            walking = Walk(ledger, CURRENCIES[place], random.Random(seed + place))
            for _ in range(STEPS):
                # A slow machine takes fewer steps, but walks until it has met all wanted states.
                await walking.step()
                done["steps"] += 1
                met.update(
                    payout.state
                    for restaurant in walking.restaurants.values()
                    for payout in restaurant.payouts
                )
                if time.monotonic() - began > BUDGET_SECONDS and met >= WANTED_STATES:
                    break
            await walking.compare_balances()

        for start in range(0, len(CURRENCIES), 2):
            await asyncio.gather(*(walk(place) for place in range(start, start + 2)))
    print(dict(done), met)  # noqa: T201
    assert met >= WANTED_STATES, "the walks met too little"
    await assert_reconciled(database.migration_url)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(chance=st.randoms(use_true_random=False), steps=st.integers(4, 40))
async def test_any_walk_agrees_with_the_model(
    new_database: Callable[[], Awaitable[Database]], chance: random.Random, steps: int
) -> None:
    """The same, with hypothesis, which searches for the shortest walk that fails."""
    database = await new_database()
    async with running_ledger(database) as ledger:
        walking = Walk(ledger, CURRENCIES[0], chance)
        for _ in range(steps):
            await walking.step()
        await walking.compare_balances()
    await assert_reconciled(database.migration_url)
    await assert_books_in_order(database)
