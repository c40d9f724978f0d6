"""Folders: for PostgreSQL, which may run as another account than the tests; what is in one."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """A temporary folder that every account can enter, unlike pytest's `tmp_path`.

    Removed at the end.
    """
    folder = Path(tempfile.mkdtemp(prefix="ledger-tests-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def names_in(folder: Path) -> list[str]:
    """The names of the files in a folder."""
    return [path.name for path in folder.iterdir()]
