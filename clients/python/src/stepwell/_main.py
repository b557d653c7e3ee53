"""The life of a run's code in a worker: from its input to its end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from stepwell import _tracing
from stepwell._calls import ContinueRun, RunCancelled, current
from stepwell._failures import failure_of
from stepwell.context import Context
from stepwell.v1 import workers_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from stepwell._runs import RunExecution
    from stepwell.v1.workers_pb2 import StepRecord


async def main(run: RunExecution, load_steps: Callable[[], Awaitable[Iterable[StepRecord]]]) -> None:
    """Calls the workflow function, and hands over the run's end."""
    current.set((run, run.root))
    try:
        if run.task.more_steps:
            run.load(await load_steps())
    except Exception:  # noqa: BLE001 - another worker may have more luck
        run.host.release(run, "its steps could not be read")
        return
    run.record.open(run.root)
    if run.record.updates:
        run.updates.load(run.record.updates)
    try:
        end = await _end(run)
    except asyncio.CancelledError:
        return
    run.end = end
    run.active -= 1
    run.wake()


async def _end(run: RunExecution) -> dict[str, Any]:
    definition = run.definition
    _tracing.join(run.task.traceparent)
    try:
        context = Context(run)
        if definition.takes_input:
            value = run.converter.from_payload(run.task.input, definition.input_hint)
            result = await definition.fn(context, value)
        else:
            result = await definition.fn(context)
        return {"complete": workers_pb2.CompleteRun(result=run.converter.to_payload(result))}
    except ContinueRun as again:
        return {"continue_as_new": again.end}
    except RunCancelled as error:
        return {"cancelled": workers_pb2.CancelledRun(details=run.converter.to_payload(error.reason or None))}
    except asyncio.CancelledError as error:
        if run.is_dropped:
            raise
        return {"fail": workers_pb2.FailRun(failure=failure_of(error, run.converter))}
    except Exception as error:  # noqa: BLE001 - whatever the code raises is the run's failure
        return {"fail": workers_pb2.FailRun(failure=failure_of(error, run.converter))}
