"""`ledger gateway replay` books deliveries again: of the quarantine, and of files."""

import json
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.commands import Outcome, run_command, run_process
from support.events import unique
from support.gateway import body_of, charge, endpoint_table, gateway_file, gateway_on
from support.running import RunningLedger

from ledger.client import AsyncLedger
from ledger.gateway.books import RemoteBooks
from ledger.v1 import ledger_pb2

STRIPE = """
[[endpoints]]
name = "{name}"
processor = "stripe"
mode = "test"
secrets = [{{ name = "a", value = "whsec_a" }}]
restaurant = {{ by = "account" }}
"""


def mapped(restaurant: str) -> str:
    """An endpoint that knows one account."""
    return endpoint_table(
        lines=f"restaurant = {{ by = 'account', table = {{ a1 = '{restaurant}' }} }}"
    )


async def replay(ledger: RunningLedger, file: Path, *arguments: str) -> Outcome:
    return await run_command(
        "gateway", "replay", "--address", ledger.address, "--config", str(file), *arguments
    )


async def is_booked(ledger: RunningLedger, event_id: str) -> bool:
    rows = await ledger.query(
        "SELECT count(*) FROM processor_events WHERE event_id = :id", id=event_id
    )
    return rows == [(1,)]


async def test_what_was_mended_is_booked_and_released(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    """First as a dry run, which writes nothing; a second replay finds nothing left."""
    event_id = unique("ch")
    file = gateway_file(tmp_path, mapped("nobody").replace("a1", "a2"), poll_seconds=600)
    async with (
        AsyncLedger(shared_ledger.address) as client,
        gateway_on(file, RemoteBooks(client.service)) as gateway,
    ):
        assert await gateway.deliver(charge(event_id, account="a1")) == 200
    still = await replay(shared_ledger, file, "--reason", "UNKNOWN_RESTAURANT", "--dry-run")
    assert still.status == 1
    assert "quarantined: UNKNOWN_RESTAURANT: the account 'a1' is not in the table" in still.stdout
    gateway_file(tmp_path, mapped(unique("res")), poll_seconds=600)
    dry = await replay(shared_ledger, file, "--reason", "UNKNOWN_RESTAURANT", "--dry-run")
    assert (dry.status, dry.stderr) == (0, "")
    assert f"plain: booked {event_id}" in dry.stdout
    assert not await is_booked(shared_ledger, event_id)
    done = await replay(shared_ledger, file, "--reason", "UNKNOWN_RESTAURANT", "--json")
    assert (done.status, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert (shown["outcome"], shown["event_ids"]) == ("released", [event_id])
    assert await is_booked(shared_ledger, event_id)
    payload = await shared_ledger.stub.GetQuarantined(
        ledger_pb2.GetQuarantinedRequest(quarantine_id=shown["delivery"])
    )
    assert payload.payload.state == ledger_pb2.QUARANTINE_STATE_RELEASED
    again = await replay(shared_ledger, file, "--reason", "UNKNOWN_RESTAURANT")
    assert (again.status, again.stdout) == (0, "no deliveries to replay\n")


async def test_output_has_no_lines_of_the_log(shared_ledger: RunningLedger, tmp_path: Path) -> None:
    """In a process of its own, whose log is not that of the tests."""
    name = unique("stripe").replace("_", "-").lower()
    file = gateway_file(tmp_path, STRIPE.format(name=name))
    await shared_ledger.stub.QuarantinePayload(
        ledger_pb2.QuarantinePayloadRequest(
            endpoint=name,
            processor="stripe",
            body=b"{}",
            reason="UNKNOWN_SHAPE",
            received_at=Timestamp(seconds=1764604800),
        )
    )
    outcome = await run_process(
        *("gateway", "replay", "--address", shared_ledger.address, "--config", str(file)),
        *("--endpoint", name, "--json"),
    )
    assert (outcome.status, outcome.stderr) == (1, "error: 1 delivery could not be booked\n")
    assert json.loads(outcome.stdout)["outcome"] == "quarantined"


async def test_a_payload_from_a_file_is_booked_once(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    event_id = unique("ch")
    payload = tmp_path / "payload.json"
    payload.write_bytes(body_of(charge(event_id)))
    file = gateway_file(tmp_path)
    given = ("--endpoint", "plain", "--payload", str(payload))
    dry = await replay(shared_ledger, file, *given, "--dry-run")
    assert (dry.status, await is_booked(shared_ledger, event_id)) == (0, False)
    for outcome in ("booked", "duplicate"):
        done = await replay(shared_ledger, file, *given)
        assert (done.status, done.stdout) == (0, f"{payload} plain: {outcome} {event_id}\n")
    assert await is_booked(shared_ledger, event_id)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--all", "some-id"),
        ("--payload", "x.json"),
        ("--payload", "x.json", "--endpoint", "odd"),
        ("--all", "--reason", "ODD"),
    ],
)
async def test_what_to_replay_is_said_in_one_way(
    shared_ledger: RunningLedger, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    outcome = await replay(shared_ledger, gateway_file(tmp_path), *arguments)
    assert (outcome.status, outcome.stdout) == (2, "")


async def test_a_ledger_that_is_away_is_said(tmp_path: Path) -> None:
    outcome = await run_command(
        *("gateway", "replay", "--address", "127.0.0.1:1", "--config"),
        *(str(gateway_file(tmp_path)), "--all"),
    )
    assert outcome.status == 3
