"""`stepwell run retry`, `rewind`, `fork` and `repair`: let runs go on from their record, or mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.cli.output import Output, OutputOption, as_dict, say
from stepwell.cli.runs import Named, Reason, handle_of
from stepwell.cli.session import fail
from stepwell.repairs import Rename, Skip
from stepwell.runs import phase_name

if TYPE_CHECKING:
    from stepwell.repairs import Repair
    from stepwell.v1.repairs_pb2 import RepairRunResponse, RetryRunResponse, RewindRunResponse

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


@app.command()
def fork(
    context: typer.Context,
    name: Named,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step's number, or its name.")],
    *,
    branch: Annotated[str, typer.Option(help="The branch of a step by name, such as 2/1.")] = "",
    occurrence: Annotated[int, typer.Option(help="Which step of that name in the branch, from 0.", min=0)] = 0,
    key: Annotated[str, typer.Option(help="The key of a step by name.")] = "",
    workflow_id: Annotated[str, typer.Option(help="Your name for the new run.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a new run from before a step of this one, which stays as it is."""
    wanted = int(step) if step.isdecimal() else step
    with context.obj.client() as client:
        handle = handle_of(client, name)
        run_id = handle.fork(wanted, scope=branch, occurrence=occurrence, key=key, workflow_id=workflow_id)
        say(f"run {run_id} goes on from before step {step}", {"run_id": run_id, "source": name, "step": step}, output)


@app.command()
def repair(
    context: typer.Context,
    name: Named,
    *,
    rename: Annotated[list[str] | None, typer.Option(metavar="STEP=NAME", help="What the code calls it now.")] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="STEP", help="What the code calls no more.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="The code was mended, to fit what is left.")] = False,
    reason: Reason = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """Mend the record of a paused run to fit its code. STEP: one by its number, or all of a name."""
    repairs: list[Repair] = [*(_rename_from(each) for each in rename or ()), *(_skip_from(each) for each in skip or ())]
    if not repairs and not accept:
        fail("nothing is to be repaired", "give --rename, --skip or --accept")
    with context.obj.client() as client:
        _say_repaired(handle_of(client, name).repair(*repairs, accept=accept, reason=reason), output)


def _rename_from(text: str) -> Rename:
    step, equals, name = text.partition("=")
    if not (step and equals and name):
        fail(f"--rename {text}: which step, and what is it called now?", "--rename STEP=NAME, STEP a number or a name")
    return Rename(int(step), name) if step.isdecimal() else Rename(step, name, every=True)


def _skip_from(step: str) -> Skip:
    return Skip(int(step)) if step.isdecimal() else Skip(step, every=True)


def _say_repaired(response: RepairRunResponse, output: Output) -> None:
    state = "still paused" if response.paused else phase_name(response.phase)
    renamed = [f"{step.ordinal} {step.name} is {step.new_name}" for step in response.steps if not step.skipped]
    skipped = [f"{step.ordinal} {step.name}" for step in response.steps if step.skipped]
    told = [f"renamed: {', '.join(renamed)}"] if renamed else []
    told += [f"skipped: {', '.join(skipped)}"] if skipped else []
    more = ", …" if response.renamed_count + response.skipped_count > len(response.steps) else ""
    say("; ".join([f"run {response.run_id} is {state}", *told]) + more, as_dict(response), output)


def _say(response: RetryRunResponse | RewindRunResponse, output: Output) -> None:
    gone = ", ".join(f"{step.ordinal} {step.name}" for step in response.removed)
    more = ", …" if response.removed_count > len(response.removed) else ""
    text = f"run {response.run_id} is {phase_name(response.phase)} again, over the whole of its record"
    if response.removed_count:
        text = f"run {response.run_id} is {phase_name(response.phase)}; taken out of its record: {gone}{more}"
    say(text, as_dict(response), output)
