"""The Dockerfile's promises, as far as they can be seen without Docker."""

import ast
import json
import re
import tomllib
from pathlib import Path

from ledger.addresses import is_within_this_machine

ROOT = Path(__file__).resolve().parents[2]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, as (name, arguments), its FROM first."""
    # As Docker does: it drops comments, and then joins a line that ends in a backslash to the next.
    lines = [
        line
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if not line.lstrip().startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", "")
    found: list[list[tuple[str, str]]] = []
    for line in filter(str.strip, joined.splitlines()):
        name, _, arguments = line.strip().partition(" ")
        if name.upper() == "FROM":
            found.append([])
        found[-1].append((name.upper(), arguments.strip()))
    return found


def arguments_of(stage: list[tuple[str, str]], instruction: str) -> list[str]:
    return [arguments for name, arguments in stage if name == instruction]


def test_all_stages_have_the_same_slim_python() -> None:
    """The server runs on the Python that its packages were installed for."""
    bases = {arguments_of(stage, "FROM")[0].partition(" ")[0] for stage in stages()}
    (base,) = bases
    assert re.fullmatch(r"python:3\.\d+-slim-(bookworm|trixie)", base)


def test_server_runs_as_a_user_without_a_shell() -> None:
    """The last USER is a number other than 0: a name could be that of root."""
    last = stages()[-1]
    user = arguments_of(last, "USER")[-1]
    assert int(user) > 0
    (added,) = [run for run in arguments_of(last, "RUN") if "useradd" in run]
    assert f"--uid {user} " in added
    assert "--shell /usr/sbin/nologin" in added


def test_health_check_calls_the_health_service_of_the_container() -> None:
    """It is a program that compiles, and its address is within the container."""
    last = stages()[-1]
    (check,) = arguments_of(last, "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    names = {
        node.attr for node in ast.walk(ast.parse(command[2])) if isinstance(node, ast.Attribute)
    }
    assert {"HealthStub", "HealthCheckRequest", "SERVING"} <= names
    (port,) = arguments_of(last, "EXPOSE")
    (environment,) = arguments_of(last, "ENV")
    assert f"LEDGER_GRPC_ADDRESS=0.0.0.0:{port}" in environment.split()
    (health_address,) = re.findall(r"LEDGER_HEALTH_ADDRESS=(\S+)", environment)
    assert is_within_this_machine(health_address)
    assert "os.environ['LEDGER_HEALTH_ADDRESS']" in command[2]


def test_copied_files_exist_and_are_not_ignored() -> None:
    """.dockerignore names exactly what the image copies."""
    copied = set()
    for stage in stages():
        for arguments in arguments_of(stage, "COPY"):
            if not arguments.startswith("--from="):
                copied |= set(arguments.split()[:-1])
    patterns = (ROOT / ".dockerignore").read_text().split()
    assert patterns[0] == "*"
    kept = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert copied == kept
    assert [name for name in sorted(copied) if not (ROOT / name).exists()] == []


def test_everything_that_a_wheel_needs_is_copied() -> None:
    """The image builds a wheel of its own: a folder that is not there would end the build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {
        name for arguments in arguments_of(stages()[0], "COPY") for name in arguments.split()[:-1]
    }
    packages = {package.partition("/")[0] for package in wheel["packages"]}
    assert packages | set(wheel["force-include"]) <= copied


def test_image_has_the_uv_version_of_the_makefile() -> None:
    """So both install the same packages."""
    wanted = re.search(r"(?m)^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text())
    installed = [
        found
        for stage in stages()
        for run in arguments_of(stage, "RUN")
        for found in re.findall(r"\buv==(\S+)", run)
    ]
    assert wanted is not None
    assert installed == [wanted.group(1)]


def test_image_has_the_locked_packages() -> None:
    """Every `uv sync` insists on the lock, and leaves out the tools for developers."""
    syncs = [
        run for stage in stages() for run in arguments_of(stage, "RUN") if run.startswith("uv sync")
    ]
    assert syncs
    assert all({"--locked", "--no-dev"} <= set(run.split()) for run in syncs)
