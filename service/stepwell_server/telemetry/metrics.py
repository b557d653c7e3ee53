"""Metrics, for Prometheus. Whoever counts often keeps the child of its labels: finding it anew costs more than it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

registry = CollectorRegistry()
ProcessCollector(registry=registry)
PlatformCollector(registry=registry)
GCCollector(registry=registry)

commit_batch_commands = Histogram(
    "stepwell_commit_batch_commands", "Commands of one transaction.", buckets=_BATCHES, registry=registry
)
commit_seconds = Histogram(
    "stepwell_commit_seconds",
    "Time from taking a batch of commands until it was committed.",
    buckets=_LATENCIES,
    registry=registry,
)
streams = Gauge("stepwell_streams", "Worker streams open at this replica.", registry=registry)
leases_lost = Counter(
    "stepwell_leases_lost", "Leases that ended without their holder's consent.", ("reason",), registry=registry
)
leader = Gauge("stepwell_leader", "1 while this replica is the leader.", registry=registry)
refusals = Counter("stepwell_refusals", "Calls and items refused, by reason.", ("reason",), registry=registry)

_refused = cache(refusals.labels)


def count_refusal(reason: str) -> None:
    """Counts a refusal; reasons are declared, so that there are few."""
    _refused(reason).inc()


def serve_metrics(port: int, host: str = "127.0.0.1") -> tuple[int, Callable[[], None]]:
    """Serves the metrics over HTTP from a thread; answers the port and what ends it. Port 0 takes a free one."""
    server, thread = start_http_server(port, host, registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop
