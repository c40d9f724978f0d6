"""Fixtures for every test: one PostgreSQL server, and databases cloned from a migrated one."""

import gc
import os
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Literal

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from support.events import unique
from support.folders import folder_for_all
from support.in_memory import MemoryLedger, memory_ledger
from support.running import RunningLedger, execute_alone, running_ledger

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    find_bin_dir,
)
from ledger.infrastructure.postgres.schema.migrations import (
    create_database,
    database_url,
    migrate_async,
)
from ledger.infrastructure.postgres.sessions.engine import APPLICATION_ROLE
from ledger.settings import Settings

# The servers of tests are on this machine: a proxy that leads out of it must not be asked for them.
os.environ["no_grpc_proxy"] = "127.0.0.1,localhost,::1"  # noqa: SIM112  # as gRPC spells it

# Servers refuse files that others may write, as some users' masks make them.
os.umask(os.umask(0o022) | 0o022)

# Several processes of one test run may share a server.
TEMPLATE = f"ledger_template_{os.getpid()}"
# Autovacuum would visit hundreds of databases. Its transactions would delay snapshots and seals,
# which wait for every transaction of the cluster.
SERVER_PARAMETERS = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
# The longest time that a test of today's payouts takes.
MIDNIGHT_MARGIN_SECONDS = 60
# The seed of all random tests of a run. Servers refuse unknown variables that begin with LEDGER_.
SEED_VARIABLE = "TEST_SEED"

# `make test-fast` leaves out every test that requests this fixture. Each fixture that starts a
# PostgreSQL requests it.
DATABASE_FIXTURE = "starts_postgres"

# The two servers of the contract, and the fixtures that give a test one of them, with their scopes.
POSTGRESQL, MEMORY = "postgresql", "memory"
LEDGER_FIXTURES: dict[str, Literal["module", "function"]] = {
    "shared_ledger": "module",
    "ledger": "function",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-database", action="store_true", help="run the tests that need no PostgreSQL"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Chooses the seeds of a run once, in the process that starts the workers."""
    os.environ.setdefault(SEED_VARIABLE, str(secrets.randbits(32)))
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = os.environ[SEED_VARIABLE]


def pytest_report_header(config: pytest.Config) -> str:
    """How to repeat the random tests of this run."""
    hypothesis_seed = config.getoption("hypothesis_seed")
    return f"seeds: {SEED_VARIABLE}={os.environ[SEED_VARIABLE]} --hypothesis-seed={hypothesis_seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--no-database"):
        return
    with_database: list[pytest.Item] = []
    without_database: list[pytest.Item] = []
    for item in items:
        (with_database if _needs_database(item) else without_database).append(item)
    config.hook.pytest_deselected(items=with_database)
    items[:] = without_database


def _needs_database(item: pytest.Item) -> bool:
    names = set(getattr(item, "fixturenames", ()))
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return DATABASE_FIXTURE in names or any(
        params.get(name, POSTGRESQL) == POSTGRESQL for name in names & {*LEDGER_FIXTURES}
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs tests that are marked `both_servers` on both servers of the contract."""
    if metafunc.definition.get_closest_marker("both_servers") is None:
        return
    for name, scope in LEDGER_FIXTURES.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [POSTGRESQL, MEMORY], indirect=True, scope=scope)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collects with Python's collector off: what is collected stays until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """One process more than cores: tests that wait for deadlines leave a fifth of them idle.

    Tests without a database wait less, and each process takes seconds to load all tests.
    """
    cores = yield
    return cores if config.getoption("--no-database") else cores + 1


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of a random test: new in each run, and the same under one TEST_SEED."""
    run_seed = os.environ[SEED_VARIABLE]
    print(f"repeat with {SEED_VARIABLE}={run_seed}")  # noqa: T201
    return zlib.crc32(f"{run_seed}/{request.node.name}".encode())


@pytest.fixture(scope="session")
def starts_postgres() -> None:
    """Requested by each fixture that starts a PostgreSQL, and by tests that start one."""


@pytest.fixture(scope="session", autouse=True)
def _no_hidden_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """With --no-database, a test that starts a PostgreSQL without `starts_postgres` fails."""
    if not request.config.getoption("--no-database"):
        yield
        return

    def start(*_: object, **__: object) -> None:
        raise AssertionError("a test that starts a PostgreSQL requests the fixture starts_postgres")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddedPostgres, "start", start)
        yield


@pytest.fixture(autouse=True)
def one_day() -> None:
    """A test has one date from beginning to end: near midnight it begins later."""
    now = datetime.now(UTC)
    midnight = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
    left_seconds = (midnight - now).total_seconds()
    if left_seconds < MIDNIGHT_MARGIN_SECONDS:
        time.sleep(left_seconds + 0.01)


