"""Bad requests for tests, as bytes: a test can also send what no protobuf library would send."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from google.type import date_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from ledger.api.methods import METHODS
from ledger.infrastructure.postgres.sessions.driver import Connection
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2
from support.events import event_message
from support.health import SERVICE, SERVICES
from support.in_memory import MemoryLedger
from support.page_tokens import checksummed_token
from support.running import COUNT_EVERYTHING, RunningLedger
from support.waiting import DEADLINE_SECONDS, until

# The type of each method's request.
REQUEST_TYPES = {
    method.name: method.input_type
    for file in (ledger_pb2, account_pb2, payment_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
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

# Words of the database, the driver and the interpreter, which no status may contain.
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


@dataclass(frozen=True, slots=True)
class Case:
    """A request and the status that it must receive.

    `reason` is None where gRPC itself responds, which sends no ErrorInfo; `fields` are those of the
    BadRequest.

    A request with a time close to now is a function, called when the test sends it: the cases are
    built long before.
    """

    method: str
    request: bytes | Callable[[], bytes]
    code: grpc.StatusCode = INVALID
    reason: str | None = "INVALID_REQUEST"
    fields: tuple[str, ...] = ()

    def sent(self) -> bytes:
        """The bytes of the request."""
        return self.request if isinstance(self.request, bytes) else self.request()


# Cases with their names.
Cases = Sequence[tuple[str, Case]]
CASES_OF_A_TEST = 25


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error that a caller receives for a failed call."""

    code: grpc.StatusCode
    reason: str | None
    metadata: dict[str, str]
    fields: tuple[str, ...]
    everything: str


def refusal(error: aio.AioRpcError) -> Refusal:
    """Everything that a failed call shows its caller, as a Refusal."""
    got: Any = error
    status = rpc_status.from_call(got)
    everything = f"{error.details()} {error.debug_error_string()}"
    if status is None:
        return Refusal(error.code(), None, {}, (), everything)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    reason, metadata, fields = checked_details_of(status)
    return Refusal(
        error.code(), reason, metadata, fields, f"{everything} {reason} {metadata} {status}"
    )


