"""Where a server's metrics go: nowhere, to its page, or to its supervisor's page, which adds up
the metrics of all workers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from ledger.api.metrics import CallMetrics, NoCallMetrics
from ledger.api.transport.listening import AddressUnavailable
from ledger.application.metrics import LedgerMetrics, NoWorkMetrics
from ledger.settings import Settings

if TYPE_CHECKING:
    # Loaded only where metrics are served.
    from prometheus_client import CollectorRegistry

    from ledger.infrastructure import prometheus

_log = structlog.get_logger("ledger")


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of calls and of work. Both are discarded by default."""

    calls: CallMetrics = field(default_factory=NoCallMetrics)
    work: LedgerMetrics = field(default_factory=NoWorkMetrics)


@contextmanager
def served_metrics(settings: Settings) -> Iterator[Metrics]:
    """The metrics of this process, served on a page while the block runs, if an address is set.

    Raises AddressUnavailable.
    """
    if not settings.metrics_address:
        yield Metrics()
        return
    from ledger.infrastructure import prometheus

    registry = prometheus.process_registry()
    with _metrics_page(settings, registry):
        yield _counted(registry)


@contextmanager
def summed_metrics(settings: Settings) -> Iterator["prometheus.SummedMetrics | None"]:
    """Serves the page of the supervisor while the block runs, if an address is set.

    Raises AddressUnavailable.
    """
    if not settings.metrics_address:
        yield None
        return
    from ledger.infrastructure import prometheus

    with prometheus.metrics_directory() as directory:
        metrics = prometheus.SummedMetrics(directory)
        with _metrics_page(settings, metrics.registry):
            yield metrics


def worker_metrics(settings: Settings) -> Metrics:
    """The metrics of a worker. Its supervisor serves the page."""
    if not settings.metrics_address:
        return Metrics()
    from prometheus_client import CollectorRegistry

    return _counted(CollectorRegistry())


def _counted(registry: "CollectorRegistry") -> Metrics:
    from ledger.infrastructure import prometheus

    return Metrics(
        prometheus.PrometheusCallMetrics(registry), prometheus.PrometheusLedgerMetrics(registry)
    )


@contextmanager
def _metrics_page(settings: Settings, registry: "CollectorRegistry") -> Iterator[None]:
    from ledger.infrastructure import prometheus

    try:
        page = prometheus.MetricsPage(settings.metrics_address, registry)
    except OSError as error:
        raise AddressUnavailable(
            f"cannot serve the metrics at {settings.metrics_address}: {error.strerror or error}"
        ) from error
    with page:
        _log.info("serving metrics", address=page.address)
        yield
