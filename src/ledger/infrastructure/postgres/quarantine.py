"""The quarantine on PostgreSQL. A payload's row has its state; its moves are rows of their own."""

import json
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.pages import CreationPlace
from ledger.application.ports.quarantine import (
    OpenPayloads,
    QuarantineCount,
    QuarantineQuery,
    QuarantineSummary,
    RetrySelection,
)
from ledger.domain.quarantine import (
    COUNTS_MAX,
    MOVES_MAX,
    OPEN_STATES,
    RETRYABLE_STATES,
    Decision,
    NewPayload,
    QuarantinedPayload,
    QuarantineMove,
    QuarantineState,
)
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.fence import IS_REPLICATED, Fence


def _listed(states: Iterable[QuarantineState]) -> str:
    """States by themselves in a statement, so that partial indexes match."""
    return ", ".join(f"'{state.value}'" for state in states)


# Spelled as in the index quarantined_payloads_open_idx, which has these payloads and no others.
_IS_OPEN = f"p.state IN ({_listed(OPEN_STATES)})"
_IS_RETRYABLE = f"p.state IN ({_listed(RETRYABLE_STATES)})"

# The length of a body is known without reading it.
_COLUMNS = """
p.quarantine_id, p.endpoint, p.processor, p.kind, octet_length(p.body) AS body_size_bytes,
p.headers, p.query, p.received_at, p.created_at, p.state, p.move_number, p.reason, p.detail,
p.retry_at
"""
_STANDING = f"{_COLUMNS}, m.recorded_at AS moved_at, {IS_REPLICATED}"
_LATEST_MOVE = """
JOIN quarantine_moves AS m ON m.quarantine_id = p.quarantine_id AND m.number = p.move_number
"""

# Stores a payload with its first move, both or neither; returns no row if the delivery is stored.
# The unique key decides: the insert waits for another transaction that stores the same delivery.
INSERT_PAYLOAD = f"""
WITH p AS (
  INSERT INTO quarantined_payloads (quarantine_id, endpoint, processor, kind, body, headers, query,
    received_at, state, move_number, reason, detail, retry_at)
  VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9, 1, $10, $11, $12)
  ON CONFLICT (endpoint, body_sha256, query) DO NOTHING
  RETURNING *
),
moved AS (
  INSERT INTO quarantine_moves (quarantine_id, number, state, reason, detail, event_ids, retry_at,
    actor)
  SELECT quarantine_id, 1, state, reason, detail, '{{}}', retry_at, $13 FROM p
)
SELECT {_COLUMNS}, p.created_at AS moved_at FROM p
"""

SELECT_OF_DELIVERY = f"""
SELECT {_STANDING}
FROM quarantined_payloads AS p
{_LATEST_MOVE}
WHERE p.endpoint = $1 AND p.body_sha256 = $2 AND p.query = $3
"""

SELECT_PAYLOAD = f"""
SELECT {{body}}{_STANDING}
FROM quarantined_payloads AS p
{_LATEST_MOVE}
WHERE p.quarantine_id = $1
"""
SELECT_STANDING = SELECT_PAYLOAD.format(body="")
SELECT_WITH_BODY = SELECT_PAYLOAD.format(body="p.body, ")

_MOVE_COLUMNS = """
m.number, m.state, m.reason, m.detail, m.event_ids, m.retry_at, m.actor, m.recorded_at
"""

SELECT_MOVES = f"""
SELECT {_MOVE_COLUMNS} FROM quarantine_moves AS m
WHERE m.quarantine_id = $1
ORDER BY m.number DESC
LIMIT $2
"""

