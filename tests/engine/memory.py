"""The store of a batch in memory: the functions of `store.batch_reads`, over dictionaries that check as Postgres does.

Reads answer what the statements answer; `apply` refuses a row twice, an update of nothing and a delete of nothing, so
that whatever a batch writes is known to fit the schema's keys.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from msgspec.structs import replace
from tests.engine.memory_attributes import MemoryAttributes
from tests.engine.memory_jobs import MemoryJobs
from tests.engine.memory_slots import MemorySides, MemorySlots
from tests.engine.memory_topics import MemoryTopics
from tests.engine.memory_user_tasks import MemoryUserTasks

from stepwell_server.model.events import Event, EventType, received_signal
from stepwell_server.model.jobs import JOB_ORDINAL
from stepwell_server.model.mail import Mail
from stepwell_server.model.requests import Recorded, RequestKey
from stepwell_server.model.run_calls import Published
from stepwell_server.model.runs import ClosedRun, Run, RunId
from stepwell_server.model.signals import Signal
from stepwell_server.model.steps import ClosedStep, Scope, Step
from stepwell_server.model.tasks import Task, TaskKind
from stepwell_server.store.batches import Identity, Write
from stepwell_server.store.faults import Conflict

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.model.payloads import Payload

Key = tuple[int, int]


class MemoryStore:
    """See the module. Stands where `loading` and `batch` expect the module `store.batch_reads`."""

    def __init__(self) -> None:
        self.runs: dict[int, Run] = {}
        self.closed_runs: dict[int, ClosedRun] = {}
        self.steps: dict[Key, Step] = {}
        self.closed_steps: dict[Key, ClosedStep] = {}
        self.events: dict[int, list[Event]] = defaultdict(list)
        self.scopes: dict[tuple[int, str], Scope] = {}
        self.signals: dict[Key, Signal] = {}
        self.tasks: dict[Key, Task] = {}
        self.mail: dict[UUID, Mail] = {}
        self.published: dict[tuple[int, str], Published] = {}
        self.run_ids: dict[tuple[UUID, int], RunId] = {}
        self.names: dict[tuple[str, int], tuple[int, int]] = {}  # run key, turn
        self.heartbeats: dict[Key, tuple[datetime, Payload]] = {}
        self.requests: dict[RequestKey, Recorded] = {}
        self.locked: set[int] = set()
        self.jobs = MemoryJobs(self.locked)
        self.topics = MemoryTopics()
        self.attributes = MemoryAttributes()
        self.user_tasks = MemoryUserTasks()
        self.slots = MemorySlots()
        self.sides = MemorySides(self.user_tasks, self.slots)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def find_run_ids(self, connection: Any, wanted: Sequence[tuple[UUID, int | None]]) -> list[list[RunId]]:
        return [
            [entry for (run_id, space), entry in self.run_ids.items() if run_id == asked and namespace in (None, space)]
            for asked, namespace in wanted
        ]

    async def find_workflow_ids(self, connection: Any, wanted: Sequence[tuple[str, int | None]]) -> list[list[Any]]:
        found = []
        for asked, namespace in wanted:
            rows = [row for (name, space), row in self.names.items() if name == asked and namespace in (None, space)]
            runs = [(self.runs.get(key) or self.closed_runs[key], turn) for key, turn in rows]
            found.append(
                [{"run_key": r.run_key, "run_id": r.run_id, "phase": r.phase, "turn": turn} for r, turn in runs]
            )
        return found

    async def lock_runs(self, connection: Any, keys: Iterable[int]) -> list[Run]:
        return [self.runs[key] for key in sorted(keys) if key in self.runs and key not in self.locked]

    async def open_keys(self, connection: Any, keys: Sequence[int]) -> set[int]:
        return {key for key in keys if key in self.runs}

    async def read_closed_runs(self, connection: Any, keys: Sequence[int]) -> list[ClosedRun]:
        return [self.closed_runs[key] for key in keys if key in self.closed_runs]

    async def read_steps(self, connection: Any, wanted: Sequence[Key]) -> list[Step | ClosedStep]:
        return [found for key in wanted if (found := self.steps.get(key) or self.closed_steps.get(key)) is not None]

    async def read_steps_named(self, connection: Any, wanted: Sequence[Identity]) -> list[Step | ClosedStep]:
        every: list[Step | ClosedStep] = [*self.steps.values(), *self.closed_steps.values()]
        return [step for step in every if (step.run_key, *step.identity) in wanted]

    async def read_steps_waiting(self, connection: Any, wanted: Sequence[tuple[int, str]]) -> list[Step]:
        return [step for step in self.steps.values() if (step.run_key, step.wait_name) in wanted]

    async def read_open_steps(self, connection: Any, keys: Sequence[int]) -> list[Step]:
        return [step for _, step in sorted(self.steps.items()) if step.run_key in keys]

    async def read_all_closed_steps(self, connection: Any, keys: Sequence[int]) -> list[ClosedStep]:
        return [step for step in self.closed_steps.values() if step.run_key in keys]

    async def read_scopes(self, connection: Any, wanted: Sequence[tuple[int, str]]) -> list[Scope]:
        return [self.scopes[key] for key in wanted if key in self.scopes]

    async def read_signals(self, connection: Any, wanted: Sequence[tuple[int, str, int]], most: int) -> list[Signal]:
        found: list[Signal] = []
        for run_key, name, after in wanted:
            mine = [each for (key, n), each in sorted(self.signals.items()) if key == run_key and n > after]
            found += [each for each in mine if each.name == name and not each.consumed][:most]
        return found

    async def read_kept_signals(self, connection: Any, keys: Sequence[int]) -> list[Signal]:
        return [each for _, each in sorted(self.signals.items()) if each.run_key in keys and not each.consumed]

    async def read_received_signals(self, connection: Any, keys: Sequence[int]) -> list[Signal]:
        return [
            received_signal(key, event.number, event.attributes, event.event_time)
            for key in keys
            for event in self.events[key]
            if event.type in {EventType.SIGNAL_RECEIVED, EventType.TOPIC_RECEIVED}
        ]

    async def read_events(self, connection: Any, wanted: Sequence[Key]) -> list[Event]:
        return [event for key, number in wanted for event in self.events[key] if event.number == number]

    async def read_signal_ids(self, connection: Any, wanted: Sequence[tuple[int, str]]) -> list[Signal]:
        return [signal for signal in self.signals.values() if (signal.chain_key, signal.signal_id) in wanted]

    async def read_left_signals(self, connection: Any, keys: Sequence[int], most: int) -> list[tuple[Signal, int]]:
        found: list[tuple[Signal, int]] = []
        for key in keys:
            left = [signal for place, signal in self.signals.items() if place[0] == key and not signal.consumed]
            left.sort(key=lambda signal: (signal.name, signal.ordinal))
            found += [(each, len(self.events[key][each.event - 1].payload or b"")) for each in left[:most]]
        return found

    async def read_heartbeats(self, connection: Any, wanted: Sequence[Key]) -> list[tuple[int, int, datetime, Payload]]:
        return [(*key, *self.heartbeats[key]) for key in wanted if key in self.heartbeats]

    async def read_requests(self, connection: Any, keys: Sequence[RequestKey]) -> list[Recorded]:
        return [self.requests[key] for key in keys if key in self.requests]

    async def hold_namespaces(self, connection: Any, ids: Sequence[int]) -> set[int]:
        return set(ids)

    async def mail_left(self, connection: Any, mail_ids: Iterable[UUID]) -> set[UUID]:
        return {mail_id for mail_id in mail_ids if mail_id in self.mail}

    async def claim_tasks(  # noqa: PLR0917 - as in the store
        self,
        connection: Any,
        namespace_id: int,
        task_queue: str,
        kind: int,
        types: Sequence[str],
        builds: Sequence[str],
        most: int,
        now: datetime,
    ) -> list[tuple[int, int, datetime]]:
        fitting = [
            task
            for task in self.tasks.values()
            if (task.namespace_id, task.task_queue, task.kind) == (namespace_id, task_queue, kind)
            and task.type in types
            and task.build_id in ("", *builds)
        ]
        fitting.sort(key=lambda task: (task.rank, task.ready_time, task.run_key, task.ordinal))
        return [(task.run_key, task.ordinal, task.ready_time) for task in fitting[:most]]

    async def claim_driven_activities(
        self, connection: Any, namespace_id: int, task_queue: str, now: datetime, most: int
    ) -> list[Key]:
        fitting = [
            task
            for task in self.tasks.values()
            if (task.namespace_id, task.task_queue, task.kind) == (namespace_id, task_queue, TaskKind.DRIVEN_ACTIVITY)
            and task.ready_time <= now
        ]
        fitting.sort(key=lambda task: (task.ready_time, task.run_key, task.ordinal))
        return [(task.run_key, task.ordinal) for task in fitting[:most]]

    # --- writing ----------------------------------------------------------------------------------------------------

    def apply(self, write: Write) -> None:
        """Writes a batch in the order of `store.batches.write`. Raises Conflict if it was decided on other runs."""
        decided_on = [(run.run_key, found) for found, run in write.changed_runs] + write.gone_runs
        if any(key not in self.runs or self.runs[key].version != found for key, found in decided_on):
            raise Conflict("a run has changed")
        self._apply_runs(write)
        self._apply_steps(write)
        for event in write.events:
            self.events[event.run_key].append(event)
        self.topics.apply(write, self.events)
        self.user_tasks.apply(write)
        self.slots.apply(write)
        for copy in write.copies:
            told = self.events[copy.from_key][copy.from_number - 1]
            own = {"run_key": copy.run_key, "number": copy.number, "event_time": copy.event_time, "step_ordinal": 0}
            self.events[copy.run_key].append(replace(told, **own))
            self.events[copy.run_key].sort(key=lambda event: event.number)
        self._apply_signals(write)
        for value in write.published:
            self.published[value.run_key, value.name] = value
        self.attributes.apply(write)
        self.jobs.apply(write.jobs)
        for key in write.jobs.retried:
            self.heartbeats.pop((key, JOB_ORDINAL), None)
        self._apply_work(write)

    def _apply_runs(self, write: Write) -> None:
        for entry in write.run_ids:
            _insert(self.run_ids, (entry.run_id, entry.namespace_id), entry)
        for name, namespace_id, key in write.names:
            _insert(self.names, (name, namespace_id), (key, 0))
        for name, namespace_id, turn, key in write.renamed:
            assert self.names[name, namespace_id][1] == turn
            self.names[name, namespace_id] = (key, turn + 1)
        for key, _ in write.reopened_runs:
            del self.closed_runs[key]
        for run in write.new_runs:
            _insert(self.runs, run.run_key, run)
        for found, run in write.changed_runs:
            assert run.version > found
            self.runs[run.run_key] = run
        for key, _ in write.gone_runs:
            del self.runs[key]
        for closed in write.closed_runs:
            _insert(self.closed_runs, closed.run_key, closed)

    def _apply_steps(self, write: Write) -> None:
        for run_key, *identity in write.removed_steps:
            (place,) = [
                place
                for place, step in self.closed_steps.items()
                if place[0] == run_key and step.identity == tuple(identity)
            ]
            del self.closed_steps[place]
        for place in write.gone_steps:
            del self.steps[place]
        for step in write.new_steps:
            taken = [each.identity for each in self.steps.values() if each.run_key == step.run_key]
            assert step.identity not in taken
            _insert(self.steps, (step.run_key, step.ordinal), step)
        for step in write.changed_steps:
            assert (step.run_key, step.ordinal) in self.steps
            self.steps[step.run_key, step.ordinal] = step
        for closed in write.closed_steps:
            named = [each.identity for each in self.closed_steps.values() if each.run_key == closed.run_key]
            assert closed.identity not in named
            _insert(self.closed_steps, (closed.run_key, closed.ordinal), closed)
        for scope in write.scopes:
            self.scopes[scope.run_key, scope.scope] = scope
        for key in write.scopes_gone:
            self.scopes = {path: scope for path, scope in self.scopes.items() if path[0] != key}

    def _apply_work(self, write: Write) -> None:
        for place in write.tasks_gone:
            self.tasks.pop(place, None)
        for task in write.tasks:
            _insert(self.tasks, (task.run_key, task.ordinal), task)
        for row in write.requests:
            _insert(self.requests, (row.request_id, row.namespace_id, row.method), row)
        for mail in write.mail:
            _insert(self.mail, mail.mail_id, mail)
        for mail_id in write.mail_done:
            del self.mail[mail_id]

    def _apply_signals(self, write: Write) -> None:
        for signal in write.signals:
            _insert(self.signals, (signal.run_key, signal.ordinal), signal)
        for place in write.consumed:
            assert not self.signals[place].consumed
            self.signals[place] = replace(self.signals[place], consumed=True)
        for place in write.carried_away:
            self.signals.pop(place, None)  # one that came in the very batch that carries it was never written
        for signal in write.carried:
            _insert(self.signals, (signal.run_key, signal.ordinal), signal)
        ids = [(signal.chain_key, signal.signal_id) for signal in self.signals.values() if signal.signal_id is not None]
        assert len(ids) == len(set(ids))
        for signal in write.given_back:
            place = (signal.run_key, signal.ordinal)
            self.signals[place] = replace(self.signals.get(place, signal), consumed=False)
        for key in write.signals_gone:
            self.signals = {
                place: replace(signal, consumed=True) if place[0] == key else signal
                for place, signal in self.signals.items()
                if place[0] != key or signal.signal_id is not None
            }


def _insert(table: dict[Any, Any], key: Any, row: Any) -> None:
    assert key not in table, f"{key} is there already"
    table[key] = row
