"""Seals on PostgreSQL: reads the rows to seal, and adds seals to the chain."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.application.ports.seals import WHOLE, PartedTransaction, SealPart, SealPosition
from ledger.domain.events import LATER_FIELDS
from ledger.domain.seals import (
    ABSENT,
    CAUSE_PLACE,
    ENTRY_TITLE,
    EVENT_TITLE,
    EVENTS_VERSION,
    LAST,
    LATER_EVENT_TITLE,
    OPERATION_TITLE,
    PAYMENT_ENTRY_TITLE,
    PAYMENT_TITLE,
    PLACE_MAX,
    ROW_BYTES,
    SEALED_ENTRY_FIELDS,
    SEALED_EVENT_FIELDS,
    SEALED_LATER_EVENT_FIELDS,
    SEALED_OPERATION_FIELDS,
    SEALED_PAYMENT_ENTRY_FIELDS,
    SEALED_PAYMENT_FIELDS,
    SHORT_DIGEST_BYTES,
    PackedTransaction,
    Seal,
    SealedTransaction,
    unpacked,
)
from ledger.errors import DatabaseContention
from ledger.infrastructure.postgres.sessions.driver import Row
from ledger.infrastructure.postgres.sessions.engine import allow_seconds, autocommit
from ledger.infrastructure.postgres.sessions.horizon import HORIZON, NEXT_TXID, STAY
from ledger.infrastructure.postgres.snapshots import begin_stay_if_moved

# Rows of one slice. The server's calls wait while Python assembles a slice, which takes some
# milliseconds.
SLICE_ROWS = 2048
# Before the first slice of a large transaction PostgreSQL has to hash and sort all rows of it: some
# 8 s for a million.
SLICES_TIMEOUT_SECONDS = 900

SEAL_COLUMNS = """
sequence, epoch, is_restored, system_identifier, first_txid, end_txid, events_count, entries_count,
contents_hash, sealed_at, previous_hash, hash
"""

UNKNOWN_STAY = UUID(int=0)

SUMMARIZE = "SELECT summarize_recorded_txids()"

_NEXT = f"{NEXT_TXID}::text::bigint"

# Where the chain ends, and whether the latest seal belongs to the present stay. A server of an
# earlier revision knows no stays and writes zeros as the stay of its seals. Such a seal is of the
# present stay, unless the present stay is not the first and began after the seal was made: then the
# books have been elsewhere.
#
# A promoted standby continues the stay of its primary. A seal of the old primary may come here as a
# copied row: the transaction that stored it here has a txid below the txids that the seal covers. A
# sealer of this cluster has a txid above them. PostgreSQL keeps the lower half of the txid in xmin.
SELECT_POSITION = f"""
SELECT c.system_identifier AS this_system_identifier, stay.stay_id AS this_stay_id,
       s.system_identifier = c.system_identifier
         AND CASE s.stay_id
               WHEN '{UNKNOWN_STAY}' THEN stay.number = 1 OR s.sealed_at >= stay.began_at
               ELSE s.stay_id = stay.stay_id END IS NOT FALSE
         AND (s.is_restored OR {_NEXT} - (({_NEXT} - s.lower_half) & 4294967295) >= s.end_txid)
           AS is_of_this_stay,
       {HORIZON}::text::bigint AS horizon_txid,
       {_NEXT} AS next_txid,
       GREATEST(clock_timestamp(), ledger_now()) AS now,
       s.*
FROM (SELECT system_identifier FROM pg_control_system()) AS c
LEFT JOIN (SELECT t.stay_id, t.number, t.began_at
           FROM current_stay JOIN ledger_stays AS t USING (stay_id)) AS stay
       ON true
LEFT JOIN (SELECT {SEAL_COLUMNS}, stay_id, xmin::text::bigint AS lower_half
           FROM ledger_seals ORDER BY sequence DESC LIMIT 1) AS s ON true
