"""`ledger token`: makes a token for a caller."""

import hashlib
import secrets

import click

from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.output import print_json, print_line
from ledger.cli.parameters import json_option

# With so many random bytes even a fast hash cannot be reversed.
TOKEN_BYTES = 32
# Shows what a lost token belongs to; scanners for secrets can look for it.
TOKEN_PREFIX = "ledger_"  # noqa: S105  # no token

HELP = """
Make a token by which IDENTITY calls a server, and the line by which the server
knows it.

The token is shown once and stored nowhere. Give it to the caller, which sends
it as authorization: Bearer TOKEN. Add the line to LEDGER_AUTH_TOKENS_FILE; it
holds the SHA-256 of the token, not the token. Servers read the file again by
themselves.

Scopes: ingest sends events of any kind, ingest:processor, ingest:bank and
ingest:adjustment those of one kind; read reads; payout starts and cancels
payout runs; pay authorises payments and what follows them; quarantine keeps,
reads, retries and discards deliveries that cannot be booked; admin changes
restaurants and accounts. Only ingest includes other scopes.
"""


@click.command(help=HELP)
@click.argument("identity", metavar="IDENTITY", help="Who calls, such as webhook-gateway.")
@click.argument(
    "scopes", metavar="SCOPES", help="What for: scopes with commas, such as ingest,read."
)
@json_option
def token(identity: str, scopes: str, json: bool) -> None:
    # Imported when needed: it loads the libraries of the server.
    from ledger.api.access.authorization import parse_scopes
    from ledger.api.access.credential_files import IDENTITY_LENGTH_MAX, is_identity

    if not is_identity(identity) or "#" in identity:
        raise CommandFailure(
            f"IDENTITY must be at most {IDENTITY_LENGTH_MAX} printable ASCII characters without"
            " blanks and #",
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
