"""`make vulnerabilities`: what is told of the packages, and with which exit status."""

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "check_vulnerabilities.py"

REQUIREMENTS = "rusty==1.0 \\\n    --hash=sha256:00\nshiny==2.0 \\\n    --hash=sha256:11\n"
SHINY = {"name": "shiny", "version": "2.0", "vulns": []}
UNKNOWN = [{"name": name, "skip_reason": "not found"} for name in ("rusty", "shiny")]
VULNERABLE = {
    "name": "rusty",
    "version": "1.0",
    "vulns": [
        {
            "id": "PYSEC-2026-1",
            "fix_versions": ["1.1", "2.0"],
            "aliases": ["CVE-2026-7"],
            "description": "",
        }
    ],
}
SENTENCE = "rusty 1.0 has PYSEC-2026-1 (CVE-2026-7), fixed in 1.1, 2.0"
# The last line of what pip-audit wrote without a network.
UNREACHED = (
    "Traceback (most recent call last):\n  …\n"
    "requests.exceptions.ProxyError: HTTPSConnectionPool(host='packages.test', port=443): Max retries exceeded\n"
)


@dataclass(frozen=True)
class Outcome:
    """How the script ended, and what it said."""

    status: int
    stdout: str
    stderr: str


def checked(
    folder: Path,
    *,
    report: object = None,
    stdout: str = "",
    stderr: str = "",
    status: int = 0,
    accepted: str = "",
) -> Outcome:
    """The script with a pip-audit on the PATH that answers so; it also insists on what it is asked."""
    answer = (
        json.dumps({"dependencies": report, "fixes": []}) + "\n" if report is not None else stdout
    )
    answering = folder / "pip_audit.py"
    answering.write_text(
        "import sys\n"
        f"assert open(sys.argv[sys.argv.index('--requirement') + 1]).read() == {REQUIREMENTS!r}\n"
        "assert '--disable-pip' in sys.argv and '--require-hashes' in sys.argv\n"
        f"sys.stdout.write({answer!r})\nsys.stderr.write({stderr!r})\nsys.exit({status})\n"
    )
    program = folder / "pip-audit"
    # By way of a shell: the first line of a script holds no path with a blank.
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(answering)])} "$@"\n')
    program.chmod(0o755)
    requirements, pyproject = folder / "requirements.txt", folder / "pyproject.toml"
    requirements.write_text(REQUIREMENTS)
    pyproject.write_text(f"[tool.vulnerabilities]\naccepted = [{accepted}]\n")
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(requirements), "--pyproject", str(pyproject)],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def test_vulnerable_package_fails(tmp_path: Path) -> None:
    """Named with its version, the id, what else it is called, and where it is fixed; status 1."""
    outcome = checked(
        tmp_path,
        report=[VULNERABLE, SHINY],
        stderr="Found 1 known vulnerability in 1 package\n",
        status=1,
    )
    assert outcome == Outcome(
        1, "2 packages checked, 1 vulnerabilities that nobody has accepted\n", SENTENCE + "\n"
    )


def test_vulnerability_without_a_fix_is_told_as_such(tmp_path: Path) -> None:
    """There is no version to go to yet."""
    unfixed = VULNERABLE | {"vulns": [{"id": "PYSEC-2026-1", "fix_versions": [], "aliases": []}]}
    outcome = checked(tmp_path, report=[unfixed, SHINY], status=1)
    assert (outcome.status, outcome.stderr) == (1, "rusty 1.0 has PYSEC-2026-1, not fixed yet\n")


def test_clean_packages_pass(tmp_path: Path) -> None:
    """pip-audit writes no report then."""
    outcome = checked(tmp_path, stderr="No known vulnerabilities found\n")
    assert outcome == Outcome(
        0, "2 packages checked, 0 vulnerabilities that nobody has accepted\n", ""
    )


@pytest.mark.parametrize(
    "stderr",
    [
        UNREACHED,
        "ERROR:pip_audit._cli:Could not connect to the vulnerability feed\nTip: your network may be blocking this service.\n",
        "requests.exceptions.HTTPError: 503 Server Error: Service Unavailable for url: …\n",
    ],
)
def test_nobody_to_ask_passes_and_says_so(tmp_path: Path, stderr: str) -> None:
    """One line, which cannot be taken for a clean result."""
    outcome = checked(tmp_path, stderr=stderr, status=1)
    assert (outcome.status, outcome.stdout) == (0, "")
    assert outcome.stderr.startswith("vulnerabilities: NOT CHECKED, nobody could be asked: ")
    assert len(outcome.stderr.splitlines()) == 1


