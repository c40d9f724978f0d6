"""Makes a release: version, changelog, promises of the contract, trial, commit, tag.

    make release VERSION=0.2.0

Changes nothing unless the tree is clean, the version follows the present one, the changelog has
entries under "Unreleased" and the contract keeps what the last release promised. Pushes nothing.
docs/releasing.md has the steps before and after.
"""

import re
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

from scripts.check_contract import RELEASED

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "pyproject.toml"
CHANGELOG = ROOT / "docs" / "changelog.md"
UNRELEASED = "## Unreleased\n"
VERSION_LINE = re.compile(r'^version = "(\d+)\.(\d+)\.(\d+)"$', re.MULTILINE)


class NotReleasable(Exception):
    """The reason why nothing can be released now."""


def with_version(project: str, version: str) -> str:
    """The text of pyproject.toml with the version. Raises NotReleasable unless it is higher."""
    found = VERSION_LINE.search(project)
    wanted = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None or wanted is None:
        raise NotReleasable("a version has three numbers, such as 0.2.0")
    if tuple(map(int, wanted.groups())) <= tuple(map(int, found.groups())):
        raise NotReleasable(f"{version} does not follow {'.'.join(found.groups())}")
    return VERSION_LINE.sub(f'version = "{version}"', project)


def with_release(changelog: str, version: str, day: date) -> str:
    """The changelog with its unreleased entries under the version. Raises NotReleasable."""
    _, heading, rest = changelog.partition(UNRELEASED)
    entries = rest.partition("\n## ")[0]
    if not heading or "- " not in entries:
        raise NotReleasable('docs/changelog.md has no entries under "Unreleased"')
    return changelog.replace(UNRELEASED, f"{UNRELEASED}\n## {version}, {day.isoformat()}\n")


def run(*command: str) -> str:
    """What a command prints. Raises CalledProcessError when it fails."""
    return subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def release(uv: str, version: str) -> None:
    """Makes the release. Raises NotReleasable, with nothing changed, or CalledProcessError."""
    if run("git", "status", "--porcelain"):
        raise NotReleasable("there are changes that are not committed")
    project = with_version(PROJECT.read_text(encoding="utf-8"), version)
    changelog = with_release(
        CHANGELOG.read_text(encoding="utf-8"), version, datetime.now(UTC).date()
    )
    run(sys.executable, "scripts/check_contract.py")
    PROJECT.write_text(project, encoding="utf-8")
    CHANGELOG.write_text(changelog, encoding="utf-8")
    run(sys.executable, "scripts/check_contract.py", "--release")
    run(uv, "lock", "--quiet")
    run(sys.executable, "scripts/try_wheel.py", uv)
    run("git", "add", *(str(path) for path in (PROJECT, CHANGELOG, RELEASED, ROOT / "uv.lock")))
    run("git", "commit", "--quiet", "--message", f"Release {version}")
    run("git", "tag", "--annotate", f"v{version}", "--message", f"Release {version}")


def main() -> int:
    uv, version = sys.argv[1:3]
    try:
        release(uv, version)
    except NotReleasable as error:
        print(f"nothing was released: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"the release stopped: {error}", file=sys.stderr)
        print("`git restore --staged --worktree .` undoes its changes", file=sys.stderr)
        return 1
    print(f"released {version}: push main and the tag v{version}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
