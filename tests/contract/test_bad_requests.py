"""Bad requests, one after the other, on the wire: each is told what is wrong with it, and leaves nothing behind.

The number that begins a case's id is its row in the table of bad requests that the service is held against. Requests are bytes,
so that what no protobuf library would send can be sent too.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from google.type import date_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from support.books import superuser
from support.dates import date_message, days_ago
from support.events import event_message, timestamp, unique
from support.http2 import frame, grpc_message
from support.page_tokens import checksummed_token
from support.payout_runs import payout_event
from support.running import RunningLedger, running_ledger
from support.waiting import until

from ledger.bootstrap.database import Database
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import ledger_pb2

SERVICE = "ledger.v1.LedgerService"
DEADLINE_SECONDS = 60.0
INVALID = grpc.StatusCode.INVALID_ARGUMENT
TOO_LARGE = grpc.StatusCode.RESOURCE_EXHAUSTED
OK = grpc.StatusCode.OK

CHARGE = ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED
PAYOUT_PAID = ledger_pb2.EVENT_TYPE_PAYOUT_PAID
PAYOUT_FAILED = ledger_pb2.EVENT_TYPE_PAYOUT_FAILED
AMOUNT_CAP = 10**12
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
MEBIBYTE = 1024 * 1024
# 0001-01-01T00:00:00Z, 2000-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
YEAR_1, YEAR_2000, YEAR_9999 = -62_135_596_800, 946_684_800, 253_402_300_799

# What must never be read in a status: the database's, the driver's and the interpreter's words.
INTERNALS = (
    "asyncpg",
    "sqlalchemy",
    "postgres",
    "sqlstate",
    "traceback",
    "select ",
    "insert ",
    "constraint",
    "exception",
    ".py",
)

COUNT_EVERYTHING = """
SELECT (SELECT count(*) FROM processor_events), (SELECT count(*) FROM ledger_entries),
       (SELECT count(*) FROM restaurants), (SELECT count(*) FROM balance_accounts),
       (SELECT count(*) FROM payout_runs), (SELECT count(*) FROM payout_run_items),
       (SELECT count(*) FROM payouts), (SELECT count(*) FROM payout_items)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A request and its fate. `reason` is None where grpc itself answers, which knows no ErrorInfo; `fields` as in BadRequest.

    A request that is close to the present is made when it is sent: the cases are, long before.
    """

    method: str
    request: bytes | Callable[[], bytes]
    code: grpc.StatusCode = INVALID
    reason: str | None = "INVALID_REQUEST"
    fields: tuple[str, ...] = ()

    def sent(self) -> bytes:
        """What is sent."""
        return self.request if isinstance(self.request, bytes) else self.request()


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a caller is told about a call that failed."""

    code: grpc.StatusCode
    reason: str | None
    metadata: dict[str, str]
    fields: tuple[str, ...]
    everything: str


def refusal(error: aio.AioRpcError) -> Refusal:
    """All that a failed call tells."""
    told: Any = error
    status = rpc_status.from_call(told)
    everything = f"{error.details()} {error.debug_error_string()}"
    if status is None:
        return Refusal(error.code(), None, {}, (), everything)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    reason, metadata, fields = details_of(status)
    return Refusal(
        error.code(), reason, metadata, fields, f"{everything} {reason} {metadata} {status}"
    )


def details_of(status: status_pb2.Status) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Reason and metadata of the ErrorInfo, which every status of ours has, and the fields of the BadRequest."""
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert sum(detail.Unpack(info) for detail in status.details) == 1, "one ErrorInfo"
    assert info.domain == "ledger.v1"
    for detail in status.details:
        detail.Unpack(bad_request)
    fields = tuple(violation.field for violation in bad_request.field_violations)
    assert all(violation.description for violation in bad_request.field_violations), (
        "each violation says what is wrong"
    )
    return info.reason, dict(info.metadata), fields


def assert_nothing_internal(text: str) -> None:
    """The words of the inside are not in what a caller reads."""
    assert [word for word in INTERNALS if word in text.lower()] == [], text


async def send(ledger: RunningLedger, method: str, request: bytes, **options: Any) -> bytes:
    """Sends raw bytes and returns raw bytes."""
    call: Any = ledger.channel.unary_unary(
        f"/{SERVICE}/{method}", request_serializer=None, response_deserializer=None
    )
    answer: bytes = await call(request, **options)
    return answer


async def counts(ledger: RunningLedger) -> tuple[Any, ...]:
    """How many rows the tables have."""
    return (await ledger.query(COUNT_EVERYTHING))[0]


async def assert_serving(ledger: RunningLedger) -> None:
    """The server is alive and ready."""
    health: Any = health_pb2_grpc.HealthStub(ledger.channel)

    async def is_told(service: str) -> bool:
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    assert await is_told("")
    # Ready once its database has answered in time, which may be a moment after the start.
    await until(lambda: is_told(SERVICE), DEADLINE_SECONDS)


def varint(number: int) -> bytes:
    """A protobuf varint; negative numbers as 64 bits."""
    number &= 2**64 - 1
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def ingest(event: ledger_pb2.ProcessorEvent, *, appended: bytes = b"") -> bytes:
    """An IngestEvent request, with bytes put behind those of the event: of a field that comes twice the later one counts."""
    return field(1, event.SerializeToString() + appended)


def event_case(*fields: str, **changes: Any) -> Case:
    """An event with some fields changed, refused for `fields`."""
    return Case(
        "IngestEvent",
        ingest(event_message(**changes)),
        fields=tuple(f"event.{name}" for name in fields),
    )


def accepted(**changes: Any) -> Case:
    """An event with some fields changed that is booked all the same."""
    return Case("IngestEvent", ingest(event_message(**changes)), OK, None)


def in_an_hour() -> Timestamp:
    """Too late to be asked for, as of when it is called."""
    return Timestamp(seconds=int((datetime.now(UTC) + timedelta(hours=1)).timestamp()))


def instant_case(seconds: int, nanos: int = 0) -> Case:
    """An event whose `occurred_at` is refused."""
    event = event_message()
    event.occurred_at.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
    return Case("IngestEvent", ingest(event), fields=("event.occurred_at",))


def instant_accepted(seconds: int, nanos: int = 0) -> Case:
    """An event at the very edge of what is allowed."""
    event = event_message()
    event.occurred_at.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
    return Case("IngestEvent", ingest(event), OK, None)


def malformed(method: str, request: bytes) -> Case:
    """Bytes that are not the method's message."""
    return Case(method, request, reason="MALFORMED_MESSAGE")


def without(event: ledger_pb2.ProcessorEvent, name: str) -> bytes:
    """The request of an event that lacks a field."""
    event.ClearField(name)  # type: ignore[arg-type]
    return ingest(event)


def balance_request(**fields: Any) -> bytes:
    """A GetBalance request of the restaurant that is known to have no entries."""
    return ledger_pb2.GetBalanceRequest(
        **({"restaurant_id": "known", "currency": "PEN"} | fields)
    ).SerializeToString()


BAD_IDS = {
    "02-empty": "",
    "03-blank": " ",
    "03-blanks": "   ",
    "03-leading-space": " evt_1",
    "03-trailing-space": "evt_1 ",
    "04-129-characters": "a" * 129,
    "04-256-characters": "a" * 256,
    "04-200-KiB": "a" * (200 * 1024),
    "06-nul": "evt\0",
    "06-nul-alone": "\0",
    "07-line-feed-inside": "evt\n1",
    "07-line-feed-at-the-end": "evt_1\n",
    "07-carriage-return": "evt_1\r",
    "07-tab": "evt\t1",
    "07-escape": "evt\x1b[31m",
    "07-delete": "evt\x7f",
    "08-right-to-left": "evt\u202e1",
    "08-zero-width": "evt\u200b1",
    "08-byte-order-mark": "\ufeffevt_1",
    "09-composed": "evt_\u00e9",
    "09-decomposed": "evt_e\u0301",
    "10-cyrillic": "evt_\u0430",
    "10-full-width-digit": "evt_\uff11",
    "10-arabic-digit": "evt_\u0661",
    "10-emoji": "evt_\U0001f355",
    "12-sql": "'; DROP TABLE processor_events;--",
    "13-path": "../../x",
    "13-percent": "%00",
    "13-lookup": "${jndi:x}",
    "70-braces": "{0190a1b2-0000-7000-8000-000000000000}",
}

BAD_CURRENCIES = {
    "23-empty": "",
    "24-lower-case": "pen",
    "24-mixed-case": "Pen",
    "25-leading-space": " PEN",
    "25-trailing-space": "PEN ",
    "25-line-feed": "PEN\n",
    "26-long": "PENN",
    "26-short": "PE",
    "27-accent": "P\u00c9N",
    "27-full-width": "\uff30\uff25\uff2e",
    "27-dotless-i": "\u0131NR",
    "28-unlisted": "ZZZ",
    "28-no-currency": "XXX",
    "28-gold": "XAU",
    "28-digits": "123",
    "28-nul": "PE\0",
}

# Requests that a message's own library cannot make, by the number of the string field in ProcessorEvent.
EVENT_STRING_FIELDS = {
    "event_id": 1,
    "restaurant_id": 3,
    "currency": 4,
    "payout_id": 8,
    "reference": 9,
}
NOT_UTF_8 = {
    "14-invalid-utf-8": b"evt\xff",
    "14-overlong": b"\xc0\xaf",
    "15-lone-surrogate": b"\xed\xa0\x80",
}

NOT_MESSAGES = {
    "16-ones": b"\xff" * 20,
    "16-length-without-content": b"\x0a\x7f",
    "16-tag-alone": b"\x0a",
    "16-unfinished-varint": b"\x0a\xff\xff\xff\xff",
    "16-length-beyond-int32": b"\x0a" + varint(2**40),
    "16-wire-type-6": b"\x0e",
    "16-wire-type-7": b"\x0f",
    "16-field-number-0": b"\x02\x00",
    "16-unopened-group": b"\x0c",
    "16-unclosed-group": b"\x0b",
    "16-truncated": ingest(event_message(event_id="truncated"))[:-1],
    "18-deep-groups": b"\xa3\x06" * 10_000 + b"\xa4\x06" * 10_000,
}

# All that are built and take one request.
METHODS = (
    "IngestEvent",
    "BatchIngestEvents",
    "GetEvent",
    "GetBalance",
    "ListEntries",
    "RunPayouts",
    "GetPayoutRun",
    "ListPayoutRuns",
    "CancelPayoutRun",
    "ListPayoutRunItems",
    "GetPayout",
    "ListPayouts",
    "PutRestaurant",
    "UpdateRestaurant",
    "GetRestaurant",
    "ListRestaurants",
)

