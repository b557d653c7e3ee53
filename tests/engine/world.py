"""Batches without a database: real decisions, loading and writing over a store in memory, one call a batch."""

from __future__ import annotations

import itertools
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from unittest.mock import patch
from uuid import UUID, uuid4

from tests.engine.memory import MemoryStore

from stepwell_server import errors, refusals
from stepwell_server.engine.change import Change
from stepwell_server.engine.committer import (
    Capacity,
    Claim,
    claiming,
    granting,
    loading,
    lookups,
    opening,
    recalling,
    subjects,
)
from stepwell_server.engine.committer import jobs as jobs_module
from stepwell_server.engine.committer.batch import Batch
from stepwell_server.engine.committer.keeping import Keeping
from stepwell_server.engine.committer.opening import HELD
from stepwell_server.engine.committer.orders import Order
from stepwell_server.engine.committer.protocols import AnyChange, NoCapacity
from stepwell_server.engine.committer.waiting import Entry
from stepwell_server.engine.grants import GrantTask
from stepwell_server.engine.job_change import JobChange
from stepwell_server.engine.jobs import NewJob, StartedJob, StartJob
from stepwell_server.engine.letters import ReadLetter
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.names import Births, JobBirths
from stepwell_server.engine.news import News
from stepwell_server.engine.starts import NewRun, Started, StartRun
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.events import Event, EventType
from stepwell_server.model.jobs import JOB_ORDINAL, ClosedJob, Job, JobRef
from stepwell_server.model.mail import unpack_letter
from stepwell_server.model.requests import Asked
from stepwell_server.model.runs import ClosedRun, Run, RunRef, unpack_details
from stepwell_server.model.steps import ClosedStep, Kind, Step, StepState, is_on_topic, unpack_step_details
from stepwell_server.model.tasks import Grant, JobGrant, TaskKind
from stepwell_server.store.batches import Write
from stepwell_server.store.faults import Conflict

START = datetime(2030, 1, 1, tzinfo=UTC)
MAIN = 1
Wanted = TypeVar("Wanted")
_SLOTS = [name for part in Change.__mro__ for name in getattr(part, "__slots__", ())]
_SET_BY_LOADING = ("births", "_mark", "heartbeats", "has_beat", "news")
_SET_BY_UNDO = ("known", "limits", "births", "loaded_steps", "_undo", "_mark", "_lists", "made", "heartbeats", "news")


def at_once(work: Coroutine[Any, Any, Wanted]) -> Wanted:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: Wanted = stop.value
        return result
    raise AssertionError("it waited")


def snapshot(change: AnyChange) -> dict[str, object]:
    """Everything that a command may change of a run or of a job, copied deep."""
    if isinstance(change, JobChange):
        return snapshot_of_job(change)
    taken: dict[str, object] = {name: _copied(_seen(change, name)) for name in _SLOTS}
    for name in _SET_BY_UNDO:
        del taken[name]
    # What was merely loaded stays: an empty list of signals is as good as none.
    taken["signals"] = {name: list(each) for name, each in _seen(change, "signals").items() if each}
    taken["news"] = _told(change.news)
    return taken


def _seen(change: Change, name: str) -> Any:
    """As it is: a container that nobody has asked for yet is not made by looking."""
    return change.lazy[name]() if name in change.lazy and name not in change.made else getattr(change, name)


def snapshot_of_job(change: JobChange) -> dict[str, object]:
    taken = {name: _copied(getattr(change, name)) for name in JobChange.__slots__ if name not in _SET_BY_LOADING}
    taken["news"] = _told(change.news)
    return taken


def names(births: Births | JobBirths) -> list[object]:
    """Everything that a command may change of names and births, copied."""
    known = {key: entry for key, entry in births.ids.items() if entry is not None}
    return [
        known,
        dict(births.names),
        list(births.born),
        list(births.new_ids),
        dict(births.claims),
        set(births.changes),
    ]


