"""Who waits for runs and jobs to end: long polls for one, streams for all news of a namespace.

Each batch of a committer has a position; batches of one committer commit one after another. So "what was seen" is a
position per committer, and nothing committed late can hide behind a later number. One feed serves a replica: it takes
its own committers' batches from memory, as long as they come without a gap, and all others, or after a gap, from the
table. Each batch passes once. A stream follows the feed through a bounded queue; one that is too slow, or begins at a
cursor, first reads the table up to where the feed stands and then goes on with what has queued since.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from uuid import UUID

import structlog

from stepwell_server import errors, telemetry
from stepwell_server.dispatch.audience import Audience
from stepwell_server.dispatch.cursors import Cursor, pack_cursor, unpack_cursor
from stepwell_server.dispatch.ends import end_of, has_ended, notices_of, portions
from stepwell_server.dispatch.watch_streams import ONLY_ENDS, AnyEnd, AnyNews, Found, Stream, Watched, told_of
from stepwell_server.ids import ANY_ID, IdEnding
from stepwell_server.model.runs import RunRef, unpack_details
from stepwell_server.store import job_ends, jobs, runs, watches
from stepwell_server.store.job_ends import JobEnd
from stepwell_server.store.notices import read_notices
from stepwell_server.store.watches import BatchNews, End

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence

    from stepwell_server.clock import Clock
    from stepwell_server.engine.committer.protocols import AnyChange
    from stepwell_server.model.jobs import JobRef
    from stepwell_server.model.notices import RunNews
    from stepwell_server.settings import Settings
    from stepwell_server.store.database import Database
    from stepwell_server.store.jobs import SeenJob
    from stepwell_server.store.namespaces import NamespaceRow
    from stepwell_server.store.notices import Notice
    from stepwell_server.store.runs import SeenRun

_log = structlog.get_logger("stepwell.watches")
AnySeen = TypeVar("AnySeen", "SeenRun", "SeenJob")
Seen = TypeVar("Seen")
_READ_BATCHES = 256
_PRUNED = "it is older than what is kept; begin again without one"


class News(NamedTuple):
    """What one message tells, all of it watched, and the cursor after it."""

    told: list[AnyNews]
    cursor: str


class Watches:
    """All waits and streams of this replica, and the feed that serves them while there are any."""

    def __init__(self, database: Database, clock: Clock, settings: Settings) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._positions: dict[int, int] | None = None  # how far the feed has come; None: there is none
        self._users = 0
        self._beginning = asyncio.Lock()
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._waits: dict[int, set[asyncio.Event]] = {}
        self._streams = Audience()
        self._stopping = False
        # However many wait, half of the pool is left to other calls.
        self._reads = asyncio.Semaphore(max(1, settings.pool_connections // 2))

    # --- the feed ---------------------------------------------------------------------------------------------------

    def committed(self, committer: int, position: int, changes: Sequence[AnyChange]) -> None:
        """Takes in a batch that a committer of this replica has just committed."""
        if self._positions is None:
            return
        known = self._positions.get(committer, 0)
        if position == known + 1:
            ended = [change for change in changes if has_ended(change)]
            found = Found({change.key: end_of(change) for change in ended} if self._streams else {}, {})
            if any(watched.has_notices for watched in self._streams.watched):
                for change in changes:
                    found.notices.update(notices_of(change))
            self._pass(BatchNews(committer, position, [change.key for change in ended], [*found.notices]), found)
        elif position > known:
            self._due.set()

    def hint(self) -> None:
        """Other replicas may have committed: looks at once."""
        self._due.set()

    def _pass(self, batch: BatchNews, found: Found, read: Collection[Watched] | None = None) -> None:
        """Lets a batch by. `read` is what was watched when its news were read, where not all were."""
        if self._positions is None:
            return
        self._positions[batch.committer] = batch.position
        for key in batch.keys:
            for waiting in self._waits.get(key, ()):
                waiting.set()
        self._streams.tell(batch, found, read)

    @contextlib.asynccontextmanager
    async def _feed(self) -> AsyncIterator[dict[int, int]]:
        """Keeps the feed going; from when this is entered, no end passes unnoticed."""
        self._users += 1
        try:
            async with self._beginning:
                if self._positions is None:
                    self._positions = await watches.heads(self._database)
                    self._task = asyncio.create_task(self._follow(), name="watches")
            yield self._positions
        finally:
            self._users -= 1

    async def _follow(self) -> None:
        try:
            while self._users and not self._stopping:
                self._due.clear()
                try:
                    await self._look()
                except Exception as error:  # noqa: BLE001 - the database may be away for a while
                    _log.warning("watches could not look", cause=telemetry.words_of(error))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.watch_poll_seconds):
                        await self._due.wait()
        finally:
            self._positions = None

    async def _look(self) -> None:
        """Takes from the table what did not come from memory."""
        for committer, last in (await watches.heads(self._database)).items():
            while self._positions is not None and (known := self._positions.get(committer, 0)) < last:
                rows = await watches.batches_after(self._database, committer, known, _READ_BATCHES)
                if not rows:
                    break
                await self._pass_recorded(rows)

    async def _pass_recorded(self, rows: Iterable[BatchNews]) -> None:
        for part in portions(rows):
            watched = set(self._streams.watched)
            found = await self._read(part, watched)
            for row in part:
                # Memory may have been faster meanwhile.
                if self._positions is not None and row.position > self._positions.get(row.committer, 0):
                    self._pass(row, found, watched)

    async def _read(self, part: Sequence[BatchNews], watched: Collection[Watched]) -> Found:
        """What is watched of some batches. A key does not say whether it is a run's or a job's."""
        keys = [key for row in part for key in row.keys]
        ends: dict[int, AnyEnd] = {}
        notices: dict[int, Notice] = {}
        of_runs = {each.namespace_id for each in watched if each.kind is End}
        if keys and of_runs:
            ends |= await watches.read_ends(self._database, keys, of_runs)
        of_jobs = {each.namespace_id for each in watched if each.kind is JobEnd}
        if keys and of_jobs:
            ends |= await job_ends.read_ends(self._database, keys, of_jobs)
        noticed = {each.namespace_id for each in watched if each.has_notices}
        numbers = [number for row in part for number in row.notices or ()]
        if numbers and noticed:
            notices = await read_notices(self._database, numbers, noticed)
        return Found(ends, notices)

    async def stop(self) -> None:
        """Ends the streams, which their clients continue elsewhere from their cursors, and sends away who waits."""
        self._stopping = True
        self._due.set()
        for stream in self._streams:
            stream.arrived.set()
        for waits in self._waits.values():
            for ended in waits:
                ended.set()
        if self._task is not None:
            await self._task

    # --- waiting for one --------------------------------------------------------------------------------------------

    async def wait(self, ref: RunRef, seconds: float, *, follow: bool) -> SeenRun:
        """The run once it has ended, or as it is when the time is over; with `follow`, the last of its chain."""
        end = asyncio.get_running_loop().time() + seconds
        async with self._feed():
            while True:
                run = await self._wait_for_one(ref, end)
                continued = unpack_details(run.details).continued_run_id if follow and run.is_closed else ""
                if not continued:
                    return run
                ref = RunRef(run.namespace_id, ref.namespace, run_id=UUID(continued))

    async def look(self, read: Callable[[], Awaitable[Seen]]) -> Seen:
        """Reads for somebody who waits."""
        async with self._reads:
            return await read()

    async def _wait_for_one(self, ref: RunRef, end: float) -> SeenRun:
        run = await self.look(functools.partial(runs.find, self._database, ref))
        if run.is_closed:
            return run
        ref = RunRef(run.namespace_id, ref.namespace, run_key=run.run_key)
        return await self._wait_for_end(run.run_key, functools.partial(runs.find, self._database, ref), end)

    async def wait_for_job(self, ref: JobRef, seconds: float) -> SeenJob:
        """The job once it has ended, or as it is when the time is over."""
        end = asyncio.get_running_loop().time() + seconds
        async with self._feed():
            job = await self.look(functools.partial(jobs.find, self._database, ref))
            if job.is_closed:
                return job
            return await self._wait_for_end(job.job_key, functools.partial(jobs.find, self._database, ref), end)

    async def _wait_for_end(self, key: int, look: Callable[[], Awaitable[AnySeen]], end: float) -> AnySeen:
        ended = asyncio.Event()
        waits = self._waits.setdefault(key, set())
        waits.add(ended)
        try:
            while True:
                ended.clear()
                # It may have ended before it was waited for; and what has ended may be open again.
                seen = await self.look(look)
                if seen.is_closed:
                    return seen
                if self._stopping:
                    raise errors.ServerNotReady(advice="it is being stopped, and another replica answers")
                try:
                    async with asyncio.timeout_at(end):
                        await ended.wait()
                except TimeoutError:
                    return await self.look(look)
        finally:
            waits.discard(ended)
            if not waits and self._waits.get(key) is waits:
                del self._waits[key]

    # --- following a namespace --------------------------------------------------------------------------------------

    async def watch(
        self,
        namespace: NamespaceRow,
        token: str,
        kind: type[AnyEnd] = End,
        news: frozenset[RunNews] = ONLY_ENDS,
        ending: IdEnding = ANY_ID,
    ) -> AsyncGenerator[News, None]:
        """Ends of runs, or of jobs, and other news of runs, in commit order after a cursor, or from now on.

        The first message comes at once, and may be empty.
        """
        async with self._feed() as positions:
            cursor = await self._begin(namespace, token) if token else Cursor(dict(positions), {})
            watched = Watched(namespace.namespace_id, kind, news, ending)
            stream = Stream(watched, cursor, self._settings.outbox_messages)
            self._streams.add(stream)
            if not token:
                stream.attach({})
            try:
                async for told in self._told(stream):
                    yield News(told, pack_cursor(stream.seen, namespace, self._clock.now()))
            finally:
                self._streams.discard(stream)

    async def _begin(self, namespace: NamespaceRow, token: str) -> Cursor:
        cursor = unpack_cursor(token, namespace, self._clock.now())
        heads = await watches.heads(self._database)
        if any(position > heads.get(committer, position) for committer, position in cursor.positions.items()):
            raise errors.WatchCursorInvalid(problem="it comes from another database; begin again without one")
        return cursor

    async def _told(self, stream: Stream) -> AsyncIterator[list[AnyNews]]:
        yield []
        while not self._stopping:
            if not stream.attached and self._positions is not None:
                stream.attach(self._positions)
            if stream.goal is not None and not stream.recalled:
                await self._recall(stream, stream.goal)
            stream.arrived.clear()
            told = stream.take()
            if told or stream.goal is not None:
                if told:
                    yield told
                continue
            try:
                # A margin, so that the sign of life is there in time.
                async with asyncio.timeout(self._settings.ping_seconds * 0.75):
                    await stream.arrived.wait()
            except TimeoutError:
                yield []

    async def _recall(self, stream: Stream, goal: dict[int, int]) -> None:
        """Reads the next batches that the stream has not seen, up to where the feed stood; then that is all."""
        seen = stream.seen.positions
        behind = next((each for each, last in goal.items() if seen.get(each, 0) < last), None)
        if behind is None:
            stream.goal = None
            return
        known = seen.get(behind)
        rows = await watches.batches_after(self._database, behind, known or 0, _READ_BATCHES, up_to=goal[behind])
        if known is not None and (not rows or rows[0].position != known + 1):
            raise errors.WatchCursorInvalid(problem=_PRUNED)
        if not rows:
            seen[behind] = goal[behind]
            return
        part = next(portions(rows))
        found = await self._read(part, [stream.watched])
        stream.recalled.extend(told_of(row, found, stream.watched) for row in part)
