"""Random requests: messages of the contract with extreme values, and valid ones with damaged bytes.

Each must end with a status of the contract, show nothing internal, and leave the server healthy.
The cases are the same in every run. With LEDGER_FUZZ_EXAMPLES there are more, which differ in each
run; hypothesis prints how to repeat one that fails.
"""

import os
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bad_requests import INTERNALS, REQUEST_TYPES, UUID_TEXT, path_of
from support.events import event_message
from support.fuzzing import (
    BATCH_RESPONSES,
    INTEGERS,
    KNOWN_ACCOUNTS,
    KNOWN_PAYMENT,
    VALID,
)
from support.health import until_serving
from support.running import RunningLedger

from ledger.v1 import error_reason_pb2, ledger_pb2

# Streams are fuzzed in test_fuzz_calls.py.
UNARY_METHODS = sorted(set(REQUEST_TYPES) - {"StreamEvents"})

ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
}
REASONS = {
    name.removeprefix("ERROR_REASON_")
    for name in error_reason_pb2.ErrorReason.keys()  # noqa: SIM118
}

NEVER = {"UNSPECIFIED", "INTERNAL", "EVENT_REJECTED", "PAYMENT_REJECTED"}

EXAMPLES = int(os.environ.get("LEDGER_FUZZ_EXAMPLES", "0"))
RULES = settings(
    max_examples=EXAMPLES or 250,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    # The server is shared by all cases on purpose.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", autouse=True)
async def _known(shared_ledger: RunningLedger) -> None:
    """What the valid requests are about."""
    await shared_ledger.stub.PutRestaurant(ledger_pb2.PutRestaurantRequest(restaurant_id="known"))
    for account in KNOWN_ACCOUNTS:
        await shared_ledger.accounts.CreateAccount(account)
    await shared_ledger.payments.AuthorizePayment(KNOWN_PAYMENT)


TEXTS = st.one_of(
    st.sampled_from(
        [
            UUID_TEXT,
            UUID_TEXT.upper(),
            "",
            " ",
            "PEN",
            "JPY",
            "XXX",
            "pen",
            "evt_1",
            "res_1",
            "known",
            "known_2",
            "a" * 128,
            "a" * 129,
            "\0",
            "\n",
            "'--",
            "\ufeff",
        ]
    ),
    st.text(max_size=20),
    st.from_regex(r"[A-Za-z0-9._:-]{1,12}", fullmatch=True),
)


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values for a field, more often extreme ones than others."""
    if field.message_type is not None:
        return messages(field.message_type)
    if field.cpp_type in INTEGERS:
        low, high = INTEGERS[field.cpp_type][0], max(INTEGERS[field.cpp_type])
        return st.one_of(st.sampled_from(INTEGERS[field.cpp_type]), st.integers(low, high))
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return st.one_of(st.integers(0, 11), st.sampled_from([-1, 77, 2**31 - 1, -(2**31)]))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    assert field.cpp_type == FieldDescriptor.CPPTYPE_STRING, f"no values for {field.full_name}"
    return TEXTS


def messages(descriptor: Descriptor) -> st.SearchStrategy[Message]:
    """Messages of a type with some of their fields set."""

    def strategy(field: FieldDescriptor) -> st.SearchStrategy[Any]:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
            return st.dictionaries(values(key), values(value), max_size=3)
        return st.lists(values(field), max_size=3) if field.is_repeated else values(field)

    optional = {field.name: strategy(field) for field in descriptor.fields}
    return st.fixed_dictionaries({}, optional=optional).map(
        lambda fields: GetMessageClass(descriptor)(**fields)
    )


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A method and a request of its type."""
    method = draw(st.sampled_from(UNARY_METHODS))
    return method, draw(messages(REQUEST_TYPES[method])).SerializeToString()


@st.composite
def damaged_requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A method and the bytes of a valid request, some of them changed, removed or repeated."""
    method = draw(st.sampled_from(UNARY_METHODS))
    raw = bytearray(VALID[method].SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(["flip", "cut", "remove", "stuff", "repeat"])):
            case "flip" if place < len(raw):
                raw[place] ^= draw(st.integers(1, 255))
            case "cut":
                del raw[place:]
            case "remove":
                del raw[place : place + draw(st.integers(1, 8))]
            case "stuff":
                raw[place:place] = draw(st.binary(min_size=1, max_size=12))
            case _:
                raw += raw[place:]
    return method, bytes(raw)


async def outcome(ledger: RunningLedger, method: str, request: bytes) -> bytes | aio.AioRpcError:
    """The response or the error of a call with raw bytes."""
    call: Any = ledger.channel.unary_unary(
        path_of(method), request_serializer=None, response_deserializer=None
    )
    try:
        response: bytes = await call(request, timeout=60)
    except aio.AioRpcError as error:
        return error
    return response


async def assert_ends_as_promised(ledger: RunningLedger, method: str, request: bytes) -> None:
    """Asserts that the call ends with a status of the contract, never with UNKNOWN or INTERNAL."""
    ended = await outcome(ledger, method, request)
    if isinstance(ended, aio.AioRpcError):
        assert ended.code() in ALLOWED, f"{ended.code()}: {ended.details()}"
        call: Any = ended
        status = rpc_status.from_call(call)
        assert status is not None, "there is no ErrorInfo"
        assert_explained(status)
        return
    if method in BATCH_RESPONSES:
        for result in BATCH_RESPONSES[method].FromString(ended).results:
            # The status UNSPECIFIED.
            assert result.HasField("error") == (result.status == 0)
            if result.HasField("error"):
                assert_explained(result.error)


def assert_explained(status: status_pb2.Status) -> None:
    """Asserts that a status has a reason of the contract, the fields of an invalid request, and
    shows nothing internal.
    """
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert info.reason in REASONS - NEVER, info.reason
    if info.reason == "INVALID_REQUEST":
        assert status.details[1].Unpack(bad_request)
        assert bad_request.field_violations
    assert [word for word in INTERNALS if word in str(status).lower()] == []


async def assert_healthy(ledger: RunningLedger) -> None:
    """Asserts that the server becomes ready, and that every event has entries and every entry its
    event.
    """
    await until_serving(ledger)
    orphans = await ledger.query(
        "SELECT e.event_id FROM ledger_entries AS e WHERE e.event_id IS NOT NULL "
        "AND NOT EXISTS (SELECT FROM processor_events AS v WHERE v.event_id = e.event_id) "
        "UNION ALL SELECT v.event_id FROM processor_events AS v "
        "WHERE NOT EXISTS (SELECT FROM ledger_entries AS e WHERE e.event_id = v.event_id)"
    )
    assert orphans == []


@RULES
@given(case=requests())
async def test_any_message_ends_with_a_status_of_the_contract(
    shared_ledger: RunningLedger, case: tuple[str, bytes]
) -> None:
    """Whatever its fields are."""
    await assert_ends_as_promised(shared_ledger, *case)


@RULES
@given(case=damaged_requests())
async def test_damaged_request_ends_with_a_status_of_the_contract(
    shared_ledger: RunningLedger, case: tuple[str, bytes]
) -> None:
    """Whatever its bytes are."""
    await assert_ends_as_promised(shared_ledger, *case)


@RULES
@given(event=messages(ledger_pb2.ProcessorEvent.DESCRIPTOR), changes=st.data())
async def test_any_event_that_is_accepted_is_read_back(
    shared_ledger: RunningLedger, event: Any, changes: st.DataObject
) -> None:
    """A valid event with some fields replaced is refused, or read back as it was sent."""
    merged = ledger_pb2.ProcessorEvent()
    merged.CopyFrom(event_message())
    for field, value in event.ListFields():
        if field.name != "event_id" and changes.draw(st.integers(0, 3)) == 0:
            merged.ClearField(field.name)
            merged.MergeFrom(ledger_pb2.ProcessorEvent(**{field.name: value}))
    request = ledger_pb2.IngestEventRequest(event=merged).SerializeToString()
    ended = await outcome(shared_ledger, "IngestEvent", request)
    if isinstance(ended, aio.AioRpcError):
        assert ended.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        return
    merged.occurred_at.nanos -= merged.occurred_at.nanos % 1000
    if merged.HasField("available_at"):
        merged.available_at.nanos -= merged.available_at.nanos % 1000
    stored = await shared_ledger.stub.GetEvent(ledger_pb2.GetEventRequest(event_id=merged.event_id))
    assert stored.event == merged
    posted = {entry.type: entry.amount_minor for entry in stored.entries}
    assert merged.amount_minor in posted.values()
    cost = posted.get(ledger_pb2.ENTRY_TYPE_PROCESSOR_COST, 0)
    assert cost in {merged.amount_minor, merged.processor_fee_minor}
    assert all(
        entry.amount_minor in {merged.amount_minor, merged.fee_minor}
        for entry in stored.entries
        if entry.type != ledger_pb2.ENTRY_TYPE_PROCESSOR_COST
    )


# Any field of their requests may be replaced. Events have the test above.
METHODS_WITHOUT_EVENTS = sorted(set(UNARY_METHODS) - {"IngestEvent", "BatchIngestEvents"})


@st.composite
def changed_requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid request with one or two of its fields replaced. It passes most of the checks."""
    method = draw(st.sampled_from(METHODS_WITHOUT_EVENTS))
    kind = GetMessageClass(REQUEST_TYPES[method])
    merged, replaced = (
        kind.FromString(VALID[method].SerializeToString()),
        draw(messages(REQUEST_TYPES[method])),
    )
    fields = replaced.ListFields()
    for field, value in draw(st.permutations(fields))[: draw(st.integers(1, 2))] if fields else []:
        merged.ClearField(field.name)
        merged.MergeFrom(kind(**{field.name: value}))
    return method, merged.SerializeToString()


@RULES
@given(case=changed_requests())
async def test_nearly_valid_request_ends_with_a_status_of_the_contract(
    shared_ledger: RunningLedger, case: tuple[str, bytes]
) -> None:
    """One or two fields of a valid request are replaced."""
    await assert_ends_as_promised(shared_ledger, *case)


async def test_server_is_healthy_after_all_cases(shared_ledger: RunningLedger) -> None:
    """It serves, and every entry has its event, every event its entries."""
    await assert_healthy(shared_ledger)
    response = await shared_ledger.stub.PutRestaurant(
        ledger_pb2.PutRestaurantRequest(restaurant_id="afterwards")
    )
    assert response.restaurant.restaurant_id == "afterwards"
    with pytest.raises(aio.AioRpcError) as caught:
        await shared_ledger.stub.GetRestaurant(ledger_pb2.GetRestaurantRequest(restaurant_id=""))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
