"""Thousands of random calls, of every method and as streams, to a server that is another process.

LEDGER_FUZZ_CASES makes more of them (`make fuzz`), with a seed that is new in each run.
LEDGER_FUZZ_SEED repeats a run. The seed is printed, and a failure names its seed and number.
"""

import asyncio
import os
import secrets
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status
from support.audit import assert_books_in_order
from support.bad_requests import INTERNALS, REQUEST_TYPES, path_of
from support.dates import date_message
from support.events import event_message
from support.fuzzing import (
    BATCH_RESPONSES,
    KNOWN_ACCOUNTS,
    KNOWN_DELIVERY,
    KNOWN_PAYMENT,
    VALID,
    FuzzCase,
    fuzz_cases,
    valid_requests,
)
from support.processes import server_process
from support.quarantine import delivery
from support.waiting import DEADLINE_SECONDS, until

from ledger.bootstrap.database import Database
from ledger.limits import MESSAGE_BYTES_MAX
from ledger.v1 import (
    account_pb2_grpc,
    error_reason_pb2,
    ledger_pb2,
    ledger_pb2_grpc,
    payment_pb2_grpc,
)

CASES = int(os.environ.get("LEDGER_FUZZ_CASES", "2500"))
SEED = int(
    os.environ.get("LEDGER_FUZZ_SEED")
    or (secrets.randbits(32) if "LEDGER_FUZZ_CASES" in os.environ else 20261120)
)
CALLS_AT_ONCE = 32
# How much the server may grow: what the allocator keeps, after many calls of each method.
RSS_MIB_MAX = 96

C = grpc.StatusCode
INGEST = {C.NOT_FOUND, C.ALREADY_EXISTS, C.FAILED_PRECONDITION}
# The statuses that a method may return besides OK and INVALID_ARGUMENT.
ALSO_ALLOWED: dict[str, set[grpc.StatusCode]] = {
    "IngestEvent": INGEST,
    "BatchIngestEvents": set(),
    "StreamEvents": set(),
    "GetEvent": {C.NOT_FOUND},
    "ListEvents": {C.NOT_FOUND},
    "PreviewEvent": INGEST,
    "ListBalances": {C.OUT_OF_RANGE},
    "ListMaturities": {C.NOT_FOUND, C.OUT_OF_RANGE},
    "ListPayoutEntries": {C.NOT_FOUND},
    "GetBalance": {C.NOT_FOUND, C.OUT_OF_RANGE},
    "ListEntries": {C.NOT_FOUND, C.OUT_OF_RANGE},
    "RunPayouts": {C.NOT_FOUND},
    "GetPayoutRun": {C.NOT_FOUND},
    "ListPayoutRuns": set(),
    "CancelPayoutRun": {C.NOT_FOUND, C.FAILED_PRECONDITION},
    "ListPayoutRunItems": {C.NOT_FOUND},
    "GetPayout": {C.NOT_FOUND},
    "ListPayouts": {C.NOT_FOUND},
    "SubmitPayouts": {C.NOT_FOUND, C.FAILED_PRECONDITION, C.ALREADY_EXISTS},
    "CancelPayout": {C.NOT_FOUND, C.FAILED_PRECONDITION},
    "PutRestaurant": set(),
    "UpdateRestaurant": {C.NOT_FOUND, C.FAILED_PRECONDITION},
    "GetRestaurant": {C.NOT_FOUND},
    "ListRestaurants": set(),
    "QuarantinePayload": set(),
    "ListQuarantined": set(),
    "GetQuarantined": {C.NOT_FOUND},
    "GetQuarantineSummary": set(),
    "RetryQuarantined": {C.NOT_FOUND},
    "ResolveQuarantined": {C.NOT_FOUND, C.FAILED_PRECONDITION},
    "DiscardQuarantined": {C.NOT_FOUND, C.FAILED_PRECONDITION},
    "CreateAccount": {C.ALREADY_EXISTS},
    "UpdateAccount": {C.NOT_FOUND, C.FAILED_PRECONDITION},
    "GetAccount": {C.NOT_FOUND},
    "ListAccounts": set(),
    "GetAccountBalance": {C.NOT_FOUND, C.OUT_OF_RANGE},
    "ListAccountEntries": {C.NOT_FOUND, C.OUT_OF_RANGE},
    "AuthorizePayment": {C.NOT_FOUND, C.ALREADY_EXISTS},
    "BatchAuthorizePayments": set(),
    "BatchTransfers": set(),
    "CapturePayment": {C.NOT_FOUND, C.ALREADY_EXISTS},
    "VoidPayment": {C.NOT_FOUND, C.ALREADY_EXISTS},
    "RefundPayment": {C.NOT_FOUND, C.ALREADY_EXISTS},
    "ReversePayment": {C.NOT_FOUND, C.ALREADY_EXISTS},
    "GetPayment": {C.NOT_FOUND},
    "ListPayments": {C.NOT_FOUND},
}
REASONS = {
    name.removeprefix("ERROR_REASON_")
    for name in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118
}
NEVER = {"UNSPECIFIED", "INTERNAL", "METHOD_NOT_IMPLEMENTED"}


