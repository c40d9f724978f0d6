"""Turns the errors of calls into what a command says and ends with."""

from typing import TYPE_CHECKING

from ledger.cli.failures import CommandFailure, ExitStatus

# Imported when needed: most calls succeed.
if TYPE_CHECKING:
    from ledger.client import LedgerError


def failure_of(error: "LedgerError", address: str) -> CommandFailure:
    """The failure of a command whose call to the server at `address` failed."""
    if error.reached_no_server:
        return CommandFailure(
            f"no server responds at {address}; start one with `ledger serve`, or name another with"
            " --address",
            # Only the texts of gRPC distinguish a server with TLS from none.
            "a server with TLS needs --tls-ca before the name of the command, and may need"
            " --tls-cert and --tls-key",
            exit_status=ExitStatus.UNREACHABLE,
        )
    if error.code.name == "DEADLINE_EXCEEDED":
        return CommandFailure(
            f"the server at {address} did not respond in time", exit_status=ExitStatus.UNREACHABLE
        )
    if error.code.name == "UNAUTHENTICATED":
        return CommandFailure(
            str(error),
            "put a token into a file, and name the file with --token-file before the name of the"
            " command, or with LEDGER_CLIENT_TOKEN_FILE; `ledger token` makes a token",
            "a server that knows callers by certificates needs --tls-cert and --tls-key instead",
        )
    status = ExitStatus.UNREACHABLE if error.is_retryable else ExitStatus.REFUSED
    if not error.violations:
        return CommandFailure(str(error), exit_status=status)
    # The server's sentence is the same list in one line.
    first = f"{error.code.name} {error.reason}: the request is invalid"
    particulars = [f"{violation.field} {violation.description}" for violation in error.violations]
    return CommandFailure(first, *particulars, exit_status=status)
