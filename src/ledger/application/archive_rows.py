"""Moves old rows out of the database into archives, and removes what later snapshots supersede."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import uuid_utils.compat

from ledger.domain.archives import Archive, ArchiveKind, ItemKind, Part
from ledger.errors import LedgerError


class ArchiveFailed(Exception):
    """A file cannot be written or read, or is not what was written. Nothing was removed that no archive has."""


class RowsChanged(LedgerError):
    """Rows were changed while they were archived. Nothing was recorded or removed."""


class ArchivedTables(Protocol):
    """The tables whose old rows are archived."""

    async def parts(self, kinds: Collection[ArchiveKind], before: datetime) -> list[Part]:
        """What may be archived of before `before`, oldest first: calls, and items of runs that had ended."""

    def lines(self, part: Part) -> AsyncGenerator[Sequence[str]]:
        """The rows of the part as JSON, a line each, all as they are at one moment; some at a time."""

    async def record(self, archive: Archive, items: Mapping[ItemKind, int]) -> Archive:
        """Stores that the archive has these rows, and what items of runs it has. Raises RowsChanged."""

    async def remove(self, kind: ArchiveKind, rows: Sequence[Mapping[str, Any]]) -> int:
        """Removes the rows that are still there as they were archived, in one transaction; how many."""

    async def unfinished(self) -> list[Archive]:
        """The archives whose rows, or some, may still be in the tables."""


class ArchiveFolder(Protocol):
    """The directory of the files."""

    async def write(
        self, archive_id: UUID, part: Part, lines: AsyncIterator[Sequence[str]]
    ) -> tuple[Archive, Mapping[ItemKind, int]]:
        """Writes a file that is safe and was read back, with its manifest. Raises ArchiveFailed; no file is left then."""

    def check(self, archive: Archive) -> None:
        """Raises ArchiveFailed unless the archive's file is there, and is the one that was recorded."""

    def rows(self, archive: Archive) -> Iterator[Sequence[Mapping[str, Any]]]:
        """The rows of the archive's file, some at a time. Raises ArchiveFailed."""


class Snapshots(Protocol):
    """Tables of what was derived from the books."""

    async def prune(self, before: datetime) -> Mapping[str, int]:
        """Removes what is superseded of before `before`: how many rows, by table. No answer changes."""


@dataclass(slots=True)
class Outcome:
    """What was done: archives with the rows that were removed, snapshots removed by table, and what could not be done."""

    archived: list[tuple[Archive, int]] = field(default_factory=list)
    pruned: Mapping[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


async def archive_rows(
    tables: ArchivedTables,
    folder: ArchiveFolder,
    kinds: Collection[ArchiveKind],
    before: datetime,
    *,
    snapshots: Snapshots | None = None,
    on_archived: Callable[[Archive, int], None] = lambda _archive, _removed: None,
) -> Outcome:
    """Archives and removes what is of before `before`, a month at a time; first it ends what was cut off before.

    With `snapshots` what is superseded of them is removed, too, into no archive.
    A row is removed only after its file is safe and was read back, and the database has recorded that. Killed
    anywhere, it can be run again: rows are in their table or in a recorded archive, for a moment in both.
    Raises ArchiveFailed, RowsChanged, DatabaseUnavailable, DatabaseTimeout, DatabaseContention.
    """
    outcome = Outcome()

    def tell(archive: Archive, removed: int) -> None:
        outcome.archived.append((archive, removed))
        on_archived(archive, removed)

    for archive in await tables.unfinished():
        try:
            folder.check(archive)
        except ArchiveFailed as error:
            # Perhaps it is in another directory: what else there is to do is done all the same.
            outcome.problems.append(
                f"{error}: its rows that are still in {archive.kind} stay there"
            )
            continue
        if removed := await _remove(tables, folder, archive):
            tell(archive, removed)
    for part in await tables.parts(kinds, before):
        async with aclosing(tables.lines(part)) as lines:
            written, items = await folder.write(uuid_utils.compat.uuid7(), part, lines)
        archive = await tables.record(written, items)
        tell(archive, await _remove(tables, folder, archive))
    if snapshots is not None:
        outcome.pruned = await snapshots.prune(before)
    return outcome


async def _remove(tables: ArchivedTables, folder: ArchiveFolder, archive: Archive) -> int:
    removed = 0
    for rows in folder.rows(archive):
        removed += await tables.remove(archive.kind, rows)
    return removed
