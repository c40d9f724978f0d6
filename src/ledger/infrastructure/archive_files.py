"""Files of archived rows: JSON lines, compressed with gzip, each with a manifest."""

import errno
import gzip
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast
from uuid import UUID

from ledger.application.archive_rows import ArchiveFailed
from ledger.domain.archives import Archive, ArchiveKind, ItemKind, Part

FORMAT = "ledger-archive-1"
ENDING = ".jsonl.gz"
MANIFEST_ENDING = ".manifest.json"
PARTIAL_ENDING = ".partial"
# How many rows are read at once, and removed from a table in one transaction.
ROWS_AT_ONCE = 2000
# Longer than the line of any row.
LINE_BYTES_MAX = 1 << 20
MANIFEST_BYTES_MAX = 1 << 16
# From 1 to 9. Measured: 9 makes files 1 to 5 % smaller, and takes two to four times as long.
COMPRESSION = 6
# The errors of a file system without links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file contains. `contents_sha256` is the hash of the lines before compression."""

    rows_count: int
    file_bytes: int
    file_sha256: bytes
    contents_sha256: bytes
    items: Mapping[ItemKind, int]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of verifying a file. `problem` is empty if the file matches its manifest."""

    file: Path
    kind: str
    rows_count: int
    problem: str


class ArchiveFiles:
    """Implements `ledger.application.archive_rows.ArchiveFolder` in a directory of this machine."""

    def __init__(self, directory: Path) -> None:
        """Raises ArchiveFailed if `directory` is not a directory."""
        if not directory.is_dir():
            raise ArchiveFailed(f"{directory} is not a directory")
        self._directory = directory

    def leftovers(self) -> list[Path]:
        """The files that earlier runs left under temporary names.

        No row was removed for them.
        """
        return sorted(self._directory.glob(f".*{PARTIAL_ENDING}"))

    async def write(
        self, archive_id: UUID, part: Part, lines: AsyncIterator[Sequence[str]]
    ) -> tuple[Archive, Mapping[ItemKind, int]]:
        name = f"{part.kind}-{part.from_at:%Y-%m}-{archive_id}{ENDING}"
        data, manifest = (
            self._partial(name),
            self._partial(name.removesuffix(ENDING) + MANIFEST_ENDING),
        )
        with _as_archive_failed(f"cannot write {self._directory / name}"):
            try:
                written = await _write_lines(data, lines)
                found = _read_back(data, part.kind, written)
                archive = Archive(
                    archive_id,
                    part.kind,
                    part.from_at,
                    part.before_at,
                    found.rows_count,
                    name,
                    found.file_bytes,
                    found.file_sha256,
                )
                _write_text(manifest, _manifest(archive, found))
                # The manifest last: a file without one was never recorded.
                _publish(data, self._directory / name)
                _publish(manifest, _manifest_of(self._directory / name))
                _sync_directory(self._directory)
            except BaseException:
                for partial in (data, manifest):
                    with suppress(OSError):
                        partial.unlink(missing_ok=True)
                raise
        return archive, found.items

    def check(self, archive: Archive) -> None:
        path = self._directory / archive.file_name
        found = read_through(path, archive.kind)
        if (found.rows_count, found.file_sha256) != (archive.rows_count, archive.file_sha256):
            raise ArchiveFailed(f"{path} is not the file that was recorded")

    def rows(self, archive: Archive) -> Iterator[Sequence[Mapping[str, Any]]]:
        path = self._directory / archive.file_name
        with (
            _as_archive_failed(f"cannot read {path}"),
            path.open("rb") as file,
            gzip.GzipFile(fileobj=file, mode="rb") as lines,
        ):
            rows: list[Mapping[str, Any]] = []
            for line in _lines(cast("BinaryIO", lines)):
                rows.append(json.loads(line))
                if len(rows) == ROWS_AT_ONCE:
                    yield rows
                    rows = []
            if rows:
                yield rows

    def _partial(self, name: str) -> Path:
        return self._directory / f".{name}{PARTIAL_ENDING}"


def verify(path: Path) -> list[Verdict]:
    """Compares archives with their manifests, in the order of their names.

    `path` is a file, a manifest, or a directory of archives. Raises ArchiveFailed if there is none.
    """
    with _as_archive_failed(f"cannot read {path}"):
        if path.is_dir():
            files = {file for file in path.iterdir() if file.name.endswith(ENDING)}
            files |= {
                _data_of(file)
                for file in path.iterdir()
                if file.name.endswith(MANIFEST_ENDING) and not file.name.startswith(".")
            }
        else:
            files = {_data_of(path) if path.name.endswith(MANIFEST_ENDING) else path}
    if not files:
        raise ArchiveFailed(f"there are no archives in {path}")
    return [_verdict(file) for file in sorted(files)]


def read_through(path: Path, kind: ArchiveKind) -> Contents:
    """Reads a whole file.

    Raises ArchiveFailed if it is incomplete or holds anything but rows of that kind.
    """
    with _as_archive_failed(f"cannot read {path}"), path.open("rb") as file:
        hashed = _Hashed(file)
        contents, items, rows_count = hashlib.sha256(), Counter[ItemKind](), 0
        with gzip.GzipFile(fileobj=cast("BinaryIO", hashed), mode="rb") as lines:
            for line in _lines(cast("BinaryIO", lines)):
                contents.update(line)
                row = json.loads(line)
                rows_count += 1
                if kind is ArchiveKind.AUDIT_LOG:
                    UUID(row["audit_id"])
                else:
                    items[
                        ItemKind(
                            UUID(row["payout_run_id"]), row["outcome"], row["skip_reason"] or ""
                        )
                    ] += 1
        return Contents(rows_count, hashed.count, hashed.hash.digest(), contents.digest(), items)


class _Hashed:
    """A file that counts and hashes what is read from it, or what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.count = 0

    def write(self, data: bytes) -> int:
        self._seen(data)
        return self._file.write(data)

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._seen(data)
        return data

    def flush(self) -> None:
        self._file.flush()

    def _seen(self, data: bytes) -> None:
        self.hash.update(data)
        self.count += len(data)