def reason_of(status: status_pb2.Status) -> str:
    """The reason of a status. Asserts that the status is complete and shows nothing internal."""
    infos = [
        info for info in (_error_info(detail) for detail in status.details) if info is not None
    ]
    assert len(infos) == 1, "one ErrorInfo"
    (info,) = infos
    assert info.domain == "ledger.v1"
    assert info.reason in REASONS - NEVER, info.reason
    assert [word for word in INTERNALS if word in status.message.lower()] == []
    return info.reason


def _error_info(detail: Any) -> error_details_pb2.ErrorInfo | None:
    info = error_details_pb2.ErrorInfo()
    return info if detail.Unpack(info) else None


def results_of(method: str, responses: list[bytes]) -> list[Any]:
    """The results of single events or payments."""
    if method in BATCH_RESPONSES:
        return [
            result
            for raw in responses
            for result in BATCH_RESPONSES[method].FromString(raw).results
        ]
    if method == "StreamEvents":
        streamed = [ledger_pb2.StreamEventsResponse.FromString(raw) for raw in responses]
        return [
            result
            for response in streamed
            for result in ([response.result] if response.HasField("result") else response.results)
        ]
    return []


def judge_refusal(case: FuzzCase, error: aio.AioRpcError) -> str:
    """Checks the status of a failed call against the contract, and returns it with its reason."""
    call: Any = error
    status = rpc_status.from_call(call)
    if status is None:
        # gRPC itself refuses what is too large, and sends no ErrorInfo.
        assert error.code() is C.RESOURCE_EXHAUSTED, f"{error.code()}: {error.details()}"
        assert max(map(len, case.requests)) > MESSAGE_BYTES_MAX
        return "too large"
    assert error.code() in ALSO_ALLOWED[case.method] | {C.INVALID_ARGUMENT}, (
        f"{error.code()}: {error.details()}"
    )
    return f"{error.code().name} {reason_of(status)}"


async def judge(channel: aio.Channel, case: FuzzCase) -> str:
    """Makes the call, checks its outcome against the contract, and returns the outcome."""
    path = path_of(case.method)
    responses: list[bytes] = []
    try:
        if case.method == "StreamEvents":
            stream: Any = channel.stream_stream(
                path, request_serializer=None, response_deserializer=None
            )
            call = stream(timeout=DEADLINE_SECONDS)
            # One after the other: the library calls it INTERNAL when the server ends a stream that
            # is being written to.
            for request in case.requests:
                await call.write(request)
                if (response := await call.read()) is aio.EOF:
                    break
                responses.append(response)
            else:
                await call.done_writing()
            if await call.code() is not C.OK:
                # Raises the error that ended the call.
                await call.read()
        else:
            single: Any = channel.unary_unary(
                path, request_serializer=None, response_deserializer=None
            )
            responses.append(await single(case.requests[0], timeout=DEADLINE_SECONDS))
    except aio.AioRpcError as error:
        return judge_refusal(case, error)
    assert len(responses) == len(case.requests)
    for result in results_of(case.method, responses):
        # The status UNSPECIFIED.
        assert result.HasField("error") == (result.status == 0)
        if result.HasField("error"):
            reason_of(result.error)
    return "OK"