UUID_TEXT = "0190a1b2-0000-7000-8000-000000000000"
# Ids that this service never makes: its own have one spelling.
BAD_UUIDS = {
    "70-empty": "",
    "70-word": "abc",
    "70-number": "1",
    "70-negative": "-1",
    "70-beyond-uint64": str(2**64),
    "70-braces": f"{{{UUID_TEXT}}}",
    "70-urn": f"urn:uuid:{UUID_TEXT}",
    "70-upper-case": UUID_TEXT.upper(),
    "70-no-hyphens": UUID_TEXT.replace("-", ""),
    "70-trailing-space": f"{UUID_TEXT} ",
    "70-line-feed": f"{UUID_TEXT}\n",
    "70-cut": UUID_TEXT[:-1],
    "70-full-width-digit": f"\uff10{UUID_TEXT[1:]}",
    "70-nul": f"{UUID_TEXT[:-1]}\0",
    "70-sql": "'; DROP TABLE payouts;--",
    "70-200-KiB": "a" * (200 * 1024),
}

BAD_DATES = {
    "63-year-0": (0, 2, 3),
    "63-month-0": (2026, 0, 3),
    "63-day-0": (2026, 2, 0),
    "63-all-0": (0, 0, 0),
    "63-february-30": (2026, 2, 30),
    "63-no-leap-day": (2025, 2, 29),
    "63-month-13": (2026, 13, 1),
    "63-day-32": (2026, 1, 32),
    "63-negative-year": (-1, 1, 1),
    "63-negative-month": (2026, -1, 1),
    "63-year-1": (1, 1, 1),
    "63-year-1999": (1999, 12, 31),
    "63-year-9999": (9999, 12, 31),
    "63-year-10000": (10_000, 1, 1),
    "63-int32-max": (2**31 - 1, 2**31 - 1, 2**31 - 1),
    "63-int32-min": (-(2**31), -(2**31), -(2**31)),
    "64-year-9998": (9998, 12, 31),
}


def entries_request(**fields: Any) -> bytes:
    """A ListEntries request of the restaurant that is known to have no entries."""
    return ledger_pb2.ListEntriesRequest(
        **({"restaurant_id": "known", "currency": "PEN"} | fields)
    ).SerializeToString()


def entries_case(*fields: str, **changes: Any) -> Case:
    """A statement with some fields changed, refused for `fields`."""
    return Case("ListEntries", entries_request(**changes), fields=fields)


def entries_in_an_hour(*paths: str) -> bytes:
    """A statement of which some instants are in the future when it is sent."""
    return entries_request(**{path: in_an_hour() for path in paths})


def run_request(**fields: Any) -> ledger_pb2.RunPayoutsRequest:
    """A RunPayouts request for a day of the past."""
    terms: dict[str, Any] = {"currency": "PEN", "as_of": date_pb2.Date(year=2026, month=1, day=2)}
    return ledger_pb2.RunPayoutsRequest(**(terms | fields))


def run_case(*fields: str, **changes: Any) -> Case:
    """A payout run with some fields changed, refused for `fields`."""
    return Case("RunPayouts", run_request(**changes).SerializeToString(), fields=fields)


def bad_ids() -> Iterator[tuple[str, Case]]:
    """Every bad id in every field that is an id."""
    for name, value in BAD_IDS.items():
        yield f"{name}-event_id", event_case("event_id", event_id=value)
        yield f"19-{name}-restaurant_id", event_case("restaurant_id", restaurant_id=value)
        yield f"41-{name}-payout_id", event_case("payout_id", type=PAYOUT_PAID, payout_id=value)
        requests = {
            "GetEvent": ledger_pb2.GetEventRequest(event_id=value),
            "GetBalance": ledger_pb2.GetBalanceRequest(restaurant_id=value, currency="PEN"),
            "PutRestaurant": ledger_pb2.PutRestaurantRequest(restaurant_id=value),
            "GetRestaurant": ledger_pb2.GetRestaurantRequest(restaurant_id=value),
            "ListEntries": ledger_pb2.ListEntriesRequest(restaurant_id=value, currency="PEN"),
        }
        change = ledger_pb2.UpdateRestaurantRequest(
            restaurant=ledger_pb2.Restaurant(restaurant_id=value), update_mask=OF_NAME
        )
        yield (
            f"{name}-UpdateRestaurant",
            Case(
                "UpdateRestaurant", change.SerializeToString(), fields=("restaurant.restaurant_id",)
            ),
        )
        for method, request in requests.items():
            path = "event_id" if method == "GetEvent" else "restaurant_id"
            yield f"{name}-{method}", Case(method, request.SerializeToString(), fields=(path,))
        if value:
            yield f"{name}-ListEntries-event_id", entries_case("event_id", event_id=value)
            yield f"{name}-RunPayouts-request_id", run_case("request_id", request_id=value)
            payouts = ledger_pb2.ListPayoutsRequest(restaurant_id=value).SerializeToString()
            yield f"{name}-ListPayouts", Case("ListPayouts", payouts, fields=("restaurant_id",))


def bad_currencies() -> Iterator[tuple[str, Case]]:
    """Every bad currency in every field that is one."""
    for name, value in BAD_CURRENCIES.items():
        yield f"{name}-event", event_case("currency", currency=value)
        yield (
            f"62-{name}-balance",
            Case("GetBalance", balance_request(currency=value), fields=("currency",)),
        )
        yield f"{name}-entries", entries_case("currency", currency=value)
        yield f"{name}-payouts", run_case("currency", currency=value)


def malformed_messages() -> Iterator[tuple[str, Case]]:
    """Bytes that are not the message."""
    for name, text in NOT_UTF_8.items():
        for path, number in EVENT_STRING_FIELDS.items():
            yield (
                f"{name}-{path}",
                malformed("IngestEvent", ingest(event_message(), appended=field(number, text))),
            )
        for path, entry in {
            "key": field(1, text) + field(2, b"x"),
            "value": field(1, b"x") + field(2, text),
        }.items():
            yield (
                f"{name}-metadata-{path}",
                malformed("IngestEvent", ingest(event_message(), appended=field(10, entry))),
            )
        yield (
            f"{name}-batch",
            malformed(
                "BatchIngestEvents",
                ingest(event_message()) + ingest(event_message(), appended=field(1, text)),
            ),
        )
        yield f"{name}-name", malformed("PutRestaurant", field(1, b"res") + field(2, text))
        yield f"{name}-path", malformed("UpdateRestaurant", field(2, field(1, text)))
        yield f"{name}-page_token", malformed("ListRestaurants", field(2, text))
        for path, number in {"currency": 2, "event_id": 6, "payout_id": 7, "page_token": 9}.items():
            yield f"{name}-ListEntries-{path}", malformed("ListEntries", field(number, text))
        yield f"{name}-RunPayouts-request_id", malformed("RunPayouts", field(4, text))
        for method in (
            "GetPayout",
            "GetPayoutRun",
            "CancelPayoutRun",
            "ListPayoutRuns",
            "ListPayoutRunItems",
            "ListPayouts",
        ):
            yield f"{name}-{method}", malformed(method, field(1, text))
    for name, request in NOT_MESSAGES.items():
        for method in METHODS:
            if name == "16-truncated" and method != "IngestEvent":
                continue
            yield f"{name}-{method}", malformed(method, request)


def bad_events() -> Iterator[tuple[str, Case]]:
    """Events whose fields are each the right kind of thing and wrong."""
    required = ("event_id", "type", "restaurant_id", "currency", "amount_minor", "occurred_at")
    yield "01-no-event", Case("IngestEvent", b"", fields=("event",))
    yield (
        "01-empty-event",
        Case(
            "IngestEvent",
            ingest(ledger_pb2.ProcessorEvent()),
            fields=tuple(f"event.{name}" for name in required),
        ),
    )
    yield (
        "05-event_id-of-4-MiB",
        Case("IngestEvent", ingest(event_message(event_id="a" * 4 * MEBIBYTE)), TOO_LARGE, None),
    )
    for name in required:
        row = {
            "event_id": "02",
            "type": "20",
            "restaurant_id": "19",
            "currency": "23",
            "amount_minor": "30",
        }.get(name, "46")
        yield (
            f"{row}-{name}-unset",
            Case("IngestEvent", without(event_message(), name), fields=(f"event.{name}",)),
        )
    for row, number in (("20", 0), ("21", 77), ("22", -1), ("22", 2**31 - 1), ("22", -(2**31))):
        reason = "EVENT_TYPE_UNKNOWN" if number else "INVALID_REQUEST"
        yield f"{row}-type-{number}", replace(event_case("type", type=number), reason=reason)
    # Its rules are not known either: nothing else of it is judged.
    alone = ledger_pb2.ProcessorEvent(type=77)  # type: ignore[arg-type]  # a type of a version to come
    yield (
        "21-type-77-alone",
        Case("IngestEvent", ingest(alone), reason="EVENT_TYPE_UNKNOWN", fields=("event.type",)),
    )
    yield (
        "22-type-beyond-int32",
        Case(
            "IngestEvent",
            ingest(event_message(), appended=b"\x10" + varint(2**31)),
            reason="EVENT_TYPE_UNKNOWN",
            fields=("event.type",),
        ),
    )
    for row, amount in (
        ("30", 0),
        ("31", -1),
        ("32", INT64_MIN),
        ("33", INT64_MAX),
        ("34", AMOUNT_CAP + 1),
        ("34", 2**53 + 1),
    ):
        yield f"{row}-amount-{amount}", event_case("amount_minor", amount_minor=amount)
    for row, fee in (("35", -1), ("35", INT64_MIN), ("36", 10_001), ("36", INT64_MAX)):
        yield f"{row}-fee-{fee}", event_case("fee_minor", amount_minor=10_000, fee_minor=fee)
    yield (
        "38-both-overflow",
        event_case("amount_minor", amount_minor=INT64_MAX, fee_minor=INT64_MAX),
    )
    yield (
        "38-both-negative",
        event_case("amount_minor", "fee_minor", amount_minor=INT64_MIN, fee_minor=INT64_MIN),
    )
    for name in (
        "FEE_ASSESSED",
        "ADJUSTMENT_CREDITED",
        "ADJUSTMENT_DEBITED",
        "DISPUTE_WON",
        "DISPUTE_LOST",
    ):
        number = ledger_pb2.EventType.Value(f"EVENT_TYPE_{name}")
        yield f"40-fee-on-{name}", event_case("fee_minor", type=number, fee_minor=1)
        yield f"41-payout_id-on-{name}", event_case("payout_id", type=number, payout_id="po_1")
    for name, number in (("PAYOUT_PAID", PAYOUT_PAID), ("PAYOUT_FAILED", PAYOUT_FAILED)):
        yield (
            f"40-fee-on-{name}",
            event_case("fee_minor", type=number, payout_id="po_1", fee_minor=1),
        )
    for name in ("CHARGE_SUCCEEDED", "REFUND_SUCCEEDED", "DISPUTE_OPENED"):
        yield (
            f"41-payout_id-on-{name}",
            event_case(
                "payout_id", type=ledger_pb2.EventType.Value(f"EVENT_TYPE_{name}"), payout_id="po_1"
            ),
        )
    yield (
        "41-payout_id-malformed-on-a-charge",
        event_case("payout_id", payout_id="'; DROP TABLE payouts;--"),
    )
    for name, text in {
        "256": "a" * 256,
        "accent": "\u00e9",
        "line-feed": "a\n",
        "nul": "\0",
        "delete": "\x7f",
        "tab": "\t",
    }.items():
        yield f"07-reference-{name}", event_case("reference", reference=text)
    for name, metadata in bad_metadata():
        yield f"06-metadata-{name}", event_case("metadata", metadata=metadata)


