"""Whole reports: large ones in bounded memory, and none that is hostile gets through."""

import io
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import IO

import pytest
from support.reports import ADYEN_SETTLEMENT, MERCADO_PAGO, STRIPE_PAYOUT, FakeBooks, at, booked

from ledger.reconciliation.books import BookEvent, NoBooks
from ledger.reconciliation.problems import ReportUnusable
from ledger.reconciliation.reconcile import Terms, reconcile

ROWS = 5_000
START_AT = at("2026-04-01T00:00:00")


def write_report(file: IO[bytes], rows: int) -> None:
    """Writes a report of `rows` charges of 10.00 with a fee of 0.30."""
    file.write(
        b"balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id\n"
    )
    for number in range(rows):
        instant = (START_AT + timedelta(seconds=number)).strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"txn_{number},{instant},eur,10.00,0.30,9.70,charge,ch_{number}\n".encode())


class ManyBooks(NoBooks):
    """Books with an event for each of `rows` charges, except every thousandth."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def in_period(
        self, start_at: datetime, end_at: datetime, currencies: Sequence[str], prefix: str
    ) -> Iterator[BookEvent]:
        for number in range(self._rows):
            if number % 1000:
                yield booked(
                    f"stripe:ch_{number}",
                    processor_fee_minor=30,
                    occurred_at=START_AT + timedelta(seconds=number),
                )


def test_a_large_report_is_compared() -> None:
    with tempfile.TemporaryFile() as file:
        write_report(file, ROWS)
        with reconcile(file, ManyBooks(ROWS), Terms()) as result:
            counts = dict(result.totals.outcomes)
    assert counts == {"matched": ROWS - ROWS // 1000, "missing_here": ROWS // 1000}


@pytest.mark.parametrize("report", [STRIPE_PAYOUT, ADYEN_SETTLEMENT, MERCADO_PAGO])
def test_damaged_reports_are_compared_or_refused(report: str, seed: int) -> None:
    """Random damage never ends in another error, and never reaches the books when refused."""
    random_numbers = random.Random(seed)
    raw = report.encode()
    for _ in range(100):
        damaged = bytearray(raw)
        for _ in range(random_numbers.randint(1, 6)):
            place = random_numbers.randrange(len(damaged))
            match random_numbers.randrange(4):
                case 0:
                    damaged[place] = random_numbers.randrange(256)
                case 1:
                    del damaged[place : place + random_numbers.randint(1, 40)]
                case 2:
                    damaged[place:place] = random_numbers.choice(
                        (b'"', b"\n", b",", b";", b"\0", b"=1+1", b"1E+15", b"\xff\xfe", b"9" * 40)
                    )
                case _:
                    damaged = damaged[:place]
            if not damaged:
                break
        books = _CountedBooks()
        is_taken = False
        with (
            suppress(ReportUnusable),
            reconcile(io.BytesIO(bytes(damaged)), books, Terms()) as result,
        ):
            is_taken = True
            list(result.outcomes())
            list(result.postings())
        assert is_taken or books.calls == 0


class _CountedBooks(FakeBooks):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def find(self, event_ids: Sequence[str]) -> list[BookEvent]:
        self.calls += 1
        return []


def test_sums_beyond_64_bits_are_refused() -> None:
    rows = "".join(
        f"txn_{number},2026-04-01 00:00:00,eur,9999999999999999.99,charge,ch_{number},po_1\n"
        for number in range(12)
    )
    report = "balance_transaction_id,created_utc,currency,net,reporting_category,source_id,x\n"
    with (
        pytest.raises(ReportUnusable, match="do not fit 64 bits"),
        reconcile(io.BytesIO((report + rows).encode()), NoBooks(), Terms()),
    ):
        pass


def test_an_empty_report_agrees() -> None:
    header = STRIPE_PAYOUT.splitlines()[0].encode()
    with reconcile(io.BytesIO(header), NoBooks(), Terms()) as result:
        assert (result.agrees, result.rows, result.period) == (True, 0, None)