async def valid_requests_about_a_run(channel: aio.Channel) -> dict[str, Message]:
    """Valid requests about a run, its payouts, accounts, a payment and payloads of the quarantine,
    all of which exist.
    """
    accounts = account_pb2_grpc.AccountServiceStub(channel)
    for account in KNOWN_ACCOUNTS:
        await accounts.CreateAccount(account)
    await payment_pb2_grpc.PaymentServiceStub(channel).AuthorizePayment(KNOWN_PAYMENT)
    stub = ledger_pb2_grpc.LedgerServiceStub(channel)
    payouts = []
    for currency in ("USD", "EUR"):
        charge = event_message(
            restaurant_id="known",
            currency=currency,
            occurred_at=datetime.now(UTC) - timedelta(days=30),
        )
        await stub.IngestEvent(ledger_pb2.IngestEventRequest(event=charge))
        payouts.append(await payout_in(stub, currency))
    paid, canceled = payouts
    payload = (await stub.QuarantinePayload(KNOWN_DELIVERY)).payload
    parked = (await stub.QuarantinePayload(delivery(retry_at=KNOWN_DELIVERY.received_at))).payload
    return valid_requests(
        payout_run_id=paid.payout_run_id,
        payout_id=paid.payout_id,
        canceled_payout_id=canceled.payout_id,
        quarantine_id=payload.quarantine_id,
        parked_id=parked.quarantine_id,
    )


async def payout_in(
    stub: "ledger_pb2_grpc.LedgerServiceAsyncStub", currency: str
) -> ledger_pb2.Payout:
    """Runs payouts of the currency, and returns the only one that the run creates."""
    request = ledger_pb2.RunPayoutsRequest(currency=currency, as_of=date_message(datetime.now(UTC)))
    run = (await stub.RunPayouts(request)).payout_run

    async def has_ended() -> bool:
        request = ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
        state = (await stub.GetPayoutRun(request)).payout_run.state
        return state == ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED

    await until(has_ended, DEADLINE_SECONDS)
    listed = await stub.ListPayouts(ledger_pb2.ListPayoutsRequest(payout_run_id=run.payout_run_id))
    (payout,) = listed.payouts
    return payout


def test_every_method_is_fuzzed() -> None:
    """A method that is added needs a valid request and its statuses."""
    assert set(VALID) == set(REQUEST_TYPES), "change valid_requests in tests/support/fuzzing.py"
    assert set(ALSO_ALLOWED) == set(REQUEST_TYPES), "change ALSO_ALLOWED"


async def test_random_calls_end_with_statuses_of_the_contract(database: Database) -> None:
    """Afterwards the server is ready and has not grown, and an audit finds no fault."""
    sys.stdout.write(f"LEDGER_FUZZ_SEED={SEED} LEDGER_FUZZ_CASES={CASES}\n")
    seen: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []

    async def call(channel: aio.Channel, cases: Iterator[FuzzCase]) -> None:
        for case in cases:
            try:
                seen[case.method, await judge(channel, case)] += 1
            except AssertionError as error:
                sent = [raw.hex()[:400] for raw in case.requests]
                failures.append(f"seed {SEED}, case {case.number}, {case.method} {sent}: {error}")

    with tempfile.TemporaryDirectory(prefix="ledger-fuzz-") as folder:
        async with server_process(
            database, Path(folder) / "server.log", log_level="warning"
        ) as server:
            async with aio.insecure_channel(server.address) as channel:
                valid = await valid_requests_about_a_run(channel)
                for warming in fuzz_cases(0, 500, valid):
                    await judge(channel, warming)
                memory = server.rss_mib()
                cases = fuzz_cases(SEED, CASES, valid)
                await asyncio.gather(*(call(channel, cases) for _ in range(CALLS_AT_ONCE)))
                grown = server.rss_mib() - memory
            await server.assert_well()
            assert failures == []
            assert grown < RSS_MIB_MAX, f"the server holds {grown:.0f} MiB more"
            log = server.log.read_text()
            assert "unexpected exception" not in log, log[-4096:]
    assert sum(seen.values()) == CASES
    for method in REQUEST_TYPES:
        if CASES < 1000:
            break
        # All runs have ended.
        expected = "FAILED_PRECONDITION PAYOUT_RUN_ENDED" if method == "CancelPayoutRun" else "OK"
        assert seen[method, expected], f"{method} never returned {expected}: {seen}"
        assert any(
            seen[method, outcome]
            for outcome in (
                "INVALID_ARGUMENT INVALID_REQUEST",
                "INVALID_ARGUMENT MALFORMED_MESSAGE",
            )
        )
    await assert_books_in_order(database)


@pytest.mark.parametrize("number", [0, 7])
def test_case_depends_on_seed_and_number_alone(number: int) -> None:
    """So a failure can be repeated."""
    first, second = list(fuzz_cases(1, 8)), list(fuzz_cases(1, 8))
    assert first == second
    assert first[number] != list(fuzz_cases(2, 8))[number]


def test_request_without_fields_is_fuzzed() -> None:
    """A method may need no arguments."""
    assert len(list(fuzz_cases(1, 100, {"GetEvent": empty_pb2.Empty()}))) == 100
