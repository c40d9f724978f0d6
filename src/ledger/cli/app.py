"""The `ledger` command: the table of its commands, and the handling of their errors."""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import click

from ledger.cli.command_tree import CONTEXT, Branch, LazyGroup, Leaf, Needs
from ledger.cli.completion import complete_for_shell
from ledger.cli.failures import CommandFailure, ExitStatus, missing_package, report
from ledger.cli.options_given import take_options
from ledger.cli.parameters import FileName, address_option
from ledger.cli.streams import OutputLost

PAYOUTS = Branch(
    {
        "run": Leaf(
            "payouts.run:run_payouts",
            "Pay out every restaurant of a currency, and wait for the end.",
        ),
        "show": Leaf(
            "payouts.show:show",
            "Show a payout with its items and history, or a run with its restaurants.",
        ),
        "list": Leaf("payouts.payout_list:list_payouts", "List payouts, the latest first."),
        "runs": Leaf("payouts.run_list:list_runs", "List payout runs, the latest first."),
        "cancel": Leaf(
            "payouts.run_list:cancel",
            "End a payout run, or cancel a payout before it is submitted.",
        ),
        "submit": Leaf("payouts.submit:submit", "Mark payouts as handed over to the bank."),
        "paid": Leaf("payouts.answers:paid", "Book that the bank carried out a payout."),
        "failed": Leaf(
            "payouts.answers:failed", "Book that the bank refused or returned a payout."
        ),
        "reference": Leaf("payouts.answers:reference", "Book what the bank calls a payout."),
        "export": Leaf(
            "payouts.export:export", "Write payouts for the bank, or a submission, as CSV."
        ),
        "explain": Leaf(
            "payouts.explain:explain", "Show the entries that add up to a payout's items."
        ),
    },
    "Pay out restaurants, show payouts, book what the bank answers.",
)
RESTAURANTS = Branch(
    {
        "list": Leaf(
            "restaurants:list_restaurants", "List all restaurants in the order of their ids."
        ),
        "show": Leaf("restaurants:show", "Show a restaurant's profile."),
        "put": Leaf(
            "restaurants:put_restaurant", "Register a restaurant, or change the fields given."
        ),
        "update": Leaf(
            "restaurants:update_restaurant", "Change the fields given of a registered restaurant."
        ),
        "hold": Leaf("restaurants:hold", "Let payout runs skip a restaurant for a while."),
        "unhold": Leaf("restaurants:unhold", "End the hold of a restaurant's payouts."),
        "get": Leaf("restaurants:show", "The old name of show.", hidden=True),
    },
    "List, show, put, update and hold the restaurants' profiles.",
)
ACCOUNTS = Branch(
    {
        "create": Leaf("accounts.profile:create", "Open an account in one currency."),
        "list": Leaf(
            "accounts.profile:list_accounts", "List all accounts in the order of their ids."
        ),
        "show": Leaf("accounts.profile:show", "Show an account."),
        "balance": Leaf("accounts.balance:balance", "Show what an account holds."),
        "statement": Leaf(
            "accounts.statement:statement", "Show what moved what an account has available."
        ),
        "update": Leaf("accounts.profile:update", "Change the fields given of an account."),
        "freeze": Leaf("accounts.profile:freeze", "Decline what would pay it or take from it."),
        "unfreeze": Leaf("accounts.profile:unfreeze", "Let a frozen account pay and be paid."),
        "close": Leaf("accounts.profile:close", "Close an empty account for ever."),
    },
    "Open accounts, show what they hold and what moved it, freeze and close them.",
)
PAYMENTS = Branch(
    {
        "authorize": Leaf(
            "payments.authorize:authorize", "Pay an account or a restaurant, or hold the amount."
        ),
        "capture": Leaf("payments.operations:capture", "Move what is held to the payee."),
        "void": Leaf("payments.operations:void", "Release what is held."),
        "refund": Leaf("payments.operations:refund", "Move what was captured back to the payer."),
        "reverse": Leaf(
            "payments.operations:reverse", "Undo a payment: release and refund, or neither."
        ),
        "show": Leaf("payments.show:show", "Show a payment with its operations and entries."),
        "list": Leaf("payments.show:list_payments", "List the payments of a payer or a payee."),
        "import": Leaf("payments.import_file:import_file", "Carry out the transfers of a file."),
    },
    "Pay from accounts, hold, capture, release and refund, show payments.",
)
EVENTS = Branch(
    {
        "list": Leaf("events.event_list:list_events", "List events, the latest first."),
        "show": Leaf("events.event_list:show", "Show an event with the entries that it posted."),
        "find": Leaf(
            "events.event_list:find", "Show what happened to a payment, and who was paid for it."
        ),
        "preview": Leaf("events.preview:preview", "Show what the events of a file would post."),
    },
    "Show what is booked, what it posted or would post, and which payout took it.",
)
QUARANTINE = Branch(
    {
        "list": Leaf(
            "quarantine.payload_list:list_payloads", "List what could not be booked, latest first."
        ),
        "show": Leaf(
            "quarantine.show:show", "Show a payload with its headers, its moves and its body."
        ),
        "retry": Leaf("quarantine.retry:retry", "Have a gateway try payloads again."),
        "discard": Leaf("quarantine.discard:discard", "End payloads that will not be booked."),
    },
    "Show deliveries that a gateway could not book, try them again, or discard them.",
)
REPORT = Branch(
    {
        "q1": Leaf("report:q1", "The balances of every restaurant in a currency."),
        "q2": Leaf("report:q2", "The restaurants with the highest net revenue of seven days."),
        "q3": Leaf("report:q3", "What a payout run would pay each restaurant, or why not."),
        "q4": Leaf("report:q4", "What is wrong with the books, errors first."),
        "accounts": Leaf("report:accounts", "What every account in a currency holds."),
        "payouts": Leaf(
            "report:payouts", "The payouts of a restaurant, with what each consists of."
        ),
        "red": Leaf("report:red", "The restaurants in the red: how much, since when, by what."),
        "calls": Leaf("report:calls", "Who called what: the call log."),
        "trial-balance": Leaf(
            "accounting.trial_balance:trial_balance",
            "Debits, credits and balances of every ledger account in a period.",
        ),
        "journal": Leaf(
            "accounting.journal:journal",
            "Every ledger entry of a period; also for Beancount and hledger.",
        ),
    },
    "Query the books: balances, debts, revenue, what is wrong; trial balance and journal.",
    needs=Needs.DATABASE,
)
ARCHIVE = Branch(
    {
        "run": Leaf("archive:run_archive", "Move old rows out of the database into files."),
        "list": Leaf("archive:list_archived", "List what was archived, by range."),
        "verify": Leaf("archive:verify_archives", "Compare archives with their manifests."),
    },
    "Move old rows out of the database into files, and verify the files.",
    needs=Needs.DATABASE,
)
SEALS = Branch(
    {"head": Leaf("seals:head", "Show the head of the chain, now or at an instant.")},
    "Show the head of the chain of seals.",
    needs=Needs.DATABASE,
)
GATEWAY = Branch(
    {
        "serve": Leaf("gateway.command:serve", "Take posts until stopped; also without this word."),
        "check": Leaf(
            "gateway.check:check",
            "Show what stored payloads would become, or check the file.",
            needs=Needs.NOTHING,
        ),
        "replay": Leaf(
            "gateway.replay:replay", "Book deliveries again, of the quarantine or from files."
        ),
        "init": Leaf("gateway.file:init", "Print an example of the file.", needs=Needs.NOTHING),
        "schema": Leaf(
            "gateway.file:schema", "Print the JSON Schema of the file.", needs=Needs.NOTHING
        ),
    },
    "Take the webhooks of payment processors and book what they report.",
    default="serve",
)
COMMANDS: dict[str, Leaf | Branch] = {
    "serve": Leaf("serve.command:serve", "Run the server.", needs=Needs.DATABASE),
    "serve-worker": Leaf(
        "serve.worker:serve_worker",
        "Run a worker of `ledger serve`, which calls this.",
        hidden=True,
        needs=Needs.DATABASE,
    ),
    "migrate": Leaf(
        "migrate:migrate", "Bring the database to the newest schema.", needs=Needs.DATABASE
    ),
    "gateway": GATEWAY,
    "quarantine": QUARANTINE,
    "ingest": Leaf("ingest.command:ingest", "Book the events of a file."),
    "reconcile": Leaf(
        "reconcile.command:reconcile_report", "Compare a processor's report with the books."
    ),
    "events": EVENTS,
    "balance": Leaf("balance:balance", "Show what a restaurant has in a currency."),
    "balances": Leaf("balances:balances", "List what the restaurants have in a currency."),
    "maturities": Leaf("balances:maturities", "List what becomes available on which day."),
    "statement": Leaf("statement:statement", "Show what moved a restaurant's balance."),
    "restaurants": RESTAURANTS,
    "payouts": PAYOUTS,
    "accounts": ACCOUNTS,
    "payments": PAYMENTS,
    "transfer": Leaf("payments.authorize:transfer", "Pay from one account to another at once."),
    "doctor": Leaf(
        "doctor:doctor", "Check whether the database is fit for a server.", needs=Needs.DATABASE
    ),
    "verify": Leaf(
        "verify:verify", "Audit the books, or the chain of seals.", needs=Needs.DATABASE
    ),
    "seals": SEALS,
    "report": REPORT,
    "archive": ARCHIVE,
    "settings": Leaf(
        "settings_shown:settings",
        "Show the settings in force, and where they come from.",
        needs=Needs.NOTHING,
    ),
    "token": Leaf("token:token", "Make a token for a caller.", needs=Needs.NOTHING),
    "demo": Leaf(
        "demo.command:demo",
        "Show the service at work, on a temporary server.",
        needs=Needs.DATABASE,
    ),
    "completion": Leaf(
        "completion:completion",
        "Print the script by which a shell completes this command.",
        needs=Needs.NOTHING,
    ),
}


