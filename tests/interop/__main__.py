"""Runs clients in other languages against a real server on an embedded PostgreSQL.

A client in Node (`node/client.mjs`), one in Go (`go/main.go`), grpcurl, and the examples of
`docs/api.md`. What they need is fetched into `.cache/interop` with the languages' own tools. A
client whose tools are not here, or cannot fetch what it needs, is skipped with a word. Prints a
line for each check; exits with 1 if one failed.

    make interop ARGS="--only go,grpcurl"

`--short` leaves out what takes long: three pings of ten seconds, and building grpcurl.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import google.rpc
from grpc_tools import protoc
from support.certificates import HERE, Authority
from support.tokens import token_line

from ledger.cli.serve.ready_line import READY_PREFIX
from ledger.contract import descriptor_set, proto_folder, service_config
from ledger.infrastructure.postgres.embedded import EmbeddedPostgres
from ledger.infrastructure.postgres.schema.migrations import create_database, migrate
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE
from scripts.bench.servers import running

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent
CACHE = ROOT / ".cache" / "interop"
TOOLS = CACHE / "bin"
PAGE = ROOT / "docs" / "api.md"
DATABASE = "interop"
TOKEN = "a-token-of-the-clients"  # of a server that lives for a minute
COMMON_PROTOS = Path(next(iter(google.rpc.__path__))).parent.parent
# The address in the page's examples.
PAGE_ADDRESS = "127.0.0.1:50051"
FETCH_SECONDS, CLIENT_SECONDS = 300, 180
NODE_PACKAGES = ("@grpc/grpc-js@^1.14", "@grpc/proto-loader@^0.8")
GO_PLUGINS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
)
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4"


class NotHere(Exception):
    """A client cannot run on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Servers:
    """The addresses of a server for anyone and of one with TLS and tokens, on the same books."""

    plain: str
    tls: str
    ca: Path
    short: bool

    def given(self, prefix: str) -> dict[str, str]:
        """The environment of a client, whose ids begin with `prefix`."""
        given = {
            "plain": self.plain,
            "tls": self.tls,
            "ca": str(self.ca),
            "token": TOKEN,
            "prefix": prefix,
            "protos": [str(proto_folder()), str(COMMON_PROTOS)],
            "service_config": str(files("ledger.v1") / "service_config.json"),
            "short": self.short,
        }
        return {**os.environ, "INTEROP": json.dumps(given)}


@dataclass(slots=True)
class Outcomes:
    """What was checked."""

    passed: int = 0
    failed: int = 0
    skipped: list[str] = field(default_factory=list)

    def add(self, client: str, name: str, failure: str = "") -> None:
        """Counts and prints one check; `failure` says what went wrong."""
        self.passed += not failure
        self.failed += bool(failure)
        # On one line, whatever a program wrote.
        said = " ".join([name + ":", *failure.split()]) if failure else name
        print(f"{client}: {'FAILED' if failure else 'ok'} {said}")  # noqa: T201


def program(name: str) -> str:
    """The path of a program. Raises NotHere."""
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise NotHere(f"{name} is not installed")
    return found


def fetch(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Runs a tool that may need a network. Raises NotHere."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=FETCH_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise NotHere(f"{Path(command[0]).name} did not end in {FETCH_SECONDS} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines()
        said = [line for line in lines if not line.startswith(("npm warn", "go: downloading"))]
        raise NotHere(f"{Path(command[0]).name} {command[1]}: {' '.join(said[:1])}")


def run_client(
    client: str, command: list[str], env: Mapping[str, str], cwd: Path, outcomes: Outcomes
) -> None:
    """Runs a client that prints a line for each check."""
    done = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, timeout=CLIENT_SECONDS
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "FAILED "))]
    for line in lines:
        verdict, _, name = line.partition(" ")
        name, _, failure = name.partition(": ") if verdict == "FAILED" else (name, "", "")
        outcomes.add(client, name, failure)
    if not lines or bool(done.returncode) != any(line.startswith("FAILED") for line in lines):
        outcomes.add(client, "ran to its end", f"exit status {done.returncode}: {done.stderr}")


def write_example(language: str, path: Path, servers: Servers) -> None:
    """Writes the page's example in a language, with what it reads in the same folder.

    It is sent to the server of this run. Raises ValueError unless there is exactly one.
    """
    pattern = rf"^```{language}\n(.*?)^```$"
    (example,) = re.findall(pattern, PAGE.read_text(), re.MULTILINE | re.DOTALL)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(example.replace(PAGE_ADDRESS, servers.plain))
    (path.parent / "ledger.binpb").write_bytes(descriptor_set())
    (path.parent / "service_config.json").write_text(service_config())


