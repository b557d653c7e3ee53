"""What decisions about activities ask of what they change: a run with its steps, or a job.

Grants, returns, ends, retries, timeouts and heartbeats are decided once, over these verbs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from stepwell_server.model.payloads import NULL, Failure, Payload

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from stepwell_server import errors
    from stepwell_server.engine.limits import Limits
    from stepwell_server.engine.news import News
    from stepwell_server.model.events import EventType
    from stepwell_server.model.jobs import Activity, EndedActivity
    from stepwell_server.model.steps import StepState
    from stepwell_server.model.tasks import AnyGrant


class ActivityChange(Protocol):
    """See the module. An activity comes from `step`, and goes back to the same change that it came from."""

    now: datetime
    news: News
    limits: Limits

    @property
    def is_open(self) -> bool:
        """Whether the run or the job is open."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether more may be recorded than what is needed to end."""
        ...

    def step(self, ordinal: int) -> Activity | EndedActivity | None:
        """The activity of that ordinal, open or ended, or None. Asks for it if it is not loaded."""
        ...

    def put_step(self, step: Any) -> None:  # noqa: ANN401 - an Activity of its own
        """Changes an open activity."""
        ...

    def end_step(
        self,
        step: Any,  # noqa: ANN401 - likewise
        state: StepState,
        event: int,
        *,
        payload: Payload = NULL,
        failure: Failure | None = None,
    ) -> object:
        """Moves an open activity among the ended ones."""
        ...

    def event(
        self,
        kind: EventType,
        *,
        ordinal: int = 0,
        payload: Payload = NULL,
        failure: Failure | None = None,
        facts: dict[str, str] | None = None,
    ) -> int:
        """Appends to the history, where there is one, and answers the event's number."""
        ...

    def bump(self) -> None:
        """Notes a change that history does not mention."""
        ...

    def wake(self) -> None:
        """Lets the code hear that waits for the activity, where there is any."""
        ...

    def enqueue_step(self, step: Any) -> None:  # noqa: ANN401 - likewise
        """Puts an activity's task into its queue, ready now."""
        ...

    def drop_task(self, ordinal: int) -> None:
        """Takes a task out of its queue, if it is in it."""
        ...

    def heartbeat(self, ordinal: int) -> tuple[datetime, Payload] | None:
        """When the activity last sent details, and which. Asks for it if it is not loaded."""
        ...

    def give(self, step: Any, session_id: UUID, ready_time: datetime | None) -> AnyGrant:  # noqa: ANN401 - likewise
        """The activity as it is given to a session, told to whoever connects workers.

        `ready_time` is since when it waited in its queue; None if it did not.
        """
        ...

    def lost(self, token: int, current: int) -> errors.LeaseLost:
        """The refusal of one who does not hold it under that token."""
        ...
