"""The keys of page tokens on PostgreSQL."""

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.infrastructure.postgres.sessions.engine import autocommit

# More keys than a rotation needs. Every invalid token costs a hash for each key.
KEYS_MAX = 8

SELECT_KEYS = """
SELECT secret FROM page_token_keys ORDER BY created_at DESC, page_token_key_id DESC LIMIT $1
"""


class PostgresPageTokenKeys:
    """Implements `ledger.application.ports.page_tokens.PageTokenKeys`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def newest_first(self) -> list[bytes]:
        async with autocommit(self._engine) as connection:
            return [row["secret"] for row in await connection.fetch(SELECT_KEYS, KEYS_MAX)]
