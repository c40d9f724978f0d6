"""The audit of the seals: recomputes the whole chain and reports what changed since."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.audit import AuditReport, Finding, Severity
from ledger.domain.posting_rules import EntryType
from ledger.domain.seals import (
    CAUSE_PLACE,
    ENTRY_TITLE,
    EVENT_TITLE,
    LATER_EVENT_TITLE,
    OPERATION_TITLE,
    PAYMENT_ENTRY_TITLE,
    PAYMENT_TITLE,
    PLACE_MAX,
    SEALED_ENTRY_FIELDS,
    SEALED_EVENT_FIELDS,
    SEALED_LATER_EVENT_FIELDS,
    SEALED_OPERATION_FIELDS,
    SEALED_PAYMENT_ENTRY_FIELDS,
    SEALED_PAYMENT_FIELDS,
    ChainReport,
    Change,
    KeptRow,
    Seal,
    SealContents,
    SealedTransaction,
    TamperedRow,
    link_fault,
    row_digest,
    tampered_rows,
    unpacked,
)
from ledger.infrastructure.postgres.seals import (
    ENTRIES,
    LATER_EVENT_VALUES,
    OF_RANGE,
    OPERATION_VALUES,
    PAYMENT_ENTRY_VALUES,
    PAYMENT_VALUES,
    PAYMENTS,
    PLACE,
    SEAL_COLUMNS,
    SEALED_TABLES,
    SELECT_ROW_DIGESTS_BEFORE,
    TXID,
    seal_of,
)
from ledger.infrastructure.postgres.sessions.driver import Connection, Row
from ledger.infrastructure.postgres.sessions.engine import (
    READ_RANGES,
    READ_WHOLE_TABLES,
    allow_seconds,
    autocommit,
)
from ledger.infrastructure.postgres.verification.audit import (
    CHECK_TIMEOUT_SECONDS,
    FINDINGS_PER_CHECK_MAX,
)

LINKS = "seals_follow_each_other"
ROWS = "sealed_rows_are_as_they_were_sealed"
EXPECTED = "expected_head_is_in_the_chain"

# About as many rows as a seal covers, unless one database transaction had more.
SLICE_ROWS = 4096
# How many slices are held in memory when a seal has to be compared with what it keeps of its rows.
COMPARED_SLICES = 16

SELECT_SEAL = f"""
SELECT {SEAL_COLUMNS}, row_digests FROM ledger_seals
WHERE sequence > $1
ORDER BY sequence
LIMIT 1
"""

SELECT_BOUNDS = f"""
SELECT (SELECT COALESCE(max(epoch), 0) FROM ledger_seals WHERE NOT is_restored) AS latest_epoch,
       {" + ".join(f"(SELECT count(*) FROM {table})" for table in SEALED_TABLES)} AS rows_count,
       EXISTS (SELECT FROM payments) OR EXISTS (SELECT FROM payment_operations) AS has_payments
"""


def _rows_of(rows: str, values: Mapping[str, str], place: str = "") -> str:
    """SQL for the rows of a range, with their txid and the values that are hashed.

    The same expressions as for sealing, but this process joins and hashes them. PostgreSQL sorts,
    on disk if necessary, but not by the digest, which is computed here: few rows are equal in all
    else.
    """
    columns = ", ".join(f"{value} AS {name}" for name, value in values.items())
    return f"""
