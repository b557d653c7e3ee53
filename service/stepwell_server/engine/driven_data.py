"""Changing the data of driven runs, by itself or together with how they are."""

from __future__ import annotations

from uuid import UUID

import msgspec

from stepwell_server.engine import run_data
from stepwell_server.engine.change import Change
from stepwell_server.engine.driven import held
from stepwell_server.engine.driven_runs import set_phase
from stepwell_server.engine.run_data import DataChange
from stepwell_server.engine.runs import clear_pause, pause
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.driven import RunDatum
from stepwell_server.model.events import EventType
from stepwell_server.model.payloads import Failure, Payload
from stepwell_server.model.runs import TERMINAL, Phase, RunRef


class DataAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer to a change of data: the run, its phase, and the version of its data."""

    run_id: UUID
    phase: int
    version: int


class SetRunData(msgspec.Struct, frozen=True, gc=False):
    """Changes named payloads, all or none, if the version is still the one that is expected."""

    ref: RunRef
    changes: tuple[DataChange, ...]
    expected: int | None
    token: int

    def wants(self) -> Missing:
        return Missing(sides=_touched(self.changes))

    def decide(self, change: Change) -> DataAnswer:
        run = held(change, self.token)
        version = run_data.apply(change, self.changes, self.expected)
        return DataAnswer(run.run_id, run.phase, version)


class UpdateDrivenRun(msgspec.Struct, frozen=True, gc=False):
    """Changes phase, pause and data together. `phase` 0 leaves it, as `pause_reason` None does; '' ends the pause."""

    ref: RunRef
    phase: int
    payload: Payload
    failure: Failure | None
    pause_reason: str | None
    changes: tuple[DataChange, ...]
    expected: int | None
    token: int

    def wants(self) -> Missing:
        return Missing(sides=_touched(self.changes), open_steps=self.phase in TERMINAL)

    def decide(self, change: Change) -> DataAnswer:
        run = held(change, self.token)
        version = run_data.apply(change, self.changes, self.expected)
        if self.pause_reason is not None and run.pause_reason is not None and run.pause_reason != self.pause_reason:
            change.news.notice(change.event(EventType.RUN_RESUMED))
            clear_pause(change)
        if self.phase and self.phase != run.phase:
            set_phase(change, Phase(self.phase), self.payload, self.failure)
        if self.pause_reason and change.is_open and change.open.pause_reason is None:
            pause(change, self.pause_reason, "")
        return DataAnswer(run.run_id, change.phase, version)


def _touched(changes: tuple[DataChange, ...]) -> list[tuple[type[RunDatum], str]]:
    return [(RunDatum, each.name) for each in changes]
