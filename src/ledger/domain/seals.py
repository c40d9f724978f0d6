"""Seals: a chain of hashes over events, payments and entries, so that a change to any shows.

docs/seals.md specifies the same byte by byte, for a program in another language that recomputes the
chain. A test checks the example there.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from ledger.domain.audit import AuditReport
from ledger.domain.events import FIRST_BUSINESS_FIELDS, LATER_FIELDS, microseconds

# The fields of a row in the order in which they are hashed, by the names of their columns. An entry
# has restaurant_id, account_id and currency from its balance account, a payment its three ids of
# payer and payee likewise. The number in a title is the version of the set of fields.
EVENT_TITLE = "ledger-event/1"
SEALED_EVENT_FIELDS = (
    "event_id",
    "fingerprint",
    "transaction_id",
    "batch_id",
    *FIRST_BUSINESS_FIELDS,
    "recorded_txid",
    "recorded_at",
    "metadata",
)
# An event on which a later field is set. Other events keep the first version, so that their seals
# stay valid.
LATER_EVENT_TITLE = "ledger-event/2"
SEALED_LATER_EVENT_FIELDS = (*SEALED_EVENT_FIELDS, *LATER_FIELDS)
EVENTS_VERSION = 2
ENTRY_TITLE = "ledger-entry/1"
SEALED_ENTRY_FIELDS = (
    "recorded_txid",
    "transaction_id",
    "position",
    "balance_account_id",
    "restaurant_id",
    "currency",
    "entry_type",
    "debit_account",
    "credit_account",
    "amount_minor",
    "available_at",
    "occurred_at",
    "recorded_at",
    "event_id",
    "payout_id",
)
# An entry with a payment_id. Other entries keep the first version, so that their seals stay valid.
PAYMENT_ENTRY_TITLE = "ledger-entry/2"
SEALED_PAYMENT_ENTRY_FIELDS = (*SEALED_ENTRY_FIELDS, "account_id", "payment_id")
PAYMENT_TITLE = "ledger-payment/1"
# All but the state and the two sums, which change: the operations have each of their values.
SEALED_PAYMENT_FIELDS = (
    "payment_id",
    "transaction_id",
    "batch_id",
    "payer_balance_account_id",
    "payer_account_id",
    "payee_balance_account_id",
    "payee_account_id",
    "payee_restaurant_id",
    "currency",
    "amount_minor",
    "fee_minor",
    "capture",
    "expires_at",
    "reference",
    "decline_reason",
    "recorded_txid",
    "recorded_at",
    "metadata",
)
OPERATION_TITLE = "ledger-payment-operation/1"
SEALED_OPERATION_FIELDS = (
    "payment_id",
    "sequence",
    "operation_id",
    "transaction_id",
    "batch_id",
    "kind",
    "requested_minor",
    "is_final",
    "amount_minor",
    "released_minor",
    "decline_reason",
    "state",
    "captured_minor",
    "refunded_minor",
    "recorded_txid",
    "recorded_at",
)
SEAL_TITLE = "ledger-seal/1"
# Stands for an absent value: no field that may be absent can hold it.
ABSENT = "~"

DIGEST_BYTES = 32
# How much of a row's digest a seal keeps. It only shows which row of a broken seal was changed;
# hashes of full length show that the seal is broken.
SHORT_DIGEST_BYTES = 6
TRANSACTION_ID_BYTES = 16
# A row's place in its transaction: 0 for the cause, which is an event, a payment or an operation of
# one; the position for an entry. Seven bits, the eighth marks the last row.
CAUSE_PLACE = 0
PLACE_MAX = 127
LAST = 0x80
ROW_BYTES = 1 + SHORT_DIGEST_BYTES

FIRST_PREVIOUS_HASH = bytes(DIGEST_BYTES)


def row_digest(title: str, values: Sequence[str | int | None]) -> bytes:
    """SHA-256 of a row's canonical bytes: its title and its fields, in the order above, joined by
    line feeds, in UTF-8.

    Instants are microseconds since 1970, the fingerprint is hexadecimal, a boolean 0 or 1, metadata
    PostgreSQL's text of a jsonb. No other field can hold a line feed, and the metadata escapes it,
    so joining by it is unambiguous.
    """
    lines = [title]
    lines += [ABSENT if value is None else str(value) for value in values]
    return hashlib.sha256("\n".join(lines).encode()).digest()


class SealedTransaction(NamedTuple):
    """The rows of one transaction id in one database transaction, by place and digest.

    `places` has a byte for each row, `digests` DIGEST_BYTES for each.
    """

    recorded_txid: int
    transaction_id: bytes
    places: bytes
    digests: bytes


class PackedTransaction(NamedTuple):
    """All rows of one database transaction, in the order of a seal: `digests` has DIGEST_BYTES for
    each, `row_digests` is what a seal keeps of them.

    `recorded_at` is no part of a seal. It shows how far sealing is behind, and is None where that
    is not needed.
    """

    recorded_txid: int
    events_count: int
    rows_count: int
    digests: bytes
    row_digests: bytes
    recorded_at: datetime | None = None

    def without(self, transaction_ids: Collection[bytes]) -> "PackedTransaction":
        """Returns the rows of all other transaction ids."""
        kept: list[SealedTransaction] = []
        start = 0
        for transaction_id, rows in groupby(
            unpacked(self.row_digests), key=attrgetter("transaction_id")
        ):
            places = bytes(row.place for row in rows)
            end = start + len(places) * DIGEST_BYTES
            if transaction_id not in transaction_ids:
                kept.append(
                    SealedTransaction(
                        self.recorded_txid, transaction_id, places, self.digests[start:end]
                    )
                )
            start = end
        return packed(self.recorded_txid, kept)


def packed(recorded_txid: int, transactions: Sequence[SealedTransaction]) -> PackedTransaction:
    """Packs the rows of one database transaction, given by transaction id.

    For the sealer PostgreSQL packs them in the same way.
    """
    contents = contents_of(transactions)
    digests = b"".join(transaction.digests for transaction in transactions)
    return PackedTransaction(
        recorded_txid, contents.events_count, contents.rows_count, digests, contents.row_digests()
    )


class SealContents:
    """What a seal says about its rows, which are added some at a time: there may be more of them
    than memory has room for.

    Add them in the order of recorded_txid, transaction id, place and digest. Rows of one
    transaction id may come in several calls of `add`.
    """

    def __init__(self) -> None:
        self.events_count = 0
        self.rows_count = 0
        self._hash = hashlib.sha256()
        self._packed = bytearray()
        self._last: tuple[int, bytes] | None = None

    def add(self, transactions: Iterable[SealedTransaction]) -> None:
        """Adds the next rows."""
        for transaction in transactions:
            self.events_count += transaction.places.count(CAUSE_PLACE)
            self.rows_count += len(transaction.places)
            self._hash.update(transaction.digests)
            if (transaction.recorded_txid, transaction.transaction_id) != self._last:
                self._mark_last()
                self._packed += transaction.transaction_id
                self._last = (transaction.recorded_txid, transaction.transaction_id)
            for number, place in enumerate(transaction.places):
                start = number * DIGEST_BYTES
                self._packed.append(place)
                self._packed += transaction.digests[start : start + SHORT_DIGEST_BYTES]

    def add_packed(self, transaction: PackedTransaction) -> None:
        """Adds all rows of the next database transaction."""
        self._mark_last()
        self._last = None
        self.events_count += transaction.events_count
        self.rows_count += transaction.rows_count
        self._hash.update(transaction.digests)
        self._packed += transaction.row_digests

    @property
    def contents_hash(self) -> bytes:
        """SHA-256 over the digests of all rows, in order."""
        return self._hash.digest()

    @property
    def row_digests_bytes(self) -> int:
        """The length of `row_digests`, so far."""
        return len(self._packed)

    def row_digests(self) -> bytes:
        """What a seal keeps to identify its rows: each transaction id, then for each of its rows
        the place and a short digest.

        Call it after the last row was added.
        """
        self._mark_last()
        return bytes(self._packed)

    def _mark_last(self) -> None:
        if self._packed:
            self._packed[-ROW_BYTES] |= LAST


def contents_of(transactions: Iterable[SealedTransaction]) -> SealContents:
    """The contents of a seal whose rows are all in memory."""
    contents = SealContents()
    contents.add(transactions)
    return contents


class KeptRow(NamedTuple):
    """What a seal keeps of a row."""

    transaction_id: bytes
    place: int
    short_digest: bytes


def unpacked(row_digests: bytes) -> Iterator[KeptRow]:
    """Yields the rows of `SealContents.row_digests`.

    Raises ValueError for bytes that it cannot have made.
    """
    at = 0
    while at < len(row_digests):
        transaction_id = row_digests[at : at + TRANSACTION_ID_BYTES]
        at += TRANSACTION_ID_BYTES
        is_last = False
        while not is_last:
            row = row_digests[at : at + ROW_BYTES]
            if len(row) < ROW_BYTES:
                raise ValueError("the bytes end within a row")
            is_last = bool(row[0] & LAST)
            yield KeptRow(transaction_id, row[0] & ~LAST, row[1:])
            at += ROW_BYTES


@dataclass(frozen=True, slots=True)
class Seal:
    """One link of the chain. Its fields are columns of ledger_seals: see sql/schema.sql.

    `events_count` counts all rows at CAUSE_PLACE.
    """

    sequence: int
    epoch: int
    is_restored: bool
    system_identifier: int
    first_txid: int
    end_txid: int
    events_count: int
    entries_count: int
    contents_hash: bytes
    row_digests: bytes
    sealed_at: datetime
    previous_hash: bytes
    hash: bytes = b""

    def computed_hash(self) -> bytes:
        """What `hash` is if the seal is unchanged: SHA-256 over all other fields, one a line."""
        lines = (
            SEAL_TITLE,
            self.sequence,
            self.epoch,
            int(self.is_restored),
            self.system_identifier,
            self.first_txid,
            self.end_txid,
            self.events_count,
            self.entries_count,
            self.contents_hash.hex(),
            hashlib.sha256(self.row_digests).hexdigest(),
            microseconds(self.sealed_at),
            self.previous_hash.hex(),
        )
        return hashlib.sha256("\n".join(map(str, lines)).encode()).digest()


def link_fault(previous: Seal | None, seal: Seal) -> str | None:
    """What is wrong, in words, with a seal or its link to the one before; None if nothing is."""
    if seal.sequence != (previous.sequence + 1 if previous else 1):
        followed = f"seal {previous.sequence}" if previous else "nothing"
        return f"follows {followed}: seals between them are missing"
    if seal.previous_hash != (previous.hash if previous else FIRST_PREVIOUS_HASH):
        return "its previous hash is not the hash of the seal before it"
    if seal.hash != seal.computed_hash():
        return "its hash is not the hash of its fields"
    epoch = previous.epoch if previous else 0
    if seal.epoch == epoch and previous is not None:
        same = (seal.is_restored, seal.system_identifier) == (
            previous.is_restored,
            previous.system_identifier,
        )
        if not same or seal.first_txid != previous.end_txid:
            return f"its range does not begin where that of seal {previous.sequence} ends"
    elif seal.epoch != epoch + 1 or (not seal.is_restored and seal.first_txid != 0):
        return "its epoch is not the next one, or does not begin with txid 0"
    return None


class Change(StrEnum):
    """What was done to a row after it was sealed."""

    CHANGED = "was changed"
    DELETED = "was deleted"
    INSERTED = "was inserted"


class TamperedRow(NamedTuple):
    """A row that differs from what was sealed."""

    change: Change
    transaction_id: bytes
    place: int
    # Of the row as it is stored now; empty if it was deleted.
    digest: bytes


def tampered_rows(
    kept_rows: Iterable[KeptRow], transactions: Iterable[SealedTransaction]
) -> list[TamperedRow]:
    """The differences between the sealed rows and the stored ones.

    A stored row with a sealed place and another digest was changed. Any other sealed row without a
    stored one was deleted, and a stored one without a sealed one was inserted.
    """
    kept: dict[tuple[bytes, int], list[bytes]] = defaultdict(list)
    for row in kept_rows:
        kept[row.transaction_id, row.place].append(row.short_digest)
    unknown: list[tuple[bytes, int, bytes]] = []
    for transaction in transactions:
        for number, place in enumerate(transaction.places):
            digest = transaction.digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
            missing = kept[transaction.transaction_id, place]
            if digest[:SHORT_DIGEST_BYTES] in missing:
                missing.remove(digest[:SHORT_DIGEST_BYTES])
            else:
                unknown.append((transaction.transaction_id, place, digest))
    found: list[TamperedRow] = []
    for transaction_id, place, digest in unknown:
        missing = kept[transaction_id, place]
        found.append(
            TamperedRow(
                Change.CHANGED if missing else Change.INSERTED, transaction_id, place, digest
            )
        )
        del missing[:1]
    for (transaction_id, place), missing in kept.items():
        found += [TamperedRow(Change.DELETED, transaction_id, place, b"") for _ in missing]
    return found


@dataclass(frozen=True, slots=True)
class HeadAt:
    """The head of the chain as it was at an instant; None if nothing was sealed then.

    `unsealed_count` is how many rows that were recorded before the instant no seal has now.
    """

    head: Seal | None
    unsealed_count: int


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What recomputing the chain showed. `head` is the latest seal; counts are of rows.

    `payments_count` and `operations_count` are of sealed rows that are still there.
    `expected_sequence` is the sequence of the seal with the expected hash; None if no seal has it,
    or no hash was expected.
    """

    audit: AuditReport
    head: Seal | None
    events_count: int
    entries_count: int
    payments_count: int
    operations_count: int
    unsealed_count: int
    expected_sequence: int | None
