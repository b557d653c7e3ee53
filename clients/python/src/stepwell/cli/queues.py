"""`stepwell queue`: what waits for workers, and whether there are any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepwell.cli.output import Output, OutputOption, age_of, say, show, show_list
from stepwell.v1.workers_pb2 import TaskKind

if TYPE_CHECKING:
    from stepwell.v1.task_queues_pb2 import GetTaskQueueResponse, TaskBacklog, TaskQueue

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
