"""What task refs name: runs and their activities, or jobs, under a grant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from stepwell_server.api.fields import integer
from stepwell_server.engine.reported import Result
from stepwell_server.errors import InvalidField
from stepwell_server.ids import ORDINALS, RUN_KEYS
from stepwell_server.model.jobs import JOB_ORDINAL

if TYPE_CHECKING:
    from stepwell.v1 import workers_pb2
    from stepwell_server.api.fields import Fields
    from stepwell_server.dispatch.sessions import TaskKey
    from stepwell_server.model.runs import RunRef

_TASK_ID = re.compile(r"(\d{1,14})\.(\d{1,6}|job)")
_MOST_TOKEN = 2**63 - 1


def task_key(ref: workers_pb2.TaskRef, at: str) -> TaskKey:
    """The run and the step, or the job, that a task id names. `at` is where the ref stands, such as `acks[0].`."""
    found = _TASK_ID.fullmatch(ref.task_id)
    if found is None:
        raise InvalidField(field=f"{at}task_id", problem="is not one that was assigned")
    run_key, ordinal = int(found[1]), JOB_ORDINAL if found[2] == "job" else int(found[2])
    if run_key >= RUN_KEYS or ordinal >= ORDINALS:
        raise InvalidField(field=f"{at}task_id", problem="is not one that was assigned")
    integer(ref.token, "token", at, at_most=_MOST_TOKEN)
    return run_key, ordinal


def results_from_proto(progress: workers_pb2.Progress, run: RunRef, fields: Fields, at: str) -> list[Result]:
    """The results that code has gone ahead with."""
    results: list[Result] = []
    for place, ref in enumerate(fields.items(progress.ahead_of, "ahead_of", at)):
        here = f"{at}ahead_of[{place}]."
        run_key, ordinal = task_key(ref, here)
        if run_key != run.run_key or ordinal < 1:
            raise InvalidField(field=f"{here}task_id", problem="must be an activity of the run that reports")
        results.append(Result(ordinal, ref.token))
    return results
