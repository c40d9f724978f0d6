"""Payments on PostgreSQL, in a unit of work: locks, standings, and what is stored and posted."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import count
from time import monotonic
from typing import Any, NamedTuple
from uuid import UUID

from ledger.application.ports.balances import LongTails
from ledger.application.ports.payments import (
    DecidedOperation,
    DecidedPayment,
    IdsTaken,
    Payee,
    RestaurantStanding,
    Standings,
    StoredOperation,
    StoredPayment,
)
from ledger.domain.accounts import AccountState
from ledger.domain.balances import BalanceAccount
from ledger.domain.payments import (
    AccountStanding,
    Move,
    PaymentOrder,
    PaymentState,
    first_state,
    first_step,
)
from ledger.domain.posting_rules import PAYMENT_POSTING_RULES, Amount, PaymentStep, PostingRule
from ledger.infrastructure.postgres.event_columns import (
    first_if_all,
    metadata_json,
    unless_all,
)
from ledger.infrastructure.postgres.movements import signed_minor
from ledger.infrastructure.postgres.payment_columns import (
    OPERATION_COLUMNS,
    PAYMENT_COLUMNS,
    PAYMENT_HOLDERS,
    operation_of,
    payment_of,
)
from ledger.infrastructure.postgres.remembered_sums import (
    PLACE,
    RememberedSum,
    remembered_in,
)
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.infrastructure.postgres.sessions.engine import set_lock_timeout
from ledger.infrastructure.postgres.sessions.horizon import HORIZON
from ledger.infrastructure.postgres.snapshots import (
    ENTRIES_MAX,
    NO_LONG_TAILS,
    latest_snapshot,
    tail,
)

# The accounts $1, whose balances decide, and the accounts $2, which must not be closed or frozen
# meanwhile. A key share lock waits for that alone, so any number of payments to one account go on
# at once. Both in the order of their ids. Returns what it has locked: an account that is opened
# while the statement waits is not among it, and must not be decided on.
LOCK_ACCOUNTS = """
WITH deciding AS (
  SELECT account_id FROM balance_accounts WHERE account_id = ANY ($1::text[])
  ORDER BY balance_account_id FOR NO KEY UPDATE
),
other AS (
  SELECT account_id FROM balance_accounts WHERE account_id = ANY ($2::text[])
  ORDER BY balance_account_id FOR KEY SHARE
)
SELECT ARRAY(SELECT account_id FROM deciding), ARRAY(SELECT account_id FROM other)
"""

# Returns what it has locked, for the same reason.
LOCK_PAYMENTS = """
SELECT payment_id FROM payments WHERE payment_id = ANY ($1::text[])
ORDER BY payment_id FOR NO KEY UPDATE
"""

# The accounts for which LOCK_ACCOUNTS would wait: those that exist and are skipped here. Locks the
# others until the transaction ends, which should be soon. An account may be of both kinds.
SELECT_LOCKED_ACCOUNTS = """
WITH deciding AS MATERIALIZED (
  SELECT account_id FROM balance_accounts WHERE account_id = ANY ($1::text[])
  ORDER BY balance_account_id FOR NO KEY UPDATE SKIP LOCKED
),
other AS MATERIALIZED (
  SELECT account_id FROM balance_accounts WHERE account_id = ANY ($2::text[])
  ORDER BY balance_account_id FOR KEY SHARE SKIP LOCKED
)
SELECT ARRAY(SELECT account_id FROM balance_accounts WHERE account_id = ANY ($1::text[])
             EXCEPT ALL SELECT account_id FROM deciding) AS deciding,
       ARRAY(SELECT account_id FROM balance_accounts WHERE account_id = ANY ($2::text[])
             EXCEPT ALL SELECT account_id FROM other) AS others
