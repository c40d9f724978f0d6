"""The gateway's HTTP: takes posts within bounds, and answers each by what became of it.

2xx says that all that the delivery reports is durable in the ledger, or needs no booking. Any other
status makes the processor send it again. docs/gateway.md has the table.
"""

import asyncio
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc
import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from ledger.client import LedgerError
from ledger.gateway.allowances import Allowance
from ledger.gateway.booking import Route, Trial, receive
from ledger.gateway.books import Books
from ledger.gateway.connections import HEADER_BYTES_MAX
from ledger.gateway.deliveries import Delivery, SignatureRefused
from ledger.gateway.metrics import PAGE_TYPE, GatewayMetrics, names_of

BODY_BYTES_MAX = 256 * 1024
QUERY_BYTES_MAX = 2000
HEADERS_MAX = 100
# What is read of a body that is too large, so that the answer does not get lost: a connection that
# is closed before all was read may be reset.
_DRAINED_BYTES_MAX = 1024 * 1024
_TOO_LARGE = f"the body is larger than {BODY_BYTES_MAX} bytes"
# How long the readiness that was found is believed.
READY_SECONDS = 2.0
# An event id that the gateway asks for to see whether the ledger answers it.
_PROBE = "gateway.readiness"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_JSON = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json\s*(?:;.*)?\Z", re.IGNORECASE)

_log = structlog.get_logger("ledger.gateway")

_Code = grpc.StatusCode
# The ledger cannot take it now: the processor is asked to come again.
_LATER_CODES = frozenset(
    {_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED, _Code.ABORTED, _Code.CANCELLED}
)


@dataclass(slots=True)
class Bounds:
    """What a process takes. `answer_seconds` is shorter than any processor waits."""

    posts_max: int = 1000
    answer_seconds: float = 8.0
    # The seconds of Retry-After.
    retry_after: int = 5


@dataclass(slots=True)
class Gateway:
    """What the handlers of a process share. `routes` is replaced as a whole on a reload."""

    routes: Mapping[str, Route]
    books: Books
    metrics: GatewayMetrics
    bounds: Bounds = field(default_factory=Bounds)
    under_way: int = 0
    is_draining: bool = False
    _is_ready: bool = False
    _ready_until: float = 0.0
    refusals: "RefusalLog" = field(default_factory=lambda: RefusalLog())
    # Bound once: finding out how to log takes longer than a line.
    log: structlog.typing.FilteringBoundLogger = field(
        default_factory=lambda: structlog.get_logger("ledger.gateway").bind()
    )

    async def is_ready(self) -> bool:
        """Whether the ledger answers this gateway, asked at most every two seconds."""
        now = time.monotonic()
        if now >= self._ready_until:
            try:
                await self.books.event(_PROBE, Allowance.of(f"ready-{_new_id()}", 2.0))
            except LedgerError as error:
                _log.warning("the ledger does not answer", code=error.code.name)
                self._is_ready = False
            else:
                self._is_ready = True
            self._ready_until = time.monotonic() + READY_SECONDS
        return self._is_ready and not self.is_draining


def make_app(gateway: Gateway, *, with_metrics: bool = True) -> Starlette:
    """The application that takes posts."""

    async def post(request: Request) -> Response:
        return await _post(gateway, request)

    looks = _looks(gateway)
    app = Starlette(
        routes=[
            HttpRoute("/hooks/{name}", post, methods=["POST"]),
            *(looks if with_metrics else looks[:2]),
        ]
    )
    # A redirect would name the host that the client names, and no processor follows it.
    app.router.redirect_slashes = False
    return app


def make_private_app(gateway: Gateway) -> Starlette:
    """The application for operators alone: health and metrics."""
    return Starlette(routes=_looks(gateway))


