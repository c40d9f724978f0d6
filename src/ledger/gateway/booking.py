"""Books what a delivery reports, or puts the delivery into the quarantine.

A delivery is answered once all that it reports is booked, needs no booking, or the delivery itself
is stored in the ledger. Booking it again, from whatever point, changes nothing: events are booked
once by their ids, deliveries are quarantined once by their contents.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum

import grpc
import structlog

from ledger.client import LedgerError, Unavailable
from ledger.domain.quarantine import CREDENTIAL_HEADERS
from ledger.gateway.allowances import Allowance
from ledger.gateway.books import BookedFacts, Books
from ledger.gateway.deliveries import (
    Delivery,
    Fact,
    FetchFailed,
    Ignored,
    Processor,
    Reading,
    Unbookable,
)
from ledger.gateway.endpoints import EndpointBase
from ledger.gateway.events import (
    CHARGE,
    CHARGE_REVERSED,
    PAYOUT_TYPES,
    PLATFORM_TYPES,
    event_of,
    kind_of,
    passed_on,
    printable_text,
    within_limits,
)
from ledger.gateway.fees import commission_minor, returned_commission_minor
from ledger.gateway.reasons import (
    CHARGE_NOT_FOUND,
    FETCH_FAILED,
    GATEWAY_DEFECT,
    PAYOUT_NOT_FOUND,
    PAYOUT_OF_ANOTHER,
    REVERSAL_MISMATCH,
    UNKNOWN_RESTAURANT,
    CannotBook,
)
from ledger.gateway.restaurants import named_by, restaurant_of
from ledger.v1 import ledger_pb2

# What the quarantine keeps of a text; the contract has the limits.
DETAIL_LENGTH_MAX = 1000
KIND_LENGTH_MAX = 200

# How long a parked delivery waits before it is tried first. Later waits grow with its age.
FIRST_RETRY = timedelta(seconds=30)
# How often the same delivery is kept again after it was released. Then it must come again later.
REPEATS_MAX = 20

_RELEASED = ledger_pb2.QUARANTINE_STATE_RELEASED

_log = structlog.get_logger("ledger.gateway")

_Code = grpc.StatusCode
# No repeat of the delivery would be booked: the event is not what the ledger takes.
_UNBOOKABLE_CODES = frozenset(
    {
        _Code.INVALID_ARGUMENT,
        _Code.FAILED_PRECONDITION,
        _Code.NOT_FOUND,
        _Code.OUT_OF_RANGE,
        _Code.ALREADY_EXISTS,
    }
)


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint that takes deliveries."""

    endpoint: EndpointBase
    # The value of `processor` in the file.
    processor_name: str
    processor: Processor
    # Whether it asks its processor's API, so that a delivery may take longer.
    fetches: bool = False


