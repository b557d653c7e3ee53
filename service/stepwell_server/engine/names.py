"""Who bears which id and name, and how new runs and jobs come to be within a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import msgspec

from stepwell_server import errors
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.dispatches import IdempotencyKey
from stepwell_server.model.jobs import JobId
from stepwell_server.model.runs import Phase, RunId
from stepwell_server.model.steps import StepState

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from stepwell_server.engine.change import Change
    from stepwell_server.engine.job_change import JobChange
    from stepwell_server.model.concurrency import Line
    from stepwell_server.model.debounces import DebouncePlace
    from stepwell_server.model.definitions import DefinitionRef
    from stepwell_server.model.jobs import Job, JobRef
    from stepwell_server.model.runs import Followed, Run, RunRef

Name = tuple[int, str]
Id = tuple[int, "UUID"]


class Bearer(Protocol):
    """A run or a job while a batch changes it."""

    @property
    def phase(self) -> int:
        """How far it has come: a run's phase, a job's state."""
        ...


AnyBearer = TypeVar("AnyBearer", bound=Bearer)
AnyId = TypeVar("AnyId", RunId, JobId)


GONE = 0


class Latest(msgspec.Struct, frozen=True, gc=False):
    """The latest run of a workflow id, or job of a unique key, by its key and its id.

    `stored` is how often the name was given, as the database has it, and is held against it when the name is given
    away. The phase is GONE if there is no more of it than its name.
    """

    key: int
    id: UUID
    phase: int
    stored: int | None = None


class Register(Generic[AnyBearer, AnyId]):
    """The names and ids that a batch's commands look at, and the runs or jobs that it starts.

    `changes` are the batch's own by key, so that one which ends in this very batch frees its name in it.
    """

    def __init__(self, changes: dict[int, AnyBearer], next_key: Callable[[], int]) -> None:
        self._take_key = next_key
        self._returned: list[int] = []
        self.changes = changes
        self.ids: dict[Id, AnyId | None] = {}
        self.names: dict[Name, Latest | None] = {}
        self.born: list[int] = []
        self.new_ids: list[AnyId] = []
        self.claims: dict[Name, tuple[int | None, int]] = {}  # what the database has of it, the key to write
        self._ids: list[Id] = []
        self._mark = 0
        self._undo: list[tuple[Name, Latest | None, tuple[int | None, int] | None]] = []
        self.is_touched = False  # since the last `begin`; if not, that one does for the next command, too

    def next_key(self) -> int:
        """A key for a new one; one that was taken back first, so that deciding again costs no more keys."""
        return self._returned.pop() if self._returned else self._take_key()

    def begin(self) -> None:
        """Starts a command: what follows can be undone until the next `begin`."""
        self.is_touched = False
        self._mark = len(self.born)
        self._undo.clear()

    def undo(self) -> None:
        """Takes back all since `begin`."""
        for key in self.born[self._mark :]:
            del self.changes[key]
            self._returned.append(key)
        for entry in self._ids[self._mark :]:
            self.ids[entry] = None
        for each in (self.born, self.new_ids, self._ids):
            del each[self._mark :]
        for name, latest, claim in reversed(self._undo):
            self.names[name] = latest
            if claim is None:
                del self.claims[name]
            else:
                self.claims[name] = claim
        self._undo.clear()

    def with_id(self, namespace_id: int, id_: UUID) -> AnyId | None:
        """The one of that id, or None. The committer has looked it up for every start that names one."""
        return self.ids.get((namespace_id, id_))

    def named(self, namespace_id: int, name: str) -> Latest | None:
        """The latest one of that name, or None. Asks for it if it was not looked up."""
        wanted = (namespace_id, name)
        if wanted not in self.names:
            raise Missing(names=[wanted])
        latest = self.names[wanted]
        if latest is None or latest.phase == GONE:
            return None
        if (change := self.changes.get(latest.key)) is not None:
            return Latest(latest.key, latest.id, change.phase, latest.stored)
        return latest

    def claim(self, name: Name, latest: Latest) -> None:
        """Gives a name to one that comes after all who bore it."""
        self.is_touched = True
        before, claim = self.names.get(name), self.claims.get(name)
        self._undo.append((name, before, claim))
        stored = claim[0] if claim is not None else before.stored if before is not None else None
        self.claims[name] = (stored, latest.key)
        self.names[name] = latest

    def _bear(self, change: AnyBearer, key: int, own: Id, entry: AnyId) -> None:
        self.is_touched = True
        self.born.append(key)
        self.changes[key] = change
        self.new_ids.append(entry)
        self._ids.append(own)
        self.ids[own] = entry


class Births(Register["Change", RunId]):
    """Run ids, workflow ids and idempotency keys."""

    def __init__(self, changes: dict[int, Change], next_key: Callable[[], int]) -> None:
        super().__init__(changes, next_key)
        self._others: list[Change] = []
        self.user_tasks: dict[Id, bool] = {}  # ids of tasks for people, and whether they are given
        self._given: list[Id] = []
        self.keyed: dict[tuple[int, str, str, str], UUID | None] = {}
        self.new_keys: list[IdempotencyKey] = []
        self._keys_mark = 0
        self.definitions: dict[tuple[int, DefinitionRef], Followed | None] = {}
        self.free_slots: dict[Line, int] = {}  # of lines whose locks this batch has
        self.served: dict[Line, str] = {}  # of lines whose keys go in turn, the key that had the last slot
        self._taken: list[Line] = []
        self.debounced: dict[DebouncePlace, int | None] = {}  # the runs that starts of these keys push on
        self._waiting: list[tuple[DebouncePlace, int | None]] = []

    def begin(self) -> None:
        """Starts a command: what follows can be undone until the next `begin`."""
        super().begin()
        self._others.clear()
        self._given.clear()
        self._taken.clear()
        self._waiting.clear()
        self._keys_mark = len(self.new_keys)

    def undo(self) -> None:
        """Takes back all since `begin`."""
        for change in self._others:
            change.undo()
        for line in self._taken:
            self.free_slots[line] += 1
        self._taken.clear()
        self.debounced.update(reversed(self._waiting))
        self._waiting.clear()
        for given in self._given:
            self.user_tasks[given] = False
        self._given.clear()
        for key in self.new_keys[self._keys_mark :]:
            self.keyed[key.place] = None
        del self.new_keys[self._keys_mark :]
        super().undo()

    def give_user_task(self, namespace_id: int, task_id: UUID) -> bool:
        """Gives an id to a task for people; false if another has it. Asks for it if it was not looked up."""
        wanted = (namespace_id, task_id)
        if wanted not in self.user_tasks:
            raise Missing(user_tasks=[wanted])
        if self.user_tasks[wanted]:
            return False
        self.is_touched = True
        self.user_tasks[wanted] = True
        self._given.append(wanted)
        return True

    def debounce(self, place: DebouncePlace, run_key: int) -> None:
        """Starts of this key push on that run from now on. The place was looked up for every start."""
        self.is_touched = True
        self._waiting.append((place, self.debounced[place]))
        self.debounced[place] = run_key

    def take_slot(self, line: Line, key: str) -> bool:
        """Takes a slot of a line for a key; false if none is free. Asks for the line if its lock is not held."""
        if line not in self.free_slots:
            raise Missing(lines=[line])
        if self.free_slots[line] <= 0:
            return False
        self.is_touched = True
        self.free_slots[line] -= 1
        self._taken.append(line)
        if not line.line:
            self.served[line] = key
        return True

    def register(self, key: IdempotencyKey) -> UUID:
        """Registers a key for a run, unless it is registered; answers whose it is. It was looked up for every start."""
        found = self.keyed[key.place]
        if found is None:
            self.is_touched = True
            found = self.keyed[key.place] = key.run_id
            self.new_keys.append(key)
        return found

    def definition(self, namespace_id: int, namespace: str, ref: DefinitionRef) -> Followed:
        """The definition that a start names, looked up and held for it. Refuses with DEFINITION_NOT_FOUND."""
        followed = self.definitions[namespace_id, ref]
        if followed is None:
            raise errors.DefinitionNotFound(namespace=namespace, definition=ref.label)
        return followed

    def is_at_hand(self, run_key: int) -> bool:
        """Whether a run is locked by this batch, and all that is open of it is loaded."""
        change = self.changes.get(run_key)
        return change is not None and change.knows_open_steps

    def other(self, run_key: int) -> Change:
        """A further run, which the command ends. Asks for it if it is not at hand."""
        if not self.is_at_hand(run_key):
            raise Missing(others=[run_key])
        change = self.changes[run_key]
        if change not in self._others:
            self.is_touched = True
            change.begin()
            self._others.append(change)
        return change

    def is_awaited(self, ref: RunRef) -> bool:
        """Whether a start of this batch gives that id or name."""
        if ref.namespace_id is None:
            return False
        if ref.run_id is not None:
            return (ref.namespace_id, ref.run_id) in self.ids
        return (ref.namespace_id, ref.workflow_id) in self.names

    def born_as(self, ref: RunRef) -> int | None:
        """The key of the run that got that id or name in this batch, or None."""
        if ref.namespace_id is None:
            return None
        if ref.run_id is None:
            claim = self.claims.get((ref.namespace_id, ref.workflow_id))
            return claim[1] if claim is not None else None
        entry = self.ids.get((ref.namespace_id, ref.run_id))
        return entry.run_key if entry is not None and entry.run_key in self.changes else None

    def bear(self, change: Change, request_hash: bytes | None = None) -> None:
        """Takes a new run into the batch, with its id and its name."""
        run = change.open
        entry = RunId(run.run_id, run.namespace_id, run.run_key, request_hash)
        self._bear(change, run.run_key, (run.namespace_id, run.run_id), entry)
        if run.workflow_id:
            self.claim((run.namespace_id, run.workflow_id), Latest(run.run_key, run.run_id, run.phase))

    def take_again(self, run: Run, namespace: str) -> None:
        """Gives a run that is opened again the name that it had. Refuses with WORKFLOW_ID_IN_USE."""
        if not run.workflow_id:
            return
        latest = self.named(run.namespace_id, run.workflow_id)
        if latest is not None and latest.key != run.run_key and latest.phase < Phase.COMPLETED:
            raise errors.WorkflowIdInUse(namespace=namespace, workflow_id=run.workflow_id, run_id=latest.id)
        self.claim((run.namespace_id, run.workflow_id), Latest(run.run_key, run.run_id, run.phase))


class JobBirths(Register["JobChange", JobId]):
    """Job ids and unique keys."""

    def is_awaited(self, ref: JobRef) -> bool:
        """Whether a start of this batch gives that id."""
        return ref.job_id is not None and (ref.namespace_id, ref.job_id) in self.ids

    def born_as(self, ref: JobRef) -> int | None:
        """The key of the job that got that id in this batch, or None."""
        entry = self.ids.get((ref.namespace_id, ref.job_id)) if ref.job_id is not None else None
        return entry.job_key if entry is not None and entry.job_key in self.changes else None

    def bear(self, change: JobChange, request_hash: bytes | None = None) -> None:
        """Takes a new job into the batch, with its id and its unique key."""
        job = change.open
        entry = JobId(job.job_id, job.namespace_id, job.job_key, request_hash)
        self._bear(change, job.job_key, (job.namespace_id, job.job_id), entry)
        if job.unique_key:
            self.claim((job.namespace_id, job.unique_key), Latest(job.job_key, job.job_id, job.state))

    def take_again(self, job: Job, namespace: str) -> None:
        """Gives a job that is retried the unique key that it had. Refuses with UNIQUE_KEY_IN_USE."""
        if not job.unique_key:
            return
        latest = self.named(job.namespace_id, job.unique_key)
        if latest is not None and latest.key != job.job_key and latest.phase < StepState.COMPLETED:
            raise errors.UniqueKeyInUse(namespace=namespace, unique_key=job.unique_key, job_id=latest.id)
        self.claim((job.namespace_id, job.unique_key), Latest(job.job_key, job.job_id, job.state))
