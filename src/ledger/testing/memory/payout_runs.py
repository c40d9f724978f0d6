"""Payout runs in memory."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from uuid import UUID

import uuid_utils
import uuid_utils.compat

from ledger.application.ports.pages import CreationPlace
from ledger.application.ports.payouts import PayoutPage, PayoutRunQuery, Unanswered
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import microseconds
from ledger.domain.money import INT64_MAX, INT64_MIN
from ledger.domain.payout_states import UNANSWERED_STATES, PayoutState
from ledger.domain.payouts import (
    Payout,
    PayoutItem,
    PayoutRun,
    PayoutRunItem,
    PayoutRunItemOutcome,
    PayoutRunKey,
    PayoutRunState,
    SkipReason,
    day_bounds,
)
from ledger.domain.posting_rules import PAYOUT_POSTING_RULES, EntryType
from ledger.errors import FieldViolation, InvalidRequest, RestaurantNotFound, TooManyPayoutRuns
from ledger.testing.memory.books import BookedPayout, BookedRun, Books, Holder
from ledger.zones import settlement_zone

_MICROSECOND = timedelta(microseconds=1)
_OPEN = PayoutRunItemOutcome.OPEN
_PAID = PayoutRunItemOutcome.PAYOUT_CREATED
_SKIPPED = PayoutRunItemOutcome.SKIPPED
# A restaurant has one payout of a date in these states.
_LIVE_STATES = (*UNANSWERED_STATES, PayoutState.PAID)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What a run makes of a balance account, in minor units."""

    skip_reason: SkipReason | None
    counted_minor: dict[EntryType, int]
    payable_minor: int
    retained_minor: int
    latest: BookedPayout | None

    @property
    def amount_minor(self) -> int:
        return self.payable_minor - self.retained_minor


