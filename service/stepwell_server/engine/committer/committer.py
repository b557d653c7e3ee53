"""The loop: takes what waits, makes a batch of it, commits, answers, and deals with what goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from typing import TYPE_CHECKING

import structlog

from stepwell_server import errors, refusals, telemetry
from stepwell_server.engine.activity_claims import ClaimedActivity, ReturnActivity
from stepwell_server.engine.committer.batch import Batch
from stepwell_server.engine.committer.keeping import Keeping
from stepwell_server.engine.committer.link import Link
from stepwell_server.engine.committer.opening import ANOTHERS, HELD
from stepwell_server.engine.committer.orders import Order, births_of, busy, label_of, namespace_of
from stepwell_server.engine.committer.times import Times
from stepwell_server.engine.committer.waiting import Entry, Waiting, answer_all, without_late
from stepwell_server.engine.grants import return_of
from stepwell_server.engine.letters import ReadLetter
from stepwell_server.engine.limits import Limits
from stepwell_server.ids import uuid7
from stepwell_server.model.mail import unpack_letter
from stepwell_server.model.runs import RunRef
from stepwell_server.store import batches
from stepwell_server.store.faults import Conflict, Lost, Rejected, Unsettled
from stepwell_server.telemetry.calls import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from stepwell_server.clock import Clock
    from stepwell_server.engine.change import Change
    from stepwell_server.engine.committer.protocols import Capacity, Listener, Queues
    from stepwell_server.model.requests import Asked
    from stepwell_server.settings import Settings
    from stepwell_server.store.connection import Connection
    from stepwell_server.store.database import Database

_log = structlog.get_logger("stepwell.committer")
_MAIL_SIZE = 256


class Committer:
    """One committer with one connection of its own; see the package."""

    _most_conflicts = 5

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        clock: Clock,
        settings: Settings,
        capacity: Capacity,
        listener: Listener,
        place: int,
        key_step: int,
        of_run: Callable[[int], Committer],
        queues: Queues,
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._capacity = capacity
        self._listener = listener
        self._of_run = of_run
        self._queues = queues
        self._batch_commands = settings.committer_batch_commands
        limits = settings.limits
        self._limits = Limits(
            limits.open_steps,
            limits.run_events,
            settings.max_returns,
            limits.search_attributes,
            limits.search_attribute_bytes,
            limits.user_task_changes,
        )
        self._waiting = Waiting(settings.committer_queue_commands, settings.committer_queue_bytes)
        self._keeping = Keeping(capacity)
        self._link = Link(database, settings, self._waiting, place, key_step)
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.on_loss: Callable[[], Sequence[Order]] = tuple
        """Answers what takes the runs back that workers of this replica hold, once commits were lost."""

    # --- callers' side ----------------------------------------------------------------------------------------------

    def submit(
        self,
        order: Order,
        size: int = 0,
        seconds: float = 30.0,
        asked: Asked | None = None,
        inbox: int | None = None,
    ) -> asyncio.Future[object]:
        """Queues a command of about `size` bytes; the answer comes after the commit. Raises QueueFull at the bound.

        With `asked`, a repeat of the request is answered as it was before. With `inbox`, that row of the inbox goes in
        the same transaction, and the answer is False if somebody else has dealt with it.
        """
        namespace_id = namespace_of(order)
        if self._stopping or not self._waiting.has_room(namespace_id):
            raise errors.QueueFull(queue="committer")
        future: asyncio.Future[object] = self._loop.create_future()
        now, call = time.monotonic(), current.get()
        entry = Entry(order, future, size, now + seconds, namespace_id, asked=asked, inbox=inbox, since=now, call=call)
        self._waiting.add(entry)
        return future

    @functools.cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """Asked for once: each time costs a system call."""
        return asyncio.get_running_loop()

    def post(self, orders: Sequence[Order]) -> None:
        """Queues mail, which nobody waits for. What would crowd out callers stays in the database until it is found."""
        for order in orders:
            if len(self._waiting) >= self._settings.committer_queue_commands // 2:
                return
            self._waiting.add(Entry(order, None, _MAIL_SIZE, time.monotonic() + 5.0, namespace_of(order)))

    def take_over(self, entry: Entry) -> None:
        """Queues a command that came to another committer, and is of a run of this one."""
        self._waiting.add(entry)

    @property
    def is_running(self) -> bool:
        """Whether what is queued will be decided."""
        return self._task is not None and not self._task.done()

    @property
    def number(self) -> int:
        """Under which it counts its batches."""
        return self._link.number

    @property
    def waiting(self) -> int:
        """How many commands wait."""
        return len(self._waiting)

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects, takes a number, and begins."""
        await self._link.have_number(await self._link.connected())
        self._task = asyncio.create_task(self._run(), name="committer")

    async def stop(self) -> None:
        """Finishes what waits, then closes the connection."""
        self._stopping = True
        self._waiting.wake()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._link.drop()

    async def _run(self) -> None:
        settings = self._settings
        while True:
            entries = self._waiting.take(self._batch_commands, settings.committer_batch_bytes)
            if not entries:
                if self._stopping and not self._waiting:
                    return
                await self._waiting.more()
                continue
            try:
                await self._commit(entries)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not stop the door for all others
                failed = error if isinstance(error, refusals.Refusal) else errors.InternalError(error_id=uuid7())
                _log.exception("batch failed", commands=len(entries), reason=str(failed))
                answer_all(entries, failed)

    async def _commit(self, entries: list[Entry]) -> None:
        """Commits the entries as one batch; more than one only after a row was refused."""
        conflicts = losses = 0
        while entries:
            try:
                await self._attempt(entries)
            except Conflict as conflict:
                if self._forget(entries):
                    continue
                conflicts += 1
                if conflicts > self._most_conflicts:
                    await self._halve(entries, conflict)
                    return
                await asyncio.sleep(random.uniform(0, 0.002) * 2**conflicts)
            except Rejected as rejection:
                # A row that is there already: what was kept is out of date, rather than the row at fault.
                if self._forget(entries):
                    continue
                await self._halve(entries, rejection)
                return
            except Lost:
                await self._link.drop()
                await self._link.rest(losses)
                losses += 1
                without_late([*self._waiting])
                entries = without_late(entries)
            except Unsettled:
                return
            else:
                return

    async def _halve(self, entries: list[Entry], cause: Exception) -> None:
        if len(entries) == 1:
            order = entries[0].order
            failed = errors.InternalError(error_id=uuid7())
            kind, error_id = type(order).__name__, str(failed.error_id)
            run = label_of(order)
            _log.error("command refused by the database", order=kind, run=run, cause=str(cause), error_id=error_id)
            answer_all(entries, busy(order) if isinstance(cause, Conflict) else failed)
            return
        middle = len(entries) // 2
        await self._commit(entries[:middle])
        await self._commit(entries[middle:])

    async def _attempt(self, entries: list[Entry]) -> None:
        if not entries:
            return
        connection = await self._link.connected(entries)
        if await self._link.lacks_commits(connection):
            await self._take_back_runs()
            connection = await self._link.connected(entries)
        self._keeping.begin(connection)
        await self._link.have_number(connection)
        await self._link.have_keys(connection, sum(births_of(entry.order) for entry in entries))
        batch = self._batch(connection, entries)
        try:
            await self._carry_out(connection, entries, batch)
        finally:
            batch.subjects.part()

    async def _take_back_runs(self) -> None:
        """Workers know more of their runs than the record: each begins anew from that, before they report again."""
        orders = self.on_loss()
        for start in range(0, len(orders), self._batch_commands):
            part = orders[start : start + self._batch_commands]
            deadline = time.monotonic() + 30.0
            await self._commit([Entry(each, None, _MAIL_SIZE, deadline, namespace_of(each)) for each in part])

    async def _carry_out(self, connection: Connection, entries: list[Entry], batch: Batch) -> None:
        write: batches.Write | None = None
        times = Times()
        try:
            async with connection.transaction():
                await batch.prepare()
                times.decided = time.monotonic()
                write = batch.to_write(self._link.number, self._link.position + 1)
                if write is not None:
                    await batches.write(connection, write)
                times.written = time.monotonic()
        except Unsettled:
            await self._link.drop()
            if not await self._settled(entries, batch, write):
                raise
        except BaseException:
            self._give_back(batch)
            raise
        if write is not None:
            self._link.position += 1
        position = self._link.position if write is not None else 0
        telemetry.metrics.commit_seconds.observe(times.end())
        telemetry.metrics.commit_batch_commands.observe(len(entries))
        self._finish(entries, batch, position)
        times.tell_if_slow(entries, batch)

    def _batch(self, connection: Connection, entries: Sequence[Entry]) -> Batch:
        return Batch(
            connection,
            entries,
            self._clock.now(),
            self._limits,
            self._capacity,
            self._link.next_key,
            self._waiting.aside,
            self._is_anothers,
            self._queues,
            self._keeping,
        )

    def _forget(self, entries: Sequence[Entry]) -> bool:
        """Has the runs of a batch that failed read anew; answers whether it was decided on what was kept of any."""
        return self._keeping.forget(entry.key for entry in entries)

    def _finish(self, entries: list[Entry], batch: Batch, position: int) -> None:
        """After the commit: those who hold workers hear first, then each caller is answered."""
        changes = batch.subjects.every()
        self._keeping.note(batch.subjects.runs.values())
        try:
            self._listener.committed(self._link.number, position, changes)
        except Exception:  # noqa: BLE001 - what is committed is committed
            _log.exception("a listener failed")
        for entry, answer in zip(entries, batch.answers, strict=True):
            if answer is HELD:
                self._set_aside(entry)
            elif answer is ANOTHERS:
                self._hand_over(entry)
            elif entry.future is not None and entry.future.done():
                self._take_back(answer)
            elif entry.future is not None:
                if isinstance(answer, refusals.Refusal):
                    entry.future.set_exception(answer)
                else:
                    entry.future.set_result(answer)
        self._deliver(batch.subjects.runs.values())

    def _take_back(self, answer: object) -> None:
        """What was granted to a caller who has left meanwhile goes back: nobody knows of it."""
        if isinstance(answer, ClaimedActivity):
            step = answer.step
            back = ReturnActivity(RunRef(None, "", step.run_key), step.ordinal, step.grants)
            self._waiting.add(Entry(back, None, _MAIL_SIZE, time.monotonic() + 30.0))
        for grant in answer if isinstance(answer, list) else ():
            order = return_of(grant, "claimer left")
            self._waiting.add(Entry(order, None, _MAIL_SIZE, time.monotonic() + 30.0))

    def _deliver(self, changes: Iterable[Change]) -> None:
        orders = [
            ReadLetter(RunRef(change.namespace_id, "", mail.run_key), mail.mail_id, unpack_letter(mail.body))
            for change in changes
            if "mail" in change.made
            for mail in change.mail
        ]
        if orders:
            self.post(orders)

    def _is_anothers(self, run_key: int) -> bool:
        """Whether a run is another committer's; what one that has ended would decide is decided here."""
        committer = self._of_run(run_key)
        return committer is not self and committer.is_running

    def _hand_over(self, entry: Entry) -> None:
        committer = self if entry.key is None else self._of_run(entry.key)
        (committer if committer.is_running else self).take_over(entry)

    def _set_aside(self, entry: Entry) -> None:
        """A run that is locked elsewhere: its commands come again, in their order, until their time is over."""
        if not self._waiting.set_aside(entry):
            answer_all([entry], busy(entry.order))

    def _give_back(self, batch: Batch) -> None:
        batch.fail()
        for task, reservation in batch.reservations:
            self._capacity.release(task, reservation)

    async def _settled(self, entries: list[Entry], batch: Batch, write: batches.Write | None) -> bool:
        """Finds out whether the batch was committed. True: it was, and is to be finished.

        Not committed: it is tried again. Not to be found out in time: the callers hear UNAVAILABLE.
        """
        if write is None:
            return True
        committed = await self._link.settle(write.batch_id, self._clock)
        _log.warning("commit was interrupted", committed=committed, commands=len(entries))
        if committed:
            return True
        self._give_back(batch)
        if committed is not None:
            raise Lost("the commit did not happen")
        self._link.forget_number()
        answer_all(entries, errors.OutcomeUnknown())
        self._listener.unsettled()
        return False
