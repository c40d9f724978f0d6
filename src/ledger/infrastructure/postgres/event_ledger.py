"""The append-only books on PostgreSQL: events, their entries, and the balance accounts."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from ledger.application.ports.events import Posting, StoredEntry, StoredEvent
from ledger.domain.balances import BalanceAccount
from ledger.domain.chart_of_accounts import LedgerAccount
from ledger.domain.events import EVENT_FIELDS, LATER_DEFAULTS, microseconds
from ledger.domain.posting_rules import EVENT_POSTING_RULES, Amount, EntryType, rules_of
from ledger.infrastructure.postgres.event_columns import (
    EVENT_COLUMNS,
    array_parameters,
    event_of,
    first_if_all,
    listed,
    metadata_json,
    stored_value,
    unless_all,
)
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.sessions.engine import Autocommit, set_lock_timeout
from ledger.infrastructure.postgres.sessions.errors import refusals
from ledger.infrastructure.postgres.sessions.fence import (
    HAS_SYNCHRONOUS_STANDBY,
    IS_REPLICATED,
    WRITE_MESSAGE,
    Fence,
)

# The columns that INSERT_EVENTS writes, and those of a candidate: batch_id is one value for all
# events. payout_id is left out, because `ledger.infrastructure.postgres.payouts` stores the events
# that have one. The later fields are left out as well: few events have any of them.
_WRITTEN_COLUMNS = [
    column for column in EVENT_COLUMNS if column != "payout_id" and column not in LATER_DEFAULTS
]
_CANDIDATE_COLUMNS = [column for column in _WRITTEN_COLUMNS if column != "batch_id"]
# The later columns of events of this module, of which INSERT_EVENTS_WITH_TERMS writes all.
_TERMS = ["available_at", "processor_fee_minor"]

# The posting rules. An entry names its rule by its number, from 1, as SQL counts.
_POSTING_RULES = list(
    dict.fromkeys(rule for rules in EVENT_POSTING_RULES.values() for rule in rules)
)
_RULE_NUMBERS = {rule: number for number, rule in enumerate(_POSTING_RULES, start=1)}
# The numbers of the rules of an event, and whether each takes the event's amount, or else its fee:
# by the type of the event and whether it has a fee.
_ENTRY_RULES = {
    (event_type, has_fee): [
        (_RULE_NUMBERS[rule], rule.amount is Amount.AMOUNT)
        for rule in rules_of(event_type, has_fee=has_fee)
    ]
    for event_type in EVENT_POSTING_RULES
    for has_fee in (False, True)
}
# The number of the rule that an event's processor's fee posts by. It comes after all others.
_PROCESSOR_FEE_RULE = {
    event_type: _RULE_NUMBERS[rule]
    for event_type, rules in EVENT_POSTING_RULES.items()
    for rule in rules
    if rule.amount is Amount.PROCESSOR_FEE
}


def _of_rule(column: Iterable[object], sql_type: str) -> str:
    """SQL: what the posting rule of the entry `e` has in a column of the table of rules.

    An array within the statement, which PostgreSQL reads once a session: as a parameter it would
    be sent and read with every call.
    """
    return f"('{{{','.join(map(str, column))}}}'::{sql_type}[])[e.rule]"


_ENTRY_TYPE = _of_rule((rule.entry_type.value for rule in _POSTING_RULES), "text")
_DEBIT = _of_rule((rule.debit.value for rule in _POSTING_RULES), "text")
_CREDIT = _of_rule((rule.credit.value for rule in _POSTING_RULES), "text")
_MATURES = _of_rule((rule.matures for rule in _POSTING_RULES), "boolean")
_TAKES_AVAILABLE_AT = _of_rule((rule.takes_available_at for rule in _POSTING_RULES), "boolean")

_AVAILABLE_AT = f"""CASE WHEN {_MATURES} AND c.maturity_days > 0
              THEN c.occurred_at + make_interval(hours => 24 * c.maturity_days) END"""
_AVAILABLE_AT_WITH_TERMS = f"""CASE WHEN c.available_at IS NULL THEN {_AVAILABLE_AT}
              WHEN {_TAKES_AVAILABLE_AT} THEN c.available_at END"""

_OF_RESTAURANTS = """JOIN restaurants AS r ON r.restaurant_id = c.restaurant_id
  JOIN balance_accounts AS a ON a.restaurant_id = c.restaurant_id AND a.currency = c.currency"""
# Their entries do not mature.
_OF_PLATFORM = """JOIN balance_accounts AS a
    ON a.restaurant_id IS NULL AND a.account_id IS NULL AND a.currency = c.currency"""


def _insert_events(*, with_terms: bool = False, of_platform: bool = False) -> str:
    """SQL of INSERT_EVENTS, below, or of one of its variants."""
    written = _WRITTEN_COLUMNS + (_TERMS if with_terms else [])
    candidate = [column for column in written if column != "batch_id"]
    # The other parameters, in the order of `insert_arguments`.
    batch_id, maturity_days, first_entries, last_entries, rules, amounts = (
        f"${number}" for number in range(len(candidate) + 1, len(candidate) + 7)
    )
    values = {"batch_id": f"{batch_id}::uuid", "metadata": "metadata::jsonb"}
    # What arrays that `insert_statement` leaves empty, or with one element for all, stand for.
    given = {
        "currency": f"COALESCE(currency, (${candidate.index('currency') + 1}::text[])[1])",
        "reference": "COALESCE(reference, '')",
        "metadata": "COALESCE(metadata, '{}')",
    }
    columns = (f"{given[name]} AS {name}" if name in given else name for name in candidate)
    available_at = _AVAILABLE_AT_WITH_TERMS if with_terms else _AVAILABLE_AT
    books = _OF_PLATFORM if of_platform else _OF_RESTAURANTS
    days = f"{maturity_days}::integer"
    if not of_platform:
        days = f"COALESCE(r.maturity_days, {days})"
    return f"""