class Outcome(Enum):
    """What became of a delivery, the most telling part first."""

    QUARANTINED = "quarantined"
    PARKED = "parked"
    BOOKED = "booked"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a delivery, or a part of it, is not booked."""

    kind: str
    reason: str
    detail: str
    may_come: bool = False
    retry_after_seconds: float | None = None


@dataclass(slots=True)
class Trial:
    """What a try to book a delivery has led to."""

    # Booked now or before.
    event_ids: list[str] = field(default_factory=list)
    created: list[ledger_pb2.ProcessorEvent] = field(default_factory=list)
    duplicates: int = 0
    ignored: list[Ignored] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def problem(self) -> Problem | None:
        """All problems as one; it is parked only if nothing else keeps it from being booked."""
        if not self.problems:
            return None
        first = min(self.problems, key=lambda problem: problem.may_come)
        alike = Counter((problem.reason, problem.detail) for problem in self.problems)
        details = "; ".join(
            detail if reason == first.reason else f"{reason}: {detail}" for reason, detail in alike
        )
        return Problem(
            printable_text(first.kind, KIND_LENGTH_MAX),
            first.reason,
            printable_text(details, DETAIL_LENGTH_MAX),
            first.may_come,
            first.retry_after_seconds,
        )

    @property
    def outcome(self) -> Outcome:
        """What became of the delivery."""
        if (problem := self.problem) is not None:
            return Outcome.PARKED if problem.may_come else Outcome.QUARANTINED
        if self.created:
            return Outcome.BOOKED
        return Outcome.DUPLICATE if self.duplicates else Outcome.IGNORED


async def receive(route: Route, delivery: Delivery, books: Books, allowance: Allowance) -> Trial:
    """Books a verified delivery, and puts it into the quarantine if it cannot be booked.

    Raises LedgerError if the ledger cannot do either now; then the delivery must come again.
    """
    trial = await book(route, delivery, books, allowance)
    if (problem := trial.problem) is not None:
        await _keep(route, _payload(route, delivery, problem), books, allowance)
    return trial


async def _keep(
    route: Route,
    request: ledger_pb2.QuarantinePayloadRequest,
    books: Books,
    allowance: Allowance,
) -> None:
    """Puts a delivery into the quarantine, once for as long as it is open there.

    Where it only says what to fetch, one that was released may report something new when it comes
    again. The quarantine knows it by its contents, so its query then names the one before.
    """
    query = request.query
    for _ in range(REPEATS_MAX):
        response = await books.quarantine(request, allowance)
        is_kept = response.status != ledger_pb2.QUARANTINE_STATUS_DUPLICATE
        if is_kept or not route.fetches or response.payload.state != _RELEASED:
            return
        again = f"again={response.payload.quarantine_id}"
        request.query = f"{query}&{again}" if query else again
    raise Unavailable("it was released too often", code=_Code.UNAVAILABLE)


async def book(route: Route, delivery: Delivery, books: Books, allowance: Allowance) -> Trial:
    """Books what a delivery reports, as far as it can be. Raises LedgerError as `receive` does."""
    trial = Trial()
    try:
        readings = await route.processor.read(delivery)
        await _book_readings(route, readings, books, allowance, trial)
    except FetchFailed as failure:
        trial.problems.append(
            Problem(
                "",
                FETCH_FAILED,
                str(failure),
                True,
                retry_after_seconds=failure.retry_after_seconds,
            )
        )
        await _book_readings(route, failure.readings, books, allowance, trial)
    except LedgerError:
        raise
    except Exception as error:  # noqa: BLE001  # a defect must not stall the processor's queue
        # It comes again with the same bytes: what it takes to find and mend it is kept.
        _log.error("a delivery met a defect", request_id=allowance.request_id, exc_info=error)
        detail = f"{type(error).__name__}: see the gateway's log of {allowance.request_id}"
        trial.problems.append(Problem("", GATEWAY_DEFECT, detail))
    return trial


async def _book_readings(
    route: Route, readings: Sequence[Reading], books: Books, allowance: Allowance, trial: Trial
) -> None:
    for reading in readings:
        if isinstance(reading, Ignored):
            trial.ignored.append(reading)
        elif isinstance(reading, Unbookable):
            trial.problems.append(Problem(reading.kind, reading.reason, reading.detail))
        else:
            kind = kind_of(reading.type)
            try:
                for event in await events_of(route.endpoint, reading, books, allowance):
                    await _ingest(
                        event, _may_differ(route.endpoint, reading), books, allowance, trial
                    )
            except CannotBook as refusal:
                trial.problems.append(
                    Problem(kind, refusal.reason, refusal.detail, refusal.may_come)
                )


async def events_of(
    endpoint: EndpointBase, fact: Fact, books: BookedFacts, allowance: Allowance
) -> list[ledger_pb2.ProcessorEvent]:
    """The events to book for a fact: one, or two if a fee is passed on. Raises CannotBook."""
    charge: ledger_pb2.ProcessorEvent | None = None
    if fact.type == CHARGE_REVERSED and fact.reverses:
        charge = await _reversed_charge(endpoint, fact, books, allowance)
    if charge is not None:
        # Where the charge was booked, whatever the mapping says by now.
        restaurant_id = charge.restaurant_id
    else:
        restaurant_id = await _restaurant(endpoint, fact, books, allowance)
    event = event_of(
        fact,
        restaurant_id=restaurant_id,
        fee_minor=_fee_minor(endpoint, fact, charge),
        endpoint=endpoint.name,
    )
    if endpoint.fees.commission == "pass_through" and (borne := passed_on(event)) is not None:
        return [event, borne]
    return [event]


def _fee_minor(endpoint: EndpointBase, fact: Fact, charge: ledger_pb2.ProcessorEvent | None) -> int:
    if fact.type == CHARGE:
        return commission_minor(endpoint.fees, fact)
    if charge is not None:
        return returned_commission_minor(fact.amount_minor, charge.amount_minor, charge.fee_minor)
    return fact.dispute_fee_minor


async def _reversed_charge(
    endpoint: EndpointBase, fact: Fact, books: BookedFacts, allowance: Allowance
) -> ledger_pb2.ProcessorEvent | None:
    """The charge that a fact takes back; None if it is not booked and can have no commission."""
    charge = await books.event(fact.reverses, allowance)
    if charge is None:
        if endpoint.fees.commission == "none":
            return None
        raise CannotBook(
            CHARGE_NOT_FOUND,
            f"the charge {fact.reverses[:128]!r} is not booked; its commission goes back with it",
            may_come=True,
        )
    if charge.type != CHARGE or charge.currency != fact.currency:
        raise CannotBook(
            REVERSAL_MISMATCH, f"{fact.reverses!r} is booked as no charge in {fact.currency[:16]}"
        )
    if not 0 < fact.amount_minor <= charge.amount_minor:
        raise CannotBook(
            REVERSAL_MISMATCH,
            f"{fact.amount_minor} cannot be taken back of a charge of {charge.amount_minor}",
        )
    return charge


async def _restaurant(
    endpoint: EndpointBase, fact: Fact, books: BookedFacts, allowance: Allowance
) -> str:
    """The restaurant of a fact; empty for the platform's own. Raises CannotBook."""
    if fact.of_platform or fact.type in PLATFORM_TYPES:
        return ""
    if fact.type in PAYOUT_TYPES:
        # The payout knows best, and what the processor calls the restaurant may be missing.
        paid = await books.restaurant_of_payout(fact.payout_id, allowance)
        if paid is None:
            raise CannotBook(
                PAYOUT_NOT_FOUND, f"there is no payout {fact.payout_id[:128]!r}", may_come=True
            )
        if (
            fact.said_by_owner
            and endpoint.restaurant.by == "account"
            and restaurant_of(fact, endpoint.restaurant) != paid
        ):
            raise CannotBook(
                PAYOUT_OF_ANOTHER,
                f"the account {fact.owner.account[:128]!r} names a payout of another restaurant:"
                f" {fact.payout_id[:128]!r}",
            )
        return paid
    if restaurant_id := restaurant_of(fact, endpoint.restaurant):
        return restaurant_id
    if not fact.charge:
        raise CannotBook(UNKNOWN_RESTAURANT, f"the delivery has no {named_by(endpoint.restaurant)}")
    charge = await books.event(fact.charge, allowance)
    if charge is None:
        raise CannotBook(
            CHARGE_NOT_FOUND,
            f"the delivery has no {named_by(endpoint.restaurant)}, and its charge"
            f" {fact.charge[:128]!r} is not booked",
            may_come=True,
        )
    return charge.restaurant_id


