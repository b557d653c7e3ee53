"""Random lives, the part of people: they claim tasks, give them back, complete and cancel them, at any time."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import invariant
from tests.engine.code import json
from tests.engine.draws import Draw
from tests.engine.machine_topics import TopicLives

from stepwell_server.engine.user_tasks import (
    CancelUserTask,
    ClaimUserTask,
    CompleteUserTask,
    TaskAnswer,
    UnclaimUserTask,
)
from stepwell_server.model.events import EventType
from stepwell_server.model.user_tasks import TaskStatus

USERS = st.sampled_from(["ann", "bob"])


class PersonLives(TopicLives):
    """See the module. The model knows who was told that a task is theirs, and what was accepted of whom."""

    def __init__(self) -> None:
        super().__init__()
        self.has: dict[UUID, str] = {}
        self.done: dict[UUID, tuple[str, bytes]] = {}

    def person(self, draw: Draw) -> None:
        """Somebody does something with a task, whatever has become of it."""
        rows = self.world.store.user_tasks.rows
        if not rows:
            return
        place = draw(st.sampled_from(sorted(rows)))
        task_id, user, what = rows[place].task_id, draw(USERS), draw(st.sampled_from("ccdddux"))
        ref, output = self.world.ref(place[0]), json(f'"{user}"')

        def claimed(answer: Any) -> None:
            if isinstance(answer, TaskAnswer):
                assert not answer.done or task_id not in self.has
                self.has[task_id] = user

        def unclaimed(answer: Any) -> None:
            if isinstance(answer, TaskAnswer) and answer.done:
                assert self.has.pop(task_id) == user

        def completed(answer: Any) -> None:
            if isinstance(answer, TaskAnswer):
                assert self.has[task_id] == user
                assert answer.done is (task_id not in self.done)
                self.done[task_id] = (user, output.body)

        if what == "c":
            self.give(ClaimUserTask(ref, place[1], task_id, user), claimed)
        elif what == "d":
            self.give(CompleteUserTask(ref, place[1], task_id, user, output), completed)
        elif what == "u":
            self.give(UnclaimUserTask(ref, place[1], task_id, user), unclaimed)
        else:
            self.give(CancelUserTask(ref, place[1], task_id, "not needed"))

    @invariant()
    def what_was_accepted_of_people_stands(self) -> None:
        """A completed task is somebody's who was told so; its output stands in history, once."""
        for (key, ordinal), row in self.world.store.user_tasks.rows.items():
            events = [event for event in self.world.events(key) if event.step_ordinal == ordinal]
            outputs = [event for event in events if event.type == EventType.USER_TASK_COMPLETED]
            if row.status == TaskStatus.COMPLETED:
                (output,) = outputs
                assert self.done[row.task_id] == (row.completed_by, output.payload)
                assert output.number == row.output_event
            else:
                assert not outputs
                assert row.task_id not in self.done
            if row.status == TaskStatus.CLAIMED:
                assert self.has[row.task_id] == row.claimed_by
