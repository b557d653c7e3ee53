"""Writes the Grafana dashboards of the chart; `--check` only compares.

A panel is a title, what it tells, a unit and queries. All else, which Grafana wants of each, is alike for all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy/helm/stepwell/dashboards"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, WIDE, NARROW, HEIGHT, LOW = 24, 12, 8, 8, 4
# Which Stepwell, and which of its queues.
HERE = 'namespace=~"$namespace", job=~"$job"'
QUEUE = HERE + ', stepwell_namespace=~"$stepwell_namespace", task_queue=~"$task_queue", kind=~"$kind"'
GREEN, YELLOW, RED = "green", "yellow", "red"


class Panel(NamedTuple):
    """`queries` are expressions, each with its legend; `steps` from which value on which colour."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    steps: tuple[tuple[float, str], ...] = ()
    width: int = WIDE
    height: int = HEIGHT


def rate(metric: str, labels: str = "", by: str = "") -> str:
    """How much a counter rises a second, summed up."""
    chosen = f"{HERE}, {labels}" if labels else HERE
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{chosen}}}[$__rate_interval]))"


def quantile(part: float, metric: str, by: str = "", labels: str = "") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({part}, {rate(f'{metric}_bucket', labels, by=f'{by}, le' if by else 'le')})"


def stat(title: str, description: str, unit: str, expression: str, *steps: tuple[float, str]) -> Panel:
    """One number."""
    return Panel(title, description, unit, ((expression, ""),), "stat", ((-1e9, GREEN), *steps), 4, LOW)


