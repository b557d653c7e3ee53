"""Steps that the worker itself does: checkpoints, side effects, patches."""

from __future__ import annotations

import asyncio
import functools
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any

from stepwell._ahead import result_is_recorded
from stepwell._failures import failure_of
from stepwell.errors import ApplicationError, StepFailed
from stepwell.v1 import types_pb2
from stepwell.v1.workers_pb2 import LocalStep, MarkerStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell._runs import RunExecution
    from stepwell.policies import RetryPolicy

_LOCAL = types_pb2.STEP_KIND_LOCAL
_MARKER = types_pb2.STEP_KIND_MARKER
_PATCH_KEY = "patch"


@functools.lru_cache(maxsize=4096)
def _hint_of(fn: Callable[..., Any]) -> object:
    try:
        return typing.get_type_hints(fn, include_extras=True).get("return")
    except (NameError, TypeError):  # types that exist only for type checkers; callables without annotations
        return None


def _result_hint(fn: Callable[..., Any]) -> object:
    if not getattr(fn, "__annotations__", None):
        return None
    try:
        return _hint_of(fn)
    except TypeError:  # a callable that cannot be hashed
        return None


def _is_async(fn: Callable[..., Any]) -> bool:
    code: types.CodeType | None = getattr(fn, "__code__", None)
    is_plainly = code is not None and code.co_flags & inspect.CO_COROUTINE
    return bool(is_plainly) or inspect.iscoroutinefunction(fn)


async def checkpoint(
    run: RunExecution,
    name: str,
    fn: Callable[..., Any],
    args: tuple[object, ...],
    *,
    key: str,
    retry: RetryPolicy | None,
) -> Any:  # noqa: ANN401 - what the function returns
    """Answers a checkpoint from the record, or calls its function and has the result recorded."""
    scope = run.present_scope()
    gate = run.arrive(scope)
    if gate is not None:
        await gate
    record = run.recall(scope, _LOCAL, name, key, None)
    if record is None:
        if run.is_broken:
            run.block()
            await run.loop.create_future()
        scope.waiting = True
        try:
            if run.out.last_marker is not None:
                # The function may act on a side effect's value, which must be the same when it runs again.
                await run.recorded(run.out.last_marker)
            if run.ahead_of is not None:
                await result_is_recorded(run)
            body = await _outcome(run, fn, args, retry)
            entry = run.add_step(scope, _LOCAL, name, key, body={"local": body})
            await run.recorded(entry)
        finally:
            scope.waiting = None
        failure, result = (body.failure if body.HasField("failure") else None), body.result
    else:
        is_failed = record.state in {types_pb2.STEP_STATE_FAILED, types_pb2.STEP_STATE_CANCELLED}
        failure, result = (record.failure if is_failed else None), record.result
    if failure is not None:
        raise StepFailed(name, failure)
    # Also fresh results are read from their payload: what the code sees must not depend on when it sees it.
    return run.converter.from_payload(result, _result_hint(fn))


async def _outcome(
    run: RunExecution, fn: Callable[..., Any], args: tuple[object, ...], retry: RetryPolicy | None
) -> LocalStep:
    run.busy += 1
    run.block()
    try:
        attempt = 1
        while True:
            try:
                if _is_async(fn):
                    value = await fn(*args)
                else:
                    value = await run.host.in_thread(fn, *args)
                    if inspect.isawaitable(value):
                        value = await value
                return LocalStep(result=run.converter.to_payload(value))
            except Exception as error:  # noqa: BLE001 - whatever it raises is recorded
                if retry is None or _is_final(error, attempt, retry):
                    return LocalStep(failure=failure_of(error, run.converter))
                delay = error.retry_after if isinstance(error, ApplicationError) else None
                await asyncio.sleep(retry.delay_after(attempt) if delay is None else delay)
                attempt += 1
    finally:
        run.busy -= 1
        run.active += 1


def _is_final(error: Exception, attempt: int, retry: RetryPolicy) -> bool:
    if 0 < retry.maximum_attempts <= attempt:
        return True
    if isinstance(error, ApplicationError):
        return error.non_retryable or error.type in retry.non_retryable_types
    return type(error).__name__ in retry.non_retryable_types


def side_effect(run: RunExecution, name: str, fn: Callable[[], Any]) -> Any:  # noqa: ANN401 - what the function returns
    """Answers from the record, or calls the function and puts its value on its way."""
    scope = run.present_scope()
    record = run.recall(scope, _MARKER, name, "", None)
    if record is not None:
        payload = record.result
    elif run.is_broken:
        raise RuntimeError(f"{name} was recorded as another kind of step")
    else:
        payload = run.converter.to_payload(fn())
        run.add_step(scope, _MARKER, name, "", body={"marker": MarkerStep(value=payload)})
    return run.converter.from_payload(payload, _result_hint(fn))


def patched(run: RunExecution, name: str) -> bool:
    """Decides once for each branch: old if calls are recorded from here on and this mark is not among them."""
    scope = run.present_scope()
    decided = scope.patches.get(name)
    if decided is None:
        if scope.key_for(name, _PATCH_KEY) in run.record.steps:
            run.recall(scope, _MARKER, name, _PATCH_KEY, None)
            decided = True
        elif scope.count < len(scope.recorded):
            decided = False
        else:
            value = types_pb2.Payload(json="true")
            run.add_step(scope, _MARKER, name, _PATCH_KEY, body={"marker": MarkerStep(value=value)})
            decided = True
        scope.patches[name] = decided
    return decided
