"""The audit of the seals: recomputes the whole chain and reports what changed since."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.audit import AuditReport, Finding, Severity
from ledger.domain.seals import (
    ENTRY_TITLE,
    EVENT_PLACE,
    EVENT_TITLE,
    PLACE_MAX,
    SEALED_ENTRY_FIELDS,
    SEALED_EVENT_FIELDS,
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
    ENTRIES_WITH_ACCOUNT,
    ENTRY_VALUES,
    EVENT_VALUES,
    OF_RANGE,
    PLACE,
    SEAL_COLUMNS,
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

SELECT_BOUNDS = """
SELECT (SELECT COALESCE(max(epoch), 0) FROM ledger_seals WHERE NOT is_restored) AS latest_epoch,
       (SELECT count(*) FROM processor_events) + (SELECT count(*) FROM ledger_entries) AS rows_count
"""


def _columns(values: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{value} AS {name}" for name, value in values)


# The same expressions as for sealing, but this process joins and hashes them. PostgreSQL sorts, on
# disk if necessary, but not by the digest, which is computed here: few rows are equal in all else.
SELECT_EVENTS = f"""
SELECT {TXID} AS txid, {_columns(EVENT_VALUES.items())} FROM processor_events WHERE {OF_RANGE}
ORDER BY txid, processor_events.transaction_id
"""
SELECT_ENTRIES = f"""
SELECT {TXID} AS txid, {_columns(ENTRY_VALUES.items())}
FROM (
  SELECT ledger_entries.*, account.restaurant_id, account.currency
  FROM {ENTRIES_WITH_ACCOUNT}
) AS entry
WHERE {OF_RANGE}
ORDER BY txid, entry.transaction_id, {PLACE}
"""
_TRANSACTION_ID_OF_EVENT = 1 + SEALED_EVENT_FIELDS.index("transaction_id")
_EVENT_ID_OF_EVENT = 1 + SEALED_EVENT_FIELDS.index("event_id")
_TRANSACTION_ID_OF_ENTRY = 1 + SEALED_ENTRY_FIELDS.index("transaction_id")
_EVENT_ID_OF_ENTRY = 1 + SEALED_ENTRY_FIELDS.index("event_id")
_POSITION = 1 + SEALED_ENTRY_FIELDS.index("position")


class _StoredRow(NamedTuple):
    """A row of a range. Rows sort in the order in which they are hashed.

    `place` is 0 for an event and 1 to 127 for an entry.
    """

    recorded_txid: int
    transaction_id: bytes
    place: int
    digest: bytes
    position: int
    event_id: str | None


def _of_event(row: Row) -> _StoredRow:
    transaction_id = bytes.fromhex(row[_TRANSACTION_ID_OF_EVENT].replace("-", ""))
    return _StoredRow(
        row[0],
        transaction_id,
        EVENT_PLACE,
        row_digest(EVENT_TITLE, row[1:]),
        0,
        row[_EVENT_ID_OF_EVENT],
    )


def _of_entry(row: Row) -> _StoredRow:
    transaction_id = bytes.fromhex(row[_TRANSACTION_ID_OF_ENTRY].replace("-", ""))
    position = row[_POSITION]
    place = min(max(position, EVENT_PLACE + 1), PLACE_MAX)
    return _StoredRow(
        row[0],
        transaction_id,
        place,
        row_digest(ENTRY_TITLE, row[1:]),
        position,
        row[_EVENT_ID_OF_ENTRY],
    )


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
        walk = _Walk(connection, bounds["latest_epoch"], expected_hash, slice_rows)
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
        latest_epoch: int,
        expected_hash: bytes | None,
        slice_rows: int,
    ) -> None:
        self._connection = connection
        self._slice_rows = slice_rows
        self._compared_rows = COMPARED_SLICES * slice_rows
        self._latest_epoch = latest_epoch
        self._expected_hash = expected_hash
        self._expected_sequence: int | None = None
        self._findings: dict[str, list[Finding]] = defaultdict(list)
        self._findings_count: dict[str, int] = defaultdict(int)
        self._events_count = 0
        self._entries_count = 0
        self._rows_seen = 0
        self.head: Seal | None = None

    async def check(self, seal: Seal) -> None:
        """Checks the next seal: its link to the previous one, and its rows."""
        fault = link_fault(self.head, seal)
        if fault is not None:
            self._found(LINKS, f"seal {seal.sequence}", fault)
        elif seal.hash == self._expected_hash:
            self._expected_sequence = seal.sequence
        await self._check_rows(seal)
        self._events_count += seal.events_count
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
        return ChainReport(
            audit=AuditReport(
                tuple(checks),
                tuple(finding for check in checks for finding in self._findings[check]),
            ),
            head=self.head,
            events_count=self._events_count,
            entries_count=self._entries_count,
            unsealed_count=rows_count - self._rows_seen,
            expected_sequence=self._expected_sequence,
        )

    async def _stored_rows(self, seal: Seal) -> AsyncIterator[list[_StoredRow]]:
        """The seal's rows in the order in which they were hashed, in batches.

        That order is (recorded_txid, transaction_id, place). Rows that agree in all three are in
        the same batch.
        """
        range_ = (seal.first_txid, seal.end_txid)
        sources = [
            _Source(self._rows(SELECT_EVENTS, *range_), _of_event),
            _Source(self._rows(SELECT_ENTRIES, *range_), _of_entry),
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
        at_hand: list[_StoredRow] | None = []
        async for rows in self._stored_rows(seal):
            contents.add(_transactions(rows))
            if at_hand is not None:
                at_hand = (
                    at_hand + rows if len(at_hand) + len(rows) <= self._compared_rows else None
                )
        if (contents.contents_hash, contents.row_digests()) == (
            seal.contents_hash,
            seal.row_digests,
        ):
            self._rows_seen += contents.rows_count
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
            own.add(each for each in _transactions(rows) if each.transaction_id in sealed_ids)
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
        if tampered.place == EVENT_PLACE:
            # The entries of a deleted event have its id, if they are still there.
            event_id = next(
                (
                    row.event_id
                    for row in ([there] if there else siblings)
                    if row.event_id is not None
                ),
                None,
            )
            entity = (
                f"event {event_id}"
                if event_id is not None
                else f"event of transaction {transaction_id}"
            )
        else:
            position = there.position if there else tampered.place
            entity = f"entry {transaction_id}/{position}"
            if not there and position == PLACE_MAX:
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
