"""`ledger archive run`, `list` and `verify`: moves old rows into files, and checks the files."""

from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ledger.cli.failures import CommandFailure, ExitStatus, report
from ledger.cli.output import (
    JsonValue,
    Table,
    counted,
    instant_text,
    print_json_lines,
    print_line,
    print_table,
)
from ledger.cli.parameters import FileName, SettlementDate, Word, json_lines_option
from ledger.domain.archives import Archive, ArchiveKind, Part

# Imported when needed: the database's libraries take longer to load than most commands run.
if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from ledger.application.archive_rows import ArchivingOutcome
    from ledger.infrastructure.archive_files import ArchiveFiles
    from ledger.infrastructure.postgres.archives import PostgresArchives
    from ledger.settings import Settings

    # The parts to archive, and the number and bytes of superseded rows by table.
    Plan = tuple[list[Part], dict[str, tuple[int, int]]]

_SNAPSHOTS = "snapshots"
KIND = Word("", [*(kind.value for kind in ArchiveKind), _SNAPSHOTS])

RUN_HELP = """
Write the rows from before DATE into files in DIRECTORY, then remove them from
the database: the items of payout runs that have ended, and the rows of the call
log. Runs keep their totals, and everything else stays.

A file holds the rows of one month as compressed JSON lines, with a manifest
beside it. Before its rows are removed, the file is synced to disk, read back
and recorded in the database. If the command is killed, run it again.

Balance snapshots and statement marks that later ones supersede are removed
without a file: they can be calculated again, and no balance changes.

The database is that of LEDGER_MIGRATION_DATABASE_URL, else of
LEDGER_DATABASE_URL, else the embedded one in LEDGER_DATA_DIR; a server may be
running on it. The role must be a superuser, or a member of ledger_owner.

Exit status: 0 done; 1 refused, or a file cannot be written or read; 2 a bad
setting, date or directory; 3 the database cannot be reached.
"""
LIST_HELP = """
List what was archived, oldest first. The rows of a range are in its file, and
no longer in the database.

The database is that of LEDGER_DATABASE_URL, else the embedded one in
LEDGER_DATA_DIR; a server may be running on it.
"""
VERIFY_HELP = """
Compare archives with their manifests: SHA-256, size and number of rows. PATH is
a file, its manifest, or a directory: then all archives in it are compared. It
needs no database.

Exit status: 0 if all archives match their manifests, 1 if one does not.
"""


@click.command("run", help=RUN_HELP)
@click.argument(
    "directory",
    metavar="DIRECTORY",
    type=FileName(),
    help="The directory for the files. It must exist.",
)
@click.option(
    "--before",
    metavar="DATE",
    type=SettlementDate(),
    required=True,
    help="The first date that stays, in LEDGER_SETTLEMENT_TIMEZONE; today at the latest.",
)
@click.option(
    "--kind",
    "kinds",
    metavar="KIND",
    type=KIND,
    multiple=True,
    help=f"Only this kind; may be repeated: {', '.join(KIND.words)}.  [default: all]",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would be archived, with sizes; write and remove nothing.",
)
@json_lines_option
def run_archive(
    directory: Path, before: date, kinds: tuple[str, ...], dry_run: bool, json: bool
) -> None:
    settings = _settings()
    from ledger.infrastructure.archive_files import ArchiveFiles

    wanted = frozenset(kinds or KIND.words)
    if not directory.is_dir():
        raise CommandFailure(
            f"DIRECTORY must be an existing directory (it is {directory})",
            exit_status=ExitStatus.USAGE,
        )
    files = ArchiveFiles(directory)
    for leftover in files.leftovers():
        report(
            "warning",
            [
                f"{leftover} was left by a command that was killed; no rows were removed for it,"
                " delete it"
            ],
        )
    if dry_run:
        _print_plan(_plan(settings, before, wanted), json=json)
        return
    outcome = _archive(settings, files, before, wanted, json=json)
    if not json:
        for table, removed in outcome.pruned.items():
            print_line(f"{removed} superseded rows of {table} removed")
        if not outcome.archived:
            print_line("nothing to archive")
    else:
        print_json_lines(
            {"kind": table, "rows_removed": str(removed)}
            for table, removed in outcome.pruned.items()
        )
    if outcome.problems:
        raise CommandFailure(*outcome.problems)


@click.command("list", help=LIST_HELP)
@json_lines_option
def list_archived(json: bool) -> None:
    settings = _settings()
    from ledger.bootstrap.books import on_books
    from ledger.cli.database_failures import database_failures
    from ledger.infrastructure.postgres.archives import list_archives

    with database_failures(settings.database_url):
        archives = on_books(settings, list_archives)
    if json:
        print_json_lines(_json_of(archive) for archive in archives)
        return
    table = Table(
        ("kind", "from", "before", "rows", "bytes", "archived", "file"),
        right=frozenset(("rows", "bytes")),
        optional=("archived", "bytes"),
    )
    for archive in archives:
        table.add(
            archive.kind.value,
            _text(archive.from_at),
            _text(archive.before_at),
            str(archive.rows_count),
            str(archive.file_bytes),
            _text(archive.archived_at),
            archive.file_name,
        )
    if archives:
        print_table(table)
    print_line(counted(len(archives), "archive"))


