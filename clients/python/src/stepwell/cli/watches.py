"""`stepwell run watch`: what happens while one looks, a line for each thing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.cli.output import Lines, Output, OutputOption, time_of, value_of
from stepwell.cli.runs import attributes_of, handle_of
from stepwell.runs import phase_name
from stepwell.v1.runs_pb2 import RUN_NEWS_STARTED, RunNews, WatchRunsResponse

if TYPE_CHECKING:
    from stepwell.sync import Client
    from stepwell.v1.history_pb2 import Event


def watch(  # noqa: PLR0917 - the options of one command
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[RUN]", help="One run, by its id or workflow id.")] = "",
    starts: Annotated[bool, typer.Option("--starts", help="All runs: also their starts and reopenings.")] = False,
    pauses: Annotated[bool, typer.Option("--pauses", help="All runs: also their pauses and resumptions.")] = False,
    limit: Annotated[int | None, typer.Option(help="Leave after so many lines.", min=1)] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Watch the ends of all runs from now on, and more if asked to; or one run's events, from its first to its end.

    JSON is one object a line. Watching one run exits with 1 unless it completed.
    """
    with context.obj.client() as client:
        if name:
            _watch_run(client, name, limit, output)
        else:
            _watch_runs(client, limit, output, starts=starts, pauses=pauses)


def _watch_runs(client: Client, limit: int | None, output: Output, *, starts: bool, pauses: bool) -> None:
    lines = Lines({"RUN": 36, "WORKFLOW ID": 24, "NEWS" if starts or pauses else "PHASE": 10, "WHAT": 0}, output)
    for number, told in enumerate(client.watch_runs(starts=starts, pauses=pauses), 1):
        lines.add(told, told.run_id, told.workflow_id, *_told(told))
        if number == limit:
            return


def _told(told: WatchRunsResponse.End | WatchRunsResponse.Notice) -> tuple[str, str]:
    """What happened in a word, and more of it."""
    if isinstance(told, WatchRunsResponse.End):
        return phase_name(told.phase), _outcome(told)
    news = RunNews.Name(told.news).removeprefix("RUN_NEWS_")
    return news, f"{told.type} in {told.task_queue}" if told.news == RUN_NEWS_STARTED else told.reason


def _outcome(end: WatchRunsResponse.End) -> str:
    if end.continued_run_id:
        return f"goes on as {end.continued_run_id}"
    if end.HasField("failure"):
        return f"{end.failure.type}: {end.failure.message}"
    if end.purged:
        return "(its history is here no more)"
    return "(a large result)" if end.result_omitted else value_of(end.result)


def _watch_run(client: Client, name: str, limit: int | None, output: Output) -> None:
    lines = Lines({"NO": 4, "TIME": 19, "EVENT": 22, "STEP": 20, "WHAT": 0}, output)
    last = ""
    for number, event in enumerate(handle_of(client, name).follow(), 1):
        step = f"{event.step_ordinal} {event.step_name}" if event.step_ordinal else ""
        lines.add(event, event.number, time_of(event.time), event.type, step, _what(event))
        last = event.type
        if number == limit:
            return
    sys.exit(0 if last == "RunCompleted" else 1)


def _what(event: Event) -> str:
    return value_of(event.payload) or event.failure.message or attributes_of(event.attributes)
