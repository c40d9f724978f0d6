"""`ledger gateway` as a process: its start, its end, and what keeps it from starting."""

import asyncio
import json
import signal
from pathlib import Path

from support.commands import INTERRUPTIBLE, run_process, start_process
from support.gateway import body_of, gateway_file, request_of
from support.ports import held_port, port_of
from support.waiting import DEADLINE_SECONDS, until

SECRET = "a secret of the process"
# A processor that needs no module of the tests.
ENDPOINT = f"""
[[endpoints]]
name = "plain"
processor = "generic"
mode = "test"
secrets = [{{ name = "first", value = "{SECRET}" }}]
restaurant = {{ by = "fixed", key = "res_1" }}
signature = {{ header = "x-signature", encoding = "base64" }}

[endpoints.fields]
event_id = ["id"]
type = "type"
amount = "amount"
currency = "currency"
occurred_at = "at"

[endpoints.fields.types]
charge = "charge_succeeded"
"""


async def first_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), DEADLINE_SECONDS)
    return line.decode().strip()


async def status_of(port: int, request: bytes) -> bytes:
    """The status of the answer to a request; empty if there is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return (await reader.read())[9:12]
    finally:
        writer.close()


async def test_a_gateway_from_its_start_to_its_end(tmp_path: Path) -> None:
    """It tells programs its URL, takes over its file at SIGHUP, and ends at SIGTERM."""
    path = gateway_file(tmp_path, ENDPOINT, poll_seconds=600)
    process = await start_process(
        *("--address", "127.0.0.1:1", "gateway", "--config", str(path)),
        program=INTERRUPTIBLE,
        env={"LEDGER_LOG_FORMAT": "json"},
    )
    try:
        ready = json.loads(await first_line(process))
        assert (ready["event"], ready["endpoints"]) == ("ready", ["plain"])
        port = int(ready["url"].rpartition(":")[2])
        post = request_of(body_of())
        assert await status_of(port, post) == b"400"
        gateway_file(tmp_path, ENDPOINT.replace('name = "plain"', 'name = "other"'))
        process.send_signal(signal.SIGHUP)

        async def is_gone() -> bool:
            return await status_of(port, post) == b"404"

        await until(is_gone)
        # A post under way keeps it for as long as the post takes; an idle connection does not.
        idle = await asyncio.open_connection("127.0.0.1", port)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), DEADLINE_SECONDS)
        assert process.returncode == 0
        idle[1].close()
    finally:
        if process.returncode is None:
            process.kill()
        _, stderr = await process.communicate()
    lines = [json.loads(line) for line in stderr.decode().splitlines()]
    assert "the file was read again" in {line["event"] for line in lines}
    assert SECRET not in stderr.decode()


async def test_an_address_that_is_taken(tmp_path: Path) -> None:
    with held_port() as holder:
        holder.listen()
        path = gateway_file(tmp_path, ENDPOINT)
        text = path.read_text(encoding="utf-8").replace(":0", f":{port_of(holder)}")
        path.write_text(text, encoding="utf-8")
        outcome = await run_process("gateway", "--config", str(path))
    assert outcome.status == 1
    assert "cannot listen on 127.0.0.1" in outcome.stderr


async def test_without_a_secret_it_does_not_start(tmp_path: Path) -> None:
    path = gateway_file(tmp_path, ENDPOINT.replace(SECRET, ""))
    outcome = await run_process("gateway", "--config", str(path))
    assert (outcome.status, outcome.stdout) == (2, "")
    assert "endpoints[0] (plain): secrets: secret first is empty" in outcome.stderr
