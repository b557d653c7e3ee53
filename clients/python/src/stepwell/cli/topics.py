"""`stepwell topic`: events for every run that waits for them."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli.output import Output, OutputOption, say, show_list, time_of, value_of
from stepwell.cli.runs import Input, value_from

app = typer.Typer(help="Topics.", no_args_is_help=True)
Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.")]


@app.command()
def publish(
    context: typer.Context,
    topic: Topic,
    *,
    value: Input = "",
    retain: Annotated[
        float, typer.Option(help="Seconds for which waits that begin later get it. Default: none.", min=0)
    ] = 0.0,
    request_id: Annotated[str, typer.Option(help="Makes a repeat of this very command safe, for a day.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Publish an event: every run that waits on the topic gets it."""
    with context.obj.client() as client:
        number = client.topics.publish(topic, value_from(value), retain=retain or None, request_id=request_id)
        say(f"event {number} was published", {"topic": topic, "number": number}, output)


@app.command()
def events(context: typer.Context, topic: Topic, output: OutputOption = Output.TABLE) -> None:
    """List the events of a topic that are kept for later waits, or on their way to runs."""
    columns = {
        "NUMBER": lambda each: each.number,
        "PUBLISHED": lambda each: time_of(each.publish_time),
        "KEPT UNTIL": lambda each: time_of(each.retain_time) if each.HasField("retain_time") else "",
        "ON ITS WAY": lambda each: "" if each.delivered else "yes",
        "PAYLOAD": lambda each: value_of(each.payload),
    }
    with context.obj.client() as client:
        show_list(client.topics.events(topic), columns, output, f"no event of {topic} is kept")


@app.command()
def waits(context: typer.Context, topic: Topic, output: OutputOption = Output.TABLE) -> None:
    """List the steps of runs that wait for an event of a topic."""
    columns = {
        "RUN": lambda each: each.run_id,
        "WORKFLOW ID": lambda each: each.workflow_id,
        "TYPE": lambda each: each.type,
        "STEP": lambda each: each.step_ordinal,
    }
    with context.obj.client() as client:
        show_list(client.topics.waits(topic), columns, output, f"no run waits on {topic}")
