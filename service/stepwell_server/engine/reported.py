"""What the code of a run says of itself: the steps that it made, where it stands in each branch, its end."""

from __future__ import annotations

import msgspec

from stepwell_server.engine.activities import NewActivity
from stepwell_server.model.concurrency import Concurrency
from stepwell_server.model.order import MadeCall
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.search_attributes import AttributeValue
from stepwell_server.model.steps import RetryPolicy
from stepwell_server.model.user_tasks import TaskSpec


class NewTimer(msgspec.Struct, frozen=True, gc=False):
    """A timer to set."""

    seconds: float


class NewWait(msgspec.Struct, frozen=True, gc=False):
    """A wait for a signal."""

    signal: str
    timeout_seconds: float | None = None


class NewTopicWait(msgspec.Struct, frozen=True, gc=False):
    """A wait for an event of a topic."""

    topic: str
    timeout_seconds: float | None = None


class NewChild(msgspec.Struct, frozen=True, gc=False):
    """A child to start. `reuse` and `conflict` are those of `starts`."""

    type: str
    task_queue: str = ""
    workflow_id: str = ""
    input: Payload = NULL
    close_policy: int = 1
    timeout_seconds: float | None = None
    retry: RetryPolicy | None = None
    concurrency: Concurrency | None = None
    reuse: int = 1
    conflict: int = 1


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """A checkpoint that is done, or a fact (a marker)."""

    payload: Payload
    failure: Failure | None = None


class AcceptedUpdate(msgspec.Struct, frozen=True, gc=False):
    """An update that the code accepts. `place` is its worker's business: where a replay begins it."""

    name: str
    input: Payload = NULL
    place: int = 0


class UpdateOutcome(msgspec.Struct, frozen=True, gc=False):
    """What an accepted update came to."""

    payload: Payload = NULL
    failure: Failure | None = None


class WonRace(msgspec.Struct, frozen=True, gc=False):
    """Which branch won a race: its number."""

    winner: int


class SetAttributes(msgspec.Struct, frozen=True, gc=False):
    """Search attributes that the code gives its run; one that is absent takes its name away."""

    patch: dict[str, AttributeValue]


class NewUserTask(msgspec.Struct, frozen=True, gc=False):
    """A task for a person, due after a time if that is given."""

    spec: TaskSpec = TaskSpec()
    input: Payload = NULL
    due_seconds: float | None = None
    timeout_seconds: float | None = None


Body = (
    Checkpoint
    | NewActivity
    | NewTimer
    | NewWait
    | NewTopicWait
    | NewChild
    | NewUserTask
    | AcceptedUpdate
    | UpdateOutcome
    | WonRace
    | SetAttributes
)


class NewStep(msgspec.Struct, frozen=True, gc=False):
    """A step that the code says is not recorded yet."""

    scope: str
    name: str
    occurrence: int
    key: str
    fingerprint: bytes
    kind: int
    body: Body


class ScopeClaim(msgspec.Struct, frozen=True, gc=False):
    """Where the code says it stands in a branch, before this progress's new steps.

    Where its worker saw that the code makes other calls than are recorded, `place` is how many agree before the first
    that does not, and `made` are the code's calls from there on, to be shown to people. Then the code has changed,
    whatever the counts say.
    """

    scope: str
    count: int
    hash: bytes
    closed: bool
    place: int | None = None
    made: tuple[MadeCall, ...] = ()


class Result(msgspec.Struct, frozen=True, gc=False):
    """What an activity came to under one grant: its ordinal, and the grant's token."""

    ordinal: int
    token: int


class Successor(msgspec.Struct, frozen=True, gc=False):
    """The run that goes on with the work."""

    input: Payload
    type: str = ""
    task_queue: str = ""


class End(msgspec.Struct, frozen=True, gc=False):
    """The end of the run, as its code says."""

    phase: int
    payload: Payload = NULL
    failure: Failure | None = None
    successor: Successor | None = None


def identity(step: NewStep) -> tuple[str, str, int, str]:
    return (step.scope, step.name, step.occurrence, step.key)