def bad_metadata() -> Iterator[tuple[str, dict[str, str]]]:
    """Metadata that is too large, in bytes and not in characters, or cannot be stored as text."""
    yield "value-of-8193", {"": "a" * 8193}
    yield "key-of-8193", {"a" * 8193: ""}
    yield "2731-euro-signs", {"": "\u20ac" * 2731}
    yield "many", {f"key_{number:05d}": "" for number in range(1000)}
    yield "nul-in-key", {"a\0": "x"}
    yield "nul-in-value", {"a": "x\0y"}


def bad_instants() -> Iterator[tuple[str, Case]]:
    """Instants that are none, or out of range."""

    def in_10_minutes() -> bytes:
        return ingest(event_message(occurred_at=datetime.now(UTC) + timedelta(minutes=10)))

    yield "47-year-1", instant_case(YEAR_1)
    yield "47-before-year-1", instant_case(YEAR_1 - 1)
    yield "46-epoch", instant_case(0)
    yield "54-just-before-2000", instant_case(YEAR_2000 - 1, 999_999_999)
    yield "48-end-of-year-9999", instant_case(YEAR_9999, 999_999_999)
    yield "48-year-10000", instant_case(YEAR_9999 + 1)
    for seconds in (INT64_MAX, INT64_MIN, -1, 2**31, 2**32, 2**53):
        yield f"49-seconds-{seconds}", instant_case(seconds)
    for nanos in (-1, 10**9, 2**31 - 1, -(2**31)):
        yield f"50-nanos-{nanos}", instant_case(YEAR_2000 + 86_400, nanos)
    yield "50-nanos-below-0-at-the-floor", instant_case(YEAR_2000, -1)
    yield "53-in-10-minutes", Case("IngestEvent", in_10_minutes, fields=("event.occurred_at",))


def bad_balance_queries() -> Iterator[tuple[str, Case]]:
    """Balances that cannot be told."""
    instants = {
        "63-before-year-1": (YEAR_1 - 1, 0),
        "63-year-10000": (YEAR_9999 + 1, 0),
        "63-seconds-min": (INT64_MIN, 0),
        "63-seconds-max": (INT64_MAX, 0),
        "63-nanos-below-0": (0, -1),
        "63-nanos-a-second": (0, 10**9),
        "63-nanos-max": (0, 2**31 - 1),
        "64-end-of-year-9999": (YEAR_9999, 999_999_999),
    }
    for name, (seconds, nanos) in instants.items():
        yield (
            name,
            Case(
                "GetBalance",
                balance_request(as_of=Timestamp(seconds=seconds, nanos=nanos)),
                fields=("as_of",),
            ),
        )
    yield (
        "64-in-an-hour",
        Case("GetBalance", lambda: balance_request(as_of=in_an_hour()), fields=("as_of",)),
    )
    yield (
        "61-unknown-restaurant",
        Case(
            "GetBalance",
            balance_request(restaurant_id="nobody"),
            grpc.StatusCode.NOT_FOUND,
            "RESTAURANT_NOT_FOUND",
        ),
    )
    yield "62-empty", Case("GetBalance", b"", fields=("restaurant_id", "currency"))


OF_NAME = field_mask_pb2.FieldMask(paths=["name"])


def bad_restaurant_changes() -> Iterator[tuple[str, Case]]:
    """Masks that name what cannot be changed, or nothing, and values that are refused where the mask names them."""

    def change(path: str, *paths: str, allow_missing: bool = False, **fields: Any) -> Case:
        request = ledger_pb2.UpdateRestaurantRequest(
            restaurant=ledger_pb2.Restaurant(restaurant_id="res_bad", **fields),
            update_mask=field_mask_pb2.FieldMask(paths=paths),
            allow_missing=allow_missing,
        )
        return Case("UpdateRestaurant", request.SerializeToString(), fields=(path,))

    yield "01-mask-of-nothing", change("update_mask")
    for path in (
        "*",
        "",
        "restaurant_id",
        "created_at",
        "updated_at",
        "etag",
        "Name",
        "name.x",
        "restaurant.name",
        "\0",
    ):
        yield f"74-mask-{path!r}", change("update_mask", "name", path)
    yield "74-mask-of-a-map-and-its-key", change("update_mask", "metadata", "metadata.a")
    yield "74-mask-of-1001-paths", change("update_mask", *["name"] * 1001)
    yield (
        "74-mask-of-a-bad-path-and-an-unknown-restaurant",
        change("update_mask", "*", allow_missing=True),
    )
    yield (
        "74-etag-of-what-may-be-missing",
        change("allow_missing", "name", allow_missing=True, etag="x"),
    )
    for name, text in {"201": "a" * 201, "line-feed": "a\n", "nul": "\0"}.items():
        yield f"07-changed-name-{name}", change("restaurant.name", "name", name=text)
    for days in (-1, 366, 2**31 - 1, -(2**31)):
        yield (
            f"31-changed-maturity_days-{days}",
            change("restaurant.maturity_days", "maturity_days", maturity_days=days),
        )
    for name, metadata in bad_metadata():
        yield (
            f"06-changed-metadata-{name}",
            change("restaurant.metadata", "metadata", metadata=metadata),
        )
        keys = [f"metadata.{key}" for key in metadata][:1000]
        yield (
            f"06-changed-metadata-keys-{name}",
            change("restaurant.metadata", *keys, metadata=metadata),
        )


def bad_restaurants() -> Iterator[tuple[str, Case]]:
    """Profiles, restaurants and pages that are refused."""

    def put(path: str, **fields: Any) -> Case:
        return Case(
            "PutRestaurant",
            ledger_pb2.PutRestaurantRequest(restaurant_id="res_bad", **fields).SerializeToString(),
            fields=(path,),
        )

    for name, text in {
        "201": "a" * 201,
        "line-feed": "a\n",
        "nul": "\0",
        "delete": "\x7f",
        "next-line": "\x85",
    }.items():
        yield f"07-name-{name}", put("name", name=text)
    for days in (-1, 366, 2**31 - 1, -(2**31)):
        yield f"31-maturity_days-{days}", put("maturity_days", maturity_days=days)
    for name, metadata in bad_metadata():
        yield f"06-profile-metadata-{name}", put("metadata", metadata=metadata)
    yield from bad_restaurant_changes()
    for size in (-1, -(2**31)):
        yield (
            f"72-page_size-{size}",
            Case(
                "ListRestaurants",
                ledger_pb2.ListRestaurantsRequest(page_size=size).SerializeToString(),
                fields=("page_size",),
            ),
        )
    for name, token in bad_page_tokens(["ListRestaurants"]):
        request = ledger_pb2.ListRestaurantsRequest(page_token=token).SerializeToString()
        yield f"73-page_token-{name}", Case("ListRestaurants", request, fields=("page_token",))
    not_found = grpc.StatusCode.NOT_FOUND
    yield (
        "61-GetRestaurant-unknown",
        Case("GetRestaurant", field(1, b"nobody"), not_found, "RESTAURANT_NOT_FOUND"),
    )
    yield (
        "61-GetEvent-unknown",
        Case("GetEvent", field(1, b"nothing"), not_found, "EVENT_NOT_FOUND"),
    )