# A page of payloads after the place of $1 and $2, in the order of {order} and {direction}.
# {filters} stands for the conditions that the caller gives, so that each combination gets a plan.
SELECT_PAGE = f"""
SELECT {{body}}{_STANDING}
FROM (
  SELECT p.*
  FROM quarantined_payloads AS p
  WHERE (p.{{order}}, p.quarantine_id) {{after}} (COALESCE($1::timestamptz, '{{outermost}}'),
      COALESCE($2::uuid, '{{outermost_id}}'))
    {{filters}}
  ORDER BY p.{{order}} {{direction}}, p.quarantine_id {{direction}}
  LIMIT $3
) AS p
{_LATEST_MOVE}
ORDER BY p.{{order}} {{direction}}, p.quarantine_id {{direction}}
"""
_ASCENDING = {
    "after": ">",
    "direction": "ASC",
    "outermost": "-infinity",
    "outermost_id": "00000000-0000-0000-0000-000000000000",
}
_DESCENDING = {
    "after": "<",
    "direction": "DESC",
    "outermost": "infinity",
    "outermost_id": "ffffffff-ffff-ffff-ffff-ffffffffffff",
}

# The index of open payloads has all of these columns.
SELECT_SUMMARY = f"""
SELECT endpoint, state, reason, payloads, oldest_created_at,
       (sum(payloads) OVER ())::bigint AS open_payloads,
       min(oldest_created_at) OVER () AS oldest_of_all
FROM (
  SELECT p.endpoint, p.state, p.reason, count(*) AS payloads,
         min(p.created_at) AS oldest_created_at
  FROM quarantined_payloads AS p
  WHERE {_IS_OPEN} AND ($1::text IS NULL OR p.endpoint = $1)
  GROUP BY p.endpoint, p.state, p.reason
) AS counted
ORDER BY payloads DESC, endpoint, state, reason
LIMIT $2
"""

SELECT_KNOWN = (
    "SELECT quarantine_id FROM quarantined_payloads WHERE quarantine_id = ANY ($1::uuid[])"
)

_SELECTED = f"""
FROM quarantined_payloads AS p
WHERE {_IS_RETRYABLE} {{filters}}
"""
_CHOSEN = f"""
SELECT p.quarantine_id, p.created_at
{_SELECTED}
ORDER BY p.created_at, p.quarantine_id
LIMIT $1
"""
COUNT_RETRYABLE = f"SELECT count(*) {_SELECTED}"

# All callers lock in the order of creation, so that two of them do not deadlock. A payload that
# another transaction has moved meanwhile falls out.
REQUEST_RETRIES = f"""
WITH chosen AS MATERIALIZED ({_CHOSEN} FOR NO KEY UPDATE),
moved AS (
  UPDATE quarantined_payloads AS p
  SET state = '{QuarantineState.RETRY_REQUESTED}', move_number = p.move_number + 1,
      retry_at = recorded_now()
  FROM chosen AS c
  WHERE p.quarantine_id = c.quarantine_id
  RETURNING p.quarantine_id, p.created_at, p.move_number, p.state, p.retry_at
),
recorded AS (
  INSERT INTO quarantine_moves (quarantine_id, number, state, reason, detail, event_ids, retry_at,
    actor)
  SELECT quarantine_id, move_number, state, '', '', '{{{{}}}}', retry_at, $2 FROM moved
)
SELECT quarantine_id FROM moved ORDER BY created_at, quarantine_id
"""

LOCK_PAYLOAD = """
SELECT state, move_number FROM quarantined_payloads WHERE quarantine_id = $1 FOR NO KEY UPDATE
"""

# A separate statement, which sees what was committed before the lock was there.
SELECT_MOVE = f"""
SELECT {_MOVE_COLUMNS} FROM quarantine_moves AS m WHERE m.quarantine_id = $1 AND m.number = $2
"""

SELECT_MISSING_EVENTS = """
SELECT wanted.event_id
FROM unnest($1::text[]) AS wanted (event_id)
WHERE NOT EXISTS (SELECT FROM processor_events AS v WHERE v.event_id = wanted.event_id)
ORDER BY wanted.event_id COLLATE "C"
"""

# An empty reason leaves the payload's reason and detail as they are: it is of the latest try.
MOVE = """
WITH moved AS (
  UPDATE quarantined_payloads AS p
  SET state = $3, move_number = $2,
      reason = CASE WHEN $4 = '' THEN p.reason ELSE $4 END,
      detail = CASE WHEN $4 = '' THEN p.detail ELSE $5 END,
      retry_at = $7
  WHERE p.quarantine_id = $1 AND p.move_number = $2 - 1
  RETURNING p.quarantine_id
)
INSERT INTO quarantine_moves (quarantine_id, number, state, reason, detail, event_ids, retry_at,
  actor)
SELECT quarantine_id, $2, $3, $4, $5, $6, $7, $8 FROM moved
"""

