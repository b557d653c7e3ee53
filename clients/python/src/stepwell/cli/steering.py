"""`stepwell run signal`, `cancel`, `terminate`, `pause`, `resume` and `pin`: steer runs."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli.output import Output, OutputOption, say
from stepwell.cli.runs import Input, Named, Reason, handle_of, value_from
from stepwell.cli.session import fail

app = typer.Typer(no_args_is_help=True)


@app.command()
def signal(
    context: typer.Context,
    name: Named,
    signal_name: Annotated[str, typer.Argument(metavar="SIGNAL", help="The signal's name.")],
    value: Input = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Send a run a signal; it is kept until the run waits for it."""
    with context.obj.client() as client:
        handle_of(client, name).signal(signal_name, value_from(value))
        say(f"signal {signal_name} was sent", {"run": name, "signal": signal_name, "sent": True}, output)


@app.command()
def cancel(context: typer.Context, name: Named, reason: Reason = "", output: OutputOption = Output.TABLE) -> None:
    """Ask a run to cancel: its code may clean up first."""
    with context.obj.client() as client:
        accepted = handle_of(client, name).cancel(reason)
        text = "cancellation was asked for" if accepted else "the run has ended, or was asked before"
        say(text, {"run": name, "accepted": accepted}, output)


@app.command()
def terminate(context: typer.Context, name: Named, reason: Reason = "", output: OutputOption = Output.TABLE) -> None:
    """End a run at once, without clean-up."""
    with context.obj.client() as client:
        accepted = handle_of(client, name).terminate(reason)
        text = "the run was terminated" if accepted else "the run had ended already"
        say(text, {"run": name, "accepted": accepted}, output)


@app.command()
def pause(context: typer.Context, name: Named, reason: Reason = "", output: OutputOption = Output.TABLE) -> None:
    """Stop work on a run until it is resumed."""
    with context.obj.client() as client:
        accepted = handle_of(client, name).pause(reason)
        say("the run is paused" if accepted else "the run was paused already", {"accepted": accepted}, output)


@app.command()
def resume(
    context: typer.Context,
    name: Named,
    accept_order: Annotated[bool, typer.Option("--accept-order", help="The code was mended to fit.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a paused run go on."""
    with context.obj.client() as client:
        accepted = handle_of(client, name).resume(accept_order=accept_order)
        say("the run goes on" if accepted else "the run was not paused", {"accepted": accepted}, output)


@app.command()
def pin(
    context: typer.Context,
    name: Named,
    build_id: Annotated[str, typer.Argument(metavar="[BUILD]", help="The build that is to get it.")] = "",
    any_build: Annotated[bool, typer.Option("--any", help="No build: any worker may take it.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Pin a run to a build, or to none. Whoever holds it loses it; what is recorded stays."""
    if bool(build_id) is any_build:
        fail("name the build, or give --any")
    with context.obj.client() as client:
        accepted = handle_of(client, name).pin(build_id)
        where = f"pinned to build {build_id}" if build_id else "pinned to no build"
        text = f"the run is {where}" if accepted else f"the run was {where} already"
        say(text, {"run": name, "build_id": build_id, "accepted": accepted}, output)
