"""A connected worker: what it can take on, what it holds, and its outbox.

A session outlives its stream: when the stream breaks, what the worker had acknowledged stays its own until the session
expires or is resumed, on this replica or another.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from stepwell_server.dispatch.outbox import Outbox
from stepwell_server.model.tasks import TaskKind

if TYPE_CHECKING:
    from uuid import UUID

    from stepwell_server.dispatch.messages import AdvanceRun, TaskNotice
    from stepwell_server.model.workers import Hello

TaskKey = tuple[int, int]  # the run's key and the step's ordinal, 0 for the run itself
Slot = tuple[int, str]  # kind and queue; queue "" stands for all queues together


class Held(msgspec.Struct, gc=False):
    """A task that the session holds."""

    token: int
    slot: Slot
    assigned_at: float
    assigned: bool = False
    acknowledged: bool = False
    waiting: bool = False  # a resident run that takes no slot
    seen_event: int = 0  # the run's last event when its worker was last told
    told_event: int = 0  # the last end that a catch-up has told
    traceparent: str = ""
    run_id: str = ""
    step: str = ""
    attempt: int = 0


class Room(msgspec.Struct, gc=False):
    """Capacity of one kind and queue, in absolute numbers."""

    most: int
    most_resident: int
    outstanding: int = 0
    resident: int = 0


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
        self.rooms: dict[Slot, Room] = {}
        self.held: dict[TaskKey, Held] = {}
        self.advances: dict[TaskKey, list[AdvanceRun]] = {}  # news of waiting runs for which there is no slot yet
        self.early_cancels: dict[TaskKey, list[TaskNotice]] = {}
        self.unclaimed: set[tuple[TaskKey, int]] = set()  # leases in the database that memory lacked at the last look
        self.early: dict[TaskKey, list[AdvanceRun]] = {}  # news of runs whose assignment is not out yet
        self.lost = False
        self.beaten_at = time.monotonic()
        self.type_sets = {
            TaskKind.RUN: frozenset(hello.workflow_types),
            TaskKind.ACTIVITY: frozenset(hello.activity_types),
        }
        self.heard_at = time.monotonic()
        self.heard_since_beat = True
        self.detached_at = 0.0

    def heard(self) -> None:
        """Notes a sign of life."""
        self.heard_at = time.monotonic()
        self.heard_since_beat = True

    def types(self, kind: int) -> tuple[str, ...]:
        """What it can do of a kind."""
        return self.hello.workflow_types if kind == TaskKind.RUN else self.hello.activity_types

    def slot_for(self, kind: int, queue: str) -> Slot | None:
        """Which capacity a task of that kind and queue takes from."""
        own = (kind, queue)
        if own in self.rooms:
            return own
        shared = (kind, "")
        return shared if shared in self.rooms else None

    def free(self, kind: int, queue: str) -> int:
        """How many more tasks of that kind and queue it takes."""
        if self.draining or not self.attached or queue not in self.hello.task_queues:
            return 0
        slot = self.slot_for(kind, queue)
        if slot is None:
            return 0
        room = self.rooms[slot]
        return max(0, room.most - room.outstanding)

    def set_rooms(self, rooms: dict[Slot, Room]) -> None:
        """States the capacity anew; what is held goes on counting."""
        for slot, room in rooms.items():
            old = self.rooms.get(slot)
            if old is not None:
                room.outstanding, room.resident = old.outstanding, old.resident
        for held in self.held.values():
            if held.slot not in rooms:
                rooms.setdefault(held.slot, Room(0, 0))
        self.rooms = rooms

    def occupy(self, slot: Slot) -> None:
        """Takes a place, for a task that is on its way."""
        self.rooms.setdefault(slot, Room(0, 0)).outstanding += 1

    def vacate(self, slot: Slot) -> None:
        """Gives the place back."""
        self.rooms[slot].outstanding -= 1

    def take(self, key: TaskKey, token: int, slot: Slot) -> Held:
        """Holds a task whose place is occupied already."""
        self.rooms.setdefault(slot, Room(0, 0))
        held = self.held[key] = Held(token, slot, time.monotonic())
        return held

    def drop(self, key: TaskKey) -> None:
        """Holds a task no longer, and gives its place back."""
        held = self.held.pop(key, None)
        self.advances.pop(key, None)
        self.early.pop(key, None)
        self.early_cancels.pop(key, None)
        if held is None:
            return
        room = self.rooms[held.slot]
        if held.waiting:
            room.resident -= 1
        else:
            room.outstanding -= 1

    def wait(self, key: TaskKey) -> None:
        """A run that waits goes on living in the worker's memory, and takes no slot."""
        held = self.held.get(key)
        if held is not None and not held.waiting:
            held.waiting = True
            room = self.rooms[held.slot]
            room.outstanding -= 1
            room.resident += 1

    def wake(self, key: TaskKey) -> bool:
        """A waiting run is to go on: takes a slot. False if there is none."""
        held = self.held.get(key)
        if held is None or not held.waiting:
            return True
        room = self.rooms[held.slot]
        if room.outstanding >= room.most:
            return False
        held.waiting = False
        room.resident -= 1
        room.outstanding += 1
        return True

    def run_on(self, key: TaskKey) -> None:
        """A run's code has gone on: it takes a slot, free or not, until it waits again."""
        held = self.held.get(key)
        if held is not None and held.waiting:
            held.waiting = False
            room = self.rooms[held.slot]
            room.resident -= 1
            room.outstanding += 1

    def may_keep(self, key: TaskKey) -> bool:
        """Whether the worker has room in memory for one more waiting run."""
        held = self.held.get(key)
        if held is None:
            return False
        room = self.rooms[held.slot]
        return held.waiting or room.resident < room.most_resident