def bad_statements() -> Iterator[tuple[str, Case]]:
    """Statements that cannot be told."""
    instants = {
        "63-before-year-1": Timestamp(seconds=YEAR_1 - 1),
        "63-year-10000": Timestamp(seconds=YEAR_9999 + 1),
        "63-seconds-min": Timestamp(seconds=INT64_MIN),
        "63-seconds-max": Timestamp(seconds=INT64_MAX),
        "63-nanos-below-0": Timestamp(nanos=-1),
        "63-nanos-a-second": Timestamp(nanos=10**9),
        "64-end-of-year-9999": Timestamp(seconds=YEAR_9999, nanos=999_999_999),
    }
    for name, instant in instants.items():
        for path in ("start_at", "end_at"):
            yield f"{name}-{path}", entries_case(path, **{path: instant})
    for paths in (("start_at",), ("end_at",), ("start_at", "end_at")):
        yield (
            f"64-in-an-hour-{'-'.join(paths)}",
            Case("ListEntries", partial(entries_in_an_hour, *paths), fields=paths),
        )
    yield (
        "63-start-after-end",
        entries_case(
            "start_at",
            start_at=Timestamp(seconds=2),
            end_at=Timestamp(seconds=1, nanos=999_999_999),
        ),
    )
    for numbers in ([0], [16], [-1], [2**31 - 1], [-(2**31)], [1, 77], [0] * 100_000):
        yield (
            f"74-entry_types-{numbers[-1]}-of-{len(numbers)}",
            entries_case("entry_types", entry_types=numbers),
        )
    for name, value in BAD_UUIDS.items():
        if value:
            yield f"{name}-ListEntries-payout_id", entries_case("payout_id", payout_id=value)
    for size in (-1, -(2**31)):
        yield f"72-ListEntries-page_size-{size}", entries_case("page_size", page_size=size)
    for name, token in bad_page_tokens(["ListEntries", "known", "PEN", "", "", "", "", ""]):
        yield f"73-ListEntries-page_token-{name}", entries_case("page_token", page_token=token)
    yield "62-ListEntries-empty", Case("ListEntries", b"", fields=("restaurant_id", "currency"))
    unknown = entries_request(restaurant_id="nobody")
    yield (
        "61-ListEntries-unknown",
        Case("ListEntries", unknown, grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND"),
    )


def bad_payout_runs() -> Iterator[tuple[str, Case]]:
    """Payout runs that are not started."""
    yield "63-RunPayouts-empty", Case("RunPayouts", b"", fields=("currency", "as_of"))
    yield (
        "63-as_of-unset",
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
        "64-as_of-future",
        run_case("as_of", as_of=date_message(future)),
    )
    for amount in (-1, INT64_MIN):
        yield f"65-min_amount-{amount}", run_case("min_amount_minor", min_amount_minor=amount)
    yield (
        "65-everything",
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
    """Payouts, runs and lists of them that are not told."""
    requests: dict[str, tuple[str, Any]] = {
        "GetPayout": ("payout_id", ledger_pb2.GetPayoutRequest),
        "GetPayoutRun": ("payout_run_id", ledger_pb2.GetPayoutRunRequest),
        "CancelPayoutRun": ("payout_run_id", ledger_pb2.CancelPayoutRunRequest),
        "ListPayoutRunItems": ("payout_run_id", ledger_pb2.ListPayoutRunItemsRequest),
        "ListPayouts": ("payout_run_id", ledger_pb2.ListPayoutsRequest),
    }
    for method, (path, message) in requests.items():
        for name, value in BAD_UUIDS.items():
            if method == "ListPayouts" and not value:
                continue  # any
            yield (
                f"{name}-{method}",
                Case(method, message(**{path: value}).SerializeToString(), fields=(path,)),
            )
        reason = "PAYOUT_NOT_FOUND" if method == "GetPayout" else "PAYOUT_RUN_NOT_FOUND"
        unknown = message(**{path: UUID_TEXT}).SerializeToString()
        yield f"71-{method}-unknown", Case(method, unknown, grpc.StatusCode.NOT_FOUND, reason)
    unknown = ledger_pb2.ListPayoutsRequest(restaurant_id="res_unknown").SerializeToString()
    yield (
        "71-ListPayouts-unknown-restaurant",
        Case("ListPayouts", unknown, grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND"),
    )
    for number in (-1, ledger_pb2.PAYOUT_RUN_STATE_PLANNED, 77):
        runs = ledger_pb2.ListPayoutRunsRequest(state=number)  # type: ignore[arg-type]
        yield (
            f"74-run-state-{number}",
            Case("ListPayoutRuns", runs.SerializeToString(), fields=("state",)),
        )
    runs = ledger_pb2.ListPayoutRunsRequest(currency="pen")
    yield "74-run-currency", Case("ListPayoutRuns", runs.SerializeToString(), fields=("currency",))
    for name, token in bad_page_tokens(["ListPayoutRuns", "", ""]):
        runs = ledger_pb2.ListPayoutRunsRequest(page_token=token)
        yield (
            f"73-ListPayoutRuns-page_token-{name}",
            Case("ListPayoutRuns", runs.SerializeToString(), fields=("page_token",)),
        )
    for number in (-1, 5, 77, 2**31 - 1, -(2**31)):
        payouts = ledger_pb2.ListPayoutsRequest(state=number)  # type: ignore[arg-type]
        yield (
            f"74-state-{number}",
            Case("ListPayouts", payouts.SerializeToString(), fields=("state",)),
        )
        items = ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=UUID_TEXT, outcome=number)  # type: ignore[arg-type]
        yield (
            f"74-outcome-{number}",
            Case("ListPayoutRunItems", items.SerializeToString(), fields=("outcome",)),
        )
    for size in (-1, -(2**31)):
        runs = ledger_pb2.ListPayoutRunsRequest(page_size=size)
        yield (
            f"72-ListPayoutRuns-page_size-{size}",
            Case("ListPayoutRuns", runs.SerializeToString(), fields=("page_size",)),
        )
        payouts = ledger_pb2.ListPayoutsRequest(page_size=size)
        yield (
            f"72-ListPayouts-page_size-{size}",
            Case("ListPayouts", payouts.SerializeToString(), fields=("page_size",)),
        )
        items = ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=UUID_TEXT, page_size=size)
        yield (
            f"72-ListPayoutRunItems-page_size-{size}",
            Case("ListPayoutRunItems", items.SerializeToString(), fields=("page_size",)),
        )
    for name, token in bad_page_tokens(["ListPayouts", "", "", ""]):
        payouts = ledger_pb2.ListPayoutsRequest(page_token=token)
        yield (
            f"73-ListPayouts-page_token-{name}",
            Case("ListPayouts", payouts.SerializeToString(), fields=("page_token",)),
        )
    for name, token in bad_page_tokens(["ListPayoutRunItems", UUID_TEXT, ""]):
        items = ledger_pb2.ListPayoutRunItemsRequest(payout_run_id=UUID_TEXT, page_token=token)
        yield (
            f"73-ListPayoutRunItems-page_token-{name}",
            Case("ListPayoutRunItems", items.SerializeToString(), fields=("page_token",)),
        )


def bad_page_tokens(query: list[str]) -> Iterator[tuple[str, str]]:
    """Tokens that a list has not made. The last ones have a checksum, which a caller can compute, instead of the server's MAC."""
    yield "blank", " "
    yield "garbage", "garbage"
    yield "not-base64", "!!!!"
    yield "not-ascii", "\u00e9\U0001f355"
    yield "sql", "' OR 1=1;--"
    yield "nul", "\0"
    yield "long", "A" * 100_000
    yield "checksum-alone", "A" * 16
    yield "of-another-list", checksummed_token(["ListNothing"], ["res"])
    for name, body in (
        ("number", "[1]"),
        ("nul", '["\\u0000"]'),
        ("surrogate", '["\\ud800"]'),
        ("null", "[null]"),
        ("list", "[[]]"),
        ("object", '{"a":1}'),
        ("bare-number", "7"),
        ("not-json", "res"),
        ("not-utf-8", b"\xff"),
        ("two-positions", '["a","b"]'),
        ("year-292277", f'["{2**63}","{UUID_TEXT}"]'),
        ("not-an-id", '["1","abc"]'),
        ("no-id", '["\'; DROP TABLE restaurants;--"]'),
        ("nine-positions", '["1","1","1","1","1","1","1","1","1"]'),
        ("deep", "[" * 700),
    ):
        yield (
            f"forged-{name}",
            checksummed_token(query, body.encode() if isinstance(body, str) else body),
        )


def whole_requests() -> Iterator[tuple[str, Case]]:
    """What is wrong with the request as a whole."""
    yield "59-batch-empty", Case("BatchIngestEvents", b"", fields=("events",))
    yield (
        "59-batch-of-1001",
        Case("BatchIngestEvents", ingest(event_message()) * 1001, fields=("events",)),
    )
    yield (
        "59-batch-of-1001-empty-events",
        Case("BatchIngestEvents", b"\x0a\x00" * 1001, fields=("events",)),
    )
    yield (
        "59-batch-of-64-KiB-events",
        Case("BatchIngestEvents", field(1, field(99, b"a" * 65_536)) * 70, TOO_LARGE, None),
    )
    yield (
        "59-batch-of-1000-events-of-64-KiB",
        Case("BatchIngestEvents", field(1, field(99, b"a" * 65_536)) * 1000, TOO_LARGE, None),
    )
    yield "75-5-MB", Case("IngestEvent", field(99, b"a" * 5_000_000), TOO_LARGE, None)
    yield (
        "75-a-byte-more-than-4-MiB",
        Case("GetEvent", field(99, b"a" * (4 * MEBIBYTE - 5)), TOO_LARGE, None),
    )
    # Up to 4 MiB, and beyond what a request of one thing may have.
    for method in (
        "IngestEvent",
        "GetEvent",
        "GetBalance",
        "RunPayouts",
        "ListEntries",
        "PutRestaurant",
    ):
        for size in (256 * 1024 + 1, 4 * MEBIBYTE):
            request = field(99, b"a" * (size - len(field(99, b"a" * size)) + size))
            yield f"75-{size}-bytes-{method}", Case(method, request, INVALID, "REQUEST_TOO_LARGE")
    yield "81-unknown-method", Case("DeleteEverything", b"", grpc.StatusCode.UNIMPLEMENTED, None)
    yield "81-method-in-another-case", Case("ingestevent", b"", grpc.StatusCode.UNIMPLEMENTED, None)


def accepted_requests() -> Iterator[tuple[str, Case]]:
    """What looks odd and is right."""
    yield "04-event_id-of-128", accepted(event_id="a" * 128)
    yield "13-every-allowed-character", accepted(event_id="AZaz09._:-")
    yield "13-dots", accepted(event_id="..")
    yield (
        "17-unknown-fields-of-50-KB",
        Case("IngestEvent", ingest(event_message(), appended=field(900, b"a" * 50_000)), OK, None),
    )
    yield "29-yen", accepted(currency="JPY", amount_minor=1)
    yield "29-dinar", accepted(currency="KWD", amount_minor=1_234)
    yield "29-unidad-de-fomento", accepted(currency="CLF")
    yield "34-smallest", accepted(amount_minor=1)
    yield "34-cap", accepted(amount_minor=AMOUNT_CAP)
    yield "37-fee-is-the-amount", accepted(amount_minor=10_000, fee_minor=10_000)
    yield "37-fee-is-the-amount-at-the-cap", accepted(amount_minor=AMOUNT_CAP, fee_minor=AMOUNT_CAP)
    for name in ("REFUND_SUCCEEDED", "DISPUTE_OPENED"):
        yield (
            f"40-fee-on-{name}",
            accepted(type=ledger_pb2.EventType.Value(f"EVENT_TYPE_{name}"), fee_minor=1),
        )
    yield "47-start-of-2000", instant_accepted(YEAR_2000)
    yield "54-10-years-old", accepted(occurred_at=datetime(2016, 11, 20, tzinfo=UTC))
    yield (
        "52-leap-day",
        accepted(occurred_at=datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)),
    )
    yield (
        "53-in-4-minutes",
        instant_accepted(int((datetime.now(UTC) + timedelta(minutes=4)).timestamp())),
    )
    yield "06-metadata-of-8192", accepted(metadata={"": "a" * 8192})
    yield "06-metadata-of-2730-euro-signs", accepted(metadata={"": "\u20ac" * 2730})
    yield (
        "06-metadata-odd-text",
        accepted(metadata={"\U0001f355 \u202e": "\x01\n\ufeff\uffff\U0010ffff \\u0000 \\ \" '"}),
    )
    yield "07-reference-of-255", accepted(reference="~" * 255)
    yield "12-reference-with-sql", accepted(reference="'; DROP TABLE ledger_entries;--")


