"""`stepwell job`: start jobs, look at them, stop them, and try them again."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from stepwell import errors
from stepwell.cli.output import Output, OutputOption, as_dict, say, show, show_list, span_of, time_of, value_of
from stepwell.cli.runs import Input, Reason, Timeout, value_from
from stepwell.cli.session import fail
from stepwell.jobs import state_name
from stepwell.policies import JOB_CONFLICT, RetryPolicy
from stepwell.v1.jobs_pb2 import JobState

if TYPE_CHECKING:
    from stepwell.options import JobFilter, JobOptions
    from stepwell.sync import Client, JobHandle
    from stepwell.v1.types_pb2 import Failure

app = typer.Typer(help="Jobs: activities without a run.", no_args_is_help=True)

Named = Annotated[str, typer.Argument(metavar="JOB", help="A job id.")]
States = Annotated[list[str] | None, typer.Option(help="Only these states, such as RUNNING.")]
_STATES = [state_name(each) for each in JobState.values() if each]


def handle_of(client: Client, job_id: str) -> JobHandle[Any]:
    """Gives the job of that id."""
    try:
        return client.job(job_id)
    except ValueError:
        fail(f"{job_id} is no job id", "it is a UUID: `stepwell job list --unique-key` finds a job by its unique key")


@app.command()
def start(
    context: typer.Context,
    *,
    type_name: Annotated[str, typer.Argument(metavar="TYPE", help="The type of activity.")],
    value: Input = "",
    unique_key: Annotated[str, typer.Option(help="Your name for it, unique among open jobs.")] = "",
    job_id: Annotated[str, typer.Option(help="Its id, a UUID. Default: a new one.")] = "",
    task_queue: Annotated[str, typer.Option(help="Where its task waits.")] = "default",
    conflict: Annotated[str, typer.Option(help=f"When the unique key is in use: {', '.join(JOB_CONFLICT)}.")] = "fail",
    fairness_key: Annotated[str, typer.Option(help="Whose turn its task takes, where keys take turns.")] = "",
    attempts: Annotated[int, typer.Option(help="How often to try at most; 0 is no limit.", min=0)] = 0,
    delay: Annotated[float, typer.Option(help="Seconds before it may begin.", min=0)] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end, and print its result.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start a job."""
    if conflict not in JOB_CONFLICT:
        fail(f"--conflict is one of {', '.join(JOB_CONFLICT)}, not {conflict}")
    options: JobOptions = {
        "unique_key": unique_key,
        "job_id": job_id,
        "task_queue": task_queue,
        "conflict": cast("Literal['fail', 'use_existing']", conflict),
        "start_delay": delay,
        "fairness_key": fairness_key,
        "retry": RetryPolicy(maximum_attempts=attempts),
    }
    with context.obj.client() as client:
        try:
            handle = client.start_job(type_name, value_from(value), **options)
        except ValueError as error:
            fail(str(error), "--job-id takes a UUID")
        if wait:
            _print_result(handle, None, output)
            return
        verb = "was started" if handle.started else "was there already"
        facts = {"job_id": handle.job_id, "unique_key": unique_key, "started": handle.started}
        say(f"job {handle.job_id} {verb}", facts, output)