"""

# As SELECT_LOCKED_ACCOUNTS, for LOCK_PAYMENTS.
SELECT_LOCKED_PAYMENTS = """
WITH free AS MATERIALIZED (
  SELECT payment_id FROM payments WHERE payment_id = ANY ($1::text[])
  ORDER BY payment_id FOR NO KEY UPDATE SKIP LOCKED
)
SELECT payment_id FROM payments WHERE payment_id = ANY ($1::text[])
EXCEPT ALL SELECT payment_id FROM free
"""

_ACCOUNT = "books.balance_account_id"

# A tail of so many entries is what a read timed out at.
SLOW_TAIL_ENTRIES = 10_000

# How many entries SELECT_STANDINGS adds up for each of the accounts $1, counted up to $2: so this
# ends soon, however long the tails are. Planned like that.
SELECT_TAILS = f"""
SELECT q.account_id, {_ACCOUNT}, tail.entries_count
FROM unnest($1::text[]) AS q (account_id)
CROSS JOIN LATERAL (
  SELECT b.balance_account_id FROM balance_accounts AS b WHERE b.account_id = q.account_id LIMIT 1
) AS books
CROSS JOIN LATERAL (
  SELECT a.overdraft_limit_minor FROM accounts AS a WHERE a.account_id = q.account_id LIMIT 1
) AS a
LEFT JOIN LATERAL (SELECT s.* FROM {latest_snapshot(_ACCOUNT)} AS s) AS s ON true
CROSS JOIN LATERAL (
  SELECT count(*) AS entries_count
  FROM (SELECT FROM ledger_entries AS e WHERE {tail(_ACCOUNT)} LIMIT $2::bigint) AS e
) AS tail
WHERE a.overdraft_limit_minor IS NOT NULL
"""

# First a row with the present time, after the locks, and which of the payments $3 are stored; then
# a row for each account: those of $1 with what they have available, and those of $2. Nothing is
# added up for an account that may go below zero without a limit: nothing is decided by its balance.
#
# $4 is the place in which the sums of the accounts $1 are remembered, and $5 to $7 are these sums,
# or nothing. A sum starts from there, or else from the account's snapshot. Of what is added up,
# `final_minor` may be remembered: the entries below `horizon`, the same for all.
#
# One plan serves any number of accounts, in small tables and in large ones: with LIMIT each account
# is looked up by itself, and no plan reads a whole table to join it.
#
# Entries in the books of accounts never mature, so a sum needs no instant.
SELECT_STANDINGS = f"""
WITH moment AS MATERIALIZED (SELECT {HORIZON} AS horizon, {PLACE} AS place),
remembered AS MATERIALIZED (
  SELECT r.account_id, r.balance_account_id, r.horizon, r.available_minor,
         m.place = $4::text AND r.horizon <= m.horizon AS counts
  FROM moment AS m
  CROSS JOIN (
    SELECT r.account_id, r.balance_account_id, r.horizon::xid8 AS horizon,
           r.available_minor::numeric AS available_minor
    FROM unnest($1::text[], $5::bigint[], $6::text[], $7::text[])
      AS r (account_id, balance_account_id, horizon, available_minor)
  ) AS r
),
asked AS MATERIALIZED (
  SELECT q.*, COALESCE(q.known_id, (
           SELECT b.balance_account_id FROM balance_accounts AS b
           WHERE b.account_id = q.account_id LIMIT 1
         )) AS balance_account_id
  FROM (
    SELECT r.account_id, true AS decides,
           CASE WHEN r.counts THEN r.balance_account_id END AS known_id,
           CASE WHEN r.counts THEN r.horizon END AS horizon,
           CASE WHEN r.counts THEN r.available_minor END AS available_minor
    FROM remembered AS r
    UNION ALL
    SELECT unnest($2::text[]), false, NULL, NULL, NULL
  ) AS q
)
SELECT GREATEST(ledger_now(), clock_timestamp()) AS now_at,
       ARRAY(SELECT p.payment_id FROM payments AS p WHERE p.payment_id = ANY ($3::text[]))
         AS stored_ids,
       moment.place, moment.horizon::text AS horizon,
       NULL AS account_id, NULL::bigint AS balance_account_id, NULL AS currency, NULL AS state,
       NULL::bigint AS overdraft_limit_minor, NULL AS available_minor, NULL AS final_minor,
       NULL::bigint AS entries_read, NULL::bigint AS final_count
FROM moment
UNION ALL
SELECT NULL, NULL, NULL, NULL, books.account_id, books.balance_account_id, a.currency, a.state,
       a.overdraft_limit_minor,
       CASE WHEN a.is_added_up THEN (settled.available_minor + tail.available_minor)::text END,
       CASE WHEN a.is_added_up THEN (settled.available_minor + tail.final_minor)::text END,
       tail.entries_count, tail.final_count
