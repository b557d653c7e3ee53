"""A connected worker: what it can take on, what it holds, and its outbox.

A session outlives its stream: when the stream breaks, what the worker had acknowledged stays its own until the session
expires or is resumed, on this replica or another. Each stream has a `WorkerSession` of its own, so that what was under
way for an old stream is never counted against a new one.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from stepwell_server.dispatch.outbox import Outbox
from stepwell_server.model.tasks import WORKERS_KINDS

if TYPE_CHECKING:
    from uuid import UUID

    from stepwell_server.dispatch.messages import AdvanceRun
    from stepwell_server.model.workers import Hello, Sort

TaskKey = tuple[int, int]  # the run's or job's key and the step's ordinal, 0 for the run itself, JOB_ORDINAL for a job
Slot = tuple[int, str]  # kind and queue; queue "" stands for all queues together


class Room(msgspec.Struct, gc=False):
    """Capacity of one kind and queue, in absolute numbers."""

    most: int
    most_resident: int
    outstanding: int = 0
    resident: int = 0
    coming: int = 0  # how many of the outstanding are places for tasks that are on their way, or not even found

    @property
    def taken(self) -> int:
        """How many tasks of it the worker has."""
        return self.outstanding - self.coming


class Held(msgspec.Struct, gc=False):
    """A task that the session holds."""

    token: int
    kind: int
    queue: str
    room: Room | None = None  # where it is counted
    assigned_at: float = 0.0
    assigned: bool = False
    acknowledged: bool = False
    waiting: bool = False  # a resident run that takes no slot
    keeping: bool = False  # a place in memory is kept for it, should it wait
    told_event: int = 0  # up to which of the run's events its worker was told
    advances: int = 0  # how often news of it was pushed
    catching_up: bool = False  # what was missed is being read
    missed: bool = False  # and more was missed meanwhile
    is_to_stop: bool = False  # it was asked to stop before this stream took it over
    cancelled: bool = False  # its worker was told to stop
    faults: int = 0  # of the service's own, for which its reports were refused


class WorkerSession:
    """See the module."""

    def __init__(self, session_id: UUID, namespace_id: int, namespace: str, hello: Hello, outbox: Outbox) -> None:
        self.session_id = session_id
        self.namespace_id = namespace_id
        self.namespace = namespace
        self.hello = hello
        self.outbox = outbox
        self.attached = True
        self.draining = False
        self.is_mute = False  # it let an assignment lie, and has said nothing since
        self.is_superseded = False  # another stream carries the session now
        self.lost = False
        self.rooms: dict[Slot, Room] = {}
        self.reserved: Counter[Slot] = Counter()  # places of tasks that are on their way, by kind and own queue
        self.coming = 0  # and all of them
        self.held: dict[TaskKey, Held] = {}
        self.unassigned = 0  # how many of them have not reached the outbox
        self.resumed: dict[TaskKey, Held] = {}  # what an earlier stream held, until it is taken over
        self.advances: dict[TaskKey, list[AdvanceRun]] = {}  # news of waiting runs for which there is no slot yet
        self.early: dict[TaskKey, list[AdvanceRun]] = {}  # news of runs whose assignment is not out yet
        self.takes: dict[int, frozenset[Sort]] = {kind: hello.takes(kind) for kind in WORKERS_KINDS}
        self.beaten_at = time.monotonic()
        self.stays_until = 0.0  # when it is asked to move, or, if it was, to stay after all; 0: not known yet
        self.is_sent_away = False
        self.heard_at = time.monotonic()
        self.heard_since_beat = True
        self.detached_at = 0.0

    def heard(self) -> bool:
        """Notes a sign of life; True if the worker had been mute."""
        self.heard_at = time.monotonic()
        self.heard_since_beat = True
        was_mute, self.is_mute = self.is_mute, False
        return was_mute

    @property
    def is_open(self) -> bool:
        """Whether what is put into the outbox reaches the worker."""
        return self.attached and not self.outbox.closed

    @property
    def may_have_moved(self) -> bool:
        """Whether its worker, if it closes the stream, may go on elsewhere, of which no hint has come yet."""
        return self.outbox.has_rotated and bool(self.held)

    def holds(self, key: TaskKey, token: int) -> Held | None:
        """The task, if it is held under that token."""
        held = self.held.get(key)
        return held if held is not None and held.token == token else None

    # --- capacity ---------------------------------------------------------------------------------------------------

    def room(self, kind: int, queue: str) -> Room:
        """Which capacity a task of that kind and queue takes from; one without places if none was stated."""
        found = self.rooms.get((kind, queue)) or self.rooms.get((kind, ""))
        return found if found is not None else self.rooms.setdefault((kind, queue), Room(0, 0))

    def free(self, kind: int, queue: str) -> int:
        """How many more tasks of that kind and queue it takes."""
        if self.draining or self.is_mute or not self.is_open or queue not in self.hello.task_queues:
            return 0
        room = self.room(kind, queue)
        # A worker that reads slowly gets what it can read, not what it could do.
        spare = self.outbox.spare - self.unassigned - self.coming
        return max(0, min(room.most - room.outstanding, spare))

    def set_rooms(self, rooms: dict[Slot, Room]) -> None:
        """States the capacity anew; what is held, or on its way, is counted where it now belongs."""
        self.rooms = rooms
        for (kind, queue), count in self.reserved.items():
            self._reserve(kind, queue, count)
        for held in self.held.values():
            held.room = self.room(held.kind, held.queue)
            self._count(held, 1)

    def occupy(self, kind: int, queue: str, count: int = 1) -> None:
        """Takes places, for tasks that are on their way."""
        self.reserved[kind, queue] += count
        self.coming += count
        self._reserve(kind, queue, count)

    def vacate(self, kind: int, queue: str, count: int = 1) -> None:
        """Gives them back."""
        self.reserved[kind, queue] -= count
        self.coming -= count
        self._reserve(kind, queue, -count)

    def _reserve(self, kind: int, queue: str, by: int) -> None:
        room = self.room(kind, queue)
        room.outstanding += by
        room.coming += by

    def _count(self, held: Held, by: int) -> None:
        room = held.room or self.room(held.kind, held.queue)
        if held.waiting:
            room.resident += by
        else:
            room.outstanding += by
        if held.keeping:
            room.resident += by

    # --- tasks ------------------------------------------------------------------------------------------------------

    def take(self, key: TaskKey, held: Held) -> None:
        """Holds a task; whatever was held of it before is gone."""
        if key in self.held:
            self.drop(key)
        self.held[key] = held
        held.room = self.room(held.kind, held.queue)
        self.unassigned += not held.assigned
        self._count(held, 1)

    def assigned(self, held: Held) -> None:
        """A task goes out to the worker, who is to acknowledge it in time."""
        held.assigned_at, held.assigned = time.monotonic(), True
        self.unassigned -= 1

    def drop(self, key: TaskKey) -> None:
        """Holds a task no longer, and gives its place back."""
        held = self.held.pop(key, None)
        self.advances.pop(key, None)
        self.early.pop(key, None)
        if held is not None:
            self.unassigned -= not held.assigned
            self._count(held, -1)

    def drop_all(self) -> None:
        """Holds nothing any more."""
        for key in list(self.held):
            self.drop(key)

    def _change(self, held: Held, *, waiting: bool, keeping: bool = False) -> None:
        self._count(held, -1)
        held.waiting, held.keeping = waiting, keeping
        self._count(held, 1)

    def may_keep(self, key: TaskKey, token: int) -> bool:
        """Keeps a place in the worker's memory for a run that is about to wait; False if there is none."""
        held = self.holds(key, token)
        if held is None:
            return False
        if held.waiting or held.keeping:
            return True
        room = self.room(held.kind, held.queue)
        if room.resident >= room.most_resident:
            return False
        self._change(held, waiting=False, keeping=True)
        return True

    def wait(self, key: TaskKey, token: int) -> None:
        """A run that waits goes on living in the worker's memory, and takes no slot."""
        held = self.holds(key, token)
        if held is not None:
            self._change(held, waiting=True)

    def go_on(self, key: TaskKey, token: int) -> None:
        """A run does not wait after all: no place in memory is kept for it."""
        held = self.holds(key, token)
        if held is not None and held.keeping:
            self._change(held, waiting=False)

    def wake(self, key: TaskKey) -> bool:
        """A waiting run is to go on: takes a slot. False if there is none."""
        held = self.held.get(key)
        if held is None or not held.waiting:
            return True
        room = self.room(held.kind, held.queue)
        if room.outstanding >= room.most:
            return False
        self._change(held, waiting=False)
        return True

    def run_on(self, key: TaskKey, token: int) -> None:
        """A run's code has gone on: it takes a slot, free or not, until it waits again."""
        held = self.holds(key, token)
        if held is not None and held.waiting:
            self._change(held, waiting=False)
