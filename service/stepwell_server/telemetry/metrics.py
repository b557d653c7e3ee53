"""Metrics, for Prometheus. Whoever counts often keeps the child of its labels: finding it anew costs more than it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAITS = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 7_200.0)
_MOST_QUEUES, _REST = 100, "_others"
# A scraper in Kubernetes says `namespace` of its own, and would rename ours.
_QUEUE = ("stepwell_namespace", "task_queue", "kind")
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
    buckets=LATENCIES,
    registry=registry,
)
statements = Counter(
    "stepwell_statements",
    "Statements that dedicated connections sent to the database, BEGIN and COMMIT among them; not those of the pool.",
    registry=registry,
)
commits = Counter(
    "stepwell_commits", "Transactions that dedicated connections ended by a COMMIT of their own.", registry=registry
)
streams = Gauge("stepwell_streams", "Worker streams open at this replica.", registry=registry)
backlog_tasks = Gauge(
    "stepwell_backlog_tasks",
    "Tasks that wait for a worker; told by the leader.",
    _QUEUE,
    registry=registry,
)
backlog_age = Gauge(
    "stepwell_backlog_age_seconds",
    "For how long the oldest of them has waited; told by the leader.",
    _QUEUE,
    registry=registry,
)
backlog_stranded = Gauge(
    "stepwell_backlog_stranded_tasks",
    "How many of them no live worker takes; told by the leader.",
    _QUEUE,
    registry=registry,
)
capacity_stated = Gauge(
    "stepwell_capacity_stated",
    "Tasks that the workers connected to this replica say they take at once; resident: waiting runs that they keep.",
    ("kind",),
    registry=registry,
)
capacity_used = Gauge(
    "stepwell_capacity_used",
    "How much of that is taken, tasks on their way to a worker among it.",
    ("kind",),
    registry=registry,
)
claims = Counter(
    "stepwell_claims",
    "Tasks given out: runs, activities, jobs, and steps of driven runs.",
    ("kind",),
    registry=registry,
)
schedule_to_start = Histogram(
    "stepwell_schedule_to_start_seconds",
    "Time from when a task was ready until it was given out.",
    ("kind",),
    buckets=_WAITS,
    registry=registry,
)
heartbeats = Counter(
    "stepwell_heartbeats",
    "Heartbeats received: of activities, jobs, sessions (without items), driven runs (renewals), outside workers.",
    ("kind", "outcome"),
    registry=registry,
)
leases_lost = Counter(
    "stepwell_leases_lost", "Leases that ended without their holder's consent.", ("reason",), registry=registry
)
retained_runs = Counter(
    "stepwell_retained_runs",
    "Ended runs whose retention was over, by what became of them; told by the leader.",
    ("outcome",),
    registry=registry,
)
certificate_expiry = Gauge(
    "stepwell_certificate_expiry_seconds",
    "When the certificate that the gRPC port shows will end, in seconds since 1970; 0 without TLS.",
    registry=registry,
)
leader = Gauge("stepwell_leader", "1 while this replica is the leader.", registry=registry)
rounds = Counter(
    "stepwell_rounds",
    "Rounds of what a replica, or the leader, does again and again.",
    ("loop", "outcome"),
    registry=registry,
)
round_time = Gauge(
    "stepwell_round_time_seconds",
    "When the last such round ended well, in seconds since 1970.",
    ("loop",),
    registry=registry,
)
lateness = Histogram(
    "stepwell_lateness_seconds",
    "How long overdue the earliest was of what a round of the leader dealt with.",
    ("loop",),
    buckets=_WAITS,
    registry=registry,
)
dead_letters = Gauge(
    "stepwell_dead_letters",
    "What programs asked for in their own transactions and was refused, counted up to 10,000; told by the leader.",
    registry=registry,
)
ready = Gauge("stepwell_ready", "1 while this replica answers calls.", registry=registry)
build = Gauge("stepwell_build_info", "1, with the version that this replica is of.", ("version",), registry=registry)
calls_under_way = Gauge("stepwell_calls_under_way", "Unary calls that this replica is at.", registry=registry)
committer_waiting = Gauge(
    "stepwell_committer_waiting_commands", "Commands that wait for this replica's committers.", registry=registry
)
pool_allowed = Gauge(
    "stepwell_pool_connections_allowed", "Connections for cold calls that this replica may have.", registry=registry
)
pool_used = Gauge("stepwell_pool_connections_used", "How many of them are in use.", registry=registry)
connects = Counter(
    "stepwell_database_connects",
    "Attempts to open a dedicated connection to the database, by outcome.",
    ("outcome",),
    registry=registry,
)
slow_operations = Counter(
    "stepwell_slow_operations", "What took longer than STEPWELL_SLOW_SECONDS, by kind.", ("kind",), registry=registry
)
refusals = Counter("stepwell_refusals", "Calls and items refused, by reason.", ("reason",), registry=registry)

# There from the start, so that the first one shows as a rise.
for _reason in ("INTERNAL_ERROR", "QUEUE_FULL", "DATABASE_UNAVAILABLE"):
    refusals.labels(_reason)
leases_lost.labels("session expired")
for _outcome in ("made", "failed"):
    connects.labels(_outcome)

Queue = tuple[str, str, str]  # namespace, task queue, kind
_backlogs: set[Queue] = set()
# Labels are words of the service: there are few.
_refused, _claimed, _waited = cache(refusals.labels), cache(claims.labels), cache(schedule_to_start.labels)
_beaten, _lost = cache(heartbeats.labels), cache(leases_lost.labels)
_rounds, _round_times, _late = cache(rounds.labels), cache(round_time.labels), cache(lateness.labels)
_connected, _slow = cache(connects.labels), cache(slow_operations.labels)


def count_claim(kind: str) -> None:
    """Counts a task that was given out."""
    _claimed(kind).inc()


def observe_wait(kind: str, seconds: float) -> None:
    """Notes for how long a task waited that was given out; clocks of two replicas may differ a little."""
    _waited(kind).observe(max(0.0, seconds))


def count_heartbeats(kind: str, outcome: str, count: int = 1) -> None:
    """Counts heartbeats received."""
    _beaten(kind, outcome).inc(count)


def count_lost_lease(reason: str, count: int = 1) -> None:
    """Counts leases that ended otherwise than by their holders' word."""
    _lost(reason).inc(count)


