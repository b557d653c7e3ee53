"""What a change means for connected workers, and for those who watch."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from stepwell_server.model.run_calls import Rejection
    from stepwell_server.model.steps import EndedStep
    from stepwell_server.model.tasks import AnyGrant, Renewal, Taken, Task


class News:
    """See the module; handed on once it is committed."""

    __slots__ = (
        "cancels",
        "claims",
        "ended",
        "follows",
        "grants",
        "notices",
        "rejections",
        "renewals",
        "revokes",
        "run_cancel",
        "tasks",
        "updates",
    )

    def __init__(self) -> None:
        self.grants: list[AnyGrant] = []  # that go straight to a worker
        self.claims: list[AnyGrant | Taken] = []  # all that was given out
        self.renewals: list[Renewal] = []
        self.follows = ""  # the trace of the run with whose work this one goes on
        self.ended: list[EndedStep] = []
        self.cancels: list[tuple[UUID, int, int, str]] = []  # session, ordinal, token, reason
        self.revokes: list[tuple[UUID, int, int, str]] = []
        self.tasks: list[Task] = []
        self.updates: list[str] = []  # ids of those that were accepted, or came to something
        self.rejections: list[Rejection] = []
        self.notices: list[int] = []  # events of a run, besides its start and its end, of which watches tell
        self.run_cancel = False
