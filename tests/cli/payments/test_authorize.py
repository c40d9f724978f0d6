"""`ledger payments authorize` and `ledger transfer` against a server."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from support.commands import Outcome, run_command, table_cells
from support.events import event_message, unique
from support.paying import funded_account, funds, opened_account
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus


async def called(ledger: RunningLedger, *arguments: str) -> Outcome:
    return await run_command(*arguments, "--address", ledger.address)


async def test_transfer_moves_the_amount_once(shared_ledger: RunningLedger) -> None:
    """The same command again shows the first decision and moves nothing."""
    payer, payee = await funded_account(shared_ledger, 10_000), await opened_account(shared_ledger)
    payment_id = unique("pay")
    command = ("transfer", payment_id, payer, payee, "12.50", "PEN")
    first = await called(shared_ledger, *command)
    assert (first.status, first.stderr) == (0, "")
    assert first.stdout.splitlines()[0] == f"captured: payment {payment_id}"
    rows = dict(table_cells(first.stdout))
    assert (rows["from"], rows["to"], rows["amount"]) == (payer, payee, "12.50 PEN")
    assert (rows["state"], rows["captured"], rows["held"]) == ("captured", "12.50", "0.00")
    again = await called(shared_ledger, *command)
    assert again.status == 0
    assert (
        again.stdout.splitlines()[0] == f"duplicate: payment {payment_id}, as it was first answered"
    )
    assert table_cells(again.stdout) == table_cells(first.stdout)
    assert await funds(shared_ledger, payer) == (8_750, 0)
    assert await funds(shared_ledger, payee) == (1_250, 0)


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
async def test_decline_has_its_reason_and_its_exit_status(
    shared_ledger: RunningLedger, form: tuple[str, ...]
) -> None:
    """One line on standard error; the decision is on standard output. A repeat ends the same."""
    payer, payee = await funded_account(shared_ledger, 1_000), await opened_account(shared_ledger)
    command = ("transfer", unique("pay"), payer, payee, "10.01", "PEN", *form)
    first = await called(shared_ledger, *command)
    assert first.status == ExitStatus.DECLINED
    assert first.stderr == (
        "declined: insufficient_funds: the account that would pay has too little, its overdraft"
        " included\n"
    )
    if form:
        answer = json.loads(first.stdout)
        assert (answer["status"], answer["payment"]["state"]) == ("declined", "declined")
        assert answer["payment"]["decline_reason"] == "insufficient_funds"
    else:
        rows = dict(table_cells(first.stdout))
        assert rows["state"] == "declined"
        assert rows["reason"].startswith("insufficient_funds: ")
        assert "held" not in rows
    again = await called(shared_ledger, *command)
    assert (again.status, again.stderr) == (first.status, first.stderr)
    assert "duplicate" in again.stdout
    assert await funds(shared_ledger, payer) == (1_000, 0)


async def test_hold_keeps_all_that_was_given(shared_ledger: RunningLedger) -> None:
    """Its expiry, reference and metadata; its amounts in both forms."""
    payer, payee = await funded_account(shared_ledger, 10_000), await opened_account(shared_ledger)
    expires_at = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
    outcome = await called(
        shared_ledger,
        *("payments", "authorize", unique("pay"), "--payer", payer, "--payee", payee),
        *("--amount", "20", "--currency", "PEN", "--manual", "--reference", "table 4"),
        *("--expires-at", expires_at.isoformat(), "--metadata", "waiter=Ana", "--json"),
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    answer = json.loads(outcome.stdout)
    assert answer["status"] == "authorized"
    payment = answer["payment"]
    assert payment["expires_at"] == expires_at.isoformat().replace("+00:00", "Z")
    assert (payment["held_minor"], payment["held"]) == ("2000", "20.00")
    assert (payment["reference"], payment["metadata"]) == ("table 4", {"waiter": "Ana"})
    assert (payment["capture"], payment["payee_restaurant_id"]) == ("manual", None)
    assert await funds(shared_ledger, payer) == (8_000, 2_000)


async def test_payment_that_expires_in_a_time_may_be_repeated(
    shared_ledger: RunningLedger,
) -> None:
    """The repeat has the first call's instant; with anything else changed it is refused."""
    payer, payee = await funded_account(shared_ledger, 10_000), await opened_account(shared_ledger)

    async def authorized(amount: str) -> Outcome:
        return await called(
            shared_ledger,
            *("payments", "authorize", payment_id, "--payer", payer, "--payee", payee),
            *("--amount", amount, "--currency", "PEN", "--manual", "--expires-in", "7d", "--json"),
        )

    payment_id = unique("pay")
    first, again = await authorized("5.00"), await authorized("5.00")
    assert (first.status, again.status) == (0, 0)
    payment = json.loads(first.stdout)["payment"]
    assert json.loads(again.stdout) == {"status": "duplicate", "payment": payment}
    left = datetime.fromisoformat(payment["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=6) < left < timedelta(days=8)
    other = await authorized("6.00")
    assert other.status == ExitStatus.REFUSED
    assert "ALREADY_EXISTS PAYMENT_ID_REUSED" in other.stderr


async def test_restaurant_is_paid_with_a_fee(shared_ledger: RunningLedger) -> None:
    """What it gets is in its books as a charge is: pending until it matures."""
    payer, restaurant_id = await funded_account(shared_ledger, 10_000), unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id, amount_minor=100))
    outcome = await called(
        shared_ledger,
        *("payments", "authorize", unique("pay"), "--payer", payer, "--restaurant", restaurant_id),
        *("--amount", "40.00", "--currency", "PEN", "--fee", "2.00"),
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    rows = dict(table_cells(outcome.stdout))
    assert (rows["to"], rows["fee"]) == (f"restaurant {restaurant_id}", "2.00")
    balance = await shared_ledger.balance(restaurant_id)
    assert (balance.available_minor, balance.pending_minor) == (100, 3_800)


@pytest.mark.parametrize(
    ("account", "reason"), [("nobody", "ACCOUNT_NOT_FOUND"), ("a b", "INVALID_REQUEST")]
)
async def test_refusals_of_the_server_are_reported(
    shared_ledger: RunningLedger, account: str, reason: str
) -> None:
    """They are errors, and no declines: nothing is stored."""
    payer = await funded_account(shared_ledger, 1_000)
    outcome = await called(shared_ledger, "transfer", unique("pay"), payer, account, "1.00", "PEN")
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert outcome.stderr.startswith("error: ")
    assert reason in outcome.stderr


@pytest.mark.parametrize(
    ("amount", "currency", "says"),
    [
        ("10.00", "pen", "AMOUNT is in 'pen': currencies are in upper case (it is '10.00')"),
        ("0.00", "PEN", "AMOUNT must be more than 0"),
    ],
)
async def test_amount_says_what_is_wrong(amount: str, currency: str, says: str) -> None:
    """In the words of the command line, before any call."""
    outcome = await run_command("transfer", "pay_1", "a", "b", amount, currency)
    assert (outcome.status, outcome.stderr) == (ExitStatus.USAGE, f"error: {says}\n")


AUTHORIZE = ("payments", "authorize", "pay_1", "--payer", "a", "--currency", "PEN")


@pytest.mark.parametrize(
    "arguments",
    [
        (*AUTHORIZE, "--payee", "b", "--amount", "1.0"),
        (*AUTHORIZE, "--payee", "b", "--amount", "1,00"),
        (*AUTHORIZE, "--payee", "b", "--amount", "1.00", "--fee", "x"),
        (*AUTHORIZE, "--payee", "b", "--amount", "1.00", "--expires-in", "7"),
        (*AUTHORIZE, "--payee", "b", "--amount", "1.00", "--expires-at", "soon"),
        (*AUTHORIZE, "--payee", "b", "--amount", "1.00", "--metadata", "x"),
        ("transfer", "pay_1", "a", "b", "1250", "XNW"),
        ("transfer", "pay_1", "a", "b", "-1.00", "PEN"),
        ("transfer", "pay_1", "a", "b", "1.00"),
    ],
    ids=" ".join,
)
async def test_bad_usage_is_reported_before_any_call(arguments: tuple[str, ...]) -> None:
    """Status 2; there is no server here."""
    outcome = await run_command(*arguments)
    assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "say who is paid: --payee or --restaurant"),
        (("--payee", "b", "--restaurant", "res_1"), "give one of --payee and --restaurant"),
        (
            ("--payee", "b", "--expires-in", "1h", "--expires-at", "2030-01-01"),
            "--expires-in and --expires-at exclude each other",
        ),
        (("--payee", "b", "--expires-in", "1h"), "--expires-in goes with --manual"),
        (("--payee", "b", "--expires-at", "2030-01-01"), "--expires-at goes with --manual"),
        (("--payee", "b", "--fee", "0.10"), "--fee goes with --restaurant"),
    ],
)
async def test_options_that_do_not_go_together_are_named(
    options: tuple[str, ...], says: str
) -> None:
    """As they were typed, before any call."""
    outcome = await run_command(*AUTHORIZE, "--amount", "1.00", *options)
    assert (outcome.status, outcome.stderr) == (ExitStatus.USAGE, f"error: {says}\n")