def params(*cases: Iterable[tuple[str, Case]]) -> list[Any]:
    """The cases with their names."""
    return [pytest.param(case, id=name) for some in cases for name, case in some]


def refused_requests() -> Iterator[tuple[str, Case]]:
    """All that are refused."""
    yield from bad_ids()
    yield from bad_currencies()
    yield from malformed_messages()
    yield from bad_events()
    yield from bad_instants()
    yield from bad_balance_queries()
    yield from bad_restaurants()
    yield from bad_statements()
    yield from bad_payout_runs()
    yield from bad_payout_queries()
    yield from whole_requests()


def case_names() -> set[str]:
    """The names of all cases; each begins with its row in the table."""
    return {name for cases in (refused_requests(), accepted_requests()) for name, _ in cases} | set(
        BY_HAND
    )


@pytest.fixture(scope="module")
async def counted(shared_ledger: RunningLedger) -> AsyncIterator[Connection]:
    """A connection to books that have the restaurant `known`: one for all cases, as they are many."""
    await shared_ledger.stub.PutRestaurant(ledger_pb2.PutRestaurantRequest(restaurant_id="known"))
    async with superuser(shared_ledger.database) as connection:
        yield connection


@pytest.mark.parametrize("case", params(refused_requests()))
async def test_bad_request_is_refused_and_leaves_nothing_behind(
    shared_ledger: RunningLedger, counted: Connection, case: Case
) -> None:
    """The promised status, reason and fields; nothing stored; nothing of the inside told; the server as healthy as before."""
    before = await counted.fetchrow(COUNT_EVERYTHING)
    with pytest.raises(aio.AioRpcError) as caught:
        await send(shared_ledger, case.method, case.sent())
    told = refusal(caught.value)
    assert (told.code, told.reason) == (case.code, case.reason)
    assert set(told.fields) == set(case.fields)
    assert len(told.fields) == len(case.fields), "each field once"
    if case.reason == "INVALID_REQUEST":
        assert told.metadata == {"field": told.fields[0]}
    assert_nothing_internal(told.everything)
    assert await counted.fetchrow(COUNT_EVERYTHING) == before
    await assert_serving(shared_ledger)


@pytest.mark.parametrize("case", params(accepted_requests()))
async def test_odd_but_valid_event_is_booked(shared_ledger: RunningLedger, case: Case) -> None:
    """What is at the edge of the contract and inside it is booked, and read back as it was sent."""
    before = await counts(shared_ledger)
    request = case.sent()
    answer = ledger_pb2.IngestEventResponse.FromString(
        await send(shared_ledger, case.method, request)
    )
    assert answer.status == ledger_pb2.INGEST_STATUS_CREATED
    assert (await counts(shared_ledger))[0] == before[0] + 1
    sent = ledger_pb2.IngestEventRequest.FromString(request).event
    kept = (
        await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=sent.event_id))
    ).event
    sent.DiscardUnknownFields()
    assert kept == sent


async def test_ids_that_differ_in_case_are_two_events(shared_ledger: RunningLedger) -> None:
    """Row 11: ids are compared byte by byte."""
    event_id = unique("evt")
    results = await shared_ledger.ingest(
        event_message(event_id=event_id), event_message(event_id=event_id.upper(), amount_minor=7)
    )
    assert [result.status for result in results] == [ledger_pb2.INGEST_STATUS_CREATED] * 2


@pytest.mark.parametrize(("row", "size"), [("76", 5_000_000), ("77", 100_000_000)])
async def test_small_request_that_unpacks_to_a_large_one_is_refused(
    shared_ledger: RunningLedger, row: str, size: int
) -> None:
    """Rows 76 and 77: what counts is the size after decompression."""
    before = await counts(shared_ledger)
    with pytest.raises(aio.AioRpcError) as caught:
        await send(
            shared_ledger, "IngestEvent", field(99, bytes(size)), compression=grpc.Compression.Gzip
        )
    told = refusal(caught.value)
    assert told.code == TOO_LARGE
    assert_nothing_internal(told.everything)
    assert await counts(shared_ledger) == before
    await assert_serving(shared_ledger)


async def test_compressed_request_is_taken(shared_ledger: RunningLedger) -> None:
    """Compression as such is allowed."""
    answer = await send(
        shared_ledger, "IngestEvent", ingest(event_message()), compression=grpc.Compression.Gzip
    )
    assert (
        ledger_pb2.IngestEventResponse.FromString(answer).status == ledger_pb2.INGEST_STATUS_CREATED
    )


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((("x-padding", "a" * 20_480),), id="79-20-KB"),
        pytest.param(
            tuple((f"x-padding-{number}", "a") for number in range(10_000)), id="80-10000-headers"
        ),
    ],
)
async def test_too_many_headers_are_refused(
    shared_ledger: RunningLedger, headers: tuple[tuple[str, str], ...]
) -> None:
    """Rows 79 and 80: headers are bounded by the transport."""
    before = await counts(shared_ledger)
    async with aio.insecure_channel(shared_ledger.address) as channel:
        call: Any = channel.unary_unary(
            f"/{SERVICE}/IngestEvent", request_serializer=None, response_deserializer=None
        )
        with pytest.raises(aio.AioRpcError) as caught:
            await call(ingest(event_message()), metadata=aio.Metadata(*headers))
    assert caught.value.code() == TOO_LARGE
    assert await counts(shared_ledger) == before
    await assert_serving(shared_ledger)


async def test_unknown_service_is_unimplemented(shared_ledger: RunningLedger) -> None:
    """Row 81: a service that nobody offers."""
    call: Any = shared_ledger.channel.unary_unary(
        "/ledger.v2.LedgerService/IngestEvent", request_serializer=None, response_deserializer=None
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (ledger_pb2.StreamEventsRequest(), "events"),
        (ledger_pb2.StreamEventsRequest(events=[ledger_pb2.ProcessorEvent()] * 1001), "events"),
        (ledger_pb2.StreamEventsRequest(event=event_message(), events=[event_message()]), "events"),
    ],
    ids=["neither", "too many", "both"],
)
async def test_stream_request_that_is_none_ends_the_stream(
    shared_ledger: RunningLedger, request_: ledger_pb2.StreamEventsRequest, field: str
) -> None:
    """INVALID_ARGUMENT once what came before is answered; what comes after is not booked."""
    before, after = (
        event_message(restaurant_id=unique("res")),
        event_message(restaurant_id=unique("res")),
    )
    answers = []
    with pytest.raises(aio.AioRpcError) as caught:
        async for answer in shared_ledger.stub.StreamEvents(
            iter(
                [
                    ledger_pb2.StreamEventsRequest(event=before),
                    request_,
                    ledger_pb2.StreamEventsRequest(event=after),
                ]
            )
        ):
            answers.append(answer)
    assert [answer.result.status for answer in answers] == [ledger_pb2.INGEST_STATUS_CREATED]
    told = refusal(caught.value)
    assert (told.code, told.reason, told.metadata) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        {"field": field},
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=after.event_id))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_digits_finer_than_a_microsecond_do_not_count(shared_ledger: RunningLedger) -> None:
    """Row 51: 999,999,999 ns and 999,999,000 ns are the same instant, kept in microseconds; a microsecond less is another."""
    event = event_message()
    event.occurred_at.CopyFrom(Timestamp(seconds=YEAR_2000 + 86_400, nanos=999_999_999))
    first = await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    event.occurred_at.nanos = 999_999_000
    second = await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    assert first.status == ledger_pb2.INGEST_STATUS_CREATED
    assert second.status == ledger_pb2.INGEST_STATUS_DUPLICATE
    assert second.transaction_id == first.transaction_id
    kept = (
        await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    ).event
    assert kept.occurred_at == event.occurred_at
    event.occurred_at.nanos = 999_998_999
    with pytest.raises(aio.AioRpcError) as caught:
        await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    assert refusal(caught.value).metadata["differing_fields"] == "occurred_at"


# Row 56. The stored values are such as occur nowhere else, so that they can be looked for in what is told.
STORED = {
    "type": ledger_pb2.EVENT_TYPE_DISPUTE_OPENED,
    "currency": "MRU",
    "amount_minor": 918_273_645,
    "fee_minor": 192_837,
    "occurred_at": datetime(2019, 3, 7, 11, 13, 17, 654_321, tzinfo=UTC),
    "reference": "stored-reference-q7",
    "metadata": {"stored-key-q8": "stored-value-q9"},
}
STORED_TEXTS = (
    "stored-",
    "DISPUTE",
    "dispute",
    "MRU",
    "918273645",
    "192837",
    "654321",
    "2019",
    "1551957197",
)
CHANGES: dict[str, Any] = {
    "type": ledger_pb2.EVENT_TYPE_REFUND_SUCCEEDED,
    "restaurant_id": "another",
    "currency": "PEN",
    "amount_minor": 918_273_644,
    "fee_minor": 0,
    "occurred_at": datetime(2019, 3, 7, 11, 13, 17, 654_322, tzinfo=UTC),
    "reference": "",
}


@pytest.mark.parametrize("changed", CHANGES)
async def test_id_reused_with_another_field_names_the_field_and_nothing_stored(
    shared_ledger: RunningLedger, changed: str
) -> None:
    """Row 56: ALREADY_EXISTS naming exactly the field that differs, no stored value, and the stored event as it was."""
    event_id, restaurant_id = unique("evt"), unique("stored-restaurant")
    original = event_message(event_id=event_id, restaurant_id=restaurant_id, **STORED)  # type: ignore[arg-type]
    await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=original))
    stored = await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event_id))
    before = await counts(shared_ledger)
    altered = {"restaurant_id": restaurant_id, **STORED, changed: CHANGES[changed]} | {
        "metadata": {"a": "b"}
    }
    with pytest.raises(aio.AioRpcError) as caught:
        await send(
            shared_ledger, "IngestEvent", ingest(event_message(event_id=event_id, **altered))
        )
    told = refusal(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EVENT_ID_REUSED")
    assert told.metadata == {"event_id": event_id, "differing_fields": changed}
    assert [text for text in STORED_TEXTS if text in told.everything] == []
    assert_nothing_internal(told.everything)
    assert await counts(shared_ledger) == before, (
        "not even the restaurant that the altered event names"
    )
    assert (
        await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event_id)) == stored
    )


