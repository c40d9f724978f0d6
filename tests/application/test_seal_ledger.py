"""The sealer: which rows it seals, in which order, and how far it is behind."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from operator import attrgetter
from uuid import UUID

import pytest
from support.waiting import until

from ledger.application import seal_ledger
from ledger.application.ports.seals import WHOLE, PartedTransaction, SealLag, SealPart, SealPosition
from ledger.application.seal_ledger import (
    READS_AT_ONCE_MAX,
    LedgerSealer,
    SealWorker,
    TransactionTooLarge,
    reads_at_once,
    rest_ratio,
)
from ledger.domain.seals import (
    PackedTransaction,
    Seal,
    SealedTransaction,
    link_fault,
    packed,
    unpacked,
)

# Sixteenths of the real sizes: the same divisions, in a sixteenth of the time.
SEAL_ROWS = seal_ledger.SEAL_ROWS // 16
READ_ROWS_MAX = seal_ledger.READ_ROWS_MAX // 16
FIRST_REACH_TXIDS = seal_ledger.FIRST_REACH_TXIDS // 16
SLICE_ROWS = 60
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


class FakeSealedBooks:
    """Books in memory, with a number of rows for each txid. Implements `SealedBooks`."""

    def __init__(
        self, rows_by_txid: dict[int, int], *, horizon_txid: int, next_txid: int = 10_000_000
    ) -> None:
        self.transactions_stored: list[SealedTransaction] = []
        self.system_identifier = 1
        self.stay_id = UUID(int=1)
        self.stay_of_head: UUID | None = None
        self.horizon_txid = horizon_txid
        self.next_txid = next_txid
        self.seals: list[Seal] = []
        self.reads = 0
        self.now = NOW
        self.recorded_at: datetime | None = None
        self.add(rows_by_txid)

    def add(self, rows_by_txid: dict[int, int]) -> None:
        for txid, rows in rows_by_txid.items():
            number = len(self.transactions_stored)
            digest = number.to_bytes(4, "big") * 8
            self.transactions_stored.append(
                SealedTransaction(
                    txid,
                    number.to_bytes(16, "big"),
                    bytes(min(place, 127) for place in range(rows)),
                    digest * rows,
                )
            )

    async def index_new_rows(self) -> None:
        pass

    async def position(self) -> SealPosition:
        head = replace(self.seals[-1], row_digests=b"") if self.seals else None
        return SealPosition(
            head,
            self.stay_of_head in (None, self.stay_id),
            self.stay_id,
            self.system_identifier,
            self.horizon_txid,
            self.next_txid,
            self.now,
        )

    async def transactions(
        self, first_txid: int, end_txid: int, rows_max: int, *, is_restored: bool
    ) -> Sequence[PackedTransaction] | None:
        self.reads += 1
        found = self._found(first_txid, end_txid, is_restored=is_restored)
        if sum(len(each.places) for each in found) > rows_max:
            return None
        by_txid = groupby(found, key=attrgetter("recorded_txid"))
        return [
            packed(txid, list(of))._replace(recorded_at=self.recorded_at) for txid, of in by_txid
        ]

    async def next_part(self, txid: int, after_id: bytes, rows: int) -> SealPart:
        ids = [
            each.transaction_id
            for each in self._found(txid, txid + 1, is_restored=False)
            if each.transaction_id > after_id
            for _ in each.places
        ]
        return SealPart(after_id, ids[rows - 1] if len(ids) >= rows else None)

    async def parted(self, position: SealPosition) -> PartedTransaction | None:
        head = self.seals[-1]
        before = [seal for seal in self.seals if not seal.is_restored][-1:]
        if (
            not before
            or before[0].end_txid != head.first_txid
            or before[0].system_identifier != self.system_identifier
        ):
            return None
        *_, last = unpacked(head.row_digests)
        return PartedTransaction(head.end_txid - 1, last.transaction_id, before[0].epoch)

    async def is_sealed_in_parts(self, txid: int) -> bool:
        parts = [
            seal
            for seal in self.seals
            if seal.is_restored
            and seal.end_txid == txid + 1
            and seal.system_identifier == self.system_identifier
        ]
        rows = sum(len(each.places) for each in self._found(txid, txid + 1, is_restored=False))
        return bool(parts) and rows == sum(seal.events_count + seal.entries_count for seal in parts)

    async def slices(
        self, first_txid: int, end_txid: int, part: SealPart = WHOLE, *, is_restored: bool
    ) -> AsyncGenerator[Sequence[SealedTransaction]]:
        for each in self._found(first_txid, end_txid, is_restored=is_restored):
            if each.transaction_id <= part.after_id or (
                part.last_id is not None and each.transaction_id > part.last_id
            ):
                continue
            for start in range(0, len(each.places), SLICE_ROWS):
                end = start + SLICE_ROWS
                yield [
                    each._replace(
                        places=each.places[start:end], digests=each.digests[32 * start : 32 * end]
                    )
                ]

    def _found(
        self, first_txid: int, end_txid: int, *, is_restored: bool
    ) -> list[SealedTransaction]:
        return sorted(
            each
            for each in self.transactions_stored
            if first_txid <= each.recorded_txid < end_txid
            and (not is_restored or each.recorded_txid >= self.next_txid)
        )

    async def sealed_before(self, epoch: int, first_txid: int, end_txid: int) -> set[bytes]:
        earlier = [
            seal
            for seal in self.seals
            if seal.epoch < epoch and seal.first_txid < end_txid and seal.end_txid > first_txid
        ]
        return {row.transaction_id for seal in earlier for row in unpacked(seal.row_digests)}

    async def append(self, seals: Sequence[Seal], stay_id: UUID) -> bool:
        if seals[0].sequence != len(self.seals) + 1:
            return False
        self.seals += seals
        self.stay_of_head = stay_id
        return True

    def sealed(self) -> list[int]:
        """The txids of the sealed transactions, in the order of sealing, with repeats."""
        sealed_ids = [
            row.transaction_id
            for seal in self.seals
            for row in unpacked(seal.row_digests)
            if row.place == 0
        ]
        numbers = {each.transaction_id: each.recorded_txid for each in self.transactions_stored}
        return [numbers[transaction_id] for transaction_id in sealed_ids]


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sealer uses the sizes above."""
    monkeypatch.setattr(seal_ledger, "SEAL_ROWS", SEAL_ROWS)
    monkeypatch.setattr(seal_ledger, "FIRST_REACH_TXIDS", FIRST_REACH_TXIDS)


