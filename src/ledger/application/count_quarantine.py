"""Counts what is open in the quarantine, in the background, for metrics."""

from collections.abc import Callable

from ledger.application.ports.quarantine import OpenPayloads, Quarantine
from ledger.repeating import Repeating, ReportFailure

EVERY_SECONDS = 15.0
RETRY_SECONDS_MAX = 300.0


class QuarantineCounter:
    """Counts the open payloads every 15 seconds, which reads one index, and reports them."""

    def __init__(
        self,
        quarantine: Quarantine,
        *,
        on_counted: Callable[[OpenPayloads], None],
        on_failure: ReportFailure,
    ) -> None:
        self._quarantine = quarantine
        self._on_counted = on_counted
        self._repeating = Repeating(
            "the count of the quarantine",
            self._count,
            every_seconds=EVERY_SECONDS,
            retry_seconds_max=RETRY_SECONDS_MAX,
            on_failure=on_failure,
        )

    def start(self) -> None:
        """Starts the work, in a task of the running event loop."""
        self._repeating.start()

    async def stop(self) -> None:
        """Ends the work, and waits for the count under way."""
        await self._repeating.stop()

    async def _count(self) -> None:
        self._on_counted(await self._quarantine.open())
