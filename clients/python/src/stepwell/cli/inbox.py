"""`stepwell inbox`: what programs asked for by SQL functions."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli.output import Output, OutputOption, say, show_list, time_of, value_of
from stepwell.v1.inbox_pb2 import DeadLetter

app = typer.Typer(help="What SQL functions asked for.", no_args_is_help=True)


@app.command("list")
def list_letters(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List what was asked for and could not be done, with the reasons."""
    columns = {
        "NUMBER": lambda each: each.number,
        "ASKED FOR": lambda each: DeadLetter.Verb.Name(each.verb).removeprefix("VERB_"),
        "NAME": lambda each: each.name,
        "RUN": lambda each: each.run_id or each.workflow_id,
        "REASON": lambda each: each.reason,
        "REFUSED": lambda each: time_of(each.refuse_time),
        "PAYLOAD": lambda each: value_of(each.payload) if each.HasField("payload") else "",
    }
    with context.obj.client() as client:
        show_list(client.inbox.dead_letters(), columns, output, "nothing was refused")


@app.command()
def show(context: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Tell how much waits to be dealt with."""
    with context.obj.client() as client:
        inbox = client.inbox.describe()
    more = "+" if inbox.has_more else ""
    since = f", the oldest since {time_of(inbox.oldest_time)}" if inbox.HasField("oldest_time") else ""
    say(f"{inbox.waiting_count}{more} waiting{since}", {"waiting": inbox.waiting_count}, output)


Number = Annotated[int, typer.Argument(help="The letter's number.", min=1)]


@app.command()
def retry(context: typer.Context, number: Number, output: OutputOption = Output.TABLE) -> None:
    """Have a dead letter dealt with again. What is refused again is a dead letter again."""
    with context.obj.client() as client:
        done = client.inbox.retry(number)
    say(f"letter {number} waits again" if done else f"there is no dead letter {number}", {"retried": done}, output)


@app.command()
def discard(context: typer.Context, number: Number, output: OutputOption = Output.TABLE) -> None:
    """Forget a dead letter."""
    with context.obj.client() as client:
        done = client.inbox.discard(number)
    say(f"letter {number} is forgotten" if done else f"there is no dead letter {number}", {"discarded": done}, output)