def sealer_of(books: FakeSealedBooks, *, part_rows: int = seal_ledger.PART_ROWS) -> LedgerSealer:
    return LedgerSealer(books, read_rows_max=READ_ROWS_MAX, part_rows=part_rows)


async def seal_all(books: FakeSealedBooks) -> None:
    """Seals all rows, and asserts that the chain of seals has no fault."""
    sealer = sealer_of(books)
    while await sealer.seal_next():
        pass
    previous: Seal | None = None
    for seal in books.seals:
        assert link_fault(previous, seal) is None
        previous = seal


def rows_of(seals: Iterable[Seal]) -> list[int]:
    return [seal.events_count + seal.entries_count for seal in seals]


async def test_only_what_is_below_the_horizon_is_sealed() -> None:
    """The rest follows once the horizon has moved. No row is sealed twice, and no seal is empty."""
    books = FakeSealedBooks({5: 2, 6: 3, 8: 1}, horizon_txid=7)
    await seal_all(books)
    assert (books.sealed(), rows_of(books.seals)) == ([5, 6], [5])
    await seal_all(books)
    assert len(books.seals) == 1
    books.horizon_txid = 20
    await seal_all(books)
    assert (books.sealed(), rows_of(books.seals)) == ([5, 6, 8], [5, 1])


async def test_seals_of_many_rows_are_nearly_full() -> None:
    """On average they are at least half full."""
    many = dict.fromkeys(range(1000, 2000), 3)
    books = FakeSealedBooks(many, horizon_txid=10_000)
    await seal_all(books)
    assert books.sealed() == sorted(many)
    assert max(rows_of(books.seals)) in range(SEAL_ROWS, SEAL_ROWS + 3)
    assert len(books.seals) <= 2 * sum(rows_of(books.seals)) // SEAL_ROWS


async def test_rows_of_one_database_transaction_are_in_one_seal() -> None:
    """However many there are."""
    many = dict.fromkeys(range(1000, 2000), 3) | {1500: 3 * READ_ROWS_MAX}
    books = FakeSealedBooks(many, horizon_txid=10_000)
    await seal_all(books)
    assert books.sealed() == sorted(many)
    assert max(rows_of(books.seals)) == 3 * READ_ROWS_MAX


