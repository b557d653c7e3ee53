"""Numbers about runs: counted by a field, by the hour, today, and what tables hold.

Ended runs may be many. Whatever reads them one by one stops after a number of rows, and says so. Those of a time are
found by closed_runs_times_idx, which tells the pages that may hold them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Subquery,
    cast,
    distinct,
    extract,
    func,
    literal,
    null,
    select,
    text,
    union_all,
)

from stepwell_server.model.runs import TERMINAL, Phase
from stepwell_server.model.statistics import Bucket, Counted, Dashboard, Grouping, Storage, TableGroup, Window
from stepwell_server.store.run_lists import RunFilter, matching
from stepwell_server.store.schema import CLOSED_RUNS, DEFINITIONS, RUN_DEFINITIONS, RUNS

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.store.database import Database

MOST_COUNTED, MOST_IN_SERIES, MOST_GROUPS, NEWEST = 1_000_000, 500_000, 1_000, 10_000
_TODAY = "ended_today"

_GROUPS = {
    "runs": ("runs", "closed_runs", "run_ids", "workflow_ids", "run_definitions", "run_origins", "run_tasks"),
    "steps": ("steps", "closed_steps", "scopes", "heartbeats", "dispatches"),
    "history": ("events", "caller_seqs"),
    "found by": ("search_attributes", "published", "snapshots"),
    "signals and topics": ("signals", "watchers", "topic_events", "topic_waits", "topic_positions"),
    "jobs": ("jobs", "closed_jobs", "job_ids", "job_inputs", "unique_jobs"),
    "work": ("tasks", "sessions", "workers", "mail", "run_calls", "batches", "requests"),
    "user tasks": ("user_tasks",),
    "definitions and schedules": ("definitions", "schedules", "schedule_firings", "schedule_runs"),
}
_GROUP_OF = {table: name for name, tables in _GROUPS.items() for table in tables}
_SIZES = text("""
    SELECT
        coalesce(p.relname, c.relname), sum(greatest(c.reltuples, 0))::bigint,
        sum(pg_total_relation_size(c.oid))::bigint
    FROM pg_class AS c
    LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
    LEFT JOIN pg_class AS p ON p.oid = i.inhparent
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
    GROUP BY 1
