"""What a release writes, and when it is refused."""

from datetime import date

import pytest

from scripts.release import NotReleasable, with_release, with_version

PROJECT = '[project]\nname = "ledger-service"\nversion = "0.1.9"\n\n[tool.other]\nversion = 1\n'
CHANGELOG = "# Changelog\n\n## Unreleased\n\n- New.\n\n## 0.1.9, 2026-11-01\n\n- Old.\n"


@pytest.mark.parametrize("version", ["0.1.10", "0.2.0", "1.0.0"])
def test_release_writes_the_version_of_the_project(version: str) -> None:
    """No other version of the file. 0.1.10 comes after 0.1.9."""
    assert with_version(PROJECT, version) == PROJECT.replace("0.1.9", version)


@pytest.mark.parametrize("version", ["0.1.9", "0.1.8", "0.0.99", "0.2", "v0.2.0", "0.2.0rc1", ""])
def test_version_that_does_not_follow_is_refused(version: str) -> None:
    """The same version, a lower one, and texts that are no versions."""
    with pytest.raises(NotReleasable):
        with_version(PROJECT, version)


def test_release_dates_the_changes_of_the_changelog() -> None:
    """They move below the version. Above them is a new, empty section."""
    assert with_release(CHANGELOG, "0.2.0", date(2026, 12, 1)) == (
        "# Changelog\n\n## Unreleased\n\n## 0.2.0, 2026-12-01\n\n- New.\n\n"
        "## 0.1.9, 2026-11-01\n\n- Old.\n"
    )


@pytest.mark.parametrize(
    "changelog",
    [CHANGELOG.replace("- New.\n\n", ""), CHANGELOG.replace("## Unreleased\n", "")],
)
def test_release_without_changes_is_refused(changelog: str) -> None:
    """The changelog must say what is new."""
    with pytest.raises(NotReleasable):
        with_release(changelog, "0.2.0", date(2026, 12, 1))
