"""Commands that call a newer server, which sends enum values and currencies they do not know."""

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2
from google.type import date_pb2
from grpc import aio
from support.commands import Outcome, run_command

from ledger.cli.failures import ExitStatus
from ledger.v1 import (
    account_pb2,
    account_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    payment_pb2,
    payment_pb2_grpc,
)

UNKNOWN: Any = 97
CURRENCY = "XNW"
INSTANT = Timestamp(seconds=1_700_000_000)
DAY = date_pb2.Date(year=2026, month=1, day=31)
AMOUNT_MINOR = 9_007_199_254_740_993
RUN = ledger_pb2.PayoutRun(
    payout_run_id="run_1",
    currency=CURRENCY,
    as_of=DAY,
    cutoff_at=INSTANT,
    state=UNKNOWN,
    total_amount_minor=AMOUNT_MINOR,
    skipped=[ledger_pb2.SkippedCount(reason=UNKNOWN, count=3)],
    created_at=INSTANT,
    finished_at=INSTANT,
)
PAYOUT = ledger_pb2.Payout(
    payout_id="payout_1",
    payout_run_id="run_1",
    restaurant_id="res_1",
    currency=CURRENCY,
    amount_minor=AMOUNT_MINOR,
    as_of=DAY,
    cutoff_at=INSTANT,
    state=UNKNOWN,
    created_at=INSTANT,
    transaction_id="7",
    items=[ledger_pb2.PayoutItem(type=UNKNOWN, amount_minor=AMOUNT_MINOR)],
    history=[ledger_pb2.PayoutMove(state=UNKNOWN, recorded_at=INSTANT, transaction_id="7")],
)


PAYMENT = payment_pb2.Payment(
    payment_id="pay_1",
    payer_account_id="acc_1",
    currency=CURRENCY,
    amount_minor=AMOUNT_MINOR,
    held_minor=AMOUNT_MINOR,
    capture=UNKNOWN,
    state=UNKNOWN,
    created_at=INSTANT,
)
OPERATION = payment_pb2.PaymentOperation(
    operation_id="op_1", kind=UNKNOWN, amount_minor=AMOUNT_MINOR, state=UNKNOWN, created_at=INSTANT
)
ACCOUNT = account_pb2.Account(
    account_id="acc_1",
    currency=CURRENCY,
    overdraft=account_pb2.Overdraft(limit_minor=AMOUNT_MINOR),
    state=UNKNOWN,
    created_at=INSTANT,
    updated_at=INSTANT,
)
FUNDS_ENTRY = ledger_pb2.LedgerEntry(
    type=UNKNOWN,
    debit_account=UNKNOWN,
    credit_account=ledger_pb2.LEDGER_ACCOUNT_ACCOUNT_FUNDS,
    amount_minor=AMOUNT_MINOR,
    currency=CURRENCY,
    payment_id="pay_1",
    recorded_at=INSTANT,
)


class NewerAccounts(account_pb2_grpc.AccountServiceServicer):
    """The same for accounts."""

    async def CreateAccount(self, request: Any, context: Any) -> Any:
        return account_pb2.CreateAccountResponse(status=UNKNOWN, account=ACCOUNT)

    async def UpdateAccount(self, request: Any, context: Any) -> Any:
        return account_pb2.UpdateAccountResponse(account=ACCOUNT)

    async def GetAccount(self, request: Any, context: Any) -> Any:
        return account_pb2.GetAccountResponse(account=ACCOUNT)

    async def ListAccounts(self, request: Any, context: Any) -> Any:
        return account_pb2.ListAccountsResponse(accounts=[ACCOUNT])

    async def ListAccountEntries(self, request: Any, context: Any) -> Any:
        return account_pb2.ListAccountEntriesResponse(
            entries=[account_pb2.AccountEntry(entry=FUNDS_ENTRY, balance_minor=AMOUNT_MINOR)],
            closing_balance_minor=AMOUNT_MINOR,
        )


class NewerPayments(payment_pb2_grpc.PaymentServiceServicer):
    """The same for payments."""

    async def AuthorizePayment(self, request: Any, context: Any) -> Any:
        return payment_pb2.AuthorizePaymentResponse(status=UNKNOWN, payment=PAYMENT)

    async def VoidPayment(self, request: Any, context: Any) -> Any:
        return payment_pb2.VoidPaymentResponse(status=UNKNOWN, operation=OPERATION, payment=PAYMENT)

    async def RefundPayment(self, request: Any, context: Any) -> Any:
        declined = payment_pb2.PaymentOperation(
            operation_id="op_1", decline_reason=UNKNOWN, created_at=INSTANT
        )
        return payment_pb2.RefundPaymentResponse(
            status=payment_pb2.OPERATION_STATUS_DECLINED, operation=declined, payment=PAYMENT
        )

    async def GetPayment(self, request: Any, context: Any) -> Any:
        return payment_pb2.GetPaymentResponse(
            payment=PAYMENT, operations=[OPERATION], entries=[FUNDS_ENTRY]
        )

    async def ListPayments(self, request: Any, context: Any) -> Any:
        return payment_pb2.ListPaymentsResponse(payments=[PAYMENT])

    async def BatchTransfers(self, request: Any, context: Any) -> Any:
        results = [payment_pb2.PaymentResult(status=UNKNOWN) for _ in request.transfers]
        return payment_pb2.BatchTransfersResponse(results=results)