FROM asked AS books
CROSS JOIN LATERAL (
  SELECT a.currency, a.state, a.overdraft_limit_minor,
         books.decides AND a.overdraft_limit_minor IS NOT NULL AS is_added_up
  FROM accounts AS a WHERE a.account_id = books.account_id LIMIT 1
) AS a
LEFT JOIN LATERAL (
  SELECT s.* FROM {latest_snapshot(_ACCOUNT)} AS s
  WHERE a.is_added_up AND books.horizon IS NULL
  OFFSET 0
) AS s ON true
CROSS JOIN LATERAL (
  SELECT COALESCE(books.horizon, s.horizon) AS horizon,
         COALESCE(books.available_minor, (
           SELECT sum(l.total_minor) FILTER (WHERE l.ledger_account = 'account_funds')
           FROM unnest(s.ledger_accounts, s.total_minors) AS l (ledger_account, total_minor)
         ), 0) AS available_minor
  OFFSET 0
) AS settled
CROSS JOIN LATERAL (
  SELECT COALESCE(sum(e.funds_minor), 0) AS available_minor, count(*) AS entries_count,
         COALESCE(sum(e.funds_minor) FILTER (WHERE e.is_final), 0) AS final_minor,
         count(*) FILTER (WHERE e.is_final) AS final_count
  FROM (
    SELECT {signed_minor("account_funds", "0")} AS funds_minor,
           e.recorded_txid < (SELECT horizon FROM moment) AS is_final
    FROM ledger_entries AS e
    WHERE {tail(_ACCOUNT, "settled")} AND a.is_added_up
  ) AS e
) AS tail
WHERE books.balance_account_id IS NOT NULL
"""

# The restaurants $1 in the currencies $2 that have a balance account; $3 is the maturity of those
# that set none.
SELECT_RESTAURANTS = """
SELECT q.restaurant_id, q.currency, b.balance_account_id,
       COALESCE(r.maturity_days, $3::integer) AS maturity_days
FROM unnest($1::text[], $2::text[]) AS q (restaurant_id, currency)
JOIN restaurants AS r ON r.restaurant_id = q.restaurant_id
JOIN balance_accounts AS b ON b.restaurant_id = q.restaurant_id AND b.currency = q.currency
"""

SELECT_STORED = f"""
SELECT {PAYMENT_COLUMNS},
       COALESCE((SELECT max(o.sequence) FROM payment_operations AS o
                 WHERE o.payment_id = p.payment_id), 0) AS operations_count
