"""How often, and how soon, an attempt to book is repeated."""

import asyncio

import structlog

from ledger.errors import LedgerError
from ledger.jitter import jittered

_log = structlog.get_logger("ledger.ingest")

ATTEMPTS_MAX = 3
BACKOFF_SECONDS = 0.05


def log_broken_off(attempt: int, error: LedgerError) -> None:
    """Logs that an attempt broke off, with what the database said. Attempts count from 1."""
    _log.warning(
        "an attempt to book broke off", attempt=attempt, cause=repr(error.__cause__ or error)
    )


async def back_off(attempt: int) -> None:
    """Waits before the next attempt, longer after each one."""
    await asyncio.sleep(jittered(BACKOFF_SECONDS * 2**attempt))
