"""Archives: files of rows that were removed from the tables, a month in each."""

from dataclasses import dataclass
from datetime import datetime, tzinfo
from enum import StrEnum
from uuid import UUID


class ArchiveKind(StrEnum):
    """The table that an archive's rows come from."""

    PAYOUT_RUN_ITEMS = "payout_run_items"
    AUDIT_LOG = "audit_log"


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one kind that may be archived together: those of the instants [from_at, before_at),
    within a month.

    The instants are `finished_at` of a payout run, `recorded_at` of a call. `rows_bytes` is their
    size in the table, without indexes.
    """

    kind: ArchiveKind
    from_at: datetime
    before_at: datetime
    rows_count: int
    rows_bytes: int


@dataclass(frozen=True, slots=True)
class Archive:
    """A file of archived rows. `archived_at` is None until the database has recorded it."""

    archive_id: UUID
    kind: ArchiveKind
    from_at: datetime
    before_at: datetime
    rows_count: int
    file_name: str
    file_bytes: int
    file_sha256: bytes
    archived_at: datetime | None = None


@dataclass(frozen=True, slots=True, order=True)
class ItemKind:
    """The key by which a run's items are counted. `skip_reason` is empty without one."""

    payout_run_id: UUID
    outcome: str
    skip_reason: str


def month_bounds(first: datetime, before: datetime, zone: tzinfo) -> list[datetime]:
    """The instants at which months begin in `zone`, from the month of `first` on, and `before` as
    the last one.

        first 15 January, before 10 March: 1 January, 1 February, 1 March, 10 March
    """
    local = first.astimezone(zone)
    year, month = local.year, local.month
    bounds: list[datetime] = []
    while (bound := datetime(year, month, 1, tzinfo=zone)) < before:
        bounds.append(bound)
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    return [*bounds, before]