async def test_large_transaction_that_was_restored_is_sealed_once() -> None:
    """It is not sealed again when the cluster reaches its txid."""
    large = 2 * READ_ROWS_MAX
    books = FakeSealedBooks({5: 2, 900: large}, horizon_txid=10, next_txid=20)
    await seal_all(books)
    assert (books.sealed(), rows_of(books.seals)) == ([900, 5], [large, 2])
    books.horizon_txid, books.next_txid = 1000, 1000
    await seal_all(books)
    assert (books.sealed(), rows_of(books.seals)) == ([900, 5], [large, 2, 0])


async def test_transaction_too_large_for_a_seal_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before it fills the memory. All earlier transactions are sealed."""
    monkeypatch.setattr(seal_ledger, "ROW_DIGESTS_BYTES_MAX", 7 * READ_ROWS_MAX)
    books = FakeSealedBooks({5: 2, 900: 2 * READ_ROWS_MAX, 901: 1}, horizon_txid=1000)
    with pytest.raises(TransactionTooLarge, match="transaction 900"):
        await seal_all(books)
    assert books.sealed() == [5]


async def test_large_transaction_is_sealed_in_parts() -> None:
    """Each part once, ordered by transaction id. Then later transactions are sealed."""
    books = FakeSealedBooks({5: 2, 901: 1}, horizon_txid=1000)
    for _ in range(7):
        books.add({900: READ_ROWS_MAX // 2})
    sealer = sealer_of(books, part_rows=READ_ROWS_MAX)
    while await sealer.seal_next():
        pass
    assert books.sealed() == [5, *[900] * 7, 901]
    parts = [seal for seal in books.seals if seal.is_restored]
    assert [seal.entries_count + seal.events_count for seal in parts] == [
        *[READ_ROWS_MAX] * 3,
        READ_ROWS_MAX // 2,
    ]
    assert all(link_fault(*pair) is None for pair in pairwise(books.seals))
    books.add({1500: 1})
    books.horizon_txid = 2000
    while await sealer.seal_next():
        pass
    assert books.sealed()[-1] == 1500


@pytest.mark.parametrize("seals_before", [0, 1, 3, 100])
async def test_parts_that_an_earlier_cluster_sealed_are_not_sealed_again(seals_before: int) -> None:
    """This cluster seals the other parts, and later transactions."""
    books = FakeSealedBooks({5: 2, 901: 1}, horizon_txid=1000)
    for _ in range(7):
        books.add({900: READ_ROWS_MAX // 2})
    sealer = sealer_of(books, part_rows=READ_ROWS_MAX)
    for _ in range(seals_before):
        if not await sealer.seal_next():
            break
    books.system_identifier, books.stay_id = 2, UUID(int=2)
    books.add({950: 1})
    sealer = sealer_of(books, part_rows=READ_ROWS_MAX)
    while await sealer.seal_next():
        pass
    assert sorted(books.sealed()) == [5, *[900] * 7, 901, 950]
    assert all(link_fault(*pair) is None for pair in pairwise(books.seals))


async def test_gap_between_txids_takes_few_reads() -> None:
    """After pg_resetwal the gap may have 2**32 txids and more."""
    books = FakeSealedBooks(
        {700: 2, 2**33: 2, 2**33 + 1: 2}, horizon_txid=2**33 + 5, next_txid=2**33 + 9
    )
    await seal_all(books)
    assert books.sealed() == [700, 2**33, 2**33 + 1]
    assert books.reads < 100


async def test_restored_rows_are_sealed_once_whatever_their_txids() -> None:
    """The new cluster has lower txids. It seals restored rows of higher txids at once, and later
    new rows, also those whose txids sealed rows have.
    """
    books = FakeSealedBooks({5: 2, 900: 2, 901: 2}, horizon_txid=901)
    await seal_all(books)
    assert books.sealed() == [5, 900]
    books.system_identifier, books.stay_id = 2, UUID(int=2)
    books.horizon_txid, books.next_txid = 100, 100
    books.add({50: 1})
    await seal_all(books)
    assert books.sealed() == [5, 900, 901, 50]
    assert [(seal.epoch, seal.is_restored) for seal in books.seals] == [
        (1, False),
        (2, True),
        (3, False),
    ]
    books.add({900: 4, 902: 4})
    books.horizon_txid, books.next_txid = 1000, 1000
    await seal_all(books)
    assert books.sealed() == [5, 900, 901, 50, 900, 902]
    assert sum(rows_of(books.seals)) == sum(len(each.places) for each in books.transactions_stored)


async def test_restored_rows_that_were_sealed_are_not_read_again() -> None:
    """An empty seal records that a range was looked at."""
    books = FakeSealedBooks(dict.fromkeys(range(100, 200), 2), horizon_txid=300)
    await seal_all(books)
    books.system_identifier, books.stay_id, books.horizon_txid = 2, UUID(int=2), 5000
    await seal_all(books)
    assert rows_of(books.seals) == [200, 0]
    await seal_all(books)
    assert rows_of(books.seals) == [200, 0]


async def test_slower_of_two_sealers_adds_no_seal() -> None:
    """Its `seal_next` returns False."""
    books = FakeSealedBooks({5: 2}, horizon_txid=10)
    stale = await books.position()
    await seal_all(books)

    class Late(FakeSealedBooks):
        async def position(self) -> SealPosition:
            return stale

    late = Late({5: 2}, horizon_txid=10)
    late.seals = books.seals
    assert await sealer_of(late).seal_next() is False
    assert len(books.seals) == 1


async def test_several_reads_at_once_seal_the_same_rows() -> None:
    """Each row once and in order, with fewer calls of `seal_next`."""
    # With ranges without rows, and a transaction that is too large for one read.
    rows = {txid: 3 for txid in range(1000, 4000) if txid % 900 < 800} | {2500: 2 * READ_ROWS_MAX}
    calls = {}
    for reads in (1, 4):
        books = FakeSealedBooks(rows, horizon_txid=5000)
        sealer, calls[reads] = sealer_of(books), 0
        while await sealer.seal_next(reads):
            calls[reads] += 1
        assert books.sealed() == sorted(rows)
        assert [link_fault(previous, seal) for previous, seal in pairwise(books.seals)] == [
            None
        ] * (len(books.seals) - 1)
    assert calls[4] < calls[1]


async def test_lag_is_the_age_of_the_oldest_row() -> None:
    """Of the rows that wait for a seal, and of those above the horizon. 0 when all are sealed."""
    books = FakeSealedBooks({5: 2, 6: 2}, horizon_txid=6, next_txid=7)
    books.recorded_at = NOW - timedelta(minutes=3)
    sealer = sealer_of(books)
    assert await sealer.seal_next()
    assert sealer.lag.seconds == 180
    # The horizon stands still at 6.
    books.now = NOW + timedelta(hours=1)
    assert not await sealer.seal_next()
    assert (sealer.lag.seconds, sealer.lag.rows > 0) == (3600, True)
    books.horizon_txid = 7
    assert await sealer.seal_next()
    assert not await sealer.seal_next()
    assert sealer.lag == SealLag(0, 0.0)
    # Nothing happens for a day.
    books.now = NOW + timedelta(days=1)
    books.next_txid = books.horizon_txid = 8
    assert not await sealer.seal_next()
    assert sealer.lag == SealLag(0, 0.0)


@pytest.mark.parametrize(
    ("behind_seconds", "rests", "rests_while_busy", "reads"),
    [
        (-5, 4, 19, 1),
        (0, 4, 19, 1),
        (15, 2, 9.5, 1),
        (29, 4 / 30, 19 / 30, 1),
        (30, 0, 0, 2),
        (60, 0, 0, 3),
        (10**9, 0, 0, 4),
    ],
)
def test_sealer_works_harder_the_further_it_is_behind(
    behind_seconds: float, rests: float, rests_while_busy: float, reads: int
) -> None:
    """It rests less, then not at all, and then reads in several sessions, up to a limit."""
    assert rest_ratio(behind_seconds, is_busy=False) == pytest.approx(rests)
    assert rest_ratio(behind_seconds, is_busy=True) == pytest.approx(rests_while_busy)
    assert reads_at_once(behind_seconds, READS_AT_ONCE_MAX) == reads
    assert reads_at_once(behind_seconds, 1) == 1


async def test_worker_reports_how_far_it_is_behind() -> None:
    """It reports every lag. A long one raises an alarm, which is not repeated at once."""
    books = FakeSealedBooks(dict.fromkeys(range(100, 700), 3), horizon_txid=10_000)
    books.recorded_at = NOW - timedelta(hours=1)
    lags: list[SealLag] = []
    alarms: list[SealLag] = []
    failures: list[object] = []
    worker = SealWorker(
        sealer_of(books),
        interval_seconds=0.01,
        on_failure=lambda *failure: failures.append(failure),
        is_busy=lambda: True,
        on_lag=lags.append,
        on_alarm=alarms.append,
    )
    worker.start()
    await until(lambda: bool(lags) and lags[-1].seconds == 0)
    await worker.stop()
    assert [lag.seconds for lag in alarms] == [3600]
    assert lags[0].seconds == 3600
    assert len(books.sealed()) == 600
    assert failures == []
