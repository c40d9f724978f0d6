"""What the server in memory has beside the contract."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.type import date_pb2
from support.events import event_message, timestamp

from ledger.api.methods import METHODS
from ledger.testing import LedgerServer
from ledger.v1 import (
    account_pb2,
    account_pb2_grpc,
    ledger_pb2,
    ledger_pb2_grpc,
    payment_pb2,
    payment_pb2_grpc,
)

HEAVY = ("alembic", "asyncpg", "click", "cryptography", "jwt", "pydantic", "sqlalchemy")


def balance_of(server: LedgerServer, restaurant_id: str) -> ledger_pb2.GetBalanceResponse:
    with grpc.insecure_channel(server.address) as channel:
        return ledger_pb2_grpc.LedgerServiceStub(channel).GetBalance(
            ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency="PEN")
        )


def test_importing_it_loads_neither_a_database_nor_settings() -> None:
    """The extra brings none of these packages."""
    statement = f"import sys, ledger.testing; print(sorted(set({HEAVY}) & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", statement], capture_output=True, text=True, check=True
    )
    assert loaded.stdout == "[]\n"


def run_request(server: LedgerServer) -> ledger_pb2.RunPayoutsRequest:
    """A run of today by the server's clock."""
    today = server.clock.now().date()
    as_of = date_pb2.Date(year=today.year, month=today.month, day=today.day)
    return ledger_pb2.RunPayoutsRequest(currency="PEN", as_of=as_of)


def test_charges_mature_when_the_clock_moves() -> None:
    """By the days that the server was made with."""
    with LedgerServer(maturity_days=3) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            charge = event_message(occurred_at=server.clock.now())
            stub.IngestEvent(ledger_pb2.IngestEventRequest(event=charge))
        assert balance_of(server, "res_001").pending_minor == 10_000
        server.clock.advance(days=3)
        assert balance_of(server, "res_001").available_minor == 10_000


