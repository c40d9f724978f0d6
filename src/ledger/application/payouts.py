"""Returns payouts and payout runs, and cancels a run."""

from uuid import UUID

import structlog

from ledger.application.ports.pages import CreationPlace, Page
from ledger.application.ports.payouts import PayoutQuery, PayoutRunQuery, PayoutRuns, Payouts
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.application.restaurants import get_restaurant
from ledger.domain.payouts import (
    Payout,
    PayoutDetails,
    PayoutRun,
    PayoutRunItem,
    PayoutRunItemOutcome,
    PayoutRunState,
)
from ledger.errors import PayoutNotFound, PayoutRunEnded, PayoutRunNotFound, SubmissionNotFound

_log = structlog.get_logger("ledger.payouts")


async def get_payout_run(runs: PayoutRuns, payout_run_id: UUID) -> PayoutRun:
    """Returns a run with its progress.

    Raises PayoutRunNotFound, DatabaseUnavailable, DatabaseTimeout.
    """
    run = await runs.get(payout_run_id)
    if run is None:
        raise PayoutRunNotFound(str(payout_run_id))
    return run


async def list_payout_runs(
    runs: PayoutRuns, query: PayoutRunQuery, before: CreationPlace | None, page_size: int
) -> Page[PayoutRun, CreationPlace]:
    """Returns a page of runs without progress, latest first."""
    return Page.cut(await runs.page(query, before, page_size + 1), page_size, _place_of_run)


async def cancel_payout_run(runs: PayoutRuns, payout_run_id: UUID) -> PayoutRun:
    """Cancels a run, and returns it once it creates no further payout. A repeat changes nothing.

    Raises PayoutRunNotFound; PayoutRunEnded if it has succeeded; DatabaseUnavailable,
    DatabaseContention, DatabaseTimeout.
    """
    is_canceled = await runs.cancel(payout_run_id)
    run = await get_payout_run(runs, payout_run_id)
    if run.state is not PayoutRunState.CANCELED:
        raise PayoutRunEnded(str(payout_run_id))
    if is_canceled:
        _log.info(
            "payout run canceled",
            payout_run_id=str(payout_run_id),
            currency=run.key.currency,
            payouts_created=run.payouts_created,
            total_amount_minor=run.total_amount_minor,
            restaurants_left=run.restaurants_total - run.restaurants_considered,
        )
    return run


async def list_payout_run_items(
    runs: PayoutRuns,
    payout_run_id: UUID,
    outcome: PayoutRunItemOutcome | None,
    after: str | None,
    page_size: int,
) -> Page[PayoutRunItem, str]:
    """Returns a page of a run's restaurants, in the byte order of their ids.

    Raises PayoutRunNotFound; PayoutRunArchived once its items are in an archive.
    """
    items = await runs.items(payout_run_id, outcome, after or "", page_size + 1)
    if not items:
        await get_payout_run(runs, payout_run_id)
    return Page.cut(items, page_size, lambda item: item.restaurant_id)


async def get_payout(payouts: Payouts, payout_id: UUID) -> PayoutDetails:
    """Returns a payout with its items and its history.

    Raises PayoutNotFound, DatabaseUnavailable, DatabaseTimeout.
    """
    details = await payouts.get(payout_id)
    if details is None:
        raise PayoutNotFound(str(payout_id))
    return details


async def list_payouts(
    payouts: Payouts,
    runs: PayoutRuns,
    begin: UnitOfWorkFactory,
    query: PayoutQuery,
    before: CreationPlace | None,
    page_size: int,
) -> Page[Payout, CreationPlace]:
    """Returns a page of payouts, latest first.

    Raises RestaurantNotFound, PayoutRunNotFound, SubmissionNotFound.
    """
    found = await payouts.page(query, before, page_size + 1)
    if not found:
        if query.restaurant_id is not None:
            await get_restaurant(begin, query.restaurant_id)
        if query.payout_run_id is not None:
            await get_payout_run(runs, query.payout_run_id)
        if query.submission_id is not None:
            submission = await payouts.submission(query.submission_id)
            if submission is None:
                raise SubmissionNotFound(query.submission_id)
    return Page.cut(
        found, page_size, lambda payout: CreationPlace(payout.created_at, payout.payout_id)
    )


def _place_of_run(run: PayoutRun) -> CreationPlace:
    if run.created_at is None or run.payout_run_id is None:
        raise ValueError("a run that is not stored is in no list")
    return CreationPlace(run.created_at, run.payout_run_id)
