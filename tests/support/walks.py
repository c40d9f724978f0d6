"""Pages of docs/ that are walks: commands, each with the lines that it shows below it.

`walk` runs all commands of a page in their order and compares.
"""

import asyncio
import re
import shlex
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from google.protobuf import descriptor_pool, json_format, message_factory

from ledger.cli.serve.ready_line import READY_PREFIX
from support.commands import TIMEOUT_SECONDS, run_command, start_process
from support.dates import today
from support.running import RunningLedger
from support.waiting import until

DOCS = Path(__file__).parents[2] / "docs"
LEFT_OUT = "…"

# What differs from run to run, and what it is replaced by. Tables are as wide as their cells.
VARYING = {
    r"\d{4}-\d\d-\d\dT[\d:.]+Z": "INSTANT",
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}": "ID",
    r"\b[0-9a-f]{64}\b": "HASH",
    r"\b[0-9a-f]{32}\b": "ETAG",
    r"ipv4:[\d.]+:\d+": "PEER",
    r"[─━]+": "─",
    r"pace +[\d,]+ events/s": "PACE",
    r" +": " ",
}
# The same where dates differ, too: those of today, and of the month.
VARYING_WITH_DATES = {
    r"\d{4}-\d\d-\d\dT[\d:.]+Z": "INSTANT",
    r"\d{4}-\d\d-\d\d": "DATE",
} | VARYING


@dataclass
class Step:
    """A command of a page, and the lines that the page shows below it."""

    command: str
    shown: list[str] = field(default_factory=list)


def steps_of(page: str) -> list[Step]:
    """All commands of the page in their order."""
    steps: list[Step] = []
    for block in re.findall(r"^```\n(\$ .*?)\n```$", page, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line.removeprefix("$ ")))
            else:
                steps[-1].shown.append(line)
    return steps


def lasting(lines: list[str], varying: Mapping[str, str] = VARYING) -> list[str]:
    """The lines without what differs from run to run."""
    text = "\n".join(lines)
    for pattern, word in varying.items():
        text = re.sub(pattern, word, text)
    return text.splitlines()


def is_shown(shown: list[str], seen: list[str], varying: Mapping[str, str] = VARYING) -> bool:
    """Whether the page shows what was seen, in its order, except lines that it leaves out."""
    if LEFT_OUT not in shown:
        return lasting(shown, varying) == lasting(seen, varying)
    left = iter(lasting(seen, varying))
    return all(line in left for line in lasting(shown, varying) if line != LEFT_OUT)


async def walk(
    page: str,
    ledger: RunningLedger,
    *,
    month: str = "",
    addresses: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Runs each command of `page`, a file of docs/: its output and its exit status are as shown.

    `$ cat FILE`, or `$ cat > FILE << 'END'`, writes what the page shows into the file; `$ echo $?`
    shows the exit status of the `ledger` before. `$ ledger gateway` goes on until the end of the
    page, and has read its file again before the next command. After `$ sleep` a command is repeated
    until it prints what the page shows.

    An id that a later command names is the one that an earlier command printed in the same place of
    the page. The environment names the server and the database. `month` is the one in which the
    page was written; the walk goes through the current one. `addresses` has what stands in place of
    addresses of the page. Programs of others need not be installed, except those that come with the
    tests.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    for address, actual in addresses.items():
        text = text.replace(address, actual)
    async with AsyncExitStack() as stack:
        await _walk(steps_of(text), ledger, month, stack)


async def _walk(
    steps: list[Step], ledger: RunningLedger, month: str, stack: AsyncExitStack
) -> None:
    status, is_awaited = 0, False
    varying = VARYING_WITH_DATES if month else VARYING
    ids: dict[str, str] = {}
    gateway: RunningGateway | None = None
    for step in steps:
        command = step.command.replace(month, f"{today():%Y-%m}") if month else step.command
        program, *arguments = shlex.split(_with_ids(command, ids))
        match program:
            case "ledger" if arguments == ["gateway"]:
                gateway = await stack.enter_async_context(_running_gateway(step))
            case "ledger":
                seen = await _run_ledger(step, arguments, varying, is_awaited=is_awaited)
                status = seen.status
                _learn(ids, step.shown, seen.lines)
            case "python":
                written = await _run_python(arguments)
                assert is_shown(step.shown, written, varying), (step.command, written)
            case "grpcurl":
                response = await grpcurl(ledger, arguments)
                assert is_shown(step.shown, response), (step.command, response)
            case "cat" if arguments[0] == ">":
                assert arguments[2:] == ["<<", step.shown[-1]], step.command
                _write_file(arguments[1], [*step.shown[:-1], ""])
                if gateway is not None:
                    await gateway.read_file_again()
            case "cat":
                _write_file(arguments[0], step.shown)
            case "make":
                assert f"{READY_PREFIX}{ledger.address}" in step.shown, step.command
            case "." | "mkdir" | "sleep":
                assert not step.shown, step.command
            case "bean-check" | "hledger":
                printed = _run_program(program, arguments)
                assert printed is not None or program == "hledger"
                assert printed is None or is_shown(step.shown, printed), (step.command, printed)
            case _:
                assert (step.command, step.shown) == ("echo $?", [str(status)])
        is_awaited = program == "sleep"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a terminal shows of a `ledger`, and its exit status."""

    status: int
    lines: list[str]


async def _run_ledger(
    step: Step, arguments: list[str], varying: Mapping[str, str], *, is_awaited: bool
) -> Seen:
    """Runs it, again and again if the page has waited. Asserts that it prints what is shown."""
    outcome = await run_command(*arguments)

    def is_as_shown() -> bool:
        stdout, stderr = outcome.stdout.splitlines(), outcome.stderr.splitlines()
        # A terminal shows both, in the order in which the command writes them.
        return is_shown(step.shown, stdout + stderr, varying) or is_shown(
            step.shown, stderr + stdout, varying
        )

    async def is_as_shown_now() -> bool:
        nonlocal outcome
        outcome = await run_command(*arguments)
        return is_as_shown()

    if is_awaited and not is_as_shown():
        await until(is_as_shown_now, what=step.command)
    assert is_as_shown(), f"{step.command}\n{outcome.stdout}{outcome.stderr}"
    return Seen(outcome.status, (outcome.stdout + outcome.stderr).splitlines())


async def _run_python(arguments: list[str]) -> list[str]:
    """What a Python program prints, which must end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=PIPE, stderr=STDOUT
    )
    stdout, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_SECONDS)
    assert process.returncode == 0, stdout.decode()
    return stdout.decode().splitlines()


