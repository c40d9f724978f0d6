"""`ledger token`: makes a token for a caller."""

import hashlib
import secrets

import click

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import print_json, print_line
from ledger.cli.parameters import json_option

# Random enough that a fast hash of it tells nobody anything.
TOKEN_BYTES = 32
# So that whoever finds one knows what it is for, and scanners for secrets can be taught to.
TOKEN_PREFIX = "ledger_"  # noqa: S105  # no token

HELP = """
Make a token by which IDENTITY calls a server, and the line that lets the server
know it.

The token is shown once and stored nowhere: give it to the caller, who sends it
as authorization: Bearer TOKEN. The line, which holds its SHA-256 and not the
token, goes into LEDGER_AUTH_TOKENS_FILE; servers read the file again by
themselves.

Scopes: ingest sends events, read asks, payout starts payout runs, admin changes
restaurants. None includes another.
"""


@click.command(help=HELP)
@click.argument("identity", metavar="IDENTITY", help="Who calls, such as webhook-gateway.")
@click.argument("scopes", metavar="SCOPES", help="What for: some of ingest,read,payout,admin.")
@json_option
def token(identity: str, scopes: str, json: bool) -> None:
    # Imported when needed: it brings the libraries of the server along.
    from ledger.api.access.authorization import parse_scopes
    from ledger.api.access.credential_files import IDENTITY_LENGTH_MAX, is_identity

    if not is_identity(identity) or "#" in identity:
        raise CommandFailure(
            f"IDENTITY must be at most {IDENTITY_LENGTH_MAX} printable ASCII characters without blanks and #",
            exit_status=ExitStatus.USAGE,
        )
    try:
        parse_scopes(scopes)
    except ValueError as error:
        raise CommandFailure(str(error), exit_status=ExitStatus.USAGE) from None
    made = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    line = f"{identity} {scopes} {hashlib.sha256(made.encode()).hexdigest()}"
    if json:
        print_json({"token": made, "line": line})
        return
    print_line("the token, for the caller alone:")
    print_line(made)
    print_line("the line, for LEDGER_AUTH_TOKENS_FILE:")
    print_line(line)
