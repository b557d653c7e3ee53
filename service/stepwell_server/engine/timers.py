"""What time does: a timer fires, a wait times out, an activity or a job begins, tries again or times out."""

from __future__ import annotations

from datetime import datetime

import msgspec

from stepwell_server.engine import activities
from stepwell_server.engine.change import Change
from stepwell_server.engine.job_change import JobChange
from stepwell_server.engine.topic_waits import has_event_coming
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.jobs import Activity, JobRef
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import Kind, Step, StepState, is_on_topic


class FireStep(msgspec.Struct, frozen=True, gc=False):
    """Looks at a step whose wake time has come. Answers whether anything came of it; twice does no harm.

    No beat can be missed before `heard_since`: until then the database was away, or nobody led.
    """

    ref: RunRef | JobRef
    ordinal: int
    heard_since: datetime | None = None

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: Change | JobChange) -> bool:
        if not change.is_open:
            return False
        step = change.step(self.ordinal)
        if not isinstance(step, Activity) or step.wake_time is None or step.wake_time > change.now:
            return False
        if step.kind == Kind.ACTIVITY:
            beat = change.heartbeat(step.ordinal) if step.state == StepState.RUNNING else None
            times = (beat[0] if beat is not None else None, self.heard_since)
            activities.time_out(change, step, max((time for time in times if time is not None), default=None))
        elif isinstance(change, Change) and isinstance(step, Step):
            return _fire(change, step)
        return True


def _fire(change: Change, step: Step) -> bool:
    if is_on_topic(step) and has_event_coming(change, step):
        return False
    if step.kind == Kind.TIMER:
        event = change.event(EventType.TIMER_FIRED, ordinal=step.ordinal)
        change.end_step(step, StepState.COMPLETED, event)
        change.wake()
    elif step.kind == Kind.WAIT:
        event = change.event(EventType.WAIT_TIMED_OUT, ordinal=step.ordinal)
        change.end_step(step, StepState.COMPLETED, event, timed_out=True)
        change.wake()
    elif step.kind == Kind.USER_TASK:
        event = change.event(EventType.USER_TASK_CANCELLED, ordinal=step.ordinal, facts={"reason": "timed out"})
        change.end_step(step, StepState.COMPLETED, event, timed_out=True)
        change.wake()
    return True
