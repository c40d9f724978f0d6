"""`ledger ingest` against a server."""

import asyncio
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from support.audit import assert_books_in_order
from support.commands import TIMEOUT_SECONDS, run_command, run_process, start_process
from support.events import unique
from support.running import RunningLedger, running_ledger
from support.waiting import until

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus


def fields_of(**fields: Any) -> dict[str, Any]:
    """A valid line's fields, with a new id unless one is given."""
    return {
        "event_id": unique("evt"),
        "event_type": "charge_succeeded",
        "occurred_at": "2025-12-01T10:00:00Z",
        "restaurant_id": "res_001",
        "currency": "PEN",
        "amount": 10_000,
        "fee": 500,
    } | fields


def write_lines(path: Path, *lines: dict[str, Any] | str) -> str:
    """Writes a file of these lines. Returns its name."""
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )
    return str(path)


def counts(stdout: str) -> dict[str, int]:
    """The numbers of a summary, except the pace, which varies."""
    return {
        words[0]: int(words[1])
        for words in map(str.split, stdout.splitlines()[1:])
        if words[0] != "pace"
    }


async def test_file_is_booked_once_however_often_it_is_sent(
    ledger: RunningLedger, tmp_path: Path
) -> None:
    """The first time they are created, the second time duplicates; the status is 0 both times."""
    restaurant_id = unique("res")
    file = write_lines(
        tmp_path / "events.jsonl", *(fields_of(restaurant_id=restaurant_id) for _ in range(25))
    )
    first = await run_command("ingest", file, "--batch-size", "10", "--address", ledger.address)
    assert (first.status, first.stderr) == (0, "")
    assert first.stdout.splitlines()[0] == f"{file}: 25 lines"
    assert counts(first.stdout) == {"created": 25, "duplicates": 0, "refused": 0}
    assert re.fullmatch(r"  pace        [0-9,]+ events/s", first.stdout.splitlines()[-1])
    second = await run_command("ingest", file, "--address", ledger.address)
    assert second.status == 0
    assert counts(second.stdout) == {"created": 0, "duplicates": 25, "refused": 0}
    assert (await ledger.balance(restaurant_id)).available_minor == 25 * 9_500
    await assert_books_in_order(ledger.database)