"""


def _microseconds(column: str) -> str:
    """SQL: exact microseconds since 1970 as text, also of infinity: extract() is numeric."""
    return f"trim_scale(extract(epoch FROM {column}) * 1000000)::text"


# The SQL of fields that are not written as their columns are.
_WRITTEN = {
    **{
        name: _microseconds(name)
        for name in ("available_at", "occurred_at", "recorded_at", "expires_at")
    },
    **{
        name: f"{name}::text"
        for name in ("transaction_id", "batch_id", "payout_id", "recorded_txid", "metadata")
    },
    "fingerprint": "encode(fingerprint, 'hex')",
    "is_final": "is_final::integer",
}


def _values(fields: Sequence[str]) -> Mapping[str, str]:
    """The SQL of each field."""
    return {name: _WRITTEN.get(name, name) for name in fields}


EVENT_VALUES = _values(SEALED_EVENT_FIELDS)
LATER_EVENT_VALUES = _values(SEALED_LATER_EVENT_FIELDS)
ENTRY_VALUES = _values(SEALED_ENTRY_FIELDS)
PAYMENT_ENTRY_VALUES = _values(SEALED_PAYMENT_ENTRY_FIELDS)
PAYMENT_VALUES = _values(SEALED_PAYMENT_FIELDS)
OPERATION_VALUES = _values(SEALED_OPERATION_FIELDS)

# The tables whose rows are sealed.
SEALED_TABLES = ("processor_events", "ledger_entries", "payments", "payment_operations")

# Entries with the holder and the currency of their balance account, if that exists. LATERAL and
# OFFSET 0 look the accounts up one by one: a join could read all accounts for a few entries.
ENTRIES = """
(SELECT ledger_entries.*, account.restaurant_id, account.account_id, account.currency
 FROM ledger_entries
 LEFT JOIN LATERAL (
   SELECT restaurant_id, account_id, currency FROM balance_accounts
   WHERE balance_accounts.balance_account_id = ledger_entries.balance_account_id
   OFFSET 0) AS account ON true)
"""
# Payments with the holders of both balance accounts, likewise.
PAYMENTS = """
(SELECT payments.*, payer.payer_account_id, payee.payee_account_id, payee.payee_restaurant_id
 FROM payments
 LEFT JOIN LATERAL (
   SELECT account_id AS payer_account_id FROM balance_accounts
   WHERE balance_account_id = payments.payer_balance_account_id
   OFFSET 0) AS payer ON true
 LEFT JOIN LATERAL (
   SELECT account_id AS payee_account_id, restaurant_id AS payee_restaurant_id
   FROM balance_accounts
   WHERE balance_account_id = payments.payee_balance_account_id
   OFFSET 0) AS payee ON true)
"""
# The expression of the indexes, each of which is the only one that serves a range of it.
TXID = "recorded_txid::text::bigint"
OF_RANGE = f"{TXID} >= $1 AND {TXID} < $2"
# The offset of the last row's place in `kept`, the packed rows of one transaction id.
_LAST_PLACE = f"length(kept) - {ROW_BYTES}"
# The place of an entry. Seven bits hold it: the rules post few entries to a transaction.
PLACE = f"LEAST(GREATEST(position, {CAUSE_PLACE + 1}), {PLACE_MAX})"


def _digest(title: str, values: Mapping[str, str]) -> str:
    """SQL that computes `ledger.domain.seals.row_digest`; tests compare the two."""
    written = ", ".join(f"COALESCE(({value})::text, '{ABSENT}')" for value in values.values())
    return f"sha256(convert_to(concat_ws(E'\\n', '{title}', {written}), 'UTF8'))"


# Whether an event has any of the later fields.
HAS_LATER_FIELDS = f"num_nonnulls({', '.join(LATER_FIELDS)}) > 0"
_EVENT_DIGEST = f"""
CASE WHEN {HAS_LATER_FIELDS} THEN {_digest(LATER_EVENT_TITLE, LATER_EVENT_VALUES)}
     ELSE {_digest(EVENT_TITLE, EVENT_VALUES)} END"""
_ENTRY_DIGEST = f"""
CASE WHEN payment_id IS NULL THEN {_digest(ENTRY_TITLE, ENTRY_VALUES)}
     ELSE {_digest(PAYMENT_ENTRY_TITLE, PAYMENT_ENTRY_VALUES)} END"""
# The rows that are sealed, each with the SQL of its place and of its digest.
_SEALED = (
    ("processor_events", f"{CAUSE_PLACE}", _EVENT_DIGEST),
    (ENTRIES, PLACE, _ENTRY_DIGEST),
    (PAYMENTS, f"{CAUSE_PLACE}", _digest(PAYMENT_TITLE, PAYMENT_VALUES)),
    ("payment_operations", f"{CAUSE_PLACE}", _digest(OPERATION_TITLE, OPERATION_VALUES)),
)


def _row_digests(limit: str) -> str:
    """SQL for the digest of each row of the range [$1, $2).

    PostgreSQL hashes, because the server's calls would wait while Python hashes. If $3 is true,
    only rows with a txid from NEXT_TXID on are returned, which are the restored rows.
    """
    return "UNION ALL".join(
        f"""
  (SELECT {TXID} AS recorded_txid, transaction_id, {place} AS place, {digest} AS digest, recorded_at
   FROM {rows} AS r
   WHERE {OF_RANGE} AND (NOT $3 OR recorded_txid >= (SELECT {NEXT_TXID})) {limit})