async def test_id_reused_by_a_payout_event_is_a_conflict(shared_ledger: RunningLedger) -> None:
    """A charge's id on a payout event: ALREADY_EXISTS, type and payout_id differ; the payout is not looked for."""
    event = event_message()
    await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    before = await counts(shared_ledger)
    event.type = PAYOUT_PAID
    event.payout_id = "po_none"
    with pytest.raises(aio.AioRpcError) as caught:
        await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    told = refusal(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.ALREADY_EXISTS, "EVENT_ID_REUSED")
    assert told.metadata == {"event_id": event.event_id, "differing_fields": "type,payout_id"}
    assert await counts(shared_ledger) == before


async def test_every_field_that_differs_is_named(shared_ledger: RunningLedger) -> None:
    """Several fields changed: all of them named, in the order of the message's meaning, once each."""
    event_id = unique("evt")
    first = event_message(event_id=event_id, restaurant_id=unique("res"), **STORED)  # type: ignore[arg-type]
    await shared_ledger.ingest(first)
    (result,) = await shared_ledger.ingest(event_message(event_id=event_id, **CHANGES))
    reason, metadata, _ = details_of(result.error)
    assert reason == "EVENT_ID_REUSED"
    assert set(metadata["differing_fields"].split(",")) == set(CHANGES)


async def test_metadata_is_not_compared_and_stays(shared_ledger: RunningLedger) -> None:
    """Rows 55 and 57: the same event with other metadata is a DUPLICATE, and the first metadata stays."""
    event = event_message(metadata={"try": "1"})
    first = await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=event))
    before = await counts(shared_ledger)
    for metadata in ({}, {"try": "2"}, {"try": "1", "more": "x" * 8000}):
        repeat = event_message(event_id=event.event_id, metadata=metadata)
        second = await shared_ledger.stub.IngestEvent(ledger_pb2.IngestEventRequest(event=repeat))
        assert second.status == ledger_pb2.INGEST_STATUS_DUPLICATE
        assert second.transaction_id == first.transaction_id
    kept = await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    assert kept.event == event
    assert await counts(shared_ledger) == before


@pytest.mark.parametrize("type", [PAYOUT_PAID, PAYOUT_FAILED])
async def test_payout_event_of_no_payout_is_not_found(
    shared_ledger: RunningLedger, type: int
) -> None:
    """A payout event names a payout that does not exist: NOT_FOUND however often, and nobody is registered by it."""
    before = await counts(shared_ledger)
    event = event_message(type, restaurant_id=unique("res"), payout_id="po_none")
    for _ in range(2):
        with pytest.raises(aio.AioRpcError) as caught:
            await send(shared_ledger, "IngestEvent", ingest(event))
        told = refusal(caught.value)
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "PAYOUT_NOT_FOUND")
        assert told.metadata == {"payout_id": "po_none"}
        assert_nothing_internal(told.everything)
    assert await counts(shared_ledger) == before


@pytest.mark.parametrize("type", [PAYOUT_PAID, PAYOUT_FAILED])
@pytest.mark.parametrize(
    "payout_id", ["po_none", "-1", UUID_TEXT, UUID_TEXT.upper(), UUID_TEXT.replace("-", "")]
)
async def test_payout_event_names_a_payout_in_its_one_spelling(
    ledger: RunningLedger, type: int, payout_id: str
) -> None:
    """Row 42: whatever no payout is called is NOT_FOUND, were it another spelling of one; nothing is stored."""
    payout = await created_payout(ledger)
    spellings = {payout.payout_id.upper(), payout.payout_id.replace("-", ""), payout_id} - {
        payout.payout_id
    }
    before = await counts(ledger)
    for spelling in sorted(spellings):
        await assert_payout_event_refused(
            ledger,
            payout_event(payout, type, payout_id=spelling),
            (grpc.StatusCode.NOT_FOUND, "PAYOUT_NOT_FOUND"),
            {"payout_id": spelling},
        )
    assert await counts(ledger) == before
    assert (await payout_of(ledger, payout.payout_id)) == payout


async def created_payout(ledger: RunningLedger) -> ledger_pb2.Payout:
    """The payout of a restaurant, in flight."""
    await ledger.ingest(event_message(restaurant_id="res_paid", amount_minor=918_273))
    await ledger.ingest(event_message(restaurant_id="res_other", amount_minor=1))
    today = days_ago(0)
    as_of = date_message(today)
    run = (await ledger.stub.RunPayouts(run_request(as_of=as_of, min_amount_minor=2))).payout_run
    async with asyncio.timeout(DEADLINE_SECONDS):
        while run.state != ledger_pb2.PAYOUT_RUN_STATE_SUCCEEDED:
            run = (
                await ledger.stub.GetPayoutRun(
                    ledger_pb2.GetPayoutRunRequest(payout_run_id=run.payout_run_id)
                )
            ).payout_run
    (payout,) = (await ledger.stub.ListPayouts(ledger_pb2.ListPayoutsRequest())).payouts
    return await payout_of(ledger, payout.payout_id)


async def payout_of(ledger: RunningLedger, payout_id: str) -> ledger_pb2.Payout:
    """A payout with its history."""
    return (await ledger.stub.GetPayout(ledger_pb2.GetPayoutRequest(payout_id=payout_id))).payout


async def assert_payout_event_refused(
    ledger: RunningLedger,
    event: ledger_pb2.ProcessorEvent,
    expected: tuple[grpc.StatusCode, str],
    metadata: dict[str, str],
) -> None:
    """Alone and in a batch, twice, with the same words and none of the inside; the event is not stored."""
    for _ in range(2):
        with pytest.raises(aio.AioRpcError) as caught:
            await send(ledger, "IngestEvent", ingest(event))
        told = refusal(caught.value)
        assert (told.code, told.reason) == expected
        assert told.metadata == metadata
        assert_nothing_internal(told.everything)
        (result,) = await ledger.ingest(event)
        assert (result.error.code, *details_of(result.error)[:2]) == (
            expected[0].value[0],
            expected[1],
            metadata,
        )
    with pytest.raises(aio.AioRpcError) as caught:
        await ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("type", [PAYOUT_PAID, PAYOUT_FAILED])
async def test_payout_event_that_contradicts_its_payout_is_refused(
    ledger: RunningLedger, type: int
) -> None:
    """Row 43: FAILED_PRECONDITION naming the fields that differ, never what the payout has in them."""
    payout = await created_payout(ledger)
    before = await counts(ledger)
    contradictions: dict[str, dict[str, Any]] = {
        "amount_minor": {"amount_minor": payout.amount_minor - 1},
        "restaurant_id": {"restaurant_id": "res_other"},
        "currency": {"currency": "USD"},
        "restaurant_id,currency,amount_minor": {
            "restaurant_id": "res_unknown",
            "currency": "JPY",
            "amount_minor": 1,
        },
    }
    for differing, changes in contradictions.items():
        metadata = {"payout_id": payout.payout_id, "differing_fields": differing}
        expected = (grpc.StatusCode.FAILED_PRECONDITION, "PAYOUT_MISMATCH")
        event = payout_event(payout, type, **changes)
        await assert_payout_event_refused(ledger, event, expected, metadata)
        with pytest.raises(aio.AioRpcError) as caught:
            await send(ledger, "IngestEvent", ingest(event))
        told = refusal(caught.value).everything
        assert [text for text in ("918273", "918_273", "res_paid") if text in told] == []
    assert await counts(ledger) == before
    assert await payout_of(ledger, payout.payout_id) == payout


@pytest.mark.parametrize(
    ("moves", "refused_move", "state"),
    [
        pytest.param((PAYOUT_PAID,), PAYOUT_PAID, "PAID", id="44-paid-twice"),
        pytest.param((PAYOUT_FAILED,), PAYOUT_FAILED, "FAILED", id="45-failed-twice"),
        pytest.param(
            (PAYOUT_PAID, PAYOUT_FAILED), PAYOUT_PAID, "RETURNED", id="45-paid-after-returned"
        ),
        pytest.param(
            (PAYOUT_PAID, PAYOUT_FAILED), PAYOUT_FAILED, "RETURNED", id="45-returned-twice"
        ),
        pytest.param(
            (PAYOUT_FAILED, PAYOUT_PAID),
            PAYOUT_PAID,
            "RETURNED",
            id="45-paid-after-returned-in-the-other-order",
        ),
    ],
)
async def test_payout_move_that_does_not_exist_is_refused(
    ledger: RunningLedger, moves: tuple[int, ...], refused_move: int, state: str
) -> None:
    """Rows 44 and 45: another event about a payout that has ended: FAILED_PRECONDITION with its state; a repeat is DUPLICATE."""
    payout = await created_payout(ledger)
    made = [payout_event(payout, move) for move in moves]
    for event in made:
        assert [result.status for result in await ledger.ingest(event)] == [
            ledger_pb2.INGEST_STATUS_CREATED
        ]
    moved, before = await payout_of(ledger, payout.payout_id), await counts(ledger)
    refused = payout_event(payout, refused_move)
    booked = ",".join(sorted(event.event_id for event in made))
    metadata = {
        "payout_id": payout.payout_id,
        "state": state,
        "event_id": refused.event_id,
        "booked_event_ids": booked,
    }
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "PAYOUT_MOVE_NOT_ALLOWED")
    await assert_payout_event_refused(ledger, refused, expected, metadata)
    repeated = await ledger.ingest(*made)
    assert {result.status for result in repeated} == {ledger_pb2.INGEST_STATUS_DUPLICATE}
    assert await counts(ledger) == before
    assert await payout_of(ledger, payout.payout_id) == moved


@pytest.mark.parametrize("first", [PAYOUT_PAID, PAYOUT_FAILED])
async def test_payment_after_the_failure_is_refused_with_both_events(
    ledger: RunningLedger, first: int
) -> None:
    """By their `occurred_at` the bank paid what it had refused: FAILED_PRECONDITION with the two events, in either order."""
    payout = await created_payout(ledger)
    failed = payout_event(payout, PAYOUT_FAILED)
    paid = payout_event(payout, PAYOUT_PAID)
    paid.occurred_at.FromMicroseconds(failed.occurred_at.ToMicroseconds() + 1)
    booked, refused = (paid, failed) if first == PAYOUT_PAID else (failed, paid)
    assert [result.status for result in await ledger.ingest(booked)] == [
        ledger_pb2.INGEST_STATUS_CREATED
    ]
    moved, before = await payout_of(ledger, payout.payout_id), await counts(ledger)
    metadata = {
        "payout_id": payout.payout_id,
        "state": "PAID" if first == PAYOUT_PAID else "FAILED",
        "event_id": refused.event_id,
        "booked_event_id": booked.event_id,
    }
    expected = (grpc.StatusCode.FAILED_PRECONDITION, "PAYOUT_ANSWERS_CONTRADICT")
    await assert_payout_event_refused(ledger, refused, expected, metadata)
    assert await counts(ledger) == before
    assert await payout_of(ledger, payout.payout_id) == moved