FROM payments AS p
{PAYMENT_HOLDERS}
WHERE p.payment_id = ANY ($1::text[])
"""

SELECT_STORED_OPERATIONS = f"""
SELECT {OPERATION_COLUMNS}, {PAYMENT_COLUMNS}
FROM payment_operations AS o
CROSS JOIN LATERAL (SELECT * FROM payments AS p WHERE p.payment_id = o.payment_id LIMIT 1) AS p
{PAYMENT_HOLDERS}
WHERE o.operation_id = ANY ($1::text[])
"""

# The posting rules. An entry names its rule by its number, from 1, as SQL counts.
_POSTING_RULES = list(
    dict.fromkeys(
        rule
        for rules in PAYMENT_POSTING_RULES.values()
        for rule in (rules.payer, *rules.payee_account, *rules.payee_restaurant)
    )
)
_RULE_NUMBERS = {rule: number for number, rule in enumerate(_POSTING_RULES, start=1)}


def _rules(step: PaymentStep, is_restaurant: bool, has_fee: bool) -> list[tuple[bool, PostingRule]]:
    """The posting rules of a step in the order of their positions, each with whether its entry is
    in the books of the payer.
    """
    rules = PAYMENT_POSTING_RULES[step]
    of_payee = rules.payee_restaurant if is_restaurant else rules.payee_account
    return [
        (True, rules.payer),
        *((False, rule) for rule in of_payee if has_fee or rule.amount is not Amount.FEE),
    ]


def _of_rule(column: Iterable[object], sql_type: str) -> str:
    """SQL: what the posting rule of the entry `e` has in a column of the table of rules."""
    return f"('{{{','.join(map(str, column))}}}'::{sql_type}[])[e.rule]"


_ENTRY_TYPE = _of_rule((rule.entry_type.value for rule in _POSTING_RULES), "text")
_DEBIT = _of_rule((rule.debit.value for rule in _POSTING_RULES), "text")
_CREDIT = _of_rule((rule.credit.value for rule in _POSTING_RULES), "text")


# SQL, for WITH: adds up what the entries in `posted` move on interaccount. The cast fails, and with
# it the statement, unless both sides of each transaction id agree.
_BALANCED = f"""balanced AS (
  SELECT sum({signed_minor("interaccount", "0")})::interaccount_rest AS rest_minor
  FROM posted AS e
  GROUP BY e.transaction_id
)"""


def _posted(first: int) -> str:
    """SQL, for WITH: posts entries, given by parallel arrays from the parameter `first` on, and
    adds up what they move on interaccount.

    An entry matures so many days after it is recorded; 0: it is available at once.
    """
    places = [f"${number}" for number in range(first, first + ENTRY_PARAMETERS)]
    return f"""posted AS (
  INSERT INTO ledger_entries (
    balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
    amount_minor, available_at, payment_id)
  SELECT e.balance_account_id, e.transaction_id, e.position,
         {_ENTRY_TYPE},
         {_DEBIT},
         {_CREDIT},
         e.amount_minor,
         CASE WHEN e.maturity_days > 0
              THEN recorded_now() + make_interval(hours => 24 * e.maturity_days) END,
         e.payment_id
  FROM unnest({places[0]}::bigint[], {places[1]}::uuid[], {places[2]}::smallint[],
              {places[3]}::integer[], {places[4]}::bigint[], {places[5]}::integer[],
              {places[6]}::text[])
    AS e (balance_account_id, transaction_id, position, rule, amount_minor, maturity_days,
          payment_id)
  RETURNING transaction_id, debit_account, credit_account, amount_minor
),
{_BALANCED}"""


ENTRY_PARAMETERS = 7

# What a payment may post when it is decided: nothing, or by the kinds of the step and of the payee
# and whether it has a fee, the posting rules. A payment names its postings by their number.
_NO_POSTINGS = 0
_POSTINGS = [
    (step, is_restaurant, has_fee)
    for step in (PaymentStep.HOLD, PaymentStep.TRANSFER)
    for is_restaurant in (False, True)
    for has_fee in (False, True)
]
_POSTINGS_NUMBERS = {postings: number for number, postings in enumerate(_POSTINGS, start=1)}


def _first_entries() -> str:
    """SQL, for FROM: a row for each entry of each number of _POSTINGS."""
    rows: list[str] = []
    for postings, number in _POSTINGS_NUMBERS.items():
        for position, (of_payer, rule) in enumerate(_rules(*postings), start=1):
            rows.append(
                f"({number}, {position}::smallint, {of_payer}, {rule.amount is Amount.FEE},"
                f" {rule.matures}, '{rule.entry_type}', '{rule.debit}', '{rule.credit}')"
            )
    return f"""(VALUES
      {", ".join(rows)}
    ) AS e (postings, position, of_payer, of_fee, matures, entry_type, debit_account,
            credit_account)"""


# Stores payments and posts their entries. If fewer are stored than are given, another transaction
# has stored one of the ids: the caller rolls back, since it decided the others as if it had stored
# all. In the byte order of their ids, as by every writer, so that no two writers deadlock.
#
# The arrays of columns that most payments leave empty may be empty: see `unless_all`. Those of
# columns that most groups have one value of may have one element: see `first_if_all`.
INSERT_PAYMENTS = f"""
WITH candidate AS MATERIALIZED (
  SELECT c.payment_id, c.transaction_id, c.payer, c.payee,
         COALESCE(c.currency, ($6::text[])[1]) AS currency, c.amount_minor,
         COALESCE(c.fee_minor, 0) AS fee_minor,
         COALESCE(c.capture, ($9::text[])[1]) AS capture, c.expires_at,
         COALESCE(c.reference, '') AS reference, COALESCE(c.metadata, '{{}}')::jsonb AS metadata,
         c.decline_reason, COALESCE(c.state, ($14::text[])[1]) AS state,
         COALESCE(c.postings, ($15::integer[])[1]) AS postings, c.maturity_days
  FROM unnest($1::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
              $8::bigint[], $9::text[], $10::timestamptz[], $11::text[], $12::text[], $13::text[],
              $14::text[], $15::integer[], $16::integer[])
    AS c (payment_id, transaction_id, payer, payee, currency, amount_minor, fee_minor, capture,
          expires_at, reference, metadata, decline_reason, state, postings, maturity_days)
),
stored AS (
  INSERT INTO payments (
    payment_id, transaction_id, batch_id, payer_balance_account_id, payee_balance_account_id,
    currency, amount_minor, fee_minor, capture, expires_at, reference, metadata, decline_reason,
    state, captured_minor)
  SELECT c.payment_id, c.transaction_id, $2::uuid, c.payer, c.payee, c.currency, c.amount_minor,
         c.fee_minor, c.capture, c.expires_at, c.reference, c.metadata, c.decline_reason, c.state,
         CASE WHEN c.state = '{PaymentState.CAPTURED}' THEN c.amount_minor ELSE 0 END
  FROM candidate AS c
  ORDER BY c.payment_id COLLATE "C"
  ON CONFLICT (payment_id) DO NOTHING
  RETURNING payment_id
),
posted AS (
  INSERT INTO ledger_entries (
    balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
    amount_minor, available_at, payment_id)
  SELECT CASE WHEN e.of_payer THEN c.payer ELSE c.payee END, c.transaction_id, e.position,
         e.entry_type, e.debit_account, e.credit_account,
         CASE WHEN e.of_fee THEN c.fee_minor ELSE c.amount_minor END,
         CASE WHEN e.matures AND c.maturity_days > 0
              THEN recorded_now() + make_interval(hours => 24 * c.maturity_days) END,
         c.payment_id
  FROM candidate AS c
  JOIN {_first_entries()} ON e.postings = c.postings
  RETURNING transaction_id, debit_account, credit_account, amount_minor
),
{_BALANCED}
SELECT (SELECT count(*) FROM stored) AS stored_count, recorded_now() AS recorded_at,
       (SELECT count(rest_minor) FROM balanced) AS balanced_count
