"""`ledger archive`: rows move from the database into files, and no row is ever in neither place."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sqlalchemy import make_url
from support.archives import make_older
from support.audit import assert_books_in_order
from support.commands import INTERRUPTIBLE, Outcome, run_command, start_process
from support.dates import days_ago
from support.events import event_message, unique
from support.payout_runs import finished_run
from support.running import RunningLedger, query, running_ledger
from support.snapshots import make_marks, take_snapshots
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.cli.failures import ExitStatus
from ledger.infrastructure.archive_files import verify
from ledger.infrastructure.postgres.embedded import EmbeddedPostgresError, find_bin_dir
from ledger.infrastructure.postgres.schema.migrations import migrate_async
from ledger.v1 import ledger_pb2

RESTAURANTS = 5
COUNTS = (
    "SELECT (SELECT count(*) FROM payout_run_items), (SELECT count(*) FROM audit_log),"
    " (SELECT count(*) FROM archived_ranges)"
)
ITEMS = (
    "SELECT row_to_json(i)::text FROM payout_run_items AS i ORDER BY payout_run_id, restaurant_id"
)
CALLS = "SELECT row_to_json(l)::text FROM audit_log AS l ORDER BY audit_id"
TODAY = days_ago(0).isoformat()


@pytest.fixture
async def old_books(
    database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[tuple[RunningLedger, Path]]:
    """A server on books whose runs and calls are 40 days old, and a directory for archives.

    Two runs have succeeded: the first paid all restaurants but one, the second none. A third was
    canceled before it had considered a restaurant.
    """
    directory = tmp_path / "archives"
    directory.mkdir()
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
    monkeypatch.setenv("LEDGER_MIGRATION_DATABASE_URL", database.migration_url)
    monkeypatch.setenv("TZ", "UTC")
    async with running_ledger(database, audit_log=True, payout_concurrency=1) as ledger:
        await ledger.ingest(
            *(
                event_message(event_id=f"evt_{n}", restaurant_id=f"res_{n}")
                for n in range(RESTAURANTS)
            )
        )
        await ledger.query("UPDATE restaurants SET active = false WHERE restaurant_id = 'res_0'")
        await finished_run(ledger, request_id=unique("run"))
        await finished_run(ledger, request_id=unique("run"))
        await query(
            database.migration_url,
            """
            WITH run AS (
              INSERT INTO payout_runs (payout_run_id, currency, as_of, cutoff_at, min_amount_minor,
                                       request_id, state, created_at, finished_at)
              SELECT gen_random_uuid(), currency, as_of, cutoff_at, 0, 'canceled', 'CANCELED',
                     created_at, finished_at
              FROM payout_runs LIMIT 1
              RETURNING payout_run_id
            )
            INSERT INTO payout_run_items (payout_run_id, restaurant_id, balance_account_id)
            SELECT payout_run_id, restaurant_id, balance_account_id
            FROM run CROSS JOIN balance_accounts
            """,
        )
        # The last calls are recorded in the background.
        await until_rows(database, "SELECT count(*) >= 3 FROM audit_log")
        await make_older(database, 40)
        yield ledger, directory


async def until_rows(database: Database, question: str) -> None:
    """Waits until the query returns true."""

    async def shown() -> bool:
        return bool((await query(database.migration_url, question))[0][0])

    await until(shown, DEADLINE_SECONDS)


async def archive(*arguments: str) -> Outcome:
    """`ledger archive run` of all rows from before today."""
    return await run_command("archive", "run", *arguments, "--before", TODAY)


async def runs_of(ledger: RunningLedger) -> list[ledger_pb2.PayoutRun]:
    """Every run as GetPayoutRun returns it."""
    listed = (await ledger.stub.ListPayoutRuns(ledger_pb2.ListPayoutRunsRequest())).payout_runs
    return [
        (
            await ledger.stub.GetPayoutRun(
                ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
            )
        ).payout_run
        for run in listed
    ]


def lines_in(directory: Path, kind: str) -> list[str]:
    """The rows in all files of a kind, sorted."""
    return archived(directory, [file.name for file in directory.glob(f"{kind}-*.jsonl.gz")])


def archived(directory: Path, names: list[str]) -> list[str]:
    """The rows in these files, sorted."""
    return sorted(
        line
        for name in names
        for line in gzip.decompress((directory / name).read_bytes()).decode().splitlines()
    )


async def rows_of(database: Database, statement: str) -> list[str]:
    return sorted(line for (line,) in await query(database.migration_url, statement))


async def test_runs_keep_their_totals_and_calls_are_kept(
    old_books: tuple[RunningLedger, Path],
) -> None:
    """Every row is in a file as it was. GetPayoutRun is unchanged, and errors name the file."""
    ledger, directory = old_books
    items, calls = await rows_of(ledger.database, ITEMS), await rows_of(ledger.database, CALLS)
    before = await runs_of(ledger)
    assert {run.state for run in before} == {
        ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED,
        ledger_pb2.PAYOUT_RUN_STATE_CANCELED,
    }
    outcome = await archive(str(directory))
    assert (outcome.status, outcome.stderr) == (0, "")
    assert await ledger.query(COUNTS) == [(0, 0, 2)]
    assert (lines_in(directory, "payout_run_items"), lines_in(directory, "audit_log")) == (
        items,
        calls,
    )
    assert await runs_of(ledger) == before
    for run in before:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ledger.stub.ListPayoutRunItems(
                ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=run.payout_run_id)
            )
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        info = error_details_pb2.ErrorInfo()
        status = rpc_status.from_call(refused.value)  # type: ignore[arg-type]  # it is a Call too
        assert any(detail.Unpack(info) for detail in status.details)
        (file,) = directory.glob("payout_run_items-*.jsonl.gz")
        assert (info.reason, dict(info.metadata)) == (
            "PAYOUT_RUN_ARCHIVED",
            {"payout_run_id": run.payout_run_id, "file_name": file.name},
        )
        shown = await run_command("payouts", "show", run.payout_run_id, "--address", ledger.address)
        assert (shown.status, file.name in shown.stderr) == (0, True)
    await assert_books_in_order(ledger.database)
    assert (await run_command("archive", "verify", str(directory))).status == 0
    listed = [
        json.loads(line)
        for line in (await run_command("archive", "list", "--json")).stdout.splitlines()
    ]
    assert sorted((row["kind"], int(row["rows_count"])) for row in listed) == [
        ("audit_log", len(calls)),
        ("payout_run_items", len(items)),
    ]
    again = await archive(str(directory))
    assert (again.status, again.stdout.splitlines()[-1]) == (0, "nothing to archive")


async def test_dry_run_counts_what_would_be_archived(old_books: tuple[RunningLedger, Path]) -> None:
    """Rows and bytes of each month, and superseded snapshots. Nothing is written or removed."""
    ledger, directory = old_books
    counts = await ledger.query(COUNTS)
    outcome = await archive(str(directory), "--dry-run", "--json")
    assert (outcome.status, outcome.stderr, list(directory.iterdir())) == (0, "", [])
    shown = {row["kind"]: row for row in map(json.loads, outcome.stdout.splitlines())}
    assert set(shown) == {"payout_run_items", "audit_log", "balance_snapshots", "statement_marks"}
    assert int(shown["payout_run_items"]["rows_count"]) == 3 * RESTAURANTS
    assert int(shown["payout_run_items"]["rows_bytes"]) > 3 * RESTAURANTS * 50
    assert await ledger.query(COUNTS) == counts
    assert (await archive(str(directory), "--dry-run")).status == 0


async def test_options_choose_what_is_archived(old_books: tuple[RunningLedger, Path]) -> None:
    """--kind leaves the other kinds, and --before leaves later rows."""
    ledger, directory = old_books
    ((items, calls, _),) = await ledger.query(COUNTS)
    outcome = await run_command(
        "archive", "run", str(directory), "--before", days_ago(50).isoformat()
    )
    assert (outcome.status, await ledger.query(COUNTS)) == (0, [(items, calls, 0)])
    assert (await archive(str(directory), "--kind", "audit_log")).status == 0
    assert await ledger.query(COUNTS) == [(items, 0, 1)]
    assert (await archive(str(directory), "--kind", "payout_run_items")).status == 0
    assert await ledger.query(COUNTS) == [(0, 0, 2)]


async def test_servers_work_while_rows_are_archived(old_books: tuple[RunningLedger, Path]) -> None:
    """A run under way keeps its items, whatever its age. Calls are recorded, and none is lost."""
    ledger, directory = old_books
    items, calls = await rows_of(ledger.database, ITEMS), await rows_of(ledger.database, CALLS)
    async with ledger.engine.connect() as connection:
        # The worker passes over this restaurant, so that the run stays open.
        await connection.exec_driver_sql(
            "SELECT FROM balance_accounts WHERE restaurant_id = 'res_1' FOR NO KEY UPDATE"
        )
        await ledger.query(
            """
            WITH run AS (
              INSERT INTO payout_runs (payout_run_id, currency, as_of, cutoff_at, min_amount_minor,
                                       request_id, created_at)
              SELECT gen_random_uuid(), currency, as_of, cutoff_at, 0, 'open', created_at
              FROM payout_runs LIMIT 1
              RETURNING payout_run_id
            )
            INSERT INTO payout_run_items (payout_run_id, restaurant_id, balance_account_id)
            SELECT payout_run_id, restaurant_id, balance_account_id
            FROM run CROSS JOIN balance_accounts
            """
        )
        archiving = asyncio.create_task(archive(str(directory)))
        sent = 0
        while not archiving.done() or sent < 20:
            await ledger.ingest(event_message(event_id=f"evt_during_{sent}", restaurant_id="res_2"))
            sent += 1
        assert (await archiving).status == 0
        open_runs = (
            "SELECT count(*) FROM payout_run_items JOIN payout_runs USING (payout_run_id)"
            " WHERE state = 'RUNNING'"
        )
        assert await ledger.query(open_runs) == [(RESTAURANTS,)]
    assert (lines_in(directory, "payout_run_items"), lines_in(directory, "audit_log")) == (
        items,
        calls,
    )
    await until_rows(ledger.database, f"SELECT count(*) >= {sent} FROM audit_log")
    await until_rows(
        ledger.database, "SELECT count(*) = 0 FROM payout_runs WHERE state = 'RUNNING'"
    )
    await assert_books_in_order(ledger.database)


async def test_calls_recorded_late_are_never_removed_unarchived(
    old_books: tuple[RunningLedger, Path],
) -> None:
    """A call of an archived month that was committed later stays, and gets a separate archive."""
    ledger, directory = old_books
    calls = await rows_of(ledger.database, CALLS)
    assert (await archive(str(directory))).status == 0
    late = (
        "INSERT INTO audit_log"
        " (audit_id, recorded_at, identity, credential, method, request_id, peer, what, outcome)"
        " SELECT gen_random_uuid(), from_at, '', 'none', 'late', '', '', '{}', 'OK'"
        " FROM archived_ranges WHERE kind = 'audit_log'"
    )
    await ledger.query(late)
    late_calls = await rows_of(ledger.database, CALLS)
    assert len(late_calls) == 1
    outcome = await archive(str(directory))
    assert (outcome.status, await ledger.query(COUNTS)) == (0, [(0, 0, 3)])
    assert lines_in(directory, "audit_log") == sorted([*calls, *late_calls])
    await assert_books_in_order(ledger.database)


# The steps before or after which a command may be killed.
KILLED = {
    "writing the file": ("archive_files", "_write_text", "before"),
    "the file is written, its manifest too": ("archive_files", "_publish", "before"),
    "the file has its name": ("archive_files", "_publish", "after"),
    "the manifest has its name": ("archive_files", "_sync_directory", "after"),
    "it is recorded": ("postgres.archives", "PostgresArchives.record", "after"),
    "some rows are removed": ("postgres.archives", "PostgresArchives.remove", "after"),
}


def killed_at(module: str, name: str, moment: str) -> str:
    """A program that runs the command and kills itself before or after a function's first call."""
    return f"""
import asyncio, importlib, os, signal
module = importlib.import_module("ledger.infrastructure.{module}")
importlib.import_module("ledger.infrastructure.archive_files").ROWS_AT_ONCE = 2
owner, _, name = "{name}".rpartition(".")
owner = getattr(module, owner) if owner else module
function = getattr(owner, name)
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
def killing(*arguments, **named):
    if "{moment}" == "before":
        kill()
    function(*arguments, **named)
    kill()
async def killing_later(*arguments, **named):
    await function(*arguments, **named)
    kill()
setattr(owner, name, killing_later if asyncio.iscoroutinefunction(function) else killing)
{INTERRUPTIBLE}
"""