class RunningGateway:
    """A `ledger gateway` that takes posts."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.log: list[str] = []

    async def read_log(self) -> None:
        """Reads its log until it ends."""
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log.append(line.decode())

    async def read_file_again(self) -> None:
        """Returns once the file as it is now is in force."""
        count = self._times_read()
        self._process.send_signal(signal.SIGHUP)
        await until(lambda: self._times_read() > count, what="the gateway reads its file again")

    def _times_read(self) -> int:
        return sum("the file was read again" in line for line in self.log)


@asynccontextmanager
async def _running_gateway(step: Step) -> AsyncIterator[RunningGateway]:
    """Starts it. Asserts that it prints what is shown; ends it with the block."""
    process = await start_process("gateway")
    gateway = RunningGateway(process)
    reading = asyncio.create_task(gateway.read_log())
    try:
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT_SECONDS):
            lines = [(await process.stdout.readline()).decode().rstrip("\n") for _ in step.shown]
        assert lines == step.shown, gateway.log
        yield gateway
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), TIMEOUT_SECONDS)
        await reading


_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{64}\b")


def _learn(ids: dict[str, str], shown: list[str], seen: list[str]) -> None:
    """Notes which id was printed where the page shows another one: lines in their order."""
    left = iter(seen)
    for line in shown:
        if line == LEFT_OUT or not _ID.search(line):
            continue
        for found in left:
            if lasting([found]) == lasting([line]):
                ids.update(zip(_ID.findall(line), _ID.findall(found), strict=True))
                break


def _with_ids(command: str, ids: dict[str, str]) -> str:
    return _ID.sub(lambda found: ids.get(found[0], found[0]), command)


async def grpcurl(ledger: RunningLedger, arguments: list[str]) -> list[str]:
    """What `grpcurl -plaintext -d REQUEST ADDRESS METHOD` would print."""
    (plaintext, data, request_text, _, path) = arguments
    assert (plaintext, data) == ("-plaintext", "-d")
    service, method_name = path.split("/")
    method = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(method_name)
    request: Any = message_factory.GetMessageClass(method.input_type)()
    json_format.Parse(request_text, request)
    response_type: Any = message_factory.GetMessageClass(method.output_type)
    call = ledger.channel.unary_unary(
        f"/{path}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=response_type.FromString,
    )
    return json_format.MessageToJson(await call(request), indent=2).splitlines()


def _run_program(program: str, arguments: list[str]) -> list[str] | None:
    """What a program prints; None if it is not installed."""
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    if found is None:
        return None
    ended = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return (ended.stdout + ended.stderr).splitlines()


def _write_file(name: str, lines: list[str]) -> None:
    Path(name).write_text("\n".join(lines), encoding="utf-8")
