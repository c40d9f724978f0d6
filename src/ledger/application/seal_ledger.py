"""Seals the books: adds the rows that are final to the chain of hashes.

It works in the background, and no write waits for it.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime

from ledger.application.ports.seals import (
    WHOLE,
    PartedTransaction,
    SealedBooks,
    SealLag,
    SealPart,
    SealPosition,
)
from ledger.domain.seals import FIRST_PREVIOUS_HASH, PackedTransaction, Seal, SealContents
from ledger.repeating import Repeating, ReportFailure

# A seal is full with this many rows. The rows of one database transaction stay in one seal.
SEAL_ROWS = 4096
# How many rows an SQL statement reads, at most. A larger database transaction is read in slices.
READ_ROWS_MAX = 4 * SEAL_ROWS
# A database transaction with more rows is sealed in parts of about this many.
PART_ROWS = 4_000_000
# A seal keeps 7 to 23 bytes of each row. While it is sent, memory holds them some five times. A
# transaction id with more rows than fit is not sealed, and nothing after it.
ROW_DIGESTS_BYTES_MAX = 1 << 27
# How many txids the first SQL statement of a process looks at.
FIRST_REACH_TXIDS = 4096
# A sealer that has not caught up rests this many times as long as it worked: hashing an event costs
# PostgreSQL half as much as storing it. A sealer that rests four fifths of the time still seals
# some 10,000 events a second. While calls wait for the database it takes a twentieth of a core.
REST_RATIO = 4
BUSY_REST_RATIO = 19
# The further it falls behind, the less it rests; this far behind, beyond its interval, not at all.
# From then on it reads several ranges at once, one more for each such span that it is behind: so
# its share of the database grows until it keeps up with what is booked.
CATCH_UP_SECONDS = 30.0
READS_AT_ONCE_MAX = 4
# This far behind, the log warns the operator, and again after each span of ALARM_AGAIN_SECONDS.
ALARM_SECONDS = 300.0
ALARM_AGAIN_SECONDS = 60.0
# How many moments are remembered with the next txid of each. They show since when a txid waits.
MOMENTS_MAX = 1000
PAUSE_SECONDS_MAX = 600.0
STOP_SECONDS = 1.0
# Greater than the txid of any database transaction.
TXID_END = 2**63 - 1


class TransactionTooLarge(Exception):
    """A transaction id, or a restored transaction, has more rows than a seal can keep."""


class LedgerSealer:
    """Adds seals to the chain. Other servers may do so at the same time.

    The database accepts one seal of each sequence, so of two sealers one loses and tries again.

    An epoch belongs to one stay of the books, which is the time they spend in one cluster. It
    covers the txids of that cluster from 0 up to the horizon, range by range. Rows that an earlier
    epoch has sealed are not sealed again. Rows restored from another cluster may have txids that
    this one has yet to reach: a separate epoch seals them first, or they would wait for years.

    A database transaction with more rows than a seal may keep is sealed in parts, by transaction
    id. Each part is a separate epoch, marked like those of restored rows, since no other kind may
    begin where it does. After the last part an epoch begins that looks at everything once more.
    """

    def __init__(
        self, books: SealedBooks, *, read_rows_max: int = READ_ROWS_MAX, part_rows: int = PART_ROWS
    ) -> None:
        self._books = books
        self._part_rows = part_rows
        self._read_rows_max = read_rows_max
        # As of the last call of `seal_next`.
        self.lag = SealLag(0, 0.0)
        self._moments: deque[tuple[datetime, int]] = deque()
        self._rows_a_txid = 0.0
        self._reads_at_once = 1
        # How many txids an SQL statement looks at. Remembered, because the next range that holds
        # the rows of a few seals has about as many.
        self._reach_txids = FIRST_REACH_TXIDS

    async def seal_next(self, reads_at_once: int = 1) -> bool:
        """Seals the next rows that are final. False if none are, or another sealer was faster.

        `reads_at_once` is the number of sessions that read rows; with more, more rows are sealed.

        Raises DatabaseUnavailable, DatabaseContention, DatabaseTimeout, TransactionTooLarge.
        """
        await self._books.index_new_rows()
        position = await self._books.position()
        self._reads_at_once = reads_at_once
        head = position.head
        if head is None or not position.is_of_this_stay:
            epoch = head.epoch + 1 if head else 1
            return await self._seal(
                position, epoch, position.next_txid, is_restored=True
            ) or await self._seal(position, epoch, 0)
        if head.is_restored and (parted := await self._books.parted(position)) is not None:
            return await self._seal_part(position, parted) or await self._seal(
                position, head.epoch + 1, 0
            )
        if head.is_restored:
            return await self._seal(
                position, head.epoch, head.end_txid, is_restored=True
            ) or await self._seal(position, head.epoch + 1, 0)
        return await self._seal(position, head.epoch, head.end_txid)

    async def _seal(
        self, position: SealPosition, epoch: int, first_txid: int, *, is_restored: bool = False
    ) -> bool:
        limit_txid = TXID_END if is_restored else position.horizon_txid
        start_txid = first_txid
        oldest_at: datetime | None = None
        while start_txid < limit_txid:
            end_txid, transactions = await self._read(
                start_txid, limit_txid, is_restored=is_restored
            )
            if transactions is None or transactions:
                # Also if all are sealed already: an empty seal records how far we have looked.
                if transactions is None and not is_restored:
                    if await self._books.is_sealed_in_parts(start_txid):
                        return await self._append(
                            position, epoch, first_txid, [(end_txid, SealContents())]
                        )
                    if (
                        await self._books.next_part(start_txid, b"", self._part_rows)
                    ).last_id is not None:
                        # Nothing is left of it if earlier epochs, maybe of another stay, have
                        # sealed all.
                        parted = PartedTransaction(start_txid, b"", epoch)
                        return await self._seal_part(position, parted) or await self._append(
                            position, epoch, first_txid, [(end_txid, SealContents())]
                        )
                earlier = await self._books.sealed_before(epoch, start_txid, end_txid)
                if transactions is None:
                    parts = [
                        (
                            end_txid,
                            await self._contents(
                                start_txid, end_txid, earlier, is_restored=is_restored
                            ),
                        )
                    ]
                    oldest_at = None
                else:
                    oldest_at = min(
                        (each.recorded_at for each in transactions if each.recorded_at),
                        default=None,
                    )
                    # In a thread, so that calls do not wait while the rows are packed.
                    parts = await asyncio.to_thread(_parts_of, transactions, earlier, end_txid)
                    rows = sum(contents.rows_count for _, contents in parts)
                    self._rows_a_txid = rows / (
                        1 + transactions[-1].recorded_txid - transactions[0].recorded_txid
                    )
                if not is_restored:
                    self._update_lag(position, end_txid, oldest_at)
                return await self._append(
                    position, epoch, first_txid, parts, is_restored=is_restored
                )
            start_txid = end_txid
        if not is_restored:
            self._update_lag(position, start_txid, None)
        return False

    async def _append(
        self,
        position: SealPosition,
        epoch: int,
        first_txid: int,
        parts: Sequence[tuple[int, SealContents]],
        *,
        is_restored: bool = False,
    ) -> bool:
        seals = list(_seals(position, epoch, first_txid, parts, is_restored=is_restored))
        return await self._books.append(seals, position.stay_id)

    async def _seal_part(self, position: SealPosition, parted: PartedTransaction) -> bool:
        """Seals the next part of a large transaction. False if nothing is left to seal."""
        earlier = await self._books.sealed_before(parted.epoch_before, parted.txid, parted.txid + 1)
        contents, last_id = SealContents(), parted.last_id
        # Skips parts that earlier epochs have sealed.
        while not contents.rows_count:
            part = await self._books.next_part(parted.txid, last_id, self._part_rows)
            contents = await self._contents(
                parted.txid, parted.txid + 1, earlier, part, is_restored=False
            )
            if part.last_id is None:
                break
            last_id = part.last_id
        if not contents.rows_count:
            return False
        self._update_lag(position, parted.txid, None)
        # It begins where the seals before it end: this distinguishes a part from restored rows.
        head = position.head
        first_txid = 0 if head is None else head.first_txid if head.is_restored else head.end_txid
        epoch = 1 if head is None else head.epoch + 1
        return await self._append(
            position, epoch, first_txid, [(parted.txid + 1, contents)], is_restored=True
        )

    def _update_lag(
        self, position: SealPosition, sealed_until_txid: int, oldest_at: datetime | None
    ) -> None:
        """Sets `lag`, how far sealing is behind.

        `oldest_at` is when the oldest row of the range was recorded. Rows that are not final have
        waited since the first remembered moment whose next txid is beyond the sealed range.
        """
        self._moments.append((position.now, position.next_txid))
        if len(self._moments) > MOMENTS_MAX:
            del self._moments[1]
        while self._moments and self._moments[0][1] <= sealed_until_txid:
            self._moments.popleft()
        since = [
            at
            for at in (self._moments[0][0] if self._moments else None, oldest_at)
            if at is not None
        ]
        seconds = max(((position.now - at).total_seconds() for at in since), default=0.0)
        waiting_txids = max(0, position.next_txid - sealed_until_txid)
        self.lag = SealLag(math.ceil(waiting_txids * self._rows_a_txid), max(0.0, seconds))

    async def _contents(
        self,
        start_txid: int,
        end_txid: int,
        earlier: set[bytes],
        part: SealPart = WHOLE,
        *,
        is_restored: bool,
    ) -> SealContents:
        """Reads the contents of one database transaction, or of a part of it, in slices.

        Raises TransactionTooLarge.
        """
        contents = SealContents()
        async with aclosing(
            self._books.slices(start_txid, end_txid, part, is_restored=is_restored)
        ) as slices:
            async for transactions in slices:
                contents.add([each for each in transactions if each.transaction_id not in earlier])
                if contents.row_digests_bytes > ROW_DIGESTS_BYTES_MAX:
                    raise TransactionTooLarge(
                        f"transaction {start_txid} has more than {contents.rows_count} rows"
                    )
        return contents

    async def _read(
        self, start_txid: int, limit_txid: int, *, is_restored: bool
    ) -> tuple[int, Sequence[PackedTransaction] | None]:
        """Reads a range that holds the rows of a few seals, or all rows that there are.

        Returns where the range ends, and its transactions; None instead of these if the range is a
        single transaction with more rows than are read at once.
        """
        narrowed = False
        # The last range read, if it has fewer rows than a seal.
        few: tuple[int, Sequence[PackedTransaction]] | None = None
        while True:
            end_txid = min(start_txid + self._reach_txids, limit_txid)
            starts = range(start_txid, limit_txid, self._reach_txids)[
                : 1 if narrowed else self._reads_at_once
            ]
            ranges = [(start, min(start + self._reach_txids, limit_txid)) for start in starts]
            transactions, *others = await self._read_all(ranges, is_restored=is_restored)
            if transactions is None:
                if few is not None:
                    # The rows after these few are too many for one read.
                    self._reach_txids = few[0] - start_txid
                    return few
                if end_txid == start_txid + 1:
                    return end_txid, None
                self._reach_txids = max(1, (end_txid - start_txid) // 4)
                narrowed = True
                continue
            # Up to the first gap.
            together = list(transactions)
            for (_, range_end_txid), more in zip(ranges[1:], others, strict=True):
                if more is None:
                    break
                end_txid = range_end_txid
                together += more
            rows = sum(transaction.rows_count for transaction in together)
            if (
                rows < len(ranges) * self._read_rows_max // 2
                and not narrowed
                and end_txid < limit_txid
            ):
                self._reach_txids *= 2
                if rows < SEAL_ROWS:
                    few = (end_txid, together) if rows else None
                    continue
            return end_txid, together

    async def _read_all(
        self, ranges: Sequence[tuple[int, int]], *, is_restored: bool
    ) -> list[Sequence[PackedTransaction] | None]:
        """Reads several ranges at once, each in a separate session."""
        reads = [
            asyncio.ensure_future(
                self._books.transactions(
                    start_txid, end_txid, self._read_rows_max, is_restored=is_restored
                )
            )
            for start_txid, end_txid in ranges
        ]
        try:
            return await asyncio.gather(*reads)
        finally:
            for read in reads:
                read.cancel()
            await asyncio.gather(*reads, return_exceptions=True)


def _seals(
    position: SealPosition,
    epoch: int,
    first_txid: int,
    parts: Sequence[tuple[int, SealContents]],
    *,
    is_restored: bool,
) -> Iterator[Seal]:
    """Yields the seals that follow the head, one for each part. A part has the txid of its end."""
    sequence, previous_hash = (
        (position.head.sequence, position.head.hash) if position.head else (0, FIRST_PREVIOUS_HASH)
    )
    for end_txid, contents in parts:
        sequence += 1
        seal = Seal(
            sequence=sequence,
            epoch=epoch,
            is_restored=is_restored,
            system_identifier=position.system_identifier,
            first_txid=first_txid,
            end_txid=end_txid,
            events_count=contents.events_count,
            entries_count=contents.rows_count - contents.events_count,
            contents_hash=contents.contents_hash,
            row_digests=contents.row_digests(),
            sealed_at=position.now,
            previous_hash=previous_hash,
        )
        seal = replace(seal, hash=seal.computed_hash())
        yield seal
        first_txid, previous_hash = seal.end_txid, seal.hash


def _parts(
    transactions: Iterable[PackedTransaction], end_txid: int
) -> Iterator[tuple[int, SealContents]]:
    """Cuts a range between database transactions into parts with the rows of a full seal.

    Yields at least one part. The last one ends with the range.
    """
    contents = SealContents()
    part_end_txid = 0
    for transaction in transactions:
        if contents.rows_count >= SEAL_ROWS:
            yield part_end_txid, contents
            contents = SealContents()
        contents.add_packed(transaction)
        part_end_txid = transaction.recorded_txid + 1
    yield end_txid, contents


def _parts_of(
    transactions: Sequence[PackedTransaction], earlier: set[bytes], end_txid: int
) -> list[tuple[int, SealContents]]:
    """Like `_parts`, without the transaction ids that `earlier` epochs have sealed."""
    if earlier:
        fresh = (transaction.without(earlier) for transaction in transactions)
        return list(
            _parts((transaction for transaction in fresh if transaction.rows_count), end_txid)
        )
    return list(_parts(transactions, end_txid))


def rest_ratio(behind_seconds: float, *, is_busy: bool) -> float:
    """How long a sealer rests, as a multiple of the time that it worked.

    The further it is behind its interval, the less it rests. A sealer that is behind for a moment
    must not take the database's time from calls.
    """
    ratio = BUSY_REST_RATIO if is_busy else REST_RATIO
    return ratio * min(1.0, max(0.0, 1.0 - behind_seconds / CATCH_UP_SECONDS))


def reads_at_once(behind_seconds: float, reads_max: int) -> int:
    """In how many sessions a sealer reads at once, by how far it is behind its interval."""
    return max(1, min(reads_max, 1 + int(behind_seconds // CATCH_UP_SECONDS)))


class SealWorker:
    """Seals the books every few seconds. Every server has one such worker."""

    def __init__(
        self,
        sealer: LedgerSealer,
        *,
        interval_seconds: float,
        on_failure: ReportFailure,
        is_busy: Callable[[], bool] = lambda: False,
        on_lag: Callable[[SealLag], None] = lambda _lag: None,
        on_alarm: Callable[[SealLag], None] = lambda _lag: None,
        reads_at_once_max: int = READS_AT_ONCE_MAX,
    ) -> None:
        """An interval of 0 turns it off.

        `is_busy` returns whether calls wait for the database now. `on_lag` gets how far sealing is
        behind, each time that it looked for rows. `on_alarm` gets the same when it is behind its
        interval by more than ALARM_SECONDS, at most once in ALARM_AGAIN_SECONDS.
        """
        self._sealer = sealer
        self._on_lag = on_lag
        self._on_alarm = on_alarm
        self._reads_at_once_max = reads_at_once_max
        self._alarmed_at = -math.inf
        self._is_busy = is_busy
        self._interval_seconds = interval_seconds
        self._work = Repeating(
            "sealing",
            self._seal_all,
            every_seconds=interval_seconds,
            begins_at_once=False,
            # Rows that cannot be sealed, such as tens of millions that one transaction wrote by
            # hand, take the database's time each time.
            retry_seconds=min(2 * interval_seconds, max(PAUSE_SECONDS_MAX, interval_seconds)),
            retry_seconds_max=PAUSE_SECONDS_MAX,
            stop_seconds=STOP_SECONDS,
            on_failure=on_failure,
        )

    def start(self) -> None:
        """Begins to seal, after a first pause."""
        if self._interval_seconds > 0:
            self._work.start()

    async def stop(self) -> None:
        """Waits STOP_SECONDS for the seal under way. Another server seals what is given up."""
        await self._work.stop()

    async def _seal_all(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            began_at = clock()
            behind_seconds = self._sealer.lag.seconds - self._interval_seconds
            sealed = await self._sealer.seal_next(
                reads_at_once(behind_seconds, self._reads_at_once_max)
            )
            self._report(self._sealer.lag, clock())
            if not sealed:
                return
            behind_seconds = self._sealer.lag.seconds - self._interval_seconds
            if not await self._work.rest(
                rest_ratio(behind_seconds, is_busy=self._is_busy()) * (clock() - began_at)
            ):
                return

    def _report(self, lag: SealLag, now: float) -> None:
        self._on_lag(lag)
        if (
            lag.seconds - self._interval_seconds > ALARM_SECONDS
            and now - self._alarmed_at >= ALARM_AGAIN_SECONDS
        ):
            self._alarmed_at = now
            self._on_alarm(lag)
