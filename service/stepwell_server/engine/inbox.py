"""What programs ask for in transactions of their own, as commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stepwell_server import errors, telemetry
from stepwell_server.engine.driven_steps import EndStep, StepAnswer, identity_of
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.starts import NewRun, StartRun
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.inbox import InboxRow, Verb
from stepwell_server.model.payloads import JSON, NULL, Payload
from stepwell_server.model.runs import RunRef

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change


class EndNamedStep(msgspec.Struct, frozen=True, gc=False):
    """Completes a RUNNING step, named as its engine names it."""

    ref: RunRef
    step_name: str
    payload: Payload
    token: int

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> StepAnswer:
        """As `EndStep`."""
        step = change.step_named(identity_of(self.step_name))
        if step is None:
            raise errors.StepNotFound(run_id=change.run_id, step=self.step_name)
        return EndStep(self.ref, step.ordinal, self.payload, None, self.token).decide(change)


def order_of(row: InboxRow) -> StartRun | SignalRun | EndNamedStep:
    """The command that does what was asked for."""
    payload = NULL if row.payload is None else Payload(JSON, row.payload)
    if row.verb == Verb.START:
        return StartRun(_new_run(row, payload))
    ref = RunRef(row.namespace_id, row.namespace, run_id=row.run_id, workflow_id=row.workflow_id)
    if row.verb == Verb.SIGNAL:
        return SignalRun(ref, row.name, payload, row.signal_id or None)
    return EndNamedStep(ref, row.name, payload, row.token)


def _new_run(row: InboxRow, payload: Payload) -> NewRun:
    traceparent, tracestate = telemetry.new_traceparent((), type=row.name)
    return NewRun(
        namespace_id=row.namespace_id,
        namespace=row.namespace,
        type=row.name,
        task_queue=row.task_queue,
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        input=payload,
        priority=row.priority,
        traceparent=traceparent,
        tracestate=tracestate,
    )
