"""Replays deliveries on demand: those of the quarantine, and payloads from files."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ledger.gateway.allowances import Allowance
from ledger.gateway.booking import Problem, Route, Trial, book, receive
from ledger.gateway.books import RemoteBooks
from ledger.gateway.deliveries import Delivery
from ledger.gateway.retries import TRY_SECONDS, delivery_of, try_again

# How long a list of the quarantine may take.
LIST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a delivery, or would become of it.

    `outcome` is a value of Outcome, or `released`; or `skipped`, for a delivery of an endpoint that
    the file does not have, or that was settled meanwhile.
    """

    name: str
    endpoint: str
    outcome: str
    event_ids: Sequence[str] = ()
    problem: Problem | None = None

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do."""
        return self.problem is None and self.outcome != "skipped"


async def replay_quarantined(
    routes: Mapping[str, Route],
    books: RemoteBooks,
    quarantine_ids: Sequence[str],
    *,
    is_dry: bool,
    give_up_after: timedelta,
) -> AsyncIterator[Replayed]:
    """Tries payloads of the quarantine by the file as it is now, one after the other.

    A dry run books nothing and moves nothing: `books` must be PreviewBooks. Raises LedgerError.
    """
    for quarantine_id in quarantine_ids:
        payload = await books.payload(quarantine_id, _allowance())
        route = routes.get(payload.endpoint)
        if route is None:
            yield Replayed(quarantine_id, payload.endpoint, "skipped")
        elif is_dry:
            trial = await book(route, delivery_of(payload), books, _allowance())
            yield _replayed(quarantine_id, payload.endpoint, trial, trial.outcome.value)
        else:
            await books.request_retry(quarantine_id, _allowance())
            payload = await books.payload(quarantine_id, _allowance())
            tried = await try_again(route, payload, books, books, give_up_after=give_up_after)
            yield (
                Replayed(quarantine_id, payload.endpoint, "skipped")
                if tried is None
                else _replayed(quarantine_id, payload.endpoint, tried.trial, tried.outcome)
            )


async def replay_files(
    route: Route, books: RemoteBooks, deliveries: Sequence[tuple[str, Delivery]], *, is_dry: bool
) -> AsyncIterator[Replayed]:
    """Books payloads from files as if they had been posted, without looking at signatures.

    Raises LedgerError.
    """
    for name, delivery in deliveries:
        take = book if is_dry else receive
        trial = await take(route, delivery, books, _allowance())
        yield _replayed(name, route.endpoint.name, trial, trial.outcome.value)


async def open_ids(books: RemoteBooks, *, endpoint: str, reason: str) -> list[str]:
    """The ids of the open payloads that the filters leave, oldest first."""
    allowance = Allowance.of(f"replay-{secrets.token_hex(8)}", LIST_SECONDS)
    return [
        payload.quarantine_id for payload in await books.open_payloads(endpoint, reason, allowance)
    ]


def _replayed(name: str, endpoint: str, trial: Trial, outcome: str) -> Replayed:
    return Replayed(name, endpoint, outcome, tuple(trial.event_ids), trial.problem)


def _allowance() -> Allowance:
    return Allowance.of(f"replay-{secrets.token_hex(8)}", TRY_SECONDS)
