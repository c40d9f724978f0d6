"""`ledger statement --html`: a page to send."""

import re
from html import unescape
from xml.etree import ElementTree

import pytest
from support.commands import run_command
from support.events import event_message, unique
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.v1 import ledger_pb2

REFUND = ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED


def rows_of(page: str) -> list[list[str]]:
    """The cells of each row of the page, which is well-formed but for its meta elements."""
    body = page.removeprefix("<!doctype html>\n")
    body = re.sub(r"<meta [^>]*>", "", body)
    tree = ElementTree.fromstring(body)
    return [["".join(cell.itertext()) for cell in row] for row in tree.iter("tr")]


async def test_page_runs_from_balance_to_balance(shared_ledger: RunningLedger) -> None:
    """Entries with the balance after each, and what the kinds of entries add up to."""
    restaurant_id = unique("res")
    charge = event_message(restaurant_id=restaurant_id, amount_minor=10_000, fee_minor=250)
    refund = event_message(REFUND, restaurant_id=restaurant_id, amount_minor=12_000)
    await shared_ledger.ingest(charge)
    await shared_ledger.ingest(refund)
    await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(
            restaurant_id=restaurant_id, name="<script>alert(1)</script> & Söhne"
        )
    )
    outcome = await run_command(
        "statement", restaurant_id, "PEN", "--html", "--address", shared_ledger.address
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "<script" not in outcome.stdout
    title = re.search("<h1>(.*)</h1>", outcome.stdout)
    assert title is not None
    assert unescape(title[1]) == "Statement of <script>alert(1)</script> & Söhne"
    rows = rows_of(outcome.stdout)
    assert rows[:2] == [
        ["Date", "What", "Reference", "Amount", "Balance"],
        ["Opening balance", "0.00"],
    ]
    assert [row[1:] for row in rows[2:5]] == [
        ["Charge", charge.event_id, "100.00", "100.00"],
        ["Platform fee", charge.event_id, "-2.50", "97.50"],
        ["Refund", refund.event_id, "-120.00", "-22.50"],
    ]
    assert rows[5:] == [
        ["Closing balance", "-22.50"],
        ["What", "Number", "Amount"],
        ["Charge", "1", "100.00"],
        ["Platform fee", "1", "-2.50"],
        ["Refund", "1", "-120.00"],
        ["Together", "3", "-22.50"],
    ]


async def test_dates_are_of_the_settlement_zone(
    shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A month begins and ends there, and the page says so; a month to come has no entries yet."""
    monkeypatch.setenv("LEDGER_SETTLEMENT_TIMEZONE", "America/Lima")
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    address = ("--address", shared_ledger.address)
    outcome = await run_command(
        "statement", restaurant_id, "PEN", "--html", "--month", "2025-12", *address
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    assert "Period: from 2025-12-01 00:00 to 2026-01-01 00:00" in outcome.stdout
    assert "dates in the time zone America/Lima" in outcome.stdout
    shown = await run_command("statement", restaurant_id, "PEN", "--month", "2025-12", *address)
    assert "from 2025-12-01T05:00:00Z to 2026-01-01T05:00:00Z" in shown.stdout


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--html", "--json"), "--json, --csv, --html and --pdf exclude each other"),
        (("--html", "--type", "fee"), "leave --type out"),
        (("--html", "--font", "x.ttf"), "--font is for --pdf"),
        (("--month", "2025-13"), "--month must be a month such as 2025-12"),
        (("--month", "0000-01"), "--month must be a month such as 2025-12"),
        (("--month", "2025-12", "--from", "2025-12-01"), "--month excludes --from and --to"),
    ],
)
async def test_options_that_contradict_are_refused(
    options: tuple[str, ...], complaint: str
) -> None:
    """Before any call, with the reason."""
    outcome = await run_command("statement", "res_1", "PEN", *options, "--address", "127.0.0.1:1")
    assert outcome.status == ExitStatus.USAGE
    assert complaint in outcome.stderr
