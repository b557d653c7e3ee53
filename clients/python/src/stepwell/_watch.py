"""Hearing of the ends of runs: one stream serves all waits of a client.

A wait is registered first; then, unless the stream was live before the run was started, the run is read once. So an
end is seen in one way or the other: it comes after the watch began, or the reading finds it.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from typing import TYPE_CHECKING

import grpc

from stepwell import errors, reasons
from stepwell._rpc import Caller, backoff
from stepwell.v1 import runs_pb2, types_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from stepwell.v1.runs_pb2_grpc import RunServiceAsyncStub

log = logging.getLogger("stepwell.client")

_FIRST_ENDED = types_pb2.RUN_PHASE_COMPLETED
# How long a fresh stream may take to say that it is live before runs are read without it, in seconds.
_PATIENCE = 1.0
# The service shows life every 20 s.
_SILENCE = 60.0
_READERS = 16

End = runs_pb2.WatchRunsResponse.End


def end_of(run: runs_pb2.Run) -> End:
    """Gives the end of a run that was read."""
    return End(
        run_id=run.run_id,
        workflow_id=run.workflow_id,
        phase=run.phase,
        continued_run_id=run.continued_run_id,
        result=run.result if run.HasField("result") else None,
        failure=run.failure if run.HasField("failure") else None,
    )


async def watch(
    stub: RunServiceAsyncStub, caller: Caller, namespace: str, cursor: str
) -> AsyncGenerator[runs_pb2.WatchRunsResponse, None]:
    """Reads one stream of ends, from a cursor or from now, to its end. Raises `ServiceError`."""
    request = runs_pb2.WatchRunsRequest(namespace=namespace, cursor=cursor)
    call = stub.WatchRuns(request, metadata=caller.metadata)
    try:
        while True:
            async with asyncio.timeout(_SILENCE):
                message = await call.read()
            if not isinstance(message, runs_pb2.WatchRunsResponse):
                return
            yield message
    except TimeoutError:
        raise errors.Unavailable("the watch fell silent") from None
    except grpc.RpcError as error:
        raise reasons.from_rpc(error) from None
    finally:
        call.cancel()


async def ends(stub: RunServiceAsyncStub, caller: Caller, namespace: str) -> AsyncGenerator[End, None]:
    """Reads the ends of a namespace's runs from now on, over streams that come and go."""
    cursor, attempt = "", 0
    while True:
        try:
            async for message in watch(stub, caller, namespace, cursor):
                cursor, attempt = message.cursor or cursor, 0
                for end in message.ends:
                    yield end
            error = errors.Unavailable("the service ended the watch")
        except errors.Unavailable as raised:
            error = raised
        log.info("the watch is gone (%s) and begins again", error)
        await asyncio.sleep(backoff(attempt, error))
        attempt += 1


class Wait:
    """Somebody's interest in the end of a run, and of those that continue it."""

    __slots__ = ("__weakref__", "end", "futures", "is_covered", "run_id")

    def __init__(self, run_id: str, *, is_covered: bool) -> None:
        """Begins without an end. A covered wait needs no reading: the stream was live before the run was started."""
        self.run_id = run_id
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


class Watcher:
    """The waits of one client in one namespace."""

    def __init__(self, stub: RunServiceAsyncStub, caller: Caller, namespace: str) -> None:
        """Begins without a stream: the first wait opens it."""
        self._stub = stub
        self._caller = caller
        self._namespace = namespace
        self._waits: weakref.WeakValueDictionary[str, Wait] = weakref.WeakValueDictionary()
        self._follower: asyncio.Task[None] | None = None
        self._live = asyncio.Event()
        self._cursor = ""
        self._has_stream = True
        self._readers = asyncio.Semaphore(_READERS)

    def expect(self, run_id: str) -> Wait | None:
        """Registers a run that is about to be started, if the stream is live already."""
        return self._register(run_id, is_covered=True) if self._live.is_set() else None

    def forget(self, run_id: str) -> None:
        """Forgets how a run ended that goes on."""
        self._waits.pop(run_id, None)

    def _register(self, run_id: str, *, is_covered: bool) -> Wait:
        wait = self._waits.get(run_id)
        if wait is None:
            self._waits[run_id] = wait = Wait(run_id, is_covered=is_covered)
        return wait

    async def end(self, run_id: str, wait: Wait | None) -> End:
        """Waits for the end of a run, or of the one that finally continues it."""
        if wait is None:
            wait = self._register(run_id, is_covered=False)
        if self._follower is None:
            self._follower = asyncio.create_task(self._follow())
        while wait.end is None:
            if not self._has_stream:
                return await self._poll(wait.run_id)
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

    async def _cover(self, wait: Wait) -> None:
        """Reads the run, once the stream is live; sooner too, if that takes long."""
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
            request = runs_pb2.GetRunRequest(namespace=self._namespace, run_id=wait.run_id)
            response = await self._caller.call(self._stub.GetRun, request)
        wait.is_covered = is_live and self._live.is_set()
        if response.run.phase >= _FIRST_ENDED:
            self._take(wait, end_of(response.run))

    def _take(self, wait: Wait, end: End) -> None:
        if not end.continued_run_id:
            wait.finish(end)
            return
        # The next run may have ended already, before anybody registered for it.
        wait.run_id = end.continued_run_id
        wait.is_covered = False
        self._waits[wait.run_id] = wait
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
                async for message in watch(self._stub, self._caller, self._namespace, self._cursor):
                    attempt = 0
                    self._receive(message)
                error = errors.Unavailable("the service ended the watch")
            except errors.ServiceError as raised:
                error = raised
            if isinstance(error, errors.Unimplemented | errors.PermissionDenied | errors.Unauthenticated):
                log.warning("runs cannot be watched (%s): each wait is a call of its own", error)
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

    def _receive(self, message: runs_pb2.WatchRunsResponse) -> None:
        waits = self._waits
        for end in message.ends:
            wait = waits.get(end.run_id)
            if wait is not None and wait.run_id == end.run_id:
                self._take(wait, end)
        if message.cursor:
            self._cursor = message.cursor
        self._live.set()

    async def _poll(self, run_id: str) -> End:
        """Waits by calls, where there is no stream."""
        request = runs_pb2.WaitRunRequest(namespace=self._namespace, run_id=run_id)
        request.wait.seconds = 15
        while True:
            response = await self._caller.call(self._stub.WaitRun, request)
            if response.ended:
                return end_of(response.run)

    async def close(self) -> None:
        """Ends the stream."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)


class _WatchBroken(Exception):  # noqa: N818 - a signal between these two
    """Ends may have been missed, or another run goes on: look again."""