def _looks(gateway: Gateway) -> list[HttpRoute]:
    """The routes that show how the gateway is, the metrics last."""

    async def alive(_: Request) -> Response:
        return _text(200, "ok")

    async def ready(_: Request) -> Response:
        return _text(200, "ok") if await gateway.is_ready() else _text(503, "the ledger is away")

    async def metrics(_: Request) -> Response:
        return Response(gateway.metrics.page(), media_type=PAGE_TYPE)

    return [
        HttpRoute("/healthz", alive),
        HttpRoute("/readyz", ready),
        HttpRoute("/metrics", metrics),
    ]


class _Answer(Exception):
    """Ends a post with a status. The text is for the processor's dashboard."""

    def __init__(
        self, status: int, text: str, *, retry_after: int | None = None, closes: bool = False
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.retry_after = retry_after
        # The rest of the body is not read: the connection can carry nothing else.
        self.closes = closes


async def _post(gateway: Gateway, request: Request) -> Response:
    began = time.monotonic()
    name = request.path_params["name"]
    route = gateway.routes.get(name)
    gateway.under_way += 1
    gateway.metrics.post_began()
    status = 500
    try:
        response = await _answered(gateway, route, request)
        status = response.status_code
        return response
    finally:
        gateway.under_way -= 1
        gateway.metrics.post_ended("" if route is None else name, status, time.monotonic() - began)


async def _answered(gateway: Gateway, route: Route | None, request: Request) -> Response:
    headers = _headers(request)
    given = headers.get("x-request-id", "")
    request_id = given if _REQUEST_ID.match(given) else _new_id()
    log = gateway.log
    about = {"request_id": request_id, "endpoint": route.endpoint.name if route else None}
    try:
        if route is None:
            raise _Answer(404, "no such endpoint", closes=True)
        if len(request.scope["headers"]) > HEADERS_MAX:
            raise _Answer(431, f"there are more than {HEADERS_MAX} headers", closes=True)
        if sum(map(len, headers.values())) > HEADER_BYTES_MAX:
            # Those that come bit by bit are bounded by the connection.
            raise _Answer(431, f"the headers have more than {HEADER_BYTES_MAX} bytes", closes=True)
        if gateway.under_way > gateway.bounds.posts_max:
            raise _Answer(503, "too many posts at once", retry_after=1, closes=True)
        delivery = await _delivery(request, headers)
        trial = await _taken(gateway, route, delivery, request_id)
    except _Answer as answer:
        if gateway.refusals.takes(answer.status):
            log.warning("post refused", status=answer.status, why=answer.text, **about)
        return _text(
            answer.status, answer.text, retry_after=answer.retry_after, closes=answer.closes
        )
    except SignatureRefused as refusal:
        if gateway.refusals.takes(refusal.status):
            log.warning("signature refused", status=refusal.status, why=str(refusal), **about)
        return _text(refusal.status, "the signature is not accepted")
    except ClientDisconnect:
        log.warning("the post broke off", **about)
        return _text(400, "the body broke off", closes=True)
    except LedgerError as error:
        return _failed(gateway, error, about)
    _log_delivery(log, trial, about)
    return Response(route.processor.acknowledgement, media_type=route.processor.content_type)


async def _taken(gateway: Gateway, route: Route, delivery: Delivery, request_id: str) -> Trial:
    """Verifies and books a delivery. Raises SignatureRefused, LedgerError and _Answer."""
    name = route.endpoint.name
    secret = route.processor.verify(delivery)
    gateway.metrics.verified(name, secret, delivery.received_at)
    seconds = gateway.bounds.answer_seconds
    allowance = Allowance.of(request_id, seconds)
    if route.fetches:
        # The ledger's calls have the deadline of the allowance; those of others have not.
        try:
            async with asyncio.timeout(seconds):
                trial = await receive(route, delivery, gateway.books, allowance)
        except TimeoutError as error:
            raise _Answer(
                503, "no answer in time", retry_after=gateway.bounds.retry_after
            ) from error
    else:
        trial = await receive(route, delivery, gateway.books, allowance)
    gateway.metrics.booked(name, trial, datetime.now(UTC))
    return trial


def _failed(gateway: Gateway, error: LedgerError, about: Mapping[str, str | None]) -> Response:
    retry_after = max(gateway.bounds.retry_after, round(error.retry_after or 0))
    if error.code in _LATER_CODES:
        status, text = 503, "the ledger is away"
    elif error.code is _Code.RESOURCE_EXHAUSTED:
        status, text = 429, "the ledger has too much to do"
    else:
        # The operator must mend it: credentials, an older server, a defect. The processor repeats.
        gateway.log.error(
            "the ledger failed",
            code=error.code.name,
            reason=error.reason,
            why=error.message,
            **about,
        )
        return _text(500, "the ledger cannot book it")
    gateway.log.warning(text, code=error.code.name, reason=error.reason, status=status, **about)
    return _text(status, text, retry_after=retry_after)


def _headers(request: Request) -> dict[str, str]:
    """The headers by their names in lower case; repeated ones are joined."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


async def _delivery(request: Request, headers: Mapping[str, str]) -> Delivery:
    """The post within its bounds. Raises _Answer and ClientDisconnect."""
    content_type = headers.get("content-type", "")
    if content_type and _JSON.match(content_type.strip()) is None:
        raise _Answer(415, "the content type must be application/json", closes=True)
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise _Answer(415, "the body must not be compressed", closes=True)
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > _DRAINED_BYTES_MAX:
        raise _Answer(413, _TOO_LARGE, closes=True)
    query = request.scope["query_string"]
    if len(query) > QUERY_BYTES_MAX:
        raise _Answer(414, f"the query is longer than {QUERY_BYTES_MAX} bytes", closes=True)
    if not (query.isascii() and query.decode("ascii").isprintable()):
        raise _Answer(400, "the query must be percent-encoded", closes=True)
    # Without a deadline: the connection has one.
    body = b""
    too_much = 0
    async for chunk in request.stream():
        if too_much or len(body) + len(chunk) > BODY_BYTES_MAX:
            too_much += len(body) + len(chunk)
            body = b""
            if too_much > _DRAINED_BYTES_MAX:
                break
        else:
            body = body + chunk if body else chunk
    if too_much:
        raise _Answer(413, _TOO_LARGE, closes=True)
    return Delivery(body, headers, query.decode("latin-1"), datetime.now(UTC))


def _log_delivery(
    log: structlog.typing.FilteringBoundLogger, trial: Trial, about: Mapping[str, str | None]
) -> None:
    particulars: dict[str, object] = {**about}
    if trial.event_ids:
        particulars["event_ids"] = trial.event_ids[:20]
    if trial.ignored:
        particulars["ignored"] = names_of([message.kind for message in trial.ignored])
    problem = trial.problem
    if problem is not None:
        log.error(
            "delivery not booked",
            outcome=trial.outcome.value,
            kind=problem.kind,
            reason=problem.reason,
            detail=problem.detail,
            **particulars,
        )
    elif any(message.is_alert for message in trial.ignored):
        log.warning(
            "delivery",
            outcome=trial.outcome.value,
            why=names_of([message.why for message in trial.ignored if message.is_alert]),
            **particulars,
        )
    else:
        log.info("delivery", outcome=trial.outcome.value, **particulars)


class RefusalLog:
    """Bounds the lines about posts that were refused: anybody may send those."""

    def __init__(self, lines_per_second: int = 10) -> None:
        self._lines_per_second = lines_per_second
        self._second = 0
        self._lines = 0

    def takes(self, status: int) -> bool:
        """Whether a refusal with this status gets a line. Metrics count all of them."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        return self._lines <= self._lines_per_second or status >= 500


def _new_id() -> str:
    return os.urandom(8).hex()


def _text(
    status: int, text: str, *, retry_after: int | None = None, closes: bool = False
) -> Response:
    headers = {}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    if closes:
        headers["connection"] = "close"
    return Response(f"{text}\n", status, headers, "text/plain; charset=utf-8")
