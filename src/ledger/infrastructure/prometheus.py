"""Metrics in Prometheus' form, and the page that shows them.

If PROMETHEUS_MULTIPROC_DIR is set when this module is imported, the library keeps the values in
files of that directory and not in memory. Then `SummedMetrics` in another process shows their sum
over all processes.
"""

import os
import platform
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import NamedTuple, Protocol, Self, get_args
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from ledger.addresses import host_and_port, with_port
from ledger.application.metrics import GroupKind, PaymentCommand
from ledger.domain.payments import DeclineReason
from ledger.domain.payout_states import PayoutState
from ledger.domain.quarantine import OPEN_STATES, QuarantineState
from ledger.zones import zone_table_version

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
REQUEST_TIMEOUT_SECONDS = 10

# The series of creation times. They double the number of series, and say only when a counter began.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
# The reasons of the contract for which a call is refused under load. A test compares them with what
# CallFrame reports.
REFUSAL_REASONS = ("QUEUE_FULL", "DEADLINE_TOO_SHORT", "RATE_LIMITED")
_GROUP_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class StatusCode(Protocol):
    """gRPC's type, which this module does not import."""

    @property
    def name(self) -> str: ...


class PrometheusCallMetrics:
    """Counts calls by method and status, under the names that public dashboards use.

    Also counts the calls refused under load, by reason.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("grpc_service", "grpc_method")
        self._handled = Counter(
            "grpc_server_handled",
            "Calls that were answered, by status.",
            (*labels, "grpc_code"),
            registry=registry,
        )
        self._handling = Histogram(
            "grpc_server_handling_seconds",
            "How long calls took.",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self._in_flight = Gauge(
            "grpc_server_in_flight",
            "Calls under way.",
            labels,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._refused = Counter(
            "ledger_calls_turned_away",
            "Calls refused because there was too much to do.",
            (*labels, "reason"),
            registry=registry,
        )
        # Kept, because `labels()` takes longer than counting. Bounded by the methods, statuses and
        # reasons of the contract.
        self._by_method: dict[str, _MethodSeries] = {}

    def started(self, method: str) -> None:
        self._series(method).in_flight.inc()

    def ended(self, method: str, code: StatusCode, seconds: float) -> None:
        series = self._series(method)
        series.in_flight.dec()
        series.handling.observe(seconds)
        name = code.name
        counter = series.handled.get(name)
        if counter is None:
            counter = series.handled[name] = self._handled.labels(
                *_service_and_method(method), name
            )
        counter.inc()

    def refused_under_load(self, method: str, reason: str) -> None:
        self._series(method).refused[reason].inc()

    def _series(self, method: str) -> "_MethodSeries":
        series = self._by_method.get(method)
        if series is None:
            names = _service_and_method(method)
            series = self._by_method[method] = _MethodSeries(
                self._in_flight.labels(*names),
                self._handling.labels(*names),
                {},
                # All at the first call, as in PrometheusLedgerMetrics.
                {reason: self._refused.labels(*names, reason) for reason in REFUSAL_REASONS},
            )
        return series


class _MethodSeries(NamedTuple):
    """The series of one method; counters by status, and by reason."""

    in_flight: Gauge
    handling: Histogram
    handled: dict[str, Counter]
    refused: dict[str, Counter]


def _service_and_method(path: str) -> tuple[str, str]:
    service, _, method = path.lstrip("/").partition("/")
    return service, method


# What a command about a payment may come to.
PAYMENT_OUTCOMES = ("accepted", "duplicate", *(reason.lower() for reason in DeclineReason))


class PrometheusLedgerMetrics:
    """Implements `ledger.application.metrics.LedgerMetrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.group_size = Histogram(
            "ledger_group_size",
            "Calls that shared a trip to the database.",
            ("kind",),
            buckets=_GROUP_SIZES,
            registry=registry,
        )
        self.group_seconds = Histogram(
            "ledger_group_seconds",
            "How long such a trip took.",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_events = Gauge(
            "ledger_queue_events",
            "Events waiting to be booked.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_bytes = Gauge(
            "ledger_queue_bytes",
            "Bytes of the events waiting to be booked.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.snapshots_made_total = Counter(
            "ledger_snapshots_made", "Balance snapshots stored.", registry=registry
        )
        # All servers look at the same books: the latest value is the best.
        self.seal_lag_rows = Gauge(
            "ledger_seal_lag_rows",
            "About how many rows are not sealed.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.seal_lag_seconds = Gauge(
            "ledger_seal_lag_seconds",
            "The age of the oldest row that is not sealed.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.clock_skew_seconds = Gauge(
            "ledger_database_clock_skew_seconds",
            "How far the host's clock is ahead of the database's; negative when it is behind.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.clock_behind_seconds = Gauge(
            "ledger_clock_behind_seconds",
            "How far the database's clock is behind the latest record of the books; 0 when it is "
            "past it.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.clock_jumps_total = Counter(
            "ledger_database_clock_jumps",
            "Times that the database's clock was set ahead or back by more than a second.",
            ["direction"],
            registry=registry,
        )
        for direction in ("ahead", "back"):
            self.clock_jumps_total.labels(direction)
        self.payouts_made_total = Counter(
            "ledger_payouts_made", "Payouts created.", registry=registry
        )
        self.accounts_waiting = Gauge(
            "ledger_payout_accounts_waiting",
            "Balance accounts, locked or refused by the database, for which payout runs wait.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.unanswered = Gauge(
            "ledger_payouts_unanswered",
            "Payouts that the bank has not answered, by currency and state.",
            ("currency", "state"),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.oldest_unanswered_seconds = Gauge(
            "ledger_payouts_unanswered_oldest_seconds",
            "The age of the oldest payout that the bank has not answered, by currency and state.",
            ("currency", "state"),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self._unanswered_seen: set[tuple[str, PayoutState]] = set()
        self.quarantined_payloads = Gauge(
            "ledger_quarantined",
            "Deliveries of processors in the quarantine that are not settled, by state.",
            ("state",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.oldest_quarantined_seconds = Gauge(
            "ledger_quarantined_oldest_seconds",
            "The age of the oldest delivery in the quarantine that is not settled, by state.",
            ("state",),
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.facts_repeated_total = Counter(
            "ledger_facts_repeated",
            "Events booked that report the fact of another recent event: same type, reference, "
            "amount, restaurant and currency.",
            registry=registry,
        )
        self.payments_decided_total = Counter(
            "ledger_payments_decided",
            "Commands about payments that were decided, by command and outcome: accepted, "
            "duplicate, or the reason of a decline.",
            ("command", "outcome"),
            registry=registry,
        )
        self.payments_expired_total = Counter(
            "ledger_payments_expired",
            "Payments that expired and whose holds the background worker released.",
            registry=registry,
        )
        # All from the start: a series that begins with its first count hides that count from rates.
        # And where the library keeps values in files, it opens every file now, so that the files
        # may be removed at any time.
        self._by_kind = {
            kind: (self.group_size.labels(kind), self.group_seconds.labels(kind))
            for kind in get_args(GroupKind)
        }
        self._decided = {
            (command, outcome): self.payments_decided_total.labels(command, outcome)
            for command in get_args(PaymentCommand)
            for outcome in PAYMENT_OUTCOMES
        }

    def group(self, kind: GroupKind, size: int, seconds: float) -> None:
        size_histogram, seconds_histogram = self._by_kind[kind]
        size_histogram.observe(size)
        seconds_histogram.observe(seconds)

    def queue(self, events: int, size_bytes: int) -> None:
        self.queue_events.set(events)
        self.queue_bytes.set(size_bytes)

    def snapshots_made(self, count: int) -> None:
        self.snapshots_made_total.inc(count)

    def payouts_made(self, count: int) -> None:
        self.payouts_made_total.inc(count)

    def payouts_unanswered(
        self, found: Mapping[tuple[str, PayoutState], tuple[int, float]]
    ) -> None:
        # A currency and state whose payouts are all answered stays, at 0.
        for currency, state in self._unanswered_seen | found.keys():
            count, oldest_seconds = found.get((currency, state), (0, 0.0))
            labels = (currency, state.value.lower())
            self.unanswered.labels(*labels).set(count)
            self.oldest_unanswered_seconds.labels(*labels).set(oldest_seconds)
        self._unanswered_seen |= found.keys()

    def quarantined(self, found: Mapping[QuarantineState, tuple[int, float]]) -> None:
        # All states, so that one without payloads goes back to 0.
        for state in OPEN_STATES:
            count, oldest_seconds = found.get(state, (0, 0.0))
            self.quarantined_payloads.labels(state.value.lower()).set(count)
            self.oldest_quarantined_seconds.labels(state.value.lower()).set(oldest_seconds)

    def payment_decided(self, command: PaymentCommand, outcome: str) -> None:
        self._decided[command, outcome].inc()

    def payments_expired(self, count: int) -> None:
        self.payments_expired_total.inc(count)

    def facts_repeated(self, count: int) -> None:
        self.facts_repeated_total.inc(count)

    def payout_accounts_waiting(self, count: int) -> None:
        self.accounts_waiting.set(count)

    def seal_lag(self, rows: int, seconds: float) -> None:
        self.seal_lag_rows.set(rows)
        self.seal_lag_seconds.set(seconds)

    def clocks(self, skew_seconds: float, behind_seconds: float) -> None:
        self.clock_skew_seconds.set(skew_seconds)
        self.clock_behind_seconds.set(behind_seconds)

    def database_clock_jumped(self, seconds: float) -> None:
        self.clock_jumps_total.labels("ahead" if seconds > 0 else "back").inc()


class _BuildInfo(Collector):
    """The versions that run. Not a gauge of the library, whose value could be kept in a file."""

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "ledger_build_info",
            "1, for the versions in its labels.",
            labels=("version", "python", "tzdata"),
        )
        family.add_metric(
            (version("ledger-service"), platform.python_version(), zone_table_version()), 1
        )
        yield family


def process_registry() -> CollectorRegistry:
    """A registry that also has this process's memory, processor time and version."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_BuildInfo())
    return registry


class SummedMetrics(Collector):
    """Adds up the metrics of several processes, for their supervisor.

    Also shows the memory and the processor time of each process. The counts of a dead process stay
    in the counters, so these never go down. Its gauges are left out.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._alive: dict[str, ProcessCollector] = {"supervisor": ProcessCollector(registry=None)}
        self._pids: dict[str, int] = {}
        self._restarts = 0
        self._changing = threading.Lock()
        self.registry = CollectorRegistry()
        MultiProcessCollector(self.registry, path=str(directory))  # type: ignore[no-untyped-call]
        self.registry.register(_BuildInfo())
        self.registry.register(self)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that a process needs to be counted here."""
        return {MULTIPROCESS_VARIABLE: str(self._directory)}

    def started(self, worker: str, pid: int) -> None:
        with self._changing:
            self._alive[worker] = ProcessCollector(pid=lambda: pid, registry=None)
            self._pids[worker] = pid

    def ended(self, worker: str) -> None:
        with self._changing:
            del self._alive[worker]
            self._restarts += 1
            pid = self._pids.pop(worker)
            mark_process_dead(pid, path=str(self._directory))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """The library's metrics of each process, with a label that names the worker."""
        with self._changing:
            alive, restarts = dict(self._alive), self._restarts
        families: dict[str, Metric] = {}
        for worker, collector in alive.items():
            for metric in collector.collect():
                family = families.setdefault(
                    metric.name, Metric(metric.name, metric.documentation, metric.type)
                )
                for sample in metric.samples:
                    family.add_sample(
                        sample.name, {**sample.labels, "worker": worker}, sample.value
                    )
        yield from families.values()
        yield CounterMetricFamily(
            "ledger_worker_ends", "Workers that ended and were replaced.", restarts
        )


@contextmanager
def metrics_directory() -> Iterator[Path]:
    """A new directory for the metrics of several processes, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="ledger-metrics-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def remove_metrics_directory() -> None:
    """Removes the directory that has this process's metrics, if any.

    For a worker whose supervisor is gone. Other workers that still run keep their open files.
    """
    if MULTIPROCESS_VARIABLE in os.environ:
        shutil.rmtree(os.environ[MULTIPROCESS_VARIABLE], ignore_errors=True)


class _PageServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # Some versions of Python set this, and then a second server would get half the requests.
    allow_reuse_port = False


class _IPv6PageServer(_PageServer):
    address_family = socket.AF_INET6


class _Request(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_SECONDS

    def log_message(self, format: str, *args: object) -> None:
        pass


class MetricsPage:
    """Serves the metrics at http://ADDRESS/metrics until it is closed. Raises OSError.

    `address` has the port that was bound, which differs from the given one if that is 0.
    """

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        host, port = host_and_port(address)
        server_class = _IPv6PageServer if ":" in host else _PageServer
        self._server = make_server(
            host,
            port,
            make_wsgi_app(registry),
            server_class=server_class,
            handler_class=_Request,
        )
        self.address = with_port(address, self._server.server_port)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
