"""The methods of the contract, and how the server treats each.

This is the only place that lists methods by name: the gate, the call log, the frame around each
call and the limits read it. Tests hold the contract, `service_config.json` and the scopes in
`docs/operations/security.md` to it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

_SERVICES = tuple(
    service
    for file in (ledger_pb2, account_pb2, payment_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
)
SERVICE_NAMES = tuple(service.full_name for service in _SERVICES)
# Names are unique over all services, so that a word such as IngestEvent names one method.
_SERVICE_NAME_BY_METHOD: Mapping[str, str] = {
    name: service.full_name for service in _SERVICES for name in service.methods_by_name
}


class Scope(StrEnum):
    """What a caller may do. `ingest` includes the three scopes that start with it."""

    INGEST = "ingest"
    INGEST_PROCESSOR = "ingest:processor"
    INGEST_BANK = "ingest:bank"
    INGEST_ADJUSTMENT = "ingest:adjustment"
    READ = "read"
    PAYOUT = "payout"
    PAY = "pay"
    QUARANTINE = "quarantine"
    ADMIN = "admin"


class Recorded(Enum):
    """Whether the call log has a row for each call, and whether the response waits for that row."""

    NO = "no"
    SOON = "soon"
    # These calls are rare, and only the call log knows who made them.
    BEFORE_RESPONSE = "before the response"


class OpenCallsLimit(Enum):
    """What limits how many calls of a method are open at once."""

    CALLS = "LEDGER_OPEN_CALLS"
    STREAMS = "LEDGER_OPEN_STREAMS"
    # The queues of events and of payments. Balances are read in groups: many calls share one query.
    ELSEWHERE = "elsewhere"


class Responses(Enum):
    """Which limit counts a method's responses that clients have not read yet."""

    NOT_COUNTED = "not counted"
    READS = "reads"
    BATCHES = "batches"


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC. `timeout_seconds` is the deadline in the service config; None for a stream.

    Requests of a method that `is_large` may have up to MESSAGE_BYTES_MAX. Calls of a method that
    `has_own_queue` do not wait behind those of other methods before the server takes them up. Each
    such method costs every call half a microsecond.
    """

    name: str
    scope: Scope
    recorded: Recorded = Recorded.NO
    open_calls_limit: OpenCallsLimit = OpenCallsLimit.CALLS
    responses: Responses = Responses.NOT_COUNTED
    timeout_seconds: int | None = 10
    is_large: bool = False
    has_own_queue: bool = False

    @property
    def service_name(self) -> str:
        """The full name of the service that has the method: ledger.v1.LedgerService."""
        return _SERVICE_NAME_BY_METHOD[self.name]

    @property
    def path(self) -> str:
        """As in HTTP/2: /ledger.v1.LedgerService/IngestEvent."""
        return f"/{self.service_name}/{self.name}"

    @property
    def scopes(self) -> frozenset[Scope]:
        """The scopes any of which allows the call: each part of `ingest` allows what `ingest` does.

        Which events the caller may send is checked for each event (`access/authorization.py`).
        """
        return frozenset(
            scope for scope in Scope if scope is self.scope or scope.partition(":")[0] == self.scope
        )

    @property
    def is_read(self) -> bool:
        """Whether the method changes nothing. Its calls may be refused at any point."""
        return self.name.startswith(("Get", "List"))


def _read(name: str, *, timeout_seconds: int = 10) -> Method:
    return Method(name, Scope.READ, responses=Responses.READS, timeout_seconds=timeout_seconds)


def _quarantine_read(name: str) -> Method:
    # What it returns may hold personal data, and only the call log knows who has read it.
    return Method(name, Scope.QUARANTINE, Recorded.SOON, responses=Responses.READS)


def _balance(name: str) -> Method:
    return Method(name, Scope.READ, open_calls_limit=OpenCallsLimit.ELSEWHERE, has_own_queue=True)


def _payment_batch(name: str) -> Method:
    return Method(
        name,
        Scope.PAY,
        Recorded.SOON,
        OpenCallsLimit.ELSEWHERE,
        Responses.BATCHES,
        timeout_seconds=30,
        is_large=True,
    )


def _payment_operation(name: str) -> Method:
    return Method(name, Scope.PAY, Recorded.SOON, OpenCallsLimit.ELSEWHERE)


def _by_name(methods: Iterable[Method]) -> Mapping[str, Method]:
    return {method.name: method for method in methods}


METHODS: Mapping[str, Method] = _by_name(
    (
        Method(
            "IngestEvent",
            Scope.INGEST,
            Recorded.SOON,
            OpenCallsLimit.ELSEWHERE,
            has_own_queue=True,
        ),
        Method(
            "BatchIngestEvents",
            Scope.INGEST,
            Recorded.SOON,
            OpenCallsLimit.ELSEWHERE,
            Responses.BATCHES,
            timeout_seconds=30,
            is_large=True,
        ),
        Method(
            "StreamEvents",
            Scope.INGEST,
            Recorded.SOON,
            OpenCallsLimit.STREAMS,
            timeout_seconds=None,
            is_large=True,
        ),
        _read("GetEvent"),
        _read("ListEvents"),
        Method("PreviewEvent", Scope.INGEST),
        _balance("GetBalance"),
        _read("ListBalances", timeout_seconds=150),
        _read("ListMaturities", timeout_seconds=150),
        _read("ListEntries"),
        Method("RunPayouts", Scope.PAYOUT, Recorded.BEFORE_RESPONSE, timeout_seconds=150),
        _read("GetPayoutRun"),
        _read("ListPayoutRuns"),
        Method("CancelPayoutRun", Scope.PAYOUT, Recorded.BEFORE_RESPONSE),
        _read("ListPayoutRunItems"),
        _read("GetPayout"),
        _read("ListPayoutEntries"),
        _read("ListPayouts"),
        Method("SubmitPayouts", Scope.PAYOUT, Recorded.BEFORE_RESPONSE, timeout_seconds=150),
        Method("CancelPayout", Scope.PAYOUT, Recorded.BEFORE_RESPONSE),
        Method("PutRestaurant", Scope.ADMIN, Recorded.BEFORE_RESPONSE),
        Method("UpdateRestaurant", Scope.ADMIN, Recorded.BEFORE_RESPONSE),
        _read("GetRestaurant"),
        _read("ListRestaurants"),
        # The body of a delivery alone may have as many bytes as another request.
        Method("QuarantinePayload", Scope.QUARANTINE, Recorded.SOON, is_large=True),
        _quarantine_read("ListQuarantined"),
        _quarantine_read("GetQuarantined"),
        _read("GetQuarantineSummary"),
        Method("RetryQuarantined", Scope.QUARANTINE, Recorded.BEFORE_RESPONSE),
        Method("ResolveQuarantined", Scope.QUARANTINE, Recorded.SOON),
        Method("DiscardQuarantined", Scope.QUARANTINE, Recorded.BEFORE_RESPONSE),
        Method("CreateAccount", Scope.ADMIN, Recorded.BEFORE_RESPONSE),
        Method("UpdateAccount", Scope.ADMIN, Recorded.BEFORE_RESPONSE),
        _read("GetAccount"),
        _read("ListAccounts"),
        _balance("GetAccountBalance"),
        _read("ListAccountEntries"),
        Method(
            "AuthorizePayment",
            Scope.PAY,
            Recorded.SOON,
            OpenCallsLimit.ELSEWHERE,
            has_own_queue=True,
        ),
        _payment_batch("BatchAuthorizePayments"),
        _payment_batch("BatchTransfers"),
        _payment_operation("CapturePayment"),
        _payment_operation("VoidPayment"),
        _payment_operation("RefundPayment"),
        _payment_operation("ReversePayment"),
        _read("GetPayment"),
        _read("ListPayments"),
    )
)

if len(_SERVICE_NAME_BY_METHOD) != sum(len(service.methods) for service in _SERVICES):
    raise TypeError("two services of the contract have a method of the same name: rename one")
for _name in _SERVICE_NAME_BY_METHOD:
    if _name not in METHODS:
        # The frame around each call looks the method up when the server starts.
        raise TypeError(f"{_name} is in the contract: add it to METHODS in {__file__}")