def _names_of(needs: Needs) -> str:
    """The commands that need it, in words: "settings, token and completion"."""
    *names, last = names_that_need(needs)
    return f"{', '.join(names)} and {last}"


def names_that_need(needs: Needs) -> list[str]:
    """The commands that need it: those of the first level, and others that differ from theirs."""
    names: list[str] = []
    for name, entry in COMMANDS.items():
        if entry.needs is needs:
            names += [] if entry.hidden else [name]
        elif isinstance(entry, Branch):
            names += [
                f"{name} {inner}"
                for inner, leaf in entry.entries.items()
                if leaf.needs is needs is Needs.NOTHING and not leaf.hidden
            ]
    return names


WHAT_COMMANDS_NEED = (
    f"{_names_of(Needs.DATABASE)} open the database. {_names_of(Needs.NOTHING)} need neither a"
    " database nor a server. Every other command calls the server at LEDGER_GRPC_ADDRESS, or at"
    " --address."
)
HELP = f"""
A double-entry ledger for marketplaces that collect card payments for restaurants.

{textwrap.fill(WHAT_COMMANDS_NEED, 78)}

Settings are environment variables that begin with LEDGER_, or lines of a file
.env; `ledger settings` shows the settings in force.

Exit status: 0 done; 1 refused, or the books are broken; 2 a bad command line,
setting or file; 3 no response; 4 a payment was declined; 130 interrupted.
"""


