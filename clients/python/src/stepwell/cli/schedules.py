"""`stepwell schedule`: runs by the clock."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from stepwell.cli.output import Output, OutputOption, say, show, show_list, time_of, value_of
from stepwell.cli.runs import Input, Reason, value_from
from stepwell.cli.session import fail
from stepwell.schedules import Overlap
from stepwell.v1.schedules_pb2 import ScheduleOverlapPolicy

if TYPE_CHECKING:
    from stepwell.schedules import ScheduleOptions
    from stepwell.v1.schedules_pb2 import Schedule

app = typer.Typer(help="Schedules.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The schedule's name.")]
Cron = Annotated[str, typer.Option(help="Five fields, six with seconds first, @daily and the like, or '@every 90s'.")]
Zone = Annotated[str, typer.Option("--zone", help="The time zone of the fields, such as Europe/Berlin. Default: UTC.")]
OverlapOption = Annotated[str, typer.Option(help=f"While runs of it are open: {', '.join(get_args(Overlap))}.")]


def _overlap(name: str) -> Overlap:
    if name not in get_args(Overlap):
        fail(f"--overlap is one of {', '.join(get_args(Overlap))}, not {name}")
    return cast("Overlap", name)


def _time(text: str) -> dt.datetime:
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError:
        fail(f"{text} is no time", "write it as 2026-11-21T03:00:00Z")
    return time if time.tzinfo is not None else time.astimezone()


@app.command()
def create(
    context: typer.Context,
    *,
    name: Name,
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="The type of workflow.")],
    cron: Cron,
    value: Input = "",
    zone: Zone = "",
    overlap: OverlapOption = "skip",
    task_queue: Annotated[str, typer.Option(help="Where its runs' tasks wait.")] = "default",
    paused: Annotated[bool, typer.Option("--paused", help="It does not fire until it is resumed.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a schedule."""
    options: ScheduleOptions = {
        "cron": cron,
        "time_zone": zone,
        "overlap": _overlap(overlap),
        "task_queue": task_queue,
        "paused": paused,
    }
    with context.obj.client() as client:
        _show(client.schedules.create(name, type_name, value_from(value), **options), output)


@app.command()
def update(
    context: typer.Context,
    *,
    name: Name,
    cron: Cron = "",
    zone: Zone = "",
    overlap: OverlapOption = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Change a schedule; new times reckon the next firing anew from now."""
    options: ScheduleOptions = {}
    if cron:
        options["cron"] = cron
    if zone:
        options["time_zone"] = zone
    if overlap:
        options["overlap"] = _overlap(overlap)
    if not options:
        fail("nothing is to be changed", "give --cron, --zone or --overlap")
    with context.obj.client() as client:
        _show(client.schedules.update(name, **options), output)


@app.command("list")
def list_schedules(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List schedules by name."""
    columns = {
        "SCHEDULE": lambda each: each.name,
        "TYPE": lambda each: each.run.type,
        "FIRES": lambda each: each.spec.cron,
        "ZONE": lambda each: each.spec.time_zone,
        "NEXT": lambda each: "PAUSED" if each.paused else time_of(each.next_time),
        "LAST": lambda each: time_of(each.last_time),
        "RUNS": lambda each: each.fired_count,
    }
    with context.obj.client() as client:
        show_list(client.schedules.list(), columns, output, "there is no schedule")


@app.command("show")
def show_schedule(context: typer.Context, name: Name, output: OutputOption = Output.TABLE) -> None:
    """Show a schedule."""
    with context.obj.client() as client:
        _show(client.schedules.get(name), output)


@app.command("next")
def next_times(
    context: typer.Context,
    name: Name,
    count: Annotated[int, typer.Option(help="How many times.", min=1, max=1000)] = 10,
    output: OutputOption = Output.TABLE,
) -> None:
    """Tell when a schedule will fire."""
    with context.obj.client() as client:
        times = [time.isoformat() for time in client.schedules.next_times(name, count)]
        say("\n".join(times) or "it fires no more", {"times": times}, output)


@app.command()
def pause(context: typer.Context, name: Name, reason: Reason = "", output: OutputOption = Output.TABLE) -> None:
    """Stop a schedule from firing."""
    with context.obj.client() as client:
        accepted = client.schedules.pause(name, reason)
        say("the schedule is paused" if accepted else "it was paused already", {"accepted": accepted}, output)


@app.command()
def resume(context: typer.Context, name: Name, output: OutputOption = Output.TABLE) -> None:
    """Let a paused schedule fire from now on."""
    with context.obj.client() as client:
        accepted = client.schedules.resume(name)
        say("the schedule fires again" if accepted else "it was not paused", {"accepted": accepted}, output)


@app.command()
def trigger(
    context: typer.Context,
    name: Name,
    skip_if_open: Annotated[bool, typer.Option("--skip-if-open", help="Not while a run of it is open.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a run of a schedule now."""
    with context.obj.client() as client:
        made = client.schedules.trigger(name, skip_if_open=skip_if_open)
        text = f"run {made.run_id} was started" if made.started else f"run {made.run_id} is still open"
        facts = {"run_id": made.run_id, "workflow_id": made.workflow_id, "started": made.started}
        say(text, facts, output)


@app.command()
def backfill(
    context: typer.Context,
    name: Name,
    *,
    start: Annotated[str, typer.Option(help="The first moment, such as 2026-11-01T00:00:00Z.")],
    end: Annotated[str, typer.Option(help="The moment before which it ends.")],
    overlap: OverlapOption = "allow_all",
    output: OutputOption = Output.TABLE,
) -> None:
    """Fire the times of a span that is over, each once."""
    with context.obj.client() as client:
        times = client.schedules.backfill(name, _time(start), _time(end), _overlap(overlap))
        say(f"{times} times will fire, but for those that have", {"times": times}, output)


@app.command()
def delete(context: typer.Context, name: Name, output: OutputOption = Output.TABLE) -> None:
    """Delete a schedule; its runs go on."""
    with context.obj.client() as client:
        deleted = client.schedules.delete(name)
        text = f"schedule {name} was deleted" if deleted else f"there is no schedule {name}"
        say(text, {"schedule": name, "deleted": deleted}, output)


def _show(schedule: Schedule, output: Output) -> None:
    rows = {
        "schedule": schedule.name,
        "fires": schedule.spec.cron,
        "zone": schedule.spec.time_zone,
        "starts": schedule.run.type,
        "task queue": schedule.run.task_queue,
        "input": value_of(schedule.run.input),
        "overlap": overlap_name(schedule),
        "paused": (schedule.pause_reason or "yes") if schedule.paused else "",
        "next": time_of(schedule.next_time),
        "last": time_of(schedule.last_time),
        "last run": schedule.last_run_id,
        "runs": schedule.fired_count,
        "skipped": schedule.skipped_count or "",
        "missed": schedule.missed_count or "",
        "waiting": schedule.waiting_count or "",
        "last error": schedule.last_error,
    }
    show(schedule, rows, output)


def overlap_name(schedule: Schedule) -> str:
    """Gives the overlap policy as the command takes it."""
    return ScheduleOverlapPolicy.Name(schedule.overlap_policy).removeprefix("SCHEDULE_OVERLAP_POLICY_").lower()
