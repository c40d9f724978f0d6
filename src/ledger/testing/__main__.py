"""Serves the contract from memory, for tests in any language: `python -m ledger.testing`."""

import argparse
import signal
import sys
import threading
from datetime import timedelta

from ledger.testing.server import LedgerServer


def main() -> None:
    """Prints the address in a line, and serves until SIGTERM or SIGINT.

    Meanwhile it reads commands, one a line, and prints a line for each.
    """
    parser = argparse.ArgumentParser(
        prog="python -m ledger.testing",
        description="Serve the ledger's contract from memory, for tests. Prints the address. "
        "A line `advance SECONDS` on its input moves its clock ahead, and prints the instant.",
    )
    parser.add_argument("--port", type=int, default=0, help="a port; 0, the default: a free one")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    with LedgerServer(port=parser.parse_args().port) as server:
        _print(server.address)
        threading.Thread(target=_obey, args=(server,), daemon=True).start()
        stop.wait()


def _obey(server: LedgerServer) -> None:
    for line in sys.stdin:
        words = line.split()
        try:
            (seconds,) = words[1:]
            if words[0] != "advance":
                raise ValueError(words[0])
            instant = server.clock.advance(timedelta(seconds=float(seconds)))
        except (IndexError, OverflowError, ValueError):
            _print("error: a command is `advance SECONDS`, of 0 or more")
        else:
            _print(instant.isoformat())


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