"""
        for rows, place, digest in _SEALED
    )


# A row for each database transaction, packed like `ledger.domain.seals.packed`. PostgreSQL packs
# while it sorts; in Python this took 5 us a row, during which calls waited. Of each table it reads
# one row more than the $4 that are wanted, which shows that there are more.
SELECT_TRANSACTIONS = f"""
WITH row_digest AS ({_row_digests("LIMIT $4 + 1")}),
of_id AS (
  SELECT recorded_txid, transaction_id, count(*) AS rows_count,
         count(*) FILTER (WHERE place = {CAUSE_PLACE}) AS events_count,
         string_agg(digest, '' ORDER BY place, digest) AS digests,
         string_agg(set_byte('\\x00', 0, place) || substr(digest, 1, {SHORT_DIGEST_BYTES}), ''
                    ORDER BY place, digest) AS kept,
         min(recorded_at) AS recorded_at
  FROM row_digest
  GROUP BY recorded_txid, transaction_id
)
SELECT recorded_txid, sum(events_count)::bigint AS events_count,
       sum(rows_count)::bigint AS rows_count,
       string_agg(digests, '' ORDER BY transaction_id) AS digests,
       string_agg(uuid_send(transaction_id)
                    || set_byte(kept, {_LAST_PLACE}, get_byte(kept, {_LAST_PLACE}) | {LAST}), ''
                  ORDER BY transaction_id) AS row_digests,
       min(recorded_at) AS recorded_at
FROM of_id
GROUP BY recorded_txid
ORDER BY recorded_txid
"""

# The rows of a transaction id range ($4, $5], ordered. PostgreSQL sorts them, on its disk if
# necessary: no index has the order of a transaction's rows.
_OF_PART = (
    "AND ($4::uuid IS NULL OR transaction_id > $4) AND ($5::uuid IS NULL OR transaction_id <= $5)"
)
SELECT_ROWS = f"""
WITH row_digest AS ({_row_digests(_OF_PART)})
SELECT recorded_txid, uuid_send(transaction_id) AS transaction_id,
       set_byte('\\x00', 0, place) AS place, digest