class MemoryPayoutRuns:
    """Implements `ledger.application.ports.payouts.PayoutRuns`. Each page pays a whole run."""

    def __init__(self, books: Books, *, settlement_timezone: str, open_runs_max: int) -> None:
        """`settlement_timezone` is the IANA zone in which a date begins and ends."""
        self._books = books
        self._zone = settlement_zone(settlement_timezone)
        self._open_runs_max = open_runs_max

    async def start(self, key: PayoutRunKey, payout_run_id: UUID) -> PayoutRun:
        stored_key = (
            key.currency,
            key.as_of,
            key.min_amount_minor,
            key.request_id,
            key.restaurant_ids,
        )
        found = self._books.payout_run_ids.get(stored_key)
        if found is not None:
            return self._shown(self._books.payout_runs[found])
        with self._books.transaction():
            now = self._books.recorded_at
            cutoff_at = self._cutoff(key.as_of, now)
            self._refuse_unknown(key)
            running = [
                booked
                for booked in self._books.payout_runs.values()
                if booked.run.state is PayoutRunState.RUNNING
            ]
            if len(running) >= self._open_runs_max:
                raise TooManyPayoutRuns
            items = {
                holder.balance_account_id: PayoutRunItem(
                    holder.restaurant_id or "", _OPEN, None, None, 0
                )
                for holder in self._holders(key)
            }
            # A run that is read names no restaurants.
            run = replace(
                _planned(replace(key, restaurant_ids=()), cutoff_at),
                payout_run_id=payout_run_id,
                state=PayoutRunState.RUNNING,
                created_at=now,
                restaurants_named=len(key.restaurant_ids),
            )
            booked = BookedRun(run, items)
            self._books.payout_runs[payout_run_id] = booked
            self._books.payout_run_ids[stored_key] = payout_run_id
        return self._shown(booked)

    async def plan(self, key: PayoutRunKey) -> PayoutRun:
        now = self._books.clock()
        cutoff_at = self._cutoff(key.as_of, now)
        self._refuse_unknown(key)
        items = []
        for holder in self._holders(key):
            verdict = self._verdict(holder, key, cutoff_at, now)
            items.append(_item(holder, verdict, None))
        items.sort(key=lambda item: item.restaurant_id)
        plan = _with_progress(_planned(key, cutoff_at), items)
        if not key.restaurant_ids:
            return plan
        return replace(plan, restaurants_named=len(key.restaurant_ids), items=items)

    async def get(self, payout_run_id: UUID) -> PayoutRun | None:
        booked = self._books.payout_runs.get(payout_run_id)
        return None if booked is None else self._shown(booked)

    async def items(
        self, payout_run_id: UUID, outcome: PayoutRunItemOutcome | None, after: str, limit: int
    ) -> list[PayoutRunItem]:
        booked = self._books.payout_runs.get(payout_run_id)
        if booked is None:
            return []
        shown = sorted(_shown_items(booked), key=lambda item: item.restaurant_id)
        return [
            item for item in shown if item.restaurant_id > after and outcome in (None, item.outcome)
        ][:limit]

    async def page(
        self, query: PayoutRunQuery, before: CreationPlace | None, limit: int
    ) -> list[PayoutRun]:
        found = [
            (CreationPlace(run.created_at, run.payout_run_id), run)
            for run in (booked.run for booked in self._books.payout_runs.values())
            if run.created_at is not None
            and run.payout_run_id is not None
            and query.currency in (None, run.key.currency)
            and query.state in (None, run.state)
        ]
        found.sort(key=lambda each: each[0], reverse=True)
        return [run for place, run in found if before is None or place < before][:limit]

    async def cancel(self, payout_run_id: UUID) -> bool:
        return self.end(payout_run_id, PayoutRunState.CANCELED)

    async def unanswered(self) -> Unanswered:
        now = self._books.clock()
        ages: defaultdict[tuple[str, PayoutState], list[float]] = defaultdict(list)
        for booked in self._books.payouts.values():
            payout = booked.payout
            if payout.state in UNANSWERED_STATES:
                seconds = (now - payout.created_at).total_seconds()
                ages[payout.currency, payout.state].append(seconds)
        return {kind: (len(seconds), max(seconds)) for kind, seconds in ages.items()}

    async def running(self) -> list[UUID]:
        return [
            payout_run_id
            for payout_run_id, booked in self._books.payout_runs.items()
            if booked.run.state is PayoutRunState.RUNNING
        ]

    async def pay(self, payout_run_id: UUID, limit: int, after: int = 0) -> PayoutPage:
        paid = self.pay_all(payout_run_id)
        amounts = [item.amount_minor for item in paid.values() if item.outcome is _PAID]
        return PayoutPage(list(paid), {}, len(amounts), sum(amounts))

    async def give_up(self, payout_run_id: UUID, balance_account_id: int) -> None:
        raise RuntimeError("the books in memory refuse no payout")

    async def finish(self, payout_run_id: UUID) -> bool:
        return self.end(payout_run_id, PayoutRunState.SUCCEEDED)

    def pay_all(self, payout_run_id: UUID) -> dict[int, PayoutRunItem]:
        """Decides every open item of a run that is under way, by balance account."""
        booked = self._books.payout_runs[payout_run_id]
        if booked.run.state is not PayoutRunState.RUNNING:
            return {}
        closed: dict[int, PayoutRunItem] = {}
        with self._books.transaction():
            now = self._books.recorded_at
            for number, item in sorted(booked.items.items()):
                if item.outcome is _OPEN:
                    holder = self._books.holders[number]
                    verdict = self._verdict(holder, booked.run.key, booked.run.cutoff_at, now)
                    payout_id = None
                    if verdict.skip_reason is None:
                        payout_id = self._create(booked.run, payout_run_id, holder, verdict)
                    closed[number] = _item(holder, verdict, payout_id)
            self._books.payout_runs[payout_run_id] = replace(booked, items=booked.items | closed)
        return closed

    def _create(
        self, run: PayoutRun, payout_run_id: UUID, holder: Holder, verdict: _Verdict
    ) -> UUID:
        """Creates a payout with its items and its reserve, in the transaction under way."""
        payout_id = uuid_utils.compat.uuid7()
        transaction_id = str(uuid_utils.uuid7())
        latest = verdict.latest
        before = {} if latest is None else latest.counted_minor
        new_minor = {
            entry_type: counted - before.get(entry_type, 0)
            for entry_type, counted in sorted(verdict.counted_minor.items())
            if entry_type is not EntryType.PAYOUT_RESERVE
        }
        self._books.payouts[payout_id] = BookedPayout(
            Payout(
                payout_id=payout_id,
                payout_run_id=payout_run_id,
                restaurant_id=holder.restaurant_id or "",
                currency=holder.currency,
                amount_minor=verdict.amount_minor,
                as_of=run.key.as_of,
                cutoff_at=run.cutoff_at,
                state=PayoutState.CREATED,
                transaction_id=UUID(transaction_id),
                created_at=self._books.recorded_at,
                retained_minor=sum(verdict.counted_minor.values()) - verdict.amount_minor,
                retained_before_minor=0 if latest is None else latest.payout.retained_minor,
            ),
            holder.balance_account_id,
            1 if latest is None else latest.sequence + 1,
            self._books.txid,
            verdict.counted_minor,
            tuple(PayoutItem(kind, minor) for kind, minor in new_minor.items() if minor),
        )
        self._books.post(
            holder.balance_account_id,
            transaction_id,
            1,
            PAYOUT_POSTING_RULES[PayoutState.CREATED],
            verdict.amount_minor,
            payout_id=payout_id,
        )
        return payout_id

    def _verdict(
        self, holder: Holder, key: PayoutRunKey, cutoff_at: datetime, now: datetime
    ) -> _Verdict:
        """What a run of `key` makes of a balance account: VERDICT of
        `ledger.infrastructure.postgres.payout_runs`.
        """
        counted: Counter[EntryType] = Counter()
        available_minor = 0
        for booked in self._books.entries_of(holder.balance_account_id):
            if booked.is_on(LedgerAccount.RESTAURANT_PAYABLE):
                minor = booked.minor_on(LedgerAccount.RESTAURANT_PAYABLE)
                if booked.has_matured(microseconds(cutoff_at)):
                    counted[booked.entry.entry_type] += minor
                if booked.has_matured(microseconds(now)):
                    available_minor += minor
        # A refund may have matured since the cut-off.
        payable_minor = min(sum(counted.values()), available_minor)
        profile = self._books.restaurants[holder.restaurant_id or ""].profile
        minimum_minor = profile.min_balance_minor.get(holder.currency, 0)
        retained_minor = min(minimum_minor, max(payable_minor, 0))
        hold = profile.payout_hold
        payouts = [
            booked
            for booked in self._books.payouts.values()
            if booked.balance_account_id == holder.balance_account_id
        ]
        latest = max(payouts, key=lambda booked: booked.sequence, default=None)
        reasons = {
            SkipReason.INACTIVE: not profile.active,
            SkipReason.ON_HOLD: hold is not None and (hold.until is None or hold.until > now),
            SkipReason.PAYOUT_IN_FLIGHT: any(
                booked.payout.state in UNANSWERED_STATES for booked in payouts
            ),
            SkipReason.ALREADY_PAID: any(
                booked.payout.state in _LIVE_STATES and booked.payout.as_of == key.as_of
                for booked in payouts
            ),
            SkipReason.CUTOFF_BEFORE_LATEST_PAYOUT: latest is not None
            and latest.payout.cutoff_at > cutoff_at,
            SkipReason.NOTHING_AVAILABLE: payable_minor < 1,
            SkipReason.BELOW_MINIMUM: payable_minor < key.min_amount_minor,
            SkipReason.MIN_BALANCE: minimum_minor > 0
            and payable_minor - retained_minor < max(key.min_amount_minor, 1),
        }
        skip_reason = next((reason for reason in SkipReason if reasons.get(reason)), None)
        return _Verdict(skip_reason, dict(counted), payable_minor, retained_minor, latest)

    def _holders(self, key: PayoutRunKey) -> list[Holder]:
        """The balance accounts of the restaurants that a run of `key` started now would have."""
        return [
            holder
            for holder in self._books.holders.values()
            if holder.restaurant_id is not None
            and holder.currency == key.currency
            and (not key.restaurant_ids or holder.restaurant_id in key.restaurant_ids)
        ]

    def _cutoff(self, as_of: date, now: datetime) -> datetime:
        begin, end = day_bounds(as_of, self._zone)
        if begin > now:
            raise InvalidRequest([FieldViolation("as_of", "must not be in the future")])
        return min(end - _MICROSECOND, now)

    def _refuse_unknown(self, key: PayoutRunKey) -> None:
        unknown = [each for each in key.restaurant_ids if each not in self._books.restaurants]
        if unknown:
            raise RestaurantNotFound(*sorted(unknown))

    def end(self, payout_run_id: UUID, state: PayoutRunState) -> bool:
        """Ends a run that is under way; returns whether it was."""
        booked = self._books.payout_runs.get(payout_run_id)
        if booked is None or booked.run.state is not PayoutRunState.RUNNING:
            return False
        with self._books.transaction():
            ended = replace(booked.run, state=state, finished_at=self._books.recorded_at)
            self._books.payout_runs[payout_run_id] = replace(booked, run=ended)
        return True

    @staticmethod
    def _shown(booked: BookedRun) -> PayoutRun:
        return _with_progress(booked.run, _shown_items(booked))