def _package_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"ledger {version('ledger-service')}")
        ctx.exit()


@click.group(
    "ledger",
    cls=LazyGroup,
    entries=COMMANDS,
    help=HELP.replace("\n\n", "\n\n\b\n"),
    context_settings=CONTEXT,
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_package_version,
    help="Show the version.",
)
@address_option
@click.option(
    "--tls-ca",
    type=FileName(),
    metavar="FILE",
    help="Call with TLS: the authority that issued the server's certificate, in PEM.",
)
@click.option(
    "--tls-cert", type=FileName(), metavar="FILE", help="The certificate chain to show, in PEM."
)
@click.option("--tls-key", type=FileName(), metavar="FILE", help="The key of that certificate.")
@click.option(
    "--token-file",
    type=FileName(),
    metavar="FILE",
    help="A file that holds the token to send, and nothing else.",
)
def root(
    address: str | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
) -> None:
    take_options(
        grpc_address=address,
        client_tls_ca_file=tls_ca,
        client_tls_certificate_file=tls_cert,
        client_tls_key_file=tls_key,
        client_token_file=token_file,
    )


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that `arguments` name and returns its exit status.

    `arguments` are by default those of the process.
    """
    try:
        return _status_of(arguments)
    except BrokenPipeError:
        # The reader of the output has closed it, as `head` does once it has read enough.
        return ExitStatus.REFUSED
    except OutputLost as error:
        report("error", [f"the output could not be written: {error.strerror}"])
        return ExitStatus.REFUSED


def _status_of(arguments: Sequence[str] | None) -> int:
    try:
        if (status := complete_for_shell(root)) is not None:
            return status
        with root.make_context(
            "ledger", list(sys.argv[1:] if arguments is None else arguments)
        ) as context:
            root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return ExitStatus.USAGE
    except click.UsageError as error:
        report("error", _usage_lines(error))
        return ExitStatus.USAGE
    except CommandFailure as failure:
        report("error", failure.lines)
        return failure.exit_status
    except (BrokenPipeError, OutputLost):
        raise
    except KeyboardInterrupt:
        return ExitStatus.INTERRUPTED
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ledger":
            return _report_defect(error)
        report("error", [missing_package(error.name)])
        return ExitStatus.REFUSED
    except Exception as error:  # noqa: BLE001  # the outermost edge
        return _report_defect(error)
    return ExitStatus.DONE


def _usage_lines(error: click.UsageError) -> list[str]:
    """Lines that name the option or argument, say what is wrong, and where to read more."""
    message = error.format_message()
    if isinstance(error, click.MissingParameter):
        # click puts each possible value on a separate line.
        message = " ".join(message.split())
    if (
        isinstance(error, click.BadParameter)
        and error.param is not None
        and not isinstance(error, click.MissingParameter)
    ):
        name = (
            error.param.opts[0]
            if isinstance(error.param, click.Option)
            else error.param.human_readable_name
        )
        message = f"{name} {error.message}"
    path = error.ctx.command_path if error.ctx is not None else "ledger"
    is_like_an_id = isinstance(error, click.NoSuchOption) and not error.option_name.startswith("--")
    return [
        f"{message[:1].lower()}{message[1:]}"
        if message[:1].isupper() and message[1:2].islower()
        else message,
        *(
            ["write a value that begins with - after --, behind all options"]
            if is_like_an_id
            else []
        ),
        f"see `{path} --help`",
    ]


def _report_defect(error: Exception) -> int:
    """Reports an unexpected error. Logs its traceback only at the level debug."""
    report(
        "error",
        [
            f"unexpected {type(error).__name__}: {error}",
            "LEDGER_LOG_LEVEL=debug shows where it happened",
        ],
    )
    import structlog

    from ledger.cli.configuration import load_settings
    from ledger.observability import configure_logging
    from ledger.settings import LogLevel

    try:
        settings = load_settings()
    except CommandFailure:
        return ExitStatus.REFUSED
    if settings.log_level is LogLevel.DEBUG:
        configure_logging(settings.log_format, settings.log_level)
        structlog.get_logger("ledger.cli").debug("unexpected exception", exc_info=error)
    return ExitStatus.REFUSED