WITH candidate AS MATERIALIZED (
  SELECT c.*, a.balance_account_id,
         {days} AS maturity_days
  FROM (
    SELECT {listed(columns)}, first_entry, last_entry
    FROM unnest({array_parameters(candidate)},
                {first_entries}::integer[], {last_entries}::integer[])
         AS c ({listed(candidate)}, first_entry, last_entry)
  ) AS c
  {books}
),
new AS (
  INSERT INTO processor_events (
    {listed(written)})
  SELECT {listed(values.get(column, column) for column in written)}
  FROM candidate
  ORDER BY event_id COLLATE "C"
  ON CONFLICT (event_id) DO NOTHING
  RETURNING event_id
),
posted AS (
  INSERT INTO ledger_entries (
    balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
    amount_minor, available_at, occurred_at, event_id)
  SELECT c.balance_account_id, c.transaction_id, e.position,
         {_ENTRY_TYPE},
         {_DEBIT},
         {_CREDIT},
         e.amount_minor,
         {available_at},
         c.occurred_at, c.event_id
  FROM candidate AS c
  CROSS JOIN LATERAL generate_series(c.first_entry, c.last_entry) AS place
  CROSS JOIN LATERAL (
    SELECT ({rules}::integer[])[place] AS rule, ({amounts}::bigint[])[place] AS amount_minor,
           place - c.first_entry + 1 AS position
  ) AS e
  WHERE (c.event_id IN (SELECT event_id FROM new)) IS TRUE
)
SELECT event_id FROM new
"""


# Stores events and posts their entries, both or neither. The primary key decides which events are
# new: an insert waits for an event of the same id that another transaction is inserting, and
# succeeds if that transaction rolls back. Needs READ COMMITTED; do not raise it.
#
# Events are inserted in the byte order of their ids, as by every writer, so that no two writers
# deadlock. An event without a balance account falls out of the join and is not returned. The
# maturity is the restaurant's at this moment.
#
# The arrays of rules and amounts hold the entries: of each, the number of its posting rule and its
# amount. The entries of an event are in both from the place of its first entry to that of its last.
# Only integers are looked up so: in a text array PostgreSQL has to search for an element.
#
# A reference or metadata that no event has is sent as no array, and a currency that all have as
# one element: an element of an array takes 1 % of what the database does for an event.
#
# One plan serves batches of ten and of a thousand, so no join may be here that a nested loop would
# make quadratic. IS TRUE makes the look-up in `new` a separate hash table and keeps it from
# becoming such a join.
INSERT_EVENTS = _insert_events()
# For groups in which an event has an available_at or a processor's fee. Two more arrays would cost
# the other groups time.
INSERT_EVENTS_WITH_TERMS = _insert_events(with_terms=True)
# For events of the platform, which none of these two finds an account for.
INSERT_PLATFORM_EVENTS = _insert_events(of_platform=True)

# The stored events of some ids. A separate statement after INSERT_EVENTS: only a newer database
# snapshot sees the rows that the insert waited for.
SELECT_EVENTS = f"""
SELECT {listed(EVENT_COLUMNS)}, recorded_at
FROM processor_events
WHERE event_id = ANY ($1::text[])
"""

# The events that an ingest call acknowledges if it finds them. Under synchronous replication a
# commit that was cancelled while it waited for its standby is visible and not yet safe. A commit
# that writes waits for everything before it, so this statement writes a message, but only where
# there is a synchronous standby and something was found.
#
# Not the Fence, which readers share: here a second round trip would lengthen every batch that has a
# duplicate, and ingest would wait for a connection of another pool. Ingest may hold its connection
# while it waits, because few batches run at once; readers may not, because any number come.
SELECT_EVENTS_ONCE_SAFE = f"""
WITH fence AS MATERIALIZED (
  SELECT {WRITE_MESSAGE} AS position
  WHERE {HAS_SYNCHRONOUS_STANDBY}
)
SELECT stored.*
FROM ({SELECT_EVENTS}) AS stored
LEFT JOIN fence ON true
"""

# The events for readers, which wait at the Fence that they share.
SELECT_EVENTS_AND_REPLICATION = f"SELECT stored.*, {IS_REPLICATED} FROM ({SELECT_EVENTS}) AS stored"

# SQL, for FROM: the books of the event "v", of its restaurant or of the platform. One row.
BOOKS_OF_EVENT = """(
  SELECT b.balance_account_id, b.restaurant_id, b.account_id, b.currency
  FROM balance_accounts AS b
  WHERE b.restaurant_id = v.restaurant_id AND b.currency = v.currency
  UNION ALL
  SELECT b.balance_account_id, b.restaurant_id, b.account_id, b.currency
  FROM balance_accounts AS b
  WHERE v.restaurant_id = '' AND b.restaurant_id IS NULL AND b.account_id IS NULL
    AND b.currency = v.currency
)"""

# The entries of one event. The event's txid leads into their primary key.
SELECT_ENTRIES_OF_EVENT = f"""
SELECT e.transaction_id, e.position, e.entry_type, e.debit_account, e.credit_account,
       e.amount_minor, a.restaurant_id, a.account_id, a.currency, e.available_at, e.occurred_at,
       e.recorded_at, e.event_id, e.payout_id, e.payment_id
