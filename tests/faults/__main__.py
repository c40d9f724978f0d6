"""Plays the faults one after the other, each with a seed on a durable database, and reports.

`make faults` plays all; `make faults ARGS="--seed 7 --only F14,F15"` repeats two of them exactly;
`--short` plays a little of each.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from support.folders import folder_for_all

from faults.all_faults import FAULTS
from faults.catalogue import Fault, Outcome, Status, play
from faults.clusters import FORGETFUL, new_cluster
from ledger.observability import configure_logging
from ledger.settings import LogFormat, LogLevel

REPORT = Path(".faults") / "latest.json"


def main() -> int:
    configure_logging(LogFormat.CONSOLE, LogLevel.ERROR)
    arguments = _arguments()
    faults = _chosen(arguments.only)
    seed = random.randrange(2**31) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)  # noqa: T201
    began = time.monotonic()
    # The clusters live in the main thread, which is where the loop runs.
    outcomes = asyncio.run(_play_all(faults, seed=seed, full=not arguments.short))
    _show(outcomes)
    with suppress(FileExistsError):
        REPORT.parent.mkdir()
    report = {
        "seed": seed,
        "full": not arguments.short,
        "faults": [asdict(outcome) for outcome in outcomes],
    }
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    failed = [outcome.fault for outcome in outcomes if outcome.status is Status.FAILED]
    minutes = (time.monotonic() - began) / 60
    summary = f"{len(outcomes)} faults in {minutes:.1f} minutes, seed {seed}, written to {REPORT}"
    print(summary)  # noqa: T201
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)  # noqa: T201
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the run, to play it again")
    parser.add_argument(
        "--only", default="", help="numbers of faults, with commas between them: F14,F15"
    )
    parser.add_argument("--short", action="store_true", help="a little of each, without fsync")
    return parser.parse_args()


def _chosen(only: str) -> list[Fault]:
    numbers = only.split(",") if only else list(FAULTS)
    if unknown := [number for number in numbers if number not in FAULTS]:
        sys.exit(f"there is no fault {unknown[0]}; there are {', '.join(FAULTS)}")
    return [FAULTS[number] for number in numbers]


async def _play_all(faults: list[Fault], *, seed: int, full: bool) -> list[Outcome]:
    outcomes = []
    with (
        folder_for_all() as folder,
        new_cluster(folder / "database", {} if full else FORGETFUL) as cluster,
    ):
        await cluster.make_template()
        logs = folder / "logs"
        logs.mkdir()
        for fault in faults:
            outcome = await play(fault, cluster, logs, seed=seed, full=full)
            outcomes.append(outcome)
            print(_line(outcome), flush=True)  # noqa: T201
            if outcome.failure and outcome.status is Status.FAILED:
                print(outcome.failure, file=sys.stderr, flush=True)  # noqa: T201
    return outcomes


def _line(outcome: Outcome) -> str:
    figures = (
        f"acked {outcome.acked}, paid {outcome.paid}, lost {outcome.lost},"
        f" doubled {outcome.doubled}, longest gap {outcome.gap_seconds} s"
    )
    notes = f" ({'; '.join(outcome.notes)})" if outcome.notes else ""
    return (
        f"{outcome.fault} {outcome.title}: {outcome.status}, {figures},"
        f" seed {outcome.seed}, {outcome.seconds} s{notes}"
    )


def _show(outcomes: list[Outcome]) -> None:
    table = Table()
    for heading in (
        "fault",
        "",
        "",
        "acked",
        "paid",
        "lost",
        "doubled",
        "gap s",
        "calls",
        "unknown",
        "reads",
        "seals",
    ):
        table.add_column(heading, justify="left" if heading in ("fault", "") else "right")
    for outcome in outcomes:
        figures = (
            outcome.acked,
            outcome.paid,
            outcome.lost,
            outcome.doubled,
            outcome.gap_seconds,
        )
        more = (outcome.calls, outcome.unknown_calls, outcome.reads, outcome.seals)
        table.add_row(
            outcome.fault, escape(outcome.title), outcome.status, *map(str, (*figures, *more))
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    sys.exit(main())