def _is_given() -> bool:
    """Whether the tests run on the PostgreSQL of LEDGER_TEST_DATABASE_URL, which stays."""
    return bool(os.environ.get("LEDGER_TEST_DATABASE_URL"))


@pytest.fixture(scope="session")
def server_url(starts_postgres: None) -> Iterator[str]:
    """A superuser's URL of LEDGER_TEST_DATABASE_URL or of an embedded server without fsync."""
    given = os.environ.get("LEDGER_TEST_DATABASE_URL")
    if given:
        yield Settings(_env_file=None, database_url=given).database_url
        return
    with (
        folder_for_all() as folder,
        EmbeddedPostgres.start(folder, parameters=SERVER_PARAMETERS) as postgres,
    ):
        yield postgres.url(user=postgres.superuser, database="postgres")


@pytest.fixture
def empty_server_url(starts_postgres: None) -> Iterator[str]:
    """A superuser's URL of a server that has never seen the ledger: not even its roles."""
    try:
        find_bin_dir()
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))
    with (
        folder_for_all() as folder,
        EmbeddedPostgres.start(folder, parameters=SERVER_PARAMETERS) as postgres,
    ):
        yield postgres.url(user=postgres.superuser, database="postgres")


@pytest.fixture(scope="session")
async def template_url(server_url: str) -> AsyncIterator[str]:
    """A migrated database that others are cloned from, without sessions."""
    url = database_url(server_url, database=TEMPLATE)
    await execute_alone(server_url, f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
    await create_database(server_url, TEMPLATE)
    await migrate_async(url)
    yield url
    if _is_given():
        await execute_alone(server_url, f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")


@pytest.fixture(scope="session")
async def new_database(
    server_url: str, template_url: str
) -> AsyncIterator[Callable[[], Awaitable[Database]]]:
    """Makes databases, each with the newest schema and nothing in it.

    Dropped at the end on a server that was given; an embedded one is deleted as a whole.
    """
    numbers = count(1)
    names: list[str] = []
    # One session makes them all; a test may end it.
    engine = create_async_engine(
        server_url, pool_size=1, pool_pre_ping=True, isolation_level="AUTOCOMMIT"
    )

    # Without fsync, files are copied in two thirds of the time that the log takes.
    strategy = "wal_log" if _is_given() else "file_copy"

    async def create() -> Database:
        name = f"ledger_test_{os.getpid()}_{next(numbers)}"
        async with engine.connect() as connection:
            await connection.execute(
                text(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY {strategy}")
            )
        names.append(name)
        owner_url = database_url(server_url, database=name)
        application_url = owner_url
        if not _is_given():
            application_url = database_url(owner_url, user=APPLICATION_ROLE)
        return Database(application_url, owner_url)

    yield create
    await engine.dispose()
    for name in names if _is_given() else ():
        await execute_alone(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    """A superuser's URL of a database with nothing in it."""
    name = f"ledger_empty_{os.getpid()}_{unique('db')}"
    await create_database(server_url, name)
    yield database_url(server_url, database=name)
    await execute_alone(server_url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="module")
async def shared_database(new_database: Callable[[], Awaitable[Database]]) -> Database:
    """One database for the tests of a module, which keep out of each other's way by their ids."""
    return await new_database()


@pytest.fixture
async def database(new_database: Callable[[], Awaitable[Database]]) -> Database:
    """A database for one test alone."""
    return await new_database()


@pytest.fixture(scope="module")
async def shared_postgresql(shared_database: Database) -> AsyncIterator[RunningLedger]:
    """A server on the database of the module."""
    async with running_ledger(shared_database) as running:
        yield running


@pytest.fixture(scope="module")
async def shared_memory() -> AsyncIterator[MemoryLedger]:
    """A server in memory for the module."""
    async with memory_ledger() as running:
        yield running


@pytest.fixture(scope="module")
def shared_ledger(request: pytest.FixtureRequest) -> RunningLedger:
    """One server for the tests of a module, which keep out of each other's way by their ids.

    Tests that are marked `both_servers` run on the server in memory, too.
    """
    ledger: RunningLedger = request.getfixturevalue(f"shared_{_server_of(request)}")
    return ledger


@pytest.fixture
async def own_postgresql(database: Database) -> AsyncIterator[RunningLedger]:
    """A server on the database of one test."""
    async with running_ledger(database) as running:
        yield running


@pytest.fixture
async def own_memory() -> AsyncIterator[MemoryLedger]:
    """A server in memory for one test."""
    async with memory_ledger() as running:
        yield running


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> RunningLedger:
    """A server for one test alone; marked `both_servers` as for `shared_ledger`."""
    ledger: RunningLedger = request.getfixturevalue(f"own_{_server_of(request)}")
    return ledger


def _server_of(request: pytest.FixtureRequest) -> str:
    server: str = getattr(request, "param", POSTGRESQL)
    return server
