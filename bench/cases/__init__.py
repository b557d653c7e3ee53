"""The cases, by name. Each measures one block and answers the figures of one or several rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from bench.blocks import Bench
from bench.cases import capacity, conditions, control, latency, length, peers, tables
from bench.figures import Figure


@dataclass(frozen=True)
class Case:
    """A case, and the rows that it fills."""

    measure: Callable[[Bench], Awaitable[list[Figure]]]
    rows: tuple[str, ...]
    is_long: bool = False


CASES = {
    "one_activity": Case(capacity.one_activity, ("one_activity", "commits", "statements", "wal", "wal_without_images")),
    "one_activity_1kb": Case(capacity.one_activity_1kb, ("one_activity_1kb",)),
    "three_steps": Case(capacity.three_steps, ("three_steps",)),
    "three_steps_1kb": Case(capacity.three_steps_1kb, ("three_steps_1kb",)),
    "jobs": Case(capacity.jobs, ("jobs",)),
    "idle": Case(latency.idle, ("called_p50", "called_p99", "completed_p50", "completed_p99")),
    "loaded": Case(latency.loaded, ("thousand_p50", "thousand_p99", "half_p99", "middle_cpu")),
    "slow_commits": Case(conditions.slow_commits, ("slow_commits",)),
    "traced": Case(conditions.traced, ("traced",)),
    "watched": Case(conditions.watched, ("watched",)),
    "quiet_namespace": Case(conditions.quiet_namespace, ("quiet_namespace",)),
    "control": Case(control.control, tuple(control.ROWS)),
    "dbos": Case(partial(peers.beside, peers.DBOS), ("dbos",)),
    "procrastinate": Case(partial(peers.beside, peers.PROCRASTINATE), ("procrastinate",)),
    "pgqueuer": Case(partial(peers.beside, peers.PGQUEUER), ("pgqueuer",)),
    "grown": Case(tables.grown, ("grown",), is_long=True),
    "snapshot": Case(tables.snapshot, ("snapshot",), is_long=True),
    "backlog": Case(tables.backlog, ("backlog",), is_long=True),
    "long_runs": Case(length.long_runs, ("long_steps", "long_activities", "long_fan_out"), is_long=True),
    "idle_streams": Case(length.idle_streams, ("streams_memory", "streams_cpu"), is_long=True),
    "replicas": Case(conditions.replicas, ("replicas",), is_long=True),
}