def test_mirror_that_knows_nothing_is_nobody(tmp_path: Path) -> None:
    """pip-audit calls that no known vulnerabilities."""
    outcome = checked(tmp_path, report=UNKNOWN, stderr="No known vulnerabilities found\n")
    assert (outcome.status, outcome.stdout) == (0, "")
    assert "NOT CHECKED" in outcome.stderr


def test_packages_that_nobody_knows_are_named(tmp_path: Path) -> None:
    """The others count."""
    outcome = checked(tmp_path, report=[UNKNOWN[0], SHINY])
    assert outcome.status == 0
    assert outcome.stdout.startswith("1 packages checked, 0 ")
    assert outcome.stderr == "not checked, as nobody knows them: rusty\n"


@pytest.mark.parametrize(
    ("stdout", "stderr", "status"),
    [
        ("", "", 0),
        ("", "", 1),
        ("not JSON", "", 0),
        ("[]", "", 0),
        ("{}", "", 1),
        ('{"dependencies": [{"name": "rusty"}]}', "", 0),
        ("", "pip-audit: error: unrecognized arguments: --desc", 2),
        # Somebody in between: the certificate is not the service's.
        ("", "requests.exceptions.SSLError: certificate verify failed", 1),
    ],
)
def test_garbage_is_no_result(tmp_path: Path, stdout: str, stderr: str, status: int) -> None:
    """Status 2, whatever pip-audit thought of it."""
    outcome = checked(tmp_path, stdout=stdout, stderr=stderr, status=status)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith(
        f"vulnerabilities: pip-audit ended with status {status} and no report: "
    )


@pytest.mark.parametrize("identifier", ["PYSEC-2026-1", "CVE-2026-7"])
def test_accepted_vulnerability_passes(tmp_path: Path, identifier: str) -> None:
    """By any of its names, and it is told with the reason."""
    accepted = f"{{ id = '{identifier}', reason = 'never parsed', until = 9999-01-01 }}"
    outcome = checked(tmp_path, report=[VULNERABLE, SHINY], status=1, accepted=accepted)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith(f"accepted until 9999-01-01: {SENTENCE}: never parsed\n")


def test_acceptance_covers_one_vulnerability_alone(tmp_path: Path) -> None:
    """Another one fails, and an acceptance of what is gone is told."""
    accepted = "{ id = 'CVE-2026-8', reason = 'never parsed', until = 9999-01-01 }"
    outcome = checked(tmp_path, report=[VULNERABLE, SHINY], status=1, accepted=accepted)
    assert outcome.status == 1
    assert SENTENCE in outcome.stderr
    assert "no package has CVE-2026-8 any more" in outcome.stderr


@pytest.mark.parametrize("stderr", ["No known vulnerabilities found\n", UNREACHED])
def test_expired_acceptance_fails(tmp_path: Path, stderr: str) -> None:
    """With and without a network, so that it cannot be forgotten."""
    accepted = "{ id = 'CVE-2026-7', reason = 'never parsed', until = 2020-01-01 }"
    outcome = checked(tmp_path, stderr=stderr, accepted=accepted)
    assert outcome.status == 1
    assert (
        "CVE-2026-7 was accepted until 2020-01-01: judge it again (never parsed)" in outcome.stderr
    )


@pytest.mark.parametrize(
    "accepted",
    [
        "{ id = 'CVE-2026-7', until = 9999-01-01 }",
        "{ id = 'CVE-2026-7', reason = 'never parsed' }",
        "{ id = 'CVE-2026-7', reason = 'never parsed', until = 'later' }",
        "{ reason = 'never parsed', until = 9999-01-01 }",
    ],
)
def test_acceptance_needs_a_reason_and_a_last_day(tmp_path: Path, accepted: str) -> None:
    """Status 2, and the entry."""
    outcome = checked(tmp_path, stderr="No known vulnerabilities found\n", accepted=accepted)
    assert outcome.status == 2
    assert "needs id, reason and until" in outcome.stderr


def test_missing_program_is_told(tmp_path: Path) -> None:
    """Status 2: nothing was looked at."""
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(SCRIPT), "--pyproject", str(ROOT / "pyproject.toml")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "there is no pip-audit" in ended.stderr
