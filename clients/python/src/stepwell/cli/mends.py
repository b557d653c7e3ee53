"""`stepwell run retry` and `rewind`: let runs go on from an earlier place of their record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.cli.output import Output, OutputOption, as_dict, say
from stepwell.cli.runs import Named, Reason, handle_of
from stepwell.runs import phase_name

if TYPE_CHECKING:
    from stepwell.v1.repairs_pb2 import RetryRunResponse, RewindRunResponse

app = typer.Typer(no_args_is_help=True)


@app.command()
def retry(
    context: typer.Context,
    name: Named,
    *,
    step: Annotated[list[int] | None, typer.Option(help="A failed step to do anew, by its number.")] = None,
    reason: Reason = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a run that ended badly go on: what failed is done anew, what was completed stays."""
    with context.obj.client() as client:
        _say(handle_of(client, name).retry(steps=step or (), reason=reason), output)


@app.command()
def rewind(
    context: typer.Context,
    name: Named,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step's number, or its name.")],
    *,
    branch: Annotated[str, typer.Option(help="The branch of a step by name, such as 2/1.")] = "",
    occurrence: Annotated[int, typer.Option(help="Which step of that name in the branch, from 0.", min=0)] = 0,
    key: Annotated[str, typer.Option(help="The key of a step by name.")] = "",
    reason: Reason = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a run back to before a step: that and all that came after it is done anew."""
    wanted = int(step) if step.isdecimal() else step
    with context.obj.client() as client:
        handle = handle_of(client, name)
        _say(handle.rewind(wanted, scope=branch, occurrence=occurrence, key=key, reason=reason), output)


def _say(response: RetryRunResponse | RewindRunResponse, output: Output) -> None:
    gone = ", ".join(f"{step.ordinal} {step.name}" for step in response.removed)
    more = ", …" if response.removed_count > len(response.removed) else ""
    text = f"run {response.run_id} is {phase_name(response.phase)} again, over the whole of its record"
    if response.removed_count:
        text = f"run {response.run_id} is {phase_name(response.phase)}; taken out of its record: {gone}{more}"
    say(text, as_dict(response), output)