async def test_refused_lines_are_reported_and_the_others_booked(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    """With line, id, status, reason and a sentence, in the order of the file; the status is 1."""
    event_id, restaurant_id = unique("evt"), unique("res")
    file = write_lines(
        tmp_path / "events.jsonl",
        fields_of(event_id=event_id, restaurant_id=restaurant_id),
        "{",
        "",
        fields_of(event_id=event_id, restaurant_id=restaurant_id, amount=10_001),
        fields_of(event_id="evt_bad", restaurant_id=restaurant_id, amount=12.5, currency="PESO"),
        fields_of(event_id="evt_worse", restaurant_id=restaurant_id, currency="PESO"),
        fields_of(
            event_id="evt_payout",
            restaurant_id=restaurant_id,
            event_type="payout_paid",
            payout_id=unique("p"),
            fee=0,
        ),
        fields_of(
            event_id="evt\u001b[31m",
            restaurant_id=restaurant_id,
            occurred_at="2023-02-29T00:00:00Z",
        ),
        fields_of(restaurant_id=restaurant_id),
    )
    outcome = await run_command("ingest", file, "--address", shared_ledger.address)
    assert outcome.status == ExitStatus.REFUSED
    assert counts(outcome.stdout) == {"created": 2, "duplicates": 0, "refused": 6}
    assert "(1 conflicts, 4 invalid, 1 for other reasons)" in outcome.stdout
    lines = outcome.stderr.splitlines()
    beginnings = [
        f"{file}:2: -: INVALID_ARGUMENT INVALID_LINE is not JSON",
        f"{file}:4: {event_id}: ALREADY_EXISTS EVENT_ID_REUSED event {event_id} is stored"
        " with other contents; differing: amount",
        f"{file}:5: evt_bad: INVALID_ARGUMENT INVALID_LINE amount must be a whole number",
        f"{file}:6: evt_worse: INVALID_ARGUMENT INVALID_REQUEST ",
        f"{file}:7: evt_payout: NOT_FOUND PAYOUT_NOT_FOUND ",
        f"{file}:8: evt\\x1b[31m: INVALID_ARGUMENT INVALID_LINE occurred_at must be",
    ]
    assert len(lines) == len(beginnings)
    for line, beginning in zip(lines, beginnings, strict=True):
        assert line.startswith(beginning)
    assert (await shared_ledger.balance(restaurant_id)).available_minor == 2 * 9_500


@pytest.mark.parametrize(
    ("option", "shown"),
    [((), 20), (("--errors", "3"), 3), (("--errors", "0"), 0), (("--errors", "all"), 25)],
)
async def test_refused_lines_are_bounded(
    shared_ledger: RunningLedger, tmp_path: Path, option: tuple[str, ...], shown: int
) -> None:
    """The first twenty in full, then how many there are more."""
    file = write_lines(tmp_path / "events.jsonl", *["nothing"] * 25)
    outcome = await run_command("ingest", file, *option, "--address", shared_ledger.address)
    *lines, last = outcome.stderr.splitlines()
    if shown < 25:
        assert last == f"{25 - shown} more refused lines; --errors all shows them"
    else:
        lines.append(last)
    assert [line.split(": ")[0] for line in lines] == [
        f"{file}:{number}" for number in range(1, shown + 1)
    ]
    assert counts(outcome.stdout)["refused"] == 25


async def test_errors_that_cannot_be_written_stop_no_booking(
    shared_ledger: RunningLedger, tmp_path: Path
) -> None:
    """As on a full disk: the file is read to its end, and the exit status is right."""
    name = write_lines(tmp_path / "events.jsonl", "nonsense", fields_of(), fields_of())
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$0" -m ledger ingest "$1" --address "$2" --batch-size 1 2>/dev/full'),
        *(sys.executable, name, shared_ledger.address),
        stdout=asyncio.subprocess.PIPE,
    )
    stdout, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert (process.returncode, counts(stdout.decode())["created"]) == (ExitStatus.REFUSED, 2)


async def test_empty_file_is_done_at_once(shared_ledger: RunningLedger, tmp_path: Path) -> None:
    """It is no error."""
    outcome = await run_command(
        "ingest", write_lines(tmp_path / "events.jsonl"), "--address", shared_ledger.address
    )
    assert (outcome.status, counts(outcome.stdout)) == (
        0,
        {"created": 0, "duplicates": 0, "refused": 0},
    )


