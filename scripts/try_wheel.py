"""Builds the wheel, installs it in a clean environment, and tries it there.

The environment is a temporary folder outside the checkout, so that no file of the checkout replaces
one that the wheel lacks. The trial is `ledger demo`: migrations, a server, events, payouts and
the audit, on an embedded PostgreSQL. Then it installs the wheel without extras, as a caller does,
makes a client, and finds the contract's files; with the server in memory, for tests; and with the
gateway alone, which serves. Prints each step; exits with 1 at the first that fails.

    python scripts/try_wheel.py UV [--locked]

It installs the newest versions that the wheel allows, as users do; with `--locked`, those of
uv.lock.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The environments that are made, and with which extras.
EXTRAS_BY_TRIAL = {
    "server": "[server,embedded]",
    "client": "",
    "tests": "[testing]",
    "gateway": "[gateway]",
}
USE_CLIENT = """
from ledger.client import *
with Ledger("127.0.0.1:1") as ledger:
    print(Money("12.50", "PEN"), type(ledger.service).__name__)
"""
# The files from which other languages generate their code.
FIND_CONTRACT = """
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from ledger.contract import descriptor_set, proto_folder, service_config
files = {file.name for file in FileDescriptorSet.FromString(descriptor_set()).file}
protos = sorted(proto_folder().glob("ledger/v1/*.proto"))
assert protos and {f"ledger/v1/{path.name}" for path in protos} <= files, (protos, files)
assert service_config().startswith("{")
print(*(path.name for path in protos))
"""
# Callers' tests take neither the database nor the command.
SERVE_FROM_MEMORY = """
from ledger.client import Ledger
from ledger.testing import LedgerServer
with LedgerServer() as server, Ledger(server.address) as ledger:
    print(ledger.put_restaurant("res_1").restaurant_id)
"""
# A gateway beside a ledger on another machine has neither the server nor its database. It serves
# before the ledger answers.
SERVE_POSTS = """
import pathlib, subprocess, sys
pathlib.Path("gateway.toml").write_text('''
http = { address = "127.0.0.1:0" }
[[endpoints]]
name = "pos"
processor = "adyen"
mode = "test"
secrets = [{ name = "first", value = "00112233445566778899aabbccddeeff" }]
basic_auth = [{ username = "adyen", password = { name = "basic", value = "a password" } }]
restaurant = { by = "account" }
''')
command = [sys.argv[1], "--address", "127.0.0.1:1", "gateway"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
    line = gateway.stdout.readline()
    gateway.terminate()
print(line, end="")
assert line.startswith("ledger gateway takes posts on "), line
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Runs a command without the settings of this process. Raises CalledProcessError."""
    print("$", *command, file=sys.stderr)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LEDGER_", "PYTHON", "VIRTUAL_ENV"))
    }
    subprocess.run(command, cwd=cwd, env=environment, check=True)


def try_wheel(uv: str, scratch: Path, *, locked: bool) -> None:
    """Builds below `scratch` and tries what was built. Raises CalledProcessError."""
    constraints: tuple[str, ...] = ()
    if locked:
        export = (
            "export",
            "--locked",
            "--all-extras",
            "--no-emit-project",
            "--no-hashes",
            "--quiet",
        )
        run(uv, *export, "--output-file", scratch / "constraints.txt", cwd=ROOT)
        constraints = ("--constraint", str(scratch / "constraints.txt"))
    run(uv, "build", "--wheel", "--quiet", "--out-dir", scratch / "dist", ROOT, cwd=scratch)
    (wheel,) = (scratch / "dist").glob("*.whl")
    for name, extras in EXTRAS_BY_TRIAL.items():
        run(uv, "venv", "--quiet", "--python", sys.executable, scratch / name, cwd=scratch)
        python = scratch / name / "bin" / "python"
        install = (uv, "pip", "install", "--quiet", "--python", str(python), *constraints)
        run(*install, f"{wheel}{extras}", cwd=scratch)
    run(scratch / "server" / "bin" / "ledger", "--version", cwd=scratch)
    run(scratch / "server" / "bin" / "ledger", "demo", cwd=scratch)
    run(scratch / "client" / "bin" / "python", "-c", USE_CLIENT, cwd=scratch)
    run(scratch / "client" / "bin" / "python", "-c", FIND_CONTRACT, cwd=scratch)
    run(scratch / "tests" / "bin" / "python", "-c", SERVE_FROM_MEMORY, cwd=scratch)
    programs = scratch / "gateway" / "bin"
    run(programs / "python", "-c", SERVE_POSTS, programs / "ledger", cwd=scratch)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        try:
            # Commands run elsewhere, where a relative path leads to nothing.
            uv = sys.argv[1] if os.sep not in sys.argv[1] else str(Path(sys.argv[1]).resolve())
            try_wheel(uv, Path(folder), locked="--locked" in sys.argv[2:])
        except subprocess.CalledProcessError as error:
            print(f"the wheel does not work: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
