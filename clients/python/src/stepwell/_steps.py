"""Durable calls by kind: how each is spelled as a new step, and what its record turns into."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from stepwell import errors
from stepwell._calls import Call
from stepwell.definitions import type_and_defaults, type_and_hint
from stepwell.policies import CONFLICT, PARENT_CLOSE, REUSE, Seconds, duration
from stepwell.user_tasks import spell
from stepwell.v1 import types_pb2, workers_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell._runs import RunExecution
    from stepwell.options import ActivityOptions, ChildOptions, UserTaskOptions
    from stepwell.v1.workers_pb2 import StepRecord

_COMPLETED = types_pb2.STEP_STATE_COMPLETED
_SKIPPED = types_pb2.STEP_STATE_SKIPPED


def activity(
    run: RunExecution,
    fn: Callable[..., Any] | str,
    input: object,  # noqa: A002 - as the caller's
    options: ActivityOptions,
) -> Call[Any]:
    """Makes the call of an activity."""
    kind, hint, defaults = type_and_defaults(fn, "activity")

    def spell() -> dict[str, Any]:
        payload = run.converter.to_payload(input)
        return {"activity": workers_pb2.ActivityStep(type=kind, input=payload, **defaults.spell(options))}

    name = options.get("name", kind)
    read = reader(run, name, hint, errors.ActivityFailed)
    return Call(
        run,
        kind=types_pb2.STEP_KIND_ACTIVITY,
        name=name,
        key=options.get("key", ""),
        spell=spell,
        read=read,
        is_patient=options.get("wait_cancelled", False),
    )


def child(
    run: RunExecution,
    workflow: Callable[..., Any] | str,
    input: object,  # noqa: A002
    options: ChildOptions,
) -> Call[Any]:
    """Makes the call of a child run."""
    kind, hint = type_and_hint(workflow, "workflow")
    retry, limit = options.get("retry"), options.get("concurrency")

    def spell() -> dict[str, Any]:
        step = workers_pb2.ChildStep(
            type=kind,
            task_queue=options.get("task_queue", ""),
            workflow_id=options.get("workflow_id", ""),
            input=run.converter.to_payload(input),
            parent_close_policy=PARENT_CLOSE[options.get("parent_close", "terminate")],
            run_timeout=duration(options.get("run_timeout")),
            reuse_policy=REUSE[options.get("reuse", "allow")],
            conflict_policy=CONFLICT[options.get("conflict", "fail")],
            retry=None if retry is None else retry.to_proto(),
            concurrency=None if limit is None else limit.to_proto(),
        )
        return {"child": step}

    name = options.get("name", kind)
    read = reader(run, name, hint, errors.ChildFailed)
    return Call(run, kind=types_pb2.STEP_KIND_CHILD, name=name, key=options.get("key", ""), spell=spell, read=read)


def sleep(run: RunExecution, seconds: Seconds, name: str, key: str) -> Call[None]:
    """Makes the call of a timer."""

    def spell() -> dict[str, Any]:
        return {"timer": workers_pb2.TimerStep(duration=duration(seconds))}

    return Call(run, kind=types_pb2.STEP_KIND_TIMER, name=name, key=key, spell=spell, read=_nothing)


def wait_signal(run: RunExecution, name: str, timeout: Seconds | None, as_type: object, key: str) -> Call[Any]:
    """Makes the call of a wait for a signal."""
    return _wait(run, name, workers_pb2.WaitStep(signal_name=name, timeout=duration(timeout)), as_type, key)


def wait_topic(run: RunExecution, topic: str, timeout: Seconds | None, as_type: object, key: str) -> Call[Any]:
    """Makes the call of a wait for an event. Its name is another than that of a wait for a signal of that name."""
    step = workers_pb2.WaitStep(topic=topic, timeout=duration(timeout))
    return _wait(run, f"topic {topic}", step, as_type, key)


def user_task(  # noqa: PLR0917 - made in one place
    run: RunExecution,
    name: str,
    given: object,
    due: dt.datetime | Seconds | None,
    timeout: Seconds | None,
    as_type: object,
    key: str,
    options: UserTaskOptions,
) -> Call[Any]:
    """Makes the call of a task for a person."""

    def spell_step() -> dict[str, Any]:
        at, after = (due, None) if isinstance(due, dt.datetime) else (None, due)
        spec = spell(options, at)
        spec.input.CopyFrom(run.converter.to_payload(given))
        return {"user_task": workers_pb2.UserTaskStep(spec=spec, due_after=duration(after), timeout=duration(timeout))}

    read = _in_time(name, reader(run, name, as_type, errors.UserTaskCancelled))
    return Call(run, kind=types_pb2.STEP_KIND_USER_TASK, name=name, key=key, spell=spell_step, read=read)


def _wait(run: RunExecution, name: str, step: workers_pb2.WaitStep, as_type: object, key: str) -> Call[Any]:
    def spell_step() -> dict[str, Any]:
        return {"wait": step}

    read = _in_time(name, reader(run, name, as_type, errors.StepFailed))
    return Call(run, kind=types_pb2.STEP_KIND_WAIT, name=name, key=key, spell=spell_step, read=read)


def _in_time(name: str, value: Callable[[StepRecord], Any]) -> Callable[[StepRecord], Any]:
    """Reads what was waited for, or raises that the time was over."""

    def read(record: StepRecord) -> Any:  # noqa: ANN401 - what the signal, the event or the person brings
        if record.timed_out:
            raise errors.WaitTimeout(name)
        return value(record)

    return read


def reader(run: RunExecution, name: str, hint: object, error: type[errors.StepError]) -> Callable[[StepRecord], Any]:
    """Gives what turns the ended step into a value, or raises why there is none."""
    converter = run.converter

    def read(record: StepRecord) -> Any:  # noqa: ANN401 - the hint says what it is
        if record.state == _COMPLETED:
            return converter.from_payload(record.result, hint)
        if record.state == _SKIPPED:
            return None
        raise error(name, record.failure)

    return read


def _nothing(record: StepRecord) -> None:
    """A timer has no value."""
