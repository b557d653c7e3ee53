"""Hearing of the ends of runs, or of jobs: one stream serves all waits for what a client has started.

The ids that a client makes end alike, and its stream tells of these alone, so that what others do costs it nothing. Who
waits for something else needs a stream of everything.

A wait is registered first; then, unless the stream was live before the thing was started, that is read once. So an end
is seen in one way or the other: it comes after the watch began, or the reading finds it.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from os import urandom
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
import grpc.aio

from stepwell import errors, reasons
from stepwell._rpc import backoff

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from stepwell._ends import Ends, News

log = logging.getLogger("stepwell.client")

# How long a fresh stream may take to say that it is live before runs are read without it, in seconds.
_PATIENCE = 1.0
# The service shows life every 20 s.
_SILENCE = 60.0
_READERS = 16
# Few enough that ids stay random, many enough that clients share one so seldom that it costs nothing.
_ENDING_BYTES = 2

End = TypeVar("End")


async def watch(source: News[End], cursor: str, id_suffix: str = "") -> AsyncGenerator[tuple[Sequence[End], str], None]:
    """Reads one stream, from a cursor or from now, to its end. Raises `ServiceError`."""
    call = source.stream(cursor, id_suffix)
    try:
        while True:
            async with asyncio.timeout(_SILENCE):
                message: Any = await call.read()
            if message is grpc.aio.EOF:
                return
            yield source.told(message), message.cursor
    except TimeoutError:
        raise errors.Unavailable("the watch fell silent") from None
    except grpc.RpcError as error:
        raise reasons.from_rpc(error) from None
    finally:
        call.cancel()


async def news(source: News[End]) -> AsyncGenerator[End, None]:
    """Reads what happens in a namespace from now on, over streams that come and go."""
    cursor, attempt = "", 0
    while True:
        try:
            async for found, behind in watch(source, cursor):
                cursor, attempt = behind or cursor, 0
                for end in found:
                    yield end
            error = errors.Unavailable("the service ended the watch")
        except errors.Unavailable as raised:
            error = raised
        except reasons.TokenExpired as raised:
            if attempt:
                raise
            error = _with_another_token(raised)
        log.info("the watch is gone (%s) and begins again", error)
        await asyncio.sleep(backoff(attempt, error))
        attempt += 1


def _with_another_token(error: errors.ServiceError) -> errors.Unavailable:
    """A token has expired under a watch. It may have been renewed meanwhile: the next attempt will tell."""
    return errors.Unavailable(str(error))


class Wait(Generic[End]):
    """Somebody's interest in the end of a run or of a job, and of what goes on in its place."""

    __slots__ = ("__weakref__", "end", "futures", "is_covered", "of")

    def __init__(self, of: str, *, is_covered: bool) -> None:
        """Begins without an end. A covered wait needs no reading: the stream was live before its start."""
        self.of = of
        self.is_covered = is_covered
        self.end: End | None = None
        self.futures: list[asyncio.Future[End]] = []

    def finish(self, end: End) -> None:
        """Wakes who waits."""
        self.end = end
        for future in self.futures:
            if not future.done():
                future.set_result(end)
        self.futures.clear()


class Watchers(Generic[End]):
    """The waits of one client in one namespace. `ending` is that of the ids that it makes."""

    def __init__(self, source: Ends[End]) -> None:
        """Begins without a stream."""
        self.ending = urandom(_ENDING_BYTES).hex()
        self._own = Watcher(source, self.ending)
        self._every = Watcher(source)

    def expect(self, of: str) -> Wait[End] | None:
        """Registers what is about to be started, if its stream is live already."""
        return self._for(of).expect(of)

    def forget(self, of: str) -> None:
        """Forgets how something ended that goes on."""
        self._for(of).forget(of)

    async def end(self, of: str, wait: Wait[End] | None) -> End:
        """Waits for an end: that of what finally goes on in its place."""
        return await self._for(of).end(of, wait)

    async def close(self) -> None:
        """Ends the streams."""
        await self._own.close()
        await self._every.close()

    def _for(self, of: str) -> Watcher[End]:
        return self._own if of.endswith(self.ending) else self._every


