"""Payouts on PostgreSQL: reading them, and moving them as the bank's answers come in."""

from collections.abc import Collection
from dataclasses import replace
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.events import Posting
from ledger.application.ports.pages import CreationPlace
from ledger.application.ports.payouts import PayoutQuery, StoredSubmission
from ledger.domain.events import EventType, ProcessorEvent
from ledger.domain.payout_states import UNANSWERED_STATES, PayoutState
from ledger.domain.payouts import (
    Payout,
    PayoutAnswer,
    PayoutDetails,
    PayoutEvent,
    PayoutItem,
    SubmissionRequest,
    moves_of,
)
from ledger.domain.posting_rules import EntryType, PostingRule
from ledger.infrastructure.postgres.event_columns import EVENT_COLUMNS, VALUE_OF, listed
from ledger.infrastructure.postgres.payout_submissions import submission_of
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import autocommit
from ledger.infrastructure.postgres.sessions.fence import IS_REPLICATED, Fence

_COLUMNS = """
p.payout_id, p.payout_run_id, a.restaurant_id, a.currency, p.amount_minor, p.as_of, p.cutoff_at,
p.state, p.transaction_id, p.created_at, COALESCE(p.retained_minor, 0) AS retained_minor,
COALESCE(p.retained_before_minor, 0) AS retained_before_minor
"""
# What the events of a payout "p" say, and the submission that has it. Looked up payout by payout,
# in indexes. One event at most is a failure.
_TOLD_COLUMNS = f"""{_COLUMNS}, i.submission_id, told.submitted_at, told.answered_at,
told.bank_reference, told.failure_code, told.failure_text, {IS_REPLICATED}"""
_TOLD = """
LEFT JOIN payout_submission_items AS i ON i.payout_id = p.payout_id
LEFT JOIN LATERAL (
  SELECT max(v.recorded_at) FILTER (WHERE v.type = 'payout_submitted') AS submitted_at,
         max(v.recorded_at) FILTER (WHERE v.type IN ('payout_paid', 'payout_failed'))
           AS answered_at,
         (array_agg(v.bank_reference ORDER BY v.recorded_at DESC, v.event_id DESC)
            FILTER (WHERE v.bank_reference IS NOT NULL))[1] AS bank_reference,
         max(v.failure_code) AS failure_code, max(v.failure_text) AS failure_text
  FROM processor_events AS v
  WHERE v.payout_id = p.payout_id::text
) AS told ON true
"""

SELECT_PAYOUT = f"""
SELECT {_TOLD_COLUMNS}
FROM payouts AS p
JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
{_TOLD}
WHERE p.payout_id = $1
"""

# For a caller that moves the payout: the second of two callers waits here and then sees the state
# that the first one left.
LOCK_PAYOUT = f"""
SELECT {_COLUMNS}
FROM payouts AS p
JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
WHERE p.payout_id = $1
FOR NO KEY UPDATE OF p
"""

SELECT_PAYOUTS = f"""
SELECT {_TOLD_COLUMNS}
FROM payouts AS p
JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
{_TOLD}
WHERE p.payout_id = ANY ($1::uuid[])
ORDER BY p.payout_id
"""

SELECT_ITEMS = """
SELECT entry_type, amount_minor FROM payout_items WHERE payout_id = $1 AND amount_minor <> 0
ORDER BY entry_type
"""

# The events that moved a payout, with what each posted. Not ordered by recorded_at: of two
# transactions, the one that began first need not be the one that moved the payout first. `moves_of`
# puts them in order.
SELECT_PAYOUT_EVENTS = """
SELECT v.type, v.event_id, v.transaction_id, v.recorded_at, e.entry_type, v.bank_reference,
       v.failure_code, v.failure_text
FROM payouts AS p
JOIN processor_events AS v ON v.payout_id = p.payout_id::text
LEFT JOIN ledger_entries AS e
  ON e.balance_account_id = p.balance_account_id AND e.recorded_txid = v.recorded_txid
    AND e.transaction_id = v.transaction_id
WHERE p.payout_id = $1
"""

SELECT_ANSWERS = """
SELECT event_id, type, occurred_at FROM processor_events
WHERE payout_id = $1 AND event_id <> $2 AND type IN ('payout_paid', 'payout_failed')
ORDER BY event_id
"""

