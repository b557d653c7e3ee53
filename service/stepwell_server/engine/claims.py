"""Claiming driven runs: an owner alone, or an owner with a lease of its own that expires and has a token."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from stepwell_server.engine.driven import driven
from stepwell_server.model.runs import Phase, RunRef
from stepwell_server.model.tasks import Renewal, Taken

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.engine.wishes import Missing
    from stepwell_server.model.runs import Run


class RunClaim(msgspec.Struct, frozen=True, gc=False):
    """The answer to a claim. `token` is 0 and `expire_time` None for one without a lease."""

    run_id: UUID
    phase: int
    claimed: bool
    token: int = 0
    expire_time: datetime | None = None


class ClaimRun(msgspec.Struct, frozen=True, gc=False):
    """Claims a run that nobody holds. `now` is the caller's time, None for the service's."""

    ref: RunRef
    owner_id: str
    lease_seconds: float | None = None
    now: datetime | None = None

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> RunClaim:
        if change.run is None:
            return RunClaim(change.run_id, change.phase, claimed=False)
        run = driven(change)
        now = self.now or change.now
        if not _is_claimable(run, now):
            return RunClaim(run.run_id, run.phase, claimed=False)
        expire_time = None if self.lease_seconds is None else now + timedelta(seconds=self.lease_seconds)
        change.update(
            owner_id=self.owner_id,
            grants=run.grants + 1,
            lease_expire_time=expire_time,
            phase=Phase.RUNNING,
            update_time=change.now,
        )
        change.bump()
        change.news.claim(Taken(change.open, None, self.owner_id, change.open.grants))
        token = change.open.grants if expire_time is not None else 0
        return RunClaim(run.run_id, Phase.RUNNING, claimed=True, token=token, expire_time=expire_time)


def _is_claimable(run: Run, now: datetime) -> bool:
    if run.phase == Phase.SUSPENDED or run.pause_reason is not None:
        return False
    return not run.owner_id or (run.lease_expire_time is not None and run.lease_expire_time <= now)


class RenewRunLease(msgspec.Struct, frozen=True, gc=False):
    """Prolongs a lease, also an expired one while nobody else took the run. Answers the new end, or no claim."""

    ref: RunRef
    owner_id: str
    token: int
    lease_seconds: float
    now: datetime | None = None

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> RunClaim:
        claim = self._renew(change)
        known = change.run or change.closed_run
        if known is not None:
            change.news.renew(Renewal(known, self.owner_id, self.token, claim.claimed))
        return claim

    def _renew(self, change: Change) -> RunClaim:
        run = change.run
        if run is None or not _holds(run, self.owner_id, self.token) or run.lease_expire_time is None:
            return RunClaim(change.run_id, change.phase, claimed=False)
        if run.phase != Phase.RUNNING:
            return RunClaim(run.run_id, run.phase, claimed=False)
        expire_time = (self.now or change.now) + timedelta(seconds=self.lease_seconds)
        change.update(lease_expire_time=expire_time)
        change.bump()
        return RunClaim(run.run_id, run.phase, claimed=True, token=self.token, expire_time=expire_time)


class ReleaseRun(msgspec.Struct, frozen=True, gc=False):
    """Gives a claimed run back. Answers False if the owner did not hold it."""

    ref: RunRef
    owner_id: str
    token: int

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> bool:
        run = change.run
        if run is None or not _holds(run, self.owner_id, self.token):
            return False
        change.update(owner_id="", lease_expire_time=None)
        change.bump()
        return True


def _holds(run: Run, owner_id: str, token: int) -> bool:
    """Whether the owner holds the run: under this token, if the claim had a lease."""
    if not run.driven or run.owner_id != owner_id:
        return False
    return token == run.grants if run.lease_expire_time is not None or token else True
