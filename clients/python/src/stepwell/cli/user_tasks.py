"""`stepwell task`: what runs ask of people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stepwell.cli.output import Output, OutputOption, say, show, show_list, time_of, value_of
from stepwell.cli.runs import Input, Reason, value_from
from stepwell.cli.session import fail
from stepwell.user_tasks import priority_name, status_name

if TYPE_CHECKING:
    from stepwell.options import UserTaskFilter
    from stepwell.v1.user_tasks_pb2 import UserTask

app = typer.Typer(help="Tasks for people.", no_args_is_help=True)
Task = Annotated[str, typer.Argument(metavar="TASK", help="A task's id.")]
User = Annotated[str, typer.Option("--user", "-u", help="Who does it.")]


def _for(task: UserTask) -> str:
    spec = task.spec
    named = {"user": spec.assigned_user_id, "role": spec.assigned_role_id, "group": spec.assigned_group_id}
    return ", ".join(f"{what} {name}" for what, name in named.items() if name)


_COLUMNS = {
    "TASK": lambda task: task.task_id,
    "TITLE": lambda task: task.spec.title,
    "STATUS": lambda task: status_name(task.status),
    "PRIORITY": lambda task: priority_name(task.spec.priority),
    "FOR": _for,
    "BY": lambda task: task.completed_by or task.claimed_by,
    "DUE": lambda task: time_of(task.spec.due_time) if task.spec.HasField("due_time") else "",
    "RUN": lambda task: task.workflow_id or task.run_id,
}


@app.command("list")
def list_tasks(
    context: typer.Context,
    *,
    inbox: Annotated[
        bool, typer.Option("--inbox", help="Only what is pending for the user, role or group, most urgent first.")
    ] = False,
    user: Annotated[str, typer.Option(help="Only tasks for this user.")] = "",
    role: Annotated[list[str] | None, typer.Option(help="Only tasks for this role; an inbox may have several.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Only tasks for this group; an inbox may have several.")
    ] = None,
    status: Annotated[list[str] | None, typer.Option(help="Only these, such as PENDING.")] = None,
    run: Annotated[str, typer.Option(help="Only tasks of the run of this workflow id.")] = "",
    query: Annotated[str, typer.Option(help="Only what has this text in its title, description or step.")] = "",
    wanted: Annotated[str, typer.Option("--filter", help="Only what fits, such as 'priority = URGENT'.")] = "",
    output: OutputOption = Output.TABLE,
) -> None:
    """List tasks, newest first, or an inbox."""
    roles, groups = role or [], group or []
    with context.obj.client() as client:
        if inbox:
            if not (user or roles or groups):
                fail("--inbox wants to know whose", "name --user, --role or --group")
            found = client.user_tasks.inbox(user=user, roles=roles, groups=groups)
            show_list(found, _COLUMNS, output, "nothing is to do")
            return
        if len(roles) > 1 or len(groups) > 1:
            fail("a list is of one role and one group", "several are joined by --inbox")
        only: UserTaskFilter = {
            "user": user,
            "role": "".join(roles),
            "group": "".join(groups),
            "statuses": [each.upper() for each in status or ()],
            "workflow_id": run,
            "query": query,
            "filter": wanted,
        }
        try:
            show_list(client.user_tasks.list(**only), _COLUMNS, output, "no task is like that")
        except ValueError:
            fail(f"no such status: {', '.join(status or [])}", "they are PENDING, CLAIMED, COMPLETED, CANCELLED")


@app.command("show")
def show_task(context: typer.Context, task_id: Task, output: OutputOption = Output.TABLE) -> None:
    """Show a task as it is."""
    with context.obj.client() as client:
        task = client.user_tasks.get(task_id)
        spec = task.spec
        rows = {
            "task": task.task_id,
            "title": spec.title,
            "description": spec.description,
            "form": spec.schema_type,
            "status": status_name(task.status),
            "priority": priority_name(spec.priority),
            "for": _for(task),
            "due": time_of(spec.due_time) if spec.HasField("due_time") else "",
            "run": task.run_id,
            "workflow id": task.workflow_id,
            "step": task.step_name,
            "signal": spec.signal_name,
            "created": time_of(task.create_time),
            "claimed": f"{time_of(task.claim_time)} by {task.claimed_by}" if task.claimed_by else "",
            "completed": f"{time_of(task.complete_time)} by {task.completed_by}" if task.completed_by else "",
            "input": value_of(spec.input),
            "output": value_of(task.output),
        }
        show(task, rows, output)


@app.command()
def claim(context: typer.Context, task_id: Task, user: User, output: OutputOption = Output.TABLE) -> None:
    """Give a task to a user. Exits with 1 if somebody else has it."""
    with context.obj.client() as client:
        task = client.user_tasks.claim(task_id, user)
        say(f"{task.claimed_by} has the task", {"task_id": task_id, "claimed_by": task.claimed_by}, output)


@app.command()
def unclaim(context: typer.Context, task_id: Task, output: OutputOption = Output.TABLE) -> None:
    """Take a task back from whoever has it."""
    with context.obj.client() as client:
        task = client.user_tasks.unclaim(task_id)
        say("nobody has the task", {"task_id": task_id, "status": status_name(task.status)}, output)


@app.command()
def complete(
    context: typer.Context,
    task_id: Task,
    user: User,
    *,
    value: Input = "",
    take: Annotated[bool, typer.Option("--claim", help="Claim it first.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Complete a task that the user has claimed, with the input as its output."""
    with context.obj.client() as client:
        if take:
            client.user_tasks.claim(task_id, user)
        task = client.user_tasks.complete(task_id, user, value_from(value))
        say("the task is done", {"task_id": task_id, "status": status_name(task.status)}, output)


@app.command()
def cancel(context: typer.Context, task_id: Task, reason: Reason = "", output: OutputOption = Output.TABLE) -> None:
    """Cancel a task. Code that waits for it hears so."""
    with context.obj.client() as client:
        task = client.user_tasks.cancel(task_id, reason)
        say("the task is cancelled", {"task_id": task_id, "status": status_name(task.status)}, output)
