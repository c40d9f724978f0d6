"""`ledger payments show` and `list` against a server."""

import json

import pytest
from support.commands import run_command, table_cells
from support.events import event_message, unique
from support.paying import MANUAL, funded_account, opened_account, order
from support.running import RunningLedger

from ledger.cli.failures import ExitStatus
from ledger.client import sync_pages
from ledger.v1 import payment_pb2


async def test_payment_is_shown_with_its_operations_and_entries(
    shared_ledger: RunningLedger,
) -> None:
    """As it stands, with what was done with it and what each step posted in whose books."""
    payer, payee = await funded_account(shared_ledger, 10_000), await opened_account(shared_ledger)
    payment_id = unique("pay")
    await shared_ledger.payments.AuthorizePayment(
        order(payment_id, payer, payee, 3_000, capture=MANUAL)
    )
    capture = payment_pb2.CapturePaymentRequest(
        operation_id=unique("op"), payment_id=payment_id, amount_minor=1_000, is_final=True
    )
    await shared_ledger.payments.CapturePayment(capture)
    command = ("payments", "show", payment_id, "--address", shared_ledger.address)
    outcome = await run_command(*command)
    assert (outcome.status, outcome.stderr) == (0, "")
    rows = table_cells(outcome.stdout)
    assert ["state", "captured"] in rows
    assert [row[:-1] for row in rows if row[0] == "capture"] == [
        ["capture", capture.operation_id, "10.00", "20.00", "captured", ""]
    ]
    entries = [
        [payer, "payment_hold", "account_funds", "account_held", "30.00"],
        [payer, "payment_capture", "account_held", "interaccount", "10.00"],
        [payer, "payment_release", "account_held", "account_funds", "20.00"],
        [payee, "payment", "interaccount", "account_funds", "10.00"],
    ]
    assert sorted(row[:5] for row in rows if len(row) == 6 and row[0] in (payer, payee)) == sorted(
        entries
    )
    shown = json.loads((await run_command(*command, "--json")).stdout)
    assert (shown["payment_id"], shown["captured_minor"]) == (payment_id, "1000")
    assert [operation["kind"] for operation in shown["operations"]] == ["capture"]
    fields = ("account_id", "type", "debit_account", "credit_account", "amount")
    assert sorted([entry[field] for field in fields] for entry in shown["entries"]) == sorted(
        entries
    )


async def test_declined_payment_is_shown_with_its_reason(shared_ledger: RunningLedger) -> None:
    """Showing it is no decline: the status is 0."""
    payer, payee = await opened_account(shared_ledger), await opened_account(shared_ledger)
    payment_id = unique("pay")
    await shared_ledger.payments.AuthorizePayment(order(payment_id, payer, payee, 1))
    outcome = await run_command("payments", "show", payment_id, "--address", shared_ledger.address)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert dict(table_cells(outcome.stdout))["reason"].startswith("insufficient_funds: ")


async def test_payments_of_a_holder_are_listed(
    shared_ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that it pays or that pay it, by state, the latest first, through all pages."""
    monkeypatch.setattr(sync_pages, "PAGE_SIZE_MAX", 2)
    payer, payee = await funded_account(shared_ledger, 10_000), await opened_account(shared_ledger)
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    ids = [unique("pay") for _ in range(5)]
    for payment_id in ids[:3]:
        await shared_ledger.payments.AuthorizePayment(order(payment_id, payer, payee, 100))
    await shared_ledger.payments.AuthorizePayment(order(ids[3], payer, payee, 100, capture=MANUAL))
    await shared_ledger.payments.AuthorizePayment(
        order(ids[4], payer, "", 100, payee_restaurant_id=restaurant_id)
    )

    async def listed(*options: str) -> list[str]:
        outcome = await run_command(
            "payments", "list", *options, "--json", "--address", shared_ledger.address
        )
        assert (outcome.status, outcome.stderr) == (0, "")
        return [json.loads(line)["payment_id"] for line in outcome.stdout.splitlines()]

    assert await listed("--payer", payer) == ids[::-1]
    assert await listed("--payee", payee) == ids[3::-1]
    assert await listed("--payee", payee, "--state", "AUTHORIZED") == [ids[3]]
    assert await listed("--restaurant", restaurant_id) == [ids[4]]
    outcome = await run_command(
        "payments", "list", "--payer", payer, "--address", shared_ledger.address
    )
    assert [row[0] for row in table_cells(outcome.stdout)] == ids[::-1]
    assert outcome.stdout.splitlines()[-1] == "5 payments"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("show", "none"), "NOT_FOUND PAYMENT_NOT_FOUND"),
        (("show", "a b"), "INVALID_ARGUMENT INVALID_REQUEST"),
        (("list", "--payer", "none"), "NOT_FOUND ACCOUNT_NOT_FOUND"),
        (("list", "--restaurant", "none"), "NOT_FOUND RESTAURANT_NOT_FOUND"),
    ],
)
async def test_refusals_of_the_server_are_reported(
    shared_ledger: RunningLedger, arguments: tuple[str, ...], reason: str
) -> None:
    """Status 1 with the reason."""
    outcome = await run_command("payments", *arguments, "--address", shared_ledger.address)
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert reason in outcome.stderr


@pytest.mark.parametrize(
    "options",
    [(), ("--payer", "a", "--payee", "b"), ("--payer", "a", "--state", "lost")],
    ids=" ".join,
)
async def test_bad_usage_is_reported_before_any_call(options: tuple[str, ...]) -> None:
    """Status 2; there is no server here."""
    outcome = await run_command("payments", "list", *options)
    assert (outcome.status, outcome.stdout) == (ExitStatus.USAGE, "")