def count_refusal(reason: str) -> None:
    """Counts a refusal; reasons are declared, so that there are few."""
    _refused(reason).inc()


def set_certificate_expiry(seconds: float) -> None:
    """Tells when the certificate in use will end, in seconds since 1970."""
    certificate_expiry.set(seconds)


def count_round(loop: str, outcome: str) -> None:
    """Counts a round, which was `done`, or `failed`."""
    _rounds(loop, outcome).inc()
    if outcome == "done":
        _round_times(loop).set_to_current_time()


def observe_lateness(loop: str, seconds: float) -> None:
    """Notes how long overdue the earliest of a round was."""
    _late(loop).observe(max(0.0, seconds))


def count_connect(outcome: str) -> None:
    """Counts an attempt to open a connection, which was `made`, or `failed`."""
    _connected(outcome).inc()


def count_slow(kind: str) -> None:
    """Counts what was slow."""
    _slow(kind).inc()


def set_backlog(waiting: Mapping[Queue, tuple[int, float, int]]) -> None:
    """Sets how much waits in each queue, for how long, and how much of it is stranded, in place of what was told.

    Callers name queues, and so make labels: the longest backlogs are told one by one, all others together.
    """
    longest = sorted(waiting, key=lambda queue: waiting[queue], reverse=True)
    told = {queue: waiting[queue] for queue in longest[:_MOST_QUEUES]}
    for queue in longest[_MOST_QUEUES:]:
        rest = (_REST, _REST, queue[2])
        count, age, stranded = told.get(rest, (0, 0.0, 0))
        more, oldest, left = waiting[queue]
        told[rest] = (count + more, max(age, oldest), stranded + left)
    for queue, (count, age, stranded) in told.items():
        backlog_tasks.labels(*queue).set(count)
        backlog_age.labels(*queue).set(age)
        backlog_stranded.labels(*queue).set(stranded)
    for queue in _backlogs - told.keys():
        backlog_tasks.remove(*queue)
        backlog_age.remove(*queue)
        backlog_stranded.remove(*queue)
    _backlogs.clear()
    _backlogs.update(told)


def serve_metrics(port: int, host: str = "127.0.0.1") -> tuple[int, Callable[[], None]]:
    """Serves the metrics over HTTP from a thread; answers the port and what ends it. Port 0 takes a free one."""
    server, thread = start_http_server(port, host, registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return server.server_port, stop
