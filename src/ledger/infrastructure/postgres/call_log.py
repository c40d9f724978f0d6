"""The call log on PostgreSQL: the table audit_log."""

import json
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.call_log import RecordedCall
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.errors import refusals

# Idempotent: a retry after a lost response adds no second row.
INSERT_CALLS = """
INSERT INTO audit_log (audit_id, identity, credential, method, request_id, peer, what, outcome)
SELECT c.audit_id, c.identity, c.credential, c.method, c.request_id, c.peer, c.what::jsonb,
       c.outcome
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
  $8::text[])
  AS c (audit_id, identity, credential, method, request_id, peer, what, outcome)
ON CONFLICT (audit_id) DO NOTHING
"""


class PostgresCallLog:
    """Implements `ledger.application.ports.call_log.CallLogTable`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def insert(self, calls: Sequence[RecordedCall]) -> None:
        with refusals():
            async with autocommit(self._engine) as connection:
                await connection.execute(
                    INSERT_CALLS,
                    [call.audit_id for call in calls],
                    [call.identity for call in calls],
                    [call.credential for call in calls],
                    [call.method for call in calls],
                    [call.request_id for call in calls],
                    [call.peer for call in calls],
                    [json.dumps(call.what) for call in calls],
                    [call.outcome for call in calls],
                )
