"""Requests as bytes, made at less cost than protobuf makes them, and checks of their responses.

The load generator shares the machine with what it measures, so it must cost little. The empty
handler and the service receive the same bytes.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.v1 import account_pb2, ledger_pb2, payment_pb2

_SERVICES = [
    ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
    payment_pb2.DESCRIPTOR.services_by_name["PaymentService"],
    account_pb2.DESCRIPTOR.services_by_name["AccountService"],
]
AMOUNT_MINOR = 1_000
FEE_MINOR = 50
PAYMENT_METHODS = ("AuthorizePayment", "BatchTransfers")
_NUMBER = b"%09d"
_CREATED = ledger_pb2.INGEST_STATUS_CREATED
_CREATED_BYTES = ledger_pb2.IngestEventResponse(status=_CREATED).SerializeToString()
_CAPTURED = payment_pb2.PAYMENT_STATUS_CAPTURED
_CAPTURED_BYTES = payment_pb2.AuthorizePaymentResponse(status=_CAPTURED).SerializeToString()
_AUTHORIZED_BYTES = payment_pb2.AuthorizePaymentResponse(
    status=payment_pb2.PAYMENT_STATUS_AUTHORIZED
).SerializeToString()
_APPLIED_BYTES = payment_pb2.CapturePaymentResponse(
    status=payment_pb2.OPERATION_STATUS_APPLIED
).SerializeToString()


class UnexpectedResponse(Exception):
    """The response to a request of the load is not the one that must come."""


def restaurants(currency: str, number: int) -> list[str]:
    """The ids of the load's restaurants."""
    return [f"{currency}_{place}" for place in range(1, number + 1)]


def account_ids(currency: str, number: int) -> list[str]:
    """The ids of the load's accounts."""
    return [f"{currency}.{place}" for place in range(1, number + 1)]


def has_field(message: str, field: str) -> bool:
    """Whether a message of this version of the contract has a field."""
    return field in ledger_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name


class EventRequests:
    """Requests with new events. A response other than CREATED ends the measure."""

    def __init__(
        self, method: str, field: str, prefix: str, restaurant_ids: Sequence[str], currency: str
    ) -> None:
        """`field` is the request's field of events; ids are `prefix` and a number."""
        self._method = method
        self._field = field
        self._sent = 0
        self._templates = [
            self._template(prefix, restaurant_id, currency) for restaurant_id in restaurant_ids
        ]

    def _template(self, prefix: str, restaurant_id: str, currency: str) -> tuple[bytes, bytes]:
        """A request with one event, cut at the number in its id."""
        number = (_NUMBER % 0).decode()
        event = ledger_pb2.ProcessorEvent(
            event_id=f"{prefix}.{number}",
            type=ledger_pb2.EVENT_TYPE_CHARGE_SUCCEEDED,
            restaurant_id=restaurant_id,
            currency=currency,
            amount_minor=AMOUNT_MINOR,
            fee_minor=FEE_MINOR,
        )
        event.occurred_at.FromDatetime(datetime.now(UTC) - timedelta(days=1))
        request: Any = getattr(ledger_pb2, f"{self._method}Request")(
            **{self._field: [event] if self._repeated else event}
        )
        head, _, tail = request.SerializeToString().partition(f".{number}".encode())
        return head + b".", tail

    @property
    def _repeated(self) -> bool:
        return self._field == "events"

    def take(self, events: int) -> bytes:
        """The next request. Joined protobuf messages are one message with all repeated fields."""
        if events == 1:
            return self._next()
        return b"".join([self._next() for _ in range(events)])

    def _next(self) -> bytes:
        self._sent += 1
        head, tail = self._templates[self._sent % len(self._templates)]
        return head + _NUMBER % self._sent + tail

    def check(self, content: bytes, events: int) -> None:
        """Raises UnexpectedResponse unless every event that was sent is CREATED."""
        if self._method == "IngestEvent":
            if not content.startswith(_CREATED_BYTES):
                raise UnexpectedResponse(ledger_pb2.IngestEventResponse.FromString(content))
            return
        response: Any = getattr(ledger_pb2, f"{self._method}Response").FromString(content)
        results = response.results if self._repeated else [response.result]
        if len(results) != events or any(result.status != _CREATED for result in results):
            raise UnexpectedResponse(
                next((result for result in results if result.status != _CREATED), response)
            )


