"""How `make interop` counts what its clients print, and takes its examples from the page."""

import os
import sys
from pathlib import Path

import pytest

from interop.__main__ import (
    NotHere,
    Outcomes,
    Servers,
    fetch,
    program,
    run_client,
    write_example,
)


@pytest.mark.parametrize(
    ("code", "passed", "failed"),
    [
        ("print('ok one'); print('ok two')", 2, 0),
        ("print('ok one'); print('FAILED two: 1 != 2'); raise SystemExit(1)", 1, 1),
        ("print('ok one'); raise SystemExit(1)", 1, 1),
        ("print('FAILED one: x')", 0, 2),
        ("print('nothing')", 0, 1),
        ("raise ValueError", 0, 1),
    ],
    ids=["passes", "fails", "breaks off", "fails with status 0", "checks nothing", "breaks"],
)
def test_checks_of_a_client_are_counted(
    tmp_path: Path, code: str, passed: int, failed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A client that ends early, or whose exit status says something else, has failed."""
    outcomes = Outcomes()
    run_client("client", [sys.executable, "-c", code], os.environ, tmp_path, outcomes)
    assert (outcomes.passed, outcomes.failed) == (passed, failed)
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == passed + failed
    assert sum("FAILED" in line for line in shown) == failed


def test_what_cannot_be_had_is_named() -> None:
    """A program that is not there, and a tool that fails, skip their client."""
    with pytest.raises(NotHere, match="no-such-program is not installed"):
        program("no-such-program")
    with pytest.raises(NotHere, match="no network"):
        fetch(sys.executable, "-c", "raise SystemExit('no network')")


@pytest.mark.parametrize("language", ["js", "go"])
def test_page_has_one_example_in_each_language(tmp_path: Path, language: str) -> None:
    """It is sent to the server of the run, and finds its files beside it."""
    servers = Servers("127.0.0.1:4711", "", tmp_path / "ca.pem", short=True)
    example = tmp_path / "example" / "main"
    write_example(language, example, servers)
    assert "127.0.0.1:4711" in example.read_text()
    assert "50051" not in example.read_text()
    beside = {path.name for path in example.parent.iterdir()}
    assert beside == {"main", "ledger.binpb", "service_config.json"}