FROM row_digest
ORDER BY row_digest.recorded_txid, row_digest.transaction_id, row_digest.place, row_digest.digest
"""

_OF_TXID = " UNION ALL ".join(
    f"SELECT transaction_id FROM {table} WHERE {TXID} = $1" for table in SEALED_TABLES
)
# The transaction id that ends a part of about $3 rows of the txid $1, after the transaction id $2.
# No row if fewer rows are left. Hashes nothing.
SELECT_PART_END = f"""
SELECT uuid_send(transaction_id)
FROM ({_OF_TXID}) AS r
WHERE $2::uuid IS NULL OR transaction_id > $2
ORDER BY transaction_id
OFFSET $3 LIMIT 1
"""

# The epoch before the parts of a transaction, if the latest seal, which begins at $1 in the stay
# $2, is such a part; otherwise no row. A part begins where an epoch of the same stay ends, whereas
# restored rows are sealed first in a stay. So the last seal that is not of restored rows decides.
SELECT_EPOCH_BEFORE = f"""
SELECT before.epoch
FROM (SELECT epoch, end_txid, stay_id FROM ledger_seals
      WHERE NOT is_restored ORDER BY sequence DESC LIMIT 1) AS before
WHERE before.end_txid = $1 AND before.stay_id = $2 AND before.stay_id <> '{UNKNOWN_STAY}'
"""

SELECT_ROW_DIGESTS = "SELECT row_digests FROM ledger_seals WHERE sequence = $1"

SELECT_IS_SEALED_IN_PARTS = f"""
SELECT p.rows_count > 0
   AND p.rows_count = (SELECT count(*) FROM ({_OF_TXID}) AS r)
FROM (SELECT COALESCE(sum(events_count + entries_count), 0) AS rows_count
      FROM ledger_seals
      WHERE is_restored AND end_txid = $1 + 1 AND stay_id = {STAY}) AS p