async def _write_lines(path: Path, batches: AsyncIterator[Sequence[str]]) -> Contents:
    """Writes a new file and syncs it to the disk."""
    contents, rows_count = hashlib.sha256(), 0
    with _new_file(path) as file:
        hashed = _Hashed(file)
        # Without name and time the same rows make the same file.
        with gzip.GzipFile(
            filename="",
            mode="wb",
            fileobj=cast("BinaryIO", hashed),
            mtime=0,
            compresslevel=COMPRESSION,
        ) as lines:
            async for batch in batches:
                data = "".join(f"{line}\n" for line in batch).encode()
                contents.update(data)
                lines.write(data)
                rows_count += len(batch)
        file.flush()
        os.fsync(file.fileno())
    return Contents(rows_count, hashed.count, hashed.hash.digest(), contents.digest(), {})


def _read_back(path: Path, kind: ArchiveKind, written: Contents) -> Contents:
    found = read_through(path, kind)
    # Without the items, which are counted only when a file is read.
    if (found.rows_count, found.file_bytes, found.file_sha256, found.contents_sha256) != (
        written.rows_count,
        written.file_bytes,
        written.file_sha256,
        written.contents_sha256,
    ):
        raise ArchiveFailed("what was read back is not what was written")
    return found


def _manifest(archive: Archive, contents: Contents) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "archive_id": str(archive.archive_id),
            "kind": archive.kind.value,
            "from_at": _text(archive.from_at),
            "before_at": _text(archive.before_at),
            "rows_count": archive.rows_count,
            "file_name": archive.file_name,
            "file_bytes": archive.file_bytes,
            "file_sha256": archive.file_sha256.hex(),
            "contents_sha256": contents.contents_sha256.hex(),
        },
        indent=2,
    )


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _verdict(file: Path) -> Verdict:
    kind, rows_count = "", 0
    try:
        manifest = _read_manifest(_manifest_of(file))
        kind, rows_count = ArchiveKind(manifest["kind"]), int(manifest["rows_count"])
        if (manifest["format"], manifest["file_name"]) != (FORMAT, file.name):
            raise ArchiveFailed("the manifest is of another file")
        found = read_through(file, kind)
        actual = (
            found.rows_count,
            found.file_bytes,
            found.file_sha256.hex(),
            found.contents_sha256.hex(),
        )
        expected = (
            rows_count,
            manifest["file_bytes"],
            manifest["file_sha256"],
            manifest["contents_sha256"],
        )
        problem = (
            ""
            if actual == expected
            else f"is not what its manifest says: has {actual[0]} rows, SHA-256 {actual[2]}"
        )
    except ArchiveFailed as error:
        problem = str(error)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"the manifest is not one: {type(error).__name__}"
    return Verdict(file, str(kind), rows_count, problem)


def _read_manifest(path: Path) -> Mapping[str, Any]:
    with _as_archive_failed(f"cannot read {path.name}"), path.open("rb") as file:
        manifest = json.loads(file.read(MANIFEST_BYTES_MAX))
    if not isinstance(manifest, dict):
        raise ArchiveFailed(f"{path.name} is no manifest")
    return manifest


def _manifest_of(file: Path) -> Path:
    return file.with_name(file.name.removesuffix(ENDING) + MANIFEST_ENDING)


def _data_of(manifest: Path) -> Path:
    return manifest.with_name(manifest.name.removesuffix(MANIFEST_ENDING) + ENDING)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LINE_BYTES_MAX):
        if not line.endswith(b"\n"):
            raise ArchiveFailed("the last line is not whole, or a line is too long")
        yield line


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner can read: it names callers. Raises FileExistsError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file


def _write_text(path: Path, text: str) -> None:
    with _new_file(path) as file:
        file.write(f"{text}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def _publish(partial: Path, path: Path) -> None:
    """Moves `partial` to `path`. Raises FileExistsError if `path` exists.

    Links where the file system can, because a rename would replace an existing file.
    """
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Not atomic: another process may take the name in between.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        partial.rename(path)
        return
    partial.unlink()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _as_archive_failed(what: str) -> Iterator[None]:
    """Raises ArchiveFailed for every error that a file or its contents can cause."""
    try:
        yield
    except ArchiveFailed:
        raise
    except OSError as error:
        raise ArchiveFailed(f"{what}: {error.strerror or error}") from error
    except (
        EOFError,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ArchiveFailed(
            f"{what}: it is damaged, or no archive ({type(error).__name__})"
        ) from error