@app.command("list")
def list_jobs(
    context: typer.Context,
    *,
    state: States = None,
    type_name: Annotated[str, typer.Option("--type", help="Only this type.")] = "",
    task_queue: Annotated[str, typer.Option(help="Only this task queue.")] = "",
    unique_key: Annotated[str, typer.Option(help="Only jobs of this unique key.")] = "",
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List jobs, newest first."""
    only: JobFilter = {
        "states": state or [],
        "type": type_name,
        "task_queue": task_queue,
        "unique_key": unique_key,
    }
    columns = {
        "JOB": lambda job: job.job_id,
        "UNIQUE KEY": lambda job: job.unique_key,
        "TYPE": lambda job: job.type,
        "STATE": lambda job: state_name(job.state),
        "ATTEMPT": lambda job: job.attempt or "",
        "STARTED": lambda job: time_of(job.create_time),
        "TOOK": lambda job: span_of(job.create_time, job.end_time),
    }
    with context.obj.client() as client:
        try:
            show_list(client.list_jobs(limit=limit, **only), columns, output, "no job is like that")
        except ValueError:
            fail(
                f"no such state: {', '.join(state or [])}", "states are PENDING, RUNNING, COMPLETED, FAILED, CANCELLED"
            )


@app.command("show")
def show_job(context: typer.Context, name: Named, output: OutputOption = Output.TABLE) -> None:
    """Show a job as it is."""
    with context.obj.client() as client:
        job = handle_of(client, name).describe()
        is_waiting = job.HasField("task_wait")
        rows = {
            "job": job.job_id,
            "unique key": job.unique_key,
            "type": job.type,
            "task queue": job.task_queue,
            "state": state_name(job.state),
            "cancel": job.cancel_request.reason or "requested" if job.HasField("cancel_request") else "",
            "attempt": job.attempt or "",
            "retries": job.retry_count or "",
            "started": time_of(job.create_time),
            "begun": time_of(job.start_time),
            "next look": time_of(job.wake_time),
            "ended": time_of(job.end_time),
            "took": span_of(job.create_time, job.end_time),
            "kept until": time_of(job.expire_time),
            "worker": job.owner_id,
            "waits": f"since {time_of(job.task_wait.ready_time)}: {job.task_wait.details}" if is_waiting else "",
            "heartbeat": f"{time_of(job.heartbeat_time)} {value_of(job.heartbeat_details)}".strip(),
            "input": value_of(job.input),
            "result": value_of(job.result),
            "failure": _words_of(job.failure) if job.HasField("failure") else "",
            "last failure": _words_of(job.last_failure) if job.HasField("last_failure") else "",
            "stack trace": job.failure.stack_trace or job.last_failure.stack_trace,
        }
        show(job, rows, output)


def _words_of(failure: Failure) -> str:
    return f"{failure.type}: {failure.message}"


@app.command()
def cancel(context: typer.Context, name: Named, reason: Reason = "", output: OutputOption = Output.TABLE) -> None:
    """Ask a job to stop: a worker that is at it is told."""
    with context.obj.client() as client:
        accepted = handle_of(client, name).cancel(reason)
        text = "cancellation was asked for" if accepted else "the job has ended, or was asked before"
        say(text, {"job_id": name, "accepted": accepted}, output)


@app.command()
def retry(context: typer.Context, name: Named, output: OutputOption = Output.TABLE) -> None:
    """Begin a job anew that has failed."""
    with context.obj.client() as client:
        handle_of(client, name).retry()
        say("the job begins anew", {"job_id": name, "retried": True}, output)


@app.command()
def wait(context: typer.Context, name: Named, timeout: Timeout = None, output: OutputOption = Output.TABLE) -> None:
    """Wait for a job's end, and print its result. Exits with 1 unless it completed, with 2 when the time is over."""
    with context.obj.client() as client:
        _print_result(handle_of(client, name), timeout, output)


def _print_result(handle: JobHandle[Any], timeout: float | None, output: Output) -> None:
    try:
        value = handle.result(timeout)
    except TimeoutError:
        print(f"the job has not ended within {timeout:g} s", file=sys.stderr)
        sys.exit(2)
    except errors.JobFailed as error:
        if output is Output.JSON:
            failure = as_dict(error.failure) if error.failure is not None else None
            print(json.dumps({"job_id": error.job_id, "state": error.state, "failure": failure}, indent=2))
            sys.exit(1)
        fail(str(error), f"see `stepwell job show {error.job_id}`")
    text = f"({len(value)} bytes)" if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False)
    facts = {"state": "COMPLETED", "result": text if isinstance(value, bytes) else value}
    say(text, facts, output)
