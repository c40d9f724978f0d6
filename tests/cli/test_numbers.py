"""Numbers and amounts on the command line: an ambiguous amount is refused."""

from importlib import import_module

import click
import pytest
from support.commands import run_command
from support.events import event_message
from support.running import RunningLedger

from ledger.cli.app import COMMANDS, root
from ledger.cli.command_tree import every_command
from ledger.cli.failures import CommandFailure, ExitStatus
from ledger.cli.parameters import Seconds, WholeNumber
from ledger.cli.payouts.run import minimum_of
from ledger.domain.money import INT64_MAX

AS_OF = ("--as-of", "2026-01-31")
NO_NUMBERS = ["10.00", "1_0", "1e3", "+1", "-1", " 1", "1 ", "0x10", "١", "1,000", "", "１"]


def numeric_options() -> list[tuple[tuple[str, ...], click.Parameter]]:
    """Every option of every command that takes a number."""
    found: list[tuple[tuple[str, ...], click.Parameter]] = [
        ((), parameter) for parameter in root.params
    ]
    for path, leaf in every_command(COMMANDS):
        module, _, function = leaf.function.partition(":")
        found += [
            (path, parameter)
            for parameter in getattr(import_module(f"ledger.cli.{module}"), function).params
        ]
    return [
        (path, option)
        for path, option in found
        if not isinstance(option.type, click.types.StringParamType)
    ]


def test_no_number_has_a_type_of_the_library() -> None:
    """The types of the library read 1_0 as 10, and ١ as 1."""
    found = numeric_options()
    assert any(isinstance(option.type, WholeNumber) for _, option in found)
    for path, option in found:
        assert not isinstance(option.type, click.types.IntParamType | click.types.FloatParamType), (
            path,
            option.name,
        )


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_whole_number_is_digits(text: str) -> None:
    """The digits 0 to 9 and nothing else."""
    with pytest.raises(click.BadParameter, match="must be a whole number, in the digits 0 to 9"):
        WholeNumber().convert(text, None, None)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("007", 7), (str(INT64_MAX), INT64_MAX)])
def test_whole_number_is_read(text: str, number: int) -> None:
    """Up to what 64 bits hold."""
    assert WholeNumber().convert(text, None, None) == number


@pytest.mark.parametrize("text", [str(INT64_MAX + 1), "1" * 5000])
def test_number_beyond_its_range_is_reported(text: str) -> None:
    """However long it is."""
    with pytest.raises(click.BadParameter, match="must be 0 to 9223372036854775807"):
        WholeNumber().convert(text, None, None)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e3", "1_0", "", ".5", "1."])
def test_seconds_are_digits_with_a_point(text: str) -> None:
    """No other text that Python reads as a float."""
    with pytest.raises(click.BadParameter, match="must be a number of seconds"):
        Seconds().convert(text, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("payouts", "run", "USD", *AS_OF, "--min-amount-minor"),
        ("report", "q3", "USD", "--min-amount-minor"),
        ("restaurants", "put", "res_1", "--maturity-days"),
        ("restaurants", "update", "res_1", "--maturity-days"),
        ("ingest", "-", "--batch-size"),
        ("ingest", "-", "--errors"),
        ("serve", "--workers"),
    ],
    ids=" ".join,
)
async def test_every_numeric_option_refuses_other_numbers(arguments: tuple[str, ...]) -> None:
    """Status 2, before any call."""
    for text in ("10.00", "1_0"):
        outcome = await run_command(*arguments, text)
        assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")
        assert outcome.stderr.startswith(f"error: {arguments[-1]} must be ")


@pytest.mark.parametrize(
    ("currency", "given", "amount_minor"),
    [
        ("USD", {"amount": "10.00"}, 1000),
        ("USD", {"amount": "10"}, 1000),
        ("JPY", {"amount": "1000"}, 1000),
        ("KWD", {"amount": "1.500"}, 1500),
        ("USD", {"amount_minor": 1000}, 1000),
        ("XNW", {"amount_minor": 1000}, 1000),
        ("USD", {"old": "1000"}, 1000),
        ("USD", {}, 0),
    ],
)
def test_minimum_has_whole_or_minor_units(
    currency: str, given: dict[str, str | int], amount_minor: int
) -> None:
    """In whole units with the currency's decimals, or in minor units: each says which."""
    values = {"amount": None, "amount_minor": None} | given
    assert minimum_of(currency, **values) == amount_minor  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("currency", "given", "says"),
    [
        ("USD", {"amount": "10.0"}, "--min-amount must be an amount in USD such as 12.00 or 12"),
        ("USD", {"amount": "1,000.00"}, "--min-amount must be an amount in USD"),
        ("USD", {"amount": "-1"}, "--min-amount must be an amount in USD"),
        ("JPY", {"amount": "10.00"}, "--min-amount must be an amount in JPY such as 12"),
        ("XNW", {"amount": "10"}, "--min-amount is in 'XNW'"),
        ("USD", {"amount": "10", "amount_minor": 1000}, "give one minimum"),
        ("USD", {"old": "10.00"}, "--min takes minor units, which '10.00' is not"),
        ("USD", {"old": "1_0"}, "--min takes minor units"),
    ],
)
def test_ambiguous_minimum_is_refused(
    currency: str, given: dict[str, str | int], says: str
) -> None:
    """With a sentence that names the option to use."""
    values = {"amount": None, "amount_minor": None} | given
    with pytest.raises(CommandFailure) as caught:
        minimum_of(currency, **values)  # type: ignore[arg-type]
    assert caught.value.lines[0].startswith(says)
    assert caught.value.exit_status is ExitStatus.USAGE


async def test_minimum_reaches_the_run(ledger: RunningLedger) -> None:
    """Ten whole units are ten. The old --min takes minor units, and prints their value."""
    await ledger.ingest(
        event_message(restaurant_id="res_1", currency="USD", amount_minor=999),
        event_message(restaurant_id="res_2", currency="USD", amount_minor=1000),
    )
    run = ("payouts", "run", "USD", *AS_OF, "--dry-run", "--address", ledger.address)
    for option in (("--min-amount", "10.00"), ("--min-amount-minor", "1000")):
        outcome = await run_command(*run, *option)
        assert (outcome.status, outcome.stderr) == (0, "")
        assert "10.00 USD" in outcome.stdout
        assert "1 below_minimum" in outcome.stdout
    outcome = await run_command(*run, "--min", "1000")
    assert outcome.status == 0
    assert (
        outcome.stderr
        == "warning: --min 1000 is 10.00 USD; better give --min-amount or --min-amount-minor\n"
    )
    assert "1 below_minimum" in outcome.stdout
