"""Activities in processes: heartbeats come back through a queue, cancellation goes in through shared flags."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import threading
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from stepwell.activities import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from stepwell.activities import ActivityInfo, Attempt

_inside: dict[str, Any] = {}


def _set_up(beats: Any, flags: Any) -> None:  # noqa: ANN401 - multiprocessing does not name its types
    _inside.update(beats=beats, flags=flags)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when the worker is gone: a pool's process would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


class _Inside:
    """An attempt, as the process has it that performs it."""

    def __init__(self, info: ActivityInfo, slot: int) -> None:
        self.info = info
        self._slot = slot

    def heartbeat(self, details: object) -> None:
        _inside["beats"].put((self._slot, details))

    def cancelled(self) -> bool:
        return bool(_inside["flags"][self._slot])


def _call(fn: Callable[..., Any], arguments: tuple[object, ...], info: ActivityInfo, slot: int) -> object:
    current.set(_Inside(info, slot))
    return fn(*arguments)


class Processes:
    """A pool of processes for plain activity functions. They, their inputs and results must be picklable."""

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the pool; its processes are started as they are needed, and afresh: gRPC does not survive a fork."""
        self._spawn = spawn = multiprocessing.get_context("spawn")
        self._size = size
        self._loop = loop
        self._beats = spawn.SimpleQueue()
        self._flags = spawn.Array("b", size, lock=False)
        self._free: asyncio.LifoQueue[int] = asyncio.LifoQueue()
        for slot in range(size):
            self._free.put_nowait(slot)
        self._listeners: dict[int, Callable[[object], None]] = {}
        self._pool = self._open()
        self._thread = threading.Thread(target=self._listen, name="stepwell-heartbeats", daemon=True)
        self._thread.start()

    def _open(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._size, self._spawn, initializer=_set_up, initargs=(self._beats, self._flags))

    async def call(self, fn: Callable[..., Any], arguments: tuple[object, ...], attempt: Attempt) -> object:
        """Calls a function in a process, and lets its heartbeats reach `attempt`."""
        slot = await self._free.get()
        self._flags[slot] = 0
        self._listeners[slot] = attempt.heartbeat
        pool = self._pool
        try:
            return await self._loop.run_in_executor(pool, _call, fn, arguments, attempt.info, slot)
        except BrokenExecutor:
            # A process died (it was killed, or out of memory), and a pool does not survive that.
            if self._pool is pool:
                self._pool = self._open()
            raise
        finally:
            del self._listeners[slot]
            self._free.put_nowait(slot)

    def cancel(self, attempt: Attempt) -> None:
        """Raises the flag that the function may look at."""
        for slot, listener in self._listeners.items():
            if listener == attempt.heartbeat:
                self._flags[slot] = 1

    def close(self) -> None:
        """Ends the processes that are idle."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._beats.put(None)

    def _listen(self) -> None:
        while (beat := self._beats.get()) is not None:
            slot, details = beat
            try:
                self._loop.call_soon_threadsafe(self._pass_on, slot, details)
            except RuntimeError:  # the loop is closed
                return

    def _pass_on(self, slot: int, details: object) -> None:
        listener = self._listeners.get(slot)
        if listener is not None:
            listener(details)
