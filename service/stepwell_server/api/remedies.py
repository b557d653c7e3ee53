"""What a worker is told to do about a refused report, so that it needs to know no reasons itself.

A report that can't be recorded is followed by a failure, and if that can't be recorded either the service takes the
task back: nothing stays with a worker that it can't get rid of.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from stepwell.v1 import workers_pb2
from stepwell_server import errors, refusals
from stepwell_server.dispatch.messages import ReportAnswer
from stepwell_server.engine.activities import FailActivity
from stepwell_server.engine.progress import ProgressRun

if TYPE_CHECKING:
    from stepwell_server.api.reports import Report
    from stepwell_server.dispatch.sessions import Held
    from stepwell_server.refusals import Refusal

_DROP = workers_pb2.ReportResult.REMEDY_DROP
_REPEAT = workers_pb2.ReportResult.REMEDY_REPEAT
_FAIL = workers_pb2.ReportResult.REMEDY_FAIL

# Refusals after which the worker does not hold the task any more.
_OVER = (errors.LeaseLost, errors.StepOrderChanged, errors.RunTerminal, errors.RunNotFound, errors.JobNotFound)
_PASSING = (refusals.Unavailable, refusals.Aborted, refusals.DeadlineExceeded)
_FAULTS_MOST = 5
_REPEAT_SECONDS = 0.5


def refused(correlation: int, refusal: Refusal, *, is_failure: bool, held: Held | None = None) -> ReportAnswer:
    """Answers a report that was refused. `held`: what the session has of its task, where that is known."""
    remedy = _remedy_of(refusal, held, is_failure=is_failure)
    seconds = 0.0
    if remedy == _REPEAT:
        least = getattr(refusal, "retry_seconds", None) or _REPEAT_SECONDS
        seconds = random.uniform(least, 2 * least)
    return ReportAnswer(correlation, refusal=refusal, remedy=remedy, repeat_seconds=seconds)


def says_failure(report: workers_pb2.Report) -> bool:
    """Tells whether a report is of a failure, of whatever form it may be."""
    return report.HasField("fail") or report.progress.HasField("fail")


def is_failure(order: Report) -> bool:
    """The same of a report that was read."""
    return isinstance(order, FailActivity) or (
        isinstance(order, ProgressRun) and order.end is not None and order.end.failure is not None
    )


def takes_back(answer: ReportAnswer) -> bool:
    """Tells whether the worker is to drop a task that it still holds: whoever tells it so returns that to its queue."""
    return answer.remedy == _DROP and not isinstance(answer.refusal, _OVER)


def is_dropped(answer: ReportAnswer) -> bool:
    """Tells whether the worker has no more to do with the task."""
    return answer.remedy == _DROP


def _remedy_of(refusal: Refusal, held: Held | None, *, is_failure: bool) -> workers_pb2.ReportResult.Remedy.ValueType:
    if isinstance(refusal, (*_OVER, errors.ResultNotRecorded)):
        return _DROP
    if isinstance(refusal, _PASSING) or getattr(refusal, "retry_seconds", None) is not None:
        return _REPEAT
    if isinstance(refusal, refusals.Internal):
        if held is not None:
            held.faults += 1
        return _REPEAT if held is None or held.faults <= _FAULTS_MOST else _DROP
    return _DROP if is_failure else _FAIL
