"""Submissions of payouts on PostgreSQL. However many payouts there are, they are moved by sets."""

from collections.abc import Collection
from uuid import UUID

from ledger.domain.events import EventType
from ledger.domain.payout_states import PayoutState
from ledger.domain.payouts import (
    PayoutRunState,
    PayoutSubmission,
    SubmissionCandidate,
    SubmissionRequest,
)
from ledger.infrastructure.postgres.payout_runs import WAIT_FOR_PAGES
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import allow_seconds

SELECT_RUN = "SELECT currency, state FROM payout_runs WHERE payout_run_id = $1"

# Sorted, so that two submissions that share payouts do not deadlock. A payout that another
# transaction has moved meanwhile falls out of the first statement.
_LOCKED = """
SELECT p.payout_id
FROM payouts AS p
WHERE p.payout_run_id = $1 AND p.state = 'CREATED'
ORDER BY p.payout_id
LIMIT $2
FOR NO KEY UPDATE
"""
LOCK_CREATED = f"SELECT count(*) FROM ({_LOCKED}) AS locked"

LOCK_NAMED = """
SELECT p.payout_id, a.currency, p.state
FROM payouts AS p
JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
WHERE p.payout_id = ANY ($1::uuid[])
ORDER BY p.payout_id
FOR NO KEY UPDATE OF p
"""

EXISTS = "SELECT 1 FROM payout_submissions WHERE submission_id = $1"

# Stores the submission with id $1, and for each of its payouts the event that moves it, the move
# and its place in the list; nothing at all if the id is stored. {chosen} stands for the condition
# on the payouts "p", which have been locked: no other transaction can move them, and a run that has
# ended gets no further ones, so these are the payouts that were locked.
#
# The event id follows from the payout; if a caller has sent another event under it, it ends in the
# transaction id, which no caller knows. The fingerprint is that of ledger.domain.events, over the
# same text; the audit recomputes it. In the order of event ids, as every writer of events.
INSERT_SUBMISSION = f"""
WITH chosen AS MATERIALIZED (
  SELECT p.payout_id, p.created_at, p.amount_minor, a.restaurant_id, a.currency,
         gen_random_uuid() AS transaction_id, ledger_now() AS occurred_at
  FROM payouts AS p
  JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
  WHERE {{chosen}} AND p.state = '{PayoutState.CREATED}'
  ORDER BY p.payout_id
  LIMIT $6
),
left_out AS (
  SELECT s.state, s.payouts_count - (s.state = '{PayoutState.CREATED}')::integer
                                    * (SELECT count(*) FROM chosen) AS payouts_count
  FROM (
    SELECT state, count(*) AS payouts_count FROM payouts WHERE payout_run_id = $2 GROUP BY state
  ) AS s
),
submission AS (
  INSERT INTO payout_submissions (submission_id, payout_run_id, payouts_max, currency,
    payouts_count, total_minor, left_out)
  SELECT $1::text, $2::uuid, $3::integer, $4::text, count(*), COALESCE(sum(amount_minor), 0),
         COALESCE((SELECT jsonb_object_agg(state, payouts_count) FROM left_out
                   WHERE payouts_count > 0), '{{{{}}}}')
  FROM chosen
  ON CONFLICT (submission_id) DO NOTHING
  RETURNING submission_id, payouts_count, total_minor, left_out, created_at
),
told AS (
  INSERT INTO processor_events (event_id, fingerprint, transaction_id, batch_id, type,
    restaurant_id, currency, amount_minor, fee_minor, occurred_at, payout_id, reference)
  SELECT id.event_id,
         sha256(convert_to(concat_ws(E'\\n', '1', '{EventType.PAYOUT_SUBMITTED}', c.restaurant_id,
           c.currency, c.amount_minor, 0, trim_scale(extract(epoch FROM c.occurred_at) * 1000000),
           c.payout_id, s.submission_id), 'UTF8')),
         c.transaction_id, $5::uuid, '{EventType.PAYOUT_SUBMITTED}', c.restaurant_id, c.currency,
         c.amount_minor, 0, c.occurred_at, c.payout_id::text, s.submission_id
  FROM chosen AS c
  CROSS JOIN submission AS s
  CROSS JOIN LATERAL (SELECT 'payout:' || c.payout_id || ':submitted' AS event_id) AS given
  LEFT JOIN LATERAL (
    SELECT true AS found FROM processor_events AS v WHERE v.event_id = given.event_id LIMIT 1
  ) AS taken ON true
  CROSS JOIN LATERAL (
    SELECT given.event_id || CASE WHEN taken.found THEN ':' || c.transaction_id ELSE '' END
             AS event_id
  ) AS id
  ORDER BY id.event_id COLLATE "C"
),
listed AS (
  INSERT INTO payout_submission_items (payout_id, submission_id, created_at)
  SELECT c.payout_id, s.submission_id, c.created_at FROM chosen AS c CROSS JOIN submission AS s
),
moved AS (
  UPDATE payouts AS p
  SET state = '{PayoutState.SUBMITTED}'
  FROM chosen AS c
  CROSS JOIN submission AS s
  WHERE p.payout_id = c.payout_id
)
SELECT payouts_count, total_minor, left_out, created_at FROM submission
"""
INSERT_OF_RUN = INSERT_SUBMISSION.format(chosen="p.payout_run_id = $2 AND $7::uuid[] IS NULL")
INSERT_NAMED = INSERT_SUBMISSION.format(chosen="p.payout_id = ANY ($7::uuid[])")


