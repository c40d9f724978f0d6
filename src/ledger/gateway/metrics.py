"""The gateway's metrics in Prometheus' form. docs/gateway.md shows alerts on them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ledger.gateway.booking import Outcome, Trial
from ledger.gateway.events import kind_of
from ledger.v1 import ledger_pb2

PAGE_TYPE = CONTENT_TYPE_LATEST
# Names that come from payloads: so many of an endpoint have a series, all others are "other".
NAMES_MAX = 200
_LAG_SECONDS = (1, 2, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 86_400, 3 * 86_400)
_ANSWER_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_OPEN_STATES = {
    ledger_pb2.QUARANTINE_STATE_QUARANTINED: "quarantined",
    ledger_pb2.QUARANTINE_STATE_RETRY_REQUESTED: "retry_requested",
    ledger_pb2.QUARANTINE_STATE_PARKED: "parked",
}


class GatewayMetrics:
    """Counts what comes in and what becomes of it, by endpoint."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._answers = Counter(
            "ledger_gateway_answers",
            "Posts by HTTP status.",
            ("endpoint", "status"),
            registry=registry,
        )
        self._answer_seconds = Histogram(
            "ledger_gateway_answer_seconds",
            "How long posts took, from the first byte of the body to the answer.",
            ("endpoint",),
            buckets=_ANSWER_SECONDS,
            registry=registry,
        )
        self._under_way = Gauge(
            "ledger_gateway_posts_under_way", "Posts that are not answered yet.", registry=registry
        )
        self._verified = Counter(
            "ledger_gateway_verified",
            "Deliveries by the secret that signed them.",
            ("endpoint", "secret"),
            registry=registry,
        )
        self._deliveries = Counter(
            "ledger_gateway_deliveries",
            "Deliveries that were answered with 200, by what became of them.",
            ("endpoint", "outcome"),
            registry=registry,
        )
        self._booked = Counter(
            "ledger_gateway_booked",
            "Events booked, by type.",
            ("endpoint", "type"),
            registry=registry,
        )
        self._duplicates = Counter(
            "ledger_gateway_duplicates",
            "Events that were booked before.",
            ("endpoint",),
            registry=registry,
        )
        self._ignored = Counter(
            "ledger_gateway_ignored",
            "Messages that move no money, by the processor's name for them.",
            ("endpoint", "kind", "is_alert"),
            registry=registry,
        )
        self._quarantined = Counter(
            "ledger_gateway_quarantined",
            "Deliveries that went to the quarantine, by reason.",
            ("endpoint", "reason"),
            registry=registry,
        )
        self._parked = Counter(
            "ledger_gateway_parked",
            "Deliveries that were parked, by reason.",
            ("endpoint", "reason"),
            registry=registry,
        )
        self._lag = Histogram(
            "ledger_gateway_lag_seconds",
            "From the instant at which something happened, by the processor, to its booking.",
            ("endpoint",),
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        self._last_delivery = Gauge(
            "ledger_gateway_last_delivery_timestamp_seconds",
            "When the last correctly signed delivery came. Set to the start when there was none.",
            ("endpoint",),
            registry=registry,
        )
        self._open = Gauge(
            "ledger_gateway_quarantine_open",
            "Payloads in the quarantine that are not settled, of all gateways.",
            ("endpoint", "state", "reason"),
            registry=registry,
        )
        self._oldest = Gauge(
            "ledger_gateway_quarantine_oldest_timestamp_seconds",
            "When the oldest of them was stored.",
            ("endpoint", "state"),
            registry=registry,
        )
        self._tries = Counter(
            "ledger_gateway_retries",
            "Payloads of the quarantine that were tried again, by what became of them.",
            ("endpoint", "outcome"),
            registry=registry,
        )
        self._reloads = Gauge(
            "ledger_gateway_file_is_current",
            "1 if the last read of the gateway's file succeeded, 0 if an older one is in force.",
            registry=registry,
        )
        self._reloads.set(1)
        self._names: dict[tuple[str, str], set[str]] = {}
        self._children: dict[tuple[object, ...], Any] = {}

    def page(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self._registry)

    def begin_endpoint(self, endpoint: str, now: datetime) -> None:
        """Gives an endpoint its series, so that silence from the beginning shows."""
        gauge = self._of(self._last_delivery, endpoint)
        if not gauge._value.get():
            gauge.set(now.timestamp())
        for outcome in Outcome:
            self._of(self._deliveries, endpoint, outcome.value)

    def post_began(self) -> None:
        self._under_way.inc()

    def post_ended(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts an answer. `endpoint` is empty for a route that does not exist."""
        self._under_way.dec()
        self._of(self._answers, endpoint, str(status)).inc()
        if endpoint:
            self._of(self._answer_seconds, endpoint).observe(seconds)

    def verified(self, endpoint: str, secret: str, now: datetime) -> None:
        self._of(self._verified, endpoint, secret).inc()
        self._of(self._last_delivery, endpoint).set(now.timestamp())

    def booked(self, endpoint: str, trial: Trial, now: datetime) -> None:
        """Counts what became of a delivery that was answered with 200."""
        self._of(self._deliveries, endpoint, trial.outcome.value).inc()
        self._count_events(endpoint, trial, now)
        for message in trial.ignored:
            kind = self._bounded(endpoint, "kind", message.kind)
            self._ignored.labels(endpoint, kind, str(message.is_alert).lower()).inc()
        if (problem := trial.problem) is not None:
            counter = self._parked if problem.may_come else self._quarantined
            counter.labels(endpoint, self._bounded(endpoint, "reason", problem.reason)).inc()

    def retried(self, endpoint: str, trial: Trial, outcome: str, now: datetime) -> None:
        """Counts a try of the quarantine's worker."""
        self._tries.labels(endpoint, outcome).inc()
        self._count_events(endpoint, trial, now)

    def quarantine_is(self, summary: ledger_pb2.GetQuarantineSummaryResponse) -> None:
        """Shows what the quarantine holds."""
        self._open.clear()
        self._oldest.clear()
        oldest: dict[tuple[str, str], float] = {}
        for group in summary.counts:
            state = _OPEN_STATES.get(group.state, "other")
            self._open.labels(group.endpoint, state, group.reason).set(group.count)
            instant = group.oldest_created_at.seconds + group.oldest_created_at.nanos / 1e9
            place = (group.endpoint, state)
            oldest[place] = min(oldest.get(place, instant), instant)
        for (endpoint, state), instant in oldest.items():
            self._oldest.labels(endpoint, state).set(instant)

    def file_is_current(self, is_current: bool) -> None:
        self._reloads.set(is_current)

    def _count_events(self, endpoint: str, trial: Trial, now: datetime) -> None:
        for event in trial.created:
            self._of(self._booked, endpoint, kind_of(event.type)).inc()
            lag = now.timestamp() - event.occurred_at.seconds
            self._of(self._lag, endpoint).observe(max(0.0, lag))
        if trial.duplicates:
            self._of(self._duplicates, endpoint).inc(trial.duplicates)

    def _of(self, metric: Any, *labels: str) -> Any:
        """The metric with these labels: the library takes ten times as long to find it."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def _bounded(self, endpoint: str, label: str, name: str) -> str:
        names = self._names.setdefault((endpoint, label), set())
        if name not in names:
            if len(names) >= NAMES_MAX or len(name) > 100:
                return "other"
            names.add(name)
        return name


def names_of(messages: Sequence[str]) -> str:
    """The names of a delivery's messages for a log line: a few, each once."""
    return ",".join(dict.fromkeys(messages))[:200]
