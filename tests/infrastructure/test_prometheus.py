"""The metrics that Prometheus reads."""

import socket
import urllib.request
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from ledger.api.errors import REASONS_OF_OVERLOAD
from ledger.domain.payout_states import PayoutState
from ledger.domain.quarantine import QuarantineState
from ledger.infrastructure.prometheus import (
    MetricsPage,
    PrometheusCallMetrics,
    PrometheusLedgerMetrics,
    SummedMetrics,
    process_registry,
)
from ledger.zones import zone_table_version

# The library reads the metrics of processes there.
needs_proc = pytest.mark.skipif(
    not Path("/proc/1/stat").exists(), reason="this system has no /proc"
)

OLDEST = "ledger_quarantined_oldest_seconds"
INGEST = "/ledger.v1.LedgerService/IngestEvent"


def samples_of(registry: CollectorRegistry) -> dict[str, float]:
    """The values on the page of a registry, by names with labels."""
    with (
        MetricsPage("127.0.0.1:0", registry) as page,
        urllib.request.urlopen(f"http://{page.address}/metrics", timeout=30) as response,
    ):
        families = list(text_string_to_metric_families(response.read().decode()))
    return {
        "".join(
            [sample.name, *(f" {name}={value}" for name, value in sorted(sample.labels.items()))]
        ): sample.value
        for family in families
        for sample in family.samples
    }


@needs_proc
def test_calls_are_counted_by_method_and_status() -> None:
    """Counts, times in buckets, and the calls under way."""
    registry = process_registry()
    calls = PrometheusCallMetrics(registry)
    for code, seconds in (
        (grpc.StatusCode.OK, 0.0004),
        (grpc.StatusCode.OK, 0.3),
        (grpc.StatusCode.NOT_FOUND, 30),
    ):
        calls.started(INGEST)
        calls.ended(INGEST, code, seconds)
    calls.started(INGEST)
    samples = samples_of(registry)
    method = "grpc_method=IngestEvent grpc_service=ledger.v1.LedgerService"
    assert samples[f"grpc_server_handled_total grpc_code=OK {method}"] == 2
    assert samples[f"grpc_server_handled_total grpc_code=NOT_FOUND {method}"] == 1
    assert samples[f"grpc_server_handling_seconds_bucket {method} le=0.0005"] == 1
    assert samples[f"grpc_server_handling_seconds_bucket {method} le=10.0"] == 2
    assert samples[f"grpc_server_handling_seconds_bucket {method} le=+Inf"] == 3
    assert samples[f"grpc_server_in_flight {method}"] == 1
    (build_info,) = (name for name in samples if name.startswith("ledger_build_info "))
    assert f" tzdata={zone_table_version()} " in f"{build_info} "
    assert samples[build_info] == 1
    assert samples["process_resident_memory_bytes"] > 1_000_000
    assert samples["process_cpu_seconds_total"] > 0


def test_refused_calls_are_counted_by_reason() -> None:
    """The first call of a method sets each reason to 0: else rates would miss its first count."""
    registry = CollectorRegistry()
    calls = PrometheusCallMetrics(registry)
    calls.started(INGEST)
    series = (
        "ledger_calls_turned_away_total grpc_method=IngestEvent "
        "grpc_service=ledger.v1.LedgerService reason="
    )
    shown = {
        name.removeprefix(series): value
        for name, value in samples_of(registry).items()
        if name.startswith(series)
    }
    assert shown == dict.fromkeys(REASONS_OF_OVERLOAD.values(), 0)
    for refused, reason in enumerate(shown, 1):
        for _ in range(refused):
            calls.refused_under_load(INGEST, reason)
    samples = samples_of(registry)
    assert [samples[series + reason] for reason in shown] == [1, 2, 3]


def test_background_work_is_counted() -> None:
    """Every metric of the work behind the calls."""
    registry = CollectorRegistry()
    work = PrometheusLedgerMetrics(registry)
    work.group("ingest", 30, 0.004)
    work.group("balance", 1, 0.001)
    work.queue(7, 700)
    work.snapshots_made(3)
    work.payouts_made(5)
    work.payout_accounts_waiting(2)
    work.facts_repeated(4)
    created, submitted = PayoutState.CREATED, PayoutState.SUBMITTED
    work.payouts_unanswered({("PEN", created): (3, 90.0), ("PEN", submitted): (1, 5.0)})
    work.payouts_unanswered({("PEN", created): (2, 60.0)})
    work.quarantined({QuarantineState.PARKED: (3, 90.0)})
    work.quarantined({QuarantineState.QUARANTINED: (2, 60.0)})
    work.seal_lag(90, 12.5)
    work.clocks(-600.0, 7.5)
    work.database_clock_jumped(7200.0)
    work.database_clock_jumped(7200.0)
    work.database_clock_jumped(-3.0)
    samples = samples_of(registry)
    assert samples["ledger_group_size_bucket kind=ingest le=20.0"] == 0
    assert samples["ledger_group_size_bucket kind=ingest le=50.0"] == 1
    assert samples["ledger_group_size_sum kind=balance"] == 1
    assert samples["ledger_group_seconds_sum kind=ingest"] == 0.004
    assert (samples["ledger_queue_events"], samples["ledger_queue_bytes"]) == (7, 700)
    assert samples["ledger_snapshots_made_total"] == 3
    assert samples["ledger_payouts_made_total"] == 5
    assert samples["ledger_payout_accounts_waiting"] == 2
    assert samples["ledger_facts_repeated_total"] == 4
    assert (
        samples["ledger_payouts_unanswered currency=PEN state=created"],
        samples["ledger_payouts_unanswered currency=PEN state=submitted"],
    ) == (2, 0)
    assert samples["ledger_payouts_unanswered_oldest_seconds currency=PEN state=created"] == 60
    assert [
        (samples[f"ledger_quarantined state={state}"], samples[f"{OLDEST} state={state}"])
        for state in ("quarantined", "retry_requested", "parked")
    ] == [(2, 60), (0, 0), (0, 0)]
    assert (samples["ledger_seal_lag_rows"], samples["ledger_seal_lag_seconds"]) == (90, 12.5)
    assert samples["ledger_database_clock_skew_seconds"] == -600
    assert samples["ledger_clock_behind_seconds"] == 7.5
    assert samples["ledger_database_clock_jumps_total direction=ahead"] == 2
    assert samples["ledger_database_clock_jumps_total direction=back"] == 1


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this system has no IPv6")
def test_page_is_served_over_ipv6() -> None:
    """The address in brackets, as in a URL."""
    with (
        MetricsPage("[::1]:0", CollectorRegistry()) as page,
        urllib.request.urlopen(f"http://{page.address}/metrics", timeout=30) as response,
    ):
        assert response.status == 200


@needs_proc
def test_ended_worker_is_no_longer_shown(tmp_path: Path) -> None:
    """Its end is counted."""
    metrics = SummedMetrics(tmp_path)
    metrics.started("1", 1)
    assert samples_of(metrics.registry)["process_start_time_seconds worker=1"] > 0
    metrics.ended("1")
    samples = samples_of(metrics.registry)
    assert "process_start_time_seconds worker=1" not in samples
    assert samples["process_start_time_seconds worker=supervisor"] > 0
    assert samples["ledger_worker_ends_total"] == 1
