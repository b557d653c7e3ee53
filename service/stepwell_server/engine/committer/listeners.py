"""Several listeners as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stepwell_server.engine.committer.protocols import AnyChange, Listener


class Listeners:
    """Tells each of `members` in their order."""

    def __init__(self) -> None:
        self.members: Sequence[Listener] = ()

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        """After each commit."""
        for member in self.members:
            member.committed(committer, position, changes)

    def unsettled(self) -> None:
        """The outcome of a batch stays unknown."""
        for member in self.members:
            member.unsettled()
