"""What a change means for connected workers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from stepwell_server.model.steps import EndedStep
    from stepwell_server.model.tasks import Grant, Task


class News:
    """What a change means for connected workers; handed on once it is committed."""

    __slots__ = ("cancels", "ended", "grants", "revokes", "run_cancel", "tasks")

    def __init__(self) -> None:
        self.grants: list[Grant] = []
        self.ended: list[EndedStep] = []
        self.cancels: list[tuple[UUID, int, int, str]] = []  # session, ordinal, token, reason
        self.revokes: list[tuple[UUID, int, int, str]] = []
        self.tasks: list[Task] = []
        self.run_cancel = False
