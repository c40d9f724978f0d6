"""The fixture, as the page about testing shows it."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_examples_of_the_page_pass(tmp_path: Path) -> None:
    """They pass, with the conftest.py that the page shows, outside of this project."""
    conftest, example = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)[:2]
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_example.py").write_text(example)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "2 passed" in run.stdout, run.stdout + run.stderr
