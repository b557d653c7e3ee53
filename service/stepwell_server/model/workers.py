"""Workers and their sessions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from stepwell_server.model import filters
from stepwell_server.model.tasks import TaskKind

Sort = tuple[str, str]
"""What must fit for a worker to take a task: its type, and the build that its run is pinned to, empty for none."""


class Hello(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a worker said of itself."""

    worker_id: str
    task_queues: tuple[str, ...] = ()
    workflow_types: tuple[str, ...] = ()
    activity_types: tuple[str, ...] = ()
    build_id: str = ""
    identity: str = ""
    sdk: str = ""
    is_unary: bool = False
    compatible_build_ids: tuple[str, ...] = ()

    @property
    def builds(self) -> tuple[str, ...]:
        """The builds whose runs it takes besides those that are pinned to none: its own, and those before it."""
        return tuple(dict.fromkeys(each for each in (self.build_id, *self.compatible_build_ids) if each))

    def types(self, kind: int) -> tuple[str, ...]:
        """What it can do of a kind."""
        return self.workflow_types if kind == TaskKind.RUN else self.activity_types

    def takes(self, kind: int) -> frozenset[Sort]:
        """The sorts of tasks that it takes of a kind. Activities are of no build."""
        builds = ("", *self.builds) if kind == TaskKind.RUN else ("",)
        return frozenset((each, build) for each in self.types(kind) for build in builds)


class Crew(msgspec.Struct, frozen=True):
    """The live workers of a namespace, at a moment: of each its session and its hello."""

    workers: dict[UUID, Hello]

    @property
    def task_queues(self) -> set[str]:
        """The queues that they take from."""
        return {queue for hello in self.workers.values() for queue in hello.task_queues}

    def of(self, task_queue: str) -> list[Hello]:
        """Those who take from a queue."""
        return [hello for hello in self.workers.values() if task_queue in hello.task_queues]


def able(workers: list[Hello], kind: int, type_name: str, build_id: str = "") -> int:
    """How many of the workers take such tasks; `build_id` is that of the run, empty for none."""
    return sum(
        type_name in hello.types(kind) and (not build_id or kind != TaskKind.RUN or build_id in hello.builds)
        for hello in workers
    )


class Session(msgspec.Struct, frozen=True, gc=False):
    """A row of `sessions`. What stands behind `expire_time` is of the hello, for lists.

    `owner` is who opened it, as `Caller.owner` says; None where nobody was asked who he is.
    """

    session_id: UUID
    namespace_id: int
    worker_id: str
    register_time: datetime
    hello: bytes
    expire_time: datetime
    task_queues: Sequence[str] = ()
    workflow_types: Sequence[str] = ()
    activity_types: Sequence[str] = ()
    build_id: str = ""
    identity: str = ""
    owner: str | None = None


LISTED: filters.Fields = {
    "worker_id": filters.SORTED_TEXT,
    "session_id": filters.ID,
    "task_queues": filters.TEXTS,
    "workflow_types": filters.TEXTS,
    "activity_types": filters.TEXTS,
    "build_id": filters.SORTED_TEXT,
    "identity": filters.TEXT,
    "register_time": filters.SORTED_TIME,
    "expire_time": filters.SORTED_TIME,
}
"""By what workers are filtered and sorted."""


class RegisteredWorker(msgspec.Struct, frozen=True, gc=False):
    """A row of `workers`: a worker of an outside engine."""

    worker_id: str
    namespace_id: int
    identity: str
    task_queue: str
    workflow_types: Sequence[str]
    activity_types: Sequence[str]
    max_concurrent_workflows: int
    max_concurrent_activities: int
    active_tasks: int
    register_time: datetime
    heartbeat_time: datetime
    condemned: bool = False


LISTED_REGISTERED: filters.Fields = {
    "worker_id": filters.SORTED_TEXT,
    "identity": filters.TEXT,
    "task_queue": filters.SORTED_TEXT,
    "workflow_types": filters.TEXTS,
    "activity_types": filters.TEXTS,
    "active_tasks": filters.SORTED_NUMBER,
    "register_time": filters.SORTED_TIME,
    "heartbeat_time": filters.SORTED_TIME,
}
"""By what registered workers are filtered and sorted."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Hello)


def pack_hello(hello: Hello) -> bytes:
    """A hello as a column."""
    return _encoder.encode(hello)


def unpack_hello(packed: bytes) -> Hello:
    """The inverse of `pack_hello`."""
    return _decoder.decode(packed)


def listed_of(hello: Hello) -> tuple[Sequence[str], Sequence[str], Sequence[str], str, str]:
    """What of a hello has columns of its own."""
    return hello.task_queues, hello.workflow_types, hello.activity_types, hello.build_id, hello.identity
