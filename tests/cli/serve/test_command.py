"""`ledger serve` as a separate process, with an embedded PostgreSQL."""

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from support.commands import (
    INTERRUPTIBLE,
    TIMEOUT_SECONDS,
    run_command,
    run_process,
    serving,
    start_process,
    terminal,
)
from support.folders import folder_for_all
from support.tokens import token_line
from support.waiting import until

from ledger.cli.demo_file import DEMO_FILE
from ledger.cli.failures import ExitStatus

UNREACHABLE_DATABASE = "postgresql://me:secret@127.0.0.1:1/books"
UNREACHABLE_LINE = "error: the database postgresql://me:***@127.0.0.1:1/books cannot be reached"
# Runs a command. When the interpreter shuts down after it, prints what was loaded.
LOADED_AT_THE_END = f"""
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
{INTERRUPTIBLE}
"""


@pytest.fixture
def new_data_dir(enterable_folder: Path) -> Path:
    """Where a server makes its cluster and keeps its books."""
    return enterable_folder / "data"


@pytest.fixture(scope="module")
def data_dir(starts_postgres: None) -> Iterator[Path]:
    """A data directory for all tests of a module; the first of their servers makes the cluster."""
    with folder_for_all() as folder:
        yield folder / "data"


def has_postmaster(data_dir: Path) -> bool:
    """Whether a PostgreSQL runs in `data_dir`, or was killed there."""
    return any(data_dir.rglob("postmaster.pid"))


async def until_serving(address: str) -> None:
    """Returns when the service is SERVING, which takes a moment after the start."""
    async with asyncio.timeout(TIMEOUT_SECONDS), aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        request = health_pb2.HealthCheckRequest(service="ledger.v1.LedgerService")
        response = health_pb2.HealthCheckResponse()
        while response.status != health_pb2.HealthCheckResponse.SERVING:
            response = await check(request)
            await asyncio.sleep(0.02)


async def test_server_serves_stops_and_keeps_its_books(
    new_data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets ready and healthy, ends with status 0, and has its balances after a restart."""
    monkeypatch.setenv("LEDGER_HEALTH_ADDRESS", "127.0.0.1:0")
    async with serving(new_data_dir) as server:
        await until_serving(server.address)
        assert (
            await run_command("ingest", str(DEMO_FILE), "--address", server.address)
        ).status == 0
        balance = await run_command("balance", "res_cusco", "PEN", "--address", server.address)
        ended = await server.stop(signal.SIGTERM)
    assert ended.status == 0
    assert re.search(
        r"(?m)^and health checks alone, in plaintext, on 127\.0\.0\.1:[1-9][0-9]*$", ended.stdout
    )
    assert f"the books are in embedded PostgreSQL in {new_data_dir}" in ended.stdout
    assert f"ledger ingest {shlex.quote(str(DEMO_FILE))} --address {server.address}" in ended.stdout
    assert "grpcurl -plaintext" in ended.stdout
    assert "Traceback" not in ended.stderr
    async with serving(new_data_dir) as server:
        again = await run_command("balance", "res_cusco", "PEN", "--address", server.address)
        assert again.stdout.splitlines()[1:] == balance.stdout.splitlines()[1:]
        assert (await server.stop(signal.SIGINT)).status == 0


async def test_hangup_reads_the_files_again(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP does not end the server."""
    (tmp_path / "tokens").write_text(token_line("operator", "read", "ledger_one"))
    monkeypatch.setenv("LEDGER_AUTH_TOKENS_FILE", str(tmp_path / "tokens"))
    async with serving(data_dir) as server:
        server.process.send_signal(signal.SIGHUP)
        (tmp_path / "token").write_text("ledger_one")
        listed = await run_command(
            "--token-file",
            str(tmp_path / "token"),
            "restaurants",
            "list",
            "--address",
            server.address,
        )
        assert listed.status == 0
        ended = await server.stop(signal.SIGTERM)
    assert ended.status == 0
    assert "files were read again" in ended.stderr
    # These calls work as they are printed.
    assert (
        f"ledger --token-file TOKEN_FILE ingest {shlex.quote(str(DEMO_FILE))}"
        f" --address {server.address}\n" in ended.stdout
    )
    assert (
        f"ledger --token-file TOKEN_FILE balance res_barranco PEN --address {server.address}\n"
        in ended.stdout
    )
    assert "TOKEN_FILE: a token and nothing else;" in ended.stdout
    assert "grpcurl" not in ended.stdout


async def test_hangup_without_files_changes_nothing(data_dir: Path) -> None:
    """A server without a terminal takes SIGHUP as a request to read its files, and has none."""
    async with serving(data_dir) as server:
        server.process.send_signal(signal.SIGHUP)
        await until_serving(server.address)
        ended = await server.stop(signal.SIGTERM)
    assert ended.status == 0
    assert "there are no certificates or tokens to read again" in ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_closed_terminal_ends_the_server(data_dir: Path, workers: str) -> None:
    """It drains as after SIGTERM, and its PostgreSQL ends with it."""
    with terminal() as (ours, program):
        async with serving(data_dir, "--workers", workers, program=program) as server:
            await until_serving(server.address)
            os.close(ours)
            ended = await server.ended()
    assert ended.status == 0
    assert "stopped" in ended.stderr
    assert not has_postmaster(data_dir)


async def test_server_drains_with_a_closed_log(data_dir: Path) -> None:
    """The pipes of its output have no reader."""
    async with serving(data_dir) as server:
        await until_serving(server.address)
        # Both pipes lose their reader.
        transport = server.process._transport  # type: ignore[attr-defined]
        for descriptor in (1, 2):
            transport.get_pipe_transport(descriptor).close()
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), TIMEOUT_SECONDS) == 0
    assert not has_postmaster(data_dir)