@pytest.mark.parametrize("min_amount_minor", [0, INT64_MAX])
@pytest.mark.parametrize("request_id", ["", "a" * 128, "AZaz09._:-"])
async def test_odd_but_valid_run_is_planned_and_started(
    shared_ledger: RunningLedger, min_amount_minor: int, request_id: str
) -> None:
    """The edges of the terms: a plan writes nothing; the run is created once, and the same terms name it again."""
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
    """Row 68: another minimum or another request id is another run; the same terms name the same one."""
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


async def test_hundred_runs_at_once_starve_nobody(ledger: RunningLedger) -> None:
    """Row 69: the same run for all of them, and balances and events are answered meanwhile."""
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
    assert len({answer.payout_run.payout_run_id for answer in await runs}) == 1
    assert (await counts(ledger))[4] == 1


async def test_balance_beyond_int64_is_told_and_ingest_stays_on(ledger: RunningLedger) -> None:
    """Row 39: as much as ten million events at the cap are worth, put there by SQL: OUT_OF_RANGE, and events are booked."""
    await ledger.ingest(event_message(restaurant_id="whale", amount_minor=AMOUNT_CAP))
    await ledger.query(
        """INSERT INTO ledger_entries (balance_account_id, transaction_id, position, entry_type, debit_account, credit_account,
                                       amount_minor, available_at, occurred_at, event_id)
           SELECT e.balance_account_id, gen_random_uuid(), e.position, e.entry_type, e.debit_account, e.credit_account,
                  9000000000000000000, e.available_at, e.occurred_at, 'whale_' || n
           FROM ledger_entries AS e CROSS JOIN generate_series(1, 2) AS n"""
    )
    with pytest.raises(aio.AioRpcError) as caught:
        await ledger.balance("whale")
    told = refusal(caught.value)
    assert (told.code, told.reason) == (grpc.StatusCode.OUT_OF_RANGE, "AMOUNT_OUT_OF_RANGE")
    assert_nothing_internal(told.everything)
    (result,) = await ledger.ingest(event_message(restaurant_id="whale"))
    assert result.status == ledger_pb2.INGEST_STATUS_CREATED
    await assert_serving(ledger)


async def test_balance_long_before_the_first_entry_is_zero(shared_ledger: RunningLedger) -> None:
    """As of the far past, down to the year 1: zeros, no latest event, and the instant that was asked for."""
    restaurant_id = unique("res")
    await shared_ledger.ingest(event_message(restaurant_id=restaurant_id))
    for seconds, nanos in ((YEAR_1, 0), (YEAR_1, 999), (-1, 999_999_999), (0, 0), (1, 1)):
        as_of = Timestamp(seconds=seconds, nanos=nanos)
        request = ledger_pb2.GetBalanceRequest(
            restaurant_id=restaurant_id, currency="PEN", as_of=as_of
        )
        balance = await shared_ledger.stub.GetBalance(request)
        assert (
            balance.available_minor,
            balance.pending_minor,
            balance.reserved_minor,
            balance.disputed_minor,
        ) == (0, 0, 0, 0)
        assert not balance.HasField("last_event_at")
        assert (balance.as_of.seconds, balance.as_of.nanos) == (seconds, nanos // 1000 * 1000)


async def test_balance_of_a_known_restaurant_without_entries_is_zero(
    shared_ledger: RunningLedger,
) -> None:
    """Row 61: zeros, in any currency, where the restaurant is registered."""
    restaurant_id = unique("res")
    await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id=restaurant_id)
    )
    balance = await shared_ledger.balance(restaurant_id, "JPY")
    assert (
        balance.available_minor,
        balance.pending_minor,
        balance.reserved_minor,
        balance.disputed_minor,
    ) == (0, 0, 0, 0)
    assert not balance.HasField("last_event_at")


async def test_batch_tells_each_event_its_own_fate_in_order(shared_ledger: RunningLedger) -> None:
    """Row 60: good and bad events mixed, one result each in the order of the request, the bad ones with code and reason."""
    restaurant_id = unique("res")
    stored = event_message(restaurant_id=restaurant_id)
    await shared_ledger.ingest(stored)
    altered = event_message(event_id=stored.event_id, restaurant_id=restaurant_id, amount_minor=1)
    new = event_message(restaurant_id=restaurant_id)
    other = event_message(restaurant_id=restaurant_id, amount_minor=5)
    before = await counts(shared_ledger)
    results = await shared_ledger.ingest(
        event_message(restaurant_id="", amount_minor=0),
        new,
        altered,
        stored,
        event_message(PAYOUT_PAID, payout_id="po_none"),
        ledger_pb2.ProcessorEvent(),
        other,
        event_message(currency="ZZZ", occurred_at=datetime(1999, 1, 1, tzinfo=UTC)),
    )
    told = [
        (
            result.status,
            result.error.code,
            *(details_of(result.error) if result.HasField("error") else ()),
        )
        for result in results
    ]
    invalid, exists, missing = (
        grpc.StatusCode[name].value[0]
        for name in ("INVALID_ARGUMENT", "ALREADY_EXISTS", "NOT_FOUND")
    )
    assert told[0][1:4] == (invalid, "INVALID_REQUEST", {"field": "events[0].restaurant_id"})
    assert told[0][4] == ("events[0].restaurant_id", "events[0].amount_minor")
    assert told[1] == (ledger_pb2.INGEST_STATUS_CREATED, 0)
    assert told[2][1:4] == (
        exists,
        "EVENT_ID_REUSED",
        {"event_id": stored.event_id, "differing_fields": "amount_minor"},
    )
    assert told[3] == (ledger_pb2.INGEST_STATUS_DUPLICATE, 0)
    assert told[4][1:4] == (missing, "PAYOUT_NOT_FOUND", {"payout_id": "po_none"})
    assert told[5][1:3] == (invalid, "INVALID_REQUEST")
    assert "events[5].event_id" in told[5][4]
    assert told[6] == (ledger_pb2.INGEST_STATUS_CREATED, 0)
    assert set(told[7][4]) == {"events[7].currency", "events[7].occurred_at"}
    for result in results:
        assert bool(result.transaction_id) == (not result.HasField("error"))
        assert (result.status == ledger_pb2.INGEST_STATUS_UNSPECIFIED) == result.HasField("error")
        assert_nothing_internal(str(result.error))
    after = await counts(shared_ledger)
    assert (after[0] - before[0], after[1] - before[1]) == (2, 2)
    for event in (new, other):
        kept = await shared_ledger.stub.GetEvent(
            ledger_pb2.GetEventRequest(event_id=event.event_id)
        )
        assert kept.event == event


async def test_same_id_twice_in_one_batch_is_booked_once(shared_ledger: RunningLedger) -> None:
    """The first is CREATED, its twin a DUPLICATE with the same transaction id, an altered twin ALREADY_EXISTS."""
    restaurant_id = unique("res")
    event = event_message(restaurant_id=restaurant_id)
    altered = event_message(event_id=event.event_id, restaurant_id=restaurant_id, fee_minor=1)
    results = await shared_ledger.ingest(event, event, altered, event)
    assert [result.status for result in results] == [
        ledger_pb2.INGEST_STATUS_CREATED,
        ledger_pb2.INGEST_STATUS_DUPLICATE,
        ledger_pb2.INGEST_STATUS_UNSPECIFIED,
        ledger_pb2.INGEST_STATUS_DUPLICATE,
    ]
    assert len({result.transaction_id for result in results if result.transaction_id}) == 1
    reason, metadata, _ = details_of(results[2].error)
    assert (results[2].error.code, reason) == (
        grpc.StatusCode.ALREADY_EXISTS.value[0],
        "EVENT_ID_REUSED",
    )
    assert metadata == {"event_id": event.event_id, "differing_fields": "fee_minor"}
    assert (await shared_ledger.balance(restaurant_id)).available_minor == event.amount_minor


async def test_id_of_a_refused_event_is_free_for_the_next_in_the_batch(
    shared_ledger: RunningLedger,
) -> None:
    """First a payout event of no payout, then a charge with the same id: NOT_FOUND, then CREATED, and a repeat is DUPLICATE."""
    restaurant_id = unique("res")
    charge = event_message(restaurant_id=restaurant_id)
    payout = event_message(
        PAYOUT_PAID, event_id=charge.event_id, restaurant_id=restaurant_id, payout_id="po_none"
    )
    results = await shared_ledger.ingest(payout, charge, charge)
    assert details_of(results[0].error)[0] == "PAYOUT_NOT_FOUND"
    assert [result.status for result in results[1:]] == [
        ledger_pb2.INGEST_STATUS_CREATED,
        ledger_pb2.INGEST_STATUS_DUPLICATE,
    ]
    assert (await shared_ledger.balance(restaurant_id)).available_minor == charge.amount_minor


async def test_id_of_an_invalid_event_is_free_for_the_next_in_the_batch(
    shared_ledger: RunningLedger,
) -> None:
    """First an invalid event, then a valid one with the same id: INVALID_ARGUMENT, then CREATED."""
    charge = event_message(restaurant_id=unique("res"))
    results = await shared_ledger.ingest(
        event_message(event_id=charge.event_id, amount_minor=0), charge
    )
    assert details_of(results[0].error)[0] == "INVALID_REQUEST"
    assert results[1].status == ledger_pb2.INGEST_STATUS_CREATED


async def test_batch_of_a_thousand_wrong_events_is_answered(shared_ledger: RunningLedger) -> None:
    """The largest batch with the most to say about each event still fits a message."""
    wrong = event_message(
        event_id="",
        restaurant_id="",
        currency="",
        amount_minor=-1,
        fee_minor=-1,
        reference="\n",
        metadata={"": "\0"},
    )
    wrong.type = -1  # type: ignore[assignment]
    wrong.occurred_at.nanos = -1
    before = await counts(shared_ledger)
    results = await shared_ledger.ingest(*[wrong] * 1000)
    assert len(results) == 1000
    assert {details_of(result.error)[0] for result in results} == {"EVENT_TYPE_UNKNOWN"}
    assert await counts(shared_ledger) == before


