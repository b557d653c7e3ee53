"""`stepwell run`: start runs, look at them, and wait for them. Steering is in `steering`, mending in `mends`."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from stepwell import errors
from stepwell.cli.attempts import attempt_of, words_of
from stepwell.cli.attribute_values import in_a_line, pairs_from
from stepwell.cli.awaited import awaited_by
from stepwell.cli.differences import differences_of, repairs_of
from stepwell.cli.limits import limit_of
from stepwell.cli.output import Output, OutputOption, as_dict, say, show, show_list, span_of, time_of, value_of
from stepwell.cli.session import fail
from stepwell.policies import CONFLICT, STRATEGY, Concurrency, Debounce, RetryPolicy
from stepwell.runs import phase_name
from stepwell.search_attributes import values_of
from stepwell.v1.concurrency_pb2 import SLOT_STATE_AWAITED
from stepwell.v1.types_pb2 import StepKind, StepState

if TYPE_CHECKING:
    from stepwell.options import RunFilter, StartOptions
    from stepwell.policies import Strategy
    from stepwell.sync import Client, RunHandle
    from stepwell.v1.runs_pb2 import Run

app = typer.Typer(help="Runs.", no_args_is_help=True)
ORDER_CHANGED = "ORDER_CHANGED"

Named = Annotated[str, typer.Argument(metavar="RUN", help="A run id, or a workflow id (its open or latest run).")]
Reason = Annotated[str, typer.Option(help="Why.")]
Input = Annotated[str, typer.Option("--input", "-i", help="JSON, @FILE, or - for standard input.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait at most. Default: for ever.")]


def handle_of(client: Client, name: str) -> RunHandle[Any]:
    """Gives the run of that id or workflow id."""
    try:
        return client.run(str(uuid.UUID(name)))
    except ValueError:
        return client.run(workflow_id=name)


def value_from(text: str) -> object:
    """Gives the value that an option names: JSON, a file of it, or standard input."""
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except OSError as error:
            fail(f"{text[1:]} cannot be read: {error.strerror}")
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        fail(f"the input is not JSON: {error}", "text needs quotes of its own: --input '\"text\"'")


@app.command()
def start(
    context: typer.Context,
    *,
    type_name: Annotated[
        str, typer.Argument(metavar="TYPE", help="The type of workflow. Default: the definition's code.")
    ] = "",
    value: Input = "",
    definition: Annotated[str, typer.Option(help="The code of the definition that it follows.")] = "",
    version: Annotated[int, typer.Option(help="Its version. Default: the latest active one.", min=0)] = 0,
    workflow_id: Annotated[str, typer.Option(help="Your name for it, unique among open runs.")] = "",
    run_id: Annotated[str, typer.Option(help="Its id, a UUID. Default: a new one.")] = "",
    task_queue: Annotated[str, typer.Option(help="Where its tasks wait.")] = "default",
    conflict: Annotated[str, typer.Option(help=f"When the workflow id is in use: {', '.join(CONFLICT)}.")] = "fail",
    attribute: Annotated[list[str] | None, typer.Option(help="NAME=VALUE to find it by. May be repeated.")] = None,
    concurrency_key: Annotated[str, typer.Option(help="Limit how many runs of this key are at work at once.")] = "",
    maximum_runs: Annotated[int, typer.Option(help="How many, with --concurrency-key.", min=1, max=10_000)] = 1,
    strategy: Annotated[str, typer.Option(help=f"What becomes of a run beyond that: {', '.join(STRATEGY)}.")] = "queue",
    limit_name: Annotated[str, typer.Option(help="Which limit, with --concurrency-key.")] = "default",
    debounce_key: Annotated[str, typer.Option(help="One run of all starts of this key that come soon.")] = "",
    debounce_seconds: Annotated[
        float, typer.Option(help="For how long none must come, with --debounce-key.", min=0.001)
    ] = 1.0,
    fairness_key: Annotated[str, typer.Option(help="Whose turn its tasks take, where keys take turns.")] = "",
    attempts: Annotated[int, typer.Option(help="How often to try at most; 0 is no limit.", min=0)] = 1,
    signal: Annotated[str, typer.Option(help="Signal it; the open run of the workflow id, if there is one.")] = "",
    signal_value: Annotated[str, typer.Option(help="What the signal carries, as JSON.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end, and print its result.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a run."""
    if conflict not in CONFLICT:
        fail(f"--conflict is one of {', '.join(CONFLICT)}, not {conflict}")
    options: StartOptions = {
        "workflow_id": workflow_id,
        "run_id": run_id,
        "task_queue": task_queue,
        "conflict": cast("Literal['fail', 'use_existing', 'terminate_existing']", conflict),
        "search_attributes": pairs_from(attribute or ()),
        "fairness_key": fairness_key,
    }
    if definition:
        options["definition"] = (definition, version)
    if attempts != 1:
        options["retry"] = RetryPolicy(maximum_attempts=attempts)
    if concurrency_key:
        if strategy not in STRATEGY:
            fail(f"--strategy is one of {', '.join(STRATEGY)}, not {strategy}")
        options["concurrency"] = Concurrency(
            key=concurrency_key, maximum_runs=maximum_runs, strategy=cast("Strategy", strategy), name=limit_name
        )
    if debounce_key:
        options["debounce"] = Debounce(key=debounce_key, period=debounce_seconds)
    with context.obj.client() as client:
        try:
            handle = (
                client.signal_with_start(
                    type_name, value_from(value), signal=signal, value=value_from(signal_value), **options
                )
                if signal
                else client.start_run(type_name, value_from(value), **options)
            )
        except ValueError as error:
            fail(str(error), "--run-id takes a UUID")
        if wait:
            _print_result(handle, None, output)
            return
        verb = "was started" if handle.started else "was there already"
        facts = {"run_id": handle.run_id, "workflow_id": workflow_id, "started": handle.started}
        say(f"run {handle.run_id} {verb}", facts, output)


