"""What a change means for connected workers, and for those who watch."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from stepwell_server.model.run_calls import Rejection
    from stepwell_server.model.steps import EndedStep
    from stepwell_server.model.tasks import AnyGrant, Renewal, Taken, Task

Told = tuple[UUID, int, int, str]  # session, ordinal, token, reason
Mark = tuple[bool, list[int]]


class News:
    """See the module; handed on once it is committed. Most of it is empty most of the time: then no list is made."""

    __slots__ = (
        "_is_blank",
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
        self.follows = ""  # the trace of the run with whose work this one goes on
        self._clear()

    def _clear(self) -> None:
        self._is_blank = True
        self.grants: Sequence[AnyGrant] = ()  # that go straight to a worker
        self.claims: Sequence[AnyGrant | Taken] = ()  # all that was given out
        self.renewals: Sequence[Renewal] = ()
        self.ended: Sequence[EndedStep] = ()
        self.cancels: Sequence[Told] = ()
        self.revokes: Sequence[Told] = ()
        self.tasks: Sequence[Task] = ()
        self.updates: Sequence[str] = ()  # ids of those that were accepted, or came to something
        self.rejections: Sequence[Rejection] = ()
        self.notices: Sequence[int] = ()  # events of a run, besides its start and its end, of which watches tell
        self.run_cancel = False

    # --- telling ----------------------------------------------------------------------------------------------------

    def give(self, grant: AnyGrant) -> None:
        """A task goes straight to a worker."""
        self._add("grants", grant)
        self._add("claims", grant)

    def claim(self, taken: Taken) -> None:
        """Something was given to who asked for it."""
        self._add("claims", taken)

    def renew(self, renewal: Renewal) -> None:
        """Somebody keeps what it holds."""
        self._add("renewals", renewal)

    def end(self, step: EndedStep) -> None:
        """A step has ended."""
        self._add("ended", step)

    def cancel(self, session_id: UUID, ordinal: int, token: int, reason: str) -> None:
        """A worker is asked to stop an activity."""
        self._add("cancels", (session_id, ordinal, token, reason))

    def revoke(self, session_id: UUID, ordinal: int, token: int, reason: str) -> None:
        """A worker has lost what it held."""
        self._add("revokes", (session_id, ordinal, token, reason))

    def offer(self, task: Task) -> None:
        """A task waits in its queue."""
        self._add("tasks", task)

    def update(self, update_id: str) -> None:
        """An update was accepted, or came to something."""
        self._add("updates", update_id)

    def reject(self, rejections: Iterable[Rejection]) -> None:
        """Updates were rejected."""
        for rejection in rejections:
            self._add("rejections", rejection)

    def notice(self, event: int) -> None:
        """An event of which watches tell."""
        self._add("notices", event)

    def _add(self, name: str, value: Any) -> None:  # noqa: ANN401 - of the list's type
        kept = getattr(self, name)
        if kept:
            kept.append(value)
        else:
            setattr(self, name, [value])
            self._is_blank = False

    # --- taking back ------------------------------------------------------------------------------------------------

    def withhold(self, grant: AnyGrant) -> None:
        """The grant is its claimer's answer, and is not sent to it as well."""
        self.grants = [each for each in self.grants if each is not grant]

    def keep_ended(self, count: int) -> list[EndedStep]:
        """Keeps so many of the steps that have ended; answers the others, which somebody is told otherwise."""
        others = [*self.ended[count:]]
        if others:
            self.ended = self.ended[:count]
        return others

    def mark(self) -> Mark | None:
        """How much there is, for `undo`; None if there is nothing."""
        if self._is_blank and not self.run_cancel:
            return None
        return self.run_cancel, [*map(len, _lists_of(self))]

    def undo(self, mark: Mark | None) -> None:
        """Takes back all since the mark."""
        if mark is None:
            self._clear()
            return
        self.run_cancel, lengths = mark
        for name, length in zip(_LISTS, lengths, strict=True):
            setattr(self, name, getattr(self, name)[:length])


_LISTS = (
    "grants",
    "claims",
    "renewals",
    "ended",
    "cancels",
    "revokes",
    "tasks",
    "updates",
    "rejections",
    "notices",
)
_lists_of = attrgetter(*_LISTS)
