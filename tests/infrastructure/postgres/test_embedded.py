"""The embedded PostgreSQL, with real processes, signals and accounts."""

import asyncio
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url

from ledger.infrastructure.postgres import embedded
from ledger.infrastructure.postgres.embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    default_data_dir,
)

SOURCES = Path(embedded.__file__).parents[4]
IS_ROOT = os.geteuid() == 0
FAST = {"fsync": "off"}
PATIENCE_SECONDS = 90.0

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root drops to another account")
needs_proc = pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="looks processes up in /proc"
)

# Serves until its standard input ends.
PROGRAM = """
import sys
from pathlib import Path
from ledger.infrastructure.postgres import embedded
from ledger.infrastructure.postgres.embedded import launcher
if sys.argv[2] == "keeper":
    on_linux = 'sys.platform == "linux"'
    assert on_linux in launcher._LAUNCHER_SOURCE
    launcher._LAUNCHER_SOURCE = launcher._LAUNCHER_SOURCE.replace(on_linux, "False")
data_dir = Path(sys.argv[1]) if sys.argv[1] else embedded.default_data_dir()
with embedded.EmbeddedPostgres.start(data_dir, parameters={"fsync": "off"}) as server:
    print(server.attached, server.url(user=server.superuser, database="postgres"), flush=True)
    sys.stdin.read()
"""


