"""Options by keyword: of starts, of lists, of steps and activities. What is absent is as its text says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from stepwell.policies import CancellationPolicy, Concurrency, Debounce, RetryPolicy, Seconds, duration
from stepwell.search_attributes import Value, spelled
from stepwell.v1 import debounces_pb2
from stepwell.v1.definitions_pb2 import DefinitionRef

DefinitionName = str | tuple[str, int]
"""A definition's code, for its latest version; or its code and version."""


class RunOptions(TypedDict, total=False):
    """What any run may be given, whatever starts it; as in `StartOptions`."""

    workflow_id: str
    task_queue: str
    priority: int
    fairness_key: str
    run_timeout: Seconds
    correlation_id: str
    cancellation_policy: CancellationPolicy
    retry: RetryPolicy
    concurrency: Concurrency
    search_attributes: Mapping[str, Value]
    definition: DefinitionName


def definition_of(named: DefinitionName | None) -> DefinitionRef | None:
    """Spells which definition is meant."""
    if not named:
        return None
    code, version = (named, 0) if isinstance(named, str) else named
    return DefinitionRef(code=code, version=version)


def debounce_of(options: StartOptions) -> debounces_pb2.Debounce | None:
    """Spells with which starts a start is to be one."""
    debounce = options.get("debounce")
    return None if debounce is None else debounce.to_proto()


def run_fields(options: RunOptions) -> dict[str, Any]:
    """Spells those that are given as fields of a start's request."""
    return {
        name: value if (spell := _SPELT.get(name)) is None else spell(value)
        for name, value in options.items()
        if name in RunOptions.__annotations__ and value is not None
    }


_SPELT: dict[str, Callable[[Any], Any]] = {
    "run_timeout": duration,
    "cancellation_policy": CancellationPolicy.to_proto,
    "retry": RetryPolicy.to_proto,
    "concurrency": Concurrency.to_proto,
    "search_attributes": spelled,
    "definition": definition_of,
}


class StartOptions(RunOptions, total=False):
    """How a run is started.

    `workflow_id`: the caller's name for it, unique among open runs. `run_id`: a UUID; made here by default.
    `task_queue`: default `default`. `request_id`: makes a repeat of the whole start safe; by default only this call's
    own repeats are. `reuse`: what may follow an ended run of the workflow id, default `allow`. `conflict`: what to do
    when one is open, default `fail`; `terminate_existing` ends it and takes its place. `priority`: 0 to 9, higher goes
    first, default 4. `run_timeout` and `start_delay` in seconds: default no limit, and at once. `retry`: begins the run
    anew, as itself and with nothing recorded, when its code fails; default not. `run_timeout` is for all attempts.
    `concurrency`: how many runs of a key may be at work at once, default no limit.
    `debounce`: makes one run of starts of a key that come in quick succession; it takes no `workflow_id`.
    `fairness_key`: whose turn its tasks take, and those of its activities and children, where keys take turns.
    `search_attributes`: what the run is found by, by name: text, numbers, flags and times.
    `definition`: the definition that it follows, by its code or its code and version; the code alone means the latest
    active version.
    """

    run_id: str
    request_id: str
    reuse: Literal["allow", "allow_if_failed", "reject"]
    conflict: Literal["fail", "use_existing", "terminate_existing"]
    start_delay: Seconds
    debounce: Debounce


class RunFilter(TypedDict, total=False):
    """Which runs to list, and how; what is absent does not matter. `phases` are names such as `RUNNING`.

    `filter`: such as `type = "survey" AND priority > 4`. `order_by`: fields with commas between,
    each with ` desc` behind it or not; default the newest first. docs/lists.md explains both.
    """

    filter: str
    order_by: str
    phases: Sequence[str]
    type: str
    workflow_id: str
    parent_run_id: str
    task_queue: str
    correlation_id: str
    definition: DefinitionName


