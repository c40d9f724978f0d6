"""`ledger gateway check` explains payloads without sending anything."""

import json
from pathlib import Path

import pytest
from support.commands import run_command
from support.gateway import body_of, charge, endpoint_table, gateway_file, signature

RATED = endpoint_table("rated", "fees = { commission = 'rate', percent = 12.5, fixed_minor = 30 }")


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(gateway_file(tmp_path, RATED))


def payload(folder: Path, *facts: dict[str, object]) -> str:
    """A file with a body of the tests' processor."""
    path = folder / "payload.json"
    path.write_bytes(body_of(*facts))
    return str(path)


async def test_it_shows_what_each_part_would_become(tmp_path: Path, file: str) -> None:
    path = payload(
        tmp_path,
        charge("ch_1", reference="pi_1"),
        {"ignored": "charge.pending"},
        charge("re_1", type="refund_succeeded", account="", charge="ch_1"),
    )
    outcome = await run_command("gateway", "check", "--config", file, path)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout.splitlines() == [
        path,
        "  signature not checked: no --header is given",
        "  books charge_succeeded 10.00 PEN",
        "    event_id: ch_1",
        "    restaurant_id: res_1",
        "    fee: 1.55",
        "    reference: pi_1",
        "    occurred_at: 2026-03-01T12:00:00Z",
        "  ignores charge.pending: moves no money",
        "  books refund_succeeded of 1000 minor units PEN, event re_1; the rest depends on the"
        " charge ch_1 in the ledger",
    ]


async def test_what_would_not_be_booked_fails(tmp_path: Path, file: str) -> None:
    path = payload(tmp_path, {"unbookable": "ODD_KIND"}, {"fetch_failed": "away"})
    outcome = await run_command("gateway", "check", "--config", file, path)
    assert outcome.status == 1
    assert "parks the delivery: FETCH_FAILED: away" in outcome.stdout
    assert "1 payload would not be booked whole" in outcome.stderr


@pytest.mark.parametrize(
    ("header", "line", "status"),
    [
        ("", "  signature accepted, by the secret first", 0),
        ("x", "  signature refused: no secret makes the signature", 1),
    ],
)
async def test_a_signature_is_checked_if_headers_are_given(
    tmp_path: Path, file: str, header: str, line: str, status: int
) -> None:
    path = payload(tmp_path, {"ignored": "x"})
    signed = header or signature(body_of({"ignored": "x"}))
    outcome = await run_command(
        "gateway", "check", "--config", file, "--header", f"X-Signature: {signed}", path
    )
    assert outcome.status == status
    assert line in outcome.stdout.splitlines()


async def test_json_has_the_same_for_programs(tmp_path: Path, file: str) -> None:
    path = payload(tmp_path, charge("ch_1"), {"unbookable": "ODD_KIND"})
    outcome = await run_command("gateway", "check", "--config", file, "--json", path)
    assert outcome.status == 1
    shown = json.loads(outcome.stdout)
    assert shown["payload"] == path
    assert [part["outcome"] for part in shown["parts"]] == ["books", "quarantines"]
    assert shown["parts"][0]["event"]["fee_minor"] == "155"


async def test_without_a_payload_it_checks_the_file(file: str) -> None:
    outcome = await run_command("gateway", "check", "--config", file)
    assert outcome.status == 0
    assert outcome.stdout == (
        "/hooks/rated  plain, test; restaurant by account, commission: rate\n"
    )


async def test_a_faulty_file_and_a_wrong_endpoint_are_usage_errors(
    tmp_path: Path, file: str
) -> None:
    path = payload(tmp_path, {"ignored": "x"})
    wrong = await run_command("gateway", "check", "--config", file, "--endpoint", "odd", path)
    assert (wrong.status, wrong.stdout) == (2, "")
    assert "--endpoint must be one of the file's: rated" in wrong.stderr
    gateway_file(tmp_path, "no TOML")
    faulty = await run_command("gateway", "check", "--config", file)
    assert faulty.status == 2
    assert "cannot be used" in faulty.stderr


async def test_a_file_that_never_ends_is_no_payload(file: str) -> None:
    endless = await run_command(
        "gateway", "check", "--config", file, "--endpoint", "rated", "/dev/zero"
    )
    assert (endless.status, endless.stdout) == (2, "")
    assert "/dev/zero is larger than 1 MiB" in endless.stderr
