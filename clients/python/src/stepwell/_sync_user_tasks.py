"""Tasks for people for programs without asyncio: `stepwell.user_tasks`, whose calls return when they are done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from stepwell.options import DrivenTaskOptions, UserTaskFilter
    from stepwell.sync import Loop
    from stepwell.user_tasks import UserTasks
    from stepwell.v1.user_tasks_pb2 import UserTask


class SyncUserTasks:
    """A client's tasks for people; `client.user_tasks`."""

    def __init__(self, loop: Loop, inner: UserTasks) -> None:
        """Made by the client."""
        self._loop = loop
        self._inner = inner

    def input_of(self, task: UserTask, as_type: object = None) -> Any:  # noqa: ANN401 - the type says
        """What a task was given, as `as_type` if told. Raises `ConversionError`."""
        return self._inner.input_of(task, as_type)

    def output_of(self, task: UserTask, as_type: object = None) -> Any:  # noqa: ANN401
        """What a completed task came to, as `as_type` if told. Raises `ConversionError`."""
        return self._inner.output_of(task, as_type)

    def inbox(self, *, user: str = "", roles: Sequence[str] = (), groups: Sequence[str] = ()) -> Iterator[UserTask]:
        """Lists what is pending for a user, or for any of these roles or groups: the most urgent first."""
        return self._loop.iterate(self._inner.inbox(user=user, roles=roles, groups=groups))

    def list(self, **only: Unpack[UserTaskFilter]) -> Iterator[UserTask]:
        """Lists tasks. Raises `InvalidField`; `ValueError` for a status that there is not."""
        return self._loop.iterate(self._inner.list(**only))

    def get(self, task_id: str) -> UserTask:
        """Reads a task. Raises `UserTaskNotFound`."""
        return self._loop.call(self._inner.get(task_id))

    def active(self, step_name: str, *, run_id: str = "", workflow_id: str = "") -> UserTask | None:
        """Reads the task that is open for a step of a run, or gives `None`."""
        return self._loop.call(self._inner.active(step_name, run_id=run_id, workflow_id=workflow_id))

    def claim(self, task_id: str, user: str) -> UserTask:
        """Gives a task to a user. Raises `UserTaskNotFound`, `UserTaskStateConflict`, `UserTaskAssignedElsewhere`."""
        return self._loop.call(self._inner.claim(task_id, user))

    def unclaim(self, task_id: str, user: str = "") -> UserTask:
        """Takes the claim of a user back, or of whoever has it. Raises `UserTaskNotFound`, `UserTaskStateConflict`."""
        return self._loop.call(self._inner.unclaim(task_id, user))

    def complete(self, task_id: str, user: str, output: object = None) -> UserTask:
        """Completes a task that the user has claimed. Raises `UserTaskNotFound`, `UserTaskStateConflict`."""
        return self._loop.call(self._inner.complete(task_id, user, output))

    def cancel(self, task_id: str, reason: str = "") -> UserTask:
        """Cancels an open task; the code that waits for it hears. Raises as `complete`."""
        return self._loop.call(self._inner.cancel(task_id, reason))

    def cancel_run(self, *, run_id: str = "", workflow_id: str = "", reason: str = "") -> int:
        """Cancels the open tasks of a run, and gives how many these were. Raises `RunNotFound`."""
        return self._loop.call(self._inner.cancel_run(run_id=run_id, workflow_id=workflow_id, reason=reason))

    def create(
        self,
        step_name: str,
        input: object = None,  # noqa: A002
        *,
        run_id: str = "",
        workflow_id: str = "",
        task_id: str = "",
        unless_active: bool = False,
        token: int = 0,
        **options: Unpack[DrivenTaskOptions],
    ) -> UserTask:
        """Creates a task of a driven run; `unless_active` gives the one that is open for the step in its place."""
        return self._loop.call(
            self._inner.create(
                step_name,
                input,
                run_id=run_id,
                workflow_id=workflow_id,
                task_id=task_id,
                unless_active=unless_active,
                token=token,
                **options,
            )
        )

    def update(self, task_id: str, *, expected_version: int = 0, **options: Unpack[DrivenTaskOptions]) -> UserTask:
        """Changes the options given of an open task; who is named anew ends another's claim."""
        return self._loop.call(self._inner.update(task_id, expected_version=expected_version, **options))

    def delete(self, task_id: str) -> bool:
        """Deletes a task; one that is open is cancelled. False if there was none."""
        return self._loop.call(self._inner.delete(task_id))
