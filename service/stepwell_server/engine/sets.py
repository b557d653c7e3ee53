"""Commands that are given together: all of them are decided and written, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from stepwell_server import errors
from stepwell_server.engine.change import Change
from stepwell_server.engine.commands import Command

if TYPE_CHECKING:
    from stepwell_server.engine.wishes import Missing
    from stepwell_server.model.jobs import JobRef
    from stepwell_server.model.runs import RunRef


class Expecting(msgspec.Struct, frozen=True, gc=False):
    """A command for a run that nobody has changed since its caller looked at it.

    What counts is the version before the batch: what is given together with it does not disturb it.
    """

    command: Command
    version: int

    @property
    def ref(self) -> RunRef | JobRef:
        """The command's own."""
        return self.command.ref

    def wants(self) -> Missing | None:
        return self.command.wants()

    def decide(self, change: Change) -> object:
        """Refuses with RUN_VERSION_CHANGED."""
        current = change.stored_version
        if current != self.version:
            raise errors.RunVersionChanged(run_id=change.run_id, expected=self.version, current=current)
        return self.command.decide(change)
