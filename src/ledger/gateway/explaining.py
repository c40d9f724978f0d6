"""Explains what a delivery would become, without the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger.gateway.allowances import Allowance
from ledger.gateway.booking import Problem, Route, events_of
from ledger.gateway.deliveries import (
    Delivery,
    FetchFailed,
    Ignored,
    Processor,
    Reading,
    ReadsResources,
    SignatureRefused,
    Unbookable,
)
from ledger.gateway.events import kind_of
from ledger.gateway.reasons import FETCH_FAILED, CannotBook
from ledger.v1 import ledger_pb2


@dataclass(slots=True)
class Explanation:
    """What a delivery would become, in the order of its parts."""

    # The secret that signed it; or why the signature is refused, which is not empty then.
    secret: str = ""
    refusal: str = ""
    parts: list["ledger_pb2.ProcessorEvent | Ignored | Problem | DependsOnLedger"] = field(
        default_factory=list
    )

    @property
    def is_booked_whole(self) -> bool:
        """Whether nothing of it would be quarantined or parked, as far as can be told."""
        return not any(isinstance(part, Problem) for part in self.parts)


@dataclass(frozen=True, slots=True)
class DependsOnLedger:
    """A fact whose event depends on what the ledger holds, for example on the charge it undoes."""

    event_id: str
    kind: str
    amount_minor: int
    currency: str
    on: str


class _Unknown(Exception):
    """What the explanation would have to ask the ledger for."""


class _NoBooks:
    """Books that know nothing, and say what they were asked for."""

    async def event(self, event_id: str, allowance: Allowance) -> ledger_pb2.ProcessorEvent | None:  # noqa: ARG002
        raise _Unknown(f"the charge {event_id}")

    async def restaurant_of_payout(self, payout_id: str, allowance: Allowance) -> str | None:  # noqa: ARG002
        raise _Unknown(f"the payout {payout_id}")


async def explain(route: Route, delivery: Delivery, *, is_signed: bool) -> Explanation:
    """What the delivery would become. `is_signed`: it came with headers, so look at the signature.

    What the processor's API has to tell is fetched, if the endpoint fetches; nothing else is sent.
    """
    explanation = Explanation()
    if is_signed:
        try:
            explanation.secret = route.processor.verify(delivery)
        except SignatureRefused as refusal:
            explanation.refusal = str(refusal)
    try:
        readings = await _read(route.processor, delivery, is_signed)
    except FetchFailed as failure:
        explanation.parts.append(Problem("", FETCH_FAILED, str(failure), True))
        readings = failure.readings
    for reading in readings:
        if isinstance(reading, Ignored):
            explanation.parts.append(reading)
        elif isinstance(reading, Unbookable):
            explanation.parts.append(Problem(reading.kind, reading.reason, reading.detail))
        else:
            kind = kind_of(reading.type)
            try:
                explanation.parts += await events_of(
                    route.endpoint, reading, _NoBooks(), Allowance.of("check", 1.0)
                )
            except CannotBook as refusal:
                explanation.parts.append(
                    Problem(kind, refusal.reason, refusal.detail, refusal.may_come)
                )
            except _Unknown as unknown:
                explanation.parts.append(
                    DependsOnLedger(
                        reading.event_id, kind, reading.amount_minor, reading.currency, str(unknown)
                    )
                )
    return explanation


async def _read(processor: Processor, delivery: Delivery, is_signed: bool) -> Sequence[Reading]:
    """A file may also hold the resource that a delivery would have made the gateway fetch."""
    if isinstance(processor, ReadsResources) and not is_signed and not delivery.query:
        found = processor.read_resource(delivery.body)
        if found is not None:
            return found
    return await processor.read(delivery)
