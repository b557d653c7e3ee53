"""What one run may hold, and what is recorded even beyond that."""

from __future__ import annotations

from typing import NamedTuple

from stepwell_server.model.events import EventType


class Limits(NamedTuple):
    """What one run may hold, and how often in a row a task of it may come back."""

    open_steps: int = 20_000
    events: int = 100_000
    returns: int = 10
    search_attributes: int = 32
    search_attribute_bytes: int = 8 * 1024
    user_task_changes: int = 100


# Events that a run at its limit still records, because without them what is under way could not end: one for each
# open step, and a few of the run itself.
ALWAYS_KEPT = frozenset(
    {
        EventType.RUN_COMPLETED,
        EventType.RUN_FAILED,
        EventType.RUN_CANCELLED,
        EventType.RUN_TERMINATED,
        EventType.RUN_TIMED_OUT,
        EventType.RUN_CONTINUED,
        EventType.RUN_CANCEL_REQUESTED,
        EventType.RUN_PAUSED,
        EventType.RUN_RESUMED,
        EventType.RUN_PINNED,
        EventType.STEP_CANCELLED,
        EventType.ACTIVITY_COMPLETED,
        EventType.ACTIVITY_FAILED,
        EventType.ACTIVITY_CANCELLED,
        EventType.TIMER_FIRED,
        EventType.TIMER_CANCELLED,
        EventType.WAIT_TIMED_OUT,
        EventType.WAIT_CANCELLED,
        EventType.CHILD_COMPLETED,
        EventType.CHILD_FAILED,
        EventType.CHILD_CANCELLED,
        EventType.USER_TASK_COMPLETED,
        EventType.USER_TASK_CANCELLED,
    }
)