class JobOptions(TypedDict, total=False):
    """How a job is started; what concerns its performance is as its decorator says, if it is absent.

    `unique_key`: the caller's name for the same thing, unique among open jobs. `job_id`: a UUID; made here by default.
    `request_id`: makes a repeat of the whole start safe; by default only this call's own repeats are. `reuse`: what may
    follow an ended job of the unique key, default `allow`. `conflict`: what to do when one is open, default `fail`.
    `start_delay`: seconds before it may begin. `retention`: seconds that it is kept after its end, default as the
    service is set. `fairness_key`: whose turn its task takes in queues where keys take turns. The others are as in
    `ActivityOptions`; `task_queue` is `default` by default.
    """

    unique_key: str
    job_id: str
    request_id: str
    reuse: Literal["allow", "allow_if_failed", "reject"]
    conflict: Literal["fail", "use_existing"]
    start_delay: Seconds
    retention: Seconds
    correlation_id: str
    retry: RetryPolicy
    schedule_to_start: Seconds
    schedule_to_close: Seconds
    start_to_close: Seconds
    heartbeat_timeout: Seconds
    task_queue: str
    priority: int
    fairness_key: str


class JobFilter(TypedDict, total=False):
    """Which jobs to list; what is absent does not matter. `states` are names such as `RUNNING`."""

    states: Sequence[str]
    type: str
    task_queue: str
    unique_key: str
    correlation_id: str


class StepOptions(TypedDict, total=False):
    """How a step is named: `name` in place of its type, `key` in place of its number among those of its name."""

    name: str
    key: str


class ActivityOptions(StepOptions, total=False):
    """How an activity is performed; what is absent is as its decorator says.

    `retry`: default without limit, from 1 s, doubling, up to 100 s. The seconds that it may wait in its queue, that all
    attempts together and one attempt may take, and that may pass between heartbeats: no limits by default. `priority`:
    0 to 9, higher goes first; default the run's. `wait_cancelled`: a run that is asked to cancel asks its activities to
    stop in any case; true waits for what comes of this one before `RunCancelled` is raised, default is not to wait.
    """

    retry: RetryPolicy
    schedule_to_start: Seconds
    schedule_to_close: Seconds
    start_to_close: Seconds
    heartbeat_timeout: Seconds
    task_queue: str
    priority: int
    wait_cancelled: bool


class ChildOptions(StepOptions, total=False):
    """How a child is started.

    `workflow_id`: a name for it, unique among open runs; `reuse` and `conflict` are as in `StartOptions`.
    `parent_close`: what becomes of it if its parent ends first, default `terminate`. `run_timeout`: how many seconds it
    may take, default no limit. `task_queue`: where its tasks wait, default the parent's. `retry` and `concurrency`: as
    in `StartOptions`; a parent that waits for a child of its own key keeps its slot meanwhile.
    """

    workflow_id: str
    reuse: Literal["allow", "allow_if_failed", "reject"]
    conflict: Literal["fail", "terminate_existing"]
    parent_close: Literal["terminate", "cancel", "abandon"]
    run_timeout: Seconds
    retry: RetryPolicy
    concurrency: Concurrency
    task_queue: str


class UserTaskOptions(TypedDict, total=False):
    """What a task asks for, and of whom; what is absent is empty.

    `title` (default the step's name) and `description` are for people, `schema_type` names the form that shows it.
    `role`, `user` and `group` say who may do it; only `user` claims a task that names one. `priority`: default
    `normal`.
    """

    title: str
    description: str
    schema_type: str
    role: str
    user: str
    group: str
    priority: Literal["low", "normal", "high", "urgent"]


class DrivenTaskOptions(UserTaskOptions, total=False):
    """The same of a driven run's task, or of one that is changed.

    `due`: when it should be done, for people; nothing happens by itself. `signal_name`: the signal that its run gets
    with the output, default none.
    """

    due: dt.datetime
    signal_name: str


class UserTaskFilter(TypedDict, total=False):
    """Which tasks to list, and how; what is absent does not matter. `statuses` are names such as `PENDING`.

    `query`: a part of title, description or step name, in whatever case. `filter` and `order_by` as docs/lists.md has
    them; default the newest first.
    """

    statuses: Sequence[str]
    run_id: str
    workflow_id: str
    step_name: str
    role: str
    user: str
    group: str
    query: str
    filter: str
    order_by: str