"""

_OPERATION_PARAMETERS = 18

# Stores operations, moves their payments to where the last of them leaves each, and posts their
# entries. Fewer stored operations than given mean the same as for payments.
INSERT_OPERATIONS = f"""
WITH moved AS (
  UPDATE payments AS p
  SET state = m.state, captured_minor = m.captured_minor, refunded_minor = m.refunded_minor
  FROM unnest($15::text[], $16::text[], $17::bigint[], $18::bigint[])
    AS m (payment_id, state, captured_minor, refunded_minor)
  WHERE p.payment_id = m.payment_id
),
stored AS (
  INSERT INTO payment_operations (
    payment_id, sequence, operation_id, transaction_id, batch_id, kind, requested_minor, is_final,
    amount_minor, released_minor, decline_reason, state, captured_minor, refunded_minor)
  SELECT c.payment_id, c.sequence, c.operation_id, c.transaction_id, $2::uuid, c.kind,
         c.requested_minor, c.is_final, c.amount_minor, c.released_minor, c.decline_reason, c.state,
         c.captured_minor, c.refunded_minor
  FROM unnest($1::text[], $3::integer[], $4::text[], $5::uuid[], $6::text[], $7::bigint[],
              $8::boolean[], $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::bigint[],
              $14::bigint[])
    AS c (payment_id, sequence, operation_id, transaction_id, kind, requested_minor, is_final,
          amount_minor, released_minor, decline_reason, state, captured_minor, refunded_minor)
  ORDER BY c.operation_id COLLATE "C", c.payment_id COLLATE "C"
  ON CONFLICT (operation_id) DO NOTHING
  RETURNING payment_id
),
{_posted(_OPERATION_PARAMETERS + 1)}
SELECT (SELECT count(*) FROM stored) AS stored_count, recorded_now() AS recorded_at,
       (SELECT count(rest_minor) FROM balanced) AS balanced_count
