"""Serves the contract from memory, for tests in any language: `python -m ledger.testing`."""

import argparse
import signal
import sys
import threading

from ledger.testing.server import LedgerServer


def main() -> None:
    """Prints the address in a line, and serves until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m ledger.testing",
        description="Serve the ledger's contract from memory, for tests. Prints the address.",
    )
    parser.add_argument("--port", type=int, default=0, help="a port; 0, the default: a free one")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    with LedgerServer(port=parser.parse_args().port) as server:
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        stop.wait()


if __name__ == "__main__":
    main()
