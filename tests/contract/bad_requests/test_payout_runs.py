"""Payout runs that are not started, queries that are refused, and runs at their limits."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.type import date_pb2
from support.bad_requests import (
    BAD_DATES,
    BAD_UUIDS,
    INT64_MAX,
    INT64_MIN,
    UUID_TEXT,
    Case,
    Cases,
    assert_refused,
    bad_page_tokens,
    case_of,
    counts,
    groups,
    run_case,
    run_request,
)
from support.dates import date_message
from support.events import event_message
from support.running import RunningLedger
from support.waiting import DEADLINE_SECONDS

from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2

pytestmark = pytest.mark.both_servers


def bad_payout_runs() -> Iterator[tuple[str, Case]]:
    """Payout runs that are not started."""
    yield "RunPayouts-empty", Case("RunPayouts", b"", fields=("currency", "as_of"))
    yield (
        "as_of-unset",
        Case(
            "RunPayouts",
            ledger_pb2.RunPayoutsRequest(currency="PEN").SerializeToString(),
            fields=("as_of",),
        ),
    )
    for name, (year, month, day) in BAD_DATES.items():
        for dry_run in (False, True):
            yield (
                f"{name}-as_of-{'dry' if dry_run else 'run'}",
                run_case(
                    "as_of", as_of=date_pb2.Date(year=year, month=month, day=day), dry_run=dry_run
                ),
            )
    # Two days on, so that it is the future in every time zone.
    future = (datetime.now(UTC) + timedelta(days=2)).date()
    yield (
        "as_of-future",
        run_case("as_of", as_of=date_message(future)),
    )
    for dry_run in (False, True):
        kind = "dry" if dry_run else "run"
        for name, bad_id in {
            "empty": "",
            "129": "a" * 129,
            "blank": "res 1",
            "line-feed": "res_1\n",
            "comma": "res_1,res_2",
        }.items():
            yield (
                f"restaurant_ids-{name}-{kind}",
                run_case("restaurant_ids[1]", restaurant_ids=["res_1", bad_id], dry_run=dry_run),
            )
        yield (
            f"restaurant_ids-1001-{kind}",
            run_case("restaurant_ids", restaurant_ids=["res_1"] * 1001, dry_run=dry_run),
        )
        unknown = run_request(restaurant_ids=["res_nobody"], dry_run=dry_run)
        yield (
            f"restaurant_ids-unknown-{kind}",
            Case(
                "RunPayouts",
                unknown.SerializeToString(),
                grpc.StatusCode.NOT_FOUND,
                "RESTAURANT_NOT_FOUND",
            ),
        )
    for amount in (-1, INT64_MIN):
        yield f"min_amount-{amount}", run_case("min_amount_minor", min_amount_minor=amount)
    yield (
        "everything",
        run_case(
            "currency",
            "as_of",
            "min_amount_minor",
            "request_id",
            currency="",
            as_of=date_pb2.Date(),
            min_amount_minor=-1,
            request_id="\n",
        ),
    )


def bad_payout_queries() -> Iterator[tuple[str, Case]]:
    """Requests for payouts, runs and lists of them that the server refuses."""
    requests: dict[str, tuple[str, Any]] = {
        "GetPayout": ("payout_id", ledger_pb2.GetPayoutRequest),
        "CancelPayout": ("payout_id", ledger_pb2.CancelPayoutRequest),
        "GetPayoutRun": ("payout_run_id", ledger_pb2.GetPayoutRunRequest),
        "CancelPayoutRun": ("payout_run_id", ledger_pb2.CancelPayoutRunRequest),
        "ListPayoutRunItems": ("payout_run_id", ledger_pb2.ListPayoutRunItemsRequest),
        "ListPayouts": ("payout_run_id", ledger_pb2.ListPayoutsRequest),
    }
    for method, (path, message) in requests.items():
        for name, value in BAD_UUIDS.items():
            if method == "ListPayouts" and not value:
                continue  # Empty means the payouts of any run.
            yield (
                f"{name}-{method}",
                Case(method, message(**{path: value}).SerializeToString(), fields=(path,)),
            )
        reason = "PAYOUT_NOT_FOUND" if path == "payout_id" else "PAYOUT_RUN_NOT_FOUND"
        unknown = message(**{path: UUID_TEXT}).SerializeToString()
        yield f"{method}-unknown", Case(method, unknown, grpc.StatusCode.NOT_FOUND, reason)
    unknown = ledger_pb2.ListPayoutsRequest(restaurant_id="res_unknown").SerializeToString()
    yield (
        "ListPayouts-unknown-restaurant",
        Case("ListPayouts", unknown, grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND"),
    )
    for number in (-1, ledger_pb2.PAYOUT_RUN_STATE_PLANNED, 77):
        runs = ledger_pb2.ListPayoutRunsRequest(state=number)  # type: ignore[arg-type]
        yield (
            f"run-state-{number}",
            Case("ListPayoutRuns", runs.SerializeToString(), fields=("state",)),
        )
    runs = ledger_pb2.ListPayoutRunsRequest(currency="pen")
    yield "run-currency", Case("ListPayoutRuns", runs.SerializeToString(), fields=("currency",))
    for name, token in bad_page_tokens(["ListPayoutRuns", "", ""]):
        runs = ledger_pb2.ListPayoutRunsRequest(page_token=token)
        yield (
            f"ListPayoutRuns-page_token-{name}",
            Case("ListPayoutRuns", runs.SerializeToString(), fields=("page_token",)),
        )
    for number in (-1, 7, 77, 2**31 - 1, -(2**31)):
        yield f"states-{number}", case_of("ListPayouts", "states", states=[number])
        payouts = ledger_pb2.ListPayoutsRequest(state=number)  # type: ignore[arg-type]
        yield (
            f"state-{number}",
            Case("ListPayouts", payouts.SerializeToString(), fields=("state",)),
        )
        items = ledger_pb2.ListPayoutRunItemsRequest(
            payout_run_id=UUID_TEXT,
            outcome=number,  # type: ignore[arg-type]
        )
        yield (
            f"outcome-{number}",
            Case("ListPayoutRunItems", items.SerializeToString(), fields=("outcome",)),
        )
    for size in (-1, -(2**31)):
        runs = ledger_pb2.ListPayoutRunsRequest(page_size=size)
        yield (
            f"ListPayoutRuns-page_size-{size}",
            Case("ListPayoutRuns", runs.SerializeToString(), fields=("page_size",)),
        )
        payouts = ledger_pb2.ListPayoutsRequest(page_size=size)
        yield (
            f"ListPayouts-page_size-{size}",
            Case("ListPayouts", payouts.SerializeToString(), fields=("page_size",)),
        )
        items = ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=UUID_TEXT, page_size=size)
        yield (
            f"ListPayoutRunItems-page_size-{size}",
            Case("ListPayoutRunItems", items.SerializeToString(), fields=("page_size",)),
        )
    for name, token in bad_page_tokens(["ListPayouts", "", "", ""]):
        payouts = ledger_pb2.ListPayoutsRequest(page_token=token)
        yield (
            f"ListPayouts-page_token-{name}",
            Case("ListPayouts", payouts.SerializeToString(), fields=("page_token",)),
        )
    for name, token in bad_page_tokens(["ListPayoutRunItems", UUID_TEXT, ""]):
        items = ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=UUID_TEXT, page_token=token)
        yield (
            f"ListPayoutRunItems-page_token-{name}",
            Case("ListPayoutRunItems", items.SerializeToString(), fields=("page_token",)),
        )


def bad_submissions() -> Iterator[tuple[str, Case]]:
    """Submissions that the server refuses, and filters of their lists."""
    fields: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
        "empty": (("submission_id", "payout_run_id"), {}),
        "both": (
            ("payout_run_id",),
            {"submission_id": "s", "payout_run_id": UUID_TEXT, "payout_ids": [UUID_TEXT]},
        ),
        "id": (("submission_id",), {"submission_id": "a b", "payout_ids": [UUID_TEXT]}),
        "long-id": (("submission_id",), {"submission_id": "s" * 129, "payout_ids": [UUID_TEXT]}),
        "twice": (("payout_ids",), {"submission_id": "s", "payout_ids": [UUID_TEXT] * 2}),
        "too-many": (("payout_ids",), {"submission_id": "s", "payout_ids": [UUID_TEXT] * 1001}),
        "max-of-named": (
            ("payouts_max",),
            {"submission_id": "s", "payout_ids": [UUID_TEXT], "payouts_max": 1},
        ),
    }
    for name, (paths, contents) in fields.items():
        yield f"submission-{name}", case_of("SubmitPayouts", *paths, **contents)
    for name, value in BAD_UUIDS.items():
        yield (
            f"submission-payout-{name}",
            case_of("SubmitPayouts", "payout_ids[0]", submission_id="s", payout_ids=[value]),
        )
        if value:
            yield (
                f"submission-run-{name}",
                case_of("SubmitPayouts", "payout_run_id", submission_id="s", payout_run_id=value),
            )
    for number in (-1, 100_001, 2**31 - 1):
        yield (
            f"submission-max-{number}",
            case_of(
                "SubmitPayouts",
                "payouts_max",
                submission_id="s",
                payout_run_id=UUID_TEXT,
                payouts_max=number,
            ),
        )
    for name, contents in (
        ("PAYOUT_RUN_NOT_FOUND", {"payout_run_id": UUID_TEXT}),
        ("PAYOUT_NOT_FOUND", {"payout_ids": [UUID_TEXT]}),
    ):
        request = ledger_pb2.SubmitPayoutsRequest(submission_id="sub_bad", **contents)
        yield (
            f"submission-{name}",
            Case("SubmitPayouts", request.SerializeToString(), grpc.StatusCode.NOT_FOUND, name),
        )
    unknown = ledger_pb2.ListPayoutsRequest(submission_id="sub_bad").SerializeToString()
    yield (
        "ListPayouts-unknown-submission",
        Case("ListPayouts", unknown, grpc.StatusCode.NOT_FOUND, "SUBMISSION_NOT_FOUND"),
    )
    filters: dict[str, tuple[str, dict[str, Any]]] = {
        "currency": ("currency", {"currency": "pen"}),
        "start": ("start_at", {"start_at": {"seconds": 2**62}}),
        "end": ("end_at", {"end_at": {"nanos": -1}}),
        "since": ("unanswered_since", {"unanswered_since": {"seconds": -(2**62)}}),
        "period": ("start_at", {"start_at": {"seconds": 2}, "end_at": {"seconds": 1}}),
        "submission": ("submission_id", {"submission_id": "a b"}),
        "twice": ("states", {"states": [1, 1]}),
        "two-ways": ("states", {"states": [1], "state": 2}),
        "unspecified": ("states", {"states": [0]}),
    }
    for name, (path, contents) in filters.items():
        yield f"ListPayouts-{name}", case_of("ListPayouts", path, **contents)


@pytest.mark.parametrize("min_amount_minor", [0, INT64_MAX])
@pytest.mark.parametrize("request_id", ["", "a" * 128, "AZaz09._:-"])
async def test_run_at_the_limits_is_planned_and_started(
    shared_ledger: RunningLedger, min_amount_minor: int, request_id: str
) -> None:
    """A plan writes nothing. The run is created once, and a repeated request returns it."""
    request = run_request(currency="XPF", min_amount_minor=min_amount_minor, request_id=request_id)
    before = await counts(shared_ledger)
    plan = run_request(
        currency="XPF", min_amount_minor=min_amount_minor, request_id=request_id, dry_run=True
    )
    assert (await shared_ledger.stub.RunPayouts(plan)).payout_run.payout_run_id == ""
    assert await counts(shared_ledger) == before
    run = (await shared_ledger.stub.RunPayouts(request)).payout_run
    assert (run.min_amount_minor, run.request_id, run.as_of) == (
        min_amount_minor,
        request_id,
        request.as_of,
    )
    assert (
        await shared_ledger.stub.RunPayouts(request)
    ).payout_run.payout_run_id == run.payout_run_id
    assert (await counts(shared_ledger))[4] == before[4] + 1


@pytest.mark.parametrize("request_ids", [("", "again"), ("a", "A")])
async def test_runs_of_one_date_differ_by_their_terms(
    ledger: RunningLedger, request_ids: tuple[str, str]
) -> None:
    """Another minimum or request id makes another run. The same terms return the same run."""
    first, second = request_ids
    terms: list[dict[str, Any]] = [
        {"request_id": first},
        {"request_id": second},
        {"request_id": first, "min_amount_minor": 1},
    ]
    runs = [
        (await ledger.stub.RunPayouts(run_request(**term))).payout_run.payout_run_id
        for term in terms * 2
    ]
    assert len(set(runs)) == 3
    assert runs[:3] == runs[3:]


async def test_hundred_equal_requests_for_a_run_hold_up_no_other_call(
    ledger: RunningLedger,
) -> None:
    """All return the same run, while balances are read and events are booked."""
    await ledger.ingest(event_message(restaurant_id="res_1"))
    runs = asyncio.gather(
        *(ledger.stub.RunPayouts(run_request(), timeout=2 * DEADLINE_SECONDS) for _ in range(100))
    )
    others = 0
    while not runs.done():
        assert (await ledger.balance("res_1")).pending_minor >= 0
        (result,) = await ledger.ingest(event_message(restaurant_id="res_1"))
        assert result.status == ledger_pb2.INGEST_STATUS_CREATED
        others += 1
    assert others
    assert len({response.payout_run.payout_run_id for response in await runs}) == 1
    assert (await counts(ledger))[4] == 1


@pytest.mark.parametrize(
    "cases", groups(bad_payout_runs(), bad_payout_queries(), bad_submissions())
)
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each gets its status, reason and fields, nothing is stored, and the server still serves."""
    await assert_refused(shared_ledger, connection, cases)
