"""Cancels a payout that was not submitted to the bank."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import uuid_utils
import uuid_utils.compat

from ledger.application.ingest.settle_payout import settle_payout
from ledger.application.payouts import get_payout
from ledger.application.ports.events import Posting
from ledger.application.ports.payouts import Payouts
from ledger.application.ports.unit_of_work import UnitOfWorkFactory
from ledger.domain.events import EventType, ProcessorEvent, fingerprint
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import PayoutDetails
from ledger.errors import DatabaseContention


async def cancel_payout(
    begin: UnitOfWorkFactory, payouts: Payouts, payout_id: UUID, clock: Callable[[], datetime]
) -> PayoutDetails:
    """Moves a payout from CREATED to CANCELED, by an event that the service makes.

    Returns the payout. A repeat changes nothing. Raises PayoutNotFound, and PayoutMoveNotAllowed
    when it was submitted or the bank has answered; DatabaseUnavailable, DatabaseContention,
    DatabaseTimeout.
    """
    event_id = f"payout:{payout_id}:canceled"
    # A caller may have sent another event under the first id. No caller knows the second one.
    for candidate_id in (event_id, f"{event_id}:{uuid_utils.uuid7()}"):
        details = await get_payout(payouts, payout_id)
        payout = details.payout
        if payout.state is PayoutState.CANCELED:
            return details
        event = ProcessorEvent(
            event_id=candidate_id,
            type=EventType.PAYOUT_CANCELED,
            restaurant_id=payout.restaurant_id,
            currency=payout.currency,
            amount_minor=payout.amount_minor,
            fee_minor=0,
            occurred_at=clock(),
            payout_id=str(payout_id),
            reference="",
            metadata={},
        )
        posting = Posting(event, fingerprint(event), str(uuid_utils.uuid7()))
        if await settle_payout(begin, posting, uuid_utils.compat.uuid7()):
            return await get_payout(payouts, payout_id)
    raise DatabaseContention
