"""What time does to a step: a timer fires, a wait times out, an activity tries again or times out."""

from __future__ import annotations

import msgspec

from stepwell_server.engine import activities, endings
from stepwell_server.engine.change import Change
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import Kind, Step, StepState


class FireStep(msgspec.Struct, frozen=True, gc=False):
    """Looks at a step whose wake time has come. Answers whether anything came of it; twice does no harm."""

    ref: RunRef
    ordinal: int

    def wants(self) -> Missing:
        return Missing(ordinals=[self.ordinal])

    def decide(self, change: Change) -> bool:
        if change.run is None:
            return False
        step = change.step(self.ordinal)
        if not isinstance(step, Step) or step.wake_time is None or step.wake_time > change.now:
            return False
        if step.kind == Kind.TIMER:
            event = change.event(EventType.TIMER_FIRED, ordinal=step.ordinal)
            change.end_step(step, StepState.COMPLETED, event)
            endings.wake(change)
        elif step.kind == Kind.WAIT:
            event = change.event(EventType.WAIT_TIMED_OUT, ordinal=step.ordinal)
            change.end_step(step, StepState.COMPLETED, event, timed_out=True)
            endings.wake(change)
        elif step.kind == Kind.ACTIVITY:
            beat = change.heartbeat(step.ordinal) if step.state == StepState.RUNNING else None
            activities.time_out(change, step, beat[0] if beat is not None else None)
        return True
