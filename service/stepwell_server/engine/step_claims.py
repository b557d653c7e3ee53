"""Claims of driven steps: an owner alone, or an owner with a lease of its own that expires and has a token.

A claim stands on the step, which is recorded by it if it was not: PENDING, with no attempt. It ends with the step.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from stepwell_server.engine.driven import driven, held
from stepwell_server.engine.driven_steps import identity_of, new_step
from stepwell_server.engine.step_holders import unclaimed, with_details
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.runs import RunRef
from stepwell_server.model.steps import Kind, Step, unpack_step_details
from stepwell_server.model.tasks import Taken

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change


class StepClaim(msgspec.Struct, frozen=True, gc=False):
    """The answer to a claim. `token` is 0 and `expire_time` None for one without a lease."""

    claimed: bool
    token: int = 0
    expire_time: datetime | None = None


NOT_CLAIMED = StepClaim(claimed=False)


class ClaimStep(msgspec.Struct, frozen=True, gc=False):
    """Claims a step that nobody has. `now` is the caller's time, None for the service's."""

    ref: RunRef
    step_name: str
    owner_id: str
    lease_seconds: float | None
    now: datetime | None
    token: int

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> StepClaim:
        if change.run is None:
            return NOT_CLAIMED
        held(change, self.token)
        now, step = self.now or change.now, change.step_named(identity_of(self.step_name))
        if step is None:
            step = new_step(change, identity_of(self.step_name), 0)
            change.add_step(step)
        elif not isinstance(step, Step) or step.kind != Kind.LOCAL or not _is_free(step, now):
            return NOT_CLAIMED
        expire_time = None if self.lease_seconds is None else now + timedelta(seconds=self.lease_seconds)
        step = with_details(step, claim_time=now, claim_expire_time=expire_time)
        step = replace(step, owner_id=self.owner_id, grants=step.grants + 1)
        change.put_step(step)
        change.claim_dispatch(self.step_name)
        change.update(update_time=change.now)
        change.bump()
        change.news.claim(Taken(change.open, step, self.owner_id, step.attempt))
        return StepClaim(claimed=True, token=step.grants if expire_time is not None else 0, expire_time=expire_time)


def _is_free(step: Step, now: datetime) -> bool:
    if not step.owner_id:
        return True
    expire_time = unpack_step_details(step.details).claim_expire_time
    return expire_time is not None and expire_time <= now


class RenewStepClaim(msgspec.Struct, frozen=True, gc=False):
    """Prolongs a claim's lease, also an expired one while nobody else took the step."""

    ref: RunRef
    step_name: str
    owner_id: str
    claim_token: int
    lease_seconds: float
    now: datetime | None

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> StepClaim:
        step = _claimed(change, self.step_name, self.owner_id, self.claim_token)
        if step is None or unpack_step_details(step.details).claim_expire_time is None:
            return NOT_CLAIMED
        expire_time = (self.now or change.now) + timedelta(seconds=self.lease_seconds)
        change.put_step(with_details(step, claim_expire_time=expire_time))
        change.bump()
        return StepClaim(claimed=True, token=self.claim_token, expire_time=expire_time)


class ReleaseStepClaim(msgspec.Struct, frozen=True, gc=False):
    """Gives a claimed step back; an empty owner is whoever has it. Answers False if it was not that one's."""

    ref: RunRef
    step_name: str
    owner_id: str
    claim_token: int

    def wants(self) -> Missing:
        return Missing(identities=[identity_of(self.step_name)])

    def decide(self, change: Change) -> bool:
        step = _claimed(change, self.step_name, self.owner_id, self.claim_token)
        if step is None:
            return False
        change.put_step(unclaimed(step))
        change.bump()
        return True


def _claimed(change: Change, step_name: str, owner_id: str, claim_token: int) -> Step | None:
    """The step, if that owner has it under that token."""
    if change.run is None:
        return None
    driven(change)
    step = change.step_named(identity_of(step_name))
    if not isinstance(step, Step) or not step.owner_id or owner_id not in {"", step.owner_id}:
        return None
    is_leased = unpack_step_details(step.details).claim_expire_time is not None
    return step if claim_token == step.grants or not (is_leased or claim_token) else None
