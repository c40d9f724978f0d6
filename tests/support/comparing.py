"""Compares two servers of the contract: the same call to both, and answers that are equal but for
ids and instants that the servers make.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc import aio
from grpc_status import rpc_status

from ledger.api.methods import METHODS
from ledger.v1 import account_pb2, ledger_pb2, payment_pb2
from support.bad_requests import REQUEST_TYPES, UUID_TEXT, path_of
from support.waiting import DEADLINE_SECONDS, until

RESPONSE_TYPES = {
    method.name: method.output_type
    for file in (ledger_pb2, account_pb2, payment_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DAY_SECONDS = 86_400
# The pages of a list that are read at most.
PAGES_MAX = 1_000
# What servers name in words of their own.
_OPAQUE = ("etag", "next_page_token")
# What later calls name again.
_KEPT = ("payout_id", "payout_run_id", "quarantine_id", "recorded_at", "etag")
_DETAILS: tuple[type[Message], ...] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
)


@dataclass
class Side:
    """One of the servers, with what it has told about itself.

    `seen` has ids and instants by the name of their field, in the order in which they came, which
    is the same on both sides: so the third payout of one is the third of the other.
    """

    channel: aio.Channel
    began_at: float = field(default_factory=lambda: time.time() - 1)
    seen: dict[str, list[Any]] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)

    def nth(self, name: str, number: int, default: Any = UUID_TEXT) -> Any:
        """The id or the instant of a field with this number, counted around."""
        found = self.seen.get(name)
        return found[number % len(found)] if found else default

    async def call(self, method: str, request: bytes) -> object:
        """The outcome of one call, in words that are equal on both sides."""
        single: Any = self.channel.unary_unary(
            path_of(method), request_serializer=None, response_deserializer=None
        )
        try:
            raw = await single(request, timeout=DEADLINE_SECONDS)
        except aio.AioRpcError as error:
            return self._refusal(error)
        response = GetMessageClass(RESPONSE_TYPES[method])()
        response.ParseFromString(raw)
        self._collect(response)
        if method == "RunPayouts":
            await self._until_no_run_is_under_way()
            _forget_progress(response)
        return self.words(response)

    async def pages(self, method: str, request: Any) -> object:
        """The outcome of all pages of a list, put together."""
        single: Any = self.channel.unary_unary(
            path_of(method),
            request_serializer=GetMessageClass(REQUEST_TYPES[method]).SerializeToString,
            response_deserializer=GetMessageClass(RESPONSE_TYPES[method]).FromString,
        )
        together: Any = GetMessageClass(RESPONSE_TYPES[method])()
        for _ in range(PAGES_MAX):
            try:
                page = await single(request, timeout=DEADLINE_SECONDS)
            except aio.AioRpcError as error:
                return self._refusal(error)
            self._collect(page)
            # Payouts that two pages name are the same.
            together.MergeFrom(page)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        together.ClearField("next_page_token")
        if method == "ListEvents":
            kept = {payout.payout_id: payout for payout in together.payouts}
            del together.payouts[:]
            together.payouts.extend(kept.values())
        return self.words(together)

    def words(self, value: Any) -> object:
        """A message, or a value in one, without what only one side can know."""
        if isinstance(value, Timestamp):
            return self._instant(value)
        if isinstance(value, AnyMessage):
            for kind in _DETAILS:
                detail = kind()
                if value.Unpack(detail):
                    is_of_time = isinstance(detail, error_details_pb2.RetryInfo)
                    return kind.__name__ if is_of_time else self.words(detail)
            return value.type_url
        if isinstance(value, Message):
            return {
                descriptor.name: descriptor.name
                if descriptor.name in _OPAQUE
                else self.words(content)
                for descriptor, content in value.ListFields()
            }
        if isinstance(value, str):
            return UUID.sub(lambda found: self._name(found[0]), value)
        if isinstance(value, Mapping):
            return {self.words(key): self.words(value[key]) for key in sorted(value)}
        if isinstance(value, Iterable) and not isinstance(value, bytes):
            return [self.words(each) for each in value]
        return value

    def _name(self, identifier: str) -> str:
        if identifier == UUID_TEXT:
            return identifier
        return self._names.setdefault(identifier, f"id-{len(self._names)}")

    def _instant(self, instant: Timestamp) -> str:
        """An instant of the server is now, or whole days after it."""
        seconds = instant.seconds + instant.nanos / 1e9
        days, rest = divmod(seconds - self.began_at, DAY_SECONDS)
        if days >= 0 and rest <= time.time() - self.began_at:
            return f"now and {days:.0f} days"
        return f"{instant.seconds}.{instant.nanos:09d}"

    def _refusal(self, error: aio.AioRpcError) -> object:
        call: Any = error
        status = rpc_status.from_call(call)
        if status is None:
            return error.code().name, error.details()
        return error.code().name, self.words(status)

    def _collect(self, message: Any) -> None:
        """Keeps the ids and the instants of a response."""
        for descriptor, content in message.ListFields():
            name = descriptor.name
            if descriptor.message_type is None or isinstance(content, Timestamp):
                if name in _KEPT and content:
                    self._keep(name, content)
            elif isinstance(content, Message):
                self._collect(content)
            elif not descriptor.message_type.GetOptions().map_entry:
                for each in content:
                    self._collect(each)
        if isinstance(message, ledger_pb2.Payout):
            self._keep("payout", (message.payout_id, message.restaurant_id, message.amount_minor))

    def _keep(self, name: str, content: Any) -> None:
        kept = self.seen.setdefault(name, [])
        if content not in kept:
            kept.append(content)

    async def _until_no_run_is_under_way(self) -> None:
        call: Any = self.channel.unary_unary(
            METHODS["ListPayoutRuns"].path,
            request_serializer=ledger_pb2.ListPayoutRunsRequest.SerializeToString,
            response_deserializer=ledger_pb2.ListPayoutRunsResponse.FromString,
        )
        request = ledger_pb2.ListPayoutRunsRequest(
            state=ledger_pb2.PAYOUT_RUN_STATE_RUNNING, page_size=1
        )

        async def is_none() -> bool:
            return not (await call(request)).payout_runs

        await until(is_none, DEADLINE_SECONDS)


def _forget_progress(response: Any) -> None:
    """A run that is answered may have begun, or ended."""
    if response.payout_run.state != ledger_pb2.PAYOUT_RUN_STATE_PLANNED:
        for name in (
            "state",
            "payouts_created",
            "total_amount_minor",
            "restaurants_considered",
            "skipped",
            "finished_at",
        ):
            response.payout_run.ClearField(name)


Call = tuple[str, Callable[[Side], Message]]


async def assert_same(first: Side, second: Side, number: int, call: Call) -> str:
    """Makes a call to both. Asserts that the outcomes are equal; returns OK, or the status."""
    method, request_of = call
    outcomes = []
    for side in (first, second):
        request = request_of(side)
        is_list = "page_token" in request.DESCRIPTOR.fields_by_name
        outcomes.append(
            await side.pages(method, request)
            if is_list
            else await side.call(method, request.SerializeToString())
        )
    assert outcomes[0] == outcomes[1], (
        f"call {number}, {method}: {request_of(first)}\n"
        f"PostgreSQL {outcomes[0]}\nmemory {outcomes[1]}"
    )
    return outcomes[0][0] if isinstance(outcomes[0], tuple) else grpc.StatusCode.OK.name


def instant_of(seconds: float) -> Timestamp:
    """An instant so many seconds after 1970."""
    message = Timestamp()
    message.FromDatetime(datetime.fromtimestamp(seconds, UTC))
    return message
