"""Tasks of driven runs: which run wants a worker of its engine, and which worker has it."""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec.structs import replace

from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import driven
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.driven import RunTask
from stepwell_server.model.runs import RunRef
from stepwell_server.model.tasks import Taken

_TASK = (RunTask, 0)
_WANTS = Missing(sides=[_TASK])


class _OfTask:
    """What the commands on a run's task share."""

    __slots__ = ()

    def wants(self) -> Missing:
        return _WANTS


class MarkRunDispatchable(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """A worker should look at the run; also while one does. Answers whether that is news."""

    ref: RunRef

    def decide(self, change: Change) -> bool:
        run, task = driven(change), _task(change)
        if task is not None and task.is_ready:
            return False
        if task is None:
            task = RunTask(run.run_key, run.namespace_id, run.task_queue, is_ready=True, ready_time=change.now)
        _put(change, replace(task, is_ready=True, ready_time=change.now))
        return True


class ClaimRunTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Gives a run's task to a worker. Answers False if it is not to be had any more."""

    ref: RunRef
    worker_id: str

    def decide(self, change: Change) -> bool:
        task = _task(change)
        if task is None or not task.is_ready or task.owner_id is not None:
            return False
        _put(change, replace(task, is_ready=False, owner_id=self.worker_id, claim_time=change.now))
        change.news.claim(Taken(change.open, None, self.worker_id, 0, task.ready_time))
        return True


class ReleaseRunTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Takes a task back from the worker that has it. Answers False if that one did not."""

    ref: RunRef
    worker_id: str

    def decide(self, change: Change) -> bool:
        task = _task(change)
        if task is None or task.owner_id != self.worker_id:
            return False
        _put(change, replace(task, owner_id=None, claim_time=None))
        return True


class RenewRunTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """The worker that has a task is still at it. Answers False if that one has it not."""

    ref: RunRef
    worker_id: str

    def decide(self, change: Change) -> bool:
        task = _task(change)
        if task is None or task.owner_id != self.worker_id:
            return False
        _put(change, replace(task, claim_time=change.now))
        return True


class ReleaseStaleRunTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Takes a task back that was claimed before a time, and makes it dispatchable."""

    ref: RunRef
    before: datetime

    def decide(self, change: Change) -> bool:
        task = _task(change)
        if task is None or task.claim_time is None or task.claim_time >= self.before:
            return False
        _put(change, _dispatchable(change, task))
        return True


class TakeBackRunTask(_OfTask, msgspec.Struct, frozen=True, gc=False):
    """Takes a task from a worker that is gone, and makes it dispatchable. Answers False if that one has it not."""

    ref: RunRef
    worker_id: str

    def decide(self, change: Change) -> bool:
        task = _task(change)
        if task is None or task.owner_id != self.worker_id:
            return False
        _put(change, _dispatchable(change, task))
        return True


def _dispatchable(change: Change, task: RunTask) -> RunTask:
    ready_time = task.ready_time if task.is_ready else change.now
    return replace(task, owner_id=None, claim_time=None, is_ready=True, ready_time=ready_time)


def _task(change: Change) -> RunTask | None:
    if change.run is None:
        return None
    task = change.side(_TASK)
    return task if isinstance(task, RunTask) else None


def _put(change: Change, task: RunTask) -> None:
    change.put_side(_TASK, task)
    change.bump()
