"""The services of docker-compose.yml, without Docker, on a PostgreSQL that asks for passwords."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from support.commands import run_command
from support.running import query
from support.waiting import until

from ledger.cli.failures import ExitStatus
from ledger.infrastructure.postgres.embedded import find_bin_dir
from ledger.infrastructure.postgres.schema.migrations import create_database, database_url

COMPOSE_FILE = Path(__file__).resolve().parents[2] / "docker-compose.yml"
# Characters with a meaning in a URL, a shell, SQL or Compose.
OWNER_PASSWORD = """o@b:c/d%40e?f#g 'h' "i" $HOME $(false) \\j;--"""
RELOAD_SECONDS = 60.0
APP_PASSWORD = f"the other {OWNER_PASSWORD}"


def services() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(COMPOSE_FILE)["services"]
    return found


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """`text` as Compose passes it on. Only ${NAME:?message} and $$ are known here."""

    def replaced(found: re.Match[str]) -> str:
        return "$" if found.group() == "$$" else variables[found["name"]]

    return re.sub(r"\$\$|\$\{(?P<name>\w+):\?[^}]+\}|\$", replaced, text)


def environment_of(service: str, variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: interpolated(value, variables)
        for name, value in services()[service]["environment"].items()
    }


def require_passwords(hba_file: Path) -> None:
    hba_file.write_text("local all all scram-sha-256\n")


def run_login(variables: Mapping[str, str], socket_dir: str) -> tuple[int, str]:
    """Runs the service `login` at the socket of another server. Returns its status and output."""
    login = services()["login"]
    (line,) = login["command"]
    assert line.count("--host postgres ") == 1
    finished = subprocess.run(
        [
            *login["entrypoint"],
            interpolated(line, {}).replace("--host postgres ", f"--host {socket_dir} "),
        ],
        env={
            **environment_of("login", variables),
            "PATH": f"{find_bin_dir()}:{os.environ['PATH']}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return finished.returncode, finished.stdout


@pytest.fixture
async def password_server_url(empty_server_url: str) -> str:
    """The URL, without a password, of a server that asks for one and has an empty `ledger`."""
    await create_database(empty_server_url, "ledger")
    quoted = OWNER_PASSWORD.replace("'", "''").replace(":", "\\:")
    await query(empty_server_url, f"ALTER ROLE postgres PASSWORD '{quoted}'")
    ((path,),) = await query(empty_server_url, "SHOW hba_file")
    require_passwords(Path(path))
    await query(empty_server_url, "SELECT pg_reload_conf()")
    await until(lambda: is_asked_for_a_password(empty_server_url), RELOAD_SECONDS)
    return empty_server_url


async def is_asked_for_a_password(url: str) -> bool:
    """Whether the server has read its file again. A reload only sends it a signal."""
    try:
        await query(url, "SELECT 1")
    except DBAPIError as error:
        return "password authentication failed" in str(error)
    return False


async def test_services_log_in_with_any_password(
    password_server_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The migrations run, and the server opens the books with its own password and no other."""
    variables = {"LEDGER_OWNER_PASSWORD": OWNER_PASSWORD, "LEDGER_APP_PASSWORD": APP_PASSWORD}
    socket_dir = str(make_url(password_server_url).query["host"])
    # Away from the developer's settings, in the environment and in `.env`.
    monkeypatch.delenv("LEDGER_MIGRATION_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)

    async def run_as(service: str, *arguments: str, **changed: str) -> tuple[int, str]:
        environment = environment_of(service, variables) | changed
        user = make_url(environment["LEDGER_DATABASE_URL"]).username
        environment["LEDGER_DATABASE_URL"] = database_url(
            password_server_url, database="ledger", user=user
        )
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            outcome = await run_command(*arguments)
        return outcome.status, outcome.stderr

    assert await run_as("migrate", *services()["migrate"]["command"]) == (0, "")
    assert run_login(variables, socket_dir) == (0, "")
    assert await run_as("server", "verify") == (0, "")
    status, stderr = await run_as("server", "verify", PGPASSWORD=OWNER_PASSWORD)
    assert status == ExitStatus.UNREACHABLE
    assert "password authentication failed" in stderr


def test_passwords_are_in_no_url() -> None:
    """An @ or a % in a password would make it another URL."""
    urls = [
        value
        for name in services()
        for value in services()[name].get("environment", {}).values()
        if "://" in value
    ]
    assert len(urls) == 2
    assert [url for url in urls if "$" in url] == []


def test_postgres_is_healthy_once_the_network_reaches_it() -> None:
    """While it fills a new volume it accepts connections at its socket only."""
    kind, program, *arguments = services()["postgres"]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "pg_isready")
    assert arguments[:2] == ["--host", "127.0.0.1"]


def test_gateway_is_asked_for_and_calls_the_server() -> None:
    """Without its file it could not start, and its health is not that of the image's server."""
    gateway = services()["gateway"]
    assert gateway["profiles"] == ["gateway"]
    assert gateway["command"][0] == "gateway"
    (folder,) = (Path(volume.split(":")[1]) for volume in gateway["volumes"])
    assert Path(gateway["command"][-1]).is_relative_to(folder)
    name, _, port = gateway["environment"]["LEDGER_GRPC_ADDRESS"].partition(":")
    assert services()[name]["ports"][0].endswith(f":{port}")
    assert gateway["ports"][0].rpartition(":")[2] in gateway["healthcheck"]["test"][-1]
    compile(gateway["healthcheck"]["test"][-1], "health check", "exec")
