"""The `ledger` command: puts its subcommands together, and is where whatever goes wrong in them becomes a line."""

from collections.abc import Sequence
from typing import Annotated

import structlog
import typer

from ledger.cli import balance, demo, ingest, migrate, payouts, restaurants, serve, serve_worker, statement, token, verify
from ledger.cli.configuration import TlsCaOption, TlsCertificateOption, TlsKeyOption, TokenFileOption, load_settings, take_options
from ledger.cli.failures import CommandFailure, ExitStatus, report
from ledger.cli.report import app as report_app
from ledger.observability import configure_logging
from ledger.settings import LogLevel

HELP = """
A double-entry ledger for marketplaces that collect card payments for restaurants.

serve, migrate, verify, report and demo open the database; every other command calls the server at LEDGER_GRPC_ADDRESS, or at
--address.

Settings are environment variables that begin with LEDGER_, or lines of a file `.env`; `.env.example` lists them all.

Exit status: 0 done; 1 refused, or the books are broken; 2 a bad command line, setting or file; 3 nobody answers.
"""


def _package_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"ledger {version('ledger-service')}")
        raise typer.Exit


app = typer.Typer(
    name="ledger",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def _(
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_package_version, is_eager=True, help="Show the version.")
    ] = False,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenFileOption = None,
) -> None:
    # `version` has ended the command by itself.
    take_options(
        client_tls_ca_file=tls_ca,
        client_tls_certificate_file=tls_cert,
        client_tls_key_file=tls_key,
        client_token_file=token_file,
    )


app.command("serve", help=serve.HELP)(serve.serve)
app.command("serve-worker", help=serve_worker.HELP, hidden=True)(serve_worker.serve_worker)
app.command("migrate", help=migrate.HELP)(migrate.migrate)
app.command("ingest", help=ingest.HELP)(ingest.ingest)
app.command("balance", help=balance.HELP)(balance.balance)
app.command("statement", help=statement.HELP)(statement.statement)
app.add_typer(restaurants.app, name="restaurants", help="List, show and put the restaurants' profiles.")
app.add_typer(payouts.app, name="payouts", help="Pay restaurants out, show payouts, book what the bank answers.")
app.command("verify", help=verify.HELP)(verify.verify)
app.add_typer(report_app, name="report", help="Ask the books: balances, revenue, who would be paid, what is wrong, payouts.")
app.command("token", help=token.HELP)(token.token)
app.command("demo", help=demo.HELP)(demo.demo)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that `arguments` name, by default those of the process, and returns its exit status."""
    try:
        app(arguments, prog_name="ledger")
    except SystemExit as ending:
        # Any other kind of value is a text, and means 1.
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except CommandFailure as failure:
        report("error", failure.lines)
        return failure.exit_status
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except Exception as error:  # noqa: BLE001  # the outermost edge
        return _report_defect(error)
    return ExitStatus.DONE


def _report_defect(error: Exception) -> int:
    """Tells of an error that nobody foresaw; with its traceback only if everything is asked for."""
    report("error", [f"unexpected {type(error).__name__}: {error}", "LEDGER_LOG_LEVEL=debug shows where it happened"])
    try:
        settings = load_settings()
    except CommandFailure:
        return ExitStatus.REFUSED
    if settings.log_level is LogLevel.DEBUG:
        configure_logging(settings.log_format, settings.log_level)
        structlog.get_logger("ledger.cli").debug("unexpected exception", exc_info=error)
    return ExitStatus.REFUSED