async def _ingest(
    event: ledger_pb2.ProcessorEvent,
    may_differ: frozenset[str],
    books: Books,
    allowance: Allowance,
    trial: Trial,
) -> None:
    try:
        response = await books.ingest(event, allowance)
    except LedgerError as error:
        if error.code not in _UNBOOKABLE_CODES:
            raise
        if not _stands_as_booked(error, may_differ):
            raise CannotBook(
                error.reason or error.code.name,
                _in_words(event, error),
                may_come=error.reason == PAYOUT_NOT_FOUND,
            ) from error
    else:
        if response.status == ledger_pb2.INGEST_STATUS_CREATED:
            trial.event_ids.append(event.event_id)
            trial.created.append(event)
            return
    trial.event_ids.append(event.event_id)
    trial.duplicates += 1


def _may_differ(endpoint: EndpointBase, fact: Fact) -> frozenset[str]:
    """The fields of a booked event that a later report of the fact may tell otherwise."""
    # A rate that was changed holds for charges from then on. A dispute's fee is the processor's.
    by_rate = endpoint.fees.commission == "rate" and fact.type == CHARGE
    return fact.may_change | {"fee_minor"} if by_rate else fact.may_change


def _stands_as_booked(error: LedgerError, may_differ: frozenset[str]) -> bool:
    """Whether the event is booked, and differs from this one in nothing that matters."""
    if error.code is not _Code.ALREADY_EXISTS:
        return False
    differing = set(error.metadata.get("differing_fields", "").split(","))
    return bool(differing) and differing <= may_differ


def _in_words(event: ledger_pb2.ProcessorEvent, error: LedgerError) -> str:
    wrong = "; ".join(f"{found.field}: {found.description}" for found in error.violations)
    return f"event {event.event_id}: {wrong or error.message}"


def _payload(
    route: Route, delivery: Delivery, problem: Problem
) -> ledger_pb2.QuarantinePayloadRequest:
    request = ledger_pb2.QuarantinePayloadRequest(
        endpoint=route.endpoint.name,
        processor=route.processor_name,
        kind=problem.kind,
        body=delivery.body,
        # What the ledger would refuse is left out: the body is what counts.
        headers=within_limits(
            {
                name: value
                for name, value in delivery.headers.items()
                if name in route.endpoint.kept_headers and name not in CREDENTIAL_HEADERS
            }
        ),
        query=delivery.query,
        reason=problem.reason,
        detail=problem.detail,
    )
    request.received_at.FromDatetime(delivery.received_at)
    if problem.may_come:
        request.retry_at.FromDatetime(first_retry_at(delivery.received_at, problem))
    return request


def first_retry_at(now: datetime, problem: Problem) -> datetime:
    """When a parked delivery is tried first."""
    return now.astimezone(UTC) + max(
        FIRST_RETRY, timedelta(seconds=problem.retry_after_seconds or 0.0)
    )
