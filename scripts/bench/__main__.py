"""`python -m scripts.bench`, by `make bench`, `make bench-short` and `make soak`."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from fnmatch import fnmatch

import scripts.bench
from scripts.bench import (
    against,
    books,
    gateway_rows,
    growth,
    past_rows,
    payment_rows,
    payout_rows,
    reconcile_rows,
    report,
    rows,
    seal_rows,
    size_rows,
    soak,
    statement_rows,
)
from scripts.bench.bench import Bench, Sizes
from scripts.bench.books import Booked
from scripts.bench.checkouts import NoCheckout
from scripts.bench.servers import serving, serving_empty, uses_uvloop

FULL = Sizes(4.0, 2, 0.3, (10_000, 100_000), 1_000_000, 100_000)
SHORT = Sizes(0.25, 1, 0.05, (200, 1_000), 5_000, 2_000)
PROCESSES = 2
ROWS = (
    rows.CALL_ROWS
    | payment_rows.PAYMENT_ROWS
    | {
        "statement": statement_rows.statement,
        "seals": seal_rows.seals,
        "payouts": payout_rows.payouts,
        "payouts-spread": payout_rows.payouts_spread,
        "size": size_rows.size,
        "reconcile": reconcile_rows.reconciliation,
        "gateway": gateway_rows.gateway,
        # Last, as its account makes the database larger.
        "balance-past": past_rows.balance_past,
    }
)


async def measure_rows(bench: Bench, only: str, facts: dict[str, str]) -> None:
    """Measures the rows that `only` matches, in the order of the table; then checks the books.

    Raises WrongBooks.
    """
    measured = [report.row("machine", float(facts["machine"].split()[0]), "cores")]
    measured[0] = replace(measured[0], facts=facts)
    left_out: list[str] = []
    await rows.register_restaurants(bench)
    for name, measure in ROWS.items():
        if not fnmatch(name, only):
            continue
        async for found in measure(bench):
            if isinstance(found, str):
                left_out.append(found)
                print(found, flush=True)
            else:
                measured.append(found)
                print(f"{found.name}: {found.value:,} {found.unit}", flush=True)
    await books.check_entries(bench.connection, bench.acknowledged)
    path = report.write_rows(measured)
    print()
    report.show(measured)
    for line in left_out:
        print(line)
    payments = bench.acknowledged[Booked.PAYMENTS] + bench.acknowledged[Booked.CAPTURES]
    print(
        f"all {bench.acknowledged[Booked.EVENTS]:,} acknowledged events and"
        f" {payments:,} payments are in the books with their entries;"
        f" written to {path}"
    )


Mode = Callable[[Bench, dict[str, str]], Awaitable[None]]


async def run(mode: Mode, sizes: Sizes, processes: int, load_average: float) -> None:
    """Starts what every mode needs, and runs it."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(books.cluster())
        service = stack.enter_context(serving(cluster))
        uvloop = uses_uvloop(service)
        empty = stack.enter_context(serving_empty(uvloop=uvloop))
        bench = await Bench.open(stack, cluster, service, empty, sizes, processes)
        facts = await books.facts(
            bench.connection,
            cluster.data_dir,
            uvloop=uvloop,
            processes=processes,
            load_average=load_average,
        )
        await mode(bench, facts)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with status 2 and the reason if it is wrong."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=scripts.bench.__doc__)
    parser.add_argument("--short", action="store_true", help="small sizes, to see that it runs")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--growth",
        action="store_true",
        help="how cost grows with restaurants, entries, callers, workers",
    )
    mode.add_argument(
        "--against",
        metavar="REV",
        help="the rows in pairs: this checkout against another revision, which it installs in"
        " .cache; says whether they differ beyond the noise; writes .bench/against.json",
    )
    mode.add_argument(
        "--soak", action="store_true", help="mixed load, and how the server's memory grows"
    )
    names = ", ".join([*ROWS, *growth.SERIES])
    parser.add_argument(
        "--only", metavar="GLOB", default="*", help=f"only these rows, or series: {names}"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"seconds of each side of a comparison; default {FULL.seconds}",
    )
    parser.add_argument(
        "--events",
        type=int,
        help=f"events of the row size; default {FULL.size_events:,}, 10,000,000 take half an hour",
    )
    parser.add_argument(
        "--restaurants",
        type=int,
        help=f"restaurants of the largest payout run; default {FULL.payout_restaurants[1]:,}",
    )
    parser.add_argument(
        "--pairs",
        type=int,
        default=against.PAIRS,
        help=f"pairs of --against; default {against.PAIRS}, as many as it takes to judge",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=soak.MINUTES,
        help=f"minutes of --soak; default {soak.MINUTES}",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=PROCESSES,
        help=f"processes that make load; default {PROCESSES}",
    )
    arguments = parser.parse_args(words)
    known = growth.SERIES if arguments.growth else ROWS
    if not any(fnmatch(name, arguments.only) for name in known):
        parser.error(f"--only matches none of {', '.join(known)}")
    if arguments.short and (arguments.growth or arguments.soak):
        parser.error("--short is for rows and for --against")
    if (
        min(arguments.processes, arguments.pairs) < 1
        or (arguments.seconds is not None and arguments.seconds <= 0)
        or (arguments.events is not None and arguments.events <= 0)
        or (arguments.restaurants is not None and arguments.restaurants < 1)
        or arguments.minutes <= 0
    ):
        parser.error(
            "--processes, --pairs, --seconds, --events, --restaurants and --minutes must be more"
            " than 0"
        )
    return arguments


def compare(arguments: argparse.Namespace) -> None:
    """Each checkout measures with its own bench. Exits with the reason if one cannot."""
    words = ["--only", arguments.only, "--processes", str(arguments.processes)]
    if arguments.seconds is not None:
        words += ["--seconds", str(arguments.seconds)]
    if arguments.events is not None:
        words += ["--events", str(arguments.events)]
    if arguments.restaurants is not None:
        words += ["--restaurants", str(arguments.restaurants)]
    if arguments.short:
        words.append("--short")
    try:
        against.measure(arguments.against, arguments.pairs, words)
    except (NoCheckout, against.RunFailed) as error:
        sys.exit(str(error))


def main() -> None:
    arguments = parse()
    if arguments.against is not None:
        compare(arguments)
        return
    sizes = SHORT if arguments.short else FULL
    if arguments.seconds is not None:
        sizes = replace(sizes, seconds=arguments.seconds)
    if arguments.events is not None:
        sizes = replace(sizes, size_events=arguments.events)
    if arguments.restaurants is not None:
        few, _ = sizes.payout_restaurants
        sizes = replace(sizes, payout_restaurants=(few, arguments.restaurants))
    mode: Mode
    if arguments.growth:
        mode = lambda bench, facts: growth.measure(bench, facts, arguments.only)  # noqa: E731
    elif arguments.soak:
        mode = lambda bench, facts: soak.measure(bench, facts, arguments.minutes)  # noqa: E731
    else:
        mode = lambda bench, facts: measure_rows(bench, arguments.only, facts)  # noqa: E731
    load_average = os.getloadavg()[0]
    asyncio.run(run(mode, sizes, arguments.processes, load_average))


if __name__ == "__main__":
    # SIGTERM does what Ctrl-C does, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