@app.command("list")
def list_runs(
    context: typer.Context,
    *,
    phase: Annotated[list[str] | None, typer.Option(help="Only these phases, such as RUNNING.")] = None,
    type_name: Annotated[str, typer.Option("--type", help="Only this type.")] = "",
    workflow_id: Annotated[str, typer.Option(help="Only runs of this workflow id.")] = "",
    task_queue: Annotated[str, typer.Option(help="Only this task queue.")] = "",
    parent: Annotated[str, typer.Option(help="Only children of this run.")] = "",
    definition: Annotated[str, typer.Option(help="Only runs that follow a definition of this code.")] = "",
    where: Annotated[
        str,
        typer.Option("--filter", "--where", help="Only runs that fit: 'phase = FAILED AND attribute.env = prod'."),
    ] = "",
    order_by: Annotated[str, typer.Option(help="Fields to sort by, such as 'end_time desc'.")] = "",
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List runs, newest first unless --order-by says otherwise."""
    only: RunFilter = {
        "filter": where,
        "order_by": order_by,
        "phases": phase or [],
        "type": type_name,
        "workflow_id": workflow_id,
        "task_queue": task_queue,
        "parent_run_id": parent,
        "definition": definition,
    }
    columns = {
        "RUN": lambda run: run.run_id,
        "WORKFLOW ID": lambda run: run.workflow_id,
        "TYPE": lambda run: run.type,
        "PHASE": _phase,
        "STARTED": lambda run: time_of(run.create_time),
        "TOOK": lambda run: span_of(run.create_time, run.end_time),
    }
    with context.obj.client() as client:
        try:
            show_list(client.list_runs(limit=limit, **only), columns, output, "no run is like that")
        except ValueError:
            fail(f"no such phase: {', '.join(phase or [])}", "phases are PENDING, RUNNING, SUSPENDED, COMPLETED, …")


def _phase(run: Run) -> str:
    if run.HasField("pause"):
        return "PAUSED"
    waits = run.slot_state == SLOT_STATE_AWAITED
    return f"{phase_name(run.phase)}, waits for a slot" if waits else phase_name(run.phase)


@app.command("show")
def show_run(context: typer.Context, name: Named, output: OutputOption = Output.TABLE) -> None:
    """Show a run as it is."""
    with context.obj.client() as client:
        handle = handle_of(client, name)
        run = handle.describe()
        is_waiting = run.HasField("task_wait")
        rows = {
            "run": run.run_id,
            "workflow id": run.workflow_id,
            "type": run.type,
            "definition": f"{run.definition.code} {run.definition.version}" if run.HasField("definition") else "",
            "task queue": run.task_queue,
            "phase": phase_name(run.phase),
            "paused": f"{run.pause.reason} {run.pause.details}" if run.HasField("pause") else "",
            "differences": differences_of(run.pause.differences),
            "goes on": repairs_of(run.run_id, run.pause.differences) if run.pause.reason == ORDER_CHANGED else "",
            "cancel": run.cancel_request.reason or "requested" if run.HasField("cancel_request") else "",
            "limit": limit_of(run),
            "attempt": attempt_of(run),
            "begins": time_of(run.begin_time),
            "started": time_of(run.create_time),
            "ended": time_of(run.end_time),
            "took": span_of(run.create_time, run.end_time),
            "deadline": time_of(run.deadline),
            "parent": run.parent_run_id,
            "continued by": run.continued_run_id,
            "attributes": in_a_line(values_of(run.search_attributes)),
            "build": run.build_id,
            "held by": run.owner_id,
            "waits for": awaited_by(handle) if phase_name(run.phase) == "SUSPENDED" and not run.driven else "",
            "waits": f"since {time_of(run.task_wait.ready_time)}: {run.task_wait.details}" if is_waiting else "",
            "input": value_of(run.input),
            "result": value_of(run.result),
            "failure": words_of(run.failure) if run.HasField("failure") else "",
            "last failure": words_of(run.last_failure) if run.HasField("last_failure") else "",
            "stack trace": run.failure.stack_trace or run.last_failure.stack_trace,
        }
        show(run, rows, output)


@app.command()
def history(context: typer.Context, name: Named, output: OutputOption = Output.TABLE) -> None:
    """List a run's events by number."""
    columns = {
        "NO": lambda event: event.number,
        "TIME": lambda event: time_of(event.time),
        "EVENT": lambda event: event.type,
        "STEP": lambda event: f"{event.step_ordinal} {event.step_name}" if event.step_ordinal else "",
        "WHAT": lambda event: value_of(event.payload) or event.failure.message or attributes_of(event.attributes),
    }
    with context.obj.client() as client:
        show_list(handle_of(client, name).history(), columns, output, "there is no event")


@app.command("data")
def show_data(context: typer.Context, name: Named, output: OutputOption = Output.TABLE) -> None:
    """Show the data that an outside engine keeps of a run, by name."""
    with context.obj.client() as client:
        found = handle_of(client, name).data()
        text = "\n".join(f"{name}  {json.dumps(value, ensure_ascii=False)}" for name, value in found.items())
        say(text or "it has no data", found, output)


def attributes_of(attributes: Any) -> str:  # noqa: ANN401 - protobuf's map
    """Gives an event's facts as text."""
    return ", ".join(f"{key}={attributes[key]}" for key in sorted(attributes))


@app.command()
def steps(context: typer.Context, name: Named, output: OutputOption = Output.TABLE) -> None:
    """List a run's steps in the order of their creation."""
    columns = {
        "NO": lambda step: step.ordinal,
        "BRANCH": lambda step: step.scope,
        "STEP": lambda step: step.name,
        "KIND": lambda step: StepKind.Name(step.kind).removeprefix("STEP_KIND_"),
        "STATE": lambda step: StepState.Name(step.state).removeprefix("STEP_STATE_"),
        "ATTEMPT": lambda step: step.attempt or "",
        "TOOK": lambda step: span_of(step.create_time, step.end_time),
        "RESULT": lambda step: value_of(step.result) or step.failure.message,
    }
    with context.obj.client() as client:
        show_list(handle_of(client, name).steps(), columns, output, "there is no step")


@app.command()
def wait(context: typer.Context, name: Named, timeout: Timeout = None, output: OutputOption = Output.TABLE) -> None:
    """Wait for a run's end, and print its result. Exits with 1 unless it completed, with 2 when the time is over."""
    with context.obj.client() as client:
        _print_result(handle_of(client, name), timeout, output)


def _print_result(handle: RunHandle[Any], timeout: float | None, output: Output) -> None:
    try:
        value = handle.result(timeout)
    except TimeoutError:
        print(f"the run has not ended within {timeout:g} s", file=sys.stderr)
        sys.exit(2)
    except errors.RunFailed as error:
        if output is Output.JSON:
            failure = as_dict(error.failure) if error.failure is not None else None
            print(json.dumps({"run_id": error.run_id, "phase": error.phase, "failure": failure}, indent=2))
            sys.exit(1)
        fail(str(error), f"see `stepwell run show {error.run_id}`")
    text = f"({len(value)} bytes)" if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False)
    facts = {"phase": "COMPLETED", "result": text if isinstance(value, bytes) else value}
    say(text, facts, output)
