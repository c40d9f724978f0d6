"""Pairs of two checkouts: their order, their judgement, and how they are made and left."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until

from scripts.bench import against
from scripts.bench.__main__ import parse
from scripts.bench.checkouts import KEPT, NoCheckout, checkout, commit_of

# A checkout whose environment is this one, and whose bench finds one row.
MAKEFILE = """install:
\t@mkdir -p .venv/bin && ln -sf "{python}" .venv/bin/python && echo made >>made
"""
BENCH = """import json, pathlib, sys
pathlib.Path(".bench").mkdir(exist_ok=True)
row = {{"name": "calls", "value": {value}, "unit": "calls/s", "facts": None}}
pathlib.Path(".bench/latest.json").write_text(json.dumps([row]))
"""
HANGING = """import os, pathlib, time
pathlib.Path("pid").write_text(str(os.getpid()))
time.sleep(3600)
"""

Commit = Callable[[str], str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not on this machine")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "Makefile").write_text(MAKEFILE.format(python=sys.executable))
    (tmp_path / "scripts" / "bench").mkdir(parents=True)
    (tmp_path / ".gitignore").write_text(".cache\n.bench\n")
    return tmp_path


@pytest.fixture
def commit(root: Path) -> Commit:
    """Commits a bench; returns the commit."""
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]

    def make(bench: str) -> str:
        (root / "scripts" / "bench" / "__main__.py").write_text(bench)
        subprocess.run(["git", "add", "--all"], cwd=root, check=True)
        subprocess.run(["git", *author, "commit", "--quiet", "-m", "x"], cwd=root, check=True)
        return commit_of(root, "HEAD")

    return make


def test_order_alternates() -> None:
    this_first, other_first = ("this", "other"), ("other", "this")
    assert against.orders(3) == [this_first, other_first, this_first]


@pytest.mark.parametrize(
    ("ratios", "less_is_better", "words"),
    [
        ([1.1, 1.2, 1.1, 1.3, 1.01], False, "better by 10.0 %, beyond the noise"),
        ([1.1, 1.2, 1.1, 1.3, 1.01], True, "worse by 10.0 %, beyond the noise"),
        ([0.9, 0.8, 0.9, 0.7, 0.99], True, "better by 10.0 %, beyond the noise"),
        ([1.1, 1.2, 1.1, 1.3, 0.99], False, "no difference beyond the noise"),
        ([1.0, 1.0, 1.0, 1.0, 1.0], False, "no difference beyond the noise"),
        ([1.5, 1.5, 1.5, 1.5, 1.0], False, "no difference beyond the noise"),
        ([1.1] * 8 + [0.9], False, "better by 10.0 %, beyond the noise"),
        ([1.1] * 7 + [0.9] * 2, False, "no difference beyond the noise"),
        ([2.0] * 4, False, "4 pairs are too few to say"),
    ],
)
def test_verdict(ratios: list[float], less_is_better: bool, words: str) -> None:
    assert against.verdict(ratios, less_is_better=less_is_better) == words


def test_only_figures_of_both_sides_are_compared() -> None:
    """A row or a cost that one side lacks in one pair has no ratio."""

    def run(value: float, server_s: float | None) -> against.Run:
        return {"calls": {"unit": "calls/s", "value": value, "cpu_server_s": server_s}}

    new: dict[str, dict[str, Any]] = {"new": {"unit": "ms", "value": 1}}
    this = [{**run(300, 0.2), **new}, {**run(100, 0.2), **new}]
    (found,) = against.compare(this, [run(200, 0.1), run(200, None)])
    assert (found.row, found.figure, found.ratios) == ("calls", "calls/s", [1.5, 0.5])
    assert found.summary == "1.000 [0.500 to 1.500]"


def test_pairs_are_run_and_written(root: Path, commit: Commit) -> None:
    old = commit(BENCH.format(value=200))
    commit(BENCH.format(value=300))
    against.measure(old, 5, [], root)
    written = json.loads((root / ".bench" / "against.json").read_text())
    assert written["commit"] == old
    (figure,) = written["figures"]
    assert figure["ratios"] == [1.5] * 5
    assert figure["verdict"] == "better by 50.0 %, beyond the noise"


def test_bench_that_fails_is_named_with_its_output(root: Path, commit: Commit) -> None:
    """An earlier result is not taken for that of the run."""
    commit(BENCH.format(value=1))
    against.run_bench(root, Path(sys.executable), [])
    commit("raise SystemExit('no such row')")
    with pytest.raises(against.RunFailed, match="no such row"):
        against.run_bench(root, Path(sys.executable), [])


async def test_interrupted_bench_is_ended(root: Path, commit: Commit) -> None:
    """The signal that ends the comparison ends the bench that it runs."""
    commit(HANGING)
    program = f"""
import pathlib, signal, sys
from scripts.bench import against
signal.signal(signal.SIGTERM, signal.default_int_handler)
against.run_bench(pathlib.Path({str(root)!r}), pathlib.Path(sys.executable), [])
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stderr=subprocess.DEVNULL
    )
    pid = root / "pid"
    await until(lambda: pid.exists() and pid.read_text() != "", what="the bench runs")
    process.terminate()
    await process.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_checkout_is_used_again(root: Path, commit: Commit) -> None:
    first = commit("first")
    commit("second")
    for _ in range(2):
        with checkout(root, first) as path:
            assert (path / "scripts" / "bench" / "__main__.py").read_text() == "first"
    assert (path / "made").read_text() == "made\n" * 2


def test_interrupted_copy_is_made_anew(root: Path, commit: Commit) -> None:
    made = commit("whole")
    part = root / ".cache" / "against" / f"{made}.part"
    part.mkdir(parents=True)
    (part / "left").touch()
    with checkout(root, made) as path:
        assert not (path / "left").exists()


def test_old_checkouts_are_removed_unless_in_use(root: Path, commit: Commit) -> None:
    commits = [commit(str(number)) for number in range(KEPT + 2)]
    with checkout(root, commits[0]) as in_use:
        for each in commits[1:]:
            with checkout(root, each):
                pass
        left = {path.name for path in in_use.parent.iterdir() if path.is_dir()}
    assert left == {commits[0], *commits[-KEPT:]}


def test_unknown_revision_is_refused(root: Path, commit: Commit) -> None:
    commit("")
    for unknown in ("no-such", "--all"):
        with pytest.raises(NoCheckout, match=f"{unknown} is no commit"):
            commit_of(root, unknown)


def test_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoCheckout, match="not a checkout of git"):
        commit_of(tmp_path, "HEAD")


def test_machine_without_git_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoCheckout, match="git is not installed"):
        commit_of(root, "HEAD")


def test_checkout_that_cannot_be_installed_is_refused(root: Path, commit: Commit) -> None:
    (root / "Makefile").write_text("install:\n\t@echo no room >&2; exit 1\n")
    with pytest.raises(NoCheckout, match="no room"), checkout(root, commit("")):
        pass


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--against", "HEAD", "--growth"], "not allowed with"),
        (["--against", "HEAD", "--pairs", "0"], "must be more than 0"),
        (["--against", "HEAD", "--only", "nothing"], "matches none of"),
        (["--restaurants", "0"], "must be more than 0"),
        (["--against"], "expected one argument"),
        (["--short", "--growth"], "is for rows"),
        (["--short", "--soak"], "is for rows"),
    ],
)
def test_wrong_command_line(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(words)
    assert reason in capsys.readouterr().err
