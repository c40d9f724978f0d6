"""The `ledger` command, also as `python -m ledger`."""

import os
import sys


def main() -> None:
    """Runs the command that the arguments name and exits with its status."""
    # What gRPC's core writes to standard error by itself repeats our own lines in its programmers' words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from ledger.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ledger":
            raise  # a defect of ours, not something to install
        sys.exit(
            f"error: the `ledger` command needs the Python package {error.name}, which is not installed: "
            "install this package with its extras server and embedded"
        )
    sys.exit(run())


if __name__ == "__main__":
    main()