class PostgresPayoutSubmissions:
    """Implements `ledger.application.ports.payouts.PayoutSubmissions` in a unit of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def allow_seconds(self, seconds: int) -> None:
        await allow_seconds(self._connection, seconds)

    async def run(self, payout_run_id: UUID) -> tuple[str, PayoutRunState] | None:
        row = await self._connection.fetchrow(SELECT_RUN, payout_run_id)
        if row is None:
            return None
        state = PayoutRunState(row["state"])
        # Pages that were being committed when the run was canceled are part of it.
        if state is PayoutRunState.CANCELED:
            await self._connection.fetchval(WAIT_FOR_PAGES, payout_run_id)
        return row["currency"], state

    async def lock_created(self, payout_run_id: UUID, limit: int) -> None:
        await self._connection.fetchval(LOCK_CREATED, payout_run_id, limit)

    async def lock_named(self, payout_ids: Collection[UUID]) -> list[SubmissionCandidate]:
        rows = await self._connection.fetch(LOCK_NAMED, list(payout_ids))
        return [
            SubmissionCandidate(row["payout_id"], row["currency"], PayoutState(row["state"]))
            for row in rows
        ]

    async def exists(self, submission_id: str) -> bool:
        return await self._connection.fetchval(EXISTS, submission_id) is not None

    async def add(
        self, request: SubmissionRequest, currency: str, limit: int, batch_id: UUID
    ) -> PayoutSubmission | None:
        is_of_run = request.payout_run_id is not None
        row = await self._connection.fetchrow(
            INSERT_OF_RUN if is_of_run else INSERT_NAMED,
            request.submission_id,
            request.payout_run_id,
            request.payouts_max,
            currency,
            batch_id,
            limit,
            None if is_of_run else list(request.payout_ids),
        )
        return None if row is None else submission_of(request, currency, row)


def submission_of(request: SubmissionRequest, currency: str, row: Row) -> PayoutSubmission:
    """The submission of a row that has what the request does not say."""
    return PayoutSubmission(
        submission_id=request.submission_id,
        payout_run_id=request.payout_run_id,
        payouts_max=request.payouts_max,
        currency=currency,
        payouts_count=row["payouts_count"],
        total_amount_minor=int(row["total_minor"]),
        left_out={
            PayoutState(state): count for state, count in sorted(dict(row["left_out"]).items())
        },
        created_at=row["created_at"],
    )
