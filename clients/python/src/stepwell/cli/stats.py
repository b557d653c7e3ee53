"""`stepwell stats`: how many runs there are, how they went, and what is stored."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, cast

import typer

from stepwell.cli.output import Output, OutputOption, say, show, show_list, time_of

if TYPE_CHECKING:
    from stepwell.statistics import Grouping

app = typer.Typer(help="How many runs there are, and how they went.", invoke_without_command=True)


class By(StrEnum):
    """What runs are counted by."""

    PHASE = "phase"
    TYPE = "type"
    TASK_QUEUE = "task-queue"
    DEFINITION = "definition"


class Every(StrEnum):
    """How fine a time series is."""

    HOUR = "hour"
    DAY = "day"


Where = Annotated[str, typer.Option("--filter", "--where", help="Only runs that fit, as with `run list`.")]


@app.callback()
def count(
    context: typer.Context,
    by: Annotated[By, typer.Option(help="What to count by.")] = By.PHASE,
    where: Where = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Count runs."""
    if context.invoked_subcommand is not None:
        return
    with context.obj.client() as client:
        counted = client.statistics.count(cast("Grouping", by.value.replace("-", "_")), filter=where)
        if output is Output.JSON:
            show(counted, {}, output)
            return
        columns = {by.name.replace("_", " "): lambda each: each.value or "(none)", "RUNS": lambda each: each.count}
        show_list(counted.groups, columns, output, "no run is like that")
        if counted.truncated:
            say("there are more runs than are counted: the numbers are of a part of them", {}, output)


@app.command()
def today(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show how many runs are open, and what ended since midnight UTC."""
    with context.obj.client() as client:
        found = client.statistics.today()
        rows = {
            "definitions": found.definition_count,
            "types": found.type_count,
            "open": found.open_count,
            "running": found.running_count,
            "paused": found.paused_count,
            "completed today": found.completed_today,
            "failed today": found.failed_today,
            "cancelled today": found.cancelled_today,
            "timed out today": found.timed_out_today,
            "skipped today": found.skipped_today,
        }
        show(found, {name: str(value) for name, value in rows.items()}, output)


@app.command()
def series(
    context: typer.Context,
    *,
    last: Annotated[int, typer.Option(help="How many hours or days, up to now.", min=1, max=10_000)] = 24,
    every: Annotated[Every, typer.Option(help="A line for each of these.")] = Every.HOUR,
    type_name: Annotated[str, typer.Option("--type", help="Only this type.")] = "",
    where: Where = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show runs by the hour or day, UTC, that they were started in, and how long they took."""
    size = dt.timedelta(hours=1) if every is Every.HOUR else dt.timedelta(days=1)
    now = dt.datetime.now(dt.UTC)
    columns = {
        "FROM": lambda each: time_of(each.start_time),
        "RUNS": lambda each: each.total or "",
        "OPEN": lambda each: each.running or "",
        "COMPLETED": lambda each: each.completed or "",
        "FAILED": lambda each: each.failed or "",
        "TIMED OUT": lambda each: each.timed_out or "",
        "CANCELLED": lambda each: each.cancelled + each.terminated or "",
        "HALF WITHIN": lambda each: _span(each.p50_duration_ms) if each.HasField("p50_duration_ms") else "",
        "95 % WITHIN": lambda each: _span(each.p95_duration_ms) if each.HasField("p95_duration_ms") else "",
    }
    with context.obj.client() as client:
        found = client.statistics.series(now - size * (last - 1), now, by=every.value, type=type_name, filter=where)
        show_list(found.buckets, columns, output, "there is no such time")


@app.command()
def storage(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Show about how many rows and bytes the whole database holds, by what they are about."""
    columns = {
        "ABOUT": lambda each: each.name,
        "ROWS": lambda each: each.estimated_rows,
        "MiB": lambda each: f"{each.total_bytes / 2**20:.1f}",
    }
    with context.obj.client() as client:
        found = client.statistics.storage()
        if output is Output.JSON:
            show(found, {}, output)
        else:
            show_list(found.groups, columns, output, "there is nothing")


def _span(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.2f} s"