FROM processor_events AS v
CROSS JOIN LATERAL {BOOKS_OF_EVENT} AS a
JOIN ledger_entries AS e
  ON e.balance_account_id = a.balance_account_id
 AND e.recorded_txid = v.recorded_txid
 AND e.transaction_id = v.transaction_id
WHERE v.event_id = $1
ORDER BY e.position
"""

SELECT_UNKNOWN_RESTAURANTS = """
SELECT wanted.restaurant_id
FROM unnest($1::text[]) AS wanted (restaurant_id)
WHERE NOT EXISTS (
  SELECT FROM restaurants AS r WHERE r.restaurant_id = wanted.restaurant_id)
"""

# Registers restaurants by their first event. Sorted, so that two servers that do this at once do
# not deadlock.
INSERT_RESTAURANTS = """
INSERT INTO restaurants (restaurant_id)
SELECT DISTINCT wanted.restaurant_id COLLATE "C" AS restaurant_id
FROM unnest($1::text[]) AS wanted (restaurant_id)
ORDER BY restaurant_id
ON CONFLICT (restaurant_id) DO NOTHING
"""

# Opens balance accounts of registered restaurants, sorted for the same reason.
INSERT_BALANCE_ACCOUNTS = """
INSERT INTO balance_accounts (restaurant_id, currency)
SELECT wanted.restaurant_id, wanted.currency
FROM unnest($1::text[], $2::text[]) AS wanted (restaurant_id, currency)
JOIN restaurants AS r ON r.restaurant_id = wanted.restaurant_id
ORDER BY wanted.restaurant_id COLLATE "C", wanted.currency COLLATE "C"
ON CONFLICT (restaurant_id, currency) DO NOTHING
"""

# Opens the platform's balance accounts, likewise.
INSERT_PLATFORM_ACCOUNTS = """
INSERT INTO balance_accounts (currency)
SELECT wanted.currency
FROM unnest($1::text[]) AS wanted (currency)
ORDER BY wanted.currency COLLATE "C"
ON CONFLICT (currency) WHERE restaurant_id IS NULL AND account_id IS NULL DO NOTHING
"""


def insert_statement(
    postings: Sequence[Posting], batch_id: UUID, *, maturity_days: int
) -> tuple[str, tuple[Any, ...]]:
    """The statement that stores the postings, one or more, and its parameters.

    All are of restaurants, or all are of the platform. `maturity_days` is for restaurants that set
    none.
    """
    # The values of each field. All columns at once, because every group calls this.
    events = [posting.event for posting in postings]
    fields = dict(zip(EVENT_FIELDS, zip(*events, strict=True), strict=True))
    has_terms = any(fields["available_at"]) or any(fields["processor_fee_minor"])
    first_entries: list[int] = []
    last_entries: list[int] = []
    rules: list[int] = []
    amounts: list[int] = []
    for event_type, amount_minor, fee_minor, processor_fee_minor in zip(
        fields["type"],
        fields["amount_minor"],
        fields["fee_minor"],
        fields["processor_fee_minor"],
        strict=True,
    ):
        first_entries.append(len(rules) + 1)
        for rule, takes_amount in _ENTRY_RULES[event_type, fee_minor > 0]:
            rules.append(rule)
            amounts.append(amount_minor if takes_amount else fee_minor)
        if processor_fee_minor:
            rules.append(_PROCESSOR_FEE_RULE[event_type])
            amounts.append(processor_fee_minor)
        last_entries.append(len(rules))
    columns = fields | {
        "fingerprint": [posting.fingerprint for posting in postings],
        "transaction_id": [posting.transaction_id for posting in postings],
        "currency": first_if_all(fields["currency"]),
        "reference": unless_all("", fields["reference"]),
        "metadata": (
            [metadata_json(metadata) for metadata in fields["metadata"]]
            if any(fields["metadata"])
            else ()
        ),
    }
    if has_terms:
        statement, candidate = INSERT_EVENTS_WITH_TERMS, _CANDIDATE_COLUMNS + _TERMS
        columns |= {column: list(map(stored_value, fields[column])) for column in _TERMS}
    elif not fields["restaurant_id"][0]:
        statement, candidate = INSERT_PLATFORM_EVENTS, _CANDIDATE_COLUMNS
    else:
        statement, candidate = INSERT_EVENTS, _CANDIDATE_COLUMNS
    return statement, (
        *(columns[column] for column in candidate),
        batch_id,
        maturity_days,
        first_entries,
        last_entries,
        rules,
        amounts,
    )


class PostgresEventLedger:
    """Implements `ledger.application.ports.events.EventLedger`."""

    def __init__(
        self, autocommit: Autocommit, *, maturity_days: int, fence: Fence | None = None
    ) -> None:
        """`maturity_days` is for restaurants that set none.

        With a `fence`, reads of safe rows wait there and hold no connection. Without one they wait
        in the statement and hold the connection.
        """
        self._autocommit = autocommit
        self._maturity_days = maturity_days
        self._fence = fence

    async def insert(
        self, postings: Sequence[Posting], batch_id: UUID, *, lock_wait_seconds: float | None = None
    ) -> set[str]:
        # No restaurant has an empty id: only the platform's events come without one.
        of_platform = [posting for posting in postings if not posting.event.restaurant_id]
        parts = [postings]
        if of_platform:
            of_restaurants = [posting for posting in postings if posting.event.restaurant_id]
            parts = [part for part in (of_restaurants, of_platform) if part]
        statements = [
            insert_statement(part, batch_id, maturity_days=self._maturity_days) for part in parts
        ]
        with refusals():
            return await self._insert(statements, lock_wait_seconds)

    async def _insert(
        self, statements: Sequence[tuple[str, tuple[Any, ...]]], lock_wait_seconds: float | None
    ) -> set[str]:
        async with self._autocommit() as connection:
            if lock_wait_seconds is None and len(statements) == 1:
                ((statement, arguments),) = statements
                rows = await connection.fetch(statement, *arguments)
            else:
                rows = []
                async with connection.transaction():
                    if lock_wait_seconds is not None:
                        await set_lock_timeout(connection, lock_wait_seconds)
                    for statement, arguments in statements:
                        rows += await connection.fetch(statement, *arguments)
        return {row[0] for row in rows}

    async def stored(
        self, event_ids: Collection[str], *, once_safe: bool = False
    ) -> dict[str, StoredEvent]:
        statement = SELECT_EVENTS
        if once_safe:
            statement = (
                SELECT_EVENTS_ONCE_SAFE if self._fence is None else SELECT_EVENTS_AND_REPLICATION
            )
        with refusals():
            async with self._autocommit() as connection:
                rows = await connection.fetch(statement, list(event_ids))
        if once_safe and self._fence is not None:
            await self._fence.wait(rows)
        return {row["event_id"]: stored_event(row) for row in rows}

    async def entries(self, event: StoredEvent) -> list[StoredEntry]:
        async with self._autocommit() as connection:
            rows = await connection.fetch(SELECT_ENTRIES_OF_EVENT, event.event.event_id)
        return [stored_entry(row) for row in rows]

    async def open_accounts(
        self,
        accounts: Collection[BalanceAccount],
        *,
        register: bool,
        lock_wait_seconds: float | None = None,
    ) -> set[str]:
        of_platform = [account.currency for account in accounts if not account.holder_id]
        of_restaurants = [account for account in accounts if account.holder_id]
        restaurant_ids = [account.holder_id for account in of_restaurants]
        currencies = [account.currency for account in of_restaurants]
        with refusals():
            async with self._autocommit() as connection, connection.transaction():
                if lock_wait_seconds is not None:
                    await set_lock_timeout(connection, lock_wait_seconds)
                if register:
                    await connection.execute(INSERT_RESTAURANTS, restaurant_ids)
                    unknown = set[str]()
                else:
                    unknown = {
                        row[0]
                        for row in await connection.fetch(
                            SELECT_UNKNOWN_RESTAURANTS, restaurant_ids
                        )
                    }
                await connection.execute(INSERT_BALANCE_ACCOUNTS, restaurant_ids, currencies)
                if of_platform:
                    await connection.execute(INSERT_PLATFORM_ACCOUNTS, of_platform)
        return unknown


def _optional_microseconds(instant: datetime | None) -> int | None:
    return None if instant is None else microseconds(instant)


def stored_event(row: Row) -> StoredEvent:
    """The event of a row of SELECT_EVENTS."""
    return StoredEvent(
        event=event_of(row),
        fingerprint=row["fingerprint"],
        transaction_id=str(row["transaction_id"]),
        batch_id=row["batch_id"],
        recorded_at=row["recorded_at"],
    )


def stored_entry(row: Row) -> StoredEntry:
    """The entry of a row that has its columns, and the holder and currency of its books."""
    return StoredEntry(
        transaction_id=row["transaction_id"],
        position=row["position"],
        entry_type=EntryType(row["entry_type"]),
        debit=LedgerAccount(row["debit_account"]),
        credit=LedgerAccount(row["credit_account"]),
        amount_minor=row["amount_minor"],
        restaurant_id=row["restaurant_id"],
        currency=row["currency"],
        available_at_microseconds=_optional_microseconds(row["available_at"]),
        occurred_at_microseconds=_optional_microseconds(row["occurred_at"]),
        recorded_at_microseconds=microseconds(row["recorded_at"]),
        event_id=row["event_id"],
        payout_id=row["payout_id"],
        payment_id=row["payment_id"],
        account_id=row["account_id"],
    )