def _told(news: News) -> dict[str, object]:
    """What was told: whether there is an empty list or none says nothing."""
    kept = {name: getattr(news, name) for name in News.__slots__ if name != "_is_blank"}
    return {name: list(each) if isinstance(each, list | tuple) else each for name, each in kept.items()}


def _copied(value: object) -> object:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return list(value) if isinstance(value, list) else value


class WatchedBatch(Batch):
    """Sees to it that a command which refuses, or asks for more, leaves no trace."""

    def _decide_one(self, place: int, key: int | None) -> Missing | None:
        before = self._traces()
        wants = super()._decide_one(place, key)
        answer = self.answers[place]
        refused = isinstance(answer, refusals.Refusal) and not isinstance(answer, errors.StepOrderChanged)
        if wants is not None or refused:
            assert self._traces() == before, f"{type(self._entries[place].order).__name__} left a trace"
        return wants

    def _traces(self) -> list[object]:
        subjects = self.subjects
        changes = {change.key: snapshot(change) for change in subjects.every()}
        return [changes, names(subjects.births), names(subjects.jobs.births)]


class _EveryoneIsHere(NoCapacity):
    def is_here(self, session_id: UUID) -> bool:
        return True


class World:
    """A service without Postgres, gRPC and time: `do` is a batch, `advance` lets time pass."""

    def __init__(self, limits: Limits | None = None, capacity: Capacity | None = None) -> None:
        self.store = MemoryStore()
        self.now = START
        self.limits = limits or Limits()
        self.capacity = capacity or NoCapacity()
        self.session = uuid4()
        self.most_carried = loading.MOST_CARRIED
        self.last: Batch | None = None
        self.write: Write | None = None
        self._keys = itertools.count(1)
        # What two committers keep. Each hears nothing of what the other changed.
        self.keepings = (Keeping(_EveryoneIsHere()), Keeping(_EveryoneIsHere()))
        self.turns = itertools.cycle((0, 0, 1, 0, 0, 0, 1, 1))
        self.decided_anew = 0

    @contextmanager
    def _stored(self) -> Iterator[None]:
        with (
            patch.object(lookups, "batch_reads", self.store),
            patch.object(loading, "batch_reads", self.store),
            patch.object(loading, "recall", self.store),
            patch.object(loading, "topics", self.store.topics),
            patch.object(loading, "concurrency", self.store.slots),
            patch.object(loading, "search_attributes", self.store.attributes),
            patch.object(subjects, "batch_reads", self.store),
            patch.object(lookups, "sides", self.store.sides),
            patch.object(loading, "sides", self.store.sides),
            patch.object(loading, "MOST_CARRIED", self.most_carried),
            patch.object(granting, "batch_reads", self.store),
            patch.object(claiming, "batch_reads", self.store),
            patch.object(recalling, "batch_reads", self.store),
            patch.object(opening, "batch_reads", self.store),
            patch.object(jobs_module, "batch_reads", self.store),
            patch.object(jobs_module, "job_batches", self.store.jobs),
        ):
            yield

    def batch(self, *orders: Order) -> list[Any]:
        """Commits commands as one batch; answers what each caller hears, refusals too."""
        return self.ask(*((order, None) for order in orders))

    def ask(self, *requests: tuple[Order, Asked | None]) -> list[Any]:
        """The same of commands that come with what names their requests."""
        keeping = self.keepings[next(self.turns)]
        entries = [Entry(order, None, 0, 0.0, asked=asked) for order, asked in requests]
        try:
            batch = self._committed(entries, keeping)
        except Conflict:
            assert keeping.forget(entry.key for entry in entries)
            self.decided_anew += 1
            batch = self._committed(entries, keeping)
        keeping.note(batch.subjects.runs.values())
        return batch.answers

    def _committed(self, entries: list[Entry], keeping: Keeping) -> WatchedBatch:
        batch = WatchedBatch(
            None,  # type: ignore[arg-type] # the store in memory takes no notice
            entries,
            self.now,
            self.limits,
            self.capacity,
            lambda: next(self._keys),
            kept=keeping,
        )
        with self._stored():
            at_once(batch.prepare())
            self.write = batch.to_write(1, 1)
        self.last = batch
        if self.write is not None:
            self.store.apply(self.write)
        return batch

    def do(self, order: Order) -> Any:
        """Commits one command; raises its refusal."""
        (answer,) = self.batch(order)
        assert answer is not HELD
        if isinstance(answer, refusals.Refusal):
            raise answer
        return answer

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # --- runs -------------------------------------------------------------------------------------------------------

    def start(self, **fields: Any) -> int:
        """Starts a run and answers its key."""
        fields = {"namespace_id": MAIN, "namespace": "main", "type": "flow", "task_queue": "q", **fields}
        started = self.do(StartRun(NewRun(**fields)))
        assert isinstance(started, Started)
        return started.run_key

    def grant(
        self, key: int, ordinal: int = 0, session: UUID | None = None, builds: tuple[str, ...] = ()
    ) -> Grant | None:
        """Gives a task to a session, this world's own by default."""
        answer = self.do(GrantTask(self.ref(key), ordinal, session or self.session, "worker", builds))
        assert answer is None or isinstance(answer, Grant)
        return answer

    def claim_of(
        self, kind: TaskKind, types: tuple[str, ...], most: int = 10, queue: str = "q", builds: tuple[str, ...] = ()
    ) -> Claim:
        return Claim(MAIN, "main", queue, kind, types, self.session, "worker", builds, most)

    def claim(self, kind: TaskKind, types: tuple[str, ...], *more: Any, **fields: Any) -> list[Grant]:
        """Claims, as `claim_of` says."""
        grants: list[Grant] = self.do(self.claim_of(kind, types, *more, **fields))
        return grants

    def ref(self, key: int, namespace_id: int | None = MAIN) -> RunRef:
        return RunRef(namespace_id, "main", key)

    def run(self, key: int) -> Run:
        return self.store.runs[key]

    def closed(self, key: int) -> ClosedRun:
        return self.store.closed_runs[key]

    def step(self, key: int, ordinal: int) -> Step:
        return self.store.steps[key, ordinal]

    def ended(self, key: int, ordinal: int) -> ClosedStep:
        return self.store.closed_steps[key, ordinal]

    def is_queued(self, key: int, ordinal: int = 0) -> bool:
        return (key, ordinal) in self.store.tasks

    def events(self, key: int) -> list[Event]:
        return self.store.events[key]

    def happened(self, key: int) -> list[EventType]:
        """The kinds of a run's events, in order."""
        return [EventType(event.type) for event in self.events(key)]

    def deliver(self) -> list[Any]:
        """Applies all mail that is under way, one batch a round, until there is none."""
        answers: list[Any] = []
        while self.store.mail:
            answers += self.batch(*self.letters())
        return answers

    def letters(self) -> list[ReadLetter]:
        """The mail that is under way, as commands."""
        return [
            ReadLetter(RunRef(None, "", mail.run_key), mail.mail_id, unpack_letter(mail.body))
            for mail in self.store.mail.values()
        ]

    # --- jobs -------------------------------------------------------------------------------------------------------

    def start_job(self, **fields: Any) -> int:
        """Starts a job and answers its key."""
        started = self.do(StartJob(new_job(**fields)))
        assert isinstance(started, StartedJob)
        return started.job_key

    def grant_job(self, key: int, session: UUID | None = None) -> JobGrant | None:
        """Gives a job to a session, this world's own by default."""
        answer = self.do(GrantTask(self.job_ref(key), JOB_ORDINAL, session or self.session, "worker"))
        assert answer is None or isinstance(answer, JobGrant)
        return answer

    def job_ref(self, key: int, namespace_id: int = MAIN) -> JobRef:
        return JobRef(namespace_id, "main", key)

    def job(self, key: int) -> Job:
        return self.store.jobs.jobs[key]

    def closed_job(self, key: int) -> ClosedJob:
        return self.store.jobs.closed[key]

    # --- what must always hold --------------------------------------------------------------------------------------

    def check(self) -> None:
        """The invariants of what is stored."""
        store = self.store
        assert not set(store.runs) & set(store.closed_runs)
        assert not set(store.steps) & set(store.closed_steps)
        for key, run in store.runs.items():
            open_steps = [step for place, step in store.steps.items() if place[0] == key]
            assert run.open_steps == len(open_steps)
            assert [event.number for event in store.events[key]] == list(range(1, run.last_event + 1))
            assert run.queued == ((key, 0) in store.tasks)
            assert not run.queued or store.tasks[key, 0].build_id == run.build_id
            assert not (run.queued and run.session_id is not None)
            assert not (run.pause_reason is not None and (run.queued or run.session_id is not None))
            assert not run.workflow_id or store.names[run.workflow_id, run.namespace_id][0] == key
            ordinals = {place[1] for place in [*store.steps, *store.closed_steps] if place[0] == key}
            assert len(ordinals) == run.last_step - unpack_details(run.details).removed_steps
            assert ordinals <= set(range(1, run.last_step + 1))
        for key, closed in store.closed_runs.items():
            assert [event.number for event in store.events[key]] == list(range(1, closed.last_event + 1))
            assert not [place for place in [*store.steps, *store.tasks] if place[0] == key]
            # Ids of signals stay for a while, so that a repeat is recognised.
            kept = [signal for place, signal in store.signals.items() if place[0] == key]
            assert unpack_details(closed.details).keeps_signals or all(
                signal.signal_id is not None and signal.consumed for signal in kept
            )
            assert not [place for place in store.scopes if place[0] == key]
        waiting = {
            place: (step.wait_name, unpack_step_details(step.details).after_number)
            for place, step in store.steps.items()
            if is_on_topic(step)
        }
        assert {place: (row.topic, row.after_number) for place, row in store.topics.waits.items()} == waiting
        asked = {place for place, step in store.steps.items() if step.kind == Kind.USER_TASK}
        assert {place for place, row in store.user_tasks.rows.items() if row.is_active} == asked
        recorded: dict[tuple[int, int], Step | ClosedStep] = {**store.steps, **store.closed_steps}
        for place, row in store.user_tasks.rows.items():
            assert place not in recorded or row.step_name == recorded[place].name
        self._check_jobs()
        for key, ordinal in store.tasks:
            if ordinal > 0:
                step = store.steps[key, ordinal]
                assert step.session_id is None
                assert step.state == 1
        ends = [step.end_event for step in store.closed_steps.values() if step.run_key == next(iter(store.runs), 0)]
        assert len(ends) == len(set(ends))

    def _check_jobs(self) -> None:
        store = self.store.jobs
        assert not set(store.jobs) & set(store.closed)
        assert not (set(store.jobs) | set(store.closed)) & (set(self.store.runs) | set(self.store.closed_runs))
        assert {entry.job_key for entry in store.ids.values()} == set(store.jobs) | set(store.closed)
        for key, job in store.jobs.items():
            assert (job.session_id is not None) == (job.state == StepState.RUNNING)
            waits = job.state == StepState.PENDING and job.wake_time is not None and job.attempt
            if self.is_queued(key, JOB_ORDINAL):
                assert job.state == StepState.PENDING
            elif job.state == StepState.PENDING:
                assert waits or job.schedule_time > self.now, "a job waits that nobody will look at"
            if job.unique_key:
                assert store.names[job.unique_key, job.namespace_id][0] == key
        assert not [key for key, ordinal in self.store.tasks if ordinal < 0 and key not in store.jobs]


def new_job(**fields: Any) -> NewJob:
    return NewJob(**{"namespace_id": MAIN, "namespace": "main", "type": "act", "task_queue": "q", **fields})
