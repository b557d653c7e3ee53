"""A run while a batch changes it, first part: the run itself, its history, its tasks, its mail, and undoing."""

from __future__ import annotations

from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from msgspec.structs import replace

from stepwell_server import errors
from stepwell_server.engine.closing import close_run
from stepwell_server.engine.lazily import Kinds, Lazily
from stepwell_server.engine.limits import ALWAYS_KEPT, Limits
from stepwell_server.engine.news import Mark, News
from stepwell_server.engine.wishes import Known
from stepwell_server.ids import pack, uuid7
from stepwell_server.model.events import CopiedEvent, Event, EventType, Origin, pack_attributes
from stepwell_server.model.mail import Letter, Mail, pack_letter
from stepwell_server.model.notices import FIRST_EVENT
from stepwell_server.model.payloads import NULL, Failure, Payload
from stepwell_server.model.runs import TERMINAL, ClosedRun, Phase, Run, unpack_details
from stepwell_server.model.tasks import Task, TaskKind

if TYPE_CHECKING:
    from datetime import datetime

    from stepwell_server.engine.names import Births

_ABSENT: Any = object()
HIGHEST_PRIORITY = 9


class RunChange(Lazily):
    """See the module, and `change`."""

    __slots__ = (
        "_mark",
        "_undo",
        "births",
        "closed_run",
        "copies",
        "events",
        "fresh",
        "known",
        "limits",
        "mail",
        "mail_done",
        "namespace",
        "news",
        "now",
        "original",
        "run",
        "stored_end",
        "task_drops",
        "tasks",
    )

    lazy: ClassVar[Kinds] = {"copies": list, "mail": list, "mail_done": list, "task_drops": dict}
    copies: list[CopiedEvent]
    mail: list[Mail]
    mail_done: list[UUID]
    task_drops: dict[int, None]

    def __init__(
        self,
        *,
        now: datetime,
        namespace: str,
        limits: Limits,
        run: Run | None,
        closed_run: ClosedRun | None = None,
        fresh: bool = False,
        births: Births | None = None,
    ) -> None:
        self.now = now
        self.births = births
        self.namespace = namespace
        self.limits = limits
        self.run = run
        self.closed_run = closed_run
        self.original = run
        self.stored_end = closed_run
        self.fresh = fresh
        self.known = Known(everything=fresh)
        self.events: list[Event] = []
        self.tasks: dict[int, Task] = {}
        self.news = News()
        self.made = []
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._lists = [self.events]
        self._mark: tuple[Run | None, ClosedRun | None, Mark | None, list[int]] = (run, closed_run, None, [])
        self._begin_empty()

    def _begin_empty(self) -> None:
        """Sets up what of the further parts most commands fill."""

    # --- undo -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Starts a command: what follows can be undone until the next `begin`."""
        self._undo.clear()
        self._mark = (self.run, self.closed_run, self.news.mark(), [*map(len, self._lists)])

    def undo(self) -> None:
        """Takes back all since `begin`."""
        for mapping, key, before in reversed(self._undo):
            if before is _ABSENT:
                mapping.pop(key, None)
            else:
                mapping[key] = before
        self._undo.clear()
        self.run, self.closed_run, told, lengths = self._mark
        self.news.undo(told)
        # Lists that were made since are as long as they were then: not at all.
        for sequence, length in zip(self._lists, chain(lengths, repeat(0)), strict=False):
            del sequence[length:]

    def _set(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:  # noqa: ANN401 - any of the maps above
        self._undo.append((mapping, key, mapping.get(key, _ABSENT)))
        mapping[key] = value

    def _pop(self, mapping: dict[Any, Any], key: Any) -> None:  # noqa: ANN401
        if key in mapping:
            self._undo.append((mapping, key, mapping.pop(key)))

    # --- the run ----------------------------------------------------------------------------------------------------

    @property
    def open(self) -> Run:
        """The run, which must be open."""
        if self.run is None:
            raise errors.RunTerminal(run_id=self.run_id, phase=self.phase.name)
        return self.run

    @property
    def is_open(self) -> bool:
        """Whether the run is open."""
        return self.run is not None

    @property
    def key(self) -> int:
        """The run's key, open or closed: another word for `run_key`, which a job has too."""
        return self.run_key

    @property
    def run_id(self) -> UUID:
        """The run's id, open or closed."""
        return (self.run or self._closed_run).run_id

    @property
    def run_key(self) -> int:
        """The run's key, open or closed."""
        return (self.run or self._closed_run).run_key

    @property
    def chain_key(self) -> int:
        """The key of the first run of its chain."""
        return unpack_details((self.run or self._closed_run).details).first_key or self.run_key

    @property
    def stored_version(self) -> int:
        """The run's version before the batch; 0 if that has made it."""
        before = None if self.fresh else self.original or self.stored_end
        return before.version if before is not None else 0

    @property
    def namespace_id(self) -> int:
        """The run's namespace, open or closed."""
        return (self.run or self._closed_run).namespace_id

    @property
    def phase(self) -> Phase:
        """The run's phase, open or closed."""
        return Phase((self.run or self._closed_run).phase)

    @property
    def _closed_run(self) -> ClosedRun:
        if self.closed_run is None:
            raise AssertionError("a change has an open or a closed run")
        return self.closed_run

    def update(self, **fields: Any) -> None:  # noqa: ANN401 - columns of runs
        """Changes columns of the open run."""
        self.run = replace(self.open, **fields)

    def event(
        self,
        kind: EventType,
        *,
        ordinal: int = 0,
        payload: Payload = NULL,
        failure: Failure | None = None,
        facts: dict[str, str] | None = None,
    ) -> int:
        """Appends to the history and answers the event's number."""
        return self._append(kind, Origin.ENGINE, ordinal, payload, pack_attributes(payload, failure, facts), None, 0)

    @property
    def has_room(self) -> bool:
        """Whether history takes more than what a run needs to end."""
        return self.open.last_event < self.limits.events

    def need_room(self) -> None:
        """Refuses new work of a run whose history is full."""
        if not self.has_room:
            value = self.open.last_event + 1
            raise errors.LimitExceeded(limit="run_events", value=value, maximum=self.limits.events)

    def caller_event(self, label: str, payload: Payload, caller_seq: int, facts: dict[str, str] | None = None) -> int:
        """Appends a caller's own event."""
        attributes = pack_attributes(payload, None, facts or None)
        return self._append(EventType.CALLER, Origin.CALLER, 0, payload, attributes, label, caller_seq)

    def copy_event(self, run_key: int, number: int) -> int:
        """Appends what an event of another run says, and answers the new event's number."""
        run = self.open
        self.copies.append(CopiedEvent(run.run_key, run.last_event + 1, self.now, run_key, number))
        self.run = replace(run, last_event=run.last_event + 1, version=run.version + 1, update_time=self.now)
        return run.last_event + 1

    def _append(  # noqa: PLR0917 - the columns of one row
        self,
        kind: int,
        origin: int,
        ordinal: int,
        payload: Payload,
        attributes: bytes | None,
        label: str | None,
        caller_seq: int,
    ) -> int:
        run = self.open
        number = run.last_event + 1
        if kind not in ALWAYS_KEPT:
            self.need_room()
        body = payload.body if payload.kind else None
        self.events.append(
            Event(
                run.run_key, number, kind, origin, ordinal, self.now, payload.kind, body, label, caller_seq, attributes
            )
        )
        self.run = replace(run, last_event=number, version=run.version + 1, update_time=self.now)
        return number

    def bump(self) -> None:
        """Raises the version for a change that history does not mention, such as a grant."""
        run = self.open
        self.run = replace(run, version=run.version + 1)

    def close(self, phase: Phase, event: int) -> None:
        """Moves the run among the closed ones. Its open steps must have ended."""
        run = self.open
        if phase not in TERMINAL:
            raise AssertionError(phase)
        self.closed_run = close_run(run, phase, self.now, event)
        if run.queued:
            self.drop_task(0)
        self.run = None

    def reopen(self, run: Run) -> None:
        """Moves a run that had ended among the open ones again; `run` is its open form."""
        self.run = run
        self.closed_run = None

    @property
    def is_reopened(self) -> bool:
        """Whether the run, which had ended, was opened in this batch, though it may have ended again since."""
        return self.stored_end is not None and self.closed_run is not self.stored_end

    @property
    def has_ended(self) -> bool:
        """Whether the run ended in this batch."""
        return self.run is None and (self.fresh or self.original is not None or self.is_reopened)

    @property
    def notices(self) -> list[int]:
        """Where history tells what watches tell of a run besides its end, as numbers of events."""
        events = [FIRST_EVENT, *self.news.notices] if self.fresh else self.news.notices
        start = pack(self.run_key, 0)
        return [start | event for event in events]

    # --- tasks and mail ---------------------------------------------------------------------------------------------

    def enqueue(  # noqa: PLR0917 - the columns of one row
        self,
        ordinal: int,
        kind: TaskKind,
        queue: str,
        type_name: str,
        priority: int,
        ready_time: datetime | None = None,
    ) -> None:
        """Puts a task into its queue, ready now unless another time is given."""
        run = self.open
        task = Task(
            run_key=run.run_key,
            ordinal=ordinal,
            namespace_id=run.namespace_id,
            task_queue=queue,
            kind=kind,
            type=type_name,
            rank=HIGHEST_PRIORITY - priority,
            ready_time=ready_time or self.now,
            build_id=run.build_id if kind == TaskKind.RUN else "",
            fairness_key=None if run.details is None else unpack_details(run.details).fairness_key,
        )
        self._set(self.tasks, ordinal, task)
        if kind != TaskKind.DRIVEN_ACTIVITY:
            self.news.offer(task)

    def drop_task(self, ordinal: int) -> None:
        """Takes a task out of its queue, if it is in it."""
        if ordinal in self.tasks:
            self._pop(self.tasks, ordinal)
        elif not self.fresh:
            self._set(self.task_drops, ordinal, None)

    def post(self, run_key: int, letter: Letter) -> None:
        """Sends mail to another run."""
        self.mail.append(Mail(uuid7(), run_key, self.now, pack_letter(letter)))
