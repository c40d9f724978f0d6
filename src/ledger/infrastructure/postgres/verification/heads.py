"""The head of the chain of seals at an instant, for those who keep it elsewhere."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.seals import HeadAt
from ledger.infrastructure.postgres.seals import SEAL_COLUMNS, SEALED_TABLES, TXID, seal_of
from ledger.infrastructure.postgres.sessions.engine import (
    READ_WHOLE_TABLES,
    allow_seconds,
    autocommit,
)
from ledger.infrastructure.postgres.verification.audit import CHECK_TIMEOUT_SECONDS
from ledger.infrastructure.postgres.verification.verifications import sealed_position

_BEFORE = "COALESCE($1::timestamptz, 'infinity')"

# Read back from the latest seal: no index has the times.
SELECT_HEAD = f"""
SELECT {SEAL_COLUMNS} FROM ledger_seals WHERE sealed_at < {_BEFORE}
ORDER BY sequence DESC
LIMIT 1
"""

# How many rows recorded before $1 have a txid at or above $2.
SELECT_UNSEALED = " + ".join(
    f"(SELECT count(*) FROM {table} WHERE {TXID} >= $2 AND recorded_at < {_BEFORE})"
    for table in SEALED_TABLES
)


async def head_at(engine: AsyncEngine, at: datetime | None) -> HeadAt:
    """The head as it was just before the instant, or as it is now.

    Without a seal of the present stay all rows count as unsealed. Writes nothing. Raises
    DatabaseUnavailable, DatabaseTimeout.
    """
    async with (
        autocommit(engine) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await allow_seconds(connection, CHECK_TIMEOUT_SECONDS)
        await connection.execute(READ_WHOLE_TABLES)
        position = await sealed_position(connection)
        row = await connection.fetchrow(SELECT_HEAD, at, timeout=CHECK_TIMEOUT_SECONDS)
        unsealed_count = await connection.fetchval(
            f"SELECT {SELECT_UNSEALED}", at, position.sealed_txid, timeout=CHECK_TIMEOUT_SECONDS
        )
    return HeadAt(None if row is None else seal_of(row, b""), unsealed_count)
