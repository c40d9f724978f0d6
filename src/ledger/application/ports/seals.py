"""The books as the sealer sees them."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from ledger.domain.seals import PackedTransaction, Seal, SealedTransaction


@dataclass(frozen=True, slots=True)
class SealPosition:
    """How far the books are sealed, at one moment.

    `head` is the latest seal, without its row digests, and `is_of_this_stay` whether the books have
    been in one place since it was made; `stay_id` names their stay there. In the cluster that
    `system_identifier` names, every database transaction below `horizon_txid` has ended, and none
    from `next_txid` on had ended yet.
    """

    head: Seal | None
    is_of_this_stay: bool
    stay_id: UUID
    system_identifier: int
    horizon_txid: int
    next_txid: int
    now: datetime


@dataclass(frozen=True, slots=True)
class SealLag:
    """How far sealing is behind: about how many rows are not sealed, and for how many seconds the
    oldest of them has been there."""

    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SealPart:
    """The rows of a database transaction with after_id < transaction id <= last_id; no last_id: all
    the rest.
    """

    after_id: bytes
    last_id: bytes | None


WHOLE = SealPart(b"", None)


@dataclass(frozen=True, slots=True)
class PartedTransaction:
    """A database transaction that is sealed in parts: its txid, the last id of the latest part,
    and the epoch of the seals before its first part.
    """

    txid: int
    last_id: bytes
    epoch_before: int


class SealedBooks(Protocol):
    """The books as the sealer sees them.

    Methods raise DatabaseUnavailable, DatabaseContention, DatabaseTimeout.
    """

    async def index_new_rows(self) -> None:
        """Indexes the rows that were recorded since the last call by their txids.

        Without it, queries by txid read these rows slowly.
        """
        ...

    async def position(self) -> SealPosition:
        """How far the books are sealed."""
        ...

    async def transactions(
        self, first_txid: int, end_txid: int, rows_max: int, *, is_restored: bool
    ) -> Sequence[PackedTransaction] | None:
        """The rows that the database transactions first_txid <= txid < end_txid recorded, in order.

        None if there are more than `rows_max`. With `is_restored`, only rows whose txid this
        cluster has yet to give out.
        """
        ...

    def slices(
        self, first_txid: int, end_txid: int, part: SealPart = WHOLE, *, is_restored: bool
    ) -> AsyncGenerator[Sequence[SealedTransaction]]:
        """The rows of `part` that the database transactions first_txid <= txid < end_txid recorded.

        Grouped by the ledger's transaction ids, and in that order. There is no limit to their
        number: a slice has some thousand rows; the rows of one transaction id may be in several
        slices. For `is_restored` see `transactions`.
        """
        ...

    async def next_part(self, txid: int, after_id: bytes, rows: int) -> SealPart:
        """The part of the database transaction `txid` after the transaction id `after_id`.

        It has about `rows` rows.
        """
        ...

    async def parted(self, position: SealPosition) -> PartedTransaction | None:
        """The transaction of which the head is a part; None if it is none."""
        ...

    async def is_sealed_in_parts(self, txid: int) -> bool:
        """Whether all rows of a database transaction are in seals of parts of it, made in the
        present stay.
        """
        ...

    async def sealed_before(self, epoch: int, first_txid: int, end_txid: int) -> set[bytes]:
        """The transaction ids in seals of earlier epochs whose range overlaps this one."""
        ...

    async def append(self, seals: Sequence[Seal], stay_id: UUID) -> bool:
        """Adds seals of a stay to the chain, all or none.

        False if another sealer has added one in the place of the first.
        """
        ...
