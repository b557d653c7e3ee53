"""`stepwell run search`: runs that hold a text."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli.output import Output, OutputOption, show_list, time_of
from stepwell.runs import phase_name


def search(
    context: typer.Context,
    *,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for, in any case of its letters.")],
    type_name: Annotated[str, typer.Option("--type", help="Only this type.")] = "",
    where: Annotated[str, typer.Option("--filter", "--where", help="Only runs that fit, as with `run list`.")] = "",
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find runs that hold a text: in their names, attributes, or what their steps were given and came to."""
    columns = {
        "RUN": lambda run: run.run_id,
        "WORKFLOW ID": lambda run: run.workflow_id,
        "TYPE": lambda run: run.type,
        "PHASE": lambda run: phase_name(run.phase),
        "STARTED": lambda run: time_of(run.create_time),
    }
    with context.obj.client() as client:
        found = client.statistics.search(text, limit=limit, type=type_name, filter=where)
        show_list(found, columns, output, "no run holds that")
