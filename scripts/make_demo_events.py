"""Writes the demonstration events, `src/ledger/cli/demo_events.jsonl`.

With `--check` it only compares, and fails if the file is stale.

A month of five restaurants: 62 charges with a fee of 5 % and 8 partial refunds, 90 % of them in
PEN, the rest in USD and MXN. The events are the same on every machine and version of Python: the
script uses only `random()`, the one function of `random` that promises that.
"""

import json
import random
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "src" / "ledger" / "cli" / "demo_events.jsonl"

SEED = 20_250_901
FIRST_DAY = datetime(2025, 9, 1, tzinfo=UTC)
DAYS = 30
CHARGES = 62
RESTAURANTS = ("res_barranco", "res_callao", "res_cusco", "res_miraflores", "res_surco")
# The charges that are not in PEN and those that are refunded, by number: the shares are exact.
CURRENCY_BY_CHARGE = {9: "USD", 21: "MXN", 30: "USD", 38: "MXN", 47: "USD", 58: "MXN"}
REFUNDED_CHARGES = (3, 11, 17, 24, 30, 36, 44, 52)
REFUND_REASONS = ("customer_request", "cancelled_booking", "wrong_amount", "quality_issue")
# The range of a charge in whole units: a dinner for two to a table of ten.
UNITS_BY_CURRENCY = {"PEN": (80, 420), "USD": (25, 110), "MXN": (350, 900)}


@dataclass(frozen=True, slots=True)
class Charge:
    """What a refund needs of its charge. The amount is in minor units."""

    number: int
    occurred_at: datetime
    restaurant_id: str
    currency: str
    amount_minor: int


def below(source: random.Random, limit: int) -> int:
    """A whole number from 0 to limit - 1."""
    return int(source.random() * limit)


def opening_hours(source: random.Random) -> list[datetime]:
    """The instants of the charges in order: two or three a day, between noon and 23:00."""
    instants = []
    for number in range(CHARGES):
        minutes = 5 * below(source, 11 * 12)
        instants.append(
            FIRST_DAY + timedelta(days=number * DAYS // CHARGES, hours=12, minutes=minutes)
        )
    return sorted(instants)


def make_charge(source: random.Random, number: int, occurred_at: datetime) -> Charge:
    """The charge with this number, 1 to CHARGES."""
    currency = CURRENCY_BY_CHARGE.get(number, "PEN")
    least, most = UNITS_BY_CURRENCY[currency]
    restaurant_id = RESTAURANTS[below(source, len(RESTAURANTS))]
    # Whole units, so that fees and refunds need no rounding.
    return Charge(
        number,
        occurred_at,
        restaurant_id,
        currency,
        100 * (least + below(source, most - least + 1)),
    )


def written(instant: datetime) -> str:
    """The instant as the processor writes it."""
    return instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def charge_fields(charge: Charge) -> dict[str, object]:
    """The fields of a charge."""
    return {
        "event_type": "charge_succeeded",
        "occurred_at": written(charge.occurred_at),
        "restaurant_id": charge.restaurant_id,
        "currency": charge.currency,
        "amount": charge.amount_minor,
        # Exact: amounts are multiples of 100.
        "fee": charge.amount_minor * 5 // 100,
        "metadata": {
            "reservation_id": f"rsv_lima_{charge.number:03d}",
            "payment_id": f"pay_lima_{charge.number:03d}",
        },
    }


def refund_fields(source: random.Random, charge: Charge) -> dict[str, object]:
    """The fields of a partial refund: a tenth to a half, one to three hours after the charge."""
    tenths = 1 + below(source, 5)
    later = timedelta(hours=1, minutes=5 * below(source, 25))
    fields = charge_fields(charge)
    metadata = {
        "reservation_id": f"rsv_lima_{charge.number:03d}",
        "payment_id": f"pay_lima_{charge.number:03d}",
        "refund_reason": REFUND_REASONS[below(source, len(REFUND_REASONS))],
    }
    return fields | {
        "event_type": "refund_succeeded",
        "occurred_at": written(charge.occurred_at + later),
        "amount": charge.amount_minor * tenths // 10,
        "fee": 0,
        "metadata": metadata,
    }


def make_lines() -> str:
    """The whole file."""
    source = random.Random(SEED)
    charges = [
        make_charge(source, number, instant)
        for number, instant in enumerate(opening_hours(source), start=1)
    ]
    events = [charge_fields(charge) for charge in charges]
    events += [refund_fields(source, charges[number - 1]) for number in REFUNDED_CHARGES]
    # Instants in one form sort as text does.
    events.sort(key=lambda fields: str(fields["occurred_at"]))
    lines = [
        json.dumps({"event_id": f"evt_lima_{number:04d}"} | fields)
        for number, fields in enumerate(events, start=1)
    ]
    return "".join(f"{line}\n" for line in lines)


def main() -> int:
    lines = make_lines()
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(lines, encoding="utf-8", newline="\n")
        return 0
    if not TARGET.is_file() or TARGET.read_bytes() != lines.encode():
        print(
            f"{TARGET.name} is not what this script makes. Run: python scripts/make_demo_events.py",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