"""

# The row digests of earlier epochs that overlap a range. Epochs are many only where the books were
# restored into another cluster.
SELECT_ROW_DIGESTS_BEFORE = """
SELECT row_digests
FROM ledger_seals
WHERE epoch < $1 AND first_txid < $3 AND end_txid > $2
"""

INSERT_SEALS = f"""
INSERT INTO ledger_seals ({SEAL_COLUMNS}, row_digests, stay_id, covers_payments, events_version)
SELECT *, $14::uuid, true, {EVENTS_VERSION}
FROM unnest($1::bigint[], $2::integer[], $3::boolean[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::integer[], $8::integer[], $9::bytea[], $10::timestamptz[], $11::bytea[],
            $12::bytea[], $13::bytea[])
"""


class PostgresSealedBooks:
    """Implements `ledger.application.ports.seals.SealedBooks`."""

    def __init__(self, engine: AsyncEngine, *, slice_rows: int = SLICE_ROWS) -> None:
        self._engine = engine
        self._slice_rows = slice_rows

    async def index_new_rows(self) -> None:
        # A contention means that another server or a vacuum does the same.
        with suppress(DatabaseContention):
            async with autocommit(self._engine) as connection:
                await connection.execute(SUMMARIZE)

    async def position(self) -> SealPosition:
        async with autocommit(self._engine) as connection:
            (row,) = await connection.fetch(SELECT_POSITION)
        if row["this_stay_id"] is None:
            # The books were replaced since the server began a stay for the earlier ones.
            await begin_stay_if_moved(self._engine)
            async with autocommit(self._engine) as connection:
                (row,) = await connection.fetch(SELECT_POSITION)
        return SealPosition(
            head=None if row["sequence"] is None else seal_of(row, b""),
            is_of_this_stay=bool(row["is_of_this_stay"]),
            stay_id=row["this_stay_id"] or UNKNOWN_STAY,
            system_identifier=row["this_system_identifier"],
            horizon_txid=row["horizon_txid"],
            next_txid=row["next_txid"],
            now=row["now"],
        )

    async def transactions(
        self, first_txid: int, end_txid: int, rows_max: int, *, is_restored: bool
    ) -> Sequence[PackedTransaction] | None:
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(
                SELECT_TRANSACTIONS, first_txid, end_txid, is_restored, rows_max
            )
        transactions = [PackedTransaction(*row) for row in rows]
        if sum(each.rows_count for each in transactions) > rows_max:
            return None
        return transactions

    async def slices(
        self, first_txid: int, end_txid: int, part: SealPart = WHOLE, *, is_restored: bool
    ) -> AsyncGenerator[Sequence[SealedTransaction]]:
        async with autocommit(self._engine) as connection, connection.transaction(readonly=True):
            await allow_seconds(connection, SLICES_TIMEOUT_SECONDS)
            bounds = (_uuid(part.after_id), _uuid(part.last_id))
            cursor = await connection.cursor(
                SELECT_ROWS, first_txid, end_txid, is_restored, *bounds
            )
            while rows := await cursor.fetch(self._slice_rows, timeout=SLICES_TIMEOUT_SECONDS + 5):
                yield [
                    SealedTransaction(
                        key[0],
                        key[1],
                        b"".join(row["place"] for row in group),
                        b"".join(row["digest"] for row in group),
                    )
                    for key, group in (
                        (key, list(found)) for key, found in groupby(rows, key=itemgetter(0, 1))
                    )
                ]

    async def next_part(self, txid: int, after_id: bytes, rows: int) -> SealPart:
        async with autocommit(self._engine) as connection, connection.transaction(readonly=True):
            await allow_seconds(connection, SLICES_TIMEOUT_SECONDS)
            last_id = await connection.fetchval(
                SELECT_PART_END, txid, _uuid(after_id), rows - 1, timeout=SLICES_TIMEOUT_SECONDS + 5
            )
        return SealPart(after_id, last_id)

    async def parted(self, position: SealPosition) -> PartedTransaction | None:
        head = position.head
        if head is None or not head.is_restored or not position.is_of_this_stay:
            return None
        async with autocommit(self._engine) as connection:
            epoch = await connection.fetchval(
                SELECT_EPOCH_BEFORE, head.first_txid, position.stay_id
            )
            if epoch is None:
                return None
            row_digests = await connection.fetchval(SELECT_ROW_DIGESTS, head.sequence)
        # In a thread, because there are millions of rows.
        (last,) = await asyncio.to_thread(lambda: deque(unpacked(row_digests), maxlen=1))
        return PartedTransaction(head.end_txid - 1, last.transaction_id, epoch)

    async def is_sealed_in_parts(self, txid: int) -> bool:
        async with autocommit(self._engine) as connection, connection.transaction(readonly=True):
            await allow_seconds(connection, SLICES_TIMEOUT_SECONDS)
            return bool(
                await connection.fetchval(
                    SELECT_IS_SEALED_IN_PARTS, txid, timeout=SLICES_TIMEOUT_SECONDS + 5
                )
            )

    async def sealed_before(self, epoch: int, first_txid: int, end_txid: int) -> set[bytes]:
        # The first epoch has none before it, which is the usual case.
        if epoch == 1:
            return set()
        async with autocommit(self._engine) as connection:
            rows = await connection.fetch(SELECT_ROW_DIGESTS_BEFORE, epoch, first_txid, end_txid)
        return {kept.transaction_id for row in rows for kept in unpacked(row["row_digests"])}

    async def append(self, seals: Sequence[Seal], stay_id: UUID) -> bool:
        columns = [
            (
                seal.sequence,
                seal.epoch,
                seal.is_restored,
                seal.system_identifier,
                seal.first_txid,
                seal.end_txid,
                seal.events_count,
                seal.entries_count,
                seal.contents_hash,
                seal.sealed_at,
                seal.previous_hash,
                seal.hash,
                seal.row_digests,
            )
            for seal in seals
        ]
        try:
            async with autocommit(self._engine) as connection:
                await connection.execute(
                    INSERT_SEALS, *map(list, zip(*columns, strict=True)), stay_id
                )
        except asyncpg.UniqueViolationError:
            return False
        return True


def _uuid(transaction_id: bytes | None) -> UUID | None:
    return UUID(bytes=transaction_id) if transaction_id else None


def seal_of(row: Row, row_digests: bytes) -> Seal:
    """The seal in a row of SEAL_COLUMNS."""
    names = [name.strip() for name in SEAL_COLUMNS.split(",")]
    return Seal(**{name: row[name] for name in names}, row_digests=row_digests)
