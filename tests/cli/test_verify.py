"""`ledger verify`, each test on a separate database."""

import json

import pytest
from support.commands import run_command
from support.events import event_message
from support.running import RunningLedger, query
from support.seals import seal_everything

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.infrastructure.postgres.schema.migrations import database_url
from ledger.v1 import ledger_pb2


async def test_books_in_order_pass(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines say how many checks there were, and what they read; status 0."""
    await ledger.ingest(event_message())
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    outcome = await run_command("verify")
    assert (outcome.status, outcome.stderr) == (0, "")
    count, rest = outcome.stdout.split(" ", 1)
    assert int(count) > 20
    assert rest.splitlines() == [
        "checks, no errors, no warnings",
        "checked: whole books, as no verification is stored",
        "stored as verification 1; nothing is sealed yet",
    ]


async def test_warnings_are_shown_and_pass(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refund of more than the charge is booked and is no error."""
    await ledger.ingest(
        event_message(ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED, restaurant_id="res_red")
    )
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    outcome = await run_command("verify")
    assert outcome.status == 0
    assert "WARNING" in outcome.stdout
    assert "res_red" in outcome.stdout
    assert "checks, no errors, " in outcome.stdout


async def test_broken_books_fail(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 1, and the finding is shown to people and to programs."""
    await query(database.migration_url, "ALTER TABLE ledger_entries DISABLE TRIGGER ALL")
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
    outcome = await run_command("verify")
    assert outcome.status == ExitStatus.REFUSED
    assert "append_only_triggers_are_on" in outcome.stdout
    outcome = await run_command("verify", "--json")
    assert outcome.status == ExitStatus.REFUSED
    report = json.loads(outcome.stdout)
    assert (
        report["errors"]
        == len([finding for finding in report["findings"] if finding["severity"] == "ERROR"])
        > 0
    )
    assert "append_only_triggers_are_on" in report["checks"]


async def test_new_rows_and_status(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later only what is new is checked; warnings before are counted; --status lists it all."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    outcome = await run_command("verify", "--status")
    assert (outcome.status, outcome.stdout) == (1, "no verification is stored\n")
    refund = ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED
    await ledger.ingest(event_message(refund, restaurant_id="res_red", reference="pay_1"))
    await seal_everything(ledger.database.url)
    assert (await run_command("verify")).stdout.endswith("stored as verification 1, up to seal 1\n")
    outcome = await run_command("verify")
    assert (outcome.status, outcome.stderr) == (0, "")
    _, since, warnings, stored = outcome.stdout.splitlines()
    assert since.startswith("checked: what is new since verification 1 of 20")
    assert warnings.startswith("not shown: 2 warnings of verification 1 of 20")
    assert stored == "stored as verification 2, up to seal 1"
    report = json.loads((await run_command("verify", "--all", "--json")).stdout)
    assert (report["since"], report["whole_because"]) == (None, "--all was given")
    assert (report["stored"]["number"], report["stored"]["is_whole"]) == (3, True)
    outcome = await run_command("verify", "--status")
    assert outcome.status == 0
    assert outcome.stdout.splitlines()[-1].startswith(
        "the books are whole up to seal 1: verification 3, begun at 20"
    )
    listed = json.loads((await run_command("verify", "--status", "--json")).stdout)
    assert [each["number"] for each in listed["verifications"]] == [3, 2, 1]
    trigger = "TRIGGER processor_events_deny_change"
    await query(ledger.database.migration_url, f"ALTER TABLE processor_events DISABLE {trigger}")
    assert (await run_command("verify")).status == ExitStatus.REFUSED
    outcome = await run_command("verify", "--status")
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stdout.splitlines()[-1].startswith("the books are broken: verification 4")


async def test_chain_prints_its_head(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head of the chain is found later; another one fails, for people and for programs."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    outcome = await run_command("verify", "--chain")
    assert (outcome.status, outcome.stdout.splitlines()[0]) == (0, "nothing is sealed yet")
    await ledger.ingest(event_message())
    await seal_everything(ledger.database.url)
    head = json.loads((await run_command("verify", "--chain", "--json")).stdout)["head"]["hash"]
    outcome = await run_command("verify", "--chain", "--expect", head)
    assert outcome.status == 0
    assert f"head: {head}" in outcome.stdout
    assert "covers 1 event and 1 entry" in outcome.stdout
    assert "the expected head is seal 1" in outcome.stdout
    outcome = await run_command("verify", "--chain", "--expect", "0" * 64, "--json")
    assert outcome.status == ExitStatus.REFUSED
    assert [finding["check"] for finding in json.loads(outcome.stdout)["findings"]] == [
        "expected_head_is_in_the_chain"
    ]


async def test_tampering_fails_the_chain(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1, and the row is named."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", ledger.database.url)
    await ledger.ingest(event_message(event_id="evt_tampered"))
    await seal_everything(ledger.database.url)
    await query(ledger.database.migration_url, "ALTER TABLE processor_events DISABLE TRIGGER USER")
    await query(ledger.database.migration_url, "UPDATE processor_events SET reference = 'pay_2'")
    outcome = await run_command("verify", "--chain")
    assert outcome.status == ExitStatus.REFUSED
    assert "event evt_tampered" in outcome.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("--all", "--status"),
        ("--chain", "--all"),
        ("--expect", "0" * 64),
        ("--chain", "--expect", "12ab"),
        ("--chain", "--expect", "z" * 64),
    ],
)
async def test_bad_options_are_usage_errors(arguments: tuple[str, ...]) -> None:
    """Status 2, before any query."""
    assert (await run_command("verify", *arguments)).status == ExitStatus.USAGE


async def test_unreachable_database_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Status 3, for scripts that try again."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/books")
    outcome = await run_command("verify")
    assert outcome.status == ExitStatus.UNREACHABLE
    assert outcome.stderr.startswith(
        "error: the database postgresql://me:***@127.0.0.1:1/books cannot be reached"
    )
    assert len(outcome.stderr.splitlines()) == 1


async def test_missing_database_and_missing_schema_are_reported(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, with what to do about it where that is known."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", database_url(server_url, database="no_such_database"))
    outcome = await run_command("verify")
    assert outcome.status == ExitStatus.UNREACHABLE
    assert outcome.stderr.endswith(': database "no_such_database" does not exist\n')
    monkeypatch.setenv("LEDGER_DATABASE_URL", database_url(server_url, database="postgres"))
    outcome = await run_command("verify")
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stderr.startswith("error: the database has schema revision none")