""")


# --- counting ---------------------------------------------------------------------------------------------------------


async def count_by(database: Database, wanted: RunFilter, grouping: Grouping) -> Counted:
    """Runs that fit, by a field; so many of either table at most."""
    parts = [
        select(_grouped(columns, grouping).label("value")).where(*conditions).limit(MOST_COUNTED + 1).subquery()
        for columns, conditions in matching(wanted)
    ]
    if not parts:
        return Counted([], 0, is_cut=False)
    rows = union_all(
        *(select(part.c.value, literal(place).label("part")) for place, part in enumerate(parts))
    ).subquery()
    query = select(rows.c.part, rows.c.value, func.count()).group_by(rows.c.part, rows.c.value)
    groups: dict[str, int] = {}
    sizes = [0] * len(parts)
    async with database.pool.begin() as connection:
        for part, value, count in await connection.execute(query):
            name = Phase(int(value)).name if grouping is Grouping.PHASE else value
            groups[name] = groups.get(name, 0) + count
            sizes[part] += count
    largest = sorted(groups.items(), key=lambda group: (-group[1], group[0]))
    return Counted(largest, sum(sizes), is_cut=any(size > MOST_COUNTED for size in sizes))


def _grouped(columns: Any, grouping: Grouping) -> ColumnElement[Any]:  # noqa: ANN401 - columns by name
    if grouping is Grouping.DEFINITION:
        code = select(DEFINITIONS.c.code).join(
            RUN_DEFINITIONS, RUN_DEFINITIONS.c.definition_key == DEFINITIONS.c.definition_key
        )
        return func.coalesce(code.where(RUN_DEFINITIONS.c.run_key == columns["run_key"]).scalar_subquery(), "")
    value: ColumnElement[Any] = columns[grouping.name.lower()]
    return value


# --- by time ----------------------------------------------------------------------------------------------------------


async def series(database: Database, wanted: RunFilter, window: Window) -> tuple[list[Bucket], bool]:
    """The buckets of a window, empty ones too; and whether there are more runs than are looked at.

    Shares of durations are Postgres' `percentile_cont`: interpolated between the nearest two, at (n - 1) * share.
    """
    parts = [_started(columns, conditions, window) for columns, conditions in matching(wanted)]
    buckets = [Bucket() for _ in range(window.count)]
    if not parts or not buckets:
        return buckets, False
    rows = union_all(*(select(part) for part in parts)).subquery()
    ended = [func.count().filter(rows.c.phase == phase).label(phase.name.lower()) for phase in sorted(TERMINAL)]
    shares = [func.percentile_cont(share).within_group(rows.c.took.asc()) for share in (0.5, 0.95)]
    query = select(rows.c.bucket, func.count(), *ended, *shares).group_by(rows.c.bucket)
    seen = 0
    async with database.pool.begin() as connection:
        for place, total, *numbers in await connection.execute(query):
            phases = {int(phase): count for phase, count in zip(sorted(TERMINAL), numbers, strict=False) if count}
            seen += total
            p50, p95 = numbers[-2:]
            buckets[place] = Bucket(total - sum(phases.values()), phases, p50, p95)
    return buckets, seen > MOST_IN_SERIES


def _started(columns: Any, conditions: list[ColumnElement[bool]], window: Window) -> Subquery:  # noqa: ANN401
    begun, size = columns["create_time"], window.size.total_seconds()
    place = cast(func.floor(extract("epoch", begun - literal(window.start, begun.type)) / size), Integer)
    took = cast(extract("epoch", columns["end_time"] - begun) * 1000, literal(0.0).type)
    within = (begun >= window.start, begun < window.end)
    query = select(place.label("bucket"), columns["phase"].label("phase"), took.label("took"))
    return query.where(*conditions, *within).limit(MOST_IN_SERIES + 1).subquery()


async def dashboard(database: Database, namespace_id: int, day_start: datetime) -> Dashboard:
    """What is told of a namespace first, in one statement and so of one moment."""
    ended = (
        select(CLOSED_RUNS.c.phase)
        .where(CLOSED_RUNS.c.namespace_id == namespace_id, CLOSED_RUNS.c.end_time >= day_start)
        .limit(MOST_COUNTED + 1)
        .subquery()
    )
    is_open = RUNS.c.namespace_id == namespace_id
    of_definitions = select(func.count(distinct(DEFINITIONS.c.code))).where(DEFINITIONS.c.namespace_id == namespace_id)
    parts: list[Select[Any, Any]] = [
        select(literal("definitions"), of_definitions.scalar_subquery()),
        select(literal("types"), _types(namespace_id)),
        select(literal("open"), func.count()).where(is_open),
        select(literal("running"), func.count()).where(is_open, RUNS.c.phase == Phase.RUNNING),
        select(literal("paused"), func.count()).where(is_open, RUNS.c.pause_reason.is_not(None)),
        select(func.concat(_TODAY, ended.c.phase), func.count()).group_by(ended.c.phase),
    ]
    async with database.pool.begin() as connection:
        rows = (await connection.execute(union_all(*parts))).all()
    found: dict[str, int] = {row[0]: row[1] for row in rows}
    today = {int(name.removeprefix(_TODAY)): found.pop(name) for name in list(found) if name.startswith(_TODAY)}
    return Dashboard(**found, ended=today, is_cut=sum(today.values()) > MOST_COUNTED)


def _types(namespace_id: int) -> ColumnElement[int]:
    """Distinct types of the open runs and of the newest ended ones. Walks closed_runs_namespace_idx backwards."""
    newest = (
        select(CLOSED_RUNS.c.type)
        .where(CLOSED_RUNS.c.namespace_id == namespace_id)
        .order_by(CLOSED_RUNS.c.run_key.desc())
        .limit(NEWEST)
        .subquery()
    )
    every = union_all(select(RUNS.c.type).where(RUNS.c.namespace_id == namespace_id), select(newest.c.type)).subquery()
    return select(func.count(distinct(every.c.type))).scalar_subquery()


# --- storage ----------------------------------------------------------------------------------------------------------


async def storage(database: Database, namespace_id: int) -> Storage:
    """What a namespace holds, counted, and what the tables of all hold, as the catalogue estimates it."""
    ended = select(null()).where(CLOSED_RUNS.c.namespace_id == namespace_id).limit(MOST_COUNTED + 1).subquery()
    counts = select(
        *(
            select(func.count()).select_from(each).scalar_subquery()
            for each in (
                select(null()).where(DEFINITIONS.c.namespace_id == namespace_id).subquery(),
                select(null()).where(RUNS.c.namespace_id == namespace_id).subquery(),
                ended,
            )
        )
    )
    async with database.pool.begin() as connection:
        definitions, open_runs, ended_runs = (await connection.execute(counts)).one()
        tables = (await connection.execute(_SIZES)).all()
    more = ended_runs > MOST_COUNTED
    runs = open_runs + min(ended_runs, MOST_COUNTED)
    return Storage(definitions, runs, open_runs, more, _groups([(row[0], row[1], row[2]) for row in tables]))


def _groups(tables: list[tuple[str, int, int]]) -> list[TableGroup]:
    found: dict[str, list[tuple[str, int, int]]] = {}
    for table in tables:
        found.setdefault(_GROUP_OF.get(table[0], "others"), []).append(table)
    groups = [
        TableGroup(name, sum(row[1] for row in rows), sum(row[2] for row in rows), sorted(row[0] for row in rows))
        for name, rows in found.items()
    ]
    return sorted(groups, key=lambda group: (-group.size, group.name))