class Watcher(Generic[End]):
    """The waits for those whose ids end alike, and their stream."""

    def __init__(self, source: Ends[End], id_suffix: str = "") -> None:
        """Begins without a stream: the first wait opens it."""
        self._source = source
        self._id_suffix = id_suffix
        self._waits: weakref.WeakValueDictionary[str, Wait[End]] = weakref.WeakValueDictionary()
        self._follower: asyncio.Task[None] | None = None
        self._live = asyncio.Event()
        self._cursor = ""
        self._has_stream = True
        self._readers = asyncio.Semaphore(_READERS)

    def expect(self, of: str) -> Wait[End] | None:
        """Registers what is about to be started, if the stream is live already."""
        return self._register(of, is_covered=True) if self._live.is_set() else None

    def forget(self, of: str) -> None:
        """Forgets how something ended that goes on."""
        self._waits.pop(of, None)

    def _register(self, of: str, *, is_covered: bool) -> Wait[End]:
        wait = self._waits.get(of)
        if wait is None or wait.end is not None:  # what has ended may have begun anew
            self._waits[of] = wait = Wait(of, is_covered=is_covered)
        return wait

    async def end(self, of: str, wait: Wait[End] | None) -> End:
        """Waits for an end: that of what finally goes on in its place."""
        if wait is None:
            wait = self._register(of, is_covered=False)
        if self._follower is None:
            self._follower = asyncio.create_task(self._follow())
        while wait.end is None:
            if not self._has_stream or not wait.of.endswith(self._id_suffix):
                return await self._poll(wait.of)
            if not wait.is_covered:
                await self._cover(wait)
                continue
            future: asyncio.Future[End] = asyncio.get_running_loop().create_future()
            wait.futures.append(future)
            try:
                await future
            except _WatchBroken:
                continue
        return wait.end

    async def _cover(self, wait: Wait[End]) -> None:
        """Reads it, once the stream is live; sooner too, if that takes long."""
        is_live = self._live.is_set()
        if not is_live:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._live.wait()
                is_live = True
            except TimeoutError:
                pass
        async with self._readers:
            if wait.end is not None:
                return
            end = await self._source.read(wait.of)
        wait.is_covered = is_live and self._live.is_set()
        if end is not None:
            self._take(wait, end)

    def _take(self, wait: Wait[End], end: End) -> None:
        follower = self._source.next_of(end)
        if not follower:
            wait.finish(end)
            return
        # The next one may have ended already, before anybody registered for it.
        wait.of = follower
        wait.is_covered = False
        self._waits[wait.of] = wait
        for future in wait.futures:
            if not future.done():
                future.set_exception(_WatchBroken())
        wait.futures.clear()

    def _uncover(self) -> None:
        for wait in list(self._waits.values()):
            wait.is_covered = False
            for future in wait.futures:
                if not future.done():
                    future.set_exception(_WatchBroken())
            wait.futures.clear()

    async def _follow(self) -> None:
        attempt = 0
        while True:
            error: errors.ServiceError
            try:
                async for found, cursor in watch(self._source, self._cursor, self._id_suffix):
                    attempt = 0
                    self._receive(found, cursor)
                error = errors.Unavailable("the service ended the watch")
            except errors.ServiceError as raised:
                is_over = isinstance(raised, reasons.TokenExpired) and not attempt
                error = _with_another_token(raised) if is_over else raised
            except Exception:
                log.exception("the watch failed")
                error = errors.Unavailable("the watch failed")
            if isinstance(error, errors.Unimplemented | errors.PermissionDenied | errors.Unauthenticated):
                log.warning("%s cannot be watched (%s): each wait is a call of its own", self._source.noun, error)
                self._has_stream = False
                self._live.set()
                self._uncover()
                return
            if not isinstance(error, errors.Unavailable):
                # The cursor may be at fault: begin from now, and read what is waited for.
                self._cursor = ""
            if not self._cursor:
                self._live.clear()
                self._uncover()
            await asyncio.sleep(backoff(attempt, error))
            attempt += 1

    def _receive(self, found: Sequence[End], cursor: str) -> None:
        for end in found:
            of = self._source.id_of(end)
            wait = self._waits.get(of)
            if wait is not None and wait.of == of:
                self._take(wait, end)
        if cursor:
            self._cursor = cursor
        self._live.set()

    async def _poll(self, of: str) -> End:
        """Waits by calls, where there is no stream."""
        while True:
            end = await self._source.wait(of)
            if end is not None:
                return end

    async def close(self) -> None:
        """Ends the stream."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)


class _WatchBroken(Exception):  # noqa: N818 - a signal between these two
    """Ends may have been missed, or another run goes on: look again."""
