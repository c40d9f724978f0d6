"""`ledger quarantine` against a server."""

import json

from support.commands import Outcome, run_command
from support.quarantine import (
    DISCARDED,
    QUARANTINED,
    RELEASED,
    RETRY_REQUESTED,
    delivery,
    discard,
    from_now,
    listed,
    payload_of,
    quarantined,
    resolve,
)
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus

HOSTILE = b'{"id": "evt_9", "amount": 1.10, "name": "\x1b]0;owned\x07 \\u001b[2J"}'


async def command(ledger: RunningLedger, *arguments: str) -> Outcome:
    return await run_command("quarantine", *arguments, "--address", ledger.address)


async def test_list_shows_what_is_not_settled(ledger: RunningLedger) -> None:
    first = await quarantined(ledger, endpoint="shop", reason="UNKNOWN_SHAPE")
    parked = await quarantined(ledger, endpoint="other", retry_at=from_now(hours=1))
    gone = await quarantined(ledger, endpoint="shop")
    await discard(ledger, gone.quarantine_id)

    async def ids(*arguments: str) -> list[str]:
        outcome = await command(ledger, "list", "--json", *arguments)
        assert (outcome.status, outcome.stderr) == (0, "")
        return [json.loads(line)["quarantine_id"] for line in outcome.stdout.splitlines()]

    assert await ids() == [parked.quarantine_id, first.quarantine_id]
    assert await ids("--oldest-first") == [first.quarantine_id, parked.quarantine_id]
    assert await ids("--all", "--endpoint", "shop") == [gone.quarantine_id, first.quarantine_id]
    assert await ids("--state", "DISCARDED") == [gone.quarantine_id]
    assert await ids("--reason", "UNKNOWN_SHAPE") == [first.quarantine_id]
    assert await ids("--processor", "adyen") == []
    assert await ids("--older-than", "1h") == []
    shown = await command(ledger, "list")
    assert (shown.status, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[-2] == "2 payloads"
    assert shown.stdout.splitlines()[-1].startswith("not settled: 2, the oldest since 2")
    for words in ((first.quarantine_id, "UNKNOWN_SHAPE"), (parked.quarantine_id, "parked")):
        assert any(all(word in line for word in words) for line in shown.stdout.splitlines())
    refused = await command(ledger, "list", "--all", "--state", "parked")
    assert refused.status == ExitStatus.USAGE


async def test_show_escapes_what_could_control_a_terminal(shared_ledger: RunningLedger) -> None:
    payload = await quarantined(shared_ledger, body=HOSTILE, headers={"x-note": "a\x1b[31mb\u202e"})
    shown = await command(shared_ledger, "show", payload.quarantine_id)
    assert (shown.status, shown.stderr) == (0, "")
    assert all(line.isprintable() for line in shown.stdout.splitlines())
    assert '  "amount": 1.10,' in shown.stdout.splitlines()
    for words in ("\\x1b[31m", "\\u202e", '"\\x1b]0;owned\\x07 \\u001b[2J"', "UNKNOWN_RESTAURANT"):
        assert words in shown.stdout
    in_json = await command(shared_ledger, "show", payload.quarantine_id, "--json")
    found = json.loads(in_json.stdout)
    assert found["body"] == HOSTILE.decode()
    assert "\x1b" not in in_json.stdout
    assert found["headers"] == {"x-note": "a\x1b[31mb\u202e"}
    assert [move["state"] for move in found["moves"]] == ["quarantined"]
    missing = await command(shared_ledger, "show", "01976f6e-0000-7000-8000-000000000000")
    assert missing.status == ExitStatus.REFUSED
    assert "QUARANTINED_NOT_FOUND" in missing.stderr


async def test_body_that_is_no_text_is_kept_in_json(shared_ledger: RunningLedger) -> None:
    payload = await quarantined(shared_ledger, body=b"\xff\x00" + payload_id())
    shown = await command(shared_ledger, "show", payload.quarantine_id, "--json")
    found = json.loads(shown.stdout)
    assert found["body"] is None
    assert found["body_base64"].startswith("/wB")


def payload_id() -> bytes:
    """Bytes that no other body ends with."""
    return delivery().body


async def test_retry_marks_what_is_named_or_filtered(ledger: RunningLedger) -> None:
    """A dry run changes nothing. One of the three ways must be chosen."""
    one = await quarantined(ledger, endpoint="shop")
    two = await quarantined(ledger, endpoint="other", reason="UNKNOWN_SHAPE")
    planned = await command(ledger, "retry", "--all", "--dry-run")
    assert planned.stdout.splitlines() == [
        one.quarantine_id,
        two.quarantine_id,
        "2 payloads would be tried again",
    ]
    assert {payload.state for payload in await listed(ledger)} == {QUARANTINED}
    named = await command(ledger, "retry", one.quarantine_id)
    assert named.stdout.splitlines() == [one.quarantine_id, "1 payload will be tried again"]
    again = await command(ledger, "retry", one.quarantine_id)
    assert again.stdout.splitlines() == [
        "no payloads will be tried again",
        "1 payload unchanged",
    ]
    filtered = await command(ledger, "retry", "--reason", "UNKNOWN_SHAPE", "--json")
    assert json.loads(filtered.stdout) == {"quarantine_id": two.quarantine_id}
    assert {payload.state for payload in await listed(ledger)} == {RETRY_REQUESTED}
    for arguments in ((), ("--all", "--endpoint", "shop"), (one.quarantine_id, "--all")):
        refused = await command(ledger, "retry", *arguments)
        assert refused.status == ExitStatus.USAGE


async def test_discard_needs_a_reason(ledger: RunningLedger) -> None:
    """What was released cannot be discarded; what comes before it is."""
    one = await quarantined(ledger)
    parked = await quarantined(ledger, retry_at=from_now(hours=1))
    released = await resolve(ledger, parked, RELEASED)
    refused = await command(ledger, "discard", one.quarantine_id)
    assert refused.status == ExitStatus.USAGE
    assert "--reason" in refused.stderr
    partly = await command(
        ledger,
        "discard",
        one.quarantine_id,
        released.quarantine_id,
        *("--reason", "a test shop", "--json"),
    )
    assert partly.status == ExitStatus.REFUSED
    assert "QUARANTINED_MOVED" in partly.stderr
    assert json.loads(partly.stdout)["state"] == "discarded"
    shown = await payload_of(ledger, one.quarantine_id)
    assert (shown.state, shown.moves[-1].detail) == (DISCARDED, "a test shop")
