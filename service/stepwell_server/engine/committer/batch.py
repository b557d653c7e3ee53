"""One batch: load, decide, match with workers, write. Lives for one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import structlog
from msgspec.structs import replace

from stepwell_server import errors, refusals
from stepwell_server.engine.commands import Refused
from stepwell_server.engine.committer import lookups
from stepwell_server.engine.committer.collecting import collect, collect_names
from stepwell_server.engine.committer.granting import Granting
from stepwell_server.engine.committer.orders import (
    AnyClaim,
    AnyRef,
    Birth,
    Order,
    Writes,
    about,
    absent,
    is_of_job,
    may_see,
    ref_of,
    space_of,
    start_of,
)
from stepwell_server.engine.committer.protocols import AnyChange, Capacity, NoQueues, Queues, Reservation
from stepwell_server.engine.committer.recalling import Recalling
from stepwell_server.engine.committer.subjects import Subject, Subjects
from stepwell_server.engine.committer.waiting import Entry
from stepwell_server.engine.jobs import StartJob
from stepwell_server.engine.letters import ReadLetter
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.wishes import Missing
from stepwell_server.ids import uuid7
from stepwell_server.model.jobs import JOB_ORDINAL
from stepwell_server.model.runs import RunRef
from stepwell_server.store import batch_reads, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from datetime import datetime

    from stepwell_server.engine.commands import Command
    from stepwell_server.model.tasks import Task
    from stepwell_server.store.database import Connection

_log = structlog.get_logger("stepwell.committer")


class _NotHere:
    """Stands as the answer of a command that is not decided in this batch."""


# Its run is locked elsewhere; its run is another committer's.
HELD, ANOTHERS = _NotHere(), _NotHere()
_NO_QUEUES = NoQueues()


class Batch:
    """See the module."""

    # Whether a command that wants more holds up all later ones, and not only those of its run.
    _is_in_turn = False

    def __init__(  # noqa: PLR0917 - a batch is made in one place
        self,
        connection: Connection,
        entries: Sequence[Entry],
        now: datetime,
        limits: Limits,
        capacity: Capacity,
        next_key: Callable[[], int],
        aside: Container[int | None] = (),
        is_anothers: Callable[[int], bool] = lambda _: False,
        queues: Queues = _NO_QUEUES,
    ) -> None:
        self._connection = connection
        self._entries = entries
        self._now = now
        self._limits = limits
        self._aside = aside
        self._queues = queues
        self._is_anothers = is_anothers
        self.subjects = Subjects(connection, now, limits, next_key)
        self.answers: list[object] = [None] * len(entries)
        self._grants = Granting(connection, self.subjects, capacity, now, HELD, queues)
        self._requests = Recalling(connection, now)
        self._inbox_done: list[int] = []

    async def prepare(self) -> None:
        """Loads, decides, and matches fresh tasks with waiting workers."""
        await self._decide(await self._load())
        self._grants.match()

    @property
    def reservations(self) -> list[tuple[Task, Reservation]]:
        """The places at workers that are kept for the batch's tasks."""
        return self._grants.reservations

    # --- loading ----------------------------------------------------------------------------------------------------

    async def _load(self) -> list[int]:
        """Loads what the commands name; answers the places of those that are to be decided."""
        entries, orders = self._entries, [entry.order for entry in self._entries]
        self.answers = await self._requests.recall(entries)
        await self.subjects.look_up_starts(orders)
        await self._hold_namespaces(orders)
        await self._hold_definitions(orders)
        for entry in entries:
            if isinstance(entry.order, Birth):
                entry.key = entry.order.open_key(self.subjects.births)
        await self._grants.claim((place, entry.order) for place, entry in enumerate(entries))
        await self._resolve()
        named = self._named_here() | {(ordinal == JOB_ORDINAL, key) for key, ordinal in self._grants.tasks}
        self._mark_absent(*await self.subjects.open(named))
        await self._look_again_for_names()
        await self._leave_applied_mail()
        await self._leave_taken_rows()
        places = [place for place, answer in enumerate(self.answers) if answer is None]
        await self._load_wanted(places)
        return places

    async def _hold_namespaces(self, orders: Sequence[Order]) -> None:
        """Refuses starts in namespaces that are gone, and leaves for later those in one that is being deleted."""
        spaces = {place: space for place, order in enumerate(orders) if (space := space_of(order)) is not None}
        absent = await lookups.absent_namespaces(self._connection, spaces.values())
        for place, (namespace_id, name) in spaces.items() if absent else ():
            if namespace_id in absent and self.answers[place] is None:
                self.answers[place] = HELD if absent[namespace_id] else errors.NamespaceNotFound(namespace=name)

    async def _hold_definitions(self, orders: Sequence[Order]) -> None:
        """Leaves for later those starts whose definition is being deleted."""
        named = {
            place: (start.new.namespace_id, start.new.definition)
            for place, order in enumerate(orders)
            if (start := start_of(order)) is not None and start.new.definition is not None
        }
        if not named:
            return
        births = self.subjects.births
        busy = await lookups.hold_definitions(self._connection, births, named.values())
        for place, wanted in named.items():
            followed = births.definitions[wanted]
            if followed is not None and followed.key in busy and self.answers[place] is None:
                self.answers[place] = HELD

    async def _resolve(self) -> None:
        """Finds what commands name, but for that which a start of this batch may yet make."""
        unknown: dict[int, AnyRef] = {
            place: ref
            for place, entry in enumerate(self._entries)
            if (ref := ref_of(entry.order)) is not None and (entry.key is None or ref.is_name)
            if self.answers[place] is None
        }
        if not unknown:
            return
        for place, key in (await self.subjects.resolve(unknown)).items():
            if not isinstance(key, refusals.Refusal):
                self._entries[place].key = key
            elif not self.subjects.is_awaited(unknown[place]):
                self.answers[place] = key

    def _named_here(self) -> set[Subject]:
        """What is to be locked: neither another committer's, nor aside."""
        named: set[Subject] = set()
        for place, entry in enumerate(self._entries):
            if entry.key is None or entry.key in self._aside or self.answers[place] is not None:
                continue
            if self._is_anothers(entry.key):
                self.answers[place] = ANOTHERS
            else:
                named.add((is_of_job(entry.order), entry.key))
        return named

    def _mark_absent(self, held: set[Subject], nowhere: set[Subject]) -> None:
        for place, entry in enumerate(self._entries):
            if entry.key is None or self.answers[place] is not None:
                continue
            ref, subject = ref_of(entry.order), (is_of_job(entry.order), entry.key)
            change = self.subjects.of(entry.order, entry.key)
            if subject in held or entry.key in self._aside or (ref is None and subject in nowhere):
                self.answers[place] = HELD
            elif ref is not None and (subject in nowhere or not may_see(ref, change)):
                self.answers[place] = absent(ref)

    async def _look_again_for_names(self) -> None:
        """A run named by its workflow id may end, and another take the name, before it is locked: that one is meant."""
        ended: dict[int, RunRef] = {}
        for place, entry in enumerate(self._entries):
            ref, change = ref_of(entry.order), self.subjects.runs.get(entry.key or 0)
            is_open = change is None or change.run is not None
            if isinstance(ref, RunRef) and ref.is_name and not is_open and self.answers[place] is None:
                ended[place] = ref
        if not ended:
            return
        for place, key in zip(ended, await lookups.resolve(self._connection, list(ended.values())), strict=True):
            if key != self._entries[place].key:
                self._entries[place].key = None
                self.answers[place] = HELD

    async def _leave_applied_mail(self) -> None:
        """Answers mail that somebody else has applied meanwhile, or that stands twice in this batch.

        Asked once its run is locked: whoever applied it held that lock until its row was gone.
        """
        letters = {
            place: entry.order.mail_id
            for place, entry in enumerate(self._entries)
            if isinstance(entry.order, ReadLetter) and self.answers[place] is None
        }
        if not letters:
            return
        left = await batch_reads.mail_left(self._connection, list(letters.values()))
        for place, mail_id in letters.items():
            if mail_id in left:
                left.remove(mail_id)
            else:
                self.answers[place] = False

    async def _leave_taken_rows(self) -> None:
        """Answers what was asked for in the inbox and somebody else has dealt with, or stands twice in this batch.

        Asked once its run is locked, as for mail. Two starts of one run meet at its id.
        """
        asked = {
            place: entry.inbox
            for place, entry in enumerate(self._entries)
            if entry.inbox is not None and self.answers[place] is None
        }
        if not asked:
            return
        left = await batch_reads.inbox_left(self._connection, list(asked.values()))
        for place, number in asked.items():
            if number in left:
                left.remove(number)
            else:
                self.answers[place] = False

    async def _load_wanted(self, places: Sequence[int]) -> None:
        wanted: list[tuple[AnyChange, Missing]] = []
        for place in places:
            entry = self._entries[place]
            change = self.subjects.of(entry.order, entry.key)
            if change is None or isinstance(entry.order, AnyClaim | StartJob | Writes):
                continue
            wants = entry.order.wants()
            if wants is not None:
                wanted.append((change, wants))
        runs = self.subjects.runs
        wanted += [
            (runs[key], Missing(ordinals=[ordinal])) for key, ordinal in self._grants.tasks if ordinal and key in runs
        ]
        await self.subjects.load(wanted)

    # --- deciding ---------------------------------------------------------------------------------------------------

    async def _decide(self, places: list[int]) -> None:
        """Decides in the order of arrival. A decision that wants more holds up the later ones of its run only."""
        late: set[int] = set()
        while places:
            again: list[int] = []
            wishes: dict[int, tuple[int | None, Missing]] = {}
            stalled: set[int] = set()
            for place in places:
                key = self._target(self._entries[place])
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
            for place in await self._fulfil(wishes):
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
            change = self.subjects.of(self._entries[place].order, key)
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
        if (known := self._requests.answer(asked)) is not None:
            self.answers[place] = known
            return None
        if isinstance(order, AnyClaim):
            self.answers[place] = self._grants.granted(place, order)
            return None
        change, subjects = self.subjects.of(order, key), self.subjects
        subjects.begin(change)
        try:
            if isinstance(order, StartJob):
                answer: object = order.decide(subjects.jobs.births, self._now, self._limits)
            elif isinstance(order, Birth):
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
        self._requests.note(asked, self.answers[place])
        number = self._entries[place].inbox
        if number is not None and not isinstance(self.answers[place], refusals.Refusal):
            self._inbox_done.append(number)
        return None

    def _target(self, entry: Entry) -> int | None:
        """What a command changes, if there is that yet. A name or an id means what this batch has made."""
        order, key = entry.order, entry.key
        if isinstance(order, Birth):
            key = order.open_key(self.subjects.births)
        elif (ref := ref_of(order)) is not None and (key is None or ref.is_name):
            key = self.subjects.born_as(ref) or key
        return key

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
            if is_changed or change.mail_done or change.touched_sides or change.touched_attributes:
                collect(write, change)
        collect_names(write, self.subjects.births)
        self.subjects.jobs.collect(write)
        write.requests = self._requests.made
        write.inbox_done = self._inbox_done
        write.tasks_gone.extend(self._grants.stale)
        write.tokens.extend(self._grants.spent)
        if self._queues.any_fair:
            write.tasks = [self._with_key(task) for task in write.tasks]
        return None if write.is_empty else write