# A page of payouts, latest first, after the payout with created_at $1 and id $2. {filters} stands
# for the conditions that the caller gives, so that each combination of them gets a plan. {source}
# is the table in whose order the payouts are read: payouts "p", or the items of submissions "s".
# The events are looked up for the payouts of the page alone.
SELECT_PAGE = f"""
SELECT {_TOLD_COLUMNS}
FROM (
  SELECT p.*, a.restaurant_id, a.currency
  FROM {{source}}
  JOIN balance_accounts AS a ON a.balance_account_id = p.balance_account_id
  WHERE ({{order}}.created_at, {{order}}.payout_id)
        < (COALESCE($1::timestamptz, 'infinity'),
          COALESCE($2::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
    {{filters}}
  ORDER BY {{order}}.created_at DESC, {{order}}.payout_id DESC
  LIMIT $3
) AS p
CROSS JOIN LATERAL (SELECT p.restaurant_id, p.currency) AS a
{_TOLD}
ORDER BY p.created_at DESC, p.payout_id DESC
"""
_OF_ALL = {"source": "payouts AS p", "order": "p"}
_OF_SUBMISSION = {
    "source": "payout_submission_items AS s JOIN payouts AS p ON p.payout_id = s.payout_id",
    "order": "s",
}

SELECT_SUBMISSION = f"""
SELECT payout_run_id, payouts_max, currency, payouts_count, total_minor, left_out, created_at,
       {IS_REPLICATED},
       CASE WHEN payout_run_id IS NULL
            THEN ARRAY(SELECT payout_id FROM payout_submission_items WHERE submission_id = $1)
            ELSE '{{}}' END AS payout_ids
FROM payout_submissions
WHERE submission_id = $1
"""

# Spelled as in the index payouts_in_flight_key, which has these payouts and no others.
_UNANSWERED = ", ".join(f"'{state.value}'" for state in UNANSWERED_STATES)

_PLACEHOLDERS = (
    f"${number}::text::jsonb" if column == "metadata" else f"${number}"
    for number, column in enumerate(EVENT_COLUMNS, start=1)
)

# A payout event. Its entry is posted after the payout has been locked and checked.
INSERT_EVENT = f"""
INSERT INTO processor_events ({listed(EVENT_COLUMNS)})
VALUES ({listed(_PLACEHOLDERS)})
ON CONFLICT (event_id) DO NOTHING
RETURNING event_id
"""

UPDATE_STATE = "UPDATE payouts SET state = $2 WHERE payout_id = $1"

INSERT_ENTRY = """
INSERT INTO ledger_entries (
  balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
  amount_minor, occurred_at, event_id, payout_id)
SELECT balance_account_id, $2, 1, $3, $4, $5, amount_minor, $6, $7, payout_id
FROM payouts
WHERE payout_id = $1
"""


