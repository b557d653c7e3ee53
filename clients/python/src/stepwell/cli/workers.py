"""`stepwell worker`: who is there to work."""

from __future__ import annotations

import typer

from stepwell.cli.output import Output, OutputOption, show_list, time_of

app = typer.Typer(help="Live workers.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Live workers."""


@app.command("list")
def list_workers(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List the namespace's live workers, longest there first."""
    with context.obj.client() as client:
        columns = {
            "WORKER": lambda worker: worker.worker_id,
            "QUEUES": lambda worker: ", ".join(worker.task_queues),
            "WORKFLOWS": lambda worker: ", ".join(worker.workflow_types),
            "ACTIVITIES": lambda worker: ", ".join(worker.activity_types),
            "BUILD": lambda worker: worker.build_id,
            "COMPATIBLE": lambda worker: ", ".join(worker.compatible_build_ids),
            "SINCE": lambda worker: time_of(worker.register_time),
        }
        show_list(client.list_workers(), columns, output, "no worker is connected")