GLANCE = [
    stat(
        "Replicas ready",
        "Replicas that answer calls: the schema suits them, and they are not stopping.",
        "none",
        f"sum(stepwell_ready{{{HERE}}})",
        (-1e9, RED),
        (1, GREEN),
    ),
    stat(
        "Leaders",
        "There is one, but for a second or two when it changes. Nobody fires timers while there is none.",
        "none",
        f"sum(stepwell_leader{{{HERE}}})",
        (-1e9, RED),
        (1, GREEN),
        (2, RED),
    ),
    stat(
        "Oldest task",
        "For how long the oldest task of all queues has waited for a worker.",
        "s",
        f"max(stepwell_backlog_age_seconds{{{HERE}}}) or vector(0)",
        (60, YELLOW),
        (300, RED),
    ),
    stat(
        "Stranded tasks",
        "Tasks that no live worker takes: nobody listens to the queue, or to the type, or to the build.",
        "short",
        f"sum(stepwell_backlog_stranded_tasks{{{HERE}}}) or vector(0)",
        (1, RED),
    ),
    stat(
        "Faults of the service",
        "Calls and items answered with INTERNAL_ERROR in the last hour. Each has a line in the log, by its error id.",
        "short",
        f'sum(increase(stepwell_refusals_total{{{HERE}, reason="INTERNAL_ERROR"}}[1h])) or vector(0)',
        (1, RED),
    ),
    stat(
        "Versions",
        "How many versions of the service are running: two during a rolling update, else one.",
        "none",
        f"count(count by (version) (stepwell_build_info{{{HERE}}}))",
        (2, YELLOW),
    ),
]
TRAFFIC = [
    Panel(
        "Calls",
        "Unary calls a second, the ten methods that are called most. What goes over streams is not among them.",
        "reqps",
        ((f"topk(10, {rate('stepwell_calls_total', by='method')})", "{{method}}"),),
    ),
    Panel(
        "Tasks given out",
        "Tasks given to workers a second: runs to advance, activities, jobs, steps of driven runs.",
        "ops",
        ((rate("stepwell_claims_total", by="kind"), "{{kind}}"),),
    ),
    Panel(
        "Streams",
        "Worker streams open at each replica. They should be spread evenly.",
        "short",
        ((f"sum by (instance) (stepwell_streams{{{HERE}}})", "{{instance}}"),),
    ),
    Panel(
        "Heartbeats",
        "Signs of life a second, by what they are about and what came of them. `lost`: not the holder any more.",
        "ops",
        ((rate("stepwell_heartbeats_total", by="kind, outcome"), "{{kind}} {{outcome}}"),),
    ),
]
REFUSED = [
    Panel(
        "Refusals",
        "Calls and items refused a second. Most are the callers' own fault; QUEUE_FULL, DATABASE_UNAVAILABLE are not.",
        "ops",
        ((f"topk(10, {rate('stepwell_refusals_total', by='reason')})", "{{reason}}"),),
    ),
    Panel(
        "Calls that failed",
        "Unary calls a second that were answered by another status than OK.",
        "reqps",
        ((rate("stepwell_calls_total", 'code!="OK"', by="code"), "{{code}}"),),
    ),
]
LATENCY = [
    Panel(
        "Duration of calls",
        "How long unary calls take, those left out that were asked to wait for something.",
        "s",
        (
            (quantile(0.5, "stepwell_call_seconds"), "half"),
            (quantile(0.99, "stepwell_call_seconds"), "99 %"),
        ),
        steps=((0.5, YELLOW), (2, RED)),
    ),
    Panel(
        "Slowest methods",
        "The ten methods whose calls take longest, at 99 %.",
        "s",
        ((f"topk(10, {quantile(0.99, 'stepwell_call_seconds', by='method')})", "{{method}}"),),
    ),
    Panel(
        "Schedule to start",
        "From when a task was ready until a worker was given it. Grows when workers are missing, or busy.",
        "s",
        (
            (quantile(0.5, "stepwell_schedule_to_start_seconds", by="kind"), "{{kind}}, half"),
            (quantile(0.99, "stepwell_schedule_to_start_seconds", by="kind"), "{{kind}}, 99 %"),
        ),
        steps=((5, YELLOW), (60, RED)),
    ),
    Panel(
        "Under way",
        "Unary calls under way, and commands that wait for the committers. Beyond a bound they are refused.",
        "short",
        (
            (f"sum by (instance) (stepwell_calls_under_way{{{HERE}}})", "calls, {{instance}}"),
            (f"sum by (instance) (stepwell_committer_waiting_commands{{{HERE}}})", "commands, {{instance}}"),
        ),
        steps=((5_000, YELLOW), (10_000, RED)),
    ),
]
WORK = [
    Panel(
        "Backlog",
        "Tasks that wait for a worker. Counting ends at 10,000 of one type: what stands still there is a lower bound.",
        "short",
        ((f"sum by (kind) (stepwell_backlog_tasks{{{HERE}}})", "{{kind}}"),),
    ),
    Panel(
        "Age of the backlog",
        "For how long the oldest task of each kind has waited.",
        "s",
        ((f"max by (kind) (stepwell_backlog_age_seconds{{{HERE}}})", "{{kind}}"),),
        steps=((60, YELLOW), (300, RED)),
    ),
    Panel(
        "Capacity",
        "What connected workers say they take at once, and how much of it is taken.",
        "short",
        (
            (f"sum by (kind) (stepwell_capacity_stated{{{HERE}}})", "{{kind}}, stated"),
            (f"sum by (kind) (stepwell_capacity_used{{{HERE}}})", "{{kind}}, used"),
        ),
    ),
    Panel(
        "Leases lost",
        "Tasks a second taken from workers without their consent. `session expired`: they died or were cut off.",
        "ops",
        ((rate("stepwell_leases_lost_total", by="reason"), "{{reason}}"),),
    ),
]
DATABASE = [
    Panel(
        "Duration of commits",
        "From taking a batch of commands until it was committed. Every write waits for one.",
        "s",
        (
            (quantile(0.5, "stepwell_commit_seconds"), "half"),
            (quantile(0.99, "stepwell_commit_seconds"), "99 %"),
        ),
        steps=((0.25, YELLOW), (1, RED)),
    ),
    Panel(
        "Size of batches",
        "Commands of one transaction. Batches grow with the load, and with how long a commit takes.",
        "short",
        (
            (
                f"{rate('stepwell_commit_batch_commands_sum')} / {rate('stepwell_commit_batch_commands_count')}",
                "mean",
            ),
            (quantile(0.99, "stepwell_commit_batch_commands"), "99 %"),
        ),
    ),
    Panel(
        "Commits and statements",
        "What dedicated connections ask of the database a second.",
        "ops",
        (
            (rate("stepwell_commits_total"), "commits"),
            (rate("stepwell_statements_total"), "statements"),
        ),
    ),
    Panel(
        "Connections for cold calls",
        "Those in use, and how many there may be. Calls wait for one, and are then refused with QUEUE_FULL.",
        "short",
        (
            (f"sum by (instance) (stepwell_pool_connections_used{{{HERE}}})", "used, {{instance}}"),
            (f"max(stepwell_pool_connections_allowed{{{HERE}}})", "allowed of each"),
        ),
    ),
    Panel(
        "Connections opened",
        "Attempts a second to open a dedicated connection. `failed`: the database is not to be reached.",
        "ops",
        ((rate("stepwell_database_connects_total", by="outcome"), "{{outcome}}"),),
    ),
    Panel(
        "Slow operations",
        "What took longer than STEPWELL_SLOW_SECONDS, a second, by kind. The log has a line for most of them.",
        "ops",
        ((rate("stepwell_slow_operations_total", by="kind"), "{{kind}}"),),
    ),
]
LEADER = [
    Panel(
        "Who leads",
        "1 for the leader.",
        "none",
        ((f"max by (instance) (stepwell_leader{{{HERE}}})", "{{instance}}"),),
    ),
    Panel(
        "Rounds of the leader that fail",
        "Rounds a second of what is done again and again, and went wrong. A few when the database is restarted.",
        "ops",
        ((rate("stepwell_rounds_total", 'outcome="failed"', by="loop"), "{{loop}}"),),
    ),
    Panel(
        "Since the last round",
        "How long ago each duty of the leader last ended a round. Those of retention take a minute by default.",
        "s",
        ((f"time() - max by (loop) (stepwell_round_time_seconds{{{HERE}}})", "{{loop}}"),),
        steps=((120, YELLOW), (300, RED)),
    ),
    Panel(
        "Lateness",
        "How long overdue timers, deadlines, jobs, mail and inbox rows were when the leader came to them, at 99 %.",
        "s",
        ((quantile(0.99, "stepwell_lateness_seconds", by="loop"), "{{loop}}"),),
        steps=((5, YELLOW), (15, RED)),
    ),
    Panel(
        "Runs past their retention",
        "Ended runs deleted or archived a second.",
        "ops",
        ((rate("stepwell_retained_runs_total", by="outcome"), "{{outcome}}"),),
    ),
    Panel(
        "Dead letters",
        "What programs asked for in their own transactions and was refused, and nobody has dealt with.",
        "short",
        ((f"max(stepwell_dead_letters{{{HERE}}})", "dead letters"),),
        steps=((1, YELLOW),),
    ),
]
# The process's own metrics, of those processes that are Stepwell's.
OURS = f"and on (namespace, job, instance) stepwell_ready{{{HERE}}}"
PROCESS = [
    Panel(
        "Processor",
        "Cores used. A replica can use little more than one: near it, add replicas.",
        "none",
        ((f"rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval]) {OURS}", "{{instance}}"),),
        steps=((0.7, YELLOW), (0.9, RED)),
        width=NARROW,
    ),
    Panel(
        "Memory",
        "Resident memory of each replica.",
        "bytes",
        ((f"process_resident_memory_bytes{{{HERE}}} {OURS}", "{{instance}}"),),
        width=NARROW,
    ),
    Panel(
        "Open files",
        "Sockets among them: streams, callers, the database.",
        "short",
        ((f"process_open_fds{{{HERE}}} {OURS}", "{{instance}}"),),
        width=NARROW,
    ),
    Panel(
        "Certificate",
        "For how long the certificate of the gRPC port still holds. Empty without TLS.",
        "s",
        ((f"stepwell_certificate_expiry_seconds{{{HERE}}} - time() > 0", "{{instance}}"),),
    ),
]
BY_QUEUE = "stepwell_namespace, task_queue, kind"
LEGEND = "{{stepwell_namespace}}/{{task_queue}} {{kind}}"
QUEUES = [
    Panel(
        "Tasks that wait",
        "Tasks of each queue that wait. The 100 longest backlogs are told one by one, the rest as `_others`.",
        "short",
        ((f"max by ({BY_QUEUE}) (stepwell_backlog_tasks{{{QUEUE}}})", LEGEND),),
    ),
    Panel(
        "Age",
        "For how long the oldest task of each queue has waited. What to scale workers by.",
        "s",
        ((f"max by ({BY_QUEUE}) (stepwell_backlog_age_seconds{{{QUEUE}}})", LEGEND),),
        steps=((60, YELLOW), (300, RED)),
    ),
    Panel(
        "Stranded",
        "Tasks of each queue that no live worker takes. `stepwell queue show QUEUE` says of which type and build.",
        "short",
        ((f"max by ({BY_QUEUE}) (stepwell_backlog_stranded_tasks{{{QUEUE}}})", LEGEND),),
        steps=((1, RED),),
    ),
    Panel(
        "Longest backlogs",
        "The twenty queues in which most waits now.",
        "short",
        ((f"topk(20, max by ({BY_QUEUE}) (stepwell_backlog_tasks{{{QUEUE}}}))", LEGEND),),
        kind="table",
    ),
]
USED, STATED = f"stepwell_capacity_used{{{HERE}}}", f"stepwell_capacity_stated{{{HERE}}}"
WORKERS = [
    Panel(
        "Tasks given out",
        "Tasks given to workers a second.",
        "ops",
        ((rate("stepwell_claims_total", 'kind=~"$kind"', by="kind"), "{{kind}}"),),
    ),
    Panel(
        "Schedule to start",
        "From when a task was ready until a worker was given it.",
        "s",
        (
            (quantile(0.5, "stepwell_schedule_to_start_seconds", "kind", 'kind=~"$kind"'), "{{kind}}, half"),
            (quantile(0.95, "stepwell_schedule_to_start_seconds", "kind", 'kind=~"$kind"'), "{{kind}}, 95 %"),
            (quantile(0.99, "stepwell_schedule_to_start_seconds", "kind", 'kind=~"$kind"'), "{{kind}}, 99 %"),
        ),
        steps=((5, YELLOW), (60, RED)),
    ),
    Panel(
        "Capacity in use",
        "Which part of what connected workers take at once is taken. At 1 they are all busy.",
        "percentunit",
        (
            (
                f"sum by (kind) ({USED}) / (sum by (kind) ({STATED}) > 0)",
                "{{kind}}",
            ),
        ),
        steps=((0.8, YELLOW), (0.95, RED)),
    ),
    Panel(
        "Capacity by replica",
        "What workers connected to each replica take at once.",
        "short",
        ((f"sum by (instance, kind) (stepwell_capacity_stated{{{HERE}}})", "{{kind}}, {{instance}}"),),
    ),
    Panel(
        "Streams by replica",
        "Worker streams open at each replica.",
        "short",
        ((f"sum by (instance) (stepwell_streams{{{HERE}}})", "{{instance}}"),),
    ),
    Panel(
        "Leases lost",
        "Tasks a second taken from workers without their consent, by reason.",
        "ops",
        ((rate("stepwell_leases_lost_total", by="reason"), "{{reason}}"),),
    ),
]
DASHBOARDS = {
    "overview": (
        "Stepwell: overview",
        "Whether it is well: traffic, refusals, latency, backlog, database, leader, processes.",
        (),
        {
            "At a glance": GLANCE,
            "Traffic": TRAFFIC,
            "Refused": REFUSED,
            "Latency": LATENCY,
            "Work": WORK,
            "Database": DATABASE,
            "Leader": LEADER,
            "Process": PROCESS,
        },
    ),
    "queues": (
        "Stepwell: queues and workers",
        "What waits in which queue, and who takes it.",
        ("stepwell_namespace", "task_queue", "kind"),
        {"Queues": QUEUES, "Workers": WORKERS},
    ),
}


