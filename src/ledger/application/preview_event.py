"""Returns what booking an event would do, and writes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ledger.application.ingest.event_batch import IngestStatus
from ledger.application.ports.events import EventLedger, StoredEntry
from ledger.application.ports.payouts import Payouts
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.events import (
    PAYOUT_EVENT_TYPES,
    ProcessorEvent,
    differing_fields,
    fingerprint,
)
from ledger.domain.payout_states import UNANSWERED_STATES, PayoutState
from ledger.domain.payouts import settle
from ledger.domain.posting_rules import Amount, PostingRule, rules_of
from ledger.domain.restaurants import UnknownRestaurants
from ledger.errors import EventIdReused, PayoutNotFound, RestaurantNotFound

_DAY = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class PreviewedEntry:
    """An entry that an event would post, in minor units. `available_at` is None: at once."""

    rule: PostingRule
    amount_minor: int
    available_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventPreview:
    """What IngestEvent would do. `stored_entries` and `transaction_id` are those of a duplicate;
    `payout_state` is the state to which the event would move its payout.
    """

    status: IngestStatus
    entries: Sequence[PreviewedEntry] = ()
    stored_entries: Sequence[StoredEntry] = ()
    transaction_id: str = ""
    payout_state: PayoutState | None = None
    registers_restaurant: bool = False


class PreviewEvent:
    """The use case of PreviewEvent. It decides in the order in which ingest does."""

    def __init__(
        self,
        ledger: EventLedger,
        payouts: Payouts,
        begin: UnitOfWorkFactory,
        *,
        unknown_restaurants: UnknownRestaurants,
        maturity_days: int,
    ) -> None:
        """`maturity_days` is for restaurants that set none."""
        self._ledger = ledger
        self._payouts = payouts
        self._begin = begin
        self._register = unknown_restaurants is UnknownRestaurants.REGISTER
        self._maturity_days = maturity_days

    async def __call__(self, event: ProcessorEvent) -> EventPreview:
        """Raises what booking the event would: EventIdReused, RestaurantNotFound, PayoutNotFound,
        PayoutMismatch, PayoutMoveNotAllowed, PayoutAnswersContradict; DatabaseUnavailable,
        DatabaseTimeout.
        """
        stored = (await self._ledger.stored([event.event_id], once_safe=True)).get(event.event_id)
        if stored is not None:
            if stored.fingerprint != fingerprint(event):
                raise EventIdReused(event.event_id, differing_fields(stored.event, event))
            return EventPreview(
                IngestStatus.DUPLICATE,
                stored_entries=await self._ledger.entries(stored),
                transaction_id=stored.transaction_id,
            )
        if event.type in PAYOUT_EVENT_TYPES:
            return await self._payout_move(event)
        days, is_known = await self._maturity(event)
        return EventPreview(
            IngestStatus.CREATED, _entries(event, days), registers_restaurant=not is_known
        )

    async def _payout_move(self, event: ProcessorEvent) -> EventPreview:
        found = await self._payouts.with_answers(event)
        if found is None:
            raise PayoutNotFound(event.payout_id)
        payout, answers = found
        state, rule = settle(payout, event, [] if payout.state in UNANSWERED_STATES else answers)
        entries = (
            ()
            if rule is None or state is payout.state
            else (PreviewedEntry(rule, event.amount_minor, None),)
        )
        return EventPreview(IngestStatus.CREATED, entries, payout_state=state)

    async def _maturity(self, event: ProcessorEvent) -> tuple[int, bool]:
        """The maturity days of the event's restaurant, and whether it is known. The platform's
        entries do not mature.
        """
        if not event.restaurant_id:
            return 0, True
        async with self._begin() as uow:
            restaurant = await uow.restaurants.get(event.restaurant_id)
        if restaurant is None:
            if not self._register:
                raise RestaurantNotFound(event.restaurant_id)
            return self._maturity_days, False
        days = restaurant.profile.maturity_days
        return self._maturity_days if days is None else days, True


def _entries(event: ProcessorEvent, days: int) -> list[PreviewedEntry]:
    amounts = {
        Amount.AMOUNT: event.amount_minor,
        Amount.FEE: event.fee_minor,
        Amount.PROCESSOR_FEE: event.processor_fee_minor,
    }
    rules = rules_of(
        event.type,
        has_fee=event.fee_minor > 0,
        has_processor_fee=event.processor_fee_minor > 0,
    )
    return [
        PreviewedEntry(rule, amounts[rule.amount], _available_at(event, rule, days))
        for rule in rules
    ]


def _available_at(event: ProcessorEvent, rule: PostingRule, days: int) -> datetime | None:
    if event.available_at is not None:
        return event.available_at if rule.takes_available_at else None
    return event.occurred_at + days * _DAY if rule.matures and days else None
