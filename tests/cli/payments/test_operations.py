"""`ledger payments capture`, `void`, `refund` and `reverse` against a server."""

import json
import re
from typing import Any

import pytest
from support.commands import Outcome, run_command, table_cells
from support.events import unique
from support.paying import MANUAL, funded_account, funds, opened_account, order
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.cli.payments import operations


async def operated(ledger: RunningLedger, *arguments: str) -> Outcome:
    return await run_command("payments", *arguments, "--address", ledger.address)


async def answered(ledger: RunningLedger, *arguments: str) -> dict[str, Any]:
    """The answer to an operation that was carried out."""
    outcome = await operated(ledger, *arguments, "--json")
    assert (outcome.status, outcome.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(outcome.stdout)
    return answer


async def held(ledger: RunningLedger, amount_minor: int = 3_000) -> tuple[str, str, str]:
    """A payer with 100.00 PEN, a payee, and a payment of which the amount is held; their ids."""
    payer, payee = await funded_account(ledger, 10_000), await opened_account(ledger)
    payment_id = unique("pay")
    await ledger.payments.AuthorizePayment(
        order(payment_id, payer, payee, amount_minor, capture=MANUAL)
    )
    return payer, payee, payment_id


async def test_hold_is_captured_in_parts(shared_ledger: RunningLedger) -> None:
    """A part, then a last part that releases the rest."""
    payer, payee, payment_id = await held(shared_ledger)
    first = await answered(shared_ledger, "capture", payment_id, "--amount", "12.50")
    assert first["operation"]["amount"] == "12.50"
    assert (first["payment"]["state"], first["payment"]["held"]) == ("partially_captured", "17.50")
    last = await answered(shared_ledger, "capture", payment_id, "--amount", "10.00", "--final")
    assert (last["operation"]["is_final"], last["operation"]["released"]) == (True, "7.50")
    assert (last["payment"]["state"], last["payment"]["captured"]) == ("captured", "22.50")
    assert await funds(shared_ledger, payer) == (7_750, 0)
    assert await funds(shared_ledger, payee) == (2_250, 0)


async def test_operation_without_an_amount_takes_all(shared_ledger: RunningLedger) -> None:
    """All that is held is captured, and all that was captured is refunded."""
    payer, _, payment_id = await held(shared_ledger)
    assert (await answered(shared_ledger, "capture", payment_id))["operation"]["amount"] == "30.00"
    assert (await answered(shared_ledger, "refund", payment_id))["operation"]["amount"] == "30.00"
    assert await funds(shared_ledger, payer) == (10_000, 0)


async def test_void_releases_what_is_held(shared_ledger: RunningLedger) -> None:
    """The payer has it available again."""
    payer, _, payment_id = await held(shared_ledger)
    outcome = await operated(shared_ledger, "void", payment_id)
    assert (outcome.status, outcome.stderr) == (0, "")
    operation_id = outcome.stdout.splitlines()[0].removeprefix("applied: operation ")
    assert re.fullmatch(r"cli\.[0-9a-f-]{36}", operation_id)
    rows = dict(table_cells(outcome.stdout))
    assert (rows["operation id"], rows["released"], rows["state"]) == (
        operation_id,
        "30.00",
        "voided",
    )
    assert await funds(shared_ledger, payer) == (10_000, 0)


async def test_reverse_releases_and_refunds_in_one_step(shared_ledger: RunningLedger) -> None:
    """Both, of a payment that was captured in part."""
    payer, payee, payment_id = await held(shared_ledger)
    await answered(shared_ledger, "capture", payment_id, "--amount", "10.00")
    answer = await answered(shared_ledger, "reverse", payment_id)
    operation = answer["operation"]
    assert (operation["kind"], operation["amount"], operation["released"]) == (
        "reverse",
        "10.00",
        "20.00",
    )
    assert await funds(shared_ledger, payer) == (10_000, 0)
    assert await funds(shared_ledger, payee) == (0, 0)


@pytest.mark.parametrize("command", ["capture", "void", "refund", "reverse"])
async def test_repeat_with_the_operation_id_does_nothing(
    shared_ledger: RunningLedger, command: str
) -> None:
    """It shows the first answer. Without the option the same command is another operation."""
    payer, _, payment_id = await held(shared_ledger)
    if command in ("refund", "reverse"):
        await answered(shared_ledger, "capture", payment_id)
    first = await answered(shared_ledger, command, payment_id)
    after = await funds(shared_ledger, payer)
    operation_id = first["operation"]["operation_id"]
    again = await answered(shared_ledger, command, payment_id, "--operation-id", operation_id)
    assert again == first | {"status": "duplicate"}
    other = await operated(shared_ledger, command, payment_id)
    assert other.status == ExitStatus.DECLINED
    assert await funds(shared_ledger, payer) == after


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("capture", "--amount", "30.01"), "amount_exceeds_authorized: less is held"),
        (("refund",), "payment_not_refundable: nothing was captured, or all is refunded"),
    ],
)
async def test_declined_operation_has_its_reason_and_its_exit_status(
    shared_ledger: RunningLedger, arguments: tuple[str, ...], reason: str
) -> None:
    """On standard error; what was asked is on standard output."""
    _, _, payment_id = await held(shared_ledger)
    command, *options = arguments
    outcome = await operated(shared_ledger, command, payment_id, *options)
    assert (outcome.status, outcome.stderr) == (ExitStatus.DECLINED, f"declined: {reason}\n")
    assert outcome.stdout.startswith("declined: operation cli.")
    rows = table_cells(outcome.stdout)
    assert ["reason", reason] in rows
    assert ["state", "authorized"] in rows