def test_holds_end_when_the_clock_moves() -> None:
    """A run skips the restaurant until then."""
    with LedgerServer() as server, grpc.insecure_channel(server.address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        until = server.clock.now() + timedelta(days=2)
        hold = ledger_pb2.PayoutHold(reason="is looked into", until=timestamp(until))
        stub.PutRestaurant(
            ledger_pb2.PutRestaurantRequest(restaurant_id="res_001", payout_hold=hold)
        )
        stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
        planned = run_request(server)
        planned.dry_run = True
        assert stub.RunPayouts(planned).payout_run.payouts_created == 0
        server.clock.advance_to(until)
        assert stub.RunPayouts(planned).payout_run.payouts_created == 1


def test_payments_expire_when_the_clock_moves() -> None:
    """What they held is there again, from the instant at which they expired."""
    with LedgerServer() as server, grpc.insecure_channel(server.address) as channel:
        accounts = account_pb2_grpc.AccountServiceStub(channel)
        payments = payment_pb2_grpc.PaymentServiceStub(channel)
        for account_id, limit_minor in (("payer", 500), ("payee", 0)):
            accounts.CreateAccount(
                account_pb2.CreateAccountRequest(
                    account_id=account_id,
                    currency="PEN",
                    overdraft=account_pb2.Overdraft(limit_minor=limit_minor),
                )
            )
        payments.AuthorizePayment(
            payment_pb2.AuthorizePaymentRequest(
                payment_id="pay_1",
                payer_account_id="payer",
                payee_account_id="payee",
                currency="PEN",
                amount_minor=500,
                capture=payment_pb2.CAPTURE_MODE_MANUAL,
                expires_at=timestamp(server.clock.now() + timedelta(hours=1)),
            )
        )
        asked = account_pb2.GetAccountBalanceRequest(account_id="payer")
        assert accounts.GetAccountBalance(asked).held_minor == 500
        before = server.clock.now() + timedelta(minutes=50)
        server.clock.advance(days=1)
        assert accounts.GetAccountBalance(asked).held_minor == 0
        for minutes, held_minor in ((0, 500), (20, 0)):
            asked.as_of.CopyFrom(timestamp(before + timedelta(minutes=minutes)))
            assert accounts.GetAccountBalance(asked).held_minor == held_minor
        found = payments.GetPayment(payment_pb2.GetPaymentRequest(payment_id="pay_1"))
        assert found.payment.state == payment_pb2.PAYMENT_STATE_EXPIRED


def test_a_run_has_ended_when_it_is_answered() -> None:
    """The answer shows how it began. Tests that need the payouts wait for nothing."""
    with LedgerServer() as server, grpc.insecure_channel(server.address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
        run = stub.RunPayouts(run_request(server)).payout_run
        assert run.state == ledger_pb2.PAYOUT_RUN_STATE_RUNNING
        asked = ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
        run = stub.GetPayoutRun(asked).payout_run
        assert (run.state, run.payouts_created) == (ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED, 1)


def test_runs_that_are_held_can_be_waited_for_and_canceled() -> None:
    """They create nothing in the block; those that were not canceled are paid at its end."""
    with LedgerServer() as server, grpc.insecure_channel(server.address) as channel:
        stub = ledger_pb2_grpc.LedgerServiceStub(channel)
        stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
        with server.payout_runs_held():
            canceled = stub.RunPayouts(run_request(server)).payout_run.payout_run_id
            stub.CancelPayoutRun(ledger_pb2.CancelPayoutRunRequest(payout_run_id=canceled))
            request = run_request(server)
            request.request_id = "second"
            second = stub.RunPayouts(request).payout_run.payout_run_id
            asked = ledger_pb2.GetPayoutRunRequest(payout_run_id=second)
            run = stub.GetPayoutRun(asked).payout_run
            assert (run.state, run.payouts_created) == (ledger_pb2.PAYOUT_RUN_STATE_RUNNING, 0)
        run = stub.GetPayoutRun(asked).payout_run
        assert (run.state, run.payouts_created) == (ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED, 1)
        asked.payout_run_id = canceled
        run = stub.GetPayoutRun(asked).payout_run
        assert (run.state, run.payouts_created) == (ledger_pb2.PAYOUT_RUN_STATE_CANCELED, 0)


async def test_servers_have_separate_books() -> None:
    """Two may serve at once, and a new one is empty."""
    async with LedgerServer() as first, LedgerServer() as second:
        assert first.port != second.port
        async with grpc.aio.insecure_channel(first.address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            await asyncio.gather(
                *(
                    stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event_message()))
                    for _ in range(50)
                )
            )
        assert balance_of(first, "res_001").available_minor == 50 * 10_000
        with pytest.raises(grpc.RpcError) as unknown:
            balance_of(second, "res_001")
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_it_serves_once_and_only_within_its_block() -> None:
    """Its books would not be empty the second time."""
    server = LedgerServer()
    with pytest.raises(RuntimeError, match="with statement"):
        _ = server.address
    with server:
        address = server.address
    with pytest.raises(RuntimeError, match="with statement"):
        _ = server.address
    with pytest.raises(RuntimeError, match="make a new one"), server:
        pass
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as gone:
        ledger_pb2_grpc.LedgerServiceStub(channel).GetBalance(ledger_pb2.GetBalanceRequest())
    assert gone.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_port_that_another_server_has_is_refused() -> None:
    """Where it is made, not in its thread."""
    with (
        LedgerServer() as server,
        pytest.raises(Exception, match="cannot listen"),
        LedgerServer(port=server.port),
    ):
        pass


def test_wrong_settings_are_refused() -> None:
    """Before it serves."""
    with pytest.raises(ValueError, match="time zone"):
        LedgerServer(settlement_timezone="Lima")
    with pytest.raises(ValueError, match="UnknownRestaurants"):
        LedgerServer(unknown_restaurants="maybe")
    with pytest.raises(ValueError, match="time zone"):
        LedgerServer(start_at=datetime(2026, 1, 1))  # noqa: DTZ001


def test_its_clock_begins_where_a_test_says() -> None:
    """What callers send is checked by it."""
    start_at = datetime(2026, 1, 15, 12, tzinfo=UTC)
    with LedgerServer(start_at=start_at) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = ledger_pb2_grpc.LedgerServiceStub(channel)
            charge = event_message(occurred_at=start_at + timedelta(hours=1))
            request = ledger_pb2.IngestEventRequest(event=charge)
            with pytest.raises(grpc.RpcError) as early:
                stub.IngestEvent(request)
            assert early.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            server.clock.advance(hours=1)
            stub.IngestEvent(request)
        as_of = balance_of(server, "res_001").as_of.ToDatetime(tzinfo=UTC)
        assert timedelta(hours=1) <= as_of - start_at < timedelta(hours=1, minutes=5)


def test_it_serves_every_method_of_the_contract() -> None:
    """None is left out, whatever is added to the contract."""
    with LedgerServer() as server, grpc.insecure_channel(server.address) as channel:
        missing = [
            method.name
            for method in METHODS.values()
            # A stream takes no single request.
            if method.timeout_seconds is not None
            and _code_of(channel, method.path) is grpc.StatusCode.UNIMPLEMENTED
        ]
        assert missing == []


def _code_of(channel: grpc.Channel, path: str) -> grpc.StatusCode:
    """The status of a call with an empty request."""
    ended: Any = channel.unary_unary(path, _as_it_is, _as_it_is).future(b"")
    code: grpc.StatusCode = ended.code()
    return code


def _as_it_is(message: bytes) -> bytes:
    return message
