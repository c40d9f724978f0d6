"""The Dockerfile's promises, as far as they can be seen without Docker."""

import ast
import json
import re
from pathlib import Path

from ledger.addresses import is_within_this_machine

ROOT = Path(__file__).resolve().parents[2]


def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage, as (name, arguments), its FROM first."""
    # As Docker does: comments go first, then lines that end with a backslash go on in the next one.
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


def test_image_is_a_slim_debian_of_one_python() -> None:
    """What is built runs on the very Python that it was built with."""
    bases = {arguments_of(stage, "FROM")[0].partition(" ")[0] for stage in stages()}
    (base,) = bases
    assert re.fullmatch(r"python:3\.\d+-slim-(bookworm|trixie)", base)


def test_server_runs_as_nobody_in_particular() -> None:
    """The last USER is a number, of an account without a shell: a name could be root's."""
    last = stages()[-1]
    user = arguments_of(last, "USER")[-1]
    assert int(user) > 0
    (added,) = [run for run in arguments_of(last, "RUN") if "useradd" in run]
    assert f"--uid {user} " in added
    assert "--shell /usr/sbin/nologin" in added


def test_health_is_asked_by_a_program_that_compiles() -> None:
    """It asks the gRPC health service at the image's address, within the container."""
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


def test_what_is_copied_is_there_and_not_ignored() -> None:
    """.dockerignore names all that the image needs, and nothing that is not there."""
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


def test_uv_is_the_one_of_the_makefile() -> None:
    """One version makes the environment, here and there."""
    wanted = re.search(r"(?m)^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text())
    installed = [
        found
        for stage in stages()
        for run in arguments_of(stage, "RUN")
        for found in re.findall(r"\buv==(\S+)", run)
    ]
    assert wanted is not None
    assert installed == [wanted.group(1)]


def test_packages_are_the_locked_ones() -> None:
    """Every `uv sync` insists on the lock, and leaves the tools for developers out."""
    syncs = [
        run for stage in stages() for run in arguments_of(stage, "RUN") if run.startswith("uv sync")
    ]
    assert syncs
    assert all({"--locked", "--no-dev"} <= set(run.split()) for run in syncs)
