"""`stepwell run step`: settle an open step of a run by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from stepwell.cli.output import Output, OutputOption, say
from stepwell.cli.runs import Input, Named, Reason, handle_of, value_from

app = typer.Typer(help="Settle an open step by hand: whoever is at it loses it.", no_args_is_help=True)
Step = Annotated[str, typer.Argument(metavar="STEP", help="The step's number, or its name on the run's own line.")]


def _step(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


@app.command()
def complete(
    context: typer.Context,
    name: Named,
    step: Step,
    value: Input = "",
    *,
    reason: Reason = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """End it with a result, which the code gets."""
    with context.obj.client() as client:
        handle_of(client, name).complete_step(_step(step), value_from(value), reason=reason)
        say(f"step {step} is COMPLETED", {"run": name, "step": step, "state": "COMPLETED"}, output)


@app.command()
def fail(
    context: typer.Context,
    name: Named,
    step: Step,
    message: Annotated[str, typer.Argument(help="What the code is told.")],
    *,
    reason: Reason = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """End it with a failure, which the code gets."""
    with context.obj.client() as client:
        handle_of(client, name).fail_step(_step(step), message, reason=reason)
        say(f"step {step} is FAILED", {"run": name, "step": step, "state": "FAILED"}, output)


@app.command()
def skip(
    context: typer.Context, name: Named, step: Step, reason: Reason = "", output: OutputOption = Output.TABLE
) -> None:
    """End it as skipped: the code gets null."""
    with context.obj.client() as client:
        handle_of(client, name).skip_step(_step(step), reason=reason)
        say(f"step {step} is SKIPPED", {"run": name, "step": step, "state": "SKIPPED"}, output)


@app.command()
def retry(
    context: typer.Context, name: Named, step: Step, reason: Reason = "", output: OutputOption = Output.TABLE
) -> None:
    """Try an activity again at once."""
    with context.obj.client() as client:
        accepted = handle_of(client, name).retry_step(_step(step), reason=reason)
        text = f"step {step} waits for a worker" if accepted else f"step {step} waited for a worker already"
        say(text, {"run": name, "step": step, "accepted": accepted}, output)