SELECT {TXID} AS txid, {columns} FROM {rows} AS r WHERE {OF_RANGE}
ORDER BY txid, r.transaction_id {place}
"""


SELECT_EVENTS = _rows_of("processor_events", LATER_EVENT_VALUES)
SELECT_ENTRIES = _rows_of(ENTRIES, PAYMENT_ENTRY_VALUES, f", {PLACE}")
SELECT_PAYMENTS = _rows_of(PAYMENTS, PAYMENT_VALUES)
SELECT_OPERATIONS = _rows_of("payment_operations", OPERATION_VALUES)

# The types of the entries that only the authorisation of a payment posts.
AUTHORISATIONS = {EntryType.PAYMENT_HOLD, EntryType.TRANSFER_OUT, EntryType.TRANSFER_IN}


class _Kind(Enum):
    """The table of a row."""

    EVENT = "processor_events"
    ENTRY = "ledger_entries"
    PAYMENT = "payments"
    OPERATION = "payment_operations"


class _StoredRow(NamedTuple):
    """A row of a range. Rows sort in the order in which they are hashed.

    `place` is 1 to 127 for an entry and 0 for any other row. `number` is the position of an entry
    or the sequence of an operation, `word` the type of an entry or the id of an operation.
    """

    recorded_txid: int
    transaction_id: bytes
    place: int
    digest: bytes
    kind: _Kind
    event_id: str | None = None
    payment_id: str | None = None
    number: int = 0
    word: str | None = None

    def entity(self) -> str:
        """What findings call the row."""
        match self.kind:
            case _Kind.EVENT:
                return f"event {self.event_id}"
            case _Kind.ENTRY:
                return f"entry {UUID(bytes=self.transaction_id)}/{self.number}"
            case _Kind.PAYMENT:
                return f"payment {self.payment_id}"
            case _Kind.OPERATION:
                which = f"number {self.number}" if self.word is None else self.word
                return f"operation {which} of payment {self.payment_id}"


def _cause_of(entries: Iterable[_StoredRow]) -> str | None:
    """What findings call the row that posted these entries, if that is not there.

    None if they do not say it.
    """
    for entry in entries:
        if entry.event_id is not None:
            return f"event {entry.event_id}"
        if entry.payment_id is not None:
            of = "payment" if entry.word in AUTHORISATIONS else "operation of payment"
            return f"{of} {entry.payment_id}"
    return None


def _places(fields: Sequence[str], *names: str) -> tuple[int, ...]:
    """Where a row of `_rows_of` has these fields."""
    return tuple(1 + fields.index(name) for name in names)


_TRANSACTION_ID_OF_EVENT, _EVENT_ID_OF_EVENT = _places(
    SEALED_LATER_EVENT_FIELDS, "transaction_id", "event_id"
)
# The fields that an event is hashed with only if it has one of them.
_LATER = len(SEALED_LATER_EVENT_FIELDS) - len(SEALED_EVENT_FIELDS)
_TRANSACTION_ID_OF_ENTRY, _EVENT_ID_OF_ENTRY, _PAYMENT_ID_OF_ENTRY = _places(
    SEALED_PAYMENT_ENTRY_FIELDS, "transaction_id", "event_id", "payment_id"
)
_POSITION, _ENTRY_TYPE = _places(SEALED_PAYMENT_ENTRY_FIELDS, "position", "entry_type")
# The fields that only entries of payments are hashed with.
_OF_PAYMENT_ONLY = len(SEALED_PAYMENT_ENTRY_FIELDS) - len(SEALED_ENTRY_FIELDS)
_TRANSACTION_ID_OF_PAYMENT, _PAYMENT_ID_OF_PAYMENT = _places(
    SEALED_PAYMENT_FIELDS, "transaction_id", "payment_id"
)
_TRANSACTION_ID_OF_OPERATION, _PAYMENT_ID_OF_OPERATION, _SEQUENCE, _OPERATION_ID = _places(
    SEALED_OPERATION_FIELDS, "transaction_id", "payment_id", "sequence", "operation_id"
)


def _bytes_of(transaction_id: str) -> bytes:
    return bytes.fromhex(transaction_id.replace("-", ""))


def _of_event(row: Row) -> _StoredRow:
    has_later = any(value is not None for value in row[-_LATER:])
    return _StoredRow(
        row[0],
        _bytes_of(row[_TRANSACTION_ID_OF_EVENT]),
        CAUSE_PLACE,
        row_digest(LATER_EVENT_TITLE, row[1:])
        if has_later
        else row_digest(EVENT_TITLE, row[1:-_LATER]),
        _Kind.EVENT,
        event_id=row[_EVENT_ID_OF_EVENT],
    )


def _of_entry(row: Row) -> _StoredRow:
    position, payment_id = row[_POSITION], row[_PAYMENT_ID_OF_ENTRY]
    return _StoredRow(
        row[0],
        _bytes_of(row[_TRANSACTION_ID_OF_ENTRY]),
        min(max(position, CAUSE_PLACE + 1), PLACE_MAX),
        row_digest(ENTRY_TITLE, row[1:-_OF_PAYMENT_ONLY])
        if payment_id is None
        else row_digest(PAYMENT_ENTRY_TITLE, row[1:]),
        _Kind.ENTRY,
        row[_EVENT_ID_OF_ENTRY],
        payment_id,
        position,
        row[_ENTRY_TYPE],
    )


def _of_payment(row: Row) -> _StoredRow:
    return _StoredRow(
        row[0],
        _bytes_of(row[_TRANSACTION_ID_OF_PAYMENT]),
        CAUSE_PLACE,
        row_digest(PAYMENT_TITLE, row[1:]),
        _Kind.PAYMENT,
        payment_id=row[_PAYMENT_ID_OF_PAYMENT],
    )


def _of_operation(row: Row) -> _StoredRow:
    return _StoredRow(
        row[0],
        _bytes_of(row[_TRANSACTION_ID_OF_OPERATION]),
        CAUSE_PLACE,
        row_digest(OPERATION_TITLE, row[1:]),
        _Kind.OPERATION,
        payment_id=row[_PAYMENT_ID_OF_OPERATION],
        number=row[_SEQUENCE],
        word=row[_OPERATION_ID],
    )


# The statements that read a range, and what makes rows of theirs. Books without payments are not
# asked for any.
_TABLES = ((SELECT_EVENTS, _of_event), (SELECT_ENTRIES, _of_entry))
_TABLES_OF_PAYMENTS = ((SELECT_PAYMENTS, _of_payment), (SELECT_OPERATIONS, _of_operation))


class _Source:
    """A table's rows of a range, some thousands at a time.

    In the order of (recorded_txid, transaction_id, place).
    """

    def __init__(self, rows: AsyncIterator[Row], stored_row: Callable[[Row], _StoredRow]) -> None:
        self._rows = rows
        self._stored_row = stored_row
        # The next row is not before this; None if there are no more.
        self.reached: tuple[int, bytes, int] | None = (0, b"", 0)

    async def read(self, count: int) -> list[_StoredRow]:
        found = []
        # Read to the end, which closes the cursor. Otherwise it would stay open until the end of
        # the transaction, in which all seals are read.
        async for row in self._rows:
            found.append(self._stored_row(row))
            if len(found) == count:
                self.reached = found[-1][:3]
                return found
        self.reached = None
        return found


async def verify_chain(
    engine: AsyncEngine, expected_hash: bytes | None = None, *, slice_rows: int = SLICE_ROWS
) -> ChainReport:
    """Recomputes every seal from the rows that it covers, and writes nothing.

    All rows are read from one database snapshot. With `expected_hash` the report also says which
    seal of the chain has it. Holds one seal in memory, and some thousands of its rows; if the seal
    is broken, or from before a restore, its transaction ids as well. `engine` may log in as any
    role that reads the tables. Raises DatabaseUnavailable, DatabaseTimeout.
    """
    async with (
        autocommit(engine) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        await allow_seconds(connection, CHECK_TIMEOUT_SECONDS)
        # The counts read whole tables, the seals only ranges of them.
        await connection.execute(READ_WHOLE_TABLES)
        (bounds,) = await connection.fetch(SELECT_BOUNDS, timeout=CHECK_TIMEOUT_SECONDS)
        await connection.execute(READ_RANGES)
        tables = _TABLES + _TABLES_OF_PAYMENTS if bounds["has_payments"] else _TABLES
        walk = _Walk(connection, tables, bounds["latest_epoch"], expected_hash, slice_rows)
        while (
            row := await connection.fetchrow(SELECT_SEAL, walk.head.sequence if walk.head else 0)
        ) is not None:
            await walk.check(seal_of(row, row["row_digests"]))
    return walk.report(bounds["rows_count"])


class _Walk:
    """A walk along the chain, seal by seal, with the findings so far."""

    def __init__(
        self,
        connection: Connection,
        tables: Sequence[tuple[str, Callable[[Row], _StoredRow]]],
        latest_epoch: int,
        expected_hash: bytes | None,
        slice_rows: int,
    ) -> None:
        self._connection = connection
        self._tables = tables
        self._slice_rows = slice_rows
        self._compared_rows = COMPARED_SLICES * slice_rows
        self._latest_epoch = latest_epoch
        self._expected_hash = expected_hash
        self._expected_sequence: int | None = None
        self._findings: dict[str, list[Finding]] = defaultdict(list)
        self._findings_count: dict[str, int] = defaultdict(int)
        self._causes_count = 0
        self._entries_count = 0
        self._rows_seen = 0
        # The sealed rows that are there, by kind.
        self._found_by_kind: Counter[_Kind] = Counter()
        self.head: Seal | None = None

    async def check(self, seal: Seal) -> None:
        """Checks the next seal: its link to the previous one, and its rows."""
        fault = link_fault(self.head, seal)
        if fault is not None:
            self._found(LINKS, f"seal {seal.sequence}", fault)
        elif seal.hash == self._expected_hash:
            self._expected_sequence = seal.sequence
        await self._check_rows(seal)
        self._causes_count += seal.events_count
        self._entries_count += seal.entries_count
        self.head = seal

    def report(self, rows_count: int) -> ChainReport:
        """The findings and counts of all seals checked so far."""
        checks = [LINKS, ROWS]
        if self._expected_hash is not None:
            checks.append(EXPECTED)
            if self._expected_sequence is None:
                entity, detail = (
                    f"hash {self._expected_hash.hex()}",
                    "no seal has it: the chain was cut off or written anew",
                )
                self._found(EXPECTED, entity, detail)
        for check, count in self._findings_count.items():
            if (left_out := count - len(self._findings[check])) > 0:
                self._findings[check].append(
                    Finding(check, Severity.ERROR, "more", f"{left_out} more like these")
                )
        payments_count = self._found_by_kind[_Kind.PAYMENT]
        operations_count = self._found_by_kind[_Kind.OPERATION]
        return ChainReport(
            audit=AuditReport(
                tuple(checks),
                tuple(finding for check in checks for finding in self._findings[check]),
            ),
            head=self.head,
            events_count=self._causes_count - payments_count - operations_count,
            entries_count=self._entries_count,
            payments_count=payments_count,
            operations_count=operations_count,
            unsealed_count=rows_count - self._rows_seen,
            expected_sequence=self._expected_sequence,
        )

    async def _stored_rows(self, seal: Seal) -> AsyncIterator[list[_StoredRow]]:
        """The seal's rows in the order in which they were hashed, in batches.

        That order is (recorded_txid, transaction_id, place). Rows that agree in all three are in
        the same batch.
        """
        sources = [
            _Source(self._rows(statement, seal.first_txid, seal.end_txid), stored_row)
            for statement, stored_row in self._tables
        ]
        rows: list[_StoredRow] = []
        while unread := [source for source in sources if source.reached is not None]:
            # Read from the source that is furthest behind. Rows before the position that every
            # source has reached are then complete.
            rows += await min(unread, key=_reached).read(self._slice_rows)
            rows.sort()
            complete = min(
                (_reached(source) for source in unread if source.reached is not None), default=None
            )
            cut = (
                len(rows)
                if complete is None
                else bisect_left(rows, complete, key=lambda row: row[:3])
            )
            if cut:
                yield rows[:cut]
                rows = rows[cut:]

    def _rows(self, statement: str, *arguments: int) -> AsyncIterator[Row]:
        rows = self._connection.cursor(
            statement, *arguments, prefetch=self._slice_rows, timeout=CHECK_TIMEOUT_SECONDS
        )
        return aiter(rows)

    async def _check_rows(self, seal: Seal) -> None:
        contents = SealContents()
        kinds: Counter[_Kind] = Counter()
        at_hand: list[_StoredRow] | None = []
        async for rows in self._stored_rows(seal):
            contents.add(_transactions(rows))
            kinds.update(row.kind for row in rows)
            if at_hand is not None:
                at_hand = (
                    at_hand + rows if len(at_hand) + len(rows) <= self._compared_rows else None
                )
        if (contents.contents_hash, contents.row_digests()) == (
            seal.contents_hash,
            seal.row_digests,
        ):
            self._rows_seen += contents.rows_count
            self._found_by_kind += kinds
            return
        try:
            sealed_ids = {kept.transaction_id for kept in unpacked(seal.row_digests)}
        except ValueError:
            self._found(
                ROWS,
                f"seal {seal.sequence}",
                "its row digests cannot be read, so its rows are unknown",
            )
            return
        # After a restore the ranges of epochs overlap: this range may hold rows of other seals.
        own = SealContents()
        async for rows in self._rows_again(seal, at_hand):
            own_rows = [row for row in rows if row.transaction_id in sealed_ids]
            own.add(_transactions(own_rows))
            self._found_by_kind.update(row.kind for row in own_rows)
        self._rows_seen += own.rows_count
        is_broken = (own.contents_hash, own.row_digests()) != (seal.contents_hash, seal.row_digests)
        tampered_count = 0
        if not is_broken and seal.epoch != self._latest_epoch:
            return
        # Memory bounds how many transactions are compared at once. So each turn reads all rows of
        # the range, and compares a part of the transactions.
        turns = 1 if at_hand is not None else 1 + contents.rows_count // self._compared_rows
        for turn in range(turns):

            def has_turn(row: _StoredRow | KeptRow, turn: int = turn) -> bool:
                return crc32(row.transaction_id) % turns == turn

            some = [
                row
                async for rows in self._rows_again(seal, at_hand)
                for row in rows
                if has_turn(row)
            ]
            if is_broken:
                kept = filter(has_turn, unpacked(seal.row_digests))
                tampered = tampered_rows(
                    kept, _transactions(row for row in some if row.transaction_id in sealed_ids)
                )
                tampered_count += len(tampered)
                for each in tampered:
                    self._found_row(seal, each, some)
            if seal.epoch == self._latest_epoch:
                await self._check_others(seal, sealed_ids, some)
        if is_broken and not tampered_count:
            self._found(ROWS, f"seal {seal.sequence}", "its rows are not those that were sealed")

    async def _rows_again(
        self, seal: Seal, at_hand: list[_StoredRow] | None
    ) -> AsyncIterator[list[_StoredRow]]:
        """The rows of the seal's range again: `at_hand` if they are, else from the database."""
        if at_hand is not None:
            yield at_hand
            return
        async for rows in self._stored_rows(seal):
            yield rows

    async def _check_others(
        self, seal: Seal, sealed_ids: set[bytes], rows: Sequence[_StoredRow]
    ) -> None:
        """Reports rows in the range of a seal of the latest epoch that no seal has.

        They were inserted after the seal was made.
        """
        others = [row for row in rows if row.transaction_id not in sealed_ids]
        if others and seal.epoch > 1:
            found = await self._connection.fetch(
                SELECT_ROW_DIGESTS_BEFORE, seal.epoch, seal.first_txid, seal.end_txid
            )
            earlier = {
                kept.transaction_id for row in found for kept in unpacked(row["row_digests"])
            }
            others = [row for row in others if row.transaction_id not in earlier]
        self._rows_seen += len(others)
        for row in others:
            self._found_row(
                seal, TamperedRow(Change.INSERTED, row.transaction_id, row.place, row.digest), rows
            )

    def _found_row(self, seal: Seal, tampered: TamperedRow, rows: Sequence[_StoredRow]) -> None:
        if self._findings_count[ROWS] >= FINDINGS_PER_CHECK_MAX:
            self._findings_count[ROWS] += 1
            return
        siblings = [row for row in rows if row.transaction_id == tampered.transaction_id]
        there = next(
            (
                row
                for row in siblings
                if (row.place, row.digest) == (tampered.place, tampered.digest)
            ),
            None,
        )
        transaction_id = UUID(bytes=tampered.transaction_id)
        if there is not None:
            entity = there.entity()
        elif tampered.place == CAUSE_PLACE:
            # The entries of a deleted event or payment have its id, if they are still there.
            entity = (
                _cause_of(row for row in siblings if row.kind is _Kind.ENTRY)
                or f"event, payment or operation of transaction {transaction_id}"
            )
        else:
            entity = f"entry {transaction_id}/{tampered.place}"
            if tampered.place == PLACE_MAX:
                entity += " or a later position"
        self._found(
            ROWS,
            entity,
            f"{tampered.change} after seal {seal.sequence} was made"
            f" at {seal.sealed_at:%Y-%m-%dT%H:%M:%SZ}",
        )

    def _found(self, check: str, entity: str, detail: str) -> None:
        self._findings_count[check] += 1
        if len(self._findings[check]) < FINDINGS_PER_CHECK_MAX:
            self._findings[check].append(Finding(check, Severity.ERROR, entity, detail))


def _reached(source: _Source) -> tuple[int, bytes, int]:
    if source.reached is None:
        raise ValueError("there are no more rows")
    return source.reached


def _transactions(rows: Iterable[_StoredRow]) -> list[SealedTransaction]:
    """The transactions of ordered rows, each whole."""
    places: dict[tuple[int, bytes], bytearray] = defaultdict(bytearray)
    digests: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)
    for row in rows:
        key = (row.recorded_txid, row.transaction_id)
        places[key].append(row.place)
        digests[key].append(row.digest)
    return [
        SealedTransaction(*key, bytes(found), b"".join(digests[key]))
        for key, found in places.items()
    ]
