"""What is drawn for random lives: calls, starts, and how often what happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from tests.engine.code import activity, local

from stepwell_server.engine.reported import Body, NewChild, NewTimer, NewTopicWait, NewUserTask, NewWait
from stepwell_server.engine.starts import Conflict
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import NO_DETAILS, Phase, RunDetails
from stepwell_server.model.steps import Kind, RetryPolicy, Timeouts

NAMES = st.sampled_from(["a", "b", "c"])
TOPICS = st.sampled_from(["a", "b"])
SCOPES = st.sampled_from(["", "", "1", "2", "2/1"])
CONFLICTS = st.sampled_from([Conflict.FAIL, Conflict.TERMINATE_EXISTING])
BODIES: st.SearchStrategy[Body] = st.one_of(
    st.just(local()),
    st.builds(NewTimer, st.sampled_from([0.0, 1.0, 20.0])),
    st.builds(NewWait, NAMES, st.sampled_from([None, 2.0])),
    st.builds(NewTopicWait, TOPICS, st.sampled_from([None, 2.0])),
    st.builds(NewUserTask, timeout_seconds=st.sampled_from([None, 2.0])),
    st.builds(
        NewChild,
        st.just("flow"),
        workflow_id=st.sampled_from(["", "w", "v"]),
        close_policy=st.sampled_from([1, 2, 3]),
        conflict=CONFLICTS,
    ),
    st.builds(
        lambda retry, timeouts, shielded: activity(retry=retry, timeouts=timeouts, shielded=shielded),
        st.sampled_from([None, RetryPolicy(maximum_attempts=1), RetryPolicy(initial_seconds=0.0, maximum_attempts=3)]),
        st.sampled_from([None, Timeouts(heartbeat=3, schedule_to_close=30), Timeouts(schedule_to_start=2)]),
        st.booleans(),
    ),
)
ENDS = st.sampled_from([Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED])
CALLS = st.lists(st.tuples(NAMES, SCOPES, BODIES), min_size=1, max_size=4)
STARTS = [("", None, None), ("w", None, None), ("v", None, None), ("", 3.0, None), ("", None, 25.0), ("w", 3.0, 25.0)]
ATTEMPTS = st.sampled_from(
    [NO_DETAILS, *(RunDetails(retry=RetryPolicy(initial_seconds=each, maximum_attempts=3)) for each in (0.0, 2.0))]
)
OWN = (Kind.LOCAL, Kind.MARKER)
BUILDS = ["", "1", "2"]
WEIGHTS = [
    name
    for name, weight in {
        "settle": 5,
        "grant": 6,
        "progress": 8,
        "report": 4,
        "tick": 2,
        "signal": 3,
        "publish": 2,
        "bring": 3,
        "person": 2,
        "start": 1,
        "steer": 1,
        "resume": 2,
        "lose": 2,
        "repeat": 1,
        "deliver": 2,
        "end": 1,
        "mend": 1,
        "repair": 2,
    }.items()
    for _ in range(weight)
]
Draw = Callable[[st.SearchStrategy[Any]], Any]
ENDING = frozenset(
    {
        EventType.STEP_COMPLETED,
        EventType.ACTIVITY_COMPLETED,
        EventType.ACTIVITY_FAILED,
        EventType.ACTIVITY_CANCELLED,
        EventType.TIMER_FIRED,
        EventType.TIMER_CANCELLED,
        EventType.WAIT_COMPLETED,
        EventType.WAIT_TIMED_OUT,
        EventType.WAIT_CANCELLED,
        EventType.CHILD_COMPLETED,
        EventType.CHILD_FAILED,
        EventType.CHILD_CANCELLED,
        EventType.SIGNAL_RECEIVED,
        EventType.TOPIC_RECEIVED,
        EventType.USER_TASK_COMPLETED,
        EventType.USER_TASK_CANCELLED,
    }
)


BY_KIND: dict[Kind, Body] = {
    Kind.LOCAL: local(),
    Kind.ACTIVITY: activity(),
    Kind.TIMER: NewTimer(1),
    Kind.WAIT: NewWait("a"),
    Kind.CHILD: NewChild("flow"),
    Kind.USER_TASK: NewUserTask(),
}
