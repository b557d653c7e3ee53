"""One batch: load, decide, match with workers, write. Lives for one transaction.

What it loads is found in `opening`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

import structlog
from msgspec.structs import replace

from stepwell_server import errors, refusals
from stepwell_server.engine.commands import Refused
from stepwell_server.engine.committer import lookups
from stepwell_server.engine.committer.collecting import collect, collect_names
from stepwell_server.engine.committer.opening import HELD, Opening
from stepwell_server.engine.committer.orders import about, absent
from stepwell_server.engine.committer.protocols import ActivityClaim, AnyChange, Claim, Reservation
from stepwell_server.engine.jobs import StartJob
from stepwell_server.engine.signal_with_start import SignalWithStartRun
from stepwell_server.engine.starts import StartRun
from stepwell_server.engine.wishes import Missing
from stepwell_server.ids import uuid7
from stepwell_server.store import batches

if TYPE_CHECKING:
    from stepwell_server.engine.commands import Command
    from stepwell_server.model.tasks import Task

_log = structlog.get_logger("stepwell.committer")


# What may change of a run though its row stays as it was.
_BESIDE_THE_ROW = frozenset({"mail_done", "touched_sides", "touched_attributes"})


class Batch(Opening):
    """See the module."""

    # Whether a command that wants more holds up all later ones, and not only those of its run.
    _is_in_turn = False
    load_time: float | None = None
    """When all that its commands name had been loaded, by the steady clock."""

    async def prepare(self) -> None:
        """Loads, decides, and matches fresh tasks with waiting workers."""
        places = await self._load()
        self.load_time = time.monotonic()
        await self._decide(places)
        self._grants.match()
        await self.subjects.hold_unchanged()

    @property
    def reservations(self) -> list[tuple[Task, Reservation]]:
        """The places at workers that are kept for the batch's tasks."""
        return self._grants.reservations

    def fail(self) -> None:
        """It was not committed."""
        self._grants.fail()

    # --- deciding ---------------------------------------------------------------------------------------------------

    async def _decide(self, places: list[int]) -> None:
        """Decides in the order of arrival. A decision that wants more holds up the later ones of its run only."""
        late: set[int] = set()
        while places:
            again: list[int] = []
            wishes: dict[int, tuple[int | None, Missing]] = {}
            stalled: set[int] = set()
            for place in places:
                key = self._target(place)
                if key in late:
                    self.answers[place] = HELD
                    continue
                if key not in stalled and not (self._is_in_turn and again):
                    wants = self._decide_one(place, key)
                    if wants is None:
                        continue
                    wishes[place] = key, wants
                    stalled |= {key} if key is not None else set()
                again.append(place)
            for place in await self._fulfil(wishes) if wishes else ():
                self.answers[place] = HELD
                key, _ = wishes[place]
                late |= {key} if key is not None else set()
                again.remove(place)
            places = again

    async def _fulfil(self, wishes: dict[int, tuple[int | None, Missing]]) -> list[int]:
        """Loads what decisions want; answers the places of those that want what is locked elsewhere: a run, a topic."""
        others = {key for _, wants in wishes.values() for key in wants.others}
        gone: set[int] = set()
        if others:
            held, nowhere = await self.subjects.open({(False, key) for key in others})
            gone = {key for _, key in held | nowhere}
        missing: list[tuple[AnyChange, Missing]] = []
        names: set[tuple[int, str]] = set()
        for place, (key, wants) in wishes.items():
            change = self._change(place, key)
            if change is None:
                names |= wants.names
            else:
                missing.append((change, wants))
        missing += [(self.subjects.runs[key], Missing(open_steps=True)) for key in others - gone]
        await self.subjects.load(missing)
        await lookups.look_up_names(self._connection, self.subjects.births, names)
        busy = [place for place, (_, wants) in wishes.items() if wants.others & gone]
        return busy + [place for place, (key, wants) in wishes.items() if self._lacks(key, wants)]

    def _lacks(self, key: int | None, wants: Missing) -> bool:
        """Whether somebody has the lock of what a decision wants: a topic, a line, or an ended run's attributes."""
        if not wants.lines <= self.subjects.births.free_slots.keys():
            return True
        if not wants.topics and not wants.search_attributes:
            return False
        change = self.subjects.runs.get(key or 0)
        if change is None or not wants.topics <= change.topics.keys():
            return True
        return wants.search_attributes and not change.known.search_attributes

    def _decide_one(self, place: int, key: int | None) -> Missing | None:
        order, asked = self._entries[place].order, self._entries[place].asked
        # A repeat may stand in the same batch as what it repeats.
        if asked is not None and (known := self._requests.answer(asked)) is not None:
            self.answers[place] = known
            return None
        if isinstance(order, (Claim, ActivityClaim)):
            self.answers[place] = self._grants.granted(place, order)
            return None
        change, subjects = self._change(place, key), self.subjects
        subjects.begin(change)
        try:
            if isinstance(order, StartJob):
                answer: object = order.decide(subjects.jobs.births, self._now, self._limits)
            elif isinstance(order, (StartRun, SignalWithStartRun)):
                answer = order.decide(subjects.births, self._now, self._limits)
            elif change is not None:
                answer = cast("Any", order).decide(change)  # a run or a job, as its reference says
            else:
                raise absent(cast("Command", order).ref)
        except (refusals.Refusal, Missing) as told:
            subjects.undo(change)
            if isinstance(told, Missing):
                return told
            # Who raised it knows the batch, which should be gone before the caller has dealt with the refusal.
            answer = told.with_traceback(None)
        except Exception:  # noqa: BLE001 - a fault of ours in one decision is no reason to fail the others
            failed = errors.InternalError(error_id=uuid7())
            with about(order, change):
                _log.exception("decision failed", order=type(order).__name__, error_id=str(failed.error_id))
            subjects.undo(change)
            answer = failed
        self.answers[place] = answer.refusal if isinstance(answer, Refused) else answer
        if asked is not None:
            self._requests.note(asked, self.answers[place])
        number = self._entries[place].inbox
        if number is not None and not isinstance(self.answers[place], refusals.Refusal):
            self._inbox_done.append(number)
        return None

    def _target(self, place: int) -> int | None:
        """What a command changes, if there is that yet. A name or an id means what this batch has made."""
        entry, ref = self._entries[place], self._refs[place]
        if ref is not None:
            return self.subjects.born_as(ref) or entry.key if entry.key is None or ref.is_name else entry.key
        if isinstance(entry.order, (StartRun, SignalWithStartRun)):
            return entry.order.open_key(self.subjects.births)
        return entry.key

    def _with_key(self, task: Task) -> Task:
        """Where keys take turns, what has none is a key of its own."""
        if task.fairness_key is not None or self._queues.weights_of(task.namespace_id, task.task_queue) is None:
            return task
        return replace(task, fairness_key="")

    # --- writing ----------------------------------------------------------------------------------------------------

    def to_write(self, committer: int, position: int) -> batches.Write | None:
        """What is to be written, or None if nothing has changed."""
        write = batches.Write(uuid7(), committer, position, self._now)
        for change in self.subjects.runs.values():
            is_changed = change.run is not change.original or change.fresh or change.is_reopened
            # A letter that came to nothing goes, and the run stays as it was.
            if is_changed or not _BESIDE_THE_ROW.isdisjoint(change.made):
                collect(write, change)
        collect_names(write, self.subjects.births)
        self.subjects.jobs.collect(write)
        write.requests = self._requests.made
        write.inbox_done = self._inbox_done
        write.tasks_gone.extend(self._grants.stale)
        write.tokens.extend(self._grants.spent)
        write.key_tokens.extend(self._grants.keys_spent)
        if self._queues.any_fair:
            write.tasks = [self._with_key(task) for task in write.tasks]
        return None if write.is_empty else write
