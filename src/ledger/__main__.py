"""The `ledger` command, also as `python -m ledger`."""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Runs the command that the arguments name and exits with its status."""
    # Loading takes a moment, in which Ctrl-C would be a traceback from the middle of a library. There is nothing to clean up yet.
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:
        signal.signal(signal.SIGINT, _end_at_once)
    # What gRPC's core writes to standard error by itself repeats our own lines in its programmers' words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ledger.cli.streams import prepare_streams, settle_streams

    prepare_streams()
    try:
        from ledger.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ledger":
            raise  # a defect of ours, not something to install
        sys.exit(
            f"error: the `ledger` command needs the Python package {error.name}, which is not installed: "
            "install this package with its extras server and embedded"
        )
    if is_interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = run()
    settle_streams()
    # What opens a database or serves may leave something to clean up. Any other command has nothing, and to take the
    # interpreter apart is a sixth of the time that it takes.
    if "ledger.bootstrap" not in sys.modules:
        os._exit(status)
    # Nor is there anything left to clean up when the interpreter takes itself apart.
    if is_interruptible and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)
    sys.exit(status)


def _end_at_once(_: int, __: FrameType | None) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