@click.command("verify", help=VERIFY_HELP)
@click.argument(
    "path", metavar="PATH", type=FileName(), help="A file, its manifest, or a directory."
)
@json_lines_option
def verify_archives(path: Path, json: bool) -> None:
    from ledger.application.archive_rows import ArchiveFailed
    from ledger.infrastructure.archive_files import verify

    try:
        verdicts = verify(path)
    except ArchiveFailed as error:
        raise CommandFailure(str(error)) from None
    broken = [verdict for verdict in verdicts if verdict.problem]
    if json:
        print_json_lines(
            {
                "file": str(verdict.file),
                "kind": verdict.kind,
                "rows_count": str(verdict.rows_count),
                "problem": verdict.problem,
            }
            for verdict in verdicts
        )
    else:
        table = Table(("file", "kind", "rows", "found"), right=frozenset(("rows",)))
        for verdict in verdicts:
            table.add(
                verdict.file.name,
                verdict.kind,
                str(verdict.rows_count),
                verdict.problem or "matches its manifest",
            )
        print_table(table)
        print_line(f"{counted(len(verdicts), 'archive')}, {len(broken) or 'none'} damaged")
    if broken:
        raise click.exceptions.Exit(ExitStatus.REFUSED)


def _archive(
    settings: "Settings", files: "ArchiveFiles", before: date, wanted: frozenset[str], *, json: bool
) -> "ArchivingOutcome":
    """Archives the rows, and prints each archive when its rows are removed."""
    from ledger.application.archive_rows import ArchiveFailed, archive_rows
    from ledger.bootstrap.books import on_books
    from ledger.cli.database_failures import database_failures
    from ledger.infrastructure.postgres.archives import PostgresArchives
    from ledger.infrastructure.postgres.superseded import SupersededSnapshots
    from ledger.zones import settlement_zone

    def print_archive(archive: Archive, removed: int) -> None:
        if json:
            print_json_lines([{**_json_of(archive), "rows_removed": str(removed)}])
        else:
            print_line(
                f"{archive.file_name}: {archive.rows_count} rows, {archive.file_bytes} bytes;"
                f" {removed} rows removed"
            )

    async def work(engine: "AsyncEngine") -> "ArchivingOutcome":
        archives = PostgresArchives(engine, settlement_zone(settings.settlement_timezone))
        async with archives.alone():
            return await archive_rows(
                archives,
                files,
                _kinds(wanted),
                await _first_instant_kept(archives, settings, before),
                snapshots=SupersededSnapshots(engine) if _SNAPSHOTS in wanted else None,
                on_archived=print_archive,
            )

    try:
        with database_failures(settings.url_for_migrations):
            return on_books(settings, work, as_owner=True)
    except ArchiveFailed as error:
        raise CommandFailure(
            str(error), "only archived rows were removed; run the command again"
        ) from error


def _plan(settings: "Settings", before: date, wanted: frozenset[str]) -> "Plan":
    from ledger.bootstrap.books import on_books
    from ledger.cli.database_failures import database_failures
    from ledger.infrastructure.postgres.archives import PostgresArchives
    from ledger.infrastructure.postgres.superseded import SupersededSnapshots
    from ledger.zones import settlement_zone

    async def work(engine: "AsyncEngine") -> "Plan":
        archives = PostgresArchives(engine, settlement_zone(settings.settlement_timezone))
        kept_from = await _first_instant_kept(archives, settings, before)
        parts = await archives.parts(_kinds(wanted), kept_from)
        return parts, dict(
            await SupersededSnapshots(engine).count(kept_from)
        ) if _SNAPSHOTS in wanted else {}

    with database_failures(settings.url_for_migrations):
        return on_books(settings, work, as_owner=True)


def _print_plan(plan: "Plan", *, json: bool) -> None:
    parts, superseded = plan
    rows: list[tuple[str, datetime | None, datetime | None, int, int]] = [
        *(
            (part.kind.value, part.from_at, part.before_at, part.rows_count, part.rows_bytes)
            for part in parts
        ),
        *((table, None, None, *sizes) for table, sizes in superseded.items()),
    ]
    if json:
        print_json_lines(
            {
                "kind": kind,
                "from_at": _text(from_at) or None,
                "before_at": _text(before_at) or None,
                "rows_count": str(count),
                "rows_bytes": str(size),
            }
            for kind, from_at, before_at, count, size in rows
        )
        return
    table = Table(("kind", "from", "before", "rows", "bytes"), right=frozenset(("rows", "bytes")))
    for kind, from_at, before_at, count, size in rows:
        table.add(kind, _text(from_at), _text(before_at), str(count), str(size))
    if rows:
        print_table(table)
    print_line("nothing was written or removed; the sizes do not include indexes")


async def _first_instant_kept(
    archives: "PostgresArchives", settings: "Settings", before: date
) -> datetime:
    """When `before` begins: older rows are archived. Raises CommandFailure for the future."""
    from ledger.domain.payouts import day_bounds
    from ledger.zones import settlement_zone

    kept_from, _ = day_bounds(before, settlement_zone(settings.settlement_timezone))
    if kept_from > await archives.now():
        raise CommandFailure(
            f"--before must not be in the future (it is {before})", exit_status=ExitStatus.USAGE
        )
    return kept_from


def _kinds(wanted: frozenset[str]) -> frozenset[ArchiveKind]:
    return frozenset(kind for kind in ArchiveKind if kind.value in wanted)


def _settings() -> "Settings":
    from ledger.cli.configuration import load_settings
    from ledger.observability import configure_logging

    settings = load_settings()
    configure_logging(settings.log_format, settings.log_level)
    return settings


def _json_of(archive: Archive) -> dict[str, JsonValue]:
    return {
        "archive_id": str(archive.archive_id),
        "kind": archive.kind.value,
        "from_at": _text(archive.from_at),
        "before_at": _text(archive.before_at),
        "rows_count": str(archive.rows_count),
        "file_name": archive.file_name,
        "file_bytes": str(archive.file_bytes),
        "file_sha256": archive.file_sha256.hex(),
        "archived_at": _text(archive.archived_at) or None,
    }


def _text(instant: datetime | None) -> str:
    return "" if instant is None else instant_text(instant)
