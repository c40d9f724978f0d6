"""The `ledger` command, also as `python -m ledger`."""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def main() -> None:
    """Runs the command that the arguments name and exits with its status."""
    # Ctrl-C while modules load would print a traceback from within a library. There is nothing to
    # clean up yet, so end at once.
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:
        signal.signal(signal.SIGINT, _end_at_once)
    # gRPC's core would write to standard error, in its own format, what our log lines already say.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ledger.cli.failures import missing_package
    from ledger.cli.streams import drop_unwritten_text, prepare_streams

    prepare_streams()
    try:
        from ledger.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ledger":
            raise  # a defect of ours, not something to install
        sys.exit(f"error: {missing_package(error.name)}")
    if is_interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    status = run()
    drop_unwritten_text()
    # Only commands that open a database or serve may leave something to clean up. For the others
    # the interpreter's shutdown would be a sixth of their time, so it is skipped.
    if "ledger.bootstrap" not in sys.modules:
        os._exit(status)
    # Nothing of ours is left to clean up during the interpreter's shutdown.
    if is_interruptible and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)
    sys.exit(status)


def _end_at_once(_: int, __: FrameType | None) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
