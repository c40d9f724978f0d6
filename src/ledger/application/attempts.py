"""How often, and how soon, an attempt to book or to decide is repeated."""

import asyncio
from typing import Any

from ledger.errors import LedgerError
from ledger.jitter import jittered

ATTEMPTS_MAX = 3
BACKOFF_SECONDS = 0.05


def log_broken_off(log: Any, what: str, attempt: int, error: LedgerError) -> None:
    """Logs that an attempt broke off, with what the database said. Attempts count from 1."""
    log.warning(f"{what} broke off", attempt=attempt, cause=repr(error.__cause__ or error))


async def back_off(attempt: int) -> None:
    """Waits before the next attempt, longer after each one."""
    await asyncio.sleep(jittered(BACKOFF_SECONDS * 2**attempt))