"""


# Of an account of which nothing is remembered.
_NOTHING = (None, None, None)

_ACCOUNT_STATES = {state.value: state for state in AccountState}


class _Entry(NamedTuple):
    """An entry to post, in the order of the parameters of `_posted`."""

    balance_account_id: int
    transaction_id: str
    position: int
    rule: int
    amount_minor: int
    maturity_days: int
    payment_id: str


class PostgresPaymentBooks:
    """Implements `ledger.application.ports.payments.PaymentBooks` in a unit of work."""

    def __init__(
        self, connection: Connection, *, maturity_days: int, long_tails: LongTails = NO_LONG_TAILS
    ) -> None:
        """`maturity_days` is for restaurants that set none."""
        self._connection = connection
        self._maturity_days = maturity_days
        self._long_tails = long_tails

    async def limit_lock_wait(self, seconds: float) -> None:
        await set_lock_timeout(self._connection, seconds)

    async def lock_accounts(
        self, deciding: Collection[str], others: Collection[str]
    ) -> tuple[list[str], list[str]]:
        (locked,) = await self._connection.fetch(LOCK_ACCOUNTS, list(deciding), list(others))
        return locked[0], locked[1]

    async def lock_payments(self, payment_ids: Collection[str]) -> list[str]:
        rows = await self._connection.fetch(LOCK_PAYMENTS, list(payment_ids))
        return [row[0] for row in rows]

    async def locked_accounts(
        self, deciding: Collection[str], others: Collection[str]
    ) -> tuple[Collection[str], Collection[str]]:
        (locked,) = await self._connection.fetch(
            SELECT_LOCKED_ACCOUNTS, list(deciding), list(others)
        )
        return set(locked["deciding"]), set(locked["others"])

    async def locked_payments(self, payment_ids: Collection[str]) -> Collection[str]:
        rows = await self._connection.fetch(SELECT_LOCKED_PAYMENTS, list(payment_ids))
        return {row["payment_id"] for row in rows}

    async def slow_accounts(self, account_ids: Collection[str]) -> Collection[str]:
        rows = await self._connection.fetch(SELECT_TAILS, list(account_ids), SLOW_TAIL_ENTRIES)
        slow = [row for row in rows if row["entries_count"] == SLOW_TAIL_ENTRIES]
        self._long_tails.report((row["balance_account_id"], ENTRIES_MAX) for row in slow)
        return {row["account_id"] for row in slow}

    async def standings(
        self,
        deciding: Collection[str],
        others: Collection[str],
        payment_ids: Collection[str] = (),
    ) -> Standings:
        remembered = remembered_in(self._connection)
        known = remembered.of(deciding)
        sums = [known.get(account_id, _NOTHING) for account_id in deciding] if known else []
        moment, *rows = await self._connection.fetch(
            SELECT_STANDINGS,
            list(deciding),
            list(others),
            list(payment_ids),
            remembered.place,
            *_columns([each[:3] for each in sums], 3),
        )
        place, horizon = moment["place"], moment["horizon"]
        if place != remembered.place:
            known = {}
        entries_max = self._long_tails.entries_max
        now = monotonic()
        accounts: dict[str, AccountStanding] = {}
        tails: list[tuple[int, int]] = []
        final: dict[str, RememberedSum] = {}
        for row in rows:
            (account_id, number, currency, state, limit_minor, available, settled, read, ended) = (
                row[4:]
            )
            available_minor = None
            if available is not None:
                available_minor = int(available)
                counted = known[account_id].entries_count if account_id in known else 0
                if counted + read > entries_max:
                    tails.append((number, counted + read))
                    counted = -ended
                final[account_id] = RememberedSum(number, horizon, settled, counted + ended, now)
            accounts[account_id] = AccountStanding(
                number, currency, _ACCOUNT_STATES[state], limit_minor, available_minor
            )
        remembered.keep(place, final)
        self._long_tails.report(tails)
        return Standings(accounts, moment["now_at"], moment["stored_ids"])

    async def restaurants(
        self, accounts: Collection[BalanceAccount]
    ) -> dict[BalanceAccount, RestaurantStanding]:
        rows = await self._connection.fetch(
            SELECT_RESTAURANTS,
            [account.holder_id for account in accounts],
            [account.currency for account in accounts],
            self._maturity_days,
        )
        return {
            BalanceAccount(row["restaurant_id"], row["currency"]): RestaurantStanding(
                row["balance_account_id"], row["maturity_days"]
            )
            for row in rows
        }

    async def stored(self, payment_ids: Collection[str]) -> dict[str, StoredPayment]:
        rows = await self._connection.fetch(SELECT_STORED, list(payment_ids))
        return {
            row["payment_id"]: StoredPayment(
                payment_of(row), row["batch_id"], row["operations_count"]
            )
            for row in rows
        }

    async def stored_operations(self, operation_ids: Collection[str]) -> dict[str, StoredOperation]:
        rows = await self._connection.fetch(SELECT_STORED_OPERATIONS, list(operation_ids))
        return {
            row["operation_id"]: StoredOperation(
                operation_of(row), payment_of(row), row["operation_batch_id"]
            )
            for row in rows
        }

    async def store(self, decided: Sequence[DecidedPayment], batch_id: UUID) -> datetime:
        # All columns at once, because every group calls this.
        orders, reasons, transaction_ids, payers, payees = zip(*decided, strict=True)
        fields = dict(zip(PaymentOrder._fields, zip(*orders, strict=True), strict=True))
        return await self._store(
            INSERT_PAYMENTS,
            len(decided),
            fields["payment_id"],
            batch_id,
            transaction_ids,
            [payer.balance_account_id for payer in payers],
            [payee.balance_account_id for payee in payees],
            first_if_all(fields["currency"]),
            fields["amount_minor"],
            unless_all(0, fields["fee_minor"]),
            first_if_all(fields["capture"]),
            unless_all(None, fields["expires_at"]),
            unless_all("", fields["reference"]),
            unless_all("{}", [metadata_json(metadata) for metadata in fields["metadata"]]),
            unless_all(None, reasons),
            first_if_all(
                [first_state(order, reason) for order, reason in zip(orders, reasons, strict=True)]
            ),
            first_if_all([_postings_number(each) for each in decided]),
            unless_all(
                0,
                [
                    payee.maturity_days if isinstance(payee, RestaurantStanding) else 0
                    for payee in payees
                ],
            ),
        )

    async def store_operations(
        self, decided: Sequence[DecidedOperation], batch_id: UUID
    ) -> datetime:
        entries: list[_Entry] = []
        rows = []
        # Where the last operation leaves each payment that is moved.
        moved: dict[str, tuple[str, str, int, int]] = {}
        for each in decided:
            order, decision = each.order, each.decision
            reason = decision.decline_reason
            rows.append(
                (
                    order.payment_id,
                    each.sequence,
                    order.operation_id,
                    each.transaction_id,
                    order.kind.value,
                    order.requested_minor,
                    order.is_final,
                    decision.amount_minor,
                    decision.released_minor,
                    None if reason is None else reason.value,
                    decision.state.value,
                    decision.captured_minor,
                    decision.refunded_minor,
                )
            )
            if reason is None:
                moved[order.payment_id] = (
                    order.payment_id,
                    decision.state.value,
                    decision.captured_minor,
                    decision.refunded_minor,
                )
                entries += _entries_of(
                    order.payment_id, each.transaction_id, decision.moves, each.payer, each.payee
                )
        payment_ids, *columns = _columns(rows)
        return await self._store(
            INSERT_OPERATIONS,
            len(rows),
            payment_ids,
            batch_id,
            *columns,
            *_columns(list(moved.values()), 4),
            *_columns(entries, ENTRY_PARAMETERS),
        )

    async def _store(self, statement: str, rows_count: int, *arguments: Any) -> datetime:
        row = await self._connection.fetchrow(statement, *arguments)
        if row is None or row["stored_count"] != rows_count:
            raise IdsTaken
        recorded_at: datetime = row["recorded_at"]
        return recorded_at


def _columns(rows: Sequence[Sequence[Any]], width: int = 0) -> list[list[Any]]:
    """The columns of rows, as parallel arrays; `width` of them if there are no rows."""
    if not rows:
        return [[] for _ in range(width)]
    return [list(column) for column in zip(*rows, strict=True)]


def _entries_of(
    payment_id: str,
    transaction_id: str,
    moves: Sequence[Move],
    payer: AccountStanding,
    payee: Payee,
) -> Iterator[_Entry]:
    """The entries of one transaction id: of each move the payer's and then the payee's."""
    positions = count(1)
    is_restaurant = isinstance(payee, RestaurantStanding)
    payee_days = payee.maturity_days if isinstance(payee, RestaurantStanding) else 0
    for move in moves:
        for of_payer, rule in _rules(move.step, is_restaurant, move.fee_minor > 0):
            yield _Entry(
                payer.balance_account_id if of_payer else payee.balance_account_id,
                transaction_id,
                next(positions),
                _RULE_NUMBERS[rule],
                move.amount_minor if rule.amount is Amount.AMOUNT else move.fee_minor,
                payee_days if rule.matures else 0,
                payment_id,
            )


def _postings_number(decided: DecidedPayment) -> int:
    """The number in _POSTINGS of what a payment posts."""
    if decided.decline_reason is not None:
        return _NO_POSTINGS
    order = decided.order
    return _POSTINGS_NUMBERS[
        first_step(order), bool(order.payee_restaurant_id), order.fee_minor > 0
    ]
