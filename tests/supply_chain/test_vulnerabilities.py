"""`make vulnerabilities`: when it fails, and when it passes without having checked."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "check_vulnerabilities.py"


def checked(
    folder: Path, *, status: int, stdout: str = "", stderr: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs the script with a pip-audit that ends so, and that checks its arguments."""
    bin_dir = folder / "bin"
    bin_dir.mkdir()
    stand_in = folder / "pip_audit.py"
    stand_in.write_text(
        "import sys\n"
        "assert {'--strict', '--disable-pip', '--require-hashes'} <= set(sys.argv), sys.argv\n"
        "assert sys.argv[-4:] == ['--requirement', 'locked.txt', '--ignore-vuln', 'X'], sys.argv\n"
        f"sys.stdout.write({stdout!r})\nsys.stderr.write({stderr!r})\nsys.exit({status})\n"
    )
    # Through a shell: the first line of a script cannot hold a path with a blank.
    program = bin_dir / "pip-audit"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(stand_in)])} "$@"\n')
    program.chmod(0o755)
    # The script looks for pip-audit beside its Python.
    runner = (
        f"import runpy, sys; sys.executable = {str(bin_dir / 'python')!r}; "
        f"sys.argv = ['check', 'locked.txt', '--ignore-vuln', 'X']; "
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", runner], capture_output=True, text=True, timeout=60
    )


def test_vulnerable_package_fails_the_check(tmp_path: Path) -> None:
    """It prints what pip-audit prints."""
    finished = checked(tmp_path, status=1, stdout="rusty 1.0 PYSEC-2026-1\n", stderr="Found 1\n")
    assert (finished.returncode, finished.stdout, finished.stderr) == (
        1,
        "rusty 1.0 PYSEC-2026-1\n",
        "Found 1\n",
    )


def test_packages_without_vulnerabilities_pass_the_check(tmp_path: Path) -> None:
    """It prints what pip-audit prints."""
    finished = checked(tmp_path, status=0, stderr="No known vulnerabilities found\n")
    assert (finished.returncode, finished.stderr) == (0, "No known vulnerabilities found\n")


@pytest.mark.parametrize(
    "stderr",
    [
        "Traceback:\nrequests.exceptions.ConnectionError: no route to host\n",
        "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: …\n",
        "ERROR:pip_audit._cli:Could not connect to the vulnerability feed\n",
        "ERROR:pip_audit._cli:rusty: Dependency not found and could not be audited: rusty (1.0)\n",
    ],
)
def test_check_without_network_passes_with_a_warning(tmp_path: Path, stderr: str) -> None:
    """One line, which cannot be mistaken for a clean result."""
    finished = checked(tmp_path, status=1, stderr=stderr)
    assert (finished.returncode, finished.stdout) == (0, "")
    assert finished.stderr.startswith("vulnerabilities: NOT CHECKED: ")
    assert len(finished.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "stderr",
    [
        "pip-audit: error: unrecognized arguments\n",
        # A proxy in between has another certificate than the service.
        "requests.exceptions.SSLError: certificate verify failed\n",
    ],
)
def test_any_other_error_fails_the_check(tmp_path: Path, stderr: str) -> None:
    """It prints what pip-audit prints, and ends with its status."""
    finished = checked(tmp_path, status=2, stderr=stderr)
    assert (finished.returncode, finished.stderr) == (2, stderr)


def test_pip_audit_is_installed() -> None:
    """The locked environment has it."""
    assert shutil.which("pip-audit", path=str(Path(sys.executable).parent))
