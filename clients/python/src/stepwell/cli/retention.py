"""`stepwell retention`, and what of `stepwell run` removes one."""

from __future__ import annotations

import contextlib
import datetime as dt
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from stepwell.cli.output import Output, OutputOption, say
from stepwell.cli.runs import Named
from stepwell.cli.session import fail

if TYPE_CHECKING:
    from collections.abc import Iterable

app = typer.Typer(help="Remove what has ended.", no_args_is_help=True)
Before = Annotated[
    str, typer.Option(help="Runs that ended before: a time with its zone, or an age such as 30d, 12h, 90m, 45s.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count.")]
Where = Annotated[str, typer.Option("--filter", help="Only runs that fit, such as 'type = survey'.")]
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def time_before(text: str) -> dt.datetime:
    """Gives the time that an option names: itself, or so long ago."""
    try:
        if text[-1:] in _UNITS:
            return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])
        time = dt.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        fail(f"{text} is no time and no age", "such as 30d, or 2026-01-31T12:00:00Z")
    if time.tzinfo is None:
        fail(f"{text} has no zone", f"such as {text}Z")
    return time


def delete_run(
    context: typer.Context,
    name: Named,
    *,
    force: Annotated[bool, typer.Option("--force", help="Terminate it first if it is open.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete a run that has ended, with its history."""
    with context.obj.client() as client:
        deleted = client.retention.delete(force=force, **_named(name))
        text = f"run {name} was deleted" if deleted else f"there is no run {name}"
        say(text, {"run": name, "deleted": deleted}, output)


@app.command("cleanup")
def clean_up(
    context: typer.Context,
    *,
    before: Before,
    where: Where = "",
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete runs that ended before a time, with their histories."""
    cutoff = time_before(before)
    with context.obj.client() as client:
        count = counted(client.retention.clean_up(cutoff, filter=where, dry_run=dry_run), "runs")
        verb = "would be deleted" if dry_run else "were deleted"
        say(f"{count} runs {verb}", {"count": count, "dry_run": dry_run}, output)


@app.command()
def archive(
    context: typer.Context,
    *,
    before: Before,
    where: Where = "",
    dry_run: DryRun = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Archive runs that ended before a time, and delete their histories."""
    cutoff = time_before(before)
    with context.obj.client() as client:
        count = counted(client.retention.archive(cutoff, filter=where, dry_run=dry_run), "runs")
        verb = "would be archived" if dry_run else "were archived"
        say(f"{count} runs {verb}", {"count": count, "dry_run": dry_run}, output)


def export_run(
    context: typer.Context,
    name: Named,
    *,
    to: Annotated[Path | None, typer.Option(help="The file to write. Default: standard output.")] = None,
) -> None:
    """Write a run with its history as the JSON document that an archive holds."""
    with context.obj.client() as client:
        parts = client.retention.export(**_named(name))
        try:
            with to.open("wb") if to is not None else contextlib.nullcontext(sys.stdout.buffer) as file:
                for part in parts:
                    file.write(part)
                file.flush()
        except OSError as error:
            fail(f"{to or 'the output'} cannot be written: {error.strerror}")


def _named(name: str) -> dict[str, str]:
    try:
        return {"run_id": str(uuid.UUID(name))}
    except ValueError:
        return {"workflow_id": name}


def seconds_of(text: str) -> float:
    """Gives the length of time that an option names, such as `30d`."""
    try:
        return float(text[:-1]) * _UNITS[text[-1:]]
    except (ValueError, KeyError):
        fail(f"{text} is no length of time", "such as 30d, 12h, 90m, 45s")


def counted(parts: Iterable[int], what: str) -> int:
    """Shows on standard error how far it is, where somebody looks, and gives the sum."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:.0f} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        for count in parts:
            progress.advance(task, count)
        return int(progress.tasks[0].completed)
