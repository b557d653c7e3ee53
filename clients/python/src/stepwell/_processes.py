"""Activities in processes: heartbeats come back through a queue, cancellation goes in through shared flags."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from stepwell.activities import ActivityInfo, Attempt, current

if TYPE_CHECKING:
    from collections.abc import Callable

_inside: dict[str, Any] = {}


def _set_up(beats: Any, flags: Any) -> None:  # noqa: ANN401 - multiprocessing does not name its types
    _inside.update(beats=beats, flags=flags)


def _call(fn: Callable[..., Any], arguments: tuple[object, ...], info: ActivityInfo, slot: int) -> object:
    beats, flags = _inside["beats"], _inside["flags"]
    attempt = Attempt(info, lambda details: beats.put((slot, details)), lambda: bool(flags[slot]))
    current.set(attempt)
    return fn(*arguments)


class Processes:
    """A pool of processes for plain activity functions. They, their inputs and results must be picklable."""

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        """Starts the pool; its processes are started as they are needed, and afresh: gRPC does not survive a fork."""
        spawn = multiprocessing.get_context("spawn")
        self._loop = loop
        self._beats = spawn.SimpleQueue()
        self._flags = spawn.Array("b", size, lock=False)
        self._free: asyncio.LifoQueue[int] = asyncio.LifoQueue()
        for slot in range(size):
            self._free.put_nowait(slot)
        self._listeners: dict[int, Callable[[object], None]] = {}
        self._pool = ProcessPoolExecutor(size, spawn, initializer=_set_up, initargs=(self._beats, self._flags))
        self._thread = threading.Thread(target=self._listen, name="stepwell-heartbeats", daemon=True)
        self._thread.start()

    async def call(self, fn: Callable[..., Any], arguments: tuple[object, ...], attempt: Attempt) -> object:
        """Calls a function in a process, and lets its heartbeats reach `attempt`."""
        slot = await self._free.get()
        self._flags[slot] = 0
        self._listeners[slot] = attempt.heartbeat
        try:
            return await self._loop.run_in_executor(self._pool, _call, fn, arguments, attempt.info, slot)
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
