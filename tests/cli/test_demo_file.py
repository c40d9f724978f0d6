"""The file of events that comes with the package."""

import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ledger.cli.demo_file import DEMO_FILE, read_demo_lines
from ledger.cli.ingest.lines import parse_event_line

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_demo_events.py"


def test_file_has_its_shape() -> None:
    """70 events of 5 restaurants in 30 days, 90 % in PEN, in order of time, with distinct ids."""
    lines = read_demo_lines()
    assert len(lines) == len({line["event_id"] for line in lines}) == 70
    assert len({line["restaurant_id"] for line in lines}) == 5
    assert Counter(line["currency"] for line in lines) == {"PEN": 63, "USD": 4, "MXN": 3}
    assert Counter(line["event_type"] for line in lines) == {
        "charge_succeeded": 62,
        "refund_succeeded": 8,
    }
    instants = [datetime.fromisoformat(line["occurred_at"]) for line in lines]
    assert instants == sorted(instants)
    assert timedelta(days=29) <= instants[-1] - instants[0] <= timedelta(days=30)
    assert all(line["occurred_at"].endswith("Z") for line in lines)


def test_charges_pay_five_percent_and_refunds_nothing() -> None:
    """Exactly, in minor units."""
    for line in read_demo_lines():
        percent = 5 if line["event_type"] == "charge_succeeded" else 0
        assert line["fee"] * 100 == line["amount"] * percent
        assert line["amount"] > 0


def test_refunds_stay_within_their_charge() -> None:
    """Each names an earlier payment of the same restaurant and currency, and is a part of it."""
    charges = {}
    for line in read_demo_lines():
        payment_id = line["metadata"]["payment_id"]
        if line["event_type"] == "charge_succeeded":
            assert payment_id not in charges
            charges[payment_id] = line
        else:
            charge = charges.pop(payment_id)
            assert (line["restaurant_id"], line["currency"]) == (
                charge["restaurant_id"],
                charge["currency"],
            )
            assert line["occurred_at"] > charge["occurred_at"]
            assert line["amount"] < charge["amount"]


def test_every_line_is_an_event_with_its_payment_as_reference() -> None:
    """As `ledger ingest` reads it."""
    for text, fields in zip(DEMO_FILE.read_text().splitlines(), read_demo_lines(), strict=True):
        assert parse_event_line(text).reference == fields["metadata"]["payment_id"]


def test_script_makes_the_file() -> None:
    """Byte for byte."""
    assert subprocess.run([sys.executable, SCRIPT, "--check"]).returncode == 0


def test_script_detects_a_changed_file(tmp_path: Path) -> None:
    """A copy of the script, beside a file that differs in one byte."""
    script, target = (
        tmp_path / "scripts" / SCRIPT.name,
        tmp_path / "src" / "ledger" / "cli" / DEMO_FILE.name,
    )
    for path in (script, target):
        path.parent.mkdir(parents=True)
    script.write_bytes(SCRIPT.read_bytes())
    target.write_bytes(DEMO_FILE.read_bytes() + b"\n")
    checked = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert checked.returncode == 1
    assert "demo_events.jsonl is not what this script makes" in checked.stderr
    assert subprocess.run([sys.executable, script]).returncode == 0
    assert target.read_bytes() == DEMO_FILE.read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "event_id",
        "event_type",
        "occurred_at",
        "restaurant_id",
        "currency",
        "amount",
        "fee",
        "metadata",
    ],
)
def test_every_line_has_every_field(name: str) -> None:
    """Under the names that processors' exports use."""
    assert all(name in line for line in read_demo_lines())
