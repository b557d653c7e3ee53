"""The first half of a batch: what its commands name is found, locked and loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from stepwell_server import errors, refusals
from stepwell_server.engine.committer import lookups
from stepwell_server.engine.committer.granting import Granting
from stepwell_server.engine.committer.orders import AnyRef, Order, absent, may_see, ref_of, space_of, start_of
from stepwell_server.engine.committer.protocols import (
    ActivityClaim,
    AnyChange,
    Capacity,
    Claim,
    NoQueues,
    Queues,
)
from stepwell_server.engine.committer.recalling import Recalling
from stepwell_server.engine.committer.subjects import Subject, Subjects
from stepwell_server.engine.committer.waiting import Entry
from stepwell_server.engine.jobs import StartJob
from stepwell_server.engine.letters import ReadLetter
from stepwell_server.engine.limits import Limits
from stepwell_server.engine.signal_with_start import SignalWithStartRun
from stepwell_server.engine.starts import StartRun
from stepwell_server.engine.wishes import Missing
from stepwell_server.model.jobs import JOB_ORDINAL, JobRef
from stepwell_server.model.runs import RunRef
from stepwell_server.store import batch_reads

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence
    from datetime import datetime

    from stepwell_server.engine.commands import Command
    from stepwell_server.engine.committer.keeping import Keeping
    from stepwell_server.engine.committer.orders import Birth
    from stepwell_server.store.connection import Connection


class _NotHere:
    """Stands as the answer of a command that is not decided in this batch."""


# Its run is locked elsewhere; its run is another committer's.
HELD, ANOTHERS = _NotHere(), _NotHere()
_NO_QUEUES = NoQueues()


class Opening:
    """A batch up to where its commands can be decided. An answer that is not None stands already."""

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
        kept: Keeping | None = None,
    ) -> None:
        self._connection = connection
        self._entries = entries
        # What is asked again and again, found out once: who is of what kind, what each names, whether that is a job.
        self._places: dict[type[Order], list[int]] = {}
        for place, entry in enumerate(entries):
            self._places.setdefault(type(entry.order), []).append(place)
        self._refs = [ref_of(entry.order) for entry in entries]
        self._of_job = [isinstance(ref, JobRef) for ref in self._refs]
        self._now = now
        self._limits = limits
        self._aside = aside
        self._queues = queues
        self._is_anothers = is_anothers
        self._kept = kept
        self.subjects = Subjects(connection, now, limits, next_key)
        self.answers: list[object] = [None] * len(entries)
        self._grants = Granting(connection, self.subjects, capacity, now, HELD, queues)
        self._requests = Recalling(connection, now)
        self._inbox_done: list[int] = []

    async def _load(self) -> list[int]:
        """Loads what the commands name; answers the places of those that are to be decided."""
        self.answers = await self._requests.recall(self._entries)
        await self._look_up_starts()
        claims = self._of_kind(Claim, ActivityClaim)
        if claims:
            await self._grants.claim((place, self._entries[place].order) for place in claims)
        await self._resolve()
        named = self._named_here()
        if self._kept is not None:
            self._recall(self._kept, named)
        named |= {(ordinal == JOB_ORDINAL, key) for key, ordinal in self._grants.tasks}
        self._mark_absent(*await self.subjects.open(named))
        await self._look_again_for_names()
        await self._leave_applied_mail()
        await self._leave_taken_rows()
        places = [place for place, answer in enumerate(self.answers) if answer is None]
        await self._load_wanted(places)
        return places

    def _of_kind(self, *kinds: type[Order]) -> list[int]:
        """The places of the commands of these kinds."""
        return [place for kind in kinds for place in self._places.get(kind, ())]

    async def _look_up_starts(self) -> None:
        """Finds out which ids and names are borne already, and what starts need to be there until the batch ends."""
        births = self._of_kind(StartRun, SignalWithStartRun)
        starts = births + self._of_kind(StartJob)
        if not starts:
            return
        await self.subjects.look_up_starts([self._entries[place].order for place in starts])
        await self._hold_namespaces(starts)
        await self._hold_definitions(births)
        for place in births:
            entry = self._entries[place]
            entry.key = cast("Birth", entry.order).open_key(self.subjects.births)

    async def _hold_namespaces(self, starts: Iterable[int]) -> None:
        """Refuses starts in namespaces that are gone, and leaves for later those in one that is being deleted."""
        spaces = {place: space for place in starts if (space := space_of(self._entries[place].order)) is not None}
        absent = await lookups.absent_namespaces(self._connection, spaces.values())
        for place, (namespace_id, name) in spaces.items() if absent else ():
            if namespace_id in absent and self.answers[place] is None:
                self.answers[place] = HELD if absent[namespace_id] else errors.NamespaceNotFound(namespace=name)

    async def _hold_definitions(self, births: Iterable[int]) -> None:
        """Leaves for later those starts whose definition is being deleted."""
        named = {
            place: (start.new.namespace_id, start.new.definition)
            for place in births
            if (start := start_of(self._entries[place].order)) is not None and start.new.definition is not None
        }
        if not named:
            return
        known = self.subjects.births
        busy = await lookups.hold_definitions(self._connection, known, named.values())
        for place, wanted in named.items():
            followed = known.definitions[wanted]
            if followed is not None and followed.key in busy and self.answers[place] is None:
                self.answers[place] = HELD

    async def _resolve(self) -> None:
        """Finds what commands name, but for that which a start of this batch may yet make."""
        unknown: dict[int, AnyRef] = {}
        for place, ref in enumerate(self._refs):
            if ref is None or self.answers[place] is not None:
                continue
            entry = self._entries[place]
            if ref.is_key:
                entry.key = ref.key
            elif entry.key is None or ref.is_name:
                unknown[place] = ref
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
                named.add((self._of_job[place], entry.key))
        return named

    def _recall(self, kept: Keeping, named: set[Subject]) -> None:
        """Takes runs as they were kept, but for those of which a task is claimed: whoever claims locks."""
        claimed = {key for key, _ in self._grants.tasks}
        wanted = {key for of_job, key in named if not of_job and key not in claimed}
        self.subjects.recall(kept.find(wanted, self._entries))

    def _mark_absent(self, held: set[Subject], nowhere: set[Subject]) -> None:
        for place, entry in enumerate(self._entries):
            if entry.key is None or self.answers[place] is not None:
                continue
            ref, subject = self._refs[place], (self._of_job[place], entry.key)
            if subject in held or entry.key in self._aside or (ref is None and subject in nowhere):
                self.answers[place] = HELD
            elif ref is not None and (subject in nowhere or not may_see(ref, self._change(place, entry.key))):
                self.answers[place] = absent(ref)

    async def _look_again_for_names(self) -> None:
        """A run named by its workflow id may end, and another take the name, before it is locked: that one is meant."""
        ended: dict[int, RunRef] = {}
        for place, ref in enumerate(self._refs):
            if isinstance(ref, RunRef) and ref.is_name and self.answers[place] is None:
                change = self.subjects.runs.get(self._entries[place].key or 0)
                if change is not None and change.run is None:
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
            place: cast("ReadLetter", self._entries[place].order).mail_id
            for place in self._of_kind(ReadLetter)
            if self.answers[place] is None
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
            change = self._change(place, entry.key)
            # What is about something that there is wants to see of it.
            wants = cast("Command", entry.order).wants() if change is not None else None
            if change is not None and wants is not None:
                wanted.append((change, wants))
        runs = self.subjects.runs
        wanted += [
            (runs[key], Missing(ordinals=[ordinal])) for key, ordinal in self._grants.tasks if ordinal and key in runs
        ]
        await self.subjects.load(wanted)

    def _change(self, place: int, key: int | None) -> AnyChange | None:
        """The run or the job of that key, as the command at that place means it."""
        if key is None:
            return None
        return self.subjects.jobs.changes.get(key) if self._of_job[place] else self.subjects.runs.get(key)
