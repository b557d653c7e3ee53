"""`stepwell run explain` and `job explain`: why something does not move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from stepwell.cli import jobs, runs
from stepwell.cli.output import Output, OutputOption, show_list, time_of
from stepwell.v1.explanations_pb2 import Explanation

if TYPE_CHECKING:
    from collections.abc import Iterable

_COLUMNS = {
    "STEP": lambda each: f"{each.step_ordinal} {each.step_name}" if each.step_ordinal else each.step_name,
    "WHY": lambda each: Explanation.Code.Name(each.code).removeprefix("CODE_"),
    "SINCE": lambda each: time_of(each.since),
    "UNTIL": lambda each: time_of(each.until),
    "IN WORDS": lambda each: each.text,
    "WHAT TO DO": lambda each: each.advice or "wait",
}


def explain_run(context: typer.Context, name: runs.Named, output: OutputOption = Output.TABLE) -> None:
    """Tell why a run does not move, and what to do about it."""
    with context.obj.client() as client:
        _show(runs.handle_of(client, name).explain(), output)


def explain_job(context: typer.Context, name: jobs.Named, output: OutputOption = Output.TABLE) -> None:
    """Tell why a job does not move, and what to do about it."""
    with context.obj.client() as client:
        _show(jobs.handle_of(client, name).explain(), output)


def _show(found: Iterable[Explanation], output: Output) -> None:
    show_list(found, _COLUMNS, output, "it moves")
