"""The zone table: cut-offs, reports and settings use the packaged one, never the host's."""

import csv
import io
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, date
from importlib.resources import files
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.commands import run_command
from support.dates import date_message
from support.events import event_message
from support.payout_runs import finished_run
from support.running import running_ledger

from ledger.bootstrap.database import Database
from ledger.settings import Settings
from ledger.v1 import ledger_pb2
from ledger.zones import settlement_zone, zone_table_version

ZONE = "America/Vancouver"
DAY = date(2025, 12, 1)
CUTOFF_AT = "2025-12-02T07:59:59.999999"


@pytest.fixture
def other_host_table(tmp_path: Path) -> Iterator[None]:
    """A host whose table has UTC's rules under other names, as another version of tzdata might."""
    utc = files("tzdata").joinpath("zoneinfo", "UTC").read_bytes()
    for name in (ZONE, "localtime", "Mars/Olympus"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(utc)
    zoneinfo.reset_tzpath(to=[str(tmp_path)])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        yield
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()


@pytest.mark.usefixtures("other_host_table")
async def test_another_zone_table_of_the_host_changes_no_cutoff(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plan, run and report have one cut-off, and the run records the version of the table."""
    dry_run = ledger_pb2.RunPayoutsRequest(
        currency="PEN",
        as_of=date_message(DAY),
        dry_run=True,
    )
    async with running_ledger(database, settlement_timezone=ZONE) as ledger:
        await ledger.ingest(event_message(restaurant_id="res_1"))
        plan = (await ledger.stub.RunPayouts(dry_run)).payout_run
        assert plan.cutoff_at.ToDatetime(tzinfo=UTC).isoformat() == f"{CUTOFF_AT}+00:00"
        run = await finished_run(ledger, as_of=DAY)
        assert run.cutoff_at == plan.cutoff_at
        got = await ledger.query("SELECT zone_table_version FROM payout_runs")
        assert got == [(zone_table_version(),)]
        monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
        monkeypatch.setenv("LEDGER_SETTLEMENT_TIMEZONE", ZONE)
        outcome = await run_command("report", "q3", "PEN", "--as-of", str(DAY), "--csv")
        assert (outcome.status, outcome.stderr) == (0, "")
        assert [row["cutoff_at"] for row in csv.DictReader(io.StringIO(outcome.stdout))] == [
            f"{CUTOFF_AT}Z"
        ]


@pytest.mark.usefixtures("other_host_table")
@pytest.mark.parametrize(
    "name",
    [
        "localtime",
        "Factory",
        "posixrules",
        "posix/America/Lima",
        "right/America/Lima",
        "Mars/Olympus",
        "america/lima",
        "../zones",
        "/etc/localtime",
        "",
    ],
)
def test_names_that_are_no_zone_everywhere_are_refused(name: str) -> None:
    """Names that only one host has, "Factory" for a zone that was not set, and other spellings."""
    with pytest.raises(ValidationError, match="must be an IANA time zone such as America/Lima"):
        Settings(_env_file=None, settlement_timezone=name)


def test_every_zone_of_the_table_can_be_read() -> None:
    """The table's list of names and its files agree."""
    names = files("tzdata").joinpath("zones").read_text().split()
    assert ZONE in names
    for name in names:
        if name != "Factory":
            assert settlement_zone(name).key == name
