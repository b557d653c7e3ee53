"""Signalling the open run of a workflow id, which is started if there is none: both or neither."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from stepwell_server.engine.change import Change
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.signals import SignalRun
from stepwell_server.engine.starts import Conflict, Started, StartRun
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.payloads import Payload
from stepwell_server.model.runs import Phase, RunRef

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.engine.names import Births


class SignalledWithStart(msgspec.Struct, frozen=True, gc=False):
    """The answer: the run that got the signal, and whether this call started it."""

    run_id: UUID
    started: bool


class SignalWithStartRun(msgspec.Struct, frozen=True, gc=False):
    """Signals the open run of the start's workflow id, else starts one by its policies and signals that.

    A start that replaces what is open signals the new run. A repeat by the start's own id finds the run that has ended,
    and nothing is signalled.
    """

    start: StartRun
    name: str
    payload: Payload
    signal_id: str | None = None

    def open_key(self, births: Births) -> int | None:
        """The open run of that workflow id, or None: it is loaded and locked before this is decided."""
        latest = births.named(self.start.new.namespace_id, self.start.new.workflow_id)
        return latest.key if latest is not None and latest.phase < Phase.COMPLETED else None

    def wants(self) -> Missing:
        """What of the open run the decision surely needs."""
        return self.start.wants() if self._replaces else self._signal(0).wants()

    def decide(self, births: Births, now: datetime, limits: Limits) -> SignalledWithStart:
        """Refuses as a start or a signal does."""
        key = self.open_key(births)
        if key is not None and not self._replaces:
            return SignalledWithStart(self._signal_run(births.changes[key]), started=False)
        started: Started = self.start.decide(births, now, limits)
        if started.started:
            self._signal_run(births.changes[started.run_key])
        return SignalledWithStart(started.run_id, started=started.started)

    @property
    def _replaces(self) -> bool:
        return self.start.conflict == Conflict.TERMINATE_EXISTING

    def _signal_run(self, change: Change) -> UUID:
        return self._signal(change.run_key).decide(change).run_id

    def _signal(self, run_key: int) -> SignalRun:
        new = self.start.new
        return SignalRun(RunRef(new.namespace_id, new.namespace, run_key), self.name, self.payload, self.signal_id)