def run_example(client: str, command: list[str], cwd: Path, outcomes: Outcomes) -> None:
    """Runs an example twice: it books its event, and then finds it booked."""
    printed = ""
    for _ in range(2):
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=CLIENT_SECONDS
        )
        printed += done.stdout + done.stderr
    is_right = printed == "INGEST_STATUS_CREATED\nINGEST_STATUS_DUPLICATE\n"
    outcomes.add(client, "the page's example books an event once", "" if is_right else printed)


def node(servers: Servers, outcomes: Outcomes) -> None:
    """grpc-js, with messages from the .proto files."""
    program("node")
    folder = CACHE / "node"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true, "type": "module"}\n')
    if not (folder / "node_modules" / "@grpc" / "proto-loader").exists():
        fetch(
            program("npm"), "install", "--no-save", "--no-package-lock", "--no-audit", "--no-fund",
            "--ignore-scripts", "--fetch-retries=1", *NODE_PACKAGES, cwd=folder,
        )  # fmt: skip
    shutil.copy(SOURCES / "node" / "client.mjs", folder)
    run_client("node", ["node", "client.mjs"], servers.given("node"), folder, outcomes)
    write_example("js", folder / "example.mjs", servers)
    run_example("node", ["node", "example.mjs"], folder, outcomes)


def go(servers: Servers, outcomes: Outcomes) -> None:
    """grpc-go, with generated messages."""
    compiler = program("go")
    folder = CACHE / "go"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOURCES / "go", folder)
    generate_go(compiler, folder)
    fetch(compiler, "mod", "download", cwd=folder)
    write_example("go", folder / "example" / "main.go", servers)
    # What was fetched must compile.
    for command in (("-o", "client", "."), ("-o", "example/run", "./example")):
        subprocess.run([compiler, "build", *command], cwd=folder, check=True)
    run_client("go", [str(folder / "client")], servers.given("go"), folder, outcomes)
    run_example("go", ["./run"], folder / "example", outcomes)


def generate_go(compiler: str, folder: Path) -> None:
    """Generates the package `ledger.example/ledger/v1` in a module's folder. Raises NotHere."""
    for plugin in GO_PLUGINS:
        if not (TOOLS / plugin.rpartition("/")[2].partition("@")[0]).exists():
            fetch(compiler, "install", plugin, env={**os.environ, "GOBIN": str(TOOLS)})
    sources = sorted(str(path) for path in proto_folder().glob("ledger/v1/*.proto"))
    plugins = [f"--plugin={TOOLS / name}" for name in ("protoc-gen-go", "protoc-gen-go-grpc")]
    outputs = [
        option
        for plugin in ("go", "go-grpc")
        for option in (f"--{plugin}_out={folder}", f"--{plugin}_opt=module=ledger.example")
    ]
    includes = [f"-I{path}" for path in (proto_folder(), COMMON_PROTOS, _well_known_types())]
    if protoc.main(["protoc", *includes, *plugins, *outputs, *sources]):
        raise RuntimeError("protoc failed; its messages are above")


def _well_known_types() -> str:
    return str(files("grpc_tools") / "_proto")


