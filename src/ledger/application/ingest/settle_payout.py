"""Books a payout event: a payout was submitted or canceled, or the bank paid it, refused it,
returned it after it was paid, or named its reference.
"""

from uuid import UUID

import structlog

from ledger.application.ports.events import Posting
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.payout_states import UNANSWERED_STATES
from ledger.domain.payouts import settle
from ledger.errors import PayoutNotFound

_log = structlog.get_logger("ledger.payouts")


async def settle_payout(
    begin: UnitOfWorkFactory,
    posting: Posting,
    batch_id: UUID,
) -> bool:
    """Stores a payout event, moves its payout and posts the move, all or nothing.

    Returns False, with nothing done, if an event with the id is stored already.

    Raises PayoutNotFound, PayoutMismatch, PayoutMoveNotAllowed, PayoutAnswersContradict,
    DataRejected or QueryRefused, with nothing stored; DatabaseUnavailable, DatabaseContention,
    DatabaseTimeout.
    """
    event = posting.event
    async with begin() as uow:
        # The event first: a stored one is a duplicate or a conflict, whatever the payout's state.
        if not await uow.settlement.record(posting, batch_id):
            return False
        payout = await uow.settlement.lock(event.payout_id)
        if payout is None:
            raise PayoutNotFound(event.payout_id)
        answers = [] if payout.state in UNANSWERED_STATES else await uow.settlement.answers(event)
        state, rule = settle(payout, event, answers)
        if state is not payout.state:
            await uow.settlement.move(payout, state, rule, posting)
        await uow.commit()
    if state is payout.state:
        return True
    _log.info(
        "payout moved",
        payout_id=event.payout_id,
        restaurant_id=payout.restaurant_id,
        amount_minor=payout.amount_minor,
        currency=payout.currency,
        state=state.value,
        event_id=event.event_id,
    )
    return True
