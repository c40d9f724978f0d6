"""The audit of the seals: recomputes the whole chain and names what is not as it was sealed."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from ledger.domain.audit import AuditReport, Finding, Severity
from ledger.domain.seals import (
    ENTRY_FIELDS,
    ENTRY_TITLE,
    EVENT_FIELDS,
    EVENT_PLACE,
    EVENT_TITLE,
    PLACE_MAX,
    ChainReport,
    Change,
    Seal,
    SealedTransaction,
    TamperedRow,
    contents_hash,
    link_fault,
    packed,
    row_digest,
    tampered_rows,
    unpacked,
)
from ledger.infrastructure.postgres.audit import CHECK_TIMEOUT_SECONDS, FINDINGS_PER_CHECK_MAX
from ledger.infrastructure.postgres.engine import Connection, allow_seconds, autocommit
from ledger.infrastructure.postgres.seals import (
    ENTRIES_WITH_ACCOUNT,
    ENTRY_VALUES,
    EVENT_VALUES,
    OF_RANGE,
    SEAL_COLUMNS,
    SELECT_ROW_DIGESTS_BEFORE,
    TXID,
    seal_of,
)

LINKS = "seals_follow_each_other"
ROWS = "sealed_rows_are_as_they_were_sealed"
EXPECTED = "expected_head_is_in_the_chain"

SELECT_SEAL = f"SELECT {SEAL_COLUMNS}, row_digests FROM ledger_seals WHERE sequence > $1 ORDER BY sequence LIMIT 1"

SELECT_BOUNDS = """
SELECT (SELECT COALESCE(max(epoch), 0) FROM ledger_seals WHERE NOT is_restored) AS latest_epoch,
       (SELECT count(*) FROM processor_events) + (SELECT count(*) FROM ledger_entries) AS rows_count