def grpcurl(servers: Servers, outcomes: Outcomes) -> None:
    """grpcurl, which knows the contract by reflection alone."""
    if shutil.which("grpcurl") is None and not (TOOLS / "grpcurl").exists():
        if servers.short:
            raise NotHere("grpcurl is not installed; `make interop` builds it")
        fetch(program("go"), "install", GRPCURL, env={**os.environ, "GOBIN": str(TOOLS)})
    tool = program("grpcurl")

    def ask(*arguments: str) -> str:
        done = subprocess.run(
            [tool, *arguments], capture_output=True, text=True, timeout=CLIENT_SECONDS
        )
        return done.stdout + done.stderr

    def check(name: str, output: str, *expected: str) -> None:
        missing = [text for text in expected if text not in output]
        outcomes.add("grpcurl", name, f"no {missing} in {output!r}" if missing else "")

    plain, method = ("-plaintext", servers.plain), "ledger.v1.LedgerService/IngestEvent"
    event = {
        "event_id": "grpcurl:once", "type": "EVENT_TYPE_CHARGE_SUCCEEDED", "currency": "PEN",
        "restaurant_id": "grpcurl-res", "amount_minor": "1250",
        "occurred_at": "2026-01-01T10:00:00Z",
    }  # fmt: skip
    request = json.dumps({"event": event})
    check(
        "lists the services",
        ask(*plain, "list"),
        "ledger.v1.LedgerService",
        "ledger.v1.AccountService",
        "ledger.v1.PaymentService",
        "grpc.reflection.v1.",
    )
    check("lists methods", ask(*plain, "list", "ledger.v1.LedgerService"), "IngestEvent")
    check(
        "describes a method",
        ask(*plain, "describe", "ledger.v1.LedgerService.IngestEvent"),
        "// Books one event",
        "rpc IngestEvent",
    )
    check(
        "describes a message with its comments",
        ask(*plain, "describe", "ledger.v1.Overdraft"),
        "// So many minor units",
        "int64 limit_minor = 1",
    )
    check("books an event", ask("-d", request, *plain, method), '"INGEST_STATUS_CREATED"')
    check("books it once", ask("-d", request, *plain, method), '"INGEST_STATUS_DUPLICATE"')
    check(
        "decodes error details",
        ask("-d", "{}", *plain, method),
        "InvalidArgument",
        "google.rpc.ErrorInfo",
        '"reason": "INVALID_REQUEST"',
        '"field": "event"',
    )
    secure = ("-cacert", str(servers.ca), servers.tls)
    check(
        "describes a server with TLS without a token",
        ask(*secure, "list"),
        "ledger.v1.LedgerService",
    )
    check("is refused without a token", ask("-d", request, *secure, method), "NOT_AUTHENTICATED")
    check(
        "books with a token",
        ask("-H", f"authorization: Bearer {TOKEN}", "-d", request, *secure, method),
        '"INGEST_STATUS_DUPLICATE"',
    )


CLIENTS: Mapping[str, Callable[[Servers, Outcomes], None]] = {
    "node": node,
    "go": go,
    "grpcurl": grpcurl,
}


@contextmanager
def serving(postgres: EmbeddedPostgres, folder: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """The address of a server process on the embedded PostgreSQL."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")} | {
        "LEDGER_DATABASE_URL": postgres.url(user=APPLICATION_ROLE, database=DATABASE),
        "LEDGER_GRPC_ADDRESS": "127.0.0.1:0",
        "LEDGER_LOG_LEVEL": "error",
        **settings,
    }
    # In a directory without a `.env`.
    with running([sys.executable, "-m", "ledger", "serve"], READY_PREFIX, env, folder) as (at, _):
        yield at


@contextmanager
def both_servers(folder: Path, *, short: bool) -> Iterator[Servers]:
    """A server for anyone, and one with TLS and a token, on the same new books."""
    # For the account of an embedded PostgreSQL under root.
    folder.chmod(0o755)
    authority = Authority()
    issued = authority.issue(*HERE)
    issued.write(folder / "server.pem", folder / "server.key")
    (folder / "ca.pem").write_bytes(authority.certificate_pem)
    (folder / "tokens").write_text(token_line("clients", "ingest", TOKEN))
    (folder / "tokens").chmod(0o600)
    secure = {
        "LEDGER_TLS_CERTIFICATE_FILE": str(folder / "server.pem"),
        "LEDGER_TLS_KEY_FILE": str(folder / "server.key"),
        "LEDGER_AUTH_TOKENS_FILE": str(folder / "tokens"),
    }
    with EmbeddedPostgres.start(folder / "postgres") as postgres:
        superuser = postgres.url(user=postgres.superuser, database="postgres")
        asyncio.run(create_database(superuser, DATABASE))
        migrate(postgres.url(user=postgres.superuser, database=DATABASE))
        with serving(postgres, folder, {}) as plain, serving(postgres, folder, secure) as tls:
            yield Servers(plain, tls, folder / "ca.pem", short)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make interop", description=__doc__)
    parser.add_argument("--only", default=",".join(CLIENTS), help="clients, joined by commas")
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    outcomes = Outcomes()
    with (
        tempfile.TemporaryDirectory(prefix="ledger-interop-") as folder,
        both_servers(Path(folder), short=arguments.short) as servers,
    ):
        for name in arguments.only.split(","):
            try:
                CLIENTS[name](servers, outcomes)
            except NotHere as reason:
                outcomes.skipped.append(name)
                print(f"{name}: skipped: {reason}")  # noqa: T201
    print(f"{outcomes.passed} passed, {outcomes.failed} failed, {len(outcomes.skipped)} skipped")  # noqa: T201
    return 1 if outcomes.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
