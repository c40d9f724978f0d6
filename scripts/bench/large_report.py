"""Compares a large report with books as large: `python -m scripts.bench.large_report LINES`."""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO

from ledger.reconciliation.books import BookEvent, NoBooks
from ledger.reconciliation.outcomes import OutcomeKind
from ledger.reconciliation.reconcile import Terms, reconcile

START_AT = datetime(2026, 4, 1, tzinfo=UTC)
_GROSS_MINOR, _FEE_MINOR = 1_000, 30
# One event of so many is missing here, and one of so many has no fee.
_MISSING_EVERY, _WITHOUT_FEE_EVERY = 1_000, 10


def main() -> None:
    """Compares a report of so many lines, and prints what that took as JSON."""
    lines = int(sys.argv[1])
    with tempfile.TemporaryFile() as file:
        _write_report(file, lines)
        began = time.process_time()
        with reconcile(file, _ManyBooks(lines), Terms()) as result:
            counts = dict(result.totals.outcomes)
    missing = len(range(0, lines, _MISSING_EVERY))
    if counts[OutcomeKind.MISSING_HERE] != missing or sum(counts.values()) != lines:
        raise SystemExit(f"found {counts}")
    print(
        json.dumps(
            {
                "cpu_seconds": time.process_time() - began,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


def _write_report(file: IO[bytes], lines: int) -> None:
    file.write(
        b"balance_transaction_id,created_utc,currency,gross,fee,net,reporting_category,source_id\n"
    )
    for number in range(lines):
        instant = f"{_instant_of(number):%Y-%m-%d %H:%M:%S}"
        file.write(f"txn_{number},{instant},eur,10.00,0.30,9.70,charge,ch_{number}\n".encode())


def _instant_of(number: int) -> datetime:
    return START_AT + timedelta(seconds=number)


class _ManyBooks(NoBooks):
    """Books with an event for almost each line."""

    def __init__(self, lines: int) -> None:
        self._lines = lines

    def in_period(
        self,
        start_at: datetime,  # noqa: ARG002
        end_at: datetime,  # noqa: ARG002
        currencies: Sequence[str],  # noqa: ARG002
        prefix: str,  # noqa: ARG002
    ) -> Iterator[BookEvent]:
        for number in range(self._lines):
            if number % _MISSING_EVERY:
                has_fee = number % _WITHOUT_FEE_EVERY
                yield BookEvent(
                    event_id=f"stripe:ch_{number}",
                    type="charge_succeeded",
                    restaurant_id="res_bench",
                    currency="EUR",
                    amount_minor=_GROSS_MINOR,
                    fee_minor=0,
                    processor_fee_minor=_FEE_MINOR if has_fee else 0,
                    occurred_at=_instant_of(number),
                    reference="",
                )


if __name__ == "__main__":
    main()
