"""The command's root: how to reach the service, and the groups."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli import (
    attributes,
    bulk,
    definitions,
    explanations,
    inbox,
    jobs,
    keys,
    mends,
    namespaces,
    queues,
    retention,
    run_asks,
    runs,
    schedules,
    search,
    settling,
    stats,
    steering,
    topics,
    user_tasks,
    watches,
    workers,
)
from stepwell.cli.session import Session

app = typer.Typer(
    name="stepwell",
    help="Start, watch and steer durable runs, and jobs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
runs.app.command()(watches.watch)
runs.app.command()(run_asks.query)
runs.app.command()(run_asks.update)
runs.app.command("delete")(retention.delete_run)
runs.app.command()(attributes.attributes)
runs.app.command()(search.search)
runs.app.command("explain")(explanations.explain_run)
jobs.app.command("explain")(explanations.explain_job)
runs.app.command("export")(retention.export_run)
runs.app.add_typer(steering.app)
runs.app.add_typer(mends.app)
runs.app.add_typer(settling.app, name="step")
app.add_typer(runs.app, name="run")
app.add_typer(bulk.app, name="bulk")
app.add_typer(jobs.app, name="job")
app.add_typer(schedules.app, name="schedule")
app.add_typer(keys.app, name="key", no_args_is_help=True)
app.add_typer(topics.app, name="topic")
app.add_typer(stats.app, name="stats")
app.add_typer(user_tasks.app, name="task")
app.add_typer(definitions.app, name="definition")
app.add_typer(inbox.app, name="inbox")
app.add_typer(queues.app, name="queue")
app.add_typer(workers.app, name="worker")
app.add_typer(namespaces.app, name="namespace")
app.add_typer(retention.app, name="retention")


@app.callback()
def root(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(help="Where the service listens.", envvar="STEPWELL_ADDRESS")
    ] = "127.0.0.1:7233",
    namespace: Annotated[str, typer.Option(help="Where runs and jobs live.", envvar="STEPWELL_NAMESPACE")] = "main",
    api_key: Annotated[
        str | None, typer.Option(help="What to prove oneself with.", envvar="STEPWELL_API_KEY", show_envvar=True)
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Encrypt the connection.", envvar="STEPWELL_TLS")] = False,
) -> None:
    """Start, watch and steer durable runs, and jobs."""
    context.obj = Session(address, namespace=namespace, api_key=api_key, tls=tls)
