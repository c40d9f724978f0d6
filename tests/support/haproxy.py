"""HAProxy as docs/operations shows it: in front of a server, and of PostgreSQL under Patroni."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from support.ports import held_port, port_of
from support.waiting import until

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations"
# Connections of one address that the documented configuration lets in.
BOUND = 100
START_SECONDS = 60.0


class NotInstalled(Exception):
    """HAProxy is not on this machine."""


def documented(port: int, server: str, *, inspect_seconds: int) -> str:
    """The printed configuration, with other ports and another time limit to begin TLS."""
    text: str
    (text,) = re.findall(
        r"```haproxy\n(.*?)```", (OPERATIONS / "security.md").read_text(), re.DOTALL
    )
    for printed, here in (
        ("bind :50051", f"bind 127.0.0.1:{port}"),
        ("server one 127.0.0.1:50052", f"server one {server}"),
        ("inspect-delay 5s", f"inspect-delay {inspect_seconds}s"),
        (f"gt {BOUND} ", f"gt {BOUND} "),
    ):
        assert text.count(printed) == 1, printed
        text = text.replace(printed, here)
    return text


def documented_for_patroni(port: int, hosts: Mapping[str, tuple[int, int]]) -> str:
    """The printed configuration, with another port and other hosts.

    `hosts` has, by name, the ports of PostgreSQL and of Patroni.
    """
    text: str
    (text,) = re.findall(
        r"```\n(listen ledger\n.*?)```", (OPERATIONS / "databases.md").read_text(), re.DOTALL
    )
    printed = re.findall(r"^  server db\d db\d:5432 check port 8008\n", text, re.MULTILINE)
    assert len(printed) == 2
    assert text.endswith("".join(printed))
    assert text.count("bind *:5000") == 1
    servers = (
        f"  server {name} 127.0.0.1:{ours} check port {theirs}\n"
        for name, (ours, theirs) in hosts.items()
    )
    return text.removesuffix("".join(printed)).replace(
        "bind *:5000", f"bind 127.0.0.1:{port}"
    ) + "".join(servers)


async def is_listening(port: int) -> bool:
    """Whether a server listens at a port of this machine."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def documented_haproxy(
    folder: Path, server: str, *, inspect_seconds: int = 5
) -> AsyncIterator[int]:
    """Runs HAProxy in front of a server. Yields the port of HAProxy. Raises NotInstalled."""
    program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise NotInstalled("haproxy is not on this machine (package haproxy)")
    file = folder / "haproxy.cfg"
    with held_port() as holder:
        port = port_of(holder)
    file.write_text(documented(port, server, inspect_seconds=inspect_seconds))
    process = await asyncio.create_subprocess_exec(program, "-db", "-f", str(file))
    try:
        await until(lambda: is_listening(port), START_SECONDS)
        yield port
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), START_SECONDS)