async def test_refusals_of_the_server_are_reported(shared_ledger: RunningLedger) -> None:
    """An unknown payment, also where its currency is looked up, and an id that is taken."""
    for arguments in (("void", "none"), ("capture", "none", "--amount", "1.00")):
        outcome = await operated(shared_ledger, *arguments)
        assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
        assert "NOT_FOUND PAYMENT_NOT_FOUND" in outcome.stderr
    _, _, payment_id = await held(shared_ledger)
    first = await answered(shared_ledger, "capture", payment_id, "--amount", "1.00")
    taken = first["operation"]["operation_id"]
    outcome = await operated(shared_ledger, "void", payment_id, "--operation-id", taken)
    assert outcome.status == ExitStatus.REFUSED
    assert "ALREADY_EXISTS OPERATION_ID_REUSED" in outcome.stderr


@pytest.mark.parametrize("amount", ["0.00", "1.5", "-1.00", "x"])
async def test_amount_that_is_none_is_a_usage_error(
    shared_ledger: RunningLedger, amount: str
) -> None:
    """Nothing is captured: 0 in the contract would mean all."""
    payer, _, payment_id = await held(shared_ledger)
    outcome = await operated(shared_ledger, "capture", payment_id, "--amount", amount)
    assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")
    assert outcome.stderr.startswith("error: --amount must be ")
    assert await funds(shared_ledger, payer) == (7_000, 3_000)


async def test_operation_without_an_answer_can_be_repeated() -> None:
    """The error names its id."""
    outcome = await run_command("payments", "void", "pay_1", "--address", "127.0.0.1:1")
    assert outcome.status == ExitStatus.UNREACHABLE
    assert re.search(
        r"^  it may have been carried out: repeat it with --operation-id cli\.[0-9a-f-]{36}$",
        outcome.stderr,
        re.MULTILINE,
    )


async def test_interrupted_operation_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names its id."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(operations, "connect", interrupt)
    outcome = await run_command("payments", "refund", "pay_1", "--operation-id", "op_1")
    assert outcome.status == ExitStatus.INTERRUPTED
    assert outcome.stderr.splitlines() == [
        "error: interrupted",
        "  it may have been carried out: repeat it with --operation-id op_1",
    ]
