"""Tells which locked packages have known vulnerabilities: `make vulnerabilities`.

    python scripts/check_vulnerabilities.py requirements.txt [--pyproject pyproject.toml]

Asks pip-audit about the requirements. The exit status is 1 when a package has a known vulnerability that is not accepted, or when
an acceptance has expired; 0 when there is none; and 0 too when nobody could be asked, which is then said on standard error: a
machine without network must not fail for it. Anything else that pip-audit does is status 2.

What is accepted stands in pyproject.toml, each with a reason and the last day on which it is:

    [tool.vulnerabilities]
    accepted = [{ id = "GHSA-…", reason = "we never parse XML", until = 2027-01-31 }]
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 300
# How pip-audit ends when it gets no answer; it passes on what its HTTP library raises.
UNREACHABLE = re.compile(
    r"requests\.exceptions\.(ConnectionError|ProxyError|ConnectTimeout|ReadTimeout|ChunkedEncodingError)"
    r"|requests\.exceptions\.HTTPError: 5\d\d "
    r"|Could not connect to "
)
# What it says on standard error beside an empty standard output, when there is nothing to tell.
CLEAN = "No known vulnerabilities found"


class Broken(Exception):
    """The check could not be made, for another reason than an absent network."""


class NobodyToAsk(Exception):
    """No answer about any package."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A vulnerability that somebody has judged, and until when the judgement holds."""

    id: str
    reason: str
    until: date


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """A known vulnerability of a package that we have locked."""

    package: str
    version: str
    id: str
    aliases: tuple[str, ...]
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        also = f" ({', '.join(self.aliases)})" if self.aliases else ""
        fixed = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "not fixed yet"
        return f"{self.package} {self.version} has {self.id}{also}, {fixed}"


@dataclass(frozen=True, slots=True)
class Audit:
    """What is known about the packages."""

    packages_count: int
    unknown: tuple[str, ...]
    vulnerabilities: tuple[Vulnerability, ...]


def acceptances(pyproject: Path) -> list[Acceptance]:
    """What is accepted. Raises Broken for an entry without id, reason or last day."""
    table: dict[str, Any] = (
        tomllib.loads(pyproject.read_text()).get("tool", {}).get("vulnerabilities", {})
    )
    accepted = []
    for entry in table.get("accepted", []):
        identifier, reason, until = (entry.get(name) for name in ("id", "reason", "until"))
        # A date with a time is a date to Python, too.
        if (
            not identifier
            or not reason
            or not isinstance(until, date)
            or isinstance(until, datetime)
        ):
            raise Broken(
                f"{pyproject.name}: an accepted vulnerability needs id, reason and until (a date), not {entry}"
            )
        accepted.append(Acceptance(identifier, reason, until))
    return accepted


def audit(requirements: Path) -> Audit:
    """What pip-audit knows of the requirements. Raises NobodyToAsk, Broken."""
    program = shutil.which("pip-audit")
    if program is None:
        raise Broken("there is no pip-audit: run `make install`")
    # The requirements are complete and have hashes, so that nothing is resolved, downloaded or run.
    command = [program, "--requirement", str(requirements), "--disable-pip", "--require-hashes"]
    try:
        ended = subprocess.run(
            [
                *command,
                "--format",
                "json",
                "--desc",
                "off",
                "--aliases",
                "on",
                "--progress-spinner",
                "off",
            ],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise NobodyToAsk(f"no answer within {TIMEOUT_SECONDS} s") from error
    if not ended.stdout.strip():
        if ended.returncode == 0 and CLEAN in ended.stderr:
            return Audit(_count(requirements), (), ())
        if found := UNREACHABLE.search(ended.stderr):
            raise NobodyToAsk(found.group().strip())
    try:
        return _audit_of(json.loads(ended.stdout))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        last = (ended.stderr.strip() or ended.stdout.strip() or "nothing").splitlines()[-1][:300]
        raise Broken(
            f"pip-audit ended with status {ended.returncode} and no report: {last}"
        ) from error


def _count(requirements: Path) -> int:
    return len(re.findall(r"(?m)^[A-Za-z0-9._-]+==", requirements.read_text()))


def _audit_of(report: dict[str, Any]) -> Audit:
    packages = report["dependencies"]
    unknown = tuple(package["name"] for package in packages if "skip_reason" in package)
    if packages and len(unknown) == len(packages):
        raise NobodyToAsk("whoever was asked knows none of the packages")
    found = [
        Vulnerability(
            package["name"],
            package["version"],
            known["id"],
            tuple(known["aliases"]),
            tuple(known["fix_versions"]),
        )
        for package in packages
        if "skip_reason" not in package
        for known in package["vulns"]
    ]
    return Audit(len(packages), unknown, tuple(found))


def judge(audited: Audit, accepted: list[Acceptance]) -> list[Vulnerability]:
    """The vulnerabilities that nobody has accepted. Tells of those that are, and of acceptances without need."""
    by_id = {acceptance.id: acceptance for acceptance in accepted}
    needed = set()
    unaccepted = []
    for vulnerability in audited.vulnerabilities:
        names = {vulnerability.id, *vulnerability.aliases} & by_id.keys()
        needed |= names
        if names:
            acceptance = by_id[min(names)]
            print(f"accepted until {acceptance.until}: {vulnerability}: {acceptance.reason}")
        else:
            unaccepted.append(vulnerability)
    for name in sorted(by_id.keys() - needed):
        print(f"no package has {name} any more: take it out of the accepted ones", file=sys.stderr)
    return unaccepted


def check(requirements: Path, pyproject: Path, today: date) -> int:
    """Prints what was found; the exit status."""
    try:
        accepted = acceptances(pyproject)
        # Before anything that needs a network: it would fail nowhere else.
        expired = [acceptance for acceptance in accepted if acceptance.until < today]
        for acceptance in expired:
            print(
                f"{acceptance.id} was accepted until {acceptance.until}: judge it again ({acceptance.reason})",
                file=sys.stderr,
            )
        try:
            audited = audit(requirements)
        except NobodyToAsk as error:
            print(f"vulnerabilities: NOT CHECKED, nobody could be asked: {error}", file=sys.stderr)
            return 1 if expired else 0
    except Broken as error:
        print(f"vulnerabilities: {error}", file=sys.stderr)
        return 2
    unaccepted = judge(audited, accepted)
    for vulnerability in unaccepted:
        print(vulnerability, file=sys.stderr)
    if audited.unknown:
        print(f"not checked, as nobody knows them: {', '.join(audited.unknown)}", file=sys.stderr)
    checked = audited.packages_count - len(audited.unknown)
    print(f"{checked} packages checked, {len(unaccepted)} vulnerabilities that nobody has accepted")
    return 1 if unaccepted or expired else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("requirements", type=Path)
    parser.add_argument("--pyproject", type=Path, default=Path("pyproject.toml"))
    arguments = parser.parse_args()
    sys.exit(check(arguments.requirements, arguments.pyproject, datetime.now(UTC).date()))


if __name__ == "__main__":
    main()
