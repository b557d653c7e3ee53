"""Which build a run belongs to: the one whose code last recorded something of it, or the one that an operator names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stepwell_server import errors
from stepwell_server.engine import endings
from stepwell_server.model.events import EventType
from stepwell_server.model.runs import RunRef

if TYPE_CHECKING:
    from stepwell_server.engine.change import Change
    from stepwell_server.engine.wishes import Missing


class Pinned(msgspec.Struct, frozen=True, gc=False):
    """The answer to a pin: whether it changed anything, and the build before."""

    accepted: bool
    previous_build_id: str


class PinRun(msgspec.Struct, frozen=True, gc=False):
    """Pins a run to a build, or to none. Its holder loses it: its next report would pin it back."""

    ref: RunRef
    build_id: str

    def wants(self) -> Missing | None:
        return None

    def decide(self, change: Change) -> Pinned:
        run = change.open
        if run.driven:
            raise errors.RunDriven(run_id=run.run_id)
        if run.build_id == self.build_id:
            return Pinned(accepted=False, previous_build_id=run.build_id)
        is_wanted = run.queued or run.session_id is not None
        if run.session_id is not None:
            change.news.revoke(run.session_id, 0, run.grants, "RUN_PINNED")
        if run.queued:
            # The task says for which build it waits.
            change.drop_task(0)
        _pin(change, self.build_id)
        change.update(session_id=None, owner_id="", queued=False)
        if is_wanted:
            endings.enqueue_run(change)
        return Pinned(accepted=True, previous_build_id=run.build_id)


def recorded_by(change: Change, build_id: str) -> None:
    """A worker's code is recording something: from here on the run belongs to its build, if it has one."""
    run = change.open
    if not build_id or build_id == run.build_id:
        return
    if run.build_id:
        _pin(change, build_id)
    else:
        change.update(build_id=build_id)


def _pin(change: Change, build_id: str) -> None:
    change.event(EventType.RUN_PINNED, facts={"build_id": build_id, "previous_build_id": change.open.build_id})
    change.update(build_id=build_id)
