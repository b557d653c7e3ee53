"""Mail from another run, applied as a command of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from stepwell_server.engine import carrying, endings
from stepwell_server.engine.runs import request_cancel
from stepwell_server.model.events import EventType
from stepwell_server.model.mail import Letter, Subject
from stepwell_server.model.payloads import NULL, Failure
from stepwell_server.model.runs import Phase, RunRef, unpack_details
from stepwell_server.model.steps import Step, StepState

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.engine.wishes import Missing


class ReadLetter(msgspec.Struct, frozen=True, gc=False):
    """Applies a piece of mail; its row goes in the same transaction, so that it is applied once.

    A run that has ended has nothing to do any more, and the mail goes all the same; one that goes on as another run
    passes its parent's orders on.
    """

    ref: RunRef
    mail_id: UUID
    letter: Letter

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> bool:
        change.mail_done.append(self.mail_id)
        if self.letter.subject == Subject.CARRY_SIGNALS:
            return carrying.take_over(change)
        if change.run is None:
            return _pass_on(change, self.letter)
        if self.letter.subject == Subject.CANCEL:
            if change.run.cancel_time is None:
                request_cancel(change, self.letter.reason)
        elif self.letter.subject == Subject.TERMINATE:
            endings.terminate_run(change, self.letter.reason)
        else:
            _child_ended(change, self.letter)
        return True


def _pass_on(change: Change, letter: Letter) -> bool:
    details = unpack_details(change.closed_run.details if change.closed_run is not None else None)
    if letter.subject == Subject.CHILD_ENDED or not details.continued_key:
        return False
    change.post(details.continued_key, letter)
    return True


_OUTCOMES = {
    Phase.COMPLETED: (EventType.CHILD_COMPLETED, StepState.COMPLETED),
    Phase.CANCELLED: (EventType.CHILD_CANCELLED, StepState.CANCELLED),
}


def _child_ended(change: Change, letter: Letter) -> None:
    step = change.step(letter.ordinal)
    if not isinstance(step, Step):
        return
    kind, state = _OUTCOMES.get(Phase(letter.phase), (EventType.CHILD_FAILED, StepState.FAILED))
    failure = letter.failure
    if failure is None and state != StepState.COMPLETED:
        failure = Failure(letter.reason or f"child ended: {Phase(letter.phase).name}", Phase(letter.phase).name)
    payload = letter.payload or NULL
    event = change.event(kind, ordinal=step.ordinal, payload=payload, failure=failure)
    change.end_step(step, state, event, payload=payload, failure=failure)
    endings.wake(change)
