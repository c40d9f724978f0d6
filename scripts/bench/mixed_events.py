"""Events as restaurants have them: charges, refunds, disputes, adjustments, in batches as bytes."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ledger.v1 import ledger_pb2

CURRENCY = "PEN"
RESTAURANTS = 2_000
BATCH_EVENTS = 1_000
# An event of each place in a hundred; all others are charges. `before` is how many places earlier
# the event stands that it is about: it has that event's restaurant, and its reference.
_HUNDRED = 100
_SEED = 20_261_129
# In the place of an id. As long as one.
_ID_CHARACTERS = 20
_ID = "E" * _ID_CHARACTERS
_ABOUT = "A" * _ID_CHARACTERS
# Amounts of charges, by restaurant: from a lunch to a dinner of ten.
_CHARGE_MINOR = (1_000, 40_000)
_DAYS = 30


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of event: its amount and fee as parts of a charge's, and the entries it posts."""

    type: ledger_pb2.EventType.ValueType
    entries: int
    amount_percent: int
    fee_percent: int = 0
    before: int = 0


_CHARGE = _Kind(ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED, 2, 100, fee_percent=5)
_KINDS = {
    place: _Kind(ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, 1, 30, before=1)
    for place in range(10, _HUNDRED, 10)
} | {
    35: _Kind(ledger_pb2.EVENT_TYPE_DISPUTE_OPENED, 3, 100, fee_percent=10),
    45: _Kind(ledger_pb2.EVENT_TYPE_DISPUTE_WON, 2, 100, before=10),
    55: _Kind(ledger_pb2.EVENT_TYPE_ADJUSTMENT_CREDITED, 1, 20),
    65: _Kind(ledger_pb2.EVENT_TYPE_DISPUTE_OPENED, 3, 100, fee_percent=10),
    75: _Kind(ledger_pb2.EVENT_TYPE_DISPUTE_LOST, 1, 100, before=10),
}
_PLACES = [_KINDS.get(place, _CHARGE) for place in range(_HUNDRED)]

MIX = "86 charges with a fee, 9 refunds, 2 disputes opened with a fee, 1 won, 1 lost, 1 adjustment"


def restaurant(number: int) -> str:
    """The id of a restaurant; number 0 has the most events."""
    return f"res_lima_{number:05d}"


def entries_of(events: int) -> int:
    """How many entries the first `events` events post."""
    hundreds, rest = divmod(events, _HUNDRED)
    return sum(hundreds * kind.entries for kind in _PLACES) + sum(
        kind.entries for kind in _PLACES[:rest]
    )


class MixedEvents:
    """The events in order, the same on every machine; ids are random, as processors' are.

    A restaurant's share is the greater the lower its number: number 0 of 2,000 has 2 % of all
    events, and half of the restaurants have 29 %.
    """

    def __init__(self, events: int) -> None:
        self._left = events
        self._random = random.Random(_SEED)
        now = datetime.now(UTC)
        self._templates = [
            {kind: self._template(kind, number, amount_minor, now) for kind in set(_PLACES)}
            for number in range(RESTAURANTS)
            for amount_minor in [self._random.randint(*_CHARGE_MINOR)]
        ]

    def batches(self) -> Iterator[tuple[bytes, int]]:
        """Requests of BatchIngestEvents, and how many events each has."""
        while self._left:
            events: list[bytes] = []
            while len(events) < min(BATCH_EVENTS, self._left):
                events += self._hundred()
            del events[self._left :]
            self._left -= len(events)
            # Joined protobuf messages are one message with all repeated fields.
            yield b"".join(events), len(events)

    def _hundred(self) -> Sequence[bytes]:
        ids: list[bytes] = []
        restaurants: list[dict[_Kind, bytes]] = []
        found = []
        for place, kind in enumerate(_PLACES):
            ids.append(b"%020x" % self._random.getrandbits(4 * _ID_CHARACTERS))
            about = place - kind.before
            restaurants.append(
                restaurants[about]
                if kind.before
                # Squared: few restaurants have many events.
                else self._templates[int(RESTAURANTS * self._random.random() ** 2)]
            )
            template = restaurants[place][kind]
            found.append(
                template.replace(_ID.encode(), ids[place]).replace(_ABOUT.encode(), ids[about])
            )
        return found

    def _template(self, kind: _Kind, number: int, amount_minor: int, now: datetime) -> bytes:
        """A request with one event."""
        event = ledger_pb2.ProcessorEvent(
            event_id=f"evt_{_ID}",
            type=kind.type,
            restaurant_id=restaurant(number),
            currency=CURRENCY,
            amount_minor=amount_minor * kind.amount_percent // 100,
            fee_minor=amount_minor * kind.fee_percent // 100,
            reference=f"pay_{_ABOUT}",
            metadata={"reservation_id": f"rsv_{_ABOUT}"},
        )
        event.occurred_at.FromDatetime(
            now - timedelta(seconds=self._random.randint(60, _DAYS * 24 * 3600))
        )
        return ledger_pb2.BatchIngestEventsRequest(events=[event]).SerializeToString()