async def test_standard_input_is_read(shared_ledger: RunningLedger) -> None:
    """Under the name -; no progress bar where there is no terminal."""
    lines = json.dumps(fields_of()) + "\n{\n"
    outcome = await run_process(
        "ingest", "-", "--address", shared_ledger.address, stdin=lines.encode()
    )
    assert outcome.status == 1
    assert outcome.stdout.splitlines()[0] == "<stdin>: 2 lines"
    assert outcome.stderr.startswith("<stdin>:2: -: INVALID_ARGUMENT INVALID_LINE is not JSON")
    assert len(outcome.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
async def test_unreadable_file_is_a_usage_error(tmp_path: Path, name: str) -> None:
    """Missing, or no file at all: status 2."""
    outcome = await run_command("ingest", str(tmp_path / name))
    assert outcome.status == ExitStatus.USAGE
    assert outcome.stderr.startswith(f"error: cannot read {tmp_path / name}: ")


@pytest.mark.parametrize(
    "option",
    [("--batch-size", "0"), ("--batch-size", "1001"), ("--errors", "some"), ("--address", "x")],
)
async def test_bad_option_is_a_usage_error(tmp_path: Path, option: tuple[str, str]) -> None:
    """Status 2, before anything is sent."""
    outcome = await run_command("ingest", write_lines(tmp_path / "events.jsonl", "{}"), *option)
    assert outcome.status == ExitStatus.USAGE
    assert option[0] in outcome.stderr


async def test_absent_server_is_reported_with_the_counts(tmp_path: Path) -> None:
    """Status 3. The text says that the command may be run again."""
    file = write_lines(tmp_path / "events.jsonl", fields_of())
    outcome = await run_command("ingest", file, "--address", "127.0.0.1:1")
    assert outcome.status == ExitStatus.UNREACHABLE
    first, _, last = outcome.stderr.splitlines()
    assert first.startswith(
        "error: no server responds at 127.0.0.1:1; start one with `ledger serve`"
    )
    assert last.strip().startswith(
        "no lines are known to be booked (0 created, 0 duplicates); running the same command again"
    )


async def test_interruption_shows_the_counts(shared_ledger: RunningLedger) -> None:
    """Ctrl-C while it waits for more of its input."""
    process = await start_process(
        "ingest", "-", "--batch-size", "1", "--address", shared_ledger.address
    )
    assert process.stdin is not None
    restaurant_id = unique("res")
    # A batch is sent once the next line begins another one.
    for _ in range(8):
        process.stdin.write(json.dumps(fields_of(restaurant_id=restaurant_id)).encode() + b"\n")
    await process.stdin.drain()
    stored = "SELECT count(*) >= 3 FROM processor_events WHERE restaurant_id = :id"

    async def some_are_stored() -> bool:
        assert process.returncode is None
        return await shared_ledger.query(stored, id=restaurant_id) == [(True,)]

    await until(some_are_stored, TIMEOUT_SECONDS)
    process.send_signal(signal.SIGINT)
    _, stderr = await process.communicate()
    assert process.returncode == ExitStatus.INTERRUPTED
    assert stderr.decode().splitlines()[0] == "error: interrupted"
    assert "lines are known to be booked" in stderr.decode()


async def test_interruption_ends_the_wait_for_a_silent_server(tmp_path: Path) -> None:
    """The response that gRPC waits for never comes."""
    asked = asyncio.Event()

    async def never(requests: Any, _: Any) -> None:
        async for _request in requests:
            asked.set()

    handler: Any = grpc.stream_stream_rpc_method_handler(never, None, None)
    server = aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "ledger.v1.LedgerService", {"StreamEvents": handler}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        file = write_lines(tmp_path / "events.jsonl", *(fields_of() for _ in range(50)))
        # The stream stays open, since the server sends no response.
        process = await start_process(
            "ingest", file, "--batch-size", "1", "--address", f"127.0.0.1:{port}"
        )
        await asyncio.wait_for(asked.wait(), TIMEOUT_SECONDS)
        process.send_signal(signal.SIGINT)
        _, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    finally:
        await server.stop(0)
    assert process.returncode == ExitStatus.INTERRUPTED
    assert stderr.decode().splitlines()[0] == "error: interrupted"


async def test_server_that_stops_and_comes_back_is_waited_for(
    database: Database, tmp_path: Path
) -> None:
    """Every line is booked once, whatever the server was doing when it stopped."""
    restaurant_id = unique("res")
    async with running_ledger(database) as first:
        process = await start_process(
            "ingest", "-", "--batch-size", "10", "--address", first.address
        )
        assert process.stdin is not None

        async def feed(lines: int) -> None:
            assert process.stdin is not None
            for _ in range(lines):
                process.stdin.write(
                    json.dumps(fields_of(restaurant_id=restaurant_id)).encode() + b"\n"
                )
            await process.stdin.drain()

        await feed(105)
        stored = "SELECT count(*) >= 100 FROM processor_events WHERE restaurant_id = :id"

        async def most_are_stored() -> bool:
            assert process.returncode is None
            return await first.query(stored, id=restaurant_id) == [(True,)]

        await until(most_are_stored, TIMEOUT_SECONDS)
        port = first.server.port
    async with running_ledger(database, address=f"127.0.0.1:{port}") as second:
        await feed(95)
        process.stdin.close()
        stdout, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
        assert (process.returncode, stderr) == (0, b"")
        summary = counts(stdout.decode())
        assert summary["created"] + summary["duplicates"] == 200
        assert (await second.balance(restaurant_id)).available_minor == 200 * 9_500
