"""Shows payouts and the runs that created them."""

from datetime import datetime
from uuid import UUID

from ledger.application.ports import PayoutQuery, PayoutRuns, Payouts
from ledger.domain.payouts import Payout, PayoutDetails, PayoutRun, PayoutRunItem, PayoutRunItemOutcome
from ledger.errors import PayoutNotFound, PayoutRunNotFound


async def get_payout_run(runs: PayoutRuns, payout_run_id: UUID) -> PayoutRun:
    """A run with its progress. Raises PayoutRunNotFound, DatabaseUnavailable, DatabaseTimeout."""
    run = await runs.get(payout_run_id)
    if run is None:
        raise PayoutRunNotFound(str(payout_run_id))
    return run


async def list_payout_run_items(
    runs: PayoutRuns, payout_run_id: UUID, outcome: PayoutRunItemOutcome | None, after: str, page_size: int
) -> tuple[list[PayoutRunItem], bool]:
    """A page of a run's restaurants, those after the id `after`, and whether more follow. Raises PayoutRunNotFound."""
    # One more than asked for tells whether more follow.
    items = await runs.items(payout_run_id, outcome, after, page_size + 1)
    if not items:
        await get_payout_run(runs, payout_run_id)
    return items[:page_size], len(items) > page_size


async def get_payout(payouts: Payouts, payout_id: UUID) -> PayoutDetails:
    """A payout with its items and its history. Raises PayoutNotFound, DatabaseUnavailable, DatabaseTimeout."""
    details = await payouts.get(payout_id)
    if details is None:
        raise PayoutNotFound(str(payout_id))
    return details


async def list_payouts(
    payouts: Payouts, query: PayoutQuery, before: tuple[datetime, UUID] | None, page_size: int
) -> tuple[list[Payout], bool]:
    """A page of payouts, latest first, and whether more follow."""
    found = await payouts.page(query, before, page_size + 1)
    return found[:page_size], len(found) > page_size