# For the metrics, from the index of open payloads alone.
SELECT_OPEN = f"""
SELECT p.state, count(*) AS payloads,
       extract(epoch FROM now() - min(p.created_at))::float8 AS oldest_seconds
FROM quarantined_payloads AS p
WHERE {_IS_OPEN}
GROUP BY p.state
"""


class PostgresQuarantine:
    """Implements `ledger.application.ports.quarantine.Quarantine`."""

    def __init__(self, engine: AsyncEngine, fence: Fence) -> None:
        self._engine = engine
        self._fence = fence

    async def add(
        self, payload: NewPayload, quarantine_id: UUID, actor: str
    ) -> QuarantinedPayload | None:
        async with autocommit(self._engine) as connection:
            row = await connection.fetchrow(
                INSERT_PAYLOAD,
                quarantine_id,
                payload.endpoint,
                payload.processor,
                payload.kind,
                payload.body,
                json.dumps(dict(payload.headers)),
                payload.query,
                payload.received_at,
                payload.state.value,
                payload.reason,
                payload.detail,
                payload.retry_at,
                actor,
            )
        return None if row is None else _payload(row)

    async def find(self, endpoint: str, body: bytes, query: str) -> QuarantinedPayload | None:
        return await self._one(SELECT_OF_DELIVERY, endpoint, sha256(body).digest(), query)

    async def standing(self, quarantine_id: UUID) -> QuarantinedPayload | None:
        return await self._one(SELECT_STANDING, quarantine_id)

    async def get(
        self, quarantine_id: UUID
    ) -> tuple[QuarantinedPayload, Sequence[QuarantineMove]] | None:
        # One database snapshot, so that the state and the moves agree.
        async with (
            autocommit(self._engine) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow(SELECT_WITH_BODY, quarantine_id)
            if row is None:
                return None
            moves = await connection.fetch(SELECT_MOVES, quarantine_id, MOVES_MAX)
        await self._fence.wait([row])
        return _payload(row, row["body"]), [_move(move) for move in reversed(moves)]

    async def page(
        self,
        query: QuarantineQuery,
        after: CreationPlace | None,
        limit: int,
        *,
        with_bodies: bool,
    ) -> list[QuarantinedPayload]:
        is_ascending = query.oldest_first or query.due_at is not None
        filters, values = _filters(
            {
                "p.endpoint = ${}": query.endpoint,
                "p.processor = ${}": query.processor,
                "p.reason = ${}": query.reason,
                "p.created_at < ${}": query.end_at,
                "p.retry_at < ${}": query.due_at,
            },
            first=4,
        )
        if query.states:
            filters += f" AND p.state IN ({_listed(sorted(query.states))})"
        statement = SELECT_PAGE.format(
            body="p.body, " if with_bodies else "",
            order="created_at" if query.due_at is None else "retry_at",
            filters=filters,
            **(_ASCENDING if is_ascending else _DESCENDING),
        )
        instant, identifier = after or (None, None)
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(statement, instant, identifier, limit, *values)
        await self._fence.wait(rows)
        return [_payload(row, row["body"] if with_bodies else None) for row in rows]

    async def summary(self, endpoint: str | None) -> QuarantineSummary:
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(SELECT_SUMMARY, endpoint, COUNTS_MAX)
        counts = [
            QuarantineCount(
                row["endpoint"],
                QuarantineState(row["state"]),
                row["reason"],
                row["payloads"],
                row["oldest_created_at"],
            )
            for row in rows
        ]
        counts.sort(key=lambda count: (count.endpoint, count.state, count.reason))
        if not rows:
            return QuarantineSummary([], 0, None)
        return QuarantineSummary(counts, rows[0]["open_payloads"], rows[0]["oldest_of_all"])

    async def known(self, quarantine_ids: Collection[UUID]) -> frozenset[UUID]:
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(SELECT_KNOWN, list(quarantine_ids))
        return frozenset(row["quarantine_id"] for row in rows)

    async def request_retries(
        self, selection: RetrySelection, limit: int, actor: str
    ) -> Sequence[UUID]:
        filters, values = _selected(selection, first=3)
        statement = REQUEST_RETRIES.format(filters=filters)
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(statement, limit, actor, *values)
        return [row["quarantine_id"] for row in rows]

    async def retryable(self, selection: RetrySelection, limit: int) -> Sequence[UUID]:
        filters, values = _selected(selection, first=2)
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(_CHOSEN.format(filters=filters), limit, *values)
        return [row["quarantine_id"] for row in rows]

    async def count_retryable(self, selection: RetrySelection) -> int:
        filters, values = _selected(selection, first=1)
        async with autocommit(self._engine) as connection:
            count: int = await connection.fetchval(COUNT_RETRYABLE.format(filters=filters), *values)
        return count

    async def open(self) -> OpenPayloads:
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(SELECT_OPEN)
        return {
            QuarantineState(row["state"]): (row["payloads"], row["oldest_seconds"]) for row in rows
        }

    async def _one(self, statement: str, *arguments: object) -> QuarantinedPayload | None:
        async with autocommit(self._engine) as connection:
            row = await connection.fetchrow(statement, *arguments)
        if row is None:
            return None
        await self._fence.wait([row])
        return _payload(row)


class PostgresQuarantineMoves:
    """Implements `ledger.application.ports.quarantine.QuarantineMoves` in a unit of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lock(self, quarantine_id: UUID) -> tuple[QuarantineState, QuarantineMove] | None:
        row = await self._connection.fetchrow(LOCK_PAYLOAD, quarantine_id)
        if row is None:
            return None
        (latest,) = await self._connection.fetch(SELECT_MOVE, quarantine_id, row["move_number"])
        return QuarantineState(row["state"]), _move(latest)

    async def missing_events(self, event_ids: Collection[str]) -> list[str]:
        if not event_ids:
            return []
        rows = await self._connection.fetch(SELECT_MISSING_EVENTS, list(event_ids))
        return [row["event_id"] for row in rows]

    async def move(self, quarantine_id: UUID, number: int, decision: Decision, actor: str) -> None:
        await self._connection.execute(
            MOVE,
            quarantine_id,
            number,
            decision.state.value,
            decision.reason,
            decision.detail,
            list(decision.event_ids),
            decision.retry_at,
            actor,
        )


def _filters(given: dict[str, object], *, first: int) -> tuple[str, list[object]]:
    """The conditions whose value is given, and the values, whose numbers begin with `first`."""
    kept = [(condition, value) for condition, value in given.items() if value is not None]
    conditions = [
        f"AND {condition.format(number)}" for number, (condition, _) in enumerate(kept, first)
    ]
    return " ".join(conditions), [value for _, value in kept]


def _selected(selection: RetrySelection, *, first: int) -> tuple[str, list[object]]:
    return _filters(
        {
            "p.quarantine_id = ANY (${}::uuid[])": list(selection.quarantine_ids) or None,
            "p.endpoint = ${}": selection.endpoint,
            "p.reason = ${}": selection.reason,
        },
        first=first,
    )


def _payload(row: Row, body: bytes | None = None) -> QuarantinedPayload:
    return QuarantinedPayload(
        quarantine_id=row["quarantine_id"],
        endpoint=row["endpoint"],
        processor=row["processor"],
        kind=row["kind"],
        body=body,
        body_size_bytes=row["body_size_bytes"],
        headers=row["headers"],
        query=row["query"],
        received_at=row["received_at"],
        created_at=row["created_at"],
        state=QuarantineState(row["state"]),
        move_number=row["move_number"],
        reason=row["reason"],
        detail=row["detail"],
        retry_at=row["retry_at"],
        moved_at=row["moved_at"],
    )


def _move(row: Row) -> QuarantineMove:
    return QuarantineMove(
        row["number"],
        Decision(
            QuarantineState(row["state"]),
            row["reason"],
            row["detail"],
            tuple(row["event_ids"]),
            row["retry_at"],
        ),
        row["actor"],
        row["recorded_at"],
    )