@pytest.mark.parametrize("point", KILLED, ids=str)
async def test_killed_command_is_finished_by_the_next(
    old_books: tuple[RunningLedger, Path], point: str
) -> None:
    """SIGKILL between any two steps loses no row."""
    ledger, directory = old_books
    items, calls = await rows_of(ledger.database, ITEMS), await rows_of(ledger.database, CALLS)
    before = await runs_of(ledger)
    process = await start_process(
        "archive", "run", str(directory), "--before", TODAY, program=killed_at(*KILLED[point])
    )
    await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    assert process.returncode == -signal.SIGKILL
    recorded = await rows_of(ledger.database, "SELECT file_name FROM archived_ranges")
    left = {*await rows_of(ledger.database, ITEMS), *await rows_of(ledger.database, CALLS)}
    assert {*archived(directory, recorded), *left} == {*items, *calls}
    assert await runs_of(ledger) == before
    again = await archive(str(directory))
    assert (again.status, await ledger.query(COUNTS)) == (0, [(0, 0, 2)])
    recorded = await rows_of(ledger.database, "SELECT file_name FROM archived_ranges")
    assert archived(directory, recorded) == sorted([*items, *calls])
    assert not [
        verdict
        for verdict in verify(directory)
        if verdict.file.name in recorded and verdict.problem
    ]
    assert await runs_of(ledger) == before
    await assert_books_in_order(ledger.database)