class NewerServer(ledger_pb2_grpc.LedgerServiceServicer):
    """Sends what the next version of the contract may have."""

    def __init__(self) -> None:
        self.booked: list[str] = []

    async def IngestEvent(self, request: Any, context: Any) -> ledger_pb2.IngestEventResponse:
        self.booked.append(request.event.event_id)
        return ledger_pb2.IngestEventResponse(status=UNKNOWN, transaction_id="7")

    async def StreamEvents(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            results = [
                ledger_pb2.IngestResult(status=UNKNOWN, transaction_id="7") for _ in request.events
            ]
            results[0] = ledger_pb2.IngestResult(
                error=status_pb2.Status(code=42, message="a new kind of refusal")
            )
            yield ledger_pb2.StreamEventsResponse(results=results)

    async def GetBalance(self, request: Any, context: Any) -> ledger_pb2.GetBalanceResponse:
        return ledger_pb2.GetBalanceResponse(
            restaurant_id="res_1", currency=CURRENCY, available_minor=AMOUNT_MINOR, as_of=INSTANT
        )

    async def ListEntries(self, request: Any, context: Any) -> ledger_pb2.ListEntriesResponse:
        charge = ledger_pb2.LedgerEntry(
            type=UNKNOWN,
            debit_account=UNKNOWN,
            credit_account=ledger_pb2.LEDGER_ACCOUNT_RESTAURANT_PAYABLE,
            amount_minor=AMOUNT_MINOR,
            currency=CURRENCY,
            event_id="evt_1",
            recorded_at=INSTANT,
        )
        other = ledger_pb2.LedgerEntry()
        other.CopyFrom(charge)
        other.credit_account = UNKNOWN
        return ledger_pb2.ListEntriesResponse(
            entries=[charge, other], closing_balance_minor=AMOUNT_MINOR
        )

    async def RunPayouts(self, request: Any, context: Any) -> ledger_pb2.RunPayoutsResponse:
        return ledger_pb2.RunPayoutsResponse(payout_run=RUN)

    async def GetPayoutRun(self, request: Any, context: Any) -> ledger_pb2.GetPayoutRunResponse:
        return ledger_pb2.GetPayoutRunResponse(payout_run=RUN)

    async def ListPayoutRunItems(self, request: Any, context: Any) -> Any:
        item = ledger_pb2.PayoutRunItem(restaurant_id="res_1", outcome=UNKNOWN, skip_reason=UNKNOWN)
        return ledger_pb2.ListPayoutRunItemsResponse(items=[item])

    async def GetPayout(self, request: Any, context: Any) -> ledger_pb2.GetPayoutResponse:
        return ledger_pb2.GetPayoutResponse(payout=PAYOUT)

    async def ListPayouts(self, request: Any, context: Any) -> ledger_pb2.ListPayoutsResponse:
        return ledger_pb2.ListPayoutsResponse(payouts=[PAYOUT])


@pytest.fixture
async def newer() -> AsyncIterator[tuple[NewerServer, str]]:
    """The server and its address."""
    service = NewerServer()  # type: ignore[abstract]  # the others are UNIMPLEMENTED
    server = aio.server()
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(service, server)
    accounts = NewerAccounts()  # type: ignore[abstract]
    account_pb2_grpc.add_AccountServiceServicer_to_server(accounts, server)
    payments = NewerPayments()  # type: ignore[abstract]
    payment_pb2_grpc.add_PaymentServiceServicer_to_server(payments, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service, f"127.0.0.1:{port}"
    await server.stop(None)


COMMANDS: list[tuple[str, ...]] = [
    ("balance", "res_1", CURRENCY),
    ("statement", "res_1", CURRENCY),
    ("payouts", "run", CURRENCY, "--as-of", "2026-01-31"),
    ("payouts", "show", "payout_1"),
    ("payouts", "list"),
    ("payouts", "paid", "payout_1"),
    ("payouts", "failed", "payout_1"),
    ("accounts", "create", "acc_1", "--currency", "PEN"),
    ("accounts", "freeze", "acc_1"),
    ("accounts", "show", "acc_1"),
    ("accounts", "list"),
    ("accounts", "statement", "acc_1"),
    ("transfer", "pay_1", "acc_1", "acc_2", "1.00", "PEN"),
    ("payments", "void", "pay_1"),
    ("payments", "show", "pay_1"),
    ("payments", "list", "--payer", "acc_1"),
]


async def called(newer: tuple[NewerServer, str], *arguments: str) -> Outcome:
    return await run_command(*arguments, "--address", newer[1])


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_unknown_enum_values_are_shown_as_their_numbers(
    newer: tuple[NewerServer, str], command: tuple[str, ...], form: tuple[str, ...]
) -> None:
    """Amounts of an unknown currency are shown in minor units, with every digit; status 0."""
    outcome = await called(newer, *command, *form)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert str(AMOUNT_MINOR) in outcome.stdout
    if command[0] != "balance":
        assert str(UNKNOWN) in outcome.stdout


async def test_booked_answer_of_the_bank_is_shown_as_booked(newer: tuple[NewerServer, str]) -> None:
    """`payouts paid` has booked the event by the time it sees an unknown status."""
    outcome = await called(newer, "payouts", "paid", "payout_1", "--json")
    assert newer[0].booked == ["cli.payout_paid.payout_1"]
    assert json.loads(outcome.stdout)["status"] == str(UNKNOWN)


async def test_balance_after_an_entry_of_unknown_direction_is_left_out(
    newer: tuple[NewerServer, str],
) -> None:
    """An entry between unknown accounts may have raised or lowered the balance."""
    outcome = await called(newer, "statement", "res_1", CURRENCY, "--csv")
    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [
        (row["type"], row["amount_minor"], row["balance_minor"], row["balance"]) for row in rows
    ] == [
        ("opening_balance", "", "0", ""),
        ("97", str(AMOUNT_MINOR), str(AMOUNT_MINOR), ""),
        ("97", "", "", ""),
        ("closing_balance", "", str(AMOUNT_MINOR), ""),
    ]


async def test_unknown_status_of_an_event_is_no_duplicate(
    newer: tuple[NewerServer, str], tmp_path: Any
) -> None:
    """It is counted as unknown, and the command ends with status 1."""
    line = {
        "event_type": "charge_succeeded",
        "restaurant_id": "res_1",
        "currency": "PEN",
        "amount": 1,
    }
    lines = [
        json.dumps(line | {"event_id": f"evt_{n}", "occurred_at": "2025-12-01T10:00:00Z"})
        for n in range(3)
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    outcome = await called(newer, "ingest", "events.jsonl", "--json")
    assert outcome.status == ExitStatus.REFUSED
    counts = json.loads(outcome.stdout)
    assert (
        counts["created"],
        counts["duplicates"],
        counts["refused_otherwise"],
        counts["unknown"],
    ) == ("0", "0", "1", "2")
    assert "42 " in outcome.stderr.splitlines()[0]
    assert "status 97 is unknown" in outcome.stderr


async def test_decline_for_an_unknown_reason_is_a_decline(newer: tuple[NewerServer, str]) -> None:
    """Its reason is shown as its number."""
    outcome = await called(newer, "payments", "refund", "pay_1")
    assert (outcome.status, outcome.stderr) == (ExitStatus.DECLINED, "declined: 97\n")


async def test_unknown_status_of_a_transfer_is_no_capture(
    newer: tuple[NewerServer, str], tmp_path: Any
) -> None:
    """It is counted as unknown, and the command ends with status 1."""
    (tmp_path / "transfers.csv").write_text(
        "payment_id,payer_account_id,payee_account_id,amount_minor,currency\na,b,c,1,PEN\n"
    )
    outcome = await called(newer, "payments", "import", "transfers.csv")
    assert outcome.status == ExitStatus.REFUSED
    assert outcome.stdout.splitlines()[1:] == [
        "  captured    0",
        "  duplicates  0",
        "  declined    0",
        "  refused     0",
        "  unknown     1",
    ]
    assert "status 97 is unknown" in outcome.stderr


async def test_bank_file_holds_no_amount_that_cannot_be_written(
    newer: tuple[NewerServer, str],
) -> None:
    """An export of an unknown currency is refused, and another currency's is not."""
    outcome = await called(newer, "payouts", "export")
    assert (outcome.status, outcome.stdout) == (ExitStatus.REFUSED, "")
    assert "payout payout_1 is in 'XNW'" in outcome.stderr
    assert (await called(newer, "payouts", "export", "--currency", "PEN")).status == 0