class PostgresPayouts:
    """Implements `ledger.application.ports.payouts.Payouts`."""

    def __init__(self, engine: AsyncEngine, fence: Fence) -> None:
        self._engine = engine
        self._fence = fence

    async def get(self, payout_id: UUID) -> PayoutDetails | None:
        # One database snapshot, so that the state and the history agree.
        async with (
            autocommit(self._engine) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow(SELECT_PAYOUT, payout_id)
            if row is None:
                return None
            items = await connection.fetch(SELECT_ITEMS, payout_id)
            events = await connection.fetch(SELECT_PAYOUT_EVENTS, payout_id)
        await self._fence.wait([row])
        payout = _told(row)
        return PayoutDetails(
            payout,
            [PayoutItem(EntryType(item["entry_type"]), item["amount_minor"]) for item in items],
            moves_of(
                payout,
                [
                    PayoutEvent(
                        EventType(event["type"]),
                        event["event_id"],
                        event["transaction_id"],
                        event["recorded_at"],
                        None if event["entry_type"] is None else EntryType(event["entry_type"]),
                        event["bank_reference"] or "",
                        event["failure_code"] or "",
                        event["failure_text"] or "",
                    )
                    for event in events
                ],
            ),
        )

    async def with_answers(self, event: ProcessorEvent) -> tuple[Payout, list[PayoutAnswer]] | None:
        payout_id = _payout_id(event.payout_id)
        if payout_id is None:
            return None
        async with (
            autocommit(self._engine) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            row = await connection.fetchrow(SELECT_PAYOUT, payout_id)
            if row is None:
                return None
            answers = await connection.fetch(SELECT_ANSWERS, event.payout_id, event.event_id)
        return _payout(row), [_answer(answer) for answer in answers]

    async def page(
        self, query: PayoutQuery, before: CreationPlace | None, limit: int
    ) -> list[Payout]:
        order = _OF_ALL if query.submission_id is None else _OF_SUBMISSION
        # Each state by itself in the statement, so that partial indexes match.
        states = ", ".join(f"'{state.value}'" for state in sorted(query.states))
        filters = {
            "a.restaurant_id = ${}": query.restaurant_id,
            "a.currency = ${}": query.currency,
            "p.payout_run_id = ${}": query.payout_run_id,
            "s.submission_id = ${}": query.submission_id,
            f"{order['order']}.created_at >= ${{}}": query.start_at,
            f"{order['order']}.created_at < ${{}}": query.end_at,
            f"p.state IN ({_UNANSWERED}) AND p.created_at < ${{}}": query.unanswered_since,
        }
        given = [(filter, value) for filter, value in filters.items() if value is not None]
        conditions = [filter.format(number) for number, (filter, _) in enumerate(given, start=4)]
        if states:
            conditions.append(f"p.state IN ({states})")
        statement = SELECT_PAGE.format(
            **order, filters=" ".join(f"AND {condition}" for condition in conditions)
        )
        created_at, payout_id = before or (None, None)
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(
                statement, created_at, payout_id, limit, *[value for _, value in given]
            )
        await self._fence.wait(rows)
        return [_told(row) for row in rows]

    async def submission(self, submission_id: str) -> StoredSubmission | None:
        async with autocommit(self._engine) as connection:
            row = await connection.fetchrow(SELECT_SUBMISSION, submission_id)
        if row is None:
            return None
        await self._fence.wait([row])
        payout_ids = frozenset(row["payout_ids"])
        request = SubmissionRequest(
            submission_id, row["payout_run_id"], payout_ids, row["payouts_max"]
        )
        return StoredSubmission(submission_of(request, row["currency"], row), payout_ids)


class PostgresPayoutSettlement:
    """Implements `ledger.application.ports.payouts.PayoutSettlement` in a unit of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def record(self, posting: Posting, batch_id: UUID) -> bool:
        values = [
            batch_id if column == "batch_id" else VALUE_OF[column](posting)
            for column in EVENT_COLUMNS
        ]
        return await self._connection.fetchval(INSERT_EVENT, *values) is not None

    async def lock(self, payout_id: str) -> Payout | None:
        parsed = _payout_id(payout_id)
        if parsed is None:
            return None
        row = await self._connection.fetchrow(LOCK_PAYOUT, parsed)
        return None if row is None else _payout(row)

    async def answers(self, event: ProcessorEvent) -> list[PayoutAnswer]:
        rows = await self._connection.fetch(SELECT_ANSWERS, event.payout_id, event.event_id)
        return [_answer(row) for row in rows]

    async def move(
        self,
        payout: Payout,
        state: PayoutState,
        rule: PostingRule | None,
        posting: Posting,
    ) -> None:
        await self._connection.execute(UPDATE_STATE, payout.payout_id, state.value)
        if rule is None:
            return
        await self._connection.execute(
            INSERT_ENTRY,
            payout.payout_id,
            posting.transaction_id,
            rule.entry_type.value,
            rule.debit.value,
            rule.credit.value,
            posting.event.occurred_at,
            posting.event.event_id,
        )


def _told(row: Row) -> Payout:
    """The payout, with what its events and its submission say."""
    return replace(
        _payout(row),
        submission_id=row["submission_id"],
        submitted_at=row["submitted_at"],
        answered_at=row["answered_at"],
        bank_reference=row["bank_reference"] or "",
        failure_code=row["failure_code"] or "",
        failure_text=row["failure_text"] or "",
    )


def _payout_id(text: str) -> UUID | None:
    """The id of a payout; None for what cannot be one."""
    try:
        parsed = UUID(text)
    except ValueError:
        return None
    # Other spellings of the same UUID name no payout.
    return parsed if str(parsed) == text else None


def _answer(row: Row) -> PayoutAnswer:
    return PayoutAnswer(row["event_id"], EventType(row["type"]), row["occurred_at"])


def _payout(row: Row) -> Payout:
    return Payout(
        payout_id=row["payout_id"],
        payout_run_id=row["payout_run_id"],
        restaurant_id=row["restaurant_id"],
        currency=row["currency"],
        amount_minor=row["amount_minor"],
        as_of=row["as_of"],
        cutoff_at=row["cutoff_at"],
        state=PayoutState(row["state"]),
        transaction_id=row["transaction_id"],
        created_at=row["created_at"],
        retained_minor=row["retained_minor"],
        retained_before_minor=row["retained_before_minor"],
    )


async def select_payouts(
    connection: Connection, payout_ids: Collection[UUID]
) -> tuple[list[Row], list[Payout]]:
    """The payouts of some ids in their order, and their rows, which a Fence takes."""
    rows = await connection.fetch(SELECT_PAYOUTS, list(payout_ids)) if payout_ids else []
    return rows, [_told(row) for row in rows]
