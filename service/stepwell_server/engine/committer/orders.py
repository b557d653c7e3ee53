"""What a committer takes in: commands of a run or of a job, starts, claims of tasks, and several of them at once."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import msgspec

from stepwell_server import errors, refusals, telemetry
from stepwell_server.engine.change import Change
from stepwell_server.engine.commands import Command, JobCommand
from stepwell_server.engine.committer.protocols import ActivityClaim, AnyChange, Claim
from stepwell_server.engine.jobs import StartJob
from stepwell_server.engine.progress import ProgressRun
from stepwell_server.engine.reported import NewChild
from stepwell_server.engine.signal_with_start import SignalWithStartRun
from stepwell_server.engine.starts import StartRun
from stepwell_server.model.jobs import JobRef
from stepwell_server.model.runs import RunRef

Birth = StartRun | SignalWithStartRun
AnyClaim = Claim | ActivityClaim
AnyRef = RunRef | JobRef
Single = Command | JobCommand | Birth | StartJob | AnyClaim


class Writes(msgspec.Struct, frozen=True):
    """Commands that are written together, or not at all. Answered with a tuple of their answers.

    A refusal names the label of the command that was refused.
    """

    orders: tuple[Single, ...]
    labels: tuple[str, ...]


Order = Single | Writes


def label_of(order: Order) -> str:
    """How the caller named the run or the job that a command is about."""
    if isinstance(order, Writes):
        return ", ".join(filter(None, map(label_of, order.orders)))
    if isinstance(order, StartJob):
        return order.new.unique_key or str(order.new.job_id)
    start, ref = start_of(order), ref_of(order)
    if start is not None:
        return start.new.workflow_id or str(start.new.run_id)
    return str(ref.label) if ref is not None else ""


def busy(order: Order) -> refusals.Refusal:
    """Somebody else is changing what a command is about."""
    if isinstance(order, Writes):
        return errors.WritesBusy(count=len(order.orders))
    if isinstance(order, StartJob) or is_of_job(order):
        return errors.JobBusy(job_id=label_of(order))
    return errors.RunBusy(run_id=label_of(order))


def absent(ref: AnyRef) -> refusals.Refusal:
    """There is no such run or job."""
    if isinstance(ref, JobRef):
        return errors.JobNotFound(namespace=ref.namespace, job_id=ref.label)
    return errors.RunNotFound(namespace=ref.namespace, run_id=ref.label)


def ref_of(order: Order) -> AnyRef | None:
    # What has no such field starts something, or claims, or is several.
    ref: AnyRef | None = getattr(order, "ref", None)
    return ref


def is_of_job(order: Order) -> bool:
    """Whether a command is about a job that there is."""
    return isinstance(ref_of(order), JobRef)


def start_of(order: Order) -> StartRun | None:
    if isinstance(order, SignalWithStartRun):
        return order.start
    return order if isinstance(order, StartRun) else None


def births_of(order: Order) -> int:
    """How many runs or jobs a command may start."""
    if isinstance(order, Writes):
        return sum(map(births_of, order.orders))
    if isinstance(order, (StartRun, SignalWithStartRun, StartJob)):
        return 1
    if isinstance(order, ProgressRun):
        return sum(isinstance(step.body, NewChild) for step in order.steps) + (order.end is not None)
    return 0


def space_of(order: Order) -> tuple[int, str] | None:
    """The namespace that a start goes to. What else there is comes from something that is in it."""
    start = order if isinstance(order, StartJob) else start_of(order)
    return None if start is None else (start.new.namespace_id, start.new.namespace)


def namespace_of(order: Order) -> int | None:
    """Who asks for it; None for what nobody asks for, as mail."""
    ref = ref_of(order)
    if ref is not None:
        return ref.namespace_id
    if isinstance(order, (Claim, ActivityClaim)):
        return order.namespace_id
    if isinstance(order, Writes):
        return namespace_of(order.orders[0]) if order.orders else None
    space = space_of(order)
    return None if space is None else space[0]


def may_see(ref: AnyRef, change: AnyChange | None) -> bool:
    """Whether the run or job is in the namespace that was named: nothing crosses it."""
    return change is None or ref.namespace_id in (None, change.namespace_id)


def about(order: Order, change: AnyChange | None) -> AbstractContextManager[None]:
    """Marks what is logged of a command with its run or job, or with what is to become one."""
    if isinstance(change, Change):
        run = change.run or change.closed_run
        return nullcontext() if run is None else telemetry.about(run.run_id, run.traceparent)
    if change is not None:
        return telemetry.about_job(change.job_id, change.traceparent)
    start = order if isinstance(order, StartJob) else start_of(order)
    return telemetry.about_call(start.new.traceparent) if start is not None else nullcontext()
