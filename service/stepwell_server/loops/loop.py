"""What every loop is: one round again and again, with pauses, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import structlog

from stepwell_server.store.faults import Conflict, Lost, Rejected, Unsettled
from stepwell_server.telemetry import metrics
from stepwell_server.telemetry.slow_log import slow

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger("stepwell.loops")
_JITTER = 0.2
_STOP_SECONDS = 2.0
_LOUD_EVERY = 30


def _always() -> bool:
    return True


class Loop(ABC):
    """A round is `run_once`. Before each, `may_run` is asked: a leader's duties ask the leader."""

    name = "loop"

    def __init__(self, seconds: float, may_run: Callable[[], bool] = _always) -> None:
        self._seconds = seconds
        self.may_run = may_run
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._failures = 0

    @abstractmethod
    async def run_once(self) -> int:
        """One bounded round; answers how much it did."""

    def pause(self, done: int) -> float:
        """How long to wait after a round that did so much."""
        del done
        return self._seconds * random.uniform(1 - _JITTER, 1 + _JITTER)

    def wake(self) -> None:
        """Ends the present pause; during a round, the next one."""
        self._woken.set()

    def start(self) -> None:
        """Begins; does nothing if it has begun."""
        if self._task is None:
            self._stopping = False
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Ends after the present round, or in the midst of one that takes long; does nothing if it has ended."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping = True
        self._woken.set()
        await asyncio.wait((task,), timeout=_STOP_SECONDS)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _run(self) -> None:
        while not self._stopping:
            self._woken.clear()
            pause = await self._round()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _round(self) -> float:
        """One round, whose failure is told and is no end."""
        if not self.may_run():
            return self._seconds
        _log.debug("round", loop=self.name)
        began = time.monotonic()
        try:
            done = await self.run_once()
        except (Lost, Conflict, Rejected, Unsettled) as error:
            self._tell_failure(error)
            metrics.count_round(self.name, "failed")
            return self.pause(0)
        except Exception:  # noqa: BLE001 - a fault in one round must not end them all
            _log.exception("round failed", loop=self.name)
            metrics.count_round(self.name, "failed")
            return self.pause(0)
        finally:
            if (took := time.monotonic() - began) >= slow.seconds:
                slow.tell("round", self.name, took)
        metrics.count_round(self.name, "done")
        self._failures = 0
        return self.pause(done)

    def _tell_failure(self, error: Exception) -> None:
        if self._failures % _LOUD_EVERY == 0:
            _log.warning("round failed", loop=self.name, cause=str(error) or type(error).__name__)
        self._failures += 1
