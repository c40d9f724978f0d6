"""Two checkouts against each other, in interleaved pairs: a change judged on a noisy machine."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.bench import report
from scripts.bench.checkouts import checkout, commit_of
from scripts.bench.servers import ROOT

PAIRS = 5
# Of equal checkouts, one measure in sixteen or fewer is said to differ: five pairs of five agree.
CHANCE_MAX = 1 / 16
# The figures of a row: its own, and the CPU seconds of 1,000 calls or events, which other load on
# the machine changes less.
FIGURES = {"value": "", "cpu_server_s": "server's CPU", "cpu_database_s": "database's CPU"}
# Of all other units more is better.
LESS_IS_BETTER = ("ms", "s")
STOP_TIMEOUT_SECONDS = 90

Run = Mapping[str, Mapping[str, Any]]


class RunFailed(Exception):
    """The bench of one of the checkouts failed."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of a row in each pair: this checkout's divided by the other's."""

    row: str
    figure: str
    unit: str
    this: Sequence[float]
    other: Sequence[float]
    ratios: Sequence[float]
    verdict: str

    @property
    def summary(self) -> str:
        """The median of the ratios, the least and the greatest."""
        median = statistics.median(self.ratios)
        return f"{median:.3f} [{min(self.ratios):.3f} to {max(self.ratios):.3f}]"


def orders(pairs: int) -> list[tuple[str, str]]:
    """Which side runs first in each pair: in turn, so that a machine's drift cancels out."""
    return [("this", "other") if pair % 2 == 0 else ("other", "this") for pair in range(pairs)]


def chance(ratios: Sequence[float]) -> float:
    """How probable it is that equal checkouts differ so often in one direction (sign test)."""
    differing = [ratio for ratio in ratios if ratio != 1]
    most = max(sum(ratio > 1 for ratio in differing), sum(ratio < 1 for ratio in differing))
    number = len(differing)
    tail = sum(math.comb(number, place) for place in range(most, number + 1))
    return min(1.0, 2.0 * tail / float(2**number))


def verdict(ratios: Sequence[float], *, less_is_better: bool) -> str:
    """In words, whether the difference is beyond the noise."""
    if 2 / 2 ** len(ratios) > CHANCE_MAX:
        counted = "1 pair is" if len(ratios) == 1 else f"{len(ratios)} pairs are"
        return f"{counted} too few to say"
    if chance(ratios) > CHANCE_MAX:
        return "no difference beyond the noise"
    median = statistics.median(ratios)
    better = (median < 1) == less_is_better
    percent = abs(median - 1) * 100
    return f"{'better' if better else 'worse'} by {percent:.1f} %, beyond the noise"


def compare(this: Sequence[Run], other: Sequence[Run]) -> Iterator[Compared]:
    """Every figure that both sides have in each pair, in the order of the table."""
    for name, row in this[0].items():
        for figure, suffix in FIGURES.items():
            ours, theirs = (
                [float(run.get(name, {}).get(figure) or 0) for run in runs]
                for runs in (this, other)
            )
            if not all(ours + theirs):
                continue
            unit = row["unit"] if figure == "value" else "s"
            ratios = [round(one / two, 4) for one, two in zip(ours, theirs, strict=True)]
            words = verdict(ratios, less_is_better=unit in LESS_IS_BETTER)
            yield Compared(name, suffix or row["unit"], unit, ours, theirs, ratios, words)


def run_bench(path: Path, python: Path, arguments: Sequence[str]) -> Run:
    """Runs the bench of a checkout; returns its rows by name. Raises RunFailed.

    When this process is interrupted the bench ends first, with all that it has started.
    """
    latest = path / ".bench" / "latest.json"
    latest.unlink(missing_ok=True)
    process = subprocess.Popen(
        [str(python), "-m", "scripts.bench", *arguments],
        cwd=path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Ctrl-C is for this process: a second signal would interrupt the clearing up.
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    finally:
        _end(process)
    if process.returncode or not latest.exists():
        raise RunFailed(f"the bench of {path} fails:\n{output.strip()}")
    rows = json.loads(latest.read_text(encoding="utf-8"))
    return {row["name"]: row for row in rows if row.get("facts") is None}


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.communicate(timeout=STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(revision: str, pairs: int, arguments: Sequence[str], root: Path = ROOT) -> None:
    """Runs the pairs, prints and writes what they say. Raises NoCheckout, RunFailed."""
    commit = commit_of(root, revision)
    print(f"preparing the checkout of {revision}, {commit[:12]}", flush=True)
    with checkout(root, commit) as path:
        sides = {
            "this": (root, Path(sys.executable)),
            "other": (path, path / ".venv" / "bin" / "python"),
        }
        runs: dict[str, list[Run]] = {"this": [], "other": []}
        for number, order in enumerate(orders(pairs), start=1):
            for side in order:
                runs[side].append(run_bench(*sides[side], arguments))
            for found in compare(runs["this"][-1:], runs["other"][-1:]):
                print(f"pair {number} of {pairs}: {found.row}, {found.figure}: {found.ratios[0]}")
            sys.stdout.flush()
    show(runs["this"], runs["other"], revision)
    compared = list(compare(runs["this"], runs["other"]))
    if not compared:
        raise RunFailed(f"this checkout and {revision} have no row in common")
    written = report.write(
        "against.json",
        {
            "revision": revision,
            "commit": commit,
            "arguments": list(arguments),
            "figures": [asdict(each) for each in compared],
        },
        root / ".bench",
    )
    print(f"written to {written}")


def show(this: Sequence[Run], other: Sequence[Run], revision: str) -> None:
    """Prints every figure: the ratios, their median, least and greatest, and the verdict."""
    print(f"\nthis checkout / {revision}: median [least to greatest], ratio of each pair")
    for found in compare(this, other):
        ratios = ", ".join(f"{ratio:.3f}" for ratio in found.ratios)
        print(f"{found.row}, {found.figure}: {found.summary}, {ratios}: {found.verdict}")
    for name in this[0].keys() ^ other[0].keys():
        print(f"{name}: left out, only {'this checkout' if name in this[0] else revision} has it")