"""


def _columns(values: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{value} AS {name}" for name, value in values)


# Told by the same expressions as when it was sealed, but put together and hashed here.
SELECT_EVENTS = f"""
SELECT {TXID} AS number, {_columns(EVENT_VALUES.items())} FROM processor_events WHERE {OF_RANGE}
"""
SELECT_ENTRIES = f"""
SELECT {TXID} AS number, {_columns(ENTRY_VALUES.items())}
FROM (SELECT ledger_entries.*, account.restaurant_id, account.currency FROM {ENTRIES_WITH_ACCOUNT}) AS entry
WHERE {OF_RANGE}
"""
_TRANSACTION_ID_OF_EVENT = 1 + EVENT_FIELDS.index("transaction_id")
_EVENT_ID_OF_EVENT = 1 + EVENT_FIELDS.index("event_id")
_TRANSACTION_ID_OF_ENTRY = 1 + ENTRY_FIELDS.index("transaction_id")
_EVENT_ID_OF_ENTRY = 1 + ENTRY_FIELDS.index("event_id")
_POSITION = 1 + ENTRY_FIELDS.index("position")


class _StoredRow(NamedTuple):
    """A row of a range, ordered as it is hashed."""

    recorded_txid: int
    transaction_id: bytes
    place: int
    digest: bytes
    position: int
    event_id: str | None


async def verify_chain(engine: AsyncEngine, expected_hash: bytes | None = None) -> ChainReport:
    """Recomputes every seal from the rows that it covers, on one snapshot of the database. Writes nothing.

    With `expected_hash` also tells whether a seal of the chain has it. Holds the rows of one seal at a time. `engine` may log in
    as any role that reads the tables. Raises DatabaseUnavailable, DatabaseTimeout.
    """
    async with autocommit(engine) as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        await allow_seconds(connection, CHECK_TIMEOUT_SECONDS)
        # To count is to read whole tables; the ranges of the seals are not.
        await connection.execute("SET LOCAL enable_seqscan = on")
        bounds = await connection.fetchrow(SELECT_BOUNDS, timeout=CHECK_TIMEOUT_SECONDS)
        await connection.execute("SET LOCAL enable_seqscan = off")
        walk = _Walk(connection, bounds["latest_epoch"], expected_hash)
        while (row := await connection.fetchrow(SELECT_SEAL, walk.head.sequence if walk.head else 0)) is not None:
            await walk.go_on_to(seal_of(row, row["row_digests"]))
    return walk.report(bounds["rows_count"])


class _Walk:
    """The way along the chain: what was found so far."""

    def __init__(self, connection: Connection, latest_epoch: int, expected_hash: bytes | None) -> None:
        self._connection = connection
        self._latest_epoch = latest_epoch
        self._expected_hash = expected_hash
        self._expected_sequence: int | None = None
        self._findings: dict[str, list[Finding]] = defaultdict(list)
        self._findings_count: dict[str, int] = defaultdict(int)
        self._events_count = 0
        self._entries_count = 0
        self._rows_seen = 0
        self.head: Seal | None = None

    async def go_on_to(self, seal: Seal) -> None:
        """Looks at the next seal, its link to the one before and its rows."""
        fault = link_fault(self.head, seal)
        if fault is not None:
            self._found(LINKS, f"seal {seal.sequence}", fault)
        elif seal.hash == self._expected_hash:
            self._expected_sequence = seal.sequence
        await self._check_rows(seal, await self._stored_rows(seal))
        self._events_count += seal.events_count
        self._entries_count += seal.entries_count
        self.head = seal

    def report(self, rows_count: int) -> ChainReport:
        """All that was found."""
        checks = [LINKS, ROWS]
        if self._expected_hash is not None:
            checks.append(EXPECTED)
            if self._expected_sequence is None:
                entity, detail = f"hash {self._expected_hash.hex()}", "no seal has it: the chain was cut off or written anew"
                self._found(EXPECTED, entity, detail)
        for check, count in self._findings_count.items():
            if (left_out := count - len(self._findings[check])) > 0:
                self._findings[check].append(Finding(check, Severity.ERROR, "more", f"{left_out} more like these"))
        return ChainReport(
            audit=AuditReport(tuple(checks), tuple(finding for check in checks for finding in self._findings[check])),
            head=self.head,
            events_count=self._events_count,
            entries_count=self._entries_count,
            unsealed_count=rows_count - self._rows_seen,
            expected_sequence=self._expected_sequence,
        )

    async def _stored_rows(self, seal: Seal) -> list[_StoredRow]:
        rows: list[_StoredRow] = []
        range_ = (seal.first_txid, seal.end_txid)
        for row in await self._connection.fetch(SELECT_EVENTS, *range_, timeout=CHECK_TIMEOUT_SECONDS):
            transaction_id = bytes.fromhex(row[_TRANSACTION_ID_OF_EVENT].replace("-", ""))
            digest = row_digest(EVENT_TITLE, row[1:])
            rows.append(_StoredRow(row[0], transaction_id, EVENT_PLACE, digest, 0, row[_EVENT_ID_OF_EVENT]))
        for row in await self._connection.fetch(SELECT_ENTRIES, *range_, timeout=CHECK_TIMEOUT_SECONDS):
            transaction_id = bytes.fromhex(row[_TRANSACTION_ID_OF_ENTRY].replace("-", ""))
            digest = row_digest(ENTRY_TITLE, row[1:])
            position = row[_POSITION]
            place = min(max(position, EVENT_PLACE + 1), PLACE_MAX)
            rows.append(_StoredRow(row[0], transaction_id, place, digest, position, row[_EVENT_ID_OF_ENTRY]))
        rows.sort()
        return rows

    async def _check_rows(self, seal: Seal, rows: Sequence[_StoredRow]) -> None:
        transactions = _transactions(rows)
        if contents_hash(transactions) == seal.contents_hash and packed(transactions) == seal.row_digests:
            self._rows_seen += len(rows)
            return
        try:
            sealed_ids = {kept.transaction_id for kept in unpacked(seal.row_digests)}
        except ValueError:
            self._found(ROWS, f"seal {seal.sequence}", "its row digests cannot be read, so its rows cannot be told")
            return
        # After a restore the ranges of epochs overlap, and a range holds rows of other seals too.
        own = [transaction for transaction in transactions if transaction.transaction_id in sealed_ids]
        self._rows_seen += sum(len(transaction.places) for transaction in own)
        if contents_hash(own) != seal.contents_hash or packed(own) != seal.row_digests:
            tampered = tampered_rows(seal.row_digests, own)
            for row in tampered:
                self._found_row(seal, row, rows)
            if not tampered:
                self._found(ROWS, f"seal {seal.sequence}", "its rows are not those that were sealed")
        if seal.epoch == self._latest_epoch:
            await self._check_others(seal, sealed_ids, rows)

    async def _check_others(self, seal: Seal, sealed_ids: set[bytes], rows: Sequence[_StoredRow]) -> None:
        """What is in the range of a seal of the latest epoch, and in no seal, was not there when it was made."""
        others = [row for row in rows if row.transaction_id not in sealed_ids]
        if others and seal.epoch > 1:
            found = await self._connection.fetch(SELECT_ROW_DIGESTS_BEFORE, seal.epoch, seal.first_txid, seal.end_txid)
            earlier = {kept.transaction_id for row in found for kept in unpacked(row["row_digests"])}
            others = [row for row in others if row.transaction_id not in earlier]
        self._rows_seen += len(others)
        for row in others:
            self._found_row(seal, TamperedRow(Change.INSERTED, row.transaction_id, row.place, row.digest), rows)

    def _found_row(self, seal: Seal, tampered: TamperedRow, rows: Sequence[_StoredRow]) -> None:
        siblings = [row for row in rows if row.transaction_id == tampered.transaction_id]
        there = next((row for row in siblings if (row.place, row.digest) == (tampered.place, tampered.digest)), None)
        transaction_id = UUID(bytes=tampered.transaction_id)
        if tampered.place == EVENT_PLACE:
            # Of a deleted event its entries tell the id, if they are there.
            event_id = next((row.event_id for row in ([there] if there else siblings) if row.event_id is not None), None)
            entity = f"event {event_id}" if event_id is not None else f"event of transaction {transaction_id}"
        else:
            position = there.position if there else tampered.place
            entity = f"entry {transaction_id}/{position}"
            if not there and position == PLACE_MAX:
                entity += " or a later position"
        self._found(ROWS, entity, f"{tampered.change} after seal {seal.sequence} was made at {seal.sealed_at:%Y-%m-%dT%H:%M:%SZ}")

    def _found(self, check: str, entity: str, detail: str) -> None:
        self._findings_count[check] += 1
        if len(self._findings[check]) < FINDINGS_PER_CHECK_MAX:
            self._findings[check].append(Finding(check, Severity.ERROR, entity, detail))


def _transactions(rows: Sequence[_StoredRow]) -> list[SealedTransaction]:
    """Ordered rows, put together by transaction."""
    places: dict[tuple[int, bytes], bytearray] = defaultdict(bytearray)
    digests: dict[tuple[int, bytes], list[bytes]] = defaultdict(list)
    for row in rows:
        key = (row.recorded_txid, row.transaction_id)
        places[key].append(row.place)
        digests[key].append(row.digest)
    return [SealedTransaction(*key, bytes(found), b"".join(digests[key])) for key, found in places.items()]