async def test_page_size_has_a_ceiling(ledger: RunningLedger) -> None:
    """Row 72: 0 means 100, and more than 1,000 is taken as 1,000."""
    await ledger.query(
        "INSERT INTO restaurants (restaurant_id) SELECT 'res_' || lpad(n::text, 5, '0') FROM generate_series(1, 1001) AS n"
    )
    for asked, given in (
        (0, 100),
        (1, 1),
        (1000, 1000),
        (1001, 1000),
        (10**9, 1000),
        (2**31 - 1, 1000),
    ):
        page = await ledger.stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest(page_size=asked))
        assert len(page.restaurants) == given
        assert page.next_page_token


async def test_pages_of_large_profiles_can_be_read_with_any_page_size(
    ledger: RunningLedger,
) -> None:
    """The largest page of the largest profiles still fits a message that a caller with default limits can receive."""
    await ledger.query(
        "INSERT INTO restaurants (restaurant_id, metadata) "
        "SELECT 'res_' || lpad(n::text, 5, '0'), jsonb_build_object('note', repeat('x', 8000)) FROM generate_series(1, 1000) AS n"
    )
    seen: list[str] = []
    token = ""
    while True:
        page = await ledger.stub.ListRestaurants(
            ledger_pb2.ListRestaurantsRequest(page_size=1000, page_token=token)
        )
        seen += [restaurant.restaurant_id for restaurant in page.restaurants]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"res_{number:05d}" for number in range(1, 1001)]


async def test_damaged_page_token_is_refused(shared_ledger: RunningLedger) -> None:
    """Row 73: a token with any character changed, cut off or added is INVALID_ARGUMENT; the token itself goes on."""
    for _ in range(3):
        await shared_ledger.stub.PutRestaurant(
            ledger_pb2.PutRestaurantRequest(restaurant_id=unique("res"))
        )
    token = (
        await shared_ledger.stub.ListRestaurants(ledger_pb2.ListRestaurantsRequest(page_size=1))
    ).next_page_token
    damaged = [
        token[:-1],
        token[1:],
        token + "A",
        token + "=",
        token * 2,
        token.swapcase(),
        f" {token}",
        f"{token}\n",
    ]
    seed = 20261120
    chosen = random.Random(seed)
    for place in chosen.sample(range(len(token)), 12):
        damaged.append(token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :])
    for wrong in damaged:
        with pytest.raises(aio.AioRpcError) as caught:
            await shared_ledger.stub.ListRestaurants(
                ledger_pb2.ListRestaurantsRequest(page_size=1, page_token=wrong)
            )
        told = refusal(caught.value)
        assert (told.code, told.fields) == (INVALID, ("page_token",)), f"{wrong!r} (seed {seed})"
    page = await shared_ledger.stub.ListRestaurants(
        ledger_pb2.ListRestaurantsRequest(page_size=1, page_token=token)
    )
    assert page.restaurants


async def test_reference_and_metadata_are_text_and_no_statement(
    shared_ledger: RunningLedger,
) -> None:
    """Row 12: what looks like SQL is kept as it is."""
    text = "'); DROP TABLE processor_events; --"
    event = event_message(reference=text, metadata={text: text})
    await shared_ledger.ingest(event)
    kept = await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=event.event_id))
    assert kept.event == event
    assert timestamp(kept.recorded_at.ToDatetime(UTC)) == kept.recorded_at


# What no gRPC library sends: HTTP/2 frames by hand (RFC 9113), headers as plain literals (RFC 7541, section 6.2.2).
HEADERS_FRAME, DATA_FRAME, SETTINGS_FRAME, RESET_FRAME, GOAWAY_FRAME = 1, 0, 4, 3, 7
END_STREAM, END_HEADERS = 1, 4


def call_by_hand(body: bytes, **changed: str) -> bytes:
    """The bytes of a whole IngestEvent call, with some headers changed."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{SERVICE}/IngestEvent",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    } | {name.replace("_", "-"): value for name, value in changed.items()}
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(SETTINGS_FRAME, 0, 0, b"")
        + frame(HEADERS_FRAME, END_HEADERS, 1, block)
        + frame(DATA_FRAME, END_STREAM, 1, body)
    )


async def answer_by_hand(address: str, request: bytes) -> grpc.StatusCode | None:
    """The status of a call made of bytes; None when it was reset, or the connection closed, without one."""
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            writer.write(request)
            while True:
                head = await reader.readexactly(9)
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
                payload = await reader.readexactly(int.from_bytes(head[:3]))
                if kind == HEADERS_FRAME and (
                    found := re.search(rb"grpc-status[\x01\x02]([0-9]{1,2})", payload)
                ):
                    return {code.value[0]: code for code in grpc.StatusCode}[int(found.group(1))]
                if kind in (RESET_FRAME, GOAWAY_FRAME) or (stream == 1 and flags & END_STREAM):
                    return None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    finally:
        writer.close()


_MESSAGE = grpc_message(ingest(event_message(event_id="by-hand")))
# Here grpc answers before the service is asked, each of its versions in its own way.
CUT_OFF = {None, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED}
BY_HAND: dict[str, tuple[bytes, set[grpc.StatusCode | None]]] = {
    "78-unknown-encoding": (
        call_by_hand(grpc_message(b"x", compressed=1), grpc_encoding="snail"),
        CUT_OFF,
    ),
    "78-compressed-without-encoding": (call_by_hand(grpc_message(b"x", compressed=1)), CUT_OFF),
    "78-gzip-that-is-none": (
        call_by_hand(grpc_message(b"x", compressed=1), grpc_encoding="gzip"),
        CUT_OFF,
    ),
    "80-binary-header-not-base64": (call_by_hand(_MESSAGE, x_data_bin="!!!!"), CUT_OFF),
    "82-http-1": (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", {None}),
    "82-tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), {None}),
    "83-timeout-of-0": (
        call_by_hand(_MESSAGE, grpc_timeout="0n"),
        {grpc.StatusCode.DEADLINE_EXCEEDED, None},
    ),
    "83-timeout-garbage": (call_by_hand(_MESSAGE, grpc_timeout="soon"), CUT_OFF),
    "84-message-of-4-GiB-said": (call_by_hand(b"\0\xff\xff\xff\xff" + _MESSAGE), {TOO_LARGE}),
}


@pytest.mark.parametrize("name", BY_HAND)
async def test_call_that_breaks_the_transport_is_turned_away(
    shared_ledger: RunningLedger, name: str
) -> None:
    """Refused by grpc or cut off, soon; the event of it not booked; other callers untouched."""
    before = await counts(shared_ledger)
    request, expected = BY_HAND[name]
    assert await answer_by_hand(shared_ledger.address, request) in expected
    assert await counts(shared_ledger) == before
    await assert_serving(shared_ledger)


async def test_call_by_hand_is_booked(shared_ledger: RunningLedger) -> None:
    """The frames above are such as a server takes, when nothing in them is wrong."""
    before = await counts(shared_ledger)
    request = call_by_hand(grpc_message(ingest(event_message())), grpc_timeout="99999999H")
    assert await answer_by_hand(shared_ledger.address, request) is OK
    assert (await counts(shared_ledger))[0] == before[0] + 1


async def test_unknown_restaurant_is_rejected_where_the_setting_says_so(database: Database) -> None:
    """With `reject`, an event of an unregistered restaurant is NOT_FOUND and registers nobody; the others are booked."""
    async with running_ledger(database, unknown_restaurants="reject") as ledger:
        unknown = event_message(restaurant_id="unknown")
        before = await counts(ledger)
        with pytest.raises(aio.AioRpcError) as caught:
            await send(ledger, "IngestEvent", ingest(unknown))
        told = refusal(caught.value)
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "RESTAURANT_NOT_FOUND")
        assert told.metadata == {"restaurant_id": "unknown"}
        assert await counts(ledger) == before
        await ledger.stub.PutRestaurant(ledger_pb2.PutRestaurantRequest(restaurant_id="known"))
        known = event_message(event_id=unknown.event_id, restaurant_id="known")
        results = await ledger.ingest(
            unknown, unknown, known, event_message(restaurant_id="known"), known
        )
        told_of = [
            details_of(result.error)[0] if result.HasField("error") else result.status
            for result in results
        ]
        created, duplicate = ledger_pb2.INGEST_STATUS_CREATED, ledger_pb2.INGEST_STATUS_DUPLICATE
        assert told_of == [
            "RESTAURANT_NOT_FOUND",
            "RESTAURANT_NOT_FOUND",
            created,
            created,
            duplicate,
        ]
        assert await ledger.query("SELECT restaurant_id FROM restaurants") == [("known",)]


PLANTED = {
    "event": "ALTER TABLE processor_events ADD CONSTRAINT planted CHECK (restaurant_id <> 'poison')",
    "entry": "ALTER TABLE ledger_entries ADD CONSTRAINT planted CHECK (amount_minor <> 666)",
    "restaurant": "ALTER TABLE restaurants ADD CONSTRAINT planted CHECK (restaurant_id <> 'poison')",
    "account": "ALTER TABLE balance_accounts ADD CONSTRAINT planted CHECK (restaurant_id <> 'poison')",
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_event_that_only_the_database_refuses_stands_alone(
    ledger: RunningLedger, planted: str
) -> None:
    """A rule of the database that validation does not know: INVALID_ARGUMENT for the one event, the others are booked."""
    await ledger.query(PLANTED[planted])
    poison = event_message(restaurant_id="poison", amount_minor=666)
    good = [event_message(restaurant_id=unique("res")) for _ in range(9)]
    results = await ledger.ingest(*good[:4], poison, *good[4:])
    assert [result.status for result in results[:4] + results[5:]] == [
        ledger_pb2.INGEST_STATUS_CREATED
    ] * 9
    reason, metadata, _ = details_of(results[4].error)
    assert (results[4].error.code, reason) == (INVALID.value[0], "EVENT_REJECTED")
    assert metadata == {"event_id": poison.event_id}
    assert_nothing_internal(str(results[4].error))
    with pytest.raises(aio.AioRpcError) as caught:
        await send(ledger, "IngestEvent", ingest(poison))
    told = refusal(caught.value)
    assert (told.code, told.reason) == (INVALID, "EVENT_REJECTED")
    assert_nothing_internal(told.everything)
    assert await ledger.query("SELECT count(*) FROM processor_events") == [(9,)]
