"""Moves old rows out of the database into archives, and removes superseded snapshots."""

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
    """An archive's file cannot be written or read, or differs from what was written.

    Only rows that an archive has were removed.
    """


class RowsChanged(LedgerError):
    """Rows were changed while they were archived. Nothing was recorded or removed."""


class ArchivedTables(Protocol):
    """The tables whose old rows are archived."""

    async def parts(self, kinds: Collection[ArchiveKind], before: datetime) -> list[Part]:
        """Returns the parts before `before`, oldest first: calls, and items of ended runs."""

    def lines(self, part: Part) -> AsyncGenerator[Sequence[str]]:
        """Yields the rows of the part as lines of JSON, some at a time, all of one moment."""

    async def record(self, archive: Archive, items: Mapping[ItemKind, int]) -> Archive:
        """Records that the archive has its rows, and the number of its items by kind.

        Raises RowsChanged.
        """

    async def remove(self, kind: ArchiveKind, rows: Sequence[Mapping[str, Any]]) -> int:
        """Removes the rows that are still as they were archived, in one transaction.

        Returns how many.
        """

    async def unfinished(self) -> list[Archive]:
        """Returns the archives some of whose rows may still be in the tables."""


class ArchiveFolder(Protocol):
    """The directory of the archive files."""

    async def write(
        self, archive_id: UUID, part: Part, lines: AsyncIterator[Sequence[str]]
    ) -> tuple[Archive, Mapping[ItemKind, int]]:
        """Writes a file with its manifest, syncs it to disk and reads it back.

        Raises ArchiveFailed; then no file is left.
        """

    def check(self, archive: Archive) -> None:
        """Raises ArchiveFailed unless the archive's file exists and is the recorded one."""

    def rows(self, archive: Archive) -> Iterator[Sequence[Mapping[str, Any]]]:
        """Yields the rows of the archive's file, some at a time. Raises ArchiveFailed."""


class Snapshots(Protocol):
    """Tables of sums that are derived from the books."""

    async def prune(self, before: datetime) -> Mapping[str, int]:
        """Removes superseded rows from before `before`. Returns how many, by table.

        No sum that a caller can request changes.
        """


@dataclass(slots=True)
class ArchivingOutcome:
    """Archives with the number of rows removed, snapshots removed by table, and problems."""

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
) -> ArchivingOutcome:
    """Archives and removes the rows from before `before`, a month at a time.

    First completes what an earlier call left unfinished. With `snapshots` also removes superseded
    ones, without an archive. A row is removed only after its file was synced and read back, and the
    database has recorded that. It may be killed at any point and run again: a row is always in its
    table or in a recorded archive, for a moment in both.

    Raises ArchiveFailed, RowsChanged, DatabaseUnavailable, DatabaseTimeout, DatabaseContention.
    """
    outcome = ArchivingOutcome()

    def add(archive: Archive, removed: int) -> None:
        outcome.archived.append((archive, removed))
        on_archived(archive, removed)

    for archive in await tables.unfinished():
        try:
            folder.check(archive)
        except ArchiveFailed as error:
            # The file may be in another directory. That does not keep the rest from being archived.
            outcome.problems.append(
                f"{error}: its rows that are still in {archive.kind} stay there"
            )
            continue
        if removed := await _remove(tables, folder, archive):
            add(archive, removed)
    for part in await tables.parts(kinds, before):
        async with aclosing(tables.lines(part)) as lines:
            written, items = await folder.write(uuid_utils.compat.uuid7(), part, lines)
        archive = await tables.record(written, items)
        add(archive, await _remove(tables, folder, archive))
    if snapshots is not None:
        outcome.pruned = await snapshots.prune(before)
    return outcome


async def _remove(tables: ArchivedTables, folder: ArchiveFolder, archive: Archive) -> int:
    removed = 0
    for rows in folder.rows(archive):
        removed += await tables.remove(archive.kind, rows)
    return removed