async def test_unfinished_archive_needs_its_file(
    old_books: tuple[RunningLedger, Path], tmp_path: Path
) -> None:
    """A command killed while removing rows cannot finish with another directory or file."""
    ledger, directory = old_books
    program = killed_at("postgres.archives", "PostgresArchives.remove", "after")
    process = await start_process(
        "archive", "run", str(directory), "--before", TODAY, program=program
    )
    await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    (file,) = directory.glob("payout_run_items-*.jsonl.gz")
    contents = file.read_bytes()
    counts = (await ledger.query(COUNTS))[0]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outcome = await archive(str(elsewhere), "--kind", "payout_run_items")
    assert (
        outcome.status,
        f"cannot read {elsewhere / file.name}: No such file" in outcome.stderr,
    ) == (1, True)
    file.write_bytes(gzip.compress(gzip.decompress(contents)))
    outcome = await archive(str(directory), "--kind", "payout_run_items")
    assert (outcome.status, "is not the file that was recorded" in outcome.stderr) == (1, True)
    assert (await ledger.query(COUNTS))[0] == counts
    file.write_bytes(contents)
    assert (await archive(str(directory))).status == 0
    assert await ledger.query(COUNTS) == [(0, 0, 2)]


async def test_directory_without_room_for_files_is_reported(
    old_books: tuple[RunningLedger, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing, a file, not writable or full: one line. No row is removed, and no file is left."""
    ledger, directory = old_books
    counts = await ledger.query(COUNTS)
    file = directory / "file"
    file.touch()
    for wrong in (directory / "missing", file):
        outcome = await archive(str(wrong))
        assert (
            outcome.status,
            "DIRECTORY must be an existing directory" in outcome.stderr,
        ) == (ExitStatus.USAGE, True)
    # Not even root may create files there.
    outcome = await archive("/proc/self")
    assert (outcome.status, "error: cannot write /proc/self/" in outcome.stderr) == (1, True)
    file.unlink()
    # A file may become no larger than this, as on a directory that is full.
    limited = (
        f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n{INTERRUPTIBLE}"
    )
    process = await start_process(
        "archive", "run", str(directory), "--before", TODAY, program=limited
    )
    _, stderr = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    assert (
        process.returncode,
        b": File too large\n  only archived rows were removed" in stderr,
    ) == (1, True)
    assert (await ledger.query(COUNTS), list(directory.iterdir())) == (counts, [])


async def test_closed_output_loses_no_row(old_books: tuple[RunningLedger, Path]) -> None:
    """Status 1 without an error text, as for every command. The next command finishes the work."""
    ledger, directory = old_books
    reads, writes = os.pipe()
    os.close(reads)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", INTERRUPTIBLE, "archive", "run", str(directory), "--before", TODAY),
        stdout=writes,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writes)
    _, stderr = await asyncio.wait_for(process.communicate(), DEADLINE_SECONDS)
    assert (process.returncode, stderr) == (1, b"")
    assert (await archive(str(directory))).status == 0
    assert await ledger.query(COUNTS) == [(0, 0, 2)]


async def test_bad_requests_change_nothing(
    old_books: tuple[RunningLedger, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A date in the future or none, an unknown kind, a lesser role, another command under way."""
    ledger, directory = old_books
    counts = await ledger.query(COUNTS)
    for arguments, words in (
        (("--before", days_ago(-1).isoformat()), "--before must not be in the future"),
        (("--before", "2025-13-01"), "--before must be a date"),
        ((), "--before"),
        (
            ("--before", TODAY, "--kind", "ledger_entries"),
            "--kind must be one of payout_run_items, audit_log, snapshots",
        ),
    ):
        outcome = await run_command("archive", "run", str(directory), *arguments)
        assert (outcome.status, words in outcome.stderr.lower()) == (ExitStatus.USAGE, True)
    if ledger.database.url != ledger.database.migration_url:
        monkeypatch.setenv("LEDGER_MIGRATION_DATABASE_URL", ledger.database.url)
        outcome = await archive(str(directory))
        assert outcome.status != 0
        assert "must name a superuser, or a member of ledger_owner" in outcome.stderr
        monkeypatch.setenv("LEDGER_MIGRATION_DATABASE_URL", ledger.database.migration_url)
    async with ledger.engine.connect() as connection:
        await connection.exec_driver_sql("SELECT pg_advisory_lock(x'6C65646765720002'::bigint)")
        outcome = await archive(str(directory))
        assert (outcome.status, "another `ledger archive run` is under way" in outcome.stderr) == (
            1,
            True,
        )
        await connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")
    assert (await ledger.query(COUNTS), list(directory.iterdir())) == (counts, [])


async def test_verify_finds_what_is_damaged(old_books: tuple[RunningLedger, Path]) -> None:
    """A changed byte; a short, missing or foreign file; a manifest that is wrong or nonsense."""
    _, directory = old_books
    assert (
        await run_command("archive", "verify", str(directory))
    ).stderr == f"error: there are no archives in {directory}\n"
    assert (await archive(str(directory), "--kind", "audit_log")).status == 0
    (file,) = directory.glob("*.jsonl.gz")
    (manifest,) = directory.glob("*.manifest.json")
    data, text = file.read_bytes(), manifest.read_text()

    async def problem() -> str:
        outcome = await run_command("archive", "verify", str(directory), "--json")
        (row,) = map(json.loads, outcome.stdout.splitlines())
        assert outcome.status == (1 if row["problem"] else 0)
        return str(row["problem"])

    assert await problem() == ""
    for path in (file, manifest):
        assert (await run_command("archive", "verify", str(path))).status == 0
    for changed, words in (
        (data[:-1], "damaged"),
        (data[:40], "damaged"),
        (data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "damaged"),
        (b"", "is not what its manifest says: has 0 rows"),
        (gzip.compress(gzip.decompress(data)), "is not what its manifest says"),
        (gzip.compress(b"{}\n"), "damaged, or no archive"),
        (gzip.compress(b"[" * 100_000 + b"\n"), "damaged, or no archive"),
        (gzip.compress(b"0" * (2 << 20)), "a line is too long"),
    ):
        file.write_bytes(changed)
        assert words in await problem()
    file.unlink()
    assert "No such file" in await problem()
    file.write_bytes(data)
    for changed_text, words in (
        (text.replace(file.name, "another.jsonl.gz"), "the manifest is of another file"),
        (text.replace("audit_log", "ledger_entries"), "the manifest is not one"),
        ("{}", "the manifest is not one"),
        ("[]", "no manifest"),
        ("nonsense", "damaged, or no archive"),
    ):
        manifest.write_text(changed_text)
        assert words in await problem()
    manifest.unlink()
    assert "No such file" in await problem()


async def test_archive_is_loaded_into_a_table_by_psql(
    old_books: tuple[RunningLedger, Path],
) -> None:
    """The line of docs/operations/backup.md: every row as it was."""
    ledger, directory = old_books
    try:
        psql = find_bin_dir() / "psql"
    except EmbeddedPostgresError as error:
        pytest.skip(str(error))
    for table, statement in (("payout_run_items", ITEMS), ("audit_log", CALLS)):
        rows = await rows_of(ledger.database, statement)
        assert (await archive(str(directory), "--kind", table)).status == 0
        (file,) = directory.glob(f"{table}-*.jsonl.gz")
        lines = Path(__file__).parents[2].joinpath("docs/operations/backup.md").read_text()
        begin = lines.index("$ gunzip -c ARCHIVE")
        shown = lines[begin + 2 : lines.index("\n```", begin)]
        command = (
            shown.replace("ARCHIVE", str(file))
            .replace("audit_log", table)
            .replace("psql ledger", '"$PSQL" "$BOOKS"')
        )
        url = make_url(ledger.database.migration_url).set(drivername="postgresql")
        env = {**os.environ, "PSQL": str(psql), "BOOKS": url.render_as_string(hide_password=False)}
        await asyncio.to_thread(
            subprocess.run, ["bash", "-c", command], env=env, check=True, capture_output=True
        )
        assert await rows_of(ledger.database, statement.replace(table, "from_archive")) == rows
        await ledger.query("DROP TABLE from_archive")


async def test_superseded_snapshots_are_removed_and_no_balance_changes(
    old_books: tuple[RunningLedger, Path],
) -> None:
    """The newest snapshot of each account, stay and month remains, and all marks of this stay."""
    ledger, directory = old_books
    for number in range(3):
        await ledger.ingest(event_message(event_id=f"evt_more_{number}", restaurant_id="res_1"))
        assert await take_snapshots(ledger.engine) >= 1
        assert await make_marks(ledger.engine) >= 1
    account = (
        "balance_account_id = (SELECT balance_account_id FROM balance_accounts"
        " WHERE restaurant_id = 'res_1')"
    )
    snapshots = (
        f"SELECT horizon::text AS number FROM balance_snapshots WHERE {account}"
        " ORDER BY last_recorded_at, horizon"
    )
    marks = "SELECT count(*), count(DISTINCT stay_id) FROM statement_marks"
    kept = await ledger.query(snapshots)
    assert len(kept) >= 3
    # These were recorded today, which is not before the date.
    assert (await archive(str(directory))).status == 0
    assert await ledger.query(snapshots) == kept
    # Copies with older times, and one more that no query can use yet: its horizon is ahead of the
    # numbers of this cluster, so it supersedes nothing.
    columns = (
        "entries_count, last_event_at, ledger_accounts, entry_types, total_minors, matured_minors,"
        " stay_id"
    )
    key = "balance_account_id, system_identifier, horizon, taken_at, last_recorded_at"
    older = (
        "balance_account_id, system_identifier, horizon, taken_at,"
        " last_recorded_at - interval '400 days'"
    )
    await ledger.query(
        f"WITH moved AS (DELETE FROM balance_snapshots RETURNING {key}, {columns})"
        f" INSERT INTO balance_snapshots ({key}, {columns}) SELECT {older}, {columns} FROM moved"
    )
    ahead = key.replace("horizon", "'9000000000000'::xid8")
    await ledger.query(
        f"INSERT INTO balance_snapshots ({key}, {columns})"
        f" SELECT {ahead}, {columns} FROM balance_snapshots WHERE {account}"
        " ORDER BY last_recorded_at DESC, balance_snapshots.horizon DESC LIMIT 1"
    )
    before = [await ledger.balance(f"res_{n}") for n in range(RESTAURANTS)]
    marked = await ledger.query(marks)
    outcome = await archive(str(directory), "--kind", "snapshots", "--json")
    shown = {
        row["kind"]: int(row["rows_removed"])
        for row in map(json.loads, outcome.stdout.splitlines())
    }
    left = await ledger.query(snapshots)
    assert left == [*kept[-1:], ("9000000000000",)]
    assert shown["balance_snapshots"] >= len(kept) - 1
    assert (shown["statement_marks"], await ledger.query(marks)) == (0, marked)
    for number, earlier in enumerate(before):
        now = await ledger.balance(f"res_{number}")
        assert (now.available_minor, now.pending_minor, now.reserved_minor) == (
            earlier.available_minor,
            earlier.pending_minor,
            earlier.reserved_minor,
        )


async def test_archived_run_gets_no_items_by_a_downgrade(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items that a canceled run got after it was archived could never be archived."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", database.url)
    monkeypatch.setenv("LEDGER_MIGRATION_DATABASE_URL", database.migration_url)
    monkeypatch.setenv("TZ", "UTC")
    async with running_ledger(database, payout_concurrency=1) as ledger:
        await ledger.ingest(
            *(
                event_message(event_id=f"evt_{n}", restaurant_id=f"res_{n}")
                for n in range(RESTAURANTS)
            )
        )
        await finished_run(ledger, request_id=unique("run"))
    canceled = """
    WITH run AS (
      INSERT INTO payout_runs (payout_run_id, currency, as_of, cutoff_at, min_amount_minor,
                               request_id, state, created_at, finished_at)
      SELECT gen_random_uuid(), currency, as_of, cutoff_at, 0, 'canceled', 'CANCELED',
             created_at, finished_at
      FROM payout_runs
      RETURNING payout_run_id
    ),
    progress AS (
      INSERT INTO payout_run_progress (payout_run_id, accounts_snapshot, moved_balance_account_id,
                                       last_balance_account_id, reached_balance_account_id)
      SELECT r.payout_run_id, p.accounts_snapshot, 0, p.last_balance_account_id,
             {written}
      FROM run AS r CROSS JOIN payout_run_progress AS p
    )
    INSERT INTO payout_run_items (payout_run_id, restaurant_id, balance_account_id)
    SELECT r.payout_run_id, a.restaurant_id, a.balance_account_id
    FROM run AS r CROSS JOIN balance_accounts AS a WHERE a.balance_account_id <= {written}
    """
    await query(
        database.migration_url,
        canceled.format(written="(SELECT min(balance_account_id) FROM balance_accounts)"),
    )
    await make_older(database, 40)
    outcome = await archive(str(tmp_path))
    assert (outcome.status, outcome.stderr) == (0, "")
    await assert_books_in_order(database)
    await migrate_async(database.migration_url, "0022")
    assert await query(database.migration_url, "SELECT count(*) FROM payout_run_items") == [(0,)]
    await migrate_async(database.migration_url)
    await assert_books_in_order(database)
