"""Code runs: one execution of a workflow function, between its tasks and the service.

All branches of a run are asyncio tasks, or bare calls, on one loop. Each counts as *active* while its code may go on,
as *busy* while a checkpoint's function runs, as *unrecorded* while it waits for a record and nothing else. When none
is active the turn is over, and what is new goes out as one Progress. With nothing busy or unrecorded either, the run
says that it waits, and costs no slot until an Advance.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from stepwell._ahead import confirm
from stepwell._calls import ENDED, Call, Entry, current
from stepwell._cancelling import CALL, WAIT, Cancellation
from stepwell._progress import Outgoing, new_step
from stepwell._queries import Queries
from stepwell._races import Races
from stepwell._scopes import Record, Scope, key_of
from stepwell._updates import Updates
from stepwell.v1 import types_pb2

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from stepwell._host import RunHost
    from stepwell._scopes import StepKey
    from stepwell.definitions import Definition
    from stepwell.v1.workers_pb2 import StepRecord, Task, TaskRef

log = logging.getLogger("stepwell.worker")

# How often code that is still active is given another turn before its siblings' steps go out without it.
_PATIENCE = 6
# The same for each step of a record that is replayed.
_REPLAY_TURNS = 4


class RunExecution:
    """One execution of a run's code. Not safe across threads."""

    __slots__ = (
        *("host", "loop", "converter", "task", "ref", "definition", "record", "out", "last_ordinal", "_early"),
        *("races", "cancellation", "_updates", "_queries", "open", "root", "scopes", "_main", "_tasks"),
        *("active", "busy", "unrecorded", "waits", "end", "has_caught_up", "_is_woken", "_is_missed", "_patience"),
        *("is_ended", "is_dropped", "is_leaving", "is_broken", "ahead_of", "holding"),
    )

    def __init__(self, host: RunHost, task: Task, definition: Definition) -> None:
        """Prepares the execution; `start` begins it."""
        self.host = host
        self.loop = host.loop
        self.task = task
        self.ref = task.ref
        self.definition = definition
        self.converter = host.converter
        self.record = Record()
        self.record.extend(task.steps)
        # Steps that end while the others are still being read.
        self._early: dict[StepKey, StepRecord] | None = {} if task.more_steps else None
        self.out = Outgoing()
        self.races = Races(self)
        self._updates: Updates | None = None
        self._queries: Queries | None = None
        self.waits = 0
        self.has_caught_up = False
        self.open: dict[StepKey, Call[Any]] = {}
        self.root = Scope("", None)
        self.scopes: dict[str, Scope] = {"": self.root}
        self.active = self.busy = self.unrecorded = 0
        self.end: dict[str, Any] | None = None
        self.is_ended = self.is_dropped = self.is_leaving = self.is_broken = False
        # The activity whose result the code has gone on with though it may not be recorded, and who waits for that.
        self.ahead_of: TaskRef | None = None
        self.holding: list[asyncio.Future[None]] | None = None
        self.cancellation = Cancellation(self, task)
        self._main: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_woken = self._is_missed = False
        # A replay is given time to come to where all branches wait: what ended first may be what is replayed longest.
        self._patience = _PATIENCE + _REPLAY_TURNS * len(self.record.steps)
        self.last_ordinal = task.steps[-1].ordinal if task.steps else 0
        del task.steps[:]

    @property
    def updates(self) -> Updates:
        """The run's updates, of which most have none."""
        if self._updates is None:
            self._updates = Updates(self)
        return self._updates

    @property
    def has_updates(self) -> bool:
        """Tells whether it ever had any."""
        return self._updates is not None

    @property
    def has_queries(self) -> bool:
        """Tells whether it may have something to tell those who ask."""
        return self._queries is not None

    @property
    def queries(self) -> Queries:
        """What the run tells those who ask, which is mostly nobody."""
        if self._queries is None:
            self._queries = Queries(self)
        return self._queries

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        """Begins with the code."""
        self.active += 1
        self._main = self.loop.create_task(main)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Starts a branch; the caller counts it as active."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def present_scope(self) -> Scope:
        """Gives the branch that the calling code is in. Raises `RuntimeError` in code that is not this run's."""
        found = current.get(None)
        if found is None or found[0] is not self:
            raise RuntimeError("this context belongs to another run: use it only in its own workflow function")
        return found[1]

    def open_scope(self, parent: Scope, number: int) -> Scope:
        """Opens a branch."""
        scope = Scope(parent.branch_path(number), parent)
        if parent.children is None:
            parent.children = set()
        parent.children.add(scope)
        self.scopes[scope.path] = scope
        return self.record.open(scope)

    def close_scope(self, scope: Scope) -> None:
        """Closes a branch that has returned; the service hears of it with the next Progress."""
        scope.closed = True
        if scope.count or scope.recorded:
            self.out.note(scope)
        if scope.parent is not None and scope.parent.children is not None:
            scope.parent.children.discard(scope)
        self.scopes.pop(scope.path, None)

    # Calls

    def arrive(self, scope: Scope) -> asyncio.Future[None] | None:
        """Counts a wait of the run's own line. In a replay it is held up where updates were accepted in that wait."""
        if scope is not self.root:
            return None
        self.waits += 1
        return None if self._updates is None else self._updates.hold()

    def make(self, call: Call[Any], scope: Scope) -> StepRecord | None:
        """Makes a call: gives its step if that has ended, else lets `call.resolve` hear of it."""
        if call.scope is not None:
            raise RuntimeError(f"{call.name}: a call can be awaited once; call it again for another one")
        call.scope = scope
        found = self.recall(scope, call.kind, call.name, call.key, call)
        if found is not None or call.ordinal:
            return found
        body = call.spell()
        if scope.is_shielded and call.kind == types_pb2.STEP_KIND_ACTIVITY:
            body["activity"].shielded = True
        self.add_step(scope, call.kind, call.name, call.key, body=body, call=call)
        return None

    def recall(
        self, scope: Scope, kind: types_pb2.StepKind.ValueType, name: str, key: str, call: Call[Any] | None
    ) -> StepRecord | None:
        """Looks a call up in the record, and counts it if it is there. Raises `RunCancelled` where it is due."""
        if self.is_dropped:
            raise asyncio.CancelledError
        if scope.waiting is not None or scope.group is not None:
            raise RuntimeError(f"{name}: another call of this branch is under way; use ctx.gather for both")
        if scope.marks:
            self.cancellation.meet(scope, CALL)
        step_key = scope.key_for(name, key)
        record = self.record.steps.pop(step_key, None)
        if record is None:
            if scope.lost is not None:
                raise self.races.note(scope, CALL)
            if self.cancellation.is_due and not scope.cancel_seen:
                raise self.cancellation.note(scope, CALL)
            return None
        self.out.replay(scope, kind, name, key)
        if scope.marks:
            self.cancellation.meet(scope, WAIT, record)
        if record.kind != kind:
            self.stray(f"step {name} was recorded as another kind of step")
        elif record.state in ENDED:
            is_last = scope.count == len(scope.recorded)
            heard = self.races.heard_at_end(scope, record, is_new=False) if is_last else None
            if heard is not None:
                raise heard
            scope.completed = max(scope.completed, record.completion)
            return record
        if call is not None:
            call.ordinal = record.ordinal
            self.open[step_key] = call
        return None

    def stray(self, problem: str) -> None:
        """Takes note that the code has left the record. The service compares, and will pause the run."""
        log.error("run %s: %s", self.task.run_id, problem)
        self.is_broken = True
        self.wake()

    def miss(self, parent: Scope, number: int) -> None:
        """Tells of a recorded branch that the code has no more, and needs to go on."""
        scope = self.record.open(Scope(parent.branch_path(number), parent))
        scope.strayed, scope.closed = (0, []), True
        self.out.note(scope)
        self.stray(f"branch {scope.path} won a race, and is not there")

    def add_step(
        self,
        scope: Scope,
        kind: types_pb2.StepKind.ValueType,
        name: str,
        key: str,
        *,
        body: dict[str, Any],
        call: Call[Any] | None = None,
    ) -> Entry:
        """Counts a new step and puts it on its way."""
        step_key = scope.key_for(name, key)
        scope.advance(kind, name, key)
        entry = Entry(new_step(*step_key, body), scope, call)
        self.out.add(entry)
        if call is not None:
            self.open[step_key] = call
        elif kind == types_pb2.STEP_KIND_MARKER:
            self.out.last_marker = entry
        self.wake()
        return entry

    def forsake(self, call: Call[Any]) -> None:
        """Gives up the step of a call whose code went on without it."""
        if not self.is_dropped and not call.is_forsaken and not call.is_ended:
            self.out.give_up(call)
            self.wake()

    async def recorded(self, entry: Entry) -> None:
        """Waits until the service has recorded a step."""
        if entry.acks is None:
            entry.acks = []
        await self.stay(entry.acks)

    async def stay(self, waiting: list[asyncio.Future[None]]) -> None:
        """Waits, with those that do already, until a record lets them go."""
        future = self.loop.create_future()
        waiting.append(future)
        self.unrecorded += 1
        self.block()
        try:
            await future
        finally:
            if future.cancelled():
                self.active += 1

    def let_go(self, waiting: Iterable[asyncio.Future[None]]) -> None:
        """Lets those go on that wait for a record."""
        for future in waiting:
            self.unrecorded -= 1
            if not future.done():
                self.active += 1
                future.set_result(None)

    def block(self) -> None:
        """Notes that a branch's code cannot go on."""
        self.active -= 1
        if not self.active:
            self.wake()

    # Between the code and the service

    def load(self, records: Iterable[StepRecord]) -> None:
        """Takes in the recorded steps that the task had no room for, as they were when they were read."""
        self.record.extend(records)
        self._patience = _PATIENCE + _REPLAY_TURNS * len(self.record.steps)
        early, self._early = self._early, None
        self.feed((early or {}).values())

    def feed(self, records: Iterable[StepRecord]) -> None:
        """Takes in steps that have ended; those that nobody waits for (yet) change the record only."""
        for record in records:
            key = key_of(record)
            if self._early is not None:
                self._early[key] = record
                continue
            call = self.open.get(key)
            if call is None:
                if key in self.record.steps:
                    self.record.steps[key] = record
            elif record.state in ENDED:
                del self.open[key]
                call.is_ended = True
                scope = call.scope
                if scope is None or call.is_forsaken:
                    call.resolve(record)
                    continue
                heard = self.races.heard_at_end(scope, record, is_new=True)
                if heard is not None:
                    call.interrupt(heard)
                    continue
                scope.completed = max(scope.completed, record.completion)
                call.resolve(record)

    def advance(self, records: Iterable[StepRecord]) -> None:
        """Takes in an Advance: it costs a slot until the run says again that it waits."""
        self.out.told_waiting = False
        self.feed(records)
        self.wake()

    def answered(self, ordinals: list[int], records: Iterable[StepRecord]) -> None:
        """Takes in that the Progress under way is recorded."""
        if self.ahead_of is not None:
            confirm(self)  # it was recorded with this
        out = self.out
        has_news = self._is_missed
        for entry in out.answer(ordinals):
            if entry.acks:
                has_news = True
                self.let_go(entry.acks)
        if records:
            has_news = True
            before = len(self.open)
            self.feed(records)
            if len(self.open) != before:
                out.told_waiting = False
        if has_news or out.has_steps:
            self.wake()

    def wake(self) -> None:
        """Sees at the end of the turn whether there is something to tell."""
        if not self._is_woken:
            self._is_woken = True
            self.loop.call_soon(self._turn, 0)

    def _turn(self, patience: int) -> None:
        out = self.out
        if self.is_dropped or self.is_ended or out.sent is not None:
            self._is_woken, self._is_missed = False, True
            return
        end = self.end and self._due_end()
        if self.active and patience < self._patience and end is None:
            self.loop.call_soon(self._turn, patience + 1)
            return
        self._is_woken, self._is_missed, self._patience = False, False, _PATIENCE
        if end is None and self._moves():
            return
        is_quiet = not (self.active or self.busy or self.unrecorded)
        queries = self._queries
        has_news = out.has_steps or (queries is not None and queries.has_news)
        if self.is_leaving and is_quiet and not has_news and end is None:
            self.host.release(self, "the worker is leaving")
            return
        # Code that has gone ahead says so at once, also if it can't go on: it is at work.
        if end is None and not has_news and self.ahead_of is None and (out.told_waiting or not is_quiet):
            return
        if end is not None:
            # The service compares the run's own line with the record at the end, whether it had calls of late or not.
            out.note(self.root)
        progress = out.take(is_quiet=is_quiet, end=end, record=self.record, published=queries.take() if queries else {})
        if self.ahead_of is not None:
            progress.ahead_of.append(self.ahead_of)
        self.is_ended = progress.WhichOneof("end") is not None
        self.host.report(self, progress)

    def _moves(self) -> bool:
        """Lets code go on that waits for others of the run or for what is asked of it. True if any does."""
        is_still = not self.active
        updates = self._updates
        if is_still and updates is not None and updates.move():
            return True
        if self.races.running and self.races.move(is_still=is_still):
            self.wake()
            return True
        if not is_still:
            return False
        if updates is not None and updates.accept():
            return True
        if self.cancellation.raise_where_code_waits():
            self.wake()
            return True
        if not self.has_caught_up:
            self.has_caught_up = True
            if self._queries is not None:
                self._queries.ready()
        return False

    def _due_end(self) -> dict[str, Any] | None:
        """Gives the run's end, if its time has come: who returns waits for the updates that were accepted."""
        end = self.end
        if end is None or "fail" in end or "cancelled" in end:
            return end
        return None if self._updates is not None and self._updates.are_open else end

    def leave(self) -> None:
        """Gives the run back as soon as what its code is at has been recorded."""
        self.is_leaving = True
        self.wake()

    def part(self) -> None:
        """Once it has ended: its parts know of it, and would keep it until a garbage collection."""
        if self.is_ended and not self._tasks and (self._main is None or self._main.done()):
            self._main = None
            for part in (self._updates, self.races, self._queries, self.cancellation):
                if part is not None:
                    part.part()

    def drop(self) -> None:
        """Stops the code: the run is somebody else's now. Nothing more is told."""
        self.is_dropped = True
        self.open.clear()
        for task in (*self._tasks, self._main):
            if task is not None:
                task.cancel()