def _planned(key: PayoutRunKey, cutoff_at: datetime) -> PayoutRun:
    return PayoutRun(
        payout_run_id=None,
        key=key,
        cutoff_at=cutoff_at,
        state=PayoutRunState.PLANNED,
        payouts_created=0,
        total_amount_minor=0,
        restaurants_considered=0,
        restaurants_total=0,
        skipped={},
        created_at=None,
        finished_at=None,
    )


def _item(holder: Holder, verdict: _Verdict, payout_id: UUID | None) -> PayoutRunItem:
    is_paid = verdict.skip_reason is None
    return PayoutRunItem(
        restaurant_id=holder.restaurant_id or "",
        outcome=_PAID if is_paid else _SKIPPED,
        skip_reason=verdict.skip_reason,
        payout_id=payout_id,
        amount_minor=verdict.amount_minor if is_paid else 0,
        # A sum that does not fit the contract keeps no restaurant from being skipped.
        available_minor=min(max(verdict.payable_minor, INT64_MIN), INT64_MAX),
        retained_minor=verdict.retained_minor,
    )


def _shown_items(booked: BookedRun) -> list[PayoutRunItem]:
    """The items as callers see them: what a canceled run had not looked at was skipped."""
    if booked.run.state is not PayoutRunState.CANCELED:
        return list(booked.items.values())
    return [
        replace(item, outcome=_SKIPPED, skip_reason=SkipReason.CANCELED)
        if item.outcome is _OPEN
        else item
        for item in booked.items.values()
    ]


def _with_progress(run: PayoutRun, items: Sequence[PayoutRunItem]) -> PayoutRun:
    # What a canceled run had not looked at is skipped, and was not considered.
    not_considered = [
        item for item in items if item.outcome is _OPEN or item.skip_reason is SkipReason.CANCELED
    ]
    skipped = Counter(item.skip_reason for item in items if item.skip_reason is not None)
    return replace(
        run,
        payouts_created=sum(item.outcome is _PAID for item in items),
        total_amount_minor=sum(item.amount_minor for item in items),
        restaurants_considered=len(items) - len(not_considered),
        restaurants_total=len(items),
        skipped=dict(sorted(skipped.items(), key=_by_name)),
    )


def _by_name(counted: tuple[SkipReason, int]) -> tuple[bool, str]:
    """The order of reasons in a run: by name, and last what a canceled run had not looked at."""
    return counted[0] is SkipReason.CANCELED, counted[0].value