async def test_server_serves_with_a_closed_output(data_dir: Path, tmp_path: Path) -> None:
    """As with `ledger serve | head -1`, which ends before the last line is written."""
    address = f"unix:{tmp_path}/ledger.sock"
    reader, writer = os.pipe()
    os.close(reader)
    env = {
        "LEDGER_DATA_DIR": str(data_dir),
        "LEDGER_GRPC_ADDRESS": address,
        "LEDGER_DATABASE_URL": "",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ledger", "serve"),
        stdout=writer,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | env,
        start_new_session=True,
    )
    os.close(writer)
    try:
        await until(
            lambda: process.returncode is not None or (tmp_path / "ledger.sock").exists(),
            TIMEOUT_SECONDS,
        )
        await until_serving(address)
    finally:
        if process.returncode is None:
            process.terminate()
        _, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert b"stopped" in stderr
    assert b"error" not in stderr


async def test_second_server_on_the_port_fails_loudly(data_dir: Path) -> None:
    """One line on standard error and status 1, while the first server continues."""
    async with serving(data_dir) as server:
        env = {"LEDGER_DATA_DIR": str(data_dir), "LEDGER_GRPC_ADDRESS": server.address}
        second = await run_process("serve", env=env)
        assert (second.status, second.stdout) == (ExitStatus.REFUSED, "")
        assert len(second.stderr.splitlines()) == 1
        assert second.stderr.startswith(f"error: cannot listen on {server.address}: ")
        await until_serving(server.address)


async def test_server_that_shares_its_database_warns(data_dir: Path) -> None:
    """Another process runs its PostgreSQL, and may stop it."""
    async with serving(data_dir), serving(data_dir) as second:
        ended = await second.stop(signal.SIGTERM)
        assert ended.status == 0
        assert "warning: another process runs the embedded PostgreSQL" in ended.stderr


async def test_server_needs_its_database() -> None:
    """Without it the status is 3, with one line that shows no password.

    The interpreter shuts down normally, as there may be something to clean up. It has not loaded
    Alembic, an eighth of the time that each worker takes to load: a server that migrates nothing
    does without it.
    """
    env = {"LEDGER_DATABASE_URL": UNREACHABLE_DATABASE, "LEDGER_GRPC_ADDRESS": "127.0.0.1:0"}
    process = await start_process("serve", env=env, program=LOADED_AT_THE_END)
    stdout, stderr = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    *lines, loaded = stderr.decode().splitlines()
    assert (process.returncode, stdout) == (ExitStatus.UNREACHABLE, b"")
    assert (len(lines), lines[0][: len(UNREACHABLE_LINE)]) == (1, UNREACHABLE_LINE)
    assert {"ledger", "sqlalchemy"} <= set(json.loads(loaded))
    assert "alembic" not in json.loads(loaded)


async def test_workers_need_their_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor reports it in the same way, before it starts any."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", UNREACHABLE_DATABASE)
    outcome = await run_command("serve", "--workers", "2", "--address", "127.0.0.1:0")
    assert (outcome.status, outcome.stdout) == (ExitStatus.UNREACHABLE, "")
    assert outcome.stderr.startswith(UNREACHABLE_LINE)
    assert len(outcome.stderr.splitlines()) == 1
