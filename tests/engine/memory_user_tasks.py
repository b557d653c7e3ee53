"""Tasks for people of the store in memory: what batches ask of `store.sides` about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from msgspec.structs import replace

from stepwell_server.model.driven import Side, SideKey
from stepwell_server.model.user_tasks import TASK_MOVES, TaskStatus, UserTask
from stepwell_server.store.batches import Write


class MemoryUserTasks:
    """See the module. `looks` counts how often it was asked."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, int], UserTask] = {}
        self.looks = 0

    async def read(self, connection: Any, wanted: Sequence[tuple[int, SideKey]]) -> list[tuple[int, SideKey, Side]]:
        self.looks += 1
        places = [(run_key, ordinal) for run_key, (kind, ordinal) in wanted if kind is UserTask]
        return [(place[0], (UserTask, place[1]), self.rows[place]) for place in places if place in self.rows]

    async def find_user_tasks(self, connection: Any, wanted: Sequence[tuple[int, UUID]]) -> set[tuple[int, UUID]]:
        return {(row.namespace_id, row.task_id) for row in self.rows.values()} & set(wanted)

    def apply(self, write: Write) -> None:
        for run_key, (kind, ordinal), row in write.sides:
            if isinstance(ordinal, int) and isinstance(row, UserTask):
                before = self.rows.get((run_key, ordinal))
                status = TaskStatus(row.status)
                if before is not None:
                    assert before.version < row.version
                    assert before.is_active or row == _renamed(before, row)
                    assert status == before.status or _leads(TaskStatus(before.status), status)
                self.rows[run_key, ordinal] = row
            elif kind is UserTask and isinstance(ordinal, int):
                del self.rows[run_key, ordinal]
        ids = [(row.namespace_id, row.task_id) for row in self.rows.values()]
        assert len(ids) == len(set(ids))


def _renamed(before: UserTask, row: UserTask) -> UserTask:
    """What is over changes no more, but for the name of its step."""
    return replace(before, step_name=row.step_name, version=row.version, update_time=row.update_time)


def _leads(before: TaskStatus, after: TaskStatus) -> bool:
    """Whether the table of moves has a way: a batch may make several."""
    reached, fresh = set[TaskStatus](), {before}
    while fresh:
        fresh = {each for status in fresh for each in TASK_MOVES[status]} - reached
        reached |= fresh
    return after in reached