class BalanceRequests:
    """Requests for balances that are known; checks one response in `_CHECKED_EVERY`."""

    _CHECKED_EVERY = 50

    def __init__(
        self,
        requests: Sequence[bytes],
        response: Callable[[bytes], Any],
        available_minor: int,
        moments: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Each balance is `available_minor`; `response` parses.

        With `moments`, balances are as of those instants, in microseconds since 1970, each with
        what was available then.
        """
        self._requests = requests
        self._parse = response
        self._available_minor = available_minor
        self._available_at = dict(moments)
        self._sent = 0
        self._checked = 0

    def take(self, _events: int) -> bytes:
        self._sent += 1
        return self._requests[self._sent % len(self._requests)]

    def check(self, content: bytes, _events: int) -> None:
        """Raises UnexpectedResponse unless the balance is what was booked."""
        self._checked += 1
        if self._checked % self._CHECKED_EVERY == 1:
            response = self._parse(content)
            expected = self._available_minor
            if self._available_at:
                expected = self._available_at[response.as_of.ToMicroseconds()]
            if response.available_minor != expected:
                raise UnexpectedResponse(response)


def _balance_request(restaurant_id: str, currency: str, at: int | None) -> bytes:
    request = ledger_pb2.GetBalanceRequest(restaurant_id=restaurant_id, currency=currency)
    if at is not None:
        request.as_of.FromMicroseconds(at)
    return request.SerializeToString()


class StatementRequests:
    """Requests for the first page of statements."""

    def __init__(self, restaurant_ids: Sequence[str], currency: str) -> None:
        self._requests = [
            ledger_pb2.ListEntriesRequest(
                restaurant_id=restaurant_id, currency=currency, page_size=50
            ).SerializeToString()
            for restaurant_id in restaurant_ids
        ]
        self._sent = 0

    def take(self, _events: int) -> bytes:
        self._sent += 1
        return self._requests[self._sent % len(self._requests)]

    def check(self, content: bytes, _events: int) -> None:
        """Raises UnexpectedResponse when a statement is empty."""
        if not content:
            raise UnexpectedResponse("an empty statement")


class PaymentRequests:
    """Requests with new payments between accounts. A response other than CAPTURED ends the
    measure; if each is captured by another call, one other than AUTHORIZED.
    """

    def __init__(
        self,
        method: str,
        prefix: str,
        accounts: Sequence[str],
        currency: str,
        payer: str,
        *,
        captures: bool = False,
    ) -> None:
        """`payer` pays every payment; empty: all accounts pay in turn. Ids are as for events."""
        self._captures = captures
        self._is_batch = method == "BatchTransfers"
        self._sent = 0
        # Neighbours pay accounts that are far from them: a group has other payees than payers.
        far = len(accounts) // 2
        payees = [*accounts[far:], *accounts[:far]]
        self._templates = [
            self._template(prefix, payer or account, payee, currency)
            for account, payee in zip(accounts, payees, strict=True)
            if payee != payer
        ]

    def _template(self, prefix: str, payer: str, payee: str, currency: str) -> tuple[bytes, bytes]:
        """A request with one payment, cut at the number in its id."""
        number = (_NUMBER % 0).decode()
        fields: dict[str, Any] = {
            "payment_id": f"{prefix}.{number}",
            "payer_account_id": payer,
            "payee_account_id": payee,
            "currency": currency,
            "amount_minor": AMOUNT_MINOR,
        }
        request = (
            payment_pb2.BatchTransfersRequest(transfers=[payment_pb2.Transfer(**fields)])
            if self._is_batch
            else payment_pb2.AuthorizePaymentRequest(
                **fields,
                capture=payment_pb2.CAPTURE_MODE_MANUAL
                if self._captures
                else payment_pb2.CAPTURE_MODE_IMMEDIATE,
            )
        )
        head, _, tail = request.SerializeToString().partition(f".{number}".encode())
        return head + b".", tail

    def take(self, payments: int) -> bytes:
        """The next request, as for events."""
        return b"".join([self._next() for _ in range(payments)])

    def _next(self) -> bytes:
        self._sent += 1
        head, tail = self._templates[self._sent % len(self._templates)]
        return head + _NUMBER % self._sent + tail

    def check(self, content: bytes, payments: int) -> None:
        """Raises UnexpectedResponse unless every payment that was sent is as it must be."""
        if not self._is_batch:
            expected = _AUTHORIZED_BYTES if self._captures else _CAPTURED_BYTES
            if not content.startswith(expected):
                raise UnexpectedResponse(payment_pb2.AuthorizePaymentResponse.FromString(content))
            return
        results = payment_pb2.BatchTransfersResponse.FromString(content).results
        if len(results) != payments or any(result.status != _CAPTURED for result in results):
            raise UnexpectedResponse(
                next((result for result in results if result.status != _CAPTURED), results)
            )

    def capture_of(self, content: bytes) -> bytes:
        """The request that captures the payment of a response."""
        payment_id = payment_pb2.AuthorizePaymentResponse.FromString(content).payment.payment_id
        return payment_pb2.CapturePaymentRequest(
            operation_id=f"c.{payment_id}", payment_id=payment_id
        ).SerializeToString()

    def check_capture(self, content: bytes) -> None:
        """Raises UnexpectedResponse unless the payment is captured."""
        if not content.startswith(_APPLIED_BYTES):
            raise UnexpectedResponse(payment_pb2.CapturePaymentResponse.FromString(content))


Requests = EventRequests | BalanceRequests | StatementRequests | PaymentRequests


def capture_path() -> str:
    """The path of the method that captures payments."""
    return path_of({"method": "CapturePayment"})


def path_of(job: dict[str, Any]) -> str:
    """The path of a job's method."""
    service = next(each for each in _SERVICES if job["method"] in each.methods_by_name)
    return f"/{service.full_name}/{job['method']}"


def requests_of(job: dict[str, Any]) -> Requests:
    """The requests of a job."""
    restaurant_ids = restaurants(job["currency"], job["restaurants"])
    if job["method"] == "GetBalance":
        instants: list[int | None] = [at for at, _ in job["moments"]]
        return BalanceRequests(
            [
                _balance_request(restaurant_id, job["currency"], at)
                for restaurant_id in ([job["restaurant"]] if job["restaurant"] else restaurant_ids)
                for at in instants or [None]
            ],
            ledger_pb2.GetBalanceResponse.FromString,
            job["available_minor"],
            job["moments"],
        )
    if job["method"] == "GetAccountBalance":
        request = account_pb2.GetAccountBalanceRequest(account_id=job["account"])
        return BalanceRequests(
            [request.SerializeToString()],
            account_pb2.GetAccountBalanceResponse.FromString,
            job["available_minor"],
        )
    if job["method"] == "ListEntries":
        return StatementRequests(restaurant_ids, job["currency"])
    if job["method"] in PAYMENT_METHODS:
        accounts = account_ids(job["currency"], job["restaurants"])
        return PaymentRequests(
            job["method"],
            job["prefix"],
            accounts,
            job["currency"],
            job["payer"],
            captures=job["captures"],
        )
    return EventRequests(
        job["method"], job["field"], job["prefix"], restaurant_ids, job["currency"]
    )
