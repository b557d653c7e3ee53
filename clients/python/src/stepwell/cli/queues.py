"""`stepwell queue`: what waits for workers, whether there are any, and how fast it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stepwell.cli.output import Output, OutputOption, age_of, say, show, show_list, time_of
from stepwell.cli.retention import seconds_of
from stepwell.cli.session import fail
from stepwell.task_queues import RateLimit
from stepwell.v1.workers_pb2 import TaskKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell.v1 import task_queues_pb2
    from stepwell.v1.task_queues_pb2 import GetTaskQueueResponse, TaskBacklog, TaskQueue, TaskQueueSettings

app = typer.Typer(help="Task queues.", no_args_is_help=True)
NOBODY = "nobody"


@app.command("list")
def list_queues(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List the queues in which something waits or from which a live worker takes."""
    columns = {
        "QUEUE": lambda queue: queue.task_queue,
        "RUNS": lambda queue: _count(queue.waiting_runs),
        "ACTIVITIES": lambda queue: _count(queue.waiting_activities),
        "OLDEST": _oldest,
        "AT WORK": lambda queue: queue.running_activity_count,
        "WORKERS": lambda queue: queue.worker_count or NOBODY,
        "STRANDED": lambda queue: "yes" if queue.is_stranded else "",
    }
    with context.obj.client() as client:
        show_list(client.list_task_queues(), columns, output, "nothing waits, and no worker is there")


@app.command("show")
def show_queue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what waits in a queue by kind, type and build, and how many live workers could take it."""
    columns = {
        "KIND": lambda line: _kind(line.kind),
        "TYPE": lambda line: line.type or "(driven runs')",
        "BUILD": lambda line: line.build_id,
        "WAITING": lambda line: _count(line.backlog),
        "OLDEST": lambda line: age_of(line.backlog.oldest_wait_duration),
        "WORKERS": lambda line: "" if line.driven else line.worker_count or NOBODY,
    }
    with context.obj.client() as client:
        found = client.get_task_queue(name)
        if output is Output.JSON:
            show(found, {}, output)
            return
        show_list(found.lines, columns, output, f"nothing waits in queue {name}, and no worker takes from it")
        say(_sums(found), {}, output)
        for what, words in settings_rows(found.settings).items():
            say(f"{what}: {words}", {}, output)


@app.command("set")
def set_queue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")],
    *,
    rate: Annotated[str, typer.Option(help="Tasks a second that it gives, such as 10 or 0.5; none for no limit.")] = "",
    burst: Annotated[
        int, typer.Option(help="With --rate: tasks at once after a rest. Default: those of a second.")
    ] = 0,
    aging: Annotated[
        str, typer.Option(help="In which a waiting task gains a step of priority, such as 30s; none for never.")
    ] = "",
    turns: Annotated[bool | None, typer.Option("--turns/--no-turns", help="Whether fairness keys take turns.")] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="With --turns: KEY=N, so many tasks a turn. May be repeated. Default: 1.")
    ] = None,
    key_rate: Annotated[
        str, typer.Option(help="Where keys take turns: tasks a second of each key; none for no limit.")
    ] = "",
    key_burst: Annotated[
        int, typer.Option(help="With --key-rate: tasks of a key at once after a rest. Default: those of a second.")
    ] = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set how fast a queue gives its tasks to workers, and in what order."""
    if not rate and not aging and turns is None and not key_rate:
        fail("nothing would change", "give --rate, --aging, --turns, --key-rate, or some of them")
    limit = _rate_limit(rate, burst) if rate else None
    key_limit = _rate_limit(key_rate, key_burst) if key_rate else None
    age = "none" if aging == "none" else seconds_of(aging) if aging else None
    fairness = "none" if turns is False else _weights(weight or ()) if turns else None
    with context.obj.client() as client:
        settings = client.update_task_queue(
            name, rate_limit=limit, aging=age, fairness=fairness, key_rate_limit=key_limit
        )
        show(settings, {"queue": name, **settings_rows(settings)}, output)


def _rate_limit(rate: str, burst: int) -> RateLimit | Literal["none"]:
    if rate == "none":
        return "none"
    try:
        return RateLimit(float(rate), burst)
    except ValueError:
        fail(f"{rate} is no number", "such as 10 or 0.5, or none")


def _weights(told: Sequence[str]) -> dict[str, int]:
    weights = {}
    for each in told:
        key, _, number = each.rpartition("=")
        if not number.isdecimal():
            fail(f"{each} is no weight", "such as --weight premium=3")
        weights[key] = int(number)
    return weights


def settings_rows(settings: TaskQueueSettings) -> dict[str, str]:
    """What is set for a queue, in words."""
    rows = {}
    if settings.HasField("rate_limit"):
        rows["rate"] = _rate(settings.rate_limit)
    if settings.HasField("next_task_time"):
        rows["next task"] = time_of(settings.next_task_time)
    if settings.HasField("aging_interval"):
        rows["aging"] = f"a step of priority each {age_of(settings.aging_interval)}"
    if settings.HasField("fairness"):
        weights = "".join(f", {key} {number}" for key, number in sorted(settings.fairness.weights.items()))
        rows["turns"] = f"1 task for each key{weights}"
    if settings.HasField("key_rate_limit"):
        rows["rate of a key"] = _rate(settings.key_rate_limit)
    return rows


def _rate(limit: task_queues_pb2.RateLimit) -> str:
    return f"{limit.per_second:g} a second, {limit.burst} at once"


def _sums(found: GetTaskQueueResponse) -> str:
    queue = found.task_queue
    parts = [f"live workers: {queue.worker_count}", f"activities under way: {queue.running_activity_count}"]
    parts += [
        f"{_kind(each.kind).lower()} places taken: {each.outstanding} of {each.max_outstanding}"
        for each in found.capacities
        if each.worker_count
    ]
    if found.has_more_lines:
        parts.append("more sorts of tasks wait than are shown")
    return ", ".join(parts)


def _kind(kind: TaskKind.ValueType) -> str:
    return TaskKind.Name(kind).removeprefix("TASK_KIND_")


def _count(backlog: TaskBacklog) -> object:
    return f"{backlog.count}+" if backlog.has_more else backlog.count or ""


def _oldest(queue: TaskQueue) -> str:
    ages: list[Any] = [queue.waiting_runs.oldest_wait_duration, queue.waiting_activities.oldest_wait_duration]
    return age_of(max(ages, key=lambda age: (age.seconds, age.nanos)))
