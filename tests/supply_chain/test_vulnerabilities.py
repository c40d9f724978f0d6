"""`make vulnerabilities`: what fails it, and what only says that nothing was checked."""

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
    """The script beside a pip-audit that ends so; it also insists on its arguments."""
    bin_dir = folder / "bin"
    bin_dir.mkdir()
    answering = folder / "pip_audit.py"
    answering.write_text(
        "import sys\n"
        "assert {'--strict', '--disable-pip', '--require-hashes'} <= set(sys.argv), sys.argv\n"
        "assert sys.argv[-4:] == ['--requirement', 'locked.txt', '--ignore-vuln', 'X'], sys.argv\n"
        f"sys.stdout.write({stdout!r})\nsys.stderr.write({stderr!r})\nsys.exit({status})\n"
    )
    # By way of a shell: the first line of a script holds no path with a blank.
    program = bin_dir / "pip-audit"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(answering)])} "$@"\n')
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


def test_vulnerable_package_fails(tmp_path: Path) -> None:
    """With what pip-audit prints."""
    ended = checked(tmp_path, status=1, stdout="rusty 1.0 PYSEC-2026-1\n", stderr="Found 1\n")
    assert (ended.returncode, ended.stdout, ended.stderr) == (
        1,
        "rusty 1.0 PYSEC-2026-1\n",
        "Found 1\n",
    )


def test_clean_packages_pass(tmp_path: Path) -> None:
    """With what pip-audit prints."""
    ended = checked(tmp_path, status=0, stderr="No known vulnerabilities found\n")
    assert (ended.returncode, ended.stderr) == (0, "No known vulnerabilities found\n")


@pytest.mark.parametrize(
    "stderr",
    [
        "Traceback:\nrequests.exceptions.ConnectionError: no route to host\n",
        "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: …\n",
        "ERROR:pip_audit._cli:Could not connect to the vulnerability feed\n",
        "ERROR:pip_audit._cli:rusty: Dependency not found and could not be audited: rusty (1.0)\n",
    ],
)
def test_service_out_of_reach_passes_and_says_so(tmp_path: Path, stderr: str) -> None:
    """One line, which cannot be taken for a clean result."""
    ended = checked(tmp_path, status=1, stderr=stderr)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr.startswith("vulnerabilities: NOT CHECKED: ")
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "stderr",
    [
        "pip-audit: error: unrecognized arguments\n",
        # A proxy in between: the certificate is not the service's.
        "requests.exceptions.SSLError: certificate verify failed\n",
    ],
)
def test_other_failure_fails(tmp_path: Path, stderr: str) -> None:
    """A check that could not be made for another reason is not passed."""
    ended = checked(tmp_path, status=2, stderr=stderr)
    assert (ended.returncode, ended.stderr) == (2, stderr)


def test_pip_audit_is_installed() -> None:
    """The locked environment has it."""
    assert shutil.which("pip-audit", path=str(Path(sys.executable).parent))
