"""Payloads that are not kept, and calls about payloads that are refused."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.bad_requests import (
    BAD_UUIDS,
    UUID_TEXT,
    YEAR_1,
    YEAR_2000,
    YEAR_9999,
    Case,
    Cases,
    assert_refused,
    bad_page_tokens,
    case_of,
    groups,
)
from support.quarantine import DISCARDED, PARKED, QUARANTINED, RELEASED, RETRY_REQUESTED, from_now
from support.running import RunningLedger

from ledger.infrastructure.postgres.sessions.driver import Connection

DELIVERY: dict[str, Any] = {
    "endpoint": "shop",
    "processor": "stripe",
    "reason": "X",
    "received_at": {"seconds": YEAR_2000},
}
BAD_IDS = {
    "empty": "",
    "129": "a" * 129,
    "blank": "a b",
    "line-feed": "a\n",
    "nul": "a\0",
    "accent": "\u00e9",
}
BAD_REASONS = {
    "lower": "unknown",
    "digit-first": "1X",
    "blank": "A B",
    "line-feed": "A\n",
    "65": "A" * 65,
    "accent": "\u00c9",
}
BAD_TEXTS = {"1001": "a" * 1001, "nul": "a\0", "escape": "\x1b[31m", "c1": "a\x9b", "line": "a\nb"}


def bad_payloads() -> Iterator[tuple[str, Case]]:
    """Deliveries that are not kept."""

    def case(field: str, value: Any, named: str = "") -> Case:
        return case_of("QuarantinePayload", named or field, **(DELIVERY | {field: value}))

    yield (
        "QuarantinePayload-empty",
        Case("QuarantinePayload", b"", fields=("endpoint", "processor", "reason", "received_at")),
    )
    for field in ("endpoint", "processor"):
        for name, text in BAD_IDS.items():
            yield f"{field}-{name}", case(field, text)
    for name, text in {"empty": "", **BAD_REASONS}.items():
        yield f"reason-{name}", case("reason", text)
    for name, text in BAD_TEXTS.items():
        yield f"detail-{name}", case("detail", text)
    yield "kind-201", case("kind", "a" * 201)
    yield "kind-nul", case("kind", "a\0")
    yield "body-262145", case("body", b"a" * (256 * 1024 + 1))
    yield "query-2001", case("query", "a" * 2001)
    yield "query-2001-bytes", case("query", "\u00e9" * 1001)
    yield "query-line-feed", case("query", "a=1\n")
    for name, headers in {
        "upper": {"X-Signature": "a"},
        "empty": {"": "a"},
        "blank": {"a b": "a"},
        "nul": {"a": "\0"},
        "129": {"a" * 129: ""},
        "large": {"a": "b" * 8192},
        **{name: {name: "a"} for name in ("authorization", "cookie", "proxy-authorization")},
    }.items():
        yield f"headers-{name}", case("headers", headers)
    for field in ("received_at", "retry_at"):
        yield f"{field}-out-of-range", case(field, {"seconds": YEAR_9999 + 1})
        yield f"{field}-nanos", case(field, {"seconds": YEAR_2000, "nanos": 10**9})
    yield "retry_at-year-1", case("retry_at", {"seconds": YEAR_1})
    yield "retry_at-year-9999", case("retry_at", {"seconds": YEAR_9999})
    yield "retry_at-in-367-days", case("retry_at", from_now(days=367))


def bad_lists() -> Iterator[tuple[str, Case]]:
    """Lists and summaries with bad filters."""
    for field in ("endpoint", "processor"):
        for name, text in BAD_IDS.items():
            if text:
                yield f"{field}-{name}", case_of("ListQuarantined", field, **{field: text})
    for name, text in BAD_REASONS.items():
        yield f"reason-{name}", case_of("ListQuarantined", "reason", reason=text)
    yield "states-unspecified", case_of("ListQuarantined", "states", states=[0])
    yield "states-unknown", case_of("ListQuarantined", "states", states=[77])
    yield "states-twice", case_of("ListQuarantined", "states", states=[PARKED, PARKED])
    due = {"due_at": {"seconds": YEAR_2000}}
    yield "due-with-states", case_of("ListQuarantined", "states", states=[PARKED], **due)
    yield "due-with-order", case_of("ListQuarantined", "oldest_first", oldest_first=True, **due)
    for field in ("end_at", "due_at"):
        yield (
            f"{field}-out-of-range",
            case_of("ListQuarantined", field, **{field: {"seconds": YEAR_1 - 1}}),
        )
    yield "page_size-negative", case_of("ListQuarantined", "page_size", page_size=-1)
    for name, token in bad_page_tokens(["ListQuarantined", *[""] * 7]):
        yield f"page_token-{name}", case_of("ListQuarantined", "page_token", page_token=token)
    yield "summary", case_of("GetQuarantineSummary", "endpoint", endpoint="a b")


def bad_moves() -> Iterator[tuple[str, Case]]:
    """Calls about payloads that none can have."""
    for name, text in BAD_UUIDS.items():
        ids = {"quarantine_id": text}
        yield f"get-{name}", case_of("GetQuarantined", "quarantine_id", **ids)
        yield f"discard-{name}", case_of("DiscardQuarantined", "quarantine_id", reason="x", **ids)
        yield (
            f"resolve-{name}",
            case_of("ResolveQuarantined", "quarantine_id", move_number=1, outcome=RELEASED, **ids),
        )
        yield (
            f"retry-{name}",
            case_of("RetryQuarantined", "quarantine_ids[1]", quarantine_ids=[UUID_TEXT, text]),
        )
    for name, text in {"empty": "", **BAD_TEXTS}.items():
        yield (
            f"discard-reason-{name}",
            case_of("DiscardQuarantined", "reason", quarantine_id=UUID_TEXT, reason=text),
        )


def bad_retries() -> Iterator[tuple[str, Case]]:
    """Retries of nothing, of too much, or of two things."""
    one = {"quarantine_ids": [UUID_TEXT]}
    wrong: dict[str, dict[str, Any]] = {
        "nothing": {},
        "ids-and-all": {**one, "all": True},
        "ids-and-filter": {**one, "endpoint": "shop"},
        "filter-and-all": {"reason": "X", "all": True},
        "ids-twice": {"quarantine_ids": [UUID_TEXT] * 2},
        "ids-1001": {"quarantine_ids": [UUID_TEXT] * 1001},
    }
    for name, fields in wrong.items():
        yield f"retry-{name}", case_of("RetryQuarantined", "quarantine_ids", **fields)
    yield "retry-endpoint", case_of("RetryQuarantined", "endpoint", endpoint="a b")
    yield "retry-reason", case_of("RetryQuarantined", "reason", reason="x")


def bad_outcomes() -> Iterator[tuple[str, Case]]:
    """Outcomes that no try has."""

    def case(*named: str, **fields: Any) -> Case:
        about = {"quarantine_id": UUID_TEXT, "move_number": 1, "outcome": RELEASED}
        return case_of("ResolveQuarantined", *named, **(about | fields))

    soon = from_now(hours=1)
    for number in (0, -1, -(2**31)):
        yield f"move_number-{number}", case("move_number", move_number=number)
    for outcome in (0, RETRY_REQUESTED, DISCARDED, 77, -1):
        yield f"outcome-{outcome}", case("outcome", outcome=outcome)
    yield "released-with-reason", case("reason", reason="X")
    yield "released-with-retry", case("retry_at", retry_at=soon)
    yield (
        "events-of-quarantined",
        case("event_ids", outcome=QUARANTINED, reason="X", event_ids=["evt_1"]),
    )
    yield "events-twice", case("event_ids", event_ids=["evt_1", "evt_1"])
    yield "events-1001", case("event_ids", event_ids=[f"evt_{each}" for each in range(1001)])
    yield "events-bad", case("event_ids[1]", event_ids=["evt_1", "a b"])
    yield "quarantined-without-reason", case("reason", outcome=QUARANTINED)
    yield "quarantined-with-retry", case("retry_at", outcome=QUARANTINED, reason="X", retry_at=soon)
    yield "parked-without-retry", case("retry_at", outcome=PARKED, reason="X")
    yield "parked-without-reason", case("reason", outcome=PARKED, retry_at=soon)
    for name, text in BAD_TEXTS.items():
        yield f"outcome-detail-{name}", case("detail", detail=text)


@pytest.mark.parametrize(
    "cases", groups(bad_payloads(), bad_lists(), bad_moves(), bad_retries(), bad_outcomes())
)
async def test_bad_request_is_refused(
    shared_ledger: RunningLedger, connection: Connection, cases: Cases
) -> None:
    """Each is refused with the field at fault, and nothing is stored."""
    await assert_refused(shared_ledger, connection, cases)
