"""Why a task waits for a worker, as runs and jobs tell of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.v1 import runs_pb2
from stepwell_server.model.workers import able

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.model.tasks import TaskKind
    from stepwell_server.model.workers import Crew

TaskWait = runs_pb2.Run.TaskWait


def task_wait_to_proto(  # noqa: PLR0917 - rendered in one place
    kind: TaskKind, type_name: str, task_queue: str, build_id: str, ready_time: datetime, crew: Crew
) -> runs_pb2.Run.TaskWait:
    """Renders a task that waits, with what it waits for."""
    workers = crew.of(task_queue)
    of_type, able_workers = able(workers, kind, type_name), able(workers, kind, type_name, build_id)
    if not of_type:
        reason, details = TaskWait.REASON_NO_WORKER, f"no live worker takes type {type_name} from queue {task_queue}"
    elif not able_workers:
        other = f"of other builds {of_type} take type {type_name} from queue {task_queue}"
        reason, details = TaskWait.REASON_NO_BUILD, f"no live worker takes build {build_id}; {other}"
    else:
        details = f"live workers that could take it once they have room: {able_workers}"
        reason = TaskWait.REASON_NO_ROOM
    wait = TaskWait(reason=reason, details=details)
    wait.ready_time.FromDatetime(ready_time)
    return wait
