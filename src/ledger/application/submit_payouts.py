"""Hands payouts over to the bank: fixes their list under an id, and marks them as submitted."""

import structlog
import uuid_utils.compat

from ledger.application.ports.payouts import Payouts, StoredSubmission
from ledger.application.ports.unit_of_work import UnitOfWork, UnitOfWorkFactory
from ledger.domain.payouts import (
    SUBMISSION_PAYOUTS_MAX,
    PayoutRunState,
    PayoutSubmission,
    SubmissionRequest,
    require_submittable,
)
from ledger.errors import (
    DatabaseContention,
    PayoutNotFound,
    PayoutRunNotFound,
    PayoutRunUnderWay,
    SubmissionIdReused,
)

_log = structlog.get_logger("ledger.payouts")

# For a run of SUBMISSION_PAYOUTS_MAX payouts, which take longer than a call usually does.
SUBMIT_SECONDS = 120
# A second attempt finds what another call has stored under the id while the first one waited.
_ATTEMPTS = 2


async def submit_payouts(
    begin: UnitOfWorkFactory, payouts: Payouts, request: SubmissionRequest
) -> tuple[bool, PayoutSubmission]:
    """Moves the payouts to SUBMITTED and stores their list, all or nothing.

    Returns whether this call did, and the submission. A repeat changes nothing and returns what is
    stored. Raises SubmissionIdReused if that has other contents; PayoutRunNotFound,
    PayoutRunUnderWay, PayoutNotFound, PayoutsNotSubmittable or InvalidRequest, with nothing stored;
    DatabaseUnavailable, DatabaseContention, DatabaseTimeout.
    """
    for _ in range(_ATTEMPTS):
        stored = await payouts.submission(request.submission_id)
        if stored is not None:
            _require_same(stored, request)
            return False, stored.submission
        async with begin() as uow:
            submission = await _submit(uow, request)
            if submission is None:
                continue
            await uow.commit()
        _log.info(
            "payouts submitted",
            submission_id=submission.submission_id,
            payout_run_id=None if request.payout_run_id is None else str(request.payout_run_id),
            currency=submission.currency,
            payouts_count=submission.payouts_count,
            total_amount_minor=submission.total_amount_minor,
        )
        return True, submission
    raise DatabaseContention


async def _submit(uow: UnitOfWork, request: SubmissionRequest) -> PayoutSubmission | None:
    """Stores the submission; None if another call has stored one under the id meanwhile."""
    await uow.submissions.allow_seconds(SUBMIT_SECONDS)
    limit = request.payouts_max or SUBMISSION_PAYOUTS_MAX
    if request.payout_run_id is not None:
        run = await uow.submissions.run(request.payout_run_id)
        if run is None:
            raise PayoutRunNotFound(str(request.payout_run_id))
        currency, state = run
        if state is PayoutRunState.RUNNING:
            raise PayoutRunUnderWay(str(request.payout_run_id))
        await uow.submissions.lock_created(request.payout_run_id, limit)
    else:
        candidates = await uow.submissions.lock_named(request.payout_ids)
        # Another call with the id may have had the locks: then its payouts are its own.
        if await uow.submissions.exists(request.submission_id):
            return None
        missing = request.payout_ids - {each.payout_id for each in candidates}
        if missing:
            raise PayoutNotFound(str(min(missing)))
        currency = require_submittable(candidates)
    return await uow.submissions.add(request, currency, limit, uuid_utils.compat.uuid7())


def _require_same(stored: StoredSubmission, request: SubmissionRequest) -> None:
    compared = {
        "payout_run_id": (stored.submission.payout_run_id, request.payout_run_id),
        "payout_ids": (stored.payout_ids, request.payout_ids),
        "payouts_max": (stored.submission.payouts_max, request.payouts_max),
    }
    differing = [field for field, (before, now) in compared.items() if before != now]
    if differing:
        raise SubmissionIdReused(request.submission_id, differing)