def variable(name: str, label: str, query: str) -> dict[str, Any]:
    """One that is chosen from what there is, several at a time, at first all."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "StandardVariableQuery"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "skipUrlSync": False,
        "options": [],
        "regex": "",
    }


def variables(of_queues: tuple[str, ...]) -> list[dict[str, Any]]:
    """The source, the deployment, and which queues. Without Kubernetes there is no `namespace`: all will do."""
    source = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "options": [],
        "refresh": 1,
        "regex": "",
        "skipUrlSync": False,
    }
    of_all = 'namespace=~"$namespace"'
    found = [
        source,
        variable("namespace", "Kubernetes namespace", "label_values(stepwell_build_info, namespace)"),
        variable("job", "Job", f"label_values(stepwell_build_info{{{of_all}}}, job)"),
    ]
    labels = {"stepwell_namespace": "Stepwell namespace", "task_queue": "Queue", "kind": "Kind"}
    chosen = [
        variable(name, labels[name], f"label_values(stepwell_backlog_tasks{{{HERE}}}, {name})") for name in of_queues
    ]
    return found + chosen


def thresholds(panel: Panel) -> dict[str, Any]:
    """From which value on which colour; the first is for all below."""
    steps = [step for step in panel.steps if step[0] > -1e9]
    lowest = [colour for value, colour in panel.steps if value <= -1e9]
    first = {"color": lowest[-1] if lowest else GREEN, "value": None}
    return {"mode": "absolute", "steps": [first, *({"color": colour, "value": value} for value, colour in steps)]}


def rendered(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    """A panel as Grafana has it."""
    is_table, is_stat = panel.kind == "table", panel.kind == "stat"
    options: dict[str, dict[str, Any]] = {
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "background"},
        "table": {"showHeader": True},
        "timeseries": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"fillOpacity": 10, "showPoints": "never", "lineWidth": 1, "spanNulls": False}
        custom["thresholdsStyle"] = {"mode": "dashed" if panel.steps else "off"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "thresholds": thresholds(panel), "custom": custom},
            "overrides": [],
        },
        "options": options[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                "instant": is_table or is_stat,
                "range": not (is_table or is_stat),
                "format": "table" if is_table else "time_series",
            }
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


def laid_out(rows: dict[str, list[Panel]]) -> list[dict[str, Any]]:
    """Panels from left to right and from top to bottom, each row under its heading."""
    found: list[dict[str, Any]] = []
    y = 0
    for title, panels in rows.items():
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        found.append(
            {"id": len(found) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > WIDTH:
                x, y = 0, y + panel.height
            found.append(rendered(panel, len(found) + 1, x, y))
            x += panel.width
        y += panels[-1].height
    return found


def dashboard(name: str) -> dict[str, Any]:
    """A dashboard as it is imported."""
    title, description, of_queues, rows = DASHBOARDS[name]
    return {
        "uid": f"stepwell-{name}",
        "title": title,
        "description": description,
        "tags": ["stepwell"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [
            {"type": "dashboards", "title": "Stepwell", "tags": ["stepwell"], "asDropdown": False, "keepTime": True}
        ],
        "templating": {"list": variables(of_queues)},
        "panels": laid_out(rows),
    }


def main() -> int:
    """Writes them, or says which are out of date."""
    stale = []
    for name in DASHBOARDS:
        path = FOLDER / f"{name}.json"
        text = json.dumps(dashboard(name), indent=2) + "\n"
        if "--check" not in sys.argv:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"out of date: {', '.join(stale)}; run `make generate`", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
