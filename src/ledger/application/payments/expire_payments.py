"""Releases what is held for payments that have expired, in the background.

An operation that finds a payment expired releases it by itself. This is for the others.
"""

from collections.abc import Callable

import uuid_utils.compat

from ledger.application.payments.decide_operations import DecideOperations
from ledger.application.ports.payments import ExpiryPlace, Payments
from ledger.domain.payments import OperationKind, OperationOrder
from ledger.errors import LedgerError
from ledger.repeating import Repeating, ReportFailure

EVERY_SECONDS = 1.0
RETRY_SECONDS_MAX = 60.0
# Payments of one transaction.
PAGE_PAYMENTS = 500


class ExpiryWorker:
    """Looks for expired payments every second, and releases them page by page.

    Any number of servers may do so at once: a payment is locked before it is released, and found
    released by the others.
    """

    def __init__(
        self,
        payments: Payments,
        decide: DecideOperations,
        *,
        on_failure: ReportFailure,
        on_expired: Callable[[int], None] = lambda _payments: None,
    ) -> None:
        """`on_expired` gets how many payments a page has released."""
        self._payments = payments
        self._decide = decide
        self._on_failure = on_failure
        self._on_expired = on_expired
        self._repeating = Repeating(
            "the expiry of payments",
            self._release_expired,
            every_seconds=EVERY_SECONDS,
            retry_seconds_max=RETRY_SECONDS_MAX,
            on_failure=on_failure,
        )

    def start(self) -> None:
        """Starts the work, in a task of the running event loop."""
        self._repeating.start()

    async def stop(self) -> None:
        """Ends the work, and waits for the page under way."""
        await self._repeating.stop()

    async def release(self) -> int:
        """Releases all payments that have expired. Returns how many it has released.

        A page after the other, each once: what the database refuses does not keep those behind it.
        Raises DatabaseUnavailable, DatabaseTimeout.
        """
        released = 0
        place: ExpiryPlace | None = None
        while page := await self._payments.expired(place, PAGE_PAYMENTS):
            place = page[-1]
            outcomes = await self._decide(
                [OperationOrder(None, OperationKind.EXPIRE, each.payment_id) for each in page],
                uuid_utils.compat.uuid7(),
            )
            errors = [error for error in outcomes.values() if isinstance(error, LedgerError)]
            released += len(outcomes) - len(errors)
            self._on_expired(len(outcomes) - len(errors))
            if errors:
                self._on_failure("the expiry of a payment must wait for the database", errors[0])
            if self._repeating.is_stopping:
                break
        return released

    async def _release_expired(self) -> None:
        await self.release()
