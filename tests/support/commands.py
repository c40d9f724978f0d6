"""Runs the `ledger` command: in this process, or as a separate process."""

import asyncio
import io
import logging
import os
import pty
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    ExitStack,
    asynccontextmanager,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path

import structlog
from structlog.testing import capture_logs

from ledger.cli.app import run
from ledger.cli.serve.ready_line import READY_PREFIX

TIMEOUT_SECONDS = 180.0
# Runs `python -m ledger` with the usual signals. A shell that runs the tests in the background
# ignores SIGINT, `nohup` ignores SIGHUP, and child processes inherit that.
INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
runpy.run_module("ledger", run_name="__main__", alter_sys=True)
"""

# The same, with sessions that wait for locks as long as a test holds them, on any machine.
PATIENT = f"""
from functools import partial
from ledger.bootstrap import database
from ledger.infrastructure.postgres.sessions import engine
engine.COMMAND_TIMEOUT_SECONDS = {TIMEOUT_SECONDS:.0f}
engine.SESSION_SETTINGS["statement_timeout"] = "{TIMEOUT_SECONDS:.0f}s"
database.create_engine = partial(
    engine.create_engine, lock_timeout_seconds={TIMEOUT_SECONDS:.0f}
)
{INTERRUPTIBLE}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended and what it wrote."""

    status: int
    stdout: str
    stderr: str


async def run_command(*arguments: str) -> Outcome:
    """Runs a command in a thread of this process, so that a server in this process can respond.

    Only one command may run at a time.
    """

    def in_thread() -> Outcome:
        stdout, stderr = io.StringIO(), io.StringIO()
        # The server of this process would log to the same streams.
        with logging_kept(), capture_logs(), redirect_stdout(stdout), redirect_stderr(stderr):
            status = run(arguments)
        return Outcome(status, stdout.getvalue(), stderr.getvalue())

    return await asyncio.to_thread(in_thread)


@contextmanager
def logging_kept() -> Iterator[None]:
    """Leaves logging as it was: some commands configure it, for the whole process."""
    root, configuration = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        structlog.configure(**configuration)
        root.handlers[:] = handlers
        root.setLevel(level)


async def run_process(
    *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> Outcome:
    """Runs a command as a separate process, with `env` added to the environment."""
    process = await start_process(*arguments, env=env)
    stdout, stderr = await asyncio.wait_for(process.communicate(stdin), TIMEOUT_SECONDS)
    return Outcome(process.returncode or 0, stdout.decode(), stderr.decode())


async def start_process(
    *arguments: str, env: Mapping[str, str] | None = None, program: str = INTERRUPTIBLE
) -> asyncio.subprocess.Process:
    """A command that is running as a separate process, its streams piped."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
        # Without the terminal of the tests: its end would end a server.
        start_new_session=True,
    )


@contextmanager
def terminal() -> Iterator[tuple[int, str]]:
    """A terminal's controlling side, whose closing is a hangup, and a program that runs in it.

    The program does what INTERRUPTIBLE does.
    """
    ours, its = pty.openpty()
    with ExitStack() as stack:
        for side in (its, ours):
            stack.callback(_close_once, side)
        # A session leader without a terminal gets the first that it opens.
        yield ours, f"import os\nos.open({os.ttyname(its)!r}, os.O_RDWR)\n{INTERRUPTIBLE}"


def _close_once(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A `ledger serve` that is ready."""

    process: asyncio.subprocess.Process
    address: str

    async def stop(self, number: int) -> Outcome:
        """Sends a signal and waits for the end. Returns what it wrote since it was ready."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> Outcome:
        """Waits for the end. Returns what the server wrote since it was ready."""
        stdout, stderr = await asyncio.wait_for(self.process.communicate(), TIMEOUT_SECONDS)
        return Outcome(self.process.returncode or 0, stdout.decode(), stderr.decode())


@asynccontextmanager
async def serving(
    data_dir: Path, *arguments: str, program: str = INTERRUPTIBLE
) -> AsyncIterator[RunningServer]:
    """A `ledger serve` on a free port with an embedded PostgreSQL in `data_dir`.

    Killed at the end if it still runs.
    """
    env = {
        "LEDGER_DATA_DIR": str(data_dir),
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        "LEDGER_DATABASE_URL": "",
    }
    process = await start_process("serve", *arguments, env=env, program=program)
    try:
        if process.stdout is None:
            raise RuntimeError("standard output is not piped")
        first_line = await asyncio.wait_for(process.stdout.readline(), TIMEOUT_SECONDS)
        yield RunningServer(process, first_line.decode().strip().removeprefix(READY_PREFIX))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def table_cells(stdout: str) -> list[list[str]]:
    """The rows of the tables in an output, without the headings."""
    return [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in stdout.splitlines()
        if "│" in line
    ]
