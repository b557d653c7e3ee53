"""Topics: driven runs wait on them, and an event wakes each of those that wait once."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import WATCHER, Moved, go_on, held, moved, suspend, woken
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.driven import Cause, Watcher
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Payload, pack_payload
from stepwell_server.model.runs import RunRef

if TYPE_CHECKING:
    from stepwell_server.model.runs import Run


class WaitOnTopic(msgspec.Struct, frozen=True, gc=False):
    """Suspends a run until an event of a topic, or a deadline. An earlier wait is over."""

    ref: RunRef
    step_name: str
    topic: str
    deadline: datetime | None
    data: Payload
    token: int

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> Moved:
        run = held(change, self.token)
        suspend(change, self.step_name, self.deadline, self.data, self.topic)
        change.put_side(WATCHER, self._watcher(run, change.now))
        return moved(change, done=True)

    def _watcher(self, run: Run, now: datetime) -> Watcher:
        data = pack_payload(self.data)
        return Watcher(run.run_key, 0, run.namespace_id, self.topic, self.step_name, now, self.deadline, data)


class Resolution(msgspec.Struct, frozen=True, gc=False):
    """A run that an event woke."""

    run_id: UUID
    workflow_id: str
    type: str
    task_queue: str
    watcher: Watcher
    resolve_time: datetime


class ResolveWatcher(msgspec.Struct, frozen=True, gc=False):
    """Gives an event to a run, and wakes it. Answers None if the run does not wait on that topic any more."""

    ref: RunRef
    topic: str
    payload: Payload

    def wants(self) -> Missing:
        return Missing(sides=[WATCHER])

    def decide(self, change: Change) -> Resolution | None:
        run = change.run
        if run is None:
            return None
        watcher = change.side(WATCHER)
        if not isinstance(watcher, Watcher) or watcher.topic != self.topic:
            return None
        facts = {"topic": self.topic, "step": watcher.step_name}
        event = change.event(EventType.TOPIC_RECEIVED, payload=self.payload, facts=facts)
        go_on(change, **woken(change, Cause.TOPIC, event))
        return Resolution(run.run_id, run.workflow_id, run.type, run.task_queue, watcher, change.now)