class Program:
    """Another process that runs an embedded server."""

    def __init__(
        self,
        data_dir: Path | str,
        *,
        launcher: str = "",
        python: str = sys.executable,
        environment: Mapping[str, str] = {},
        account: pwd.struct_passwd | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [python, "-c", PROGRAM, str(data_dir), launcher],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(SOURCES), *sys.path]),
                **environment,
            },
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )

    def started(self) -> tuple[bool, str]:
        """Waits for the start. Returns whether it attached, and the URL of its server."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE_SECONDS)[0], "no output"
        line = self.process.stdout.readline().decode().split()
        if not line:
            pytest.fail(self.process.communicate(timeout=PATIENCE_SECONDS)[1].decode())
        return line[0] == "True", line[1]

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE_SECONDS)


def fetch(url: str, statement: str) -> Any:
    """The first value that the statement returns."""

    async def connect_and_fetch() -> Any:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""), timeout=PATIENCE_SECONDS)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    # Not asyncio.run, which would reset the event loop that the other tests of the session share.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(connect_and_fetch())
    finally:
        loop.close()


def url_of(server: EmbeddedPostgres) -> str:
    return server.url(user=server.superuser, database="postgres")


def postmaster_pid(data_dir: Path) -> int:
    (path,) = data_dir.glob("pg*/postmaster.pid")
    return int(path.read_text().splitlines()[0])


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie, which its parent has not reaped yet, counts as gone.
        return (
            Path("/proc").is_dir()
            and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        )
    except (ProcessLookupError, FileNotFoundError):
        return True


def wait_until(condition: Callable[[], bool], *, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.002)


@pytest.fixture
def place(starts_postgres: None) -> Iterator[Path]:
    """An empty directory that every account can enter, unlike pytest's `tmp_path`."""
    path = Path(tempfile.mkdtemp(prefix="ledger-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def running(starts_postgres: None) -> Iterator[EmbeddedPostgres]:
    """One server with the default settings, for all tests that change nothing."""
    path = Path(tempfile.mkdtemp(prefix="ledger-test-"))
    with EmbeddedPostgres.start(path) as server:
        yield server
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("server_encoding", "UTF8"),
        ("data_checksums", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("max_connections", "200"),
        ("max_prepared_transactions", "0"),
        ("listen_addresses", ""),
        ("TimeZone", "UTC"),
    ],
)
def test_first_start_creates_a_durable_private_cluster(
    running: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    """It runs SQL statements, has safe settings, and ignores PGPORT."""
    monkeypatch.setenv("PGPORT", "1")
    assert not running.attached
    assert fetch(url_of(running), f"SHOW {setting}") == value


def test_url_survives_sqlalchemy(running: EmbeddedPostgres) -> None:
    """Names with characters that mean something in a URL arrive as they were."""
    url = make_url(running.url(user="a b@:/%é", database="x y?&%"))
    assert (url.username, url.database, url.query["port"]) == ("a b@:/%é", "x y?&%", "5432")
    assert (Path(str(url.query["host"])) / ".s.PGSQL.5432").is_socket()


@needs_root
@needs_proc
def test_root_runs_the_server_as_an_unprivileged_account(running: EmbeddedPostgres) -> None:
    """PostgreSQL has neither root's user nor any of root's groups, and owns its files."""
    cluster = Path(fetch(url_of(running), "SHOW data_directory"))
    lines = Path(f"/proc/{postmaster_pid(cluster.parent)}/status").read_text().splitlines()
    status = {key: numbers.split() for key, _, numbers in (line.partition(":") for line in lines)}
    assert "0" not in status["Uid"] + status["Gid"] + status["Groups"]
    assert (cluster.stat().st_uid, cluster.stat().st_mode & 0o777) == (int(status["Uid"][0]), 0o700)


def test_terminal_signals_do_not_reach_the_server(running: EmbeddedPostgres) -> None:
    """Ctrl-C goes to the service's process group and session; PostgreSQL has separate ones."""
    cluster = Path(fetch(url_of(running), "SHOW data_directory"))
    pid = postmaster_pid(cluster.parent)
    assert os.getsid(pid) != os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)


def test_rows_survive_stop_and_start(place: Path) -> None:
    """A second stop does nothing, and the log stays bounded."""
    (place / "postgres.log").write_bytes(b"." * 5_000_000)
    server = EmbeddedPostgres.start(place, parameters=FAST)
    fetch(url_of(server), "CREATE TABLE kept AS SELECT 42 AS value")
    pid = postmaster_pid(place)
    server.stop()
    server.stop()
    assert is_gone(pid)
    assert (place / "postgres.log").stat().st_size < 100_000
    with EmbeddedPostgres.start(place, parameters=FAST | {"max_connections": "33"}) as server:
        assert fetch(url_of(server), "SELECT value FROM kept") == 42
        assert fetch(url_of(server), "SHOW max_connections") == "33"
        assert fetch(url_of(server), "SHOW fsync") == "off"


def test_ordinary_user_gets_a_server_in_the_home_directory(place: Path) -> None:
    """Without privileges, below a home directory that no other account can enter."""
    account = pwd.getpwnam("nobody") if IS_ROOT else None
    home = place / "home"
    home.mkdir(mode=0o700)
    python = sys.executable
    if account is not None:
        os.chown(home, account.pw_uid, account.pw_gid)
        check = "import sys; sys.exit(sys.version_info < (3, 11))"
        for candidate in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
            try:
                if (
                    subprocess.run(
                        [candidate, "-c", check], user=account.pw_uid, cwd="/"
                    ).returncode
                    == 0
                ):
                    python = candidate
                    break
            except OSError:
                continue
        else:
            pytest.skip("the account `nobody` can execute no Python 3.11 here")
    environment = {"HOME": str(home), "XDG_DATA_HOME": ""}
    program = Program("", python=python, environment=environment, account=account)
    attached, url = program.started()
    assert not attached
    assert fetch(url, "SELECT 1") == 1
    cluster = Path(fetch(url, "SHOW data_directory"))
    assert cluster.parent == home / ".local" / "share" / "ledger"
    assert cluster.stat().st_uid == home.stat().st_uid
    program.end()


@needs_root
def test_binaries_that_the_account_cannot_reach_are_copied_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A virtualenv below a 0700 home works for root; its permissions stay."""
    installation = embedded.find_bin_dir().parent
    package = installation.parent
    if not Path(f"{package}.libs").exists():
        pytest.skip("only the wheel's binaries can be carried elsewhere")
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    unused = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(
        installation, closed / package.name / installation.name, symlinks=True, ignore=unused
    )
    shutil.copytree(f"{package}.libs", closed / f"{package.name}.libs", symlinks=True)
    monkeypatch.setenv("LEDGER_PG_BIN", str(closed / package.name / installation.name / "bin"))
    copies = set()
    for _ in range(2):
        with EmbeddedPostgres.start(place / "data", parameters=FAST) as server:
            assert fetch(url_of(server), "SELECT 1") == 1
            copies |= {
                (path.name, path.stat().st_ino) for path in (place / "data").glob("*binaries*")
            }
    assert len(copies) == 1
    assert closed.stat().st_mode & 0o777 == 0o700


@needs_root
def test_data_below_a_closed_directory_is_refused(place: Path) -> None:
    """The error names the closed directory and the setting, and no permission changes."""
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match="LEDGER_DATA_DIR") as caught:
        EmbeddedPostgres.start(closed / "deep" / "data")
    assert f"cannot enter {closed}." in str(caught.value)
    assert closed.stat().st_mode & 0o777 == 0o700


def test_two_data_directories_run_side_by_side(place: Path) -> None:
    """Servers of different data directories share nothing."""
    with (
        EmbeddedPostgres.start(place / "one", parameters=FAST) as one,
        EmbeddedPostgres.start(place / "two", parameters=FAST) as two,
    ):
        assert (one.attached, two.attached) == (False, False)
        fetch(url_of(one), "CREATE TABLE mine ()")
        assert fetch(url_of(two), "SELECT to_regclass('mine') IS NULL")


def test_two_processes_at_once_share_one_server(place: Path) -> None:
    """Of two that start together on an empty directory, one owns the server.

    The other attaches, and its end does not end the server.
    """
    data_dir = place / "data"
    programs = [Program(data_dir), Program(data_dir)]
    starts = [program.started() for program in programs]
    assert sorted(attached for attached, _ in starts) == [False, True]
    fetch(starts[0][1], "CREATE TABLE shared AS SELECT 7 AS value")
    assert fetch(starts[1][1], "SELECT value FROM shared") == 7
    owner, guest = sorted(programs, key=lambda program: starts[programs.index(program)][0])
    guest.end()
    pid = postmaster_pid(data_dir)
    assert fetch(starts[0][1], "SELECT value FROM shared") == 7
    owner.end()
    assert is_gone(pid)


@pytest.mark.parametrize("launcher", ["exec", "keeper"])
def test_server_ends_with_its_killed_parent(place: Path, launcher: str) -> None:
    """SIGKILL of the service ends PostgreSQL cleanly. The next start has the committed rows."""
    if launcher == "exec" and sys.platform != "linux":
        pytest.skip("only Linux has PR_SET_PDEATHSIG")
    program = Program(place, launcher=launcher)
    _, url = program.started()
    fetch(url, "CREATE TABLE kept AS SELECT 42 AS value")
    pid = postmaster_pid(place)
    program.kill()
    wait_until(lambda: is_gone(pid))
    assert "database system is shut down" in (place / "postgres.log").read_text()
    with EmbeddedPostgres.start(place, parameters=FAST) as server:
        assert not server.attached
        assert fetch(url_of(server), "SELECT value FROM kept") == 42


def test_keeper_stops_the_server_on_request(place: Path) -> None:
    """Where there is no PDEATHSIG, stop() reaches PostgreSQL through the keeper."""
    program = Program(place, launcher="keeper")
    assert fetch(program.started()[1], "SELECT 1") == 1
    pid = postmaster_pid(place)
    program.end()
    assert is_gone(pid)


def test_start_right_after_a_crash_waits_for_orphans(place: Path) -> None:
    """After a postmaster was killed under a busy session, the next start waits for that session.

    Committed rows are there.
    """
    server = EmbeddedPostgres.start(place, parameters=FAST)
    fetch(url_of(server), "CREATE TABLE kept AS SELECT 42 AS value")
    # The session is busy as long as a file exists: it neither ends too early nor notices that its
    # postmaster is gone.
    (cluster,) = place.glob("pg*")
    (cluster / "busy").touch()
    busy = "DO $$ BEGIN WHILE (pg_stat_file('busy', true)).size IS NOT NULL LOOP END LOOP; END $$"
    with ThreadPoolExecutor() as threads:
        orphan = threads.submit(fetch, url_of(server), busy)
        active = (
            "SELECT count(*) FROM pg_stat_activity WHERE starts_with(query, 'DO $$ BEGIN "
            "WHILE') AND state = 'active'"
        )
        wait_until(lambda: fetch(url_of(server), active) == 1)
        os.kill(postmaster_pid(place), signal.SIGKILL)
        server.stop()
        # Long enough for the start to find the orphan.
        threading.Timer(0.5, (cluster / "busy").unlink).start()
        with EmbeddedPostgres.start(place, parameters=FAST) as server:
            assert not server.attached
            assert fetch(url_of(server), "SELECT value FROM kept") == 42
        orphan.exception(timeout=PATIENCE_SECONDS)
    assert "automatic recovery in progress" in (place / "postgres.log").read_text()


@needs_proc
def test_pid_file_that_names_another_program_is_no_obstacle(place: Path) -> None:
    """After a crash or a reboot, any process may have the pid of the pid file.

    The server starts and recovers.
    """
    server = EmbeddedPostgres.start(place, parameters=FAST)
    fetch(url_of(server), "CREATE TABLE kept AS SELECT 42 AS value")
    pid = postmaster_pid(place)
    os.kill(pid, signal.SIGKILL)
    server.stop()
    (path,) = place.glob("pg*/postmaster.pid")
    # A process of the same account: PostgreSQL knows by itself that a process of another account is
    # none of its servers.
    owner = path.stat()
    account = owner.st_uid if IS_ROOT else None
    stranger = subprocess.Popen(["sleep", "600"], cwd="/", user=account)
    try:
        for stale in (path, path.with_name(".s.PGSQL.5432.lock")):
            stale.write_text(stale.read_text().replace(str(pid), str(stranger.pid), 1))
        with EmbeddedPostgres.start(place, parameters=FAST) as server:
            assert fetch(url_of(server), "SELECT value FROM kept") == 42
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_socket_of_a_long_path_is_elsewhere(place: Path) -> None:
    """The path is too long for a socket's address, and has odd characters.

    The private directory of the socket is removed at the end, or at the next start.
    """
    data_dir = place / "a, b:c@d e%f" / ("long" * 30)
    program = Program(data_dir)
    _, url = program.started()
    left_behind = Path(str(make_url(url).query["host"]))
    assert left_behind.stat().st_mode & 0o777 == 0o700
    pid = postmaster_pid(data_dir)
    program.kill()
    wait_until(lambda: is_gone(pid))
    with EmbeddedPostgres.start(data_dir, parameters=FAST) as server:
        assert fetch(url_of(server), "SELECT 1") == 1
        socket_dir = Path(str(make_url(url_of(server)).query["host"]))
        assert socket_dir.is_dir()
    assert not left_behind.exists()
    assert not socket_dir.exists()


def test_interrupted_initdb_is_begun_again(place: Path) -> None:
    """After a kill in the middle of initdb, the next start makes the cluster anew."""

    def is_begun() -> bool:
        """Whether a part of the cluster has been written."""
        return any(data_dir.glob("new-pg*/base")) or is_whole()

    def is_whole() -> bool:
        return any(data_dir.glob("pg*/PG_VERSION"))

    # Repeated if initdb ended before the kill.
    for number in range(10):
        data_dir = place / str(number)
        program = Program(data_dir)
        wait_until(is_begun)
        program.kill()
        if not is_whole():
            break
    assert not is_whole()
    with EmbeddedPostgres.start(data_dir, parameters=FAST) as server:
        assert not server.attached
        assert fetch(url_of(server), "SELECT 1") == 1
    assert not any(data_dir.glob("new-*"))


def test_server_that_ends_at_once_is_reported_with_its_log(place: Path) -> None:
    """The start fails without waiting, with the text of PostgreSQL."""
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers"'):
        EmbeddedPostgres.start(place, parameters={"shared_buffers": "much"})


def test_cluster_of_another_major_version_is_an_error(place: Path) -> None:
    """No empty cluster is made beside data that the binaries cannot read."""
    (place / "pg9").mkdir()
    (place / "pg9" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedPostgresError, match="pg9 was made by another major version"):
        EmbeddedPostgres.start(place)


def test_start_off_the_main_thread_is_refused(place: Path) -> None:
    """The kernel would end the server with the thread, so no other thread may start it."""
    caught: list[EmbeddedPostgresError] = []

    def start() -> None:
        try:
            EmbeddedPostgres.start(place)
        except EmbeddedPostgresError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    assert "main thread" in str(caught[0])
    assert not any(place.iterdir())


def test_missing_binaries_are_named_with_the_remedy(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any PostgreSQL the error names the extra and the setting.

    A wrong LEDGER_PG_BIN is an error too.
    """
    # No site-packages (-S) and no PATH: neither wheel nor pg_config.
    monkeypatch.delenv("LEDGER_PG_BIN", raising=False)
    result = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, str(place), ""],
        env={"PYTHONPATH": str(SOURCES), "PATH": str(place)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == 1
    assert "ledger-service[embedded]" in result.stderr
    assert "LEDGER_DATABASE_URL" in result.stderr
    monkeypatch.setenv("LEDGER_PG_BIN", str(place))
    with pytest.raises(EmbeddedPostgresError, match="LEDGER_PG_BIN"):
        EmbeddedPostgres.start(place)


def test_directory_that_cannot_be_made_is_named(place: Path) -> None:
    """The error has the path, the system's reason and the setting."""
    (place / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match=r"file.*Not a directory.*LEDGER_DATA_DIR"):
        EmbeddedPostgres.start(place / "file" / "data")


def test_default_data_dir_suits_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below /var/lib for root, where its unprivileged account can enter, else as XDG names it."""
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data_dir() == Path("/var/lib/ledger" if IS_ROOT else "/somewhere/ledger")