def checked_details_of(status: status_pb2.Status) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Returns reason and metadata of the ErrorInfo, and the fields of the BadRequest.

    Every status of this service has exactly one ErrorInfo.
    """
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
    """Asserts that the text of an error contains no word of the implementation."""
    assert [word for word in INTERNALS if word in text.lower()] == [], text


def path_of(method: str) -> str:
    """The path of a method of any service, or of one that does not exist."""
    return METHODS[method].path if method in METHODS else f"/{SERVICE}/{method}"


async def send(ledger: RunningLedger, method: str, request: bytes, **options: Any) -> bytes:
    """Sends raw bytes and returns raw bytes."""
    call: Any = ledger.channel.unary_unary(
        path_of(method), request_serializer=None, response_deserializer=None
    )
    response: bytes = await call(request, **options)
    return response


async def counts(ledger: RunningLedger) -> tuple[Any, ...]:
    """How many rows the tables have."""
    return (await ledger.query(COUNT_EVERYTHING))[0]


async def assert_serving(ledger: RunningLedger | MemoryLedger) -> None:
    """Asserts that the server is alive and becomes ready; of the one in memory, nothing: its
    health follows no database.
    """
    if isinstance(ledger, MemoryLedger):
        return
    health: Any = health_pb2_grpc.HealthStub(ledger.channel)

    async def is_serving(service: str) -> bool:
        response = await health.Check(health_pb2.HealthCheckRequest(service=service))
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

    async def is_ready() -> bool:
        return all([await is_serving(service) for service in SERVICES])

    assert await is_serving("")
    # Ready once its database has responded in time, which may be a moment after the start.
    await until(is_ready, DEADLINE_SECONDS)


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
    """An IngestEvent request, with `appended` behind the bytes of the event.

    Of a field that comes twice, the later one counts.
    """
    return field(1, event.SerializeToString() + appended)


def event_case(*fields: str, **changes: Any) -> Case:
    """An event with some fields changed, refused for `fields`."""
    return Case(
        "IngestEvent",
        ingest(event_message(**changes)),
        fields=tuple(f"event.{name}" for name in fields),
    )


def accepted(**changes: Any) -> Case:
    """An event with some fields changed that is booked nevertheless."""
    return Case("IngestEvent", ingest(event_message(**changes)), OK, None)


def in_an_hour() -> Timestamp:
    """One hour after the call of this function: no request may ask for this instant."""
    return Timestamp(seconds=int((datetime.now(UTC) + timedelta(hours=1)).timestamp()))


def instant_case(seconds: int, nanos: int = 0) -> Case:
    """An event whose `occurred_at` is refused."""
    event = event_message()
    event.occurred_at.CopyFrom(Timestamp(seconds=seconds, nanos=nanos))
    return Case("IngestEvent", ingest(event), fields=("event.occurred_at",))


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


# Seconds and nanoseconds of instants that do not exist, or at which nothing can have happened.
BAD_INSTANTS = {
    "before-year-1": (YEAR_1 - 1, 0),
    "year-10000": (YEAR_9999 + 1, 0),
    "seconds-min": (INT64_MIN, 0),
    "seconds-max": (INT64_MAX, 0),
    "nanos-below-0": (0, -1),
    "nanos-a-second": (0, 10**9),
    "nanos-max": (0, 2**31 - 1),
    "end-of-year-9999": (YEAR_9999, 999_999_999),
}

UUID_TEXT = "0190a1b2-0000-7000-8000-000000000000"


# Ids that this service never makes: it spells an id in one way only.
BAD_UUIDS = {
    "empty": "",
    "word": "abc",
    "number": "1",
    "negative": "-1",
    "beyond-uint64": str(2**64),
    "braces": f"{{{UUID_TEXT}}}",
    "urn": f"urn:uuid:{UUID_TEXT}",
    "upper-case": UUID_TEXT.upper(),
    "no-hyphens": UUID_TEXT.replace("-", ""),
    "trailing-space": f"{UUID_TEXT} ",
    "line-feed": f"{UUID_TEXT}\n",
    "cut": UUID_TEXT[:-1],
    "full-width-digit": f"\uff10{UUID_TEXT[1:]}",
    "nul": f"{UUID_TEXT[:-1]}\0",
    "sql": "'; DROP TABLE payouts;--",
    "200-KiB": "a" * (200 * 1024),
}


BAD_DATES = {
    "year-0": (0, 2, 3),
    "month-0": (2026, 0, 3),
    "day-0": (2026, 2, 0),
    "all-0": (0, 0, 0),
    "february-30": (2026, 2, 30),
    "no-leap-day": (2025, 2, 29),
    "month-13": (2026, 13, 1),
    "day-32": (2026, 1, 32),
    "negative-year": (-1, 1, 1),
    "negative-month": (2026, -1, 1),
    "year-1": (1, 1, 1),
    "year-1999": (1999, 12, 31),
    "year-9999": (9999, 12, 31),
    "year-10000": (10_000, 1, 1),
    "int32-max": (2**31 - 1, 2**31 - 1, 2**31 - 1),
    "int32-min": (-(2**31), -(2**31), -(2**31)),
    "year-9998": (9998, 12, 31),
}


def entries_request(**fields: Any) -> bytes:
    """A ListEntries request of the restaurant that is known to have no entries."""
    return ledger_pb2.ListEntriesRequest(
        **({"restaurant_id": "known", "currency": "PEN"} | fields)
    ).SerializeToString()


def entries_case(*fields: str, **changes: Any) -> Case:
    """A statement with some fields changed, refused for `fields`."""
    return Case("ListEntries", entries_request(**changes), fields=fields)


def run_request(**fields: Any) -> ledger_pb2.RunPayoutsRequest:
    """A RunPayouts request for a day of the past."""
    terms: dict[str, Any] = {"currency": "PEN", "as_of": date_pb2.Date(year=2026, month=1, day=2)}
    return ledger_pb2.RunPayoutsRequest(**(terms | fields))


def run_case(*fields: str, **changes: Any) -> Case:
    """A payout run with some fields changed, refused for `fields`."""
    return Case("RunPayouts", run_request(**changes).SerializeToString(), fields=fields)


def case_of(method: str, *fields: str, **contents: Any) -> Case:
    """A request of any method, refused for `fields`. A mapping stands for a message in it."""
    kind = GetMessageClass(REQUEST_TYPES[method])
    return Case(method, kind(**contents).SerializeToString(), fields=fields)


def account_case(*fields: str, **changes: Any) -> Case:
    """An account with some fields changed, refused for `fields`."""
    account = {"account_id": "acc_bad", "currency": "PEN"}
    return case_of("CreateAccount", *fields, **account | changes)


def order_of(**changes: Any) -> dict[str, Any]:
    """A transfer between two accounts that exist, with some fields changed; None: left out."""
    order: dict[str, Any] = {
        "payment_id": "pay_bad",
        "payer_account_id": "known",
        "payee_account_id": "known_2",
        "amount_minor": 10_000,
        "currency": "PEN",
    }
    if "payee_restaurant_id" in changes:
        del order["payee_account_id"]
    return {name: value for name, value in (order | changes).items() if value is not None}


def payment_case(*fields: str, **changes: Any) -> Case:
    """A payment with some fields changed, refused for `fields`."""
    order = order_of(**{"capture": payment_pb2.CAPTURE_MODE_MANUAL} | changes)
    return case_of("AuthorizePayment", *fields, **order)


def bad_metadata() -> Iterator[tuple[str, dict[str, str]]]:
    """Metadata that is too large, as counted in bytes, or that cannot be stored as text."""
    yield "value-of-8193", {"": "a" * 8193}
    yield "key-of-8193", {"a" * 8193: ""}
    yield "2731-euro-signs", {"": "\u20ac" * 2731}
    yield "many", {f"key_{number:05d}": "" for number in range(1000)}
    yield "nul-in-key", {"a\0": "x"}
    yield "nul-in-value", {"a": "x\0y"}


OF_NAME = field_mask_pb2.FieldMask(paths=["name"])


def bad_page_tokens(query: list[str]) -> Iterator[tuple[str, str]]:
    """Tokens that no list has returned.

    Most have a checksum, which a caller can compute, instead of the server's MAC.
    """
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


def params(*cases: Iterable[tuple[str, Case]]) -> list[Any]:
    """The cases with their names."""
    return [pytest.param(case, id=name) for some in cases for name, case in some]


def groups(*cases: Iterable[tuple[str, Case]]) -> list[Any]:
    """The cases by their methods, as many as a test makes: one test each would take most of its
    time before and after the call.
    """
    by_method: dict[str, list[tuple[str, Case]]] = {}
    for some in cases:
        for name, case in some:
            by_method.setdefault(case.method, []).append((name, case))
    return [
        pytest.param(of_method[first : first + CASES_OF_A_TEST], id=f"{method}-{first}")
        for method, of_method in by_method.items()
        for first in range(0, len(of_method), CASES_OF_A_TEST)
    ]


async def assert_conflict(
    ledger: RunningLedger, case: Case, reason: str, id_field: str, differing_fields: str
) -> None:
    """Asserts that a case is ALREADY_EXISTS, and that the error names the id and the fields that
    differ, and no values.
    """
    before = await counts(ledger)
    with pytest.raises(aio.AioRpcError) as caught:
        await send(ledger, case.method, case.sent())
    refused = refusal(caught.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, reason)
    assert set(refused.metadata) == {id_field, "differing_fields"}
    assert refused.metadata["differing_fields"] == differing_fields
    assert_nothing_internal(refused.everything)
    assert await counts(ledger) == before


async def assert_refused(
    ledger: RunningLedger, connection: Connection | MemoryLedger, cases: Cases
) -> None:
    """Asserts that each case gets its status, reason and fields; an error names the case.

    Asserts too that no call stores anything, that no error shows anything internal, and that the
    server still serves.
    """
    before = await connection.fetchrow(COUNT_EVERYTHING)
    for name, case in cases:
        try:
            await _assert_refused(ledger, case)
        except (AssertionError, pytest.fail.Exception) as error:
            error.add_note(f"the case {name}")
            raise
    assert await connection.fetchrow(COUNT_EVERYTHING) == before, [name for name, _ in cases]
    await assert_serving(ledger)


async def _assert_refused(ledger: RunningLedger, case: Case) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await send(ledger, case.method, case.sent())
    refused = refusal(caught.value)
    assert (refused.code, refused.reason) == (case.code, case.reason)
    assert set(refused.fields) == set(case.fields)
    assert len(refused.fields) == len(case.fields), "each field once"
    if case.reason == "INVALID_REQUEST":
        assert refused.metadata == {"field": refused.fields[0]}
    assert_nothing_internal(refused.everything)
